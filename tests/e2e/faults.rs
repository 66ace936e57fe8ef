//! What a vCenter does to its clients: change tracking that is lost, guests that do not quiesce. A backup goes on or
//! becomes a full with the reason recorded; it is never silently wrong.

use anyhow::{Context, Result, ensure};
use tidemark_tests::disk::{Fill, bytes};
use tidemark_tests::site::{BackupView, Site, SiteOptions};

use crate::disks::{self, MIB};

#[test]
fn a_file_fault_becomes_a_full_with_its_reason() -> Result<()> {
    forced_full("FileFault", "file-fault")
}

#[test]
fn an_invalid_argument_becomes_a_full_with_its_reason() -> Result<()> {
    forced_full("InvalidArgument", "invalid-argument")
}

#[test]
fn a_foreign_change_id_becomes_a_full_with_its_reason() -> Result<()> {
    forced_full("CbtReset", "change-id-foreign")
}

/// After `fault` the incremental that was asked for is a full that says why; the one after it is incremental.
fn forced_full(fault: &str, reason_code: &str) -> Result<()> {
    let site = Site::start(SiteOptions::default(), disks::two)?;
    let (first, at_first) = (site.backup("full")?, site.freeze("first")?);
    site.guest_writes(0, 8 * MIB, &bytes(Fill::Noise(6), 100_000))?;
    site.simulator.fault(fault, None, 1)?;
    let forced = site.backup("incremental")?;
    let detail = &forced.detail;
    ensure!(detail["backup_type"] == "full" && detail["reason_code"] == reason_code, "{forced:?}");
    ensure!(
        detail["reason"].as_str().is_some_and(|words| words.len() > 20),
        "the reason is a sentence: {forced:?}"
    );
    ensure!(detail["parent_backup_id"].is_null(), "a full stands alone: {forced:?}");
    site.restores_to(&forced, &site.freeze("forced")?)?;
    site.restores_to(&first, &at_first)?;
    site.guest_writes(1, MIB, &bytes(Fill::Noise(7), 1000))?;
    let next = site.backup("auto")?;
    ensure!(next.detail["parent_backup_id"] == forced.id.as_str(), "a new chain begins: {next:?}");
    site.restores_to(&next, &site.freeze("next")?)?;
    site.finish(&["full", "change tracking"])
}

#[test]
fn pages_with_nothing_in_the_middle_end_nothing() -> Result<()> {
    // Each area is a page, and each gap between two areas a page without any.
    let simulator = ["--areas-per-page", "1"].map(str::to_owned).to_vec();
    let site = Site::start(SiteOptions { simulator, ..SiteOptions::default() }, disks::two)?;
    site.backup("full")?;
    for place in 0..40 {
        site.guest_writes(0, place * MIB, &bytes(Fill::Noise(place), 4096))?;
    }
    site.simulator.fault("EmptyPages", None, 100)?;
    let incremental = site.backup("incremental")?;
    ensure!(incremental.detail["backup_type"] == "incremental", "{incremental:?}");
    site.restores_to(&incremental, &site.freeze("now")?)?;
    site.finish(&[])
}

#[test]
fn a_refused_quiesce_is_a_warning_and_not_a_failure() -> Result<()> {
    let site = Site::start(SiteOptions::default(), disks::two)?;
    site.simulator.fault("ApplicationQuiesceFault", None, 1)?;
    let outcome = site.try_backup("full")?;
    ensure!(outcome.code == 0 || outcome.code == 3, "{outcome:?}");
    let id = site.backups()?[0]["backup_id"].as_str().context("a backup_id")?.to_owned();
    let backup: BackupView = site.view(&id)?;
    site.restores_to(&backup, &site.freeze("now")?)?;
    site.finish(&["quiesce"])
}
