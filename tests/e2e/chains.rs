//! Backups leave a chain at its end, its beginning and in the middle; incrementals become fulls. What is kept shows the
//! same bytes as before, to the product and to qemu.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tidemark_tests::disk::{Fill, RawDisk, bytes};
use tidemark_tests::qemu;
use tidemark_tests::server::ServerOptions;
use tidemark_tests::site::{BackupView, Site, SiteOptions, VM, object_path};

use crate::disks::{self, MIB};

/// A backup and what the guest had then.
pub(crate) type Point = (BackupView, Vec<RawDisk>);

/// A full and incrementals, `length` together; each overwrites some of what the one before wrote, adds and takes away.
pub(crate) fn chain(site: &Site, length: u64) -> Result<Vec<Point>> {
    let mut points = Vec::new();
    for round in 0..length {
        if round > 0 {
            site.guest_writes(0, 2 * MIB, &bytes(Fill::Noise(500 + round), 150_000))?;
            site.guest_writes(0, (8 + round) * MIB, &bytes(Fill::Text(round), 300_000))?;
            site.guest_writes(0, 7 * MIB + round * 200_000, &[0; 200_000])?;
            site.guest_writes(1, (round % 3) * MIB, &bytes(Fill::Noise(round), 70_000))?;
        }
        let backup = site.backup(if round == 0 { "full" } else { "incremental" })?;
        points.push((backup, site.freeze(&format!("point-{round}"))?));
    }
    Ok(points)
}

/// Deletes backups; answers the job's result.
pub(crate) fn delete(site: &Site, ids: &[&str]) -> Result<Value> {
    let args: Vec<&str> = ["backup", "delete"].into_iter().chain(ids.iter().copied()).collect();
    Ok(site.server.cli()?.run(&args)?["result"].clone())
}

/// Every kept backup restores as it was, and the repository holds their objects under their names and nothing else.
pub(crate) fn all_is_well(site: &Site, kept: &[&Point]) -> Result<()> {
    let known = site.backups()?;
    ensure!(known.len() == kept.len(), "{} backups instead of {}: {known:?}", known.len(), kept.len());
    for (backup, frozen) in kept {
        let now = site.view(&backup.id)?;
        site.restores_to(&now, frozen).with_context(|| format!("backup {}", backup.id))?;
    }
    nothing_else(site, kept.len())?;
    if let Some((newest, _)) = kept.last() {
        site.server.cli()?.run(&["backup", "verify", &newest.id, "--level", "deep"])?;
    }
    Ok(())
}

/// Two images with their range digests and a manifest a backup.
pub(crate) fn nothing_else(site: &Site, backups: usize) -> Result<()> {
    for (suffix, count) in [(".qcow2", 2 * backups), (".digests", 2 * backups), (".json", backups)] {
        let stored = site.stored(suffix)?;
        ensure!(stored.len() == count, "{} of {suffix} instead of {count}: {stored:?}", stored.len());
        let merged = |path: &&std::path::PathBuf| path.to_string_lossy().contains(".merged-");
        let waiting: Vec<_> = stored.iter().filter(merged).collect();
        ensure!(suffix == ".digests" || waiting.is_empty(), "without their names: {waiting:?}");
    }
    Ok(())
}

fn parent(site: &Site, point: &Point) -> Result<Value> {
    Ok(site.view(&point.0.id)?.detail["parent_backup_id"].clone())
}

#[test]
fn what_is_kept_shows_what_it_showed() -> Result<()> {
    let site = Site::start(SiteOptions::default(), disks::two)?;
    let points = chain(&site, 7)?;
    let [full, one, two, three, four, five, six] = points.as_slice() else { unreachable!() };
    let kept = |kept: &[&Point]| all_is_well(&site, kept);

    let result = delete(&site, &[&six.0.id])?;
    ensure!(result["merged"] == json!([]) && result["removed"] == json!([six.0.id]), "the tail: {result}");
    kept(&[full, one, two, three, four, five])?;

    let result = delete(&site, &[&full.0.id])?;
    ensure!(result["merged"][0]["backup_id"] == one.0.id.as_str(), "the head: {result}");
    for figure in ["read_bytes", "freed_bytes", "free_bytes_before", "free_bytes_after"] {
        ensure!(result[figure].as_u64().is_some_and(|bytes| bytes > 0), "{figure}: {result}");
    }
    let head = site.view(&one.0.id)?;
    ensure!(head.detail["backup_type"] == "full" && head.detail["reason_code"] == "merged", "{head:?}");
    ensure!(qemu::backing_name(&object_path(&head, 0)?)?.is_none(), "the new head stands alone");
    kept(&[one, two, three, four, five])?;

    // Two that are apart, in one job.
    let result = delete(&site, &[&four.0.id, &two.0.id])?;
    ensure!(result["merged"].as_array().map(Vec::len) == Some(2), "{result}");
    ensure!(parent(&site, three)? == one.0.id.as_str() && parent(&site, five)? == three.0.id.as_str());
    kept(&[one, three, five])?;

    // The chain goes on, and then all but the newest goes.
    site.guest_writes(1, 20 * MIB, &bytes(Fill::Noise(77), 100_000))?;
    let newest = (site.backup("incremental")?, site.freeze("newest")?);
    ensure!(parent(&site, &newest)? == five.0.id.as_str(), "the chain goes on: {newest:?}");
    delete(&site, &[&one.0.id, &three.0.id, &five.0.id])?;
    kept(&[&newest])?;
    // A full of before still is what the next one counts from.
    site.guest_writes(0, 30 * MIB, &bytes(Fill::Noise(78), 100_000))?;
    let next = (site.backup("incremental")?, site.freeze("next")?);
    ensure!(parent(&site, &next)? == newest.0.id.as_str(), "{next:?}");
    kept(&[&newest, &next])?;
    delete(&site, &[&newest.0.id, &next.0.id])?;
    kept(&[])?;
    site.finish(&[])
}

#[test]
fn a_synthetic_full_leaves_what_it_was_made_of() -> Result<()> {
    let site = Site::start(SiteOptions::default(), disks::two)?;
    let points = chain(&site, 4)?;
    let all: Vec<&Point> = points.iter().collect();
    let made = site.server.cli()?.run(&["backup", "synthesize", &points[2].0.id])?;
    ensure!(made["result"]["merged"][0]["took_up"].as_array().map(Vec::len) == Some(2), "{made}");
    let full = site.view(&points[2].0.id)?;
    ensure!(full.detail["backup_type"] == "full" && full.detail["parent_backup_id"].is_null(), "{full:?}");
    all_is_well(&site, &all)?;
    let chain = site.rest().get(&format!("/api/v1/backups/chain/{VM}"))?.expect(200)?;
    ensure!(chain["chain_length"] == 2, "the newest full begins the chain: {chain}");
    let again = site.server.cli()?.outcome(&["backup", "synthesize", &points[2].0.id])?;
    ensure!(again.code == 1 && again.stderr.contains("full already"), "{again:?}");
    // The old chain may go on its own now.
    delete(&site, &[&points[0].0.id, &points[1].0.id])?;
    all_is_well(&site, &all[2..])?;
    site.finish(&[])
}

#[test]
fn what_may_not_go_stays() -> Result<()> {
    let site = Site::start(SiteOptions::default(), disks::two)?;
    let points = chain(&site, 3)?;
    let ids: Vec<&str> = points.iter().map(|(backup, _)| backup.id.as_str()).collect();
    let refused = |ids: &[&str], status: u16, word: &str| -> Result<()> {
        let answer = site.rest().post("/api/v1/backups/actions/delete", &json!({ "backup_ids": ids }))?;
        let told = answer.expect(status)?;
        ensure!(told["detail"].as_str().is_some_and(|detail| detail.contains(word)), "{word}: {told}");
        Ok(())
    };
    refused(&[], 400, "at least one")?;
    refused(&[ids[1], "00000000-0000-4000-8000-000000000000"], 404, "no backup")?;
    site.server.cli()?.run(&["backup", "pin", ids[0]])?;
    refused(&[ids[0], ids[1]], 409, "pinned")?;
    site.server.cli()?.run(&["backup", "unpin", ids[0]])?;

    // Damage that nobody knew of is found before it is merged into anything.
    let image = object_path(&points[1].0, 0)?;
    let file = File::options().read(true).write(true).open(site.repository.join(&image))?;
    let (middle, mut byte) = (file.metadata()?.len() / 2, [0]);
    file.read_exact_at(&mut byte, middle)?;
    file.write_all_at(&[byte[0] ^ 1], middle)?;
    let before: BTreeSet<_> = site.stored("")?.into_iter().collect();
    let outcome = site.server.cli()?.outcome(&["backup", "delete", ids[1]])?;
    let name = image.file_name().and_then(|name| name.to_str()).context("a name")?;
    ensure!(outcome.code == 1, "{outcome:?}");
    for word in [ids[1], name, "digest", "nothing was merged or deleted"] {
        ensure!(outcome.stderr.contains(word) || outcome.stdout.contains(word), "'{word}': {outcome:?}");
    }
    ensure!(site.stored("")?.into_iter().collect::<BTreeSet<_>>() == before, "nothing changed");
    for (id, status) in ids.iter().zip(["completed", "damaged", "damaged"]) {
        ensure!(site.view(id)?.detail["status"] == status, "{id} is not {status}");
    }
    refused(&[ids[1]], 409, "damaged")?;
    delete(&site, &[ids[1], ids[2]])?;
    all_is_well(&site, &[&points[0]])?;
    site.finish(&["damaged"])
}

#[test]
fn a_chain_grows_no_longer_than_it_may() -> Result<()> {
    for (mode, last) in [("full", "chain-depth"), ("synthetic-full", "incremental")] {
        let folder = tempfile::tempdir()?;
        let config = folder.path().join("tidemark.toml");
        let text = format!("[limits]\nmax_chain_depth = 3\nat_max_chain_depth = \"{mode}\"\n");
        fs::write(&config, text)?;
        let arguments = vec!["--config".to_owned(), config.to_string_lossy().into_owned()];
        let server = ServerOptions { arguments, ..ServerOptions::default() };
        let site = Site::start(SiteOptions { server, ..SiteOptions::default() }, disks::two)?;
        let points = chain(&site, 3)?;
        // A job of the same VM waits for the one that makes a full.
        site.guest_writes(0, 33 * MIB, &bytes(Fill::Noise(90), 5000))?;
        let next = (site.backup("auto")?, site.freeze("next")?);
        ensure!(next.0.detail["reason_code"] == last, "{mode}: {next:?}");
        let third = site.view(&points[2].0.id)?;
        if mode == "synthetic-full" {
            ensure!(third.detail["backup_type"] == "full", "{third:?}");
            ensure!(next.0.detail["parent_backup_id"] == points[2].0.id.as_str(), "{next:?}");
        } else {
            let reason = next.0.detail["reason"].as_str().context("a reason")?;
            ensure!(next.0.detail["backup_type"] == "full" && reason.contains("3 links"), "{next:?}");
        }
        all_is_well(&site, &points.iter().chain([&next]).collect::<Vec<_>>())?;
        site.finish(&[])?;
    }
    Ok(())
}

/// Restores that began before a chain changes end with the right bytes, and so do those that begin meanwhile.
#[test]
fn reads_in_flight_keep_their_files() -> Result<()> {
    let site = Site::start(SiteOptions::default(), disks::busy)?;
    let mut points = vec![(site.backup("full")?, site.freeze("p0")?)];
    for round in 1..6_u64 {
        site.guest_writes(0, round * 8 * MIB, &bytes(Fill::Noise(round), 6 << 20))?;
        points.push((site.backup("incremental")?, site.freeze(&format!("p{round}"))?));
    }
    let (newest, expected) = points.last().context("a newest")?;
    let restore = |name: &str| -> Result<String> {
        let to = site.folder().join(name);
        let body = json!({"disk_index": 0, "to": to, "format": "raw"});
        let path = format!("/api/v1/backups/{}/actions/restore", newest.id);
        let accepted = site.rest().post(&path, &body)?.expect(202)?;
        accepted["job_id"].as_str().map(str::to_owned).context("a job")
    };
    for (round, (gone, _)) in points[..5].iter().enumerate() {
        let body = json!({ "backup_ids": [gone.id] });
        let before = restore(&format!("before-{round}.raw"))?;
        let deletion = site.rest().post("/api/v1/backups/actions/delete", &body)?.expect(202)?;
        let meanwhile = restore(&format!("meanwhile-{round}.raw"))?;
        let deletion = deletion["job_id"].as_str().context("a job")?.to_owned();
        for job in [&before, &meanwhile, &deletion] {
            let ended = site.ended_job(job)?;
            ensure!(ended["status"] == "succeeded", "{ended}");
        }
        for name in ["before", "meanwhile"] {
            let restored = site.folder().join(format!("{name}-{round}.raw"));
            tidemark_tests::disk::identical(expected[0].path(), &restored)?;
            fs::remove_file(restored)?;
        }
    }
    site.restores_to(&site.view(&newest.id)?, expected)?;
    site.finish(&[])
}

/// A reader that pauses in the middle of a disk while the whole chain below it goes and its own objects are replaced.
#[test]
fn a_slow_reader_gets_what_it_began_to_read() -> Result<()> {
    let site = Site::start(SiteOptions::default(), disks::busy)?;
    let mut points = vec![(site.backup("full")?, site.freeze("p0")?)];
    for round in 1..4_u64 {
        site.guest_writes(0, round * 8 * MIB, &bytes(Fill::Noise(round), 6 << 20))?;
        points.push((site.backup("incremental")?, site.freeze(&format!("p{round}"))?));
    }
    let (newest, expected) = points.last().context("a newest")?;
    let mut command = std::process::Command::new(tidemark_tests::binaries::tidemark()?);
    command.args(["restore", "disk", &newest.id, "--disk", "0", "--to", "-"]);
    command.env("TIDEMARK_URL", &site.server.url).env("TIDEMARK_TOKEN", &site.server.token);
    let mut reading = command.stdout(std::process::Stdio::piped()).spawn()?;
    let mut stream = reading.stdout.take().context("an output")?;
    let mut content = vec![0; 1 << 20];
    stream.read_exact(&mut content)?;
    let gone: Vec<&str> = points[..3].iter().map(|(backup, _)| backup.id.as_str()).collect();
    delete(&site, &gone)?;
    ensure!(site.stored(".qcow2")?.len() == 1, "all that it reads has gone or was replaced");
    stream.read_to_end(&mut content)?;
    ensure!(reading.wait()?.success(), "the reading command failed");
    ensure!(content == fs::read(expected[0].path())?, "other bytes than the guest had");
    site.restores_to(&site.view(&newest.id)?, expected)?;
    site.finish(&[])
}

/// A merge that is cancelled leaves the chain as it was.
#[test]
fn a_cancelled_merge_changes_nothing() -> Result<()> {
    let site = Site::start(SiteOptions::default(), disks::busy)?;
    let mut points = vec![(site.backup("full")?, site.freeze("p0")?)];
    site.guest_writes(0, 8 * MIB, &bytes(Fill::Noise(1), 6 << 20))?;
    points.push((site.backup("incremental")?, site.freeze("p1")?));
    let before: BTreeSet<_> = site.stored("")?.into_iter().collect();
    let mut outcomes = BTreeSet::new();
    for pause in 0..6 {
        let id = &points[1].0.id;
        let accepted = site.rest().post(&format!("/api/v1/backups/{id}/actions/synthesize"), &json!({}))?;
        let job = accepted.expect(202)?["job_id"].as_str().context("a job")?.to_owned();
        std::thread::sleep(std::time::Duration::from_millis(pause * 40));
        site.server.cli()?.outcome(&["job", "cancel", &job])?;
        let ended = site.ended_job(&job)?;
        outcomes.insert(ended["status"].as_str().context("a status")?.to_owned());
        if ended["status"] == "succeeded" {
            break;
        }
        ensure!(ended["status"] == "cancelled", "{ended}");
        ensure!(site.stored("")?.into_iter().collect::<BTreeSet<_>>() == before, "something is left");
    }
    ensure!(outcomes.contains("cancelled"), "no merge was cancelled: {outcomes:?}");
    for (backup, frozen) in &points {
        site.restores_to(&site.view(&backup.id)?, frozen)?;
    }
    site.finish(&[])
}
