//! Flows: selection by policy, plans, reports for each VM, schedules, catching up, going on after a death.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tidemark_tests::disk::{Fill, bytes};
use tidemark_tests::process::wait_for;

use crate::fleet::{Fleet, HOUR, names, vm};

const LONG: Duration = Duration::from_secs(120);

const BY_NAME: &str = "repository = 'main'\n[select]\npolicy = 'by-name'\nsettings = { names = ['web*'] }\n";

#[test]
fn a_flow_protects_what_its_policy_selects_and_says_why() -> Result<()> {
    let fleet = Fleet::start(&[])?;
    let cli = fleet.cli()?;
    fleet.shipped("group", "by-name")?;
    fleet.shipped("retention", "gfs")?;
    let made = fleet
        .flow("nightly", &format!("{BY_NAME}[retention]\npolicy = 'gfs'\n[verify]\nlevel = 'full'\n"))?;
    ensure!(made["enabled"] == true && made["next_execution"].is_null(), "{made}");

    let preview = cli.run(&["flow", "preview", "nightly"])?;
    let shown: Vec<(&str, bool)> = preview["vms"]
        .as_array()
        .context("'vms'")?
        .iter()
        .filter_map(|vm| Some((vm["name"].as_str()?, vm["protect"].as_bool()?)))
        .collect();
    ensure!(shown == [("db01", false), ("web01", true), ("web02", true)], "{preview}");
    ensure!(fleet.runs("nightly")?.is_empty(), "a preview records nothing");

    let run = fleet.run("nightly")?;
    ensure!(run["status"] == "succeeded" && run["execution_type"] == "manual", "{run}");
    ensure!(names(&run, "succeeded") == ["web01", "web02"], "{run}");
    ensure!(vm(&run, "web01")?["reason"].as_str().is_some_and(|why| why.starts_with("by name")), "{run}");
    ensure!(run["report"]["policies"]["select"]["name"] == "by-name", "{run}");
    ensure!(
        run["report"]["policies"]["retention"]["digest"].as_str().is_some_and(|d| d.len() == 64),
        "{run}"
    );
    ensure!(run["report"]["verify"]["backups"] == 2, "{run}");
    let detail = &vm(&run, "web01")?["detail"];
    ensure!(detail["backup_type"] == "full" && detail["reason_code"] == "first-backup", "{run}");

    fleet.write(0, 1 << 20, &bytes(Fill::Noise(9), 70_000))?;
    let frozen = fleet.freeze(0, "second")?;
    let outcome = cli.outcome(&["flow", "run", "nightly"])?.expect(0)?;
    ensure!(outcome["status"] == "succeeded", "{outcome}");
    let backups = fleet.backups("web01")?;
    ensure!(backups.len() == 2 && backups[0]["backup_type"] == "incremental", "{backups:?}");
    fleet.restores_to(&backups[0], &frozen)?;

    let unprotected = cli.run(&["vm", "unprotected"])?;
    ensure!(unprotected["total"] == 1 && unprotected["vms"][0]["name"] == "db01", "{unprotected}");
    let why = unprotected["vms"][0]["reasons"][0].as_str().unwrap_or_default();
    ensure!(why.starts_with("nightly: "), "{unprotected}");
    let summary = fleet.rest().get("/api/v1/protection-flows/summary")?.expect(200)?;
    ensure!(summary["total_flows"] == 1 && summary["unprotected_vms"] == 1, "{summary}");
    let status = cli.run(&["flow", "show", "nightly"])?;
    ensure!(status["executions"]["succeeded"] == 2, "{status}");

    let metrics = fleet.rest().get("/metrics")?.text;
    for line in [
        "tidemark_unprotected_vms 1",
        "tidemark_flow_last_run_ok{flow=\"nightly\"} 1",
        "tidemark_flow_runs{flow=\"nightly\",status=\"succeeded\"} 2",
        "tidemark_last_verified_backup_age_seconds{vm=\"web01\"",
        "tidemark_repository_days_until_full{repository=\"main\"}",
    ] {
        ensure!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
    fleet.finish(&[])
}

#[test]
fn one_vms_failure_stops_no_other_and_is_tried_again() -> Result<()> {
    let fleet = Fleet::start(&[])?;
    fleet.shipped("group", "by-name")?;
    let backup = "[backup]\nattempts = 2\nretry_after = '100ms'\nconcurrency = 1\n";
    fleet.flow("nightly", &format!("{BY_NAME}{backup}"))?;
    // One snapshot fails: the second try of the same VM does not.
    fleet.simulator.fault("FileFault", Some("CreateSnapshot_Task"), 1)?;
    let run = fleet.run("nightly")?;
    ensure!(run["status"] == "succeeded" && vm(&run, "web01")?["attempts"] == 2, "{run}");
    ensure!(vm(&run, "web02")?["attempts"] == 1, "{run}");
    // Both tries of the first VM fail; the second VM has its backup all the same.
    fleet.simulator.fault("FileFault", Some("CreateSnapshot_Task"), 2)?;
    let run = fleet.run("nightly")?;
    ensure!(run["status"] == "partly", "{run}");
    ensure!(names(&run, "failed") == ["web01"] && names(&run, "succeeded") == ["web02"], "{run}");
    ensure!(vm(&run, "web01")?["error"].as_str().is_some_and(|why| !why.is_empty()), "{run}");
    // All of them fail: so does the run, and its job.
    fleet.simulator.fault("FileFault", Some("CreateSnapshot_Task"), 4)?;
    let outcome = fleet.cli()?.outcome(&["flow", "run", "nightly"])?;
    ensure!(outcome.code == 1, "{outcome:?}");
    ensure!(fleet.runs("nightly")?[0]["status"] == "failed", "{:?}", fleet.runs("nightly")?);
    ensure!(fleet.backups("web01")?.len() == 1 && fleet.backups("web02")?.len() == 2);
    fleet.finish(&["job failed"])
}

#[test]
fn wrong_definitions_are_refused_by_field() -> Result<()> {
    let fleet = Fleet::start(&[])?;
    fleet.shipped("group", "by-name")?;
    let refused = |body: Value, field: &str| -> Result<()> {
        let answer = fleet.rest().post("/api/v1/protection-flows", &body)?;
        let problem = answer.json()?;
        ensure!(answer.status == 400 && problem["field"] == field, "{body} → {problem}");
        Ok(())
    };
    let good = json!({"name": "f", "repository": "main", "select": {"policy": "by-name"}});
    let with = |key: &str, value: Value| {
        let mut body = good.clone();
        body[key] = value;
        body
    };
    refused(with("repository", json!("nowhere")), "repository")?;
    refused(with("select", json!({"policy": "nothing"})), "select.policy")?;
    refused(with("select", json!({"vms": ["ghost"]})), "select.vms")?;
    refused(with("select", json!({"polcy": "by-name"})), "select.polcy")?;
    refused(with("schedule", json!({"cron": "61 * * * *"})), "schedule.cron")?;
    refused(with("schedule", json!({"cron": "0 0 30 2 *"})), "schedule.cron")?;
    refused(with("retention", json!({"policy": "by-name"})), "retention.policy")?;
    refused(with("copy", json!({"repository": "main"})), "copy.repository")?;
    refused(with("notify", json!([{"mail": ["a@b.example"]}])), "notify.mail")?;
    refused(with("hooks", json!({"before": [{"url": "http://127.0.0.1:1/", "secret": "s"}]})), "secrets")?;
    fleet.rest().post("/api/v1/protection-flows", &good)?.expect(201)?;
    let taken = fleet.rest().post("/api/v1/protection-flows", &good)?;
    ensure!(taken.status == 409, "{taken:?}");
    let bulk = json!({"flow_ids": ["f", "ghost"]});
    let outcome = fleet.rest().post("/api/v1/protection-flows/bulk-disable", &bulk)?.expect(200)?;
    ensure!(outcome["successful"] == 1 && outcome["failed"] == 1, "{outcome}");
    ensure!(outcome["errors"]["ghost"].as_str().is_some_and(|why| why.contains("ghost")), "{outcome}");
    let used = fleet.rest().delete("/api/v1/policies/by-name")?;
    ensure!(used.status == 409, "a policy in use stays: {used:?}");
    let outcome = fleet.rest().post("/api/v1/protection-flows/bulk-delete", &bulk)?.expect(200)?;
    ensure!(outcome["successful"] == 1, "{outcome}");
    fleet.finish(&[])
}

#[test]
fn a_schedule_fires_once_for_each_time_and_catches_up_once() -> Result<()> {
    let mut fleet = Fleet::start(&[])?;
    fleet.shipped("group", "by-name")?;
    // Half an hour away from now, so that the real clock never comes to it.
    let minute = (SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() / 60 + 30) % 60;
    let hourly = format!("[schedule]\ncron = '{minute} * * * *'\ntime_zone = 'Europe/Berlin'\n");
    let made = fleet.flow("hourly", &format!("{BY_NAME}{hourly}"))?;
    ensure!(made["next_execution"].is_string(), "{made}");

    fleet.pass(HOUR)?;
    let first = wait_for("the first firing", LONG, || Ok(fleet.runs("hourly")?.into_iter().next()))?;
    let first = fleet.ended_run("hourly", first["id"].as_str().context("an id")?)?;
    ensure!(first["status"] == "succeeded" && names(&first, "succeeded").len() == 2, "{first}");
    ensure!(first["fire_at"].is_string(), "{first}");

    // Five hours without a host: one run makes up for them.
    fleet.server.stop()?;
    fleet.pass(5 * HOUR)?;
    fleet.server = fleet.server.restart_stopped()?;
    let second = wait_for("the catching up", LONG, || {
        Ok(fleet.runs("hourly")?.into_iter().next().filter(|run| run["id"] != first["id"]))
    })?;
    let second = fleet.ended_run("hourly", second["id"].as_str().context("an id")?)?;
    ensure!(second["execution_type"] == "catch-up" && second["status"] == "succeeded", "{second}");
    std::thread::sleep(Duration::from_secs(3));
    ensure!(fleet.runs("hourly")?.len() == 2, "once: {:?}", fleet.runs("hourly")?);
    ensure!(fleet.backups("web01")?.len() == 2, "{:?}", fleet.backups("web01")?);

    fleet.cli()?.run(&["flow", "disable", "hourly"])?;
    fleet.pass(2 * HOUR)?;
    std::thread::sleep(Duration::from_secs(3));
    ensure!(fleet.runs("hourly")?.len() == 2, "a disabled flow does not fire");
    let fired = fleet.cli()?.run(&["flow", "firings", "hourly"])?;
    let fired = fired["firings"].as_array().context("'firings'")?;
    ensure!(
        fired.len() == 2 && fired[0]["missed"] == 5 && fired[0]["execution_id"] == second["id"],
        "{fired:?}"
    );
    fleet.finish(&[])
}

#[test]
fn a_run_whose_host_dies_goes_on_and_makes_nothing_twice() -> Result<()> {
    let mut fleet = Fleet::start(&[])?;
    fleet.shipped("group", "by-name")?;
    let all = "repository = 'main'\n[select]\npolicy = 'by-name'\n[backup]\nconcurrency = 1\nretry_after = '100ms'\nbandwidth_bytes_per_second = 100000\n";
    fleet.flow("all", all)?;
    let started = fleet.rest().post("/api/v1/protection-flows/all/execute", &json!({}))?.expect(202)?;
    let id = started["job_id"].as_str().context("a job_id")?.to_owned();
    let path = format!("/api/v1/protection-flows/all/executions/{id}");
    wait_for("the first VM to be done", LONG, || {
        let run = fleet.rest().get(&path)?.expect(200)?;
        Ok((!names(&run, "succeeded").is_empty()).then_some(()))
    })?;
    // Changed while it runs: this run goes on as it began, also on the host that takes it up.
    let changed = fleet.file(
        "changed.toml",
        &all.replace("[backup]", "connectors = ['vcenter-a']\n[verify]\nlevel = 'full'\n[backup]"),
    )?;
    fleet.cli()?.run(&["flow", "update", "all", "--file", &changed])?;
    fleet.server = fleet.server.kill_and_restart()?;
    let run = fleet.ended_run("all", &id)?;
    ensure!(run["report"]["definition"]["verify"].is_null() && run["report"]["verify"].is_null(), "{run}");
    // What was in the middle of its backup when the host died failed with it, and was tried again by the run.
    ensure!(run["status"] == "succeeded" && names(&run, "succeeded").len() == 3, "{run}");
    for name in crate::fleet::VMS {
        ensure!(fleet.backups(name)?.len() == 1, "{name}: {:?}", fleet.backups(name)?);
    }
    fleet.finish(&["recover", "interrupted", "undo", "lease", "tried again"])
}
