//! A backup is cancelled while it moves bytes, or while it waits for its turn.

use std::time::Duration;

use anyhow::{Result, ensure};
use tidemark_tests::disk::{Fill, bytes};
use tidemark_tests::process::wait_for;
use tidemark_tests::site::{Site, SiteOptions};

use crate::disks::{self, MIB};

const LONG: Duration = Duration::from_secs(120);

#[test]
fn a_cancelled_backup_leaves_nothing_and_the_chain_goes_on() -> Result<()> {
    let site = Site::start(SiteOptions::default(), disks::busy)?;
    let full = site.backup("full")?;
    for part in 0..8 {
        site.guest_writes(0, part * 8 * MIB, &bytes(Fill::Noise(part), 4 << 20))?;
    }
    site.simulator.fault("NbdSlow", Some("400"), 100_000)?;
    let moving = site.submit_backup("incremental")?;
    wait_for("a partial object", LONG, || Ok((!site.stored(".partial")?.is_empty()).then_some(())))?;
    let waiting = site.submit_backup("incremental")?;
    ensure!(site.job(&waiting)?["status"] == "queued", "two backups of one VM never run at once");

    let cli = site.server.cli()?;
    cli.run(&["job", "cancel", &waiting])?;
    cli.run(&["job", "cancel", &moving])?;
    for job in [&waiting, &moving] {
        let ended = site.ended_job(job)?;
        ensure!(ended["status"] == "cancelled", "{ended}");
        ensure!(cli.outcome(&["job", "watch", job])?.code == 1, "cancelled work is not done work");
    }
    site.nothing_left_behind()?;
    ensure!(site.backups()?.len() == 1 && site.stored(".qcow2")?.len() == 1, "nothing was added");
    let again = cli.outcome(&["job", "cancel", &moving])?;
    ensure!(again.code == 1, "what has ended is not cancelled again: {again:?}");

    site.simulator.fault("NbdSlow", Some("0"), 0)?;
    let next = site.backup("incremental")?;
    ensure!(next.detail["parent_backup_id"] == full.id.as_str(), "on the old chain: {next:?}");
    site.restores_to(&next, &site.freeze("now")?)?;
    site.finish(&[])
}
