//! The source of the bytes goes away in the middle of a backup.

use anyhow::{Context, Result, ensure};
use tidemark_tests::disk::{Fill, bytes};
use tidemark_tests::site::{Site, SiteOptions};

use crate::disks::{self, MIB};

#[test]
fn dropped_connections_are_taken_up_again() -> Result<()> {
    let site = Site::start(SiteOptions::default(), disks::two)?;
    site.simulator.fault("DropNbd", Some("1048576"), 3)?;
    let full = site.backup("full")?;
    site.restores_to(&full, &site.freeze("now")?)?;
    site.finish(&["connect", "retr"])
}

#[test]
fn a_dead_source_fails_the_job_and_spares_the_chain() -> Result<()> {
    let site = Site::start(SiteOptions::default(), disks::busy)?;
    let (full, at_full) = (site.backup("full")?, site.freeze("full")?);
    site.guest_writes(0, 8 * MIB, &bytes(Fill::Noise(6), 4 << 20))?;
    site.simulator.fault("DropNbd", Some("0"), 1_000_000)?;
    let job = site.submit_backup("incremental")?;
    let ended = site.ended_job(&job)?;
    ensure!(ended["status"] == "failed" && ended["error"]["kind"] == "unavailable", "{ended}");
    let message = ended["error"]["message"].as_str().context("a message")?;
    ensure!(message.contains("disk") && message.len() > 30, "the message says what was lost: {message}");
    site.nothing_left_behind()?;
    ensure!(site.backups()?.len() == 1 && site.stored(".qcow2")?.len() == 1, "nothing was added");
    site.simulator.fault("DropNbd", Some("0"), 0)?;
    site.restores_to(&full, &at_full)?;
    let next = site.backup("incremental")?;
    ensure!(next.detail["parent_backup_id"] == full.id.as_str(), "{next:?}");
    site.restores_to(&next, &site.freeze("now")?)?;
    site.finish(&["connect", "retr", "nbd", "failed", "unavailable"])
}
