//! Retention through flows: marks, grace, deletion by merge, floors, wrong scripts and wrong clocks, approval, another
//! version's backtest, and copies in a second repository.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tidemark_tests::disk::{Fill, RawDisk, bytes};
use tidemark_tests::qemu;
use tidemark_tests::site::files_below;

use crate::fleet::{DAY, Fleet, HOUR, add_offsite};

fn daily(more: &str) -> String {
    format!(
        "repository = 'main'\n[select]\nvms = ['web01']\n[retention]\npolicy = 'gfs'\n\
         settings = {{ last = 0, daily = 2, weekly = 0, monthly = 0, yearly = 0 }}\nmax_delete_percent = 100\n{more}"
    )
}

/// So many days with one backup each; answers what the disk was at each.
fn days(fleet: &mut Fleet, flow: &str, days: u64) -> Result<Vec<RawDisk>> {
    let mut frozen = Vec::new();
    for day in 0..days {
        fleet.write(0, day * 200_000, &bytes(Fill::Noise(50 + day), 100_000))?;
        let moved = fleet.freeze(0, &format!("{flow}-day-{day}"))?;
        let run = fleet.run(flow)?;
        ensure!(run["status"] == "succeeded", "day {day}: {run}");
        frozen.push(moved);
        fleet.pass(DAY)?;
    }
    Ok(frozen)
}

fn protected(fleet: &Fleet) -> Result<()> {
    let cli = fleet.cli()?;
    cli.run(&["vm", "add", "vcenter-a", "web01"])?;
    fleet.shipped("retention", "gfs")
}

#[test]
fn what_a_policy_lets_go_is_marked_and_goes_after_its_grace_period() -> Result<()> {
    let mut fleet = Fleet::start(&[])?;
    protected(&fleet)?;
    fleet.flow("daily", &daily("grace = '36h'\n"))?;
    let frozen = days(&mut fleet, "daily", 4)?;
    // On the fourth day two are over: one was marked a day ago, and neither is due yet.
    let marks = fleet.cli()?.run(&["prune", "marks", "--repository", "main"])?;
    ensure!(marks["marks"].as_array().map(Vec::len) == Some(2), "{marks}");
    ensure!(fleet.backups("web01")?.len() == 4, "{:?}", fleet.backups("web01")?);
    let dry = fleet.cli()?.run(&["prune", "run", "--repository", "main", "--dry-run"])?;
    ensure!(dry["result"]["may_go"] == 2 && dry["result"]["queued_for_deletion"] == 0, "{dry}");

    fleet.pass(12 * HOUR)?;
    let pruned = fleet.cli()?.run(&["prune", "run", "--repository", "main"])?;
    ensure!(pruned["result"]["queued_for_deletion"].as_u64().is_some_and(|gone| gone >= 1), "{pruned}");
    let job = pruned["result"]["deletion_jobs"][0].as_str().context("a deletion job")?.to_owned();
    fleet.cli()?.run(&["job", "watch", &job])?;
    let left = fleet.backups("web01")?;
    ensure!((2..4).contains(&left.len()), "{left:?}");
    // The newest stays what it was, on fewer links; stock tools agree.
    fleet.restores_to(&left[0], &frozen[3])?;
    fleet.restores_to(&left[1], &frozen[2])?;
    for image in files_below(&fleet.repository(), ".qcow2")? {
        qemu::check(&image)?;
    }
    fleet.finish(&[])
}

#[test]
fn a_script_that_fails_deletes_nothing_and_the_run_says_so() -> Result<()> {
    let mut fleet = Fleet::start(&[])?;
    protected(&fleet)?;
    fleet.flow("daily", &daily("grace = '0s'\n"))?;
    days(&mut fleet, "daily", 3)?;
    let before = fleet.backups("web01")?.len();
    for (name, source) in [
        ("throws", "fn retain(p, ctx) { throw \"no\" }"),
        ("loops", "fn retain(p, ctx) { let i = 0; while true { i += 1; } }"),
        ("allocates", "fn retain(p, ctx) { let a = []; while true { a.push(\"xxxxxxxxxxxxxxxx\"); } }"),
        ("lies", "fn retain(p, ctx) { 7 }"),
    ] {
        fleet.put("retention", name, source)?;
        let definition = daily("grace = '0s'\n").replace("policy = 'gfs'", &format!("policy = '{name}'"));
        let file = fleet.file("wrong.toml", &definition.replace("settings = {", "#"))?;
        fleet.cli()?.run(&["flow", "update", "daily", "--file", &file])?;
        let run = fleet.run("daily")?;
        ensure!(run["status"] == "partly", "{name}: {run}");
        let warnings = run["report"]["warnings"].to_string();
        ensure!(warnings.contains("kept everything"), "{name}: {warnings}");
        fleet.pass(HOUR)?;
    }
    ensure!(fleet.backups("web01")?.len() == before + 4, "nothing went");
    let refused = fleet.file("broken.rhai", "fn retain(p, ctx) { p.nonsense }")?;
    let outcome = fleet.cli()?.outcome(&["policy", "put", "broken", &refused, "--kind", "retention"])?;
    ensure!(outcome.code == 1 && outcome.stderr.contains("line 1"), "{outcome:?}");
    fleet.finish(&["kept everything"])
}

#[test]
fn a_clock_a_year_ahead_or_a_day_back_deletes_nothing() -> Result<()> {
    let mut fleet = Fleet::start(&[])?;
    protected(&fleet)?;
    let within = "fn retain(p, ctx) { if p.age_days < 30.0 { \"young\" } }";
    fleet.put("retention", "within", within)?;
    let definition = daily("grace = '0s'\n").replace("policy = 'gfs'", "policy = 'within'");
    fleet.flow("daily", &definition.replace("settings = {", "#"))?;
    days(&mut fleet, "daily", 3)?;
    let prune = |fleet: &Fleet| -> Result<Value> {
        Ok(fleet.cli()?.outcome(&["prune", "run", "--repository", "main"])?.json()?["result"].clone())
    };
    fleet.pass(365 * DAY)?;
    let ahead = prune(&fleet)?;
    ensure!(ahead["may_go"] == 0 && ahead["decisions"][0]["kept"][0]["by"] == "clock-jump", "{ahead}");
    fleet.pass(-370 * DAY)?;
    let back = prune(&fleet)?;
    ensure!(back["may_go"] == 0 && back["decisions"][0]["kept"][0]["by"] == "policy", "{back}");
    ensure!(back["warnings"].to_string().contains("set the clock right"), "{back}");
    ensure!(fleet.backups("web01")?.len() == 3, "nothing went");
    fleet.finish(&["clock"])
}

#[test]
fn approval_and_monitoring_hold_deletions_back() -> Result<()> {
    let mut fleet = Fleet::start(&[])?;
    protected(&fleet)?;
    fleet.flow("daily", &daily("grace = '0s'\nlevel = 'approve'\n"))?;
    days(&mut fleet, "daily", 4)?;
    ensure!(fleet.backups("web01")?.len() == 4, "nothing goes unapproved");
    let marks = fleet.cli()?.run(&["prune", "marks", "--repository", "main"])?;
    ensure!(marks["marks"][0]["approved"] == false, "{marks}");
    let approved = fleet.cli()?.run(&["prune", "approve", "--repository", "main", "--vm", "web01"])?;
    ensure!(approved["approved"] == 2, "{approved}");
    let run = fleet.run("daily")?;
    ensure!(run["status"] == "succeeded", "{run}");
    // Five, of which two days are kept: what was approved went, what this run let go waits.
    ensure!(fleet.backups("web01")?.len() == 3, "{:?}", fleet.backups("web01")?);

    let file = fleet.file("monitor.toml", &daily("grace = '0s'\nlevel = 'monitor'\n"))?;
    fleet.cli()?.run(&["flow", "update", "daily", "--file", &file])?;
    let run = fleet.run("daily")?;
    let decisions = run["report"]["retention"]["decisions"][0]["may_go"].as_array().map(Vec::len);
    ensure!(decisions.is_some_and(|may_go| may_go >= 1), "{run}");
    let marks = fleet.cli()?.run(&["prune", "marks", "--repository", "main"])?;
    ensure!(marks["marks"].as_array().is_some_and(Vec::is_empty), "{marks}");

    // Another version is played against this catalog before it decides.
    let looser = fleet.file("looser.rhai", "fn retain(p, ctx) { \"all\" }")?;
    let played = fleet.cli()?.run(&["policy", "backtest", "gfs", "--file", &looser])?;
    ensure!(
        played["flows"][0] == "daily" && played["vms"][0]["kept"].as_array().is_some_and(|k| !k.is_empty()),
        "{played}"
    );
    fleet.finish(&[])
}

#[test]
fn copies_stay_as_long_as_a_rule_of_their_own_says() -> Result<()> {
    let mut fleet = Fleet::start(&[])?;
    protected(&fleet)?;
    add_offsite(&fleet.cli()?, &fleet.folder.path().join("offsite"))?;
    let longer = "[copy]\nrepository = 'offsite'\n[copy.retention]\npolicy = 'gfs'\ngrace = '0s'\nmax_delete_percent = 100\n\
                  settings = { last = 0, daily = 4, weekly = 0, monthly = 0, yearly = 0 }\n";
    fleet.flow("daily", &daily(&format!("grace = '0s'\n{longer}")))?;
    let frozen = days(&mut fleet, "daily", 6)?;
    let all = fleet.backups("web01")?;
    let (copies, own): (Vec<Value>, Vec<Value>) =
        all.into_iter().partition(|backup| backup["copy_of"].is_string());
    ensure!((own.len(), copies.len()) == (2, 4), "{own:?} {copies:?}");
    for (copy, frozen) in copies.iter().zip(frozen.iter().rev()) {
        fleet.restores_to(copy, frozen)?;
    }
    // A retention policy in use is not removed, also where it is only the copies'.
    let outcome = fleet.cli()?.outcome(&["policy", "remove", "gfs"])?;
    ensure!(outcome.code == 1 && outcome.stderr.contains("daily"), "{outcome:?}");
    let played = fleet.cli()?.run(&["policy", "backtest", "gfs", "--version", "1"])?;
    ensure!(played["backups"] == 6, "both places are looked at: {played}");
    fleet.finish(&[])
}

#[test]
fn copies_in_a_second_repository_restore_and_follow() -> Result<()> {
    let mut fleet = Fleet::start(&[])?;
    protected(&fleet)?;
    let offsite = fleet.folder.path().join("offsite");
    add_offsite(&fleet.cli()?, &offsite)?;
    fleet.flow("daily", &daily("grace = '0s'\n[copy]\nrepository = 'offsite'\n"))?;
    let frozen = days(&mut fleet, "daily", 3)?;
    let copies: Vec<Value> =
        fleet.backups("web01")?.into_iter().filter(|backup| backup["copy_of"].is_string()).collect();
    ensure!(!copies.is_empty(), "{:?}", fleet.backups("web01")?);
    ensure!(copies[0]["reason_code"] == "copy", "{copies:?}");
    fleet.restores_to(&copies[0], &frozen[2])?;
    let images = files_below(&offsite, ".qcow2")?;
    ensure!(!images.is_empty(), "images in the second repository");
    for image in &images {
        qemu::check(image)?;
    }
    // The chain there stands alone: stock tools follow it without the first repository.
    let newest = images.last().context("an image")?;
    qemu::same_content(frozen[2].path(), newest)?;
    let verified = copies[0]["backup_id"].as_str().context("an id")?;
    fleet.cli()?.run(&["backup", "verify", verified, "--level", "deep"])?;
    let again = fleet.cli()?.run(&["vm", "copy", "web01", "--from", "main", "--to", "offsite"])?;
    ensure!(again["job_ids"].as_array().is_some_and(Vec::is_empty), "all is there: {again}");
    fleet.finish(&[])
}
