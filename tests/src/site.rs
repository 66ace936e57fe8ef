//! A small site, ready for backups: a simulated vCenter with one VM, a server, a connector, a folder repository
//! and the VM under protection. Everything is set up through the command line, as a newcomer would.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::cli::{Cli, Outcome};
use crate::disk::{RawDisk, identical};
use crate::process::wait_for;
use crate::qemu;
use crate::rest::Rest;
use crate::server::{Server, ServerOptions};
use crate::simulator::{SimulatedVm, Simulator};

/// The VM's name.
pub const VM: &str = "web01";
/// The connector's name.
pub const CONNECTOR: &str = "vcenter-a";
/// The repository's name.
pub const REPOSITORY: &str = "main";

/// No job of a test is larger than some megabytes; this only ends a test that hangs.
const JOB_DEADLINE: Duration = Duration::from_secs(300);

/// How the connector has the VM's disks read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ReadBy {
    /// From the simulator's NBD server.
    #[default]
    Nbd,
    /// From the datastore's files under `/folder`.
    Https,
}

/// What differs from the ordinary site.
#[derive(Debug, Clone, Default)]
pub struct SiteOptions {
    /// More arguments of the simulator, such as `--areas-per-page`.
    pub simulator: Vec<String>,
    /// How to start the server; its folder is filled in.
    pub server: ServerOptions,
    /// The repository's folder, where it is not inside the site's own.
    pub repository: Option<PathBuf>,
    /// How the disks are read.
    pub read_by: ReadBy,
    /// Takes the vcenter plugin's rights away, and does not discover anything.
    pub without_grants: bool,
}

/// One backup as the REST interface describes it.
#[derive(Debug, Clone)]
pub struct BackupView {
    /// Its identity.
    pub id: String,
    /// `GET /api/v1/backups/{id}`.
    pub detail: Value,
}

/// The running site. Files go with it.
#[derive(Debug)]
pub struct Site {
    /// The simulated vCenter.
    pub simulator: Simulator,
    /// The server under test.
    pub server: Server,
    /// What each disk of the VM holds now.
    pub disks: Vec<RawDisk>,
    /// The repository's folder.
    pub repository: PathBuf,
    /// Where its files are; they go with it.
    pub folder: tempfile::TempDir,
}

impl Site {
    /// Starts everything with the given disks, made in the site's folder by `make_disks`.
    ///
    /// # Errors
    /// Where a part does not come up.
    pub fn start(
        options: SiteOptions,
        make_disks: impl FnOnce(&Path) -> Result<Vec<RawDisk>>,
    ) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("tidemark-e2e-").tempdir()?;
        let disks = make_disks(folder.path())?;
        let paths = disks.iter().map(|disk| disk.path().to_path_buf()).collect();
        let arguments: Vec<_> = options.simulator.iter().map(String::as_str).collect();
        let vm = SimulatedVm { name: VM.to_owned(), disks: paths };
        let simulator = Simulator::start(folder.path(), &[vm], &arguments)?;
        let server = ServerOptions { folder: folder.path().to_path_buf(), ..options.server };
        let server = Server::start(&server)?;
        let repository = options.repository.unwrap_or_else(|| folder.path().join("repository"));
        let site = Self { simulator, server, disks, repository, folder };
        site.configure(options.without_grants, options.read_by)?;
        Ok(site)
    }

    fn configure(&self, without_grants: bool, read_by: ReadBy) -> Result<()> {
        let cli = self.server.cli()?;
        fs::create_dir_all(&self.repository)?;
        if without_grants {
            revoke_vcenter(&cli)?;
        }
        add_connector_reading(&cli, &self.simulator, self.folder(), read_by)?;
        add_repository(&cli, &self.repository)?;
        if !without_grants {
            cli.run(&["connector", "discover", CONNECTOR])?;
            cli.run(&["vm", "add", CONNECTOR, VM])?;
        }
        Ok(())
    }

    /// The site's own folder, for more files.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The REST interface as the administrator.
    #[must_use]
    pub fn rest(&self) -> Rest {
        self.server.rest()
    }

    /// A guest writes, and the model of its disk with it.
    ///
    /// # Errors
    /// Where either refuses.
    pub fn guest_writes(&self, disk: usize, offset: u64, content: &[u8]) -> Result<()> {
        self.disk(disk)?.write(offset, content)?;
        self.simulator.write(VM, disk, offset, content)
    }

    /// Copies of all disks as they are now: what a backup of this moment must give back.
    ///
    /// # Errors
    /// Where a copy fails.
    pub fn freeze(&self, name: &str) -> Result<Vec<RawDisk>> {
        let copy = |(index, disk): (usize, &RawDisk)| {
            disk.freeze(&self.folder().join(format!("{name}-{index}.raw")))
        };
        self.disks.iter().enumerate().map(copy).collect()
    }

    /// Runs a backup to its end, however it ends.
    ///
    /// # Errors
    /// Where the command cannot be started.
    pub fn try_backup(&self, backup_type: &str) -> Result<Outcome> {
        let args = ["backup", "run", VM, "--repository", REPOSITORY, "--type", backup_type];
        self.server.cli()?.outcome(&args)
    }

    /// Runs a backup that must succeed and answers it.
    ///
    /// # Errors
    /// Where it fails.
    pub fn backup(&self, backup_type: &str) -> Result<BackupView> {
        let known: Vec<_> = self.backups()?.iter().map(|backup| backup["backup_id"].clone()).collect();
        self.try_backup(backup_type)?.expect(0)?;
        let mut added = self.backups()?;
        added.retain(|backup| !known.contains(&backup["backup_id"]));
        let [backup] = added.as_slice() else { bail!("one backup more was expected, not {added:?}") };
        let id = backup["backup_id"].as_str().context("a backup_id")?;
        self.view(id)
    }

    /// One backup in detail.
    ///
    /// # Errors
    /// Where it does not exist.
    pub fn view(&self, id: &str) -> Result<BackupView> {
        let detail = self.rest().get(&format!("/api/v1/backups/{id}"))?.expect(200)?;
        Ok(BackupView { id: id.to_owned(), detail })
    }

    /// The VM's backups as the list has them.
    ///
    /// # Errors
    /// Where the list cannot be read.
    pub fn backups(&self) -> Result<Vec<Value>> {
        let list = self.rest().get(&format!("/api/v1/backups?vm_name={VM}"))?.expect(200)?;
        Ok(list["backups"].as_array().context("'backups'")?.clone())
    }

    /// Submits a backup and does not wait; answers the job's id.
    ///
    /// # Errors
    /// Where it is refused.
    pub fn submit_backup(&self, backup_type: &str) -> Result<String> {
        self.submit_backup_of(VM, backup_type)
    }

    /// Submits a backup of any VM, by name or id, and does not wait; answers the job's id.
    ///
    /// # Errors
    /// Where it is refused.
    pub fn submit_backup_of(&self, vm: &str, backup_type: &str) -> Result<String> {
        let body = json!({"vm_name": vm, "repository_id": REPOSITORY, "backup_type": backup_type});
        let answer = self.rest().post("/api/v1/backups", &body)?.expect(202)?;
        answer["job_id"].as_str().map(str::to_owned).context("a job_id")
    }

    /// Waits until a job has ended and answers it.
    ///
    /// # Errors
    /// Where it does not end.
    pub fn ended_job(&self, id: &str) -> Result<Value> {
        wait_for("the job's end", JOB_DEADLINE, || {
            let job = self.job(id)?;
            let ended = matches!(job["status"].as_str(), Some("succeeded" | "failed" | "cancelled"));
            Ok(ended.then_some(job))
        })
    }

    /// A job as it stands.
    ///
    /// # Errors
    /// Where it does not exist.
    pub fn job(&self, id: &str) -> Result<Value> {
        self.rest().get(&format!("/api/v1/jobs/{id}"))?.expect(200)
    }

    /// The files of one suffix in the repository.
    ///
    /// # Errors
    /// Where a folder cannot be read.
    pub fn stored(&self, suffix: &str) -> Result<Vec<PathBuf>> {
        files_below(&self.repository, suffix)
    }

    /// Checks a backup as a doubter would: every image by qemu-img, every disk restored to both formats and
    /// compared with what the guest had.
    ///
    /// # Errors
    /// What differs.
    pub fn restores_to(&self, backup: &BackupView, expected: &[RawDisk]) -> Result<()> {
        let cli = self.server.cli()?;
        let disks = backup.detail["disks"].as_array().context("'disks'")?;
        ensure!(disks.len() == expected.len(), "{} disks were backed up", disks.len());
        for (index, wanted) in expected.iter().enumerate() {
            let image = self.repository.join(object_path(backup, index)?);
            qemu::check(&image)?;
            qemu::same_content(wanted.path(), &image)?;
            let number = index.to_string();
            for format in ["raw", "qcow2"] {
                let to = self.folder().join(format!("restored-{}-{index}.{format}", backup.id));
                let file = to.to_string_lossy();
                cli.run(&[
                    "restore", "disk", &backup.id, "--disk", &number, "--to", &file, "--format", format,
                ])?;
                match format {
                    "raw" => identical(wanted.path(), &to)?,
                    _ => {
                        qemu::check(&to)?;
                        ensure!(qemu::backing_name(&to)?.is_none(), "a restored image stands alone");
                        qemu::same_content(wanted.path(), &to)?;
                    }
                }
                fs::remove_file(&to)?;
            }
        }
        Ok(())
    }

    /// Checks that nothing unfinished is left anywhere: no partial object, no snapshot on the VM.
    ///
    /// # Errors
    /// What is left.
    pub fn nothing_left_behind(&self) -> Result<()> {
        let partial = self.stored(".partial")?;
        ensure!(partial.is_empty(), "unfinished objects: {partial:?}");
        let snapshots = self.simulator.snapshots(VM)?;
        ensure!(snapshots.is_empty(), "snapshots on the VM: {snapshots:?}");
        Ok(())
    }

    /// Stops the server in order and reads its log; see [`Server::finish`].
    ///
    /// # Errors
    /// Where it ends badly or complained of something unexpected.
    pub fn finish(self, expected_complaints: &[&str]) -> Result<()> {
        self.nothing_left_behind()?;
        self.server.finish(expected_complaints)
    }

    fn disk(&self, index: usize) -> Result<&RawDisk> {
        self.disks.get(index).with_context(|| format!("the VM has no disk {index}"))
    }
}

/// Where a disk's image lies in the repository's folder.
///
/// # Errors
/// Where the backup does not say so.
pub fn object_path(backup: &BackupView, disk: usize) -> Result<PathBuf> {
    let path = backup.detail["disks"][disk]["path"].as_str();
    path.map(PathBuf::from).with_context(|| format!("disk {disk} of backup {} has no path", backup.id))
}

/// What the server grants the vcenter plugin that came with it.
const VCENTER_GRANTS: [&str; 3] = ["http", "nbd", "vddk"];

/// Takes the vcenter plugin's rights away.
///
/// # Errors
/// Where it does not have them.
pub fn revoke_vcenter(cli: &Cli) -> Result<()> {
    VCENTER_GRANTS
        .iter()
        .try_for_each(|capability| cli.run(&["plugin", "grant", "vcenter", capability, "--revoke"]).map(drop))
}

/// Gives the vcenter plugin the rights to this simulator only.
///
/// # Errors
/// Where the server refuses.
pub fn grant_simulator(cli: &Cli, simulator: &Simulator) -> Result<()> {
    let (host, port) = simulator.endpoints.host_port()?;
    let (nbd_host, nbd_port) = simulator.endpoints.nbd_host_port()?;
    cli.run(&["plugin", "grant", "vcenter", &format!("http:{host}:{port}")])?;
    cli.run(&["plugin", "grant", "vcenter", &format!("nbd:{nbd_host}:{nbd_port}")])?;
    Ok(())
}

/// Adds the connector to the simulator, its password read from a file and the disks by NBD.
///
/// # Errors
/// Where it is refused.
pub fn add_connector(cli: &Cli, simulator: &Simulator, folder: &Path) -> Result<()> {
    add_connector_reading(cli, simulator, folder, ReadBy::Nbd)
}

fn add_connector_reading(cli: &Cli, simulator: &Simulator, folder: &Path, read_by: ReadBy) -> Result<()> {
    let transport: &[String] = match read_by {
        ReadBy::Nbd => &["transport=nbd".to_owned(), format!("nbd_url={}", simulator.endpoints.nbd_url)],
        ReadBy::Https => &["transport=https".to_owned()],
    };
    add_connector_with(cli, simulator, CONNECTOR, folder, &simulator.endpoints.password, transport)
}

/// Adds a connector to the simulator with any password and more settings.
///
/// # Errors
/// Where it is refused.
pub fn add_connector_with(
    cli: &Cli,
    simulator: &Simulator,
    name: &str,
    folder: &Path,
    password: &str,
    more: &[String],
) -> Result<()> {
    let endpoints = &simulator.endpoints;
    let (host, port) = endpoints.host_port()?;
    let file = folder.join(format!("{name}.password"));
    fs::write(&file, password)?;
    let settings = [
        format!("host={host}"),
        format!("port={port}"),
        format!("username={}", endpoints.username),
        format!("thumbprint={}", endpoints.thumbprint),
    ];
    let secret = format!("password=@{}", file.display());
    let mut args = vec!["connector", "add", name, "--plugin", "vcenter", "--secret", &secret];
    args.extend(settings.iter().chain(more).flat_map(|setting| ["--set", setting.as_str()]));
    cli.run(&args)?;
    Ok(())
}

/// Adds the folder repository.
///
/// # Errors
/// Where it is refused.
pub fn add_repository(cli: &Cli, folder: &Path) -> Result<()> {
    let setting = format!("path={}", folder.display());
    cli.run(&["repository", "add", REPOSITORY, "--plugin", "local", "--set", &setting])?;
    Ok(())
}

/// Every file below `folder` whose name ends with `suffix`.
///
/// # Errors
/// Where a folder cannot be read.
pub fn files_below(folder: &Path, suffix: &str) -> Result<Vec<PathBuf>> {
    let (mut found, mut folders) = (Vec::new(), vec![folder.to_path_buf()]);
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder).with_context(|| folder.display().to_string())?;
        for entry in entries {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.to_string_lossy().ends_with(suffix) {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}
