//! The repository's folder is not mounted: an empty folder stands in its place. Nothing is written there, nothing is
//! judged by it, and all goes on when the folder is back.

use std::fs;

use anyhow::{Result, ensure};
use tidemark_tests::disk::{Fill, bytes};
use tidemark_tests::site::{Site, SiteOptions, VM};

use crate::disks::{self, MIB};

#[test]
fn an_empty_mount_point_is_no_empty_repository() -> Result<()> {
    let site = Site::start(SiteOptions::default(), disks::two)?;
    let (full, at_full) = (site.backup("full")?, site.freeze("full")?);
    let away = site.folder().join("the-real-one");
    fs::rename(&site.repository, &away)?;
    fs::create_dir(&site.repository)?;

    let job = site.submit_backup("auto")?;
    let ended = site.ended_job(&job)?;
    ensure!(ended["status"] == "failed" && ended["error"]["kind"] == "unavailable", "{ended}");
    ensure!(ended["error"]["message"].as_str().is_some_and(|words| words.contains("mounted")), "{ended}");
    let verified = site.server.cli()?.outcome(&["backup", "verify", &full.id, "--level", "quick"])?;
    ensure!(verified.code == 1, "{verified:?}");
    ensure!(fs::read_dir(&site.repository)?.next().is_none(), "nothing is written to the mount point");
    ensure!(site.simulator.snapshots(VM)?.is_empty(), "no snapshot is left");
    let seen = site.view(&full.id)?;
    ensure!(seen.detail["status"] == "completed", "nothing is judged by an empty folder: {}", seen.detail);

    fs::remove_dir(&site.repository)?;
    fs::rename(&away, &site.repository)?;
    site.guest_writes(0, 8 * MIB, &bytes(Fill::Noise(9), 100_000))?;
    let next = site.backup("incremental")?;
    ensure!(next.detail["parent_backup_id"] == full.id.as_str(), "on the old chain: {next:?}");
    site.restores_to(&full, &at_full)?;
    site.restores_to(&next, &site.freeze("now")?)?;
    site.finish(&["unavailable", "mounted", "failed"])
}
