//! The demo's story, in the order in which it is told.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tidemark_tests::binaries;
use tidemark_tests::changes::{CLUSTER, Write, rounded_to_clusters};
use tidemark_tests::cli::Cli;
use tidemark_tests::disk::{RawDisk, identical};
use tidemark_tests::qemu;
use tidemark_tests::server::{Server, ServerOptions, token_file};
use tidemark_tests::simulator::{SimulatedVm, Simulator};
use tidemark_tests::site::{CONNECTOR, REPOSITORY, add_connector, add_repository};

use crate::report::{self, Report};
use crate::{guest, running};

const VM: &str = "demo-vm";

/// The parts that play.
struct Stage {
    folder: PathBuf,
    repository: PathBuf,
    simulator: Simulator,
    server: Server,
    cli: Cli,
}

/// One backup and the disks that it must give back.
struct Act {
    detail: Value,
    disks: Vec<RawDisk>,
}

/// Runs everything; answers whether every check passed.
pub(crate) fn tell(keep: bool) -> Result<bool> {
    running::stop()?;
    let folder = running::folder();
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| folder.display().to_string())?;
    }
    let disks = folder.join("disks");
    fs::create_dir_all(&disks)?;

    Report::chapter("Two disks with real file systems, made of files of this machine");
    let guests = guest::make_disks(&disks)?;
    for (index, guest) in guests.iter().enumerate() {
        println!("   disk {index}: {}, {}", report::size(guest.disk.size()), guest.content);
    }
    let stage = set_up(&folder, guests.iter().map(|guest| guest.disk.path().to_path_buf()).collect())?;

    Report::chapter("The first backup");
    let before = guests.iter().map(|guest| guest.disk.clone()).collect();
    let full = stage.backup("auto", before)?;
    Report::chapter("The guest works: a diary is rewritten, photos arrive");
    let (writes, after) = guest::work(&disks, &guests)?.into_iter().unzip::<_, _, Vec<_>, Vec<_>>();
    for (disk, writes) in writes.iter().enumerate() {
        println!("   disk {disk}: {}", amount(writes));
        for write in writes {
            stage.simulator.write(VM, disk, write.offset, &write.content)?;
        }
    }
    Report::chapter("The second backup");
    let incremental = stage.backup("auto", after)?;

    let mut report = Report::default();
    judge(&stage, &mut report, &full, &incremental, &writes)?;
    Report::chapter("Report");
    report::backups(&[&full.detail, &incremental.detail]);
    println!("\n   Plugins that did it, each in its sandbox:");
    report::plugins(&stage.server.rest().get("/api/v1/plugins")?.expect(200)?);
    let good = report.verdict();
    stage.close(keep)?;
    Ok(good)
}

fn set_up(folder: &Path, disks: Vec<PathBuf>) -> Result<Stage> {
    Report::chapter("A simulated vCenter and a Tidemark server");
    let simulator = Simulator::start(folder, &[SimulatedVm { name: VM.to_owned(), disks }], &[])?;
    let server = Server::start(&ServerOptions { folder: folder.to_path_buf(), ..ServerOptions::default() })?;
    println!("   vCenter  {}\n   Tidemark {}", simulator.endpoints.url, server.url);
    let repository = folder.join("repository");
    fs::create_dir_all(&repository)?;
    let cli = server.cli()?;
    Report::chapter("Connector, repository, the VM under protection");
    add_connector(&cli, &simulator, folder)?;
    add_repository(&cli, &repository)?;
    let stage = Stage { folder: folder.to_path_buf(), repository, simulator, server, cli };
    stage.tidemark(&["connector", "discover", CONNECTOR])?;
    stage.tidemark(&["vm", "add", CONNECTOR, VM])?;
    Ok(stage)
}

impl Stage {
    /// Shows a command and runs it.
    fn tidemark(&self, args: &[&str]) -> Result<Value> {
        println!("   $ tidemark {}", args.join(" "));
        self.cli.run(args)
    }

    fn backup(&self, backup_type: &str, disks: Vec<RawDisk>) -> Result<Act> {
        self.tidemark(&["backup", "run", VM, "--repository", REPOSITORY, "--type", backup_type])?;
        let rest = self.server.rest();
        let chain = rest.get(&format!("/api/v1/backups/chain/{VM}"))?.expect(200)?;
        let newest = chain["backups"].as_array().and_then(|backups| backups.last()).context("no backup")?;
        let id = newest["backup_id"].as_str().context("a backup without an id")?;
        let detail = rest.get(&format!("/api/v1/backups/{id}"))?.expect(200)?;
        println!(
            "   {}: {}",
            detail["backup_type"].as_str().unwrap_or("?"),
            detail["reason"].as_str().unwrap_or("?")
        );
        Ok(Act { detail, disks })
    }

    fn image(&self, act: &Act, disk: usize) -> Result<PathBuf> {
        let path = act.detail["disks"][disk]["path"].as_str().context("a disk without a path")?;
        Ok(self.repository.join(path))
    }

    fn close(self, keep: bool) -> Result<()> {
        let (url, binary) = (self.server.url.clone(), binaries::tidemark()?);
        if !keep {
            self.server.finish(&[])?;
            println!(
                "\nServer and simulator are stopped. `DEMO_KEEP=1 make demo` leaves them running for you."
            );
            return Ok(());
        }
        let token = token_file(&self.server.data_folder());
        running::note(&[
            ("tidemark", self.server.leave_running()),
            ("vcenter-sim", self.simulator.leave_running()),
        ])?;
        println!("\nThe server goes on running at {url} (token in {}). To go on:\n", token.display());
        println!("   export TIDEMARK_URL={url} TIDEMARK_TOKEN=\"$(cat {})\"", token.display());
        for command in [
            "backup list",
            "backup chain demo-vm",
            "job list",
            "plugin list",
            "backup run demo-vm --repository main",
        ] {
            println!("   {} {command}", binary.display());
        }
        println!("\n   make demo-stop     stops it; README.md goes on from here to your own vCenter");
        Ok(())
    }
}

/// Everything a doubter would look at, by tools that know nothing of Tidemark.
fn judge(
    stage: &Stage,
    report: &mut Report,
    full: &Act,
    incremental: &Act,
    writes: &[Vec<Write>],
) -> Result<()> {
    Report::chapter("Is it all right?");
    let kinds = (full.detail["backup_type"].as_str(), incremental.detail["backup_type"].as_str());
    report.check("a full, then an incremental", expect(kinds == (Some("full"), Some("incremental")), &kinds));
    report
        .check("the incremental moved what changed, not the disks' size", proportionate(incremental, writes));
    for (name, act) in [("full", full), ("incremental", incremental)] {
        let id = act.detail["backup_id"].as_str().context("a backup without an id")?;
        let verified = stage.tidemark(&["backup", "verify", id, "--level", "deep"]).map(|_| ());
        report.check(&format!("{name}: verified to the last byte"), verified);
        for (disk, expected) in act.disks.iter().enumerate() {
            let image = stage.image(act, disk)?;
            report.check(&format!("{name}, disk {disk}: qemu-img check is clean"), qemu::check(&image));
            report.check(
                &format!("{name}, disk {disk}: restored bit for bit"),
                restored(stage, act, disk, expected),
            );
        }
    }
    for disk in 0..full.disks.len() {
        let (base, overlay) = (stage.image(full, disk)?, stage.image(incremental, disk)?);
        report.check(&format!("disk {disk}: qemu-img follows the backing chain"), chained(&base, &overlay));
    }
    let snapshots = stage.simulator.snapshots(VM)?;
    report.check("no snapshot is left on the VM", expect(snapshots.is_empty(), &snapshots));
    Ok(())
}

fn restored(stage: &Stage, act: &Act, disk: usize, expected: &RawDisk) -> Result<()> {
    let to = stage.folder.join(format!("restored-disk-{disk}.raw"));
    let (number, file) = (disk.to_string(), to.to_string_lossy());
    let id = act.detail["backup_id"].as_str().context("a backup without an id")?;
    stage.tidemark(&["restore", "disk", id, "--disk", &number, "--to", &file, "--format", "raw"])?;
    let same = identical(expected.path(), &to);
    let sound =
        if act.detail["backup_type"] == "incremental" { guest::look_inside(disk, &to) } else { Ok(()) };
    fs::remove_file(&to)?;
    same.and(sound)
}

fn chained(base: &Path, overlay: &Path) -> Result<()> {
    let chain = qemu::chain(overlay)?;
    let name = base.file_name().context("an image without a name")?;
    let names: Vec<_> = chain.iter().filter_map(|image| image.file_name()).collect();
    ensure!(names == [overlay.file_name().context("an image without a name")?, name], "{chain:?}");
    ensure!(
        qemu::backing_name(overlay)?.is_some_and(|backing| *backing == *name),
        "the backing name is a sibling's"
    );
    Ok(())
}

/// What was read is what changed, rounded to clusters, and a little for the sampling of unchanged ranges.
fn proportionate(incremental: &Act, writes: &[Vec<Write>]) -> Result<()> {
    let capacities = incremental.disks.iter().map(RawDisk::size);
    let changed: u64 =
        writes.iter().zip(capacities).map(|(writes, size)| rounded_to_clusters(writes, size)).sum();
    let read = incremental.detail["read_bytes"].as_u64().context("read_bytes")?;
    println!("   changed, in whole clusters: {}; read: {}", report::size(changed), report::size(read));
    ensure!(read >= changed, "less was read than changed");
    ensure!(read <= changed + changed / 10 + 64 * CLUSTER, "much more was read than changed");
    Ok(())
}

fn amount(writes: &[Write]) -> String {
    let bytes: usize = writes.iter().map(|write| write.content.len()).sum();
    format!("{} in {} places", report::size(bytes as u64), writes.len())
}

fn expect(right: bool, seen: &impl std::fmt::Debug) -> Result<()> {
    ensure!(right, "{seen:?}");
    Ok(())
}
