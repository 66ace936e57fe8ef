//! A site with several small VMs, a clock that a test can move, and policies: what flows need.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use tidemark_tests::binaries::checkout;
use tidemark_tests::cli::Cli;
use tidemark_tests::disk::{Fill, RawDisk, bytes};
use tidemark_tests::process::wait_for;
use tidemark_tests::rest::Rest;
use tidemark_tests::server::{Server, ServerOptions};
use tidemark_tests::simulator::{SimulatedVm, Simulator};
use tidemark_tests::site::{REPOSITORY, add_connector, add_repository};

use crate::disks::MIB;

/// The VMs that every fleet has.
pub(crate) const VMS: [&str; 3] = ["web01", "web02", "db01"];
const LONG: Duration = Duration::from_secs(120);
/// A day in milliseconds.
pub(crate) const DAY: i64 = 86_400_000;
/// An hour in milliseconds.
pub(crate) const HOUR: i64 = 3_600_000;

/// The running site. Files go with it.
pub(crate) struct Fleet {
    pub(crate) simulator: Simulator,
    pub(crate) server: Server,
    pub(crate) disks: Vec<RawDisk>,
    pub(crate) folder: tempfile::TempDir,
    moved: i64,
}

impl Fleet {
    /// Starts everything; `arguments` are the server's.
    pub(crate) fn start(arguments: &[String]) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("tidemark-fleet-").tempdir()?;
        let (mut disks, mut vms) = (Vec::new(), Vec::new());
        for (name, number) in VMS.into_iter().zip(1..) {
            let disk = RawDisk::create(&folder.path().join(format!("{name}.raw")), 4 * MIB)?;
            disk.write(0, &bytes(Fill::Noise(number), 300_000))?;
            vms.push(SimulatedVm { name: name.to_owned(), disks: vec![disk.path().to_path_buf()] });
            disks.push(disk);
        }
        let simulator = Simulator::start(folder.path(), &vms, &[])?;
        let clock = folder.path().join("clock");
        fs::write(&clock, "0")?;
        let environment = vec![("TIDEMARK_TEST_CLOCK".to_owned(), clock.display().to_string())];
        let server = ServerOptions {
            folder: folder.path().to_path_buf(),
            environment,
            arguments: arguments.to_vec(),
            ..ServerOptions::default()
        };
        let server = Server::start(&server)?;
        let fleet = Self { simulator, server, disks, folder, moved: 0 };
        let cli = fleet.cli()?;
        fs::create_dir_all(fleet.repository())?;
        add_connector(&cli, &fleet.simulator, fleet.folder.path())?;
        add_repository(&cli, &fleet.repository())?;
        Ok(fleet)
    }

    pub(crate) fn cli(&self) -> Result<Cli> {
        self.server.cli()
    }

    pub(crate) fn rest(&self) -> Rest {
        self.server.rest()
    }

    pub(crate) fn repository(&self) -> PathBuf {
        self.folder.path().join("repository")
    }

    /// Moves the server's clock on, or back.
    pub(crate) fn pass(&mut self, millis: i64) -> Result<()> {
        self.moved += millis;
        // Renamed over: the server never reads half a number.
        let (next, clock) = (self.folder.path().join("clock.next"), self.folder.path().join("clock"));
        fs::write(&next, self.moved.to_string())?;
        fs::rename(next, clock)?;
        Ok(())
    }

    /// A guest of a VM writes, and the model of its disk with it.
    pub(crate) fn write(&self, vm: usize, offset: u64, content: &[u8]) -> Result<()> {
        self.disks[vm].write(offset, content)?;
        self.simulator.write(VMS[vm], 0, offset, content)
    }

    /// A copy of a VM's disk as it is now.
    pub(crate) fn freeze(&self, vm: usize, name: &str) -> Result<RawDisk> {
        self.disks[vm].freeze(&self.folder.path().join(format!("{name}-{vm}.raw")))
    }

    /// A file in the fleet's folder.
    pub(crate) fn file(&self, name: &str, text: &str) -> Result<String> {
        let path = self.folder.path().join(name);
        fs::write(&path, text)?;
        Ok(path.display().to_string())
    }

    /// Stores a script that ships with the product.
    pub(crate) fn shipped(&self, kind: &str, name: &str) -> Result<()> {
        let folder = if kind == "retention" { "retention" } else { "groups" };
        let file = checkout().join("policies").join(folder).join(format!("{name}.rhai"));
        self.cli()?.run(&["policy", "put", name, &file.display().to_string(), "--kind", kind])?;
        Ok(())
    }

    /// Stores a script.
    pub(crate) fn put(&self, kind: &str, name: &str, source: &str) -> Result<()> {
        let file = self.file(&format!("{name}.rhai"), source)?;
        self.cli()?.run(&["policy", "put", name, &file, "--kind", kind])?;
        Ok(())
    }

    /// Makes a flow.
    pub(crate) fn flow(&self, name: &str, definition: &str) -> Result<Value> {
        let file = self.file(&format!("{name}.toml"), definition)?;
        self.cli()?.run(&["flow", "create", name, "--file", &file])
    }

    /// Runs a flow to its end, however it ends; answers the run with its VMs.
    pub(crate) fn run(&self, flow: &str) -> Result<Value> {
        let path = format!("/api/v1/protection-flows/{flow}/execute");
        let started = self.rest().post(&path, &json!({}))?.expect(202)?;
        let id = started["job_id"].as_str().context("a job_id")?;
        self.ended_run(flow, id)
    }

    /// A run once it has ended.
    pub(crate) fn ended_run(&self, flow: &str, id: &str) -> Result<Value> {
        let path = format!("/api/v1/protection-flows/{flow}/executions/{id}");
        wait_for("the run's end", LONG, || {
            let run = self.rest().get(&path)?.expect(200)?;
            Ok((run["status"] != "running").then_some(run))
        })
    }

    /// A flow's runs, the newest first.
    pub(crate) fn runs(&self, flow: &str) -> Result<Vec<Value>> {
        let list = self.rest().get(&format!("/api/v1/protection-flows/{flow}/executions"))?.expect(200)?;
        Ok(list["executions"].as_array().context("'executions'")?.clone())
    }

    /// A VM's backups, the newest first.
    pub(crate) fn backups(&self, vm: &str) -> Result<Vec<Value>> {
        let list = self.rest().get(&format!("/api/v1/backups?vm_name={vm}"))?.expect(200)?;
        Ok(list["backups"].as_array().context("'backups'")?.clone())
    }

    /// Restores a backup's disk and compares it.
    pub(crate) fn restores_to(&self, backup: &Value, expected: &RawDisk) -> Result<()> {
        let id = backup["backup_id"].as_str().context("a backup_id")?;
        let to = self.folder.path().join(format!("restored-{id}.raw"));
        let file = to.display().to_string();
        self.cli()?.run(&["restore", "disk", id, "--disk", "0", "--to", &file])?;
        tidemark_tests::disk::identical(expected.path(), &to)?;
        fs::remove_file(&to)?;
        Ok(())
    }

    /// Stops the server in order and reads its log.
    pub(crate) fn finish(self, expected_complaints: &[&str]) -> Result<()> {
        for vm in VMS {
            let snapshots = self.simulator.snapshots(vm)?;
            ensure!(snapshots.is_empty(), "snapshots on {vm}: {snapshots:?}");
        }
        self.server.finish(expected_complaints)
    }
}

/// The VM of a run.
pub(crate) fn vm<'a>(run: &'a Value, name: &str) -> Result<&'a Value> {
    let vms = run["vms"].as_array().context("'vms'")?;
    match vms.iter().find(|vm| vm["vm_name"] == name) {
        Some(vm) => Ok(vm),
        None => bail!("{name} is not in the run: {run}"),
    }
}

/// The names of a run's VMs in a state.
pub(crate) fn names<'a>(run: &'a Value, state: &str) -> Vec<&'a str> {
    let vms = run["vms"].as_array().map(Vec::as_slice).unwrap_or_default();
    vms.iter().filter(|vm| vm["state"] == state).filter_map(|vm| vm["vm_name"].as_str()).collect()
}

/// A second repository beside the first.
pub(crate) fn add_offsite(cli: &Cli, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder)?;
    let setting = format!("path={}", folder.display());
    cli.run(&["repository", "add", "offsite", "--plugin", "local", "--set", &setting])?;
    ensure!(REPOSITORY != "offsite", "two places");
    Ok(())
}
