//! Disks read from the datastore's files over HTTPS, which are the frozen disks only while the VM has no snapshot but
//! ours: everywhere else the backup is refused, as its bytes would be those of another moment.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tidemark_tests::administrator::Administrator;
use tidemark_tests::disk::{Fill, bytes};
use tidemark_tests::process::wait_for;
use tidemark_tests::site::{ReadBy, Site, SiteOptions, VM};

use crate::disks::{self, MIB};

const LONG: Duration = Duration::from_secs(60);

#[test]
fn the_datastores_files_give_full_and_incremental() -> Result<()> {
    let site = site()?;
    let (full, at_full) = (site.backup("auto")?, site.freeze("full")?);
    let read = full.detail["read_bytes"].as_u64().context("read_bytes")?;
    let capacity: u64 = site.disks.iter().map(|disk| disk.size()).sum();
    ensure!(read < capacity / 2, "{read} bytes were read of a disk that is mostly holes");
    work(&site)?;
    let (incremental, at_incremental) = (site.backup("incremental")?, site.freeze("incremental")?);
    ensure!(incremental.detail["backup_type"] == "incremental", "{incremental:?}");
    ensure!(incremental.detail["read_bytes"].as_u64().context("read_bytes")? < MIB, "{incremental:?}");
    site.restores_to(&full, &at_full)?;
    site.restores_to(&incremental, &at_incremental)?;
    site.finish(&[])
}

#[test]
fn a_snapshot_of_somebody_else_refuses_the_backup() -> Result<()> {
    let site = site()?;
    let full = site.backup("full")?;
    let mut administrator = Administrator::log_in(&site.simulator.endpoints)?;
    administrator.take_snapshot(&site.simulator.key_of(VM)?, "before the update")?;
    let foreign = wait_for("the snapshot", LONG, || Ok(site.simulator.snapshots(VM)?.pop()))?;
    work(&site)?;

    let ended = site.ended_job(&site.submit_backup("incremental")?)?;
    ensure!(ended["status"] == "failed" && ended["error"]["kind"] == "invalid", "{ended}");
    let message = ended["error"]["message"].as_str().context("a message")?;
    ensure!(message.contains("https") && message.contains("snapshot") && message.contains(VM), "{message}");
    let left = site.simulator.snapshots(VM)?;
    ensure!(
        left.len() == 1 && left[0]["moref"] == foreign["moref"],
        "only the foreign one is left: {left:?}"
    );
    ensure!(site.stored(".partial")?.is_empty() && site.backups()?.len() == 1, "nothing was added");

    administrator.remove_snapshot(foreign["moref"].as_str().context("a moref")?)?;
    wait_for("the snapshot's end", LONG, || Ok(site.simulator.snapshots(VM)?.is_empty().then_some(())))?;
    let next = site.backup("incremental")?;
    ensure!(next.detail["parent_backup_id"] == full.id.as_str(), "the chain goes on: {next:?}");
    site.restores_to(&next, &site.freeze("now")?)?;
    site.finish(&["snapshot"])
}

fn site() -> Result<Site> {
    Site::start(SiteOptions { read_by: ReadBy::Https, ..SiteOptions::default() }, disks::two)
}

/// Rewrites, zeroes, and touches the sector behind the last whole cluster.
fn work(site: &Site) -> Result<()> {
    site.guest_writes(0, 8 * MIB, &bytes(Fill::Noise(6), 100_000))?;
    site.guest_writes(0, MIB, &vec![0; 128 << 10])?;
    site.guest_writes(1, 33 * MIB, &bytes(Fill::Noise(8), 512))
}
