//! A hypervisor that leaves changes out of its map says nothing about it. The audit notices, and raises no alarm where
//! the map is right or where it is the repository that is damaged.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use tidemark_tests::changes::CLUSTER;
use tidemark_tests::disk::{Fill, bytes};
use tidemark_tests::server::ServerOptions;
use tidemark_tests::site::{BackupView, Site, SiteOptions, VM};

use crate::disks::{self, MIB};
use crate::events::Listener;

/// Changed areas that the simulator may leave out in one test.
const OFTEN: u32 = 1000;

/// A site whose server compares this share. The folder holds its configuration file.
fn site(percent: f64) -> Result<(Site, tempfile::TempDir)> {
    let folder = tempfile::tempdir()?;
    let config = folder.path().join("tidemark.toml");
    fs::write(&config, format!("[limits]\naudit_percent = {percent:?}\n"))?;
    let arguments = vec!["--config".to_owned(), config.to_string_lossy().into_owned()];
    let server = ServerOptions { arguments, ..ServerOptions::default() };
    Ok((Site::start(SiteOptions { server, ..SiteOptions::default() }, disks::two)?, folder))
}

/// An incremental that is asked for and ends with this exit code.
fn incremental(site: &Site, code: i32) -> Result<BackupView> {
    let outcome = site.try_backup("incremental")?;
    let made = outcome.expect(code)?;
    site.view(made["backup_id"].as_str().context("a backup_id")?)
}

fn compared(site: &Site, backup: &BackupView) -> Result<u64> {
    let job = site.job(backup.detail["job_id"].as_str().context("a job_id")?)?;
    job["result"]["audit"]["compared_clusters"].as_u64().with_context(|| format!("no audit in {job}"))
}

fn warned(backup: &BackupView, words: &[&str]) -> Result<()> {
    let warnings = backup.detail["warnings"].to_string();
    for word in words {
        ensure!(warnings.contains(word), "no '{word}' in {warnings}");
    }
    Ok(())
}

#[test]
fn a_wrong_map_becomes_a_full_and_an_alert() -> Result<()> {
    let (site, _config) = site(100.0)?;
    site.backup("full")?;
    site.guest_writes(0, 8 * MIB, &bytes(Fill::Noise(6), 100_000))?;
    let trusted = incremental(&site, 0)?;
    ensure!(compared(&site, &trusted)? > 500, "all that is called unchanged is compared");
    let events = Listener::start(&site)?;
    // Once over data of the parent, once where the parent has nothing.
    for (offset, content) in
        [(9 * MIB, bytes(Fill::Noise(7), 5000)), (20 * MIB, bytes(Fill::Text(8), 70_000))]
    {
        site.guest_writes(0, offset, &content)?;
        site.simulator.fault("CbtWrongMap", Some("1"), OFTEN)?;
        let forced = incremental(&site, 3)?;
        site.simulator.fault("CbtWrongMap", None, 0)?;
        let detail = &forced.detail;
        ensure!(detail["backup_type"] == "full" && detail["reason_code"] == "audit-mismatch", "{forced:?}");
        let reason = detail["reason"].as_str().context("a reason")?;
        let first = offset / CLUSTER * CLUSTER;
        ensure!(reason.contains("2000") && reason.contains(&first.to_string()), "disk and place: {reason}");
        site.restores_to(&forced, &site.freeze("forced")?)?;
        let alert = events.wait_for("alert")?;
        ensure!(alert["payload"]["kind"] == "cbt-audit-mismatch", "{alert}");
        ensure!(alert["payload"]["backup_id"] == forced.id.as_str(), "{alert}");
        if offset == 9 * MIB {
            warned(&forced, &["may miss changes too", &trusted.id])?;
            ensure!(alert["payload"]["doubtful_backups"] == json!([trusted.id]), "{alert}");
        }
    }
    let trail = site.rest().get("/api/v1/audit")?.expect(200)?.to_string();
    ensure!(trail.contains("backup.cbt-audit-mismatch"), "the audit trail tells: {trail}");
    for backup in site.backups()? {
        ensure!(backup["status"] == "completed", "nothing is marked: {backup}");
    }
    site.guest_writes(1, MIB, &bytes(Fill::Noise(9), 1000))?;
    let next = incremental(&site, 0)?;
    ensure!(next.detail["backup_type"] == "incremental", "a new chain begins: {next:?}");
    site.restores_to(&next, &site.freeze("next")?)?;
    site.finish(&["map of changed blocks", "full"])
}

#[test]
fn without_the_audit_a_wrong_map_goes_unnoticed() -> Result<()> {
    let (site, _config) = site(0.0)?;
    site.backup("full")?;
    site.guest_writes(0, 9 * MIB, &bytes(Fill::Noise(7), 5000))?;
    site.simulator.fault("CbtWrongMap", Some("1"), OFTEN)?;
    let wrong = incremental(&site, 0)?;
    ensure!(wrong.detail["backup_type"] == "incremental", "{wrong:?}");
    // A verification proves what is stored, not what was never read.
    site.server.cli()?.run(&["backup", "verify", &wrong.id, "--level", "deep"])?;
    ensure!(site.restores_to(&wrong, &site.freeze("now")?).is_err(), "this is what the audit is for");
    site.finish(&[])
}

#[test]
fn a_right_map_raises_no_alarm() -> Result<()> {
    let (site, _config) = site(100.0)?;
    site.backup("full")?;
    let mut rng = SmallRng::seed_from_u64(20);
    for round in 0..20_u64 {
        for _ in 0..rng.random_range(1..4) {
            let disk = rng.random_range(0..2_usize);
            let length = rng.random_range(512..200_000_u64) / 512 * 512;
            let offset = rng.random_range(0..32 * MIB) / 512 * 512;
            let count = usize::try_from(length)?;
            match rng.random_range(0..4) {
                0 => site.guest_writes(disk, offset, &vec![0; count])?,
                1 => site.guest_writes(disk, offset, &bytes(Fill::Text(round), count))?,
                2 => site.guest_writes(disk, offset, &bytes(Fill::Noise(round), count))?,
                _ => {
                    let (offset, length) = (offset / CLUSTER * CLUSTER, (length / CLUSTER + 1) * CLUSTER);
                    site.disks[disk].write(offset, &vec![0; usize::try_from(length)?])?;
                    site.simulator.trim(VM, disk, offset, length)?;
                }
            }
        }
        if round % 5 == 4 {
            site.simulator.fault("FalsePositives", Some("6"), 1)?;
        }
        let made = incremental(&site, 0)?;
        ensure!(made.detail["backup_type"] == "incremental", "round {round}: {made:?}");
        ensure!(compared(&site, &made)? > 100, "round {round} compares");
    }
    let last = site.backups()?[0]["backup_id"].as_str().context("a backup_id")?.to_owned();
    site.restores_to(&site.view(&last)?, &site.freeze("now")?)?;
    site.finish(&[])
}

#[test]
fn what_cannot_be_compared_is_said_and_raises_no_alarm() -> Result<()> {
    let (site, _config) = site(100.0)?;
    let full = site.backup("full")?;
    let digests = |disk: usize| -> Result<PathBuf> {
        let path: &Value = &full.detail["disks"][disk]["range_digests_path"];
        path.as_str().map(PathBuf::from).context("range digests")
    };
    // One flipped bit in a digest: the hypervisor is right, the repository is not.
    let file = File::options().read(true).write(true).open(digests(0)?)?;
    let (at, mut byte) = (32 + 32 * 5 + 20, [0]);
    file.read_exact_at(&mut byte, at)?;
    file.write_all_at(&[byte[0] ^ 4], at)?;
    let kept = fs::read(digests(1)?)?;
    fs::remove_file(digests(1)?)?;
    site.guest_writes(0, 30 * MIB, &bytes(Fill::Noise(6), 100_000))?;
    let made = incremental(&site, 3)?;
    ensure!(made.detail["backup_type"] == "incremental", "{made:?}");
    warned(&made, &["1 clusters do not have their recorded digest", "could not compare disk 2001"])?;
    site.restores_to(&made, &site.freeze("now")?)?;
    fs::write(digests(1)?, kept)?;
    file.write_all_at(&byte, at)?;
    let clean = incremental(&site, 0)?;
    ensure!(clean.detail["warnings"] == json!([]), "{clean:?}");
    site.finish(&[])
}
