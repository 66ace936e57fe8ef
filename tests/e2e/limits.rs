//! Honest limits: a repository's and a job's bandwidth bound what is stored and nothing else grows for it, a
//! connector's bound on disks is kept, and whoever waits for a slot holds no snapshot.

use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tidemark_tests::disk::{Fill, RawDisk, bytes};
use tidemark_tests::process::wait_for;
use tidemark_tests::server::{Server, ServerOptions};
use tidemark_tests::simulator::{SimulatedVm, Simulator};
use tidemark_tests::site::{CONNECTOR, REPOSITORY, Site, SiteOptions, add_connector, add_repository};

use crate::disks::MIB;

const LONG: Duration = Duration::from_secs(120);

/// 200 MiB, of which 36 do not compress.
fn mixed(folder: &Path) -> Result<Vec<RawDisk>> {
    let disk = RawDisk::create(&folder.join("mixed.raw"), 200 * MIB)?;
    for part in 0..9 {
        disk.write(part * 20 * MIB, &bytes(Fill::Noise(part), 4 << 20))?;
        disk.write(part * 20 * MIB + 4 * MIB, &bytes(Fill::Text(part), 16 << 20))?;
    }
    Ok(vec![disk])
}

#[test]
fn a_slow_repository_grows_no_memory_and_a_new_bandwidth_counts_at_once() -> Result<()> {
    let site = Site::start(SiteOptions::default(), mixed)?;
    let cli = site.server.cli()?;
    site.backup("full")?;
    let free = peak_memory(&site)?;

    cli.run(&["repository", "update", REPOSITORY, "--bandwidth", "2MiB"])?;
    let shown = cli.run(&["repository", "show", REPOSITORY])?;
    ensure!(shown["bandwidth_bytes_per_second"] == 2 * MIB, "{shown}");
    let job = site.submit_backup("full")?;
    wait_for("the first stored bytes", LONG, || {
        Ok(site.job(&job)?["progress"]["stored_bytes"].as_u64().filter(|&stored| stored > 0))
    })?;
    let (begun, before) = (Instant::now(), stored(&site, &job)?);
    sleep(Duration::from_secs(5));
    let (after, took) = (stored(&site, &job)?, begun.elapsed().as_secs_f64());
    // Appends are of a mebibyte and progress is told once a second.
    let most = (begun.elapsed().as_secs() + 1) * 2 * MIB + 3 * MIB;
    ensure!(after > before, "it goes on");
    ensure!(after - before <= most, "{} bytes in {took:.1} s", after - before);
    let slow = peak_memory(&site)?;
    ensure!(slow <= free + (24 << 10), "{slow} KiB at the peak while held back, {free} KiB before");

    let begun = Instant::now();
    cli.run(&["repository", "update", REPOSITORY, "--bandwidth", "0"])?;
    let ended = site.ended_job(&job)?;
    ensure!(ended["status"] == "succeeded", "{ended}");
    ensure!(begun.elapsed() < Duration::from_secs(8), "the running job was let go: {:?}", begun.elapsed());
    let backup = site.view(&job)?;
    site.restores_to(&backup, &site.freeze("now")?)?;
    site.finish(&[])
}

#[test]
fn a_jobs_own_bandwidth_is_kept_and_cancelling_does_not_wait_for_it() -> Result<()> {
    let site = Site::start(SiteOptions::default(), crate::disks::busy)?;
    let order = |bandwidth: &str| {
        let body: Value = serde_json::from_str(&format!(
            r#"{{"vm_name":"web01","repository_id":"main","backup_type":"full","bandwidth_bytes_per_second":{bandwidth}}}"#
        ))?;
        site.rest().post("/api/v1/backups", &body)
    };
    let refused = order("5")?;
    ensure!(refused.status == 400 && refused.json()?["field"] == "bandwidth_bytes_per_second", "{refused:?}");

    // 64 MiB that do not compress.
    let begun = Instant::now();
    let job = order("16777216")?.expect(202)?["job_id"].as_str().context("a job_id")?.to_owned();
    ensure!(site.ended_job(&job)?["status"] == "succeeded", "{}", site.job(&job)?);
    ensure!(begun.elapsed() >= Duration::from_millis(3500), "64 MiB at 16 MiB/s in {:?}", begun.elapsed());

    let job = order("65536")?.expect(202)?["job_id"].as_str().context("a job_id")?.to_owned();
    wait_for("a partial object", LONG, || Ok((!site.stored(".partial")?.is_empty()).then_some(())))?;
    let begun = Instant::now();
    site.server.cli()?.run(&["job", "cancel", &job])?;
    let ended = site.ended_job(&job)?;
    ensure!(ended["status"] == "cancelled", "{ended}");
    ensure!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    site.finish(&[])
}

#[test]
fn whoever_waits_for_a_slot_of_a_connector_holds_no_snapshot() -> Result<()> {
    whoever_waits_holds_no_snapshot("connector", CONNECTOR)
}

#[test]
fn whoever_waits_for_a_slot_of_a_repository_holds_no_snapshot() -> Result<()> {
    whoever_waits_holds_no_snapshot("repository", REPOSITORY)
}

fn whoever_waits_holds_no_snapshot(noun: &str, bounded: &str) -> Result<()> {
    let folder = tempfile::Builder::new().prefix("tidemark-e2e-").tempdir()?;
    let names = ["first", "second"];
    let mut vms = Vec::new();
    for name in names {
        let disks = ["a", "b"].map(|disk| folder.path().join(format!("{name}-{disk}.raw")));
        for disk in &disks {
            RawDisk::create(disk, 16 * MIB)?.write(0, &bytes(Fill::Noise(7), 8 << 20))?;
        }
        vms.push(SimulatedVm { name: name.to_owned(), disks: disks.into() });
    }
    let simulator = Simulator::start(folder.path(), &vms, &[])?;
    let server =
        Server::start(&ServerOptions { folder: folder.path().to_owned(), ..ServerOptions::default() })?;
    let (cli, rest) = (server.cli()?, server.rest());
    add_connector(&cli, &simulator, folder.path())?;
    add_repository(&cli, &folder.path().join("repository"))?;
    cli.run(&["vm", "add", CONNECTOR, names[0], names[1]])?;
    cli.run(&[noun, "update", bounded, "--max-disks", "1"])?;
    cli.run(&["repository", "update", REPOSITORY, "--bandwidth", "1MiB"])?;

    let submit = |vm: &str| -> Result<String> {
        let order = json!({"vm_name": vm, "repository_id": REPOSITORY, "backup_type": "full"});
        let accepted = rest.post("/api/v1/backups", &order)?.expect(202)?;
        accepted["job_id"].as_str().map(str::to_owned).context("a job_id")
    };
    let progress = |job: &str| -> Result<Value> {
        Ok(rest.get(&format!("/api/v1/jobs/{job}"))?.expect(200)?["progress"].clone())
    };
    let moving = submit(names[0])?;
    wait_for("one disk to move and one to wait", LONG, || {
        let disks = progress(&moving)?["disks"].clone();
        let state = |index: usize| disks[index]["state"].as_str().unwrap_or_default().to_owned();
        Ok((state(0) == "moving" && state(1) == "waiting for a slot").then_some(()))
    })?;
    let waiting = submit(names[1])?;
    wait_for("the other job to wait", LONG, || {
        Ok((progress(&waiting)?["phase"] == "waiting for a slot").then_some(()))
    })?;
    ensure!(!simulator.snapshots(names[0])?.is_empty(), "whose disks are moved has its snapshot");
    ensure!(simulator.snapshots(names[1])?.is_empty(), "who waits has none");
    cli.run(&["job", "cancel", &waiting])?;
    let ended = |job: &str| {
        wait_for("the job's end", LONG, || {
            let job = rest.get(&format!("/api/v1/jobs/{job}"))?.expect(200)?;
            Ok(matches!(job["status"].as_str(), Some("succeeded" | "failed" | "cancelled")).then_some(job))
        })
    };
    ensure!(ended(&waiting)?["status"] == "cancelled", "who waits can be cancelled");

    let again = submit(names[1])?;
    cli.run(&["repository", "update", REPOSITORY, "--bandwidth", "0"])?;
    for job in [&moving, &again] {
        ensure!(ended(job)?["status"] == "succeeded", "{}", progress(job)?);
    }
    for name in names {
        ensure!(simulator.snapshots(name)?.is_empty(), "no snapshot is left");
    }
    server.finish(&[])
}

fn stored(site: &Site, job: &str) -> Result<u64> {
    site.job(job)?["progress"]["stored_bytes"].as_u64().context("stored_bytes")
}

/// The largest resident memory of the server so far, in KiB.
fn peak_memory(site: &Site) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", site.server.pid()?))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("VmHWM")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse()?)
}
