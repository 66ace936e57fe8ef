//! Sudden death: SIGKILL in the middle of a slow backup, and an abort at every step that a backup records. After
//! the next start nothing is left behind, and the old chain goes on.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tidemark_tests::disk::{Fill, bytes};
use tidemark_tests::process::wait_for;
use tidemark_tests::server::{Server, ServerOptions};
use tidemark_tests::site::{Site, SiteOptions, VM};

use crate::disks::{self, MIB};

/// Every step that a backup records before its effect, in order.
pub(crate) const STEPS: [&str; 8] = [
    "pinned",
    "snapshot-requested",
    "snapshot-taken",
    "planned",
    "objects-begun",
    "publishing",
    "committing",
    "snapshot-removing",
];

/// What a recovering server may say.
pub(crate) const RECOVERY: &[&str] = &["recover", "interrupted", "undo", "lease", "abort"];

const LONG: Duration = Duration::from_secs(120);

#[test]
fn a_killed_backup_leaves_nothing_and_the_chain_goes_on() -> Result<()> {
    let mut site = Site::start(SiteOptions::default(), disks::busy)?;
    let (full, at_full) = (site.backup("full")?, site.freeze("full")?);
    for part in 0..8 {
        site.guest_writes(0, part * 8 * MIB, &bytes(Fill::Noise(part), 4 << 20))?;
    }
    site.simulator.fault("NbdSlow", Some("200"), 100_000)?;
    let job = site.submit_backup("incremental")?;
    wait_for("a partial object", LONG, || Ok((!site.stored(".partial")?.is_empty()).then_some(())))?;
    ensure!(site.simulator.snapshots(VM)?.len() == 1, "the backup reads from a snapshot");

    site.server = site.server.kill_and_restart()?;
    site.simulator.fault("NbdSlow", Some("0"), 0)?;
    let ended = site.ended_job(&job)?;
    ensure!(ended["status"] == "failed", "a job that died is not run again: {ended}");
    wait_for("the clean-up", LONG, || Ok(site.nothing_left_behind().ok()))?;
    ensure!(site.backups()?.len() == 1, "the catalog knows nothing of the dead backup");
    ensure!(site.stored(".qcow2")?.len() == 1, "the repository holds the full only");

    let next = site.backup("incremental")?;
    ensure!(next.detail["backup_type"] == "incremental", "{next:?}");
    ensure!(next.detail["parent_backup_id"] == full.id.as_str(), "on the old chain: {next:?}");
    site.restores_to(&next, &site.freeze("now")?)?;
    site.restores_to(&full, &at_full)?;
    site.finish(RECOVERY)
}

/// A change id is in the catalog only together with durable disks: whatever the step at which the process dies,
/// afterwards either the whole backup is there and restores, or nothing of it is.
#[test]
fn a_death_at_any_step_leaves_all_or_nothing() -> Result<()> {
    let mut site = Site::start(SiteOptions::default(), disks::two)?;
    site.backup("full")?;
    for (round, step) in (0_u64..).zip(STEPS) {
        site.guest_writes(0, (8 + round) * MIB, &bytes(Fill::Noise(round), 100_000))?;
        let known = site.backups()?.len();
        site.server = dies_at(site.server, site.folder.path(), step, |server| {
            let body =
                serde_json::json!({"vm_name": VM, "repository_id": "main", "backup_type": "incremental"});
            server.rest().post("/api/v1/backups", &body)?.expect(202)?;
            Ok(())
        })
        .with_context(|| format!("dying at {step}"))?;
        wait_for("the clean-up", LONG, || Ok(site.nothing_left_behind().ok()))
            .with_context(|| format!("after dying at {step}"))?;
        let committed = site.backups()?.len() - known;
        let expected = usize::from(step == "snapshot-removing");
        ensure!(committed == expected, "{committed} backups after dying at {step}");
        all_or_nothing(&site).with_context(|| format!("after dying at {step}"))?;
    }
    let next = site.backup("incremental")?;
    ensure!(next.detail["backup_type"] == "incremental", "{next:?}");
    site.restores_to(&next, &site.freeze("now")?)?;
    site.finish(RECOVERY)
}

/// Restarts the server with the fail point at `step`, starts work that reaches it, and restarts it without.
pub(crate) fn dies_at(
    server: Server,
    folder: &std::path::Path,
    step: &str,
    work: impl FnOnce(&Server) -> Result<()>,
) -> Result<Server> {
    server.finish(RECOVERY)?;
    let ordinary = ServerOptions { folder: folder.to_path_buf(), ..ServerOptions::default() };
    let mut fatal = ordinary.clone();
    fatal.environment.push(("TIDEMARK_ABORT_AT_STEP".to_owned(), step.to_owned()));
    let mut server = Server::start(&fatal)?;
    work(&server)?;
    wait_for("the fail point", LONG, || Ok((!server.is_running()).then_some(())))?;
    Server::start(&ordinary)
}

/// Every image in the repository belongs to a backup of the catalog, and every backup of the catalog is whole.
fn all_or_nothing(site: &Site) -> Result<()> {
    let backups = site.backups()?;
    ensure!(site.stored(".qcow2")?.len() == 2 * backups.len(), "images without a backup");
    ensure!(site.stored(".json")?.len() == backups.len(), "manifests without a backup");
    for backup in &backups {
        let id = backup["backup_id"].as_str().context("a backup_id")?;
        site.server.cli()?.run(&["backup", "verify", id, "--level", "full"])?;
    }
    Ok(())
}
