//! The decisions as the host asks for them.

use tidemark_plugin::ErrorKind;
use tidemark_plugin::policy::Ranks;

use super::*;

/// 2026-06-12T12:00:00Z, a Friday.
const NOW_MS: i64 = 1_781_265_600_000;
const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;

fn context(settings: &str) -> Context {
    Context { now_ms: NOW_MS, time_zone: "Europe/Berlin".into(), settings: settings.into(), vm: None }
}

fn vm(tags: &[&str]) -> Candidate {
    Candidate {
        key: "vm-1".into(),
        name: "web01".into(),
        connector: "lab".into(),
        folder: String::new(),
        power: "on".into(),
        guest_os: String::new(),
        tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
        datastores: vec![],
        protected_by: vec![],
        disks: vec![],
    }
}

fn point(id: &str, created_ms: i64) -> Point {
    Point {
        id: id.to_owned(),
        created_ms,
        age_days: 0.0,
        rank: Ranks { last: 0, hourly: 0, daily: 0, weekly: 0, monthly: 0, yearly: 0 },
        backup_type: "full".into(),
        verified: true,
        damaged: false,
        pinned: false,
        size_bytes: 1,
    }
}

fn history(last_full_ms: Option<i64>) -> History {
    History {
        chain_length: u32::from(last_full_ms.is_some()),
        last_full_ms,
        last_backup_ms: last_full_ms,
        full_bytes: None,
        increments_bytes: 0,
        changed_bytes: None,
    }
}

/// The first case of `gfs.test.toml`, with the same answer.
#[test]
fn nightly_for_a_year_and_a_half_with_the_defaults() {
    let zone = Zone::parse("Europe/Berlin").unwrap();
    let mut points = Vec::new();
    // Hour by hour, so that the clock's changes are the zone's business.
    for hours in 0..18 * 31 * 24 {
        let local = zone.local(NOW_MS - hours * HOUR_MS);
        if local.to_string().ends_with("22:00:00") && local.to_string().as_str() >= "2025-01-01" {
            points.push(point(&local.date().to_string(), NOW_MS - hours * HOUR_MS));
        }
    }
    assert_eq!(points.len(), 365 + 162);
    let verdicts = Gfs::retain(points, context("{}")).unwrap();
    assert_eq!(verdicts.len(), 365 + 162, "each has its verdict");
    let kept: Vec<String> = verdicts
        .iter()
        .filter_map(|verdict| Some(format!("{} {}", verdict.id, verdict.reason.as_ref()?)))
        .collect();
    let expected = "\
        2026-06-11 last, 2026-06-10 last, 2026-06-09 last, \
        2026-06-08 daily, 2026-06-07 daily, 2026-06-06 daily, 2026-06-05 daily, 2026-06-04 daily, \
        2026-06-03 daily, 2026-06-02 daily, \
        2026-05-31 weekly, 2026-05-24 weekly, 2026-05-17 weekly, 2026-05-10 weekly, \
        2026-04-30 monthly, 2026-03-31 monthly, 2026-02-28 monthly, 2026-01-31 monthly, 2025-12-31 monthly, \
        2025-11-30 monthly, 2025-10-31 monthly, 2025-09-30 monthly, 2025-08-31 monthly, 2025-07-31 monthly, \
        2025-06-30 monthly, 2025-05-31 monthly";
    assert_eq!(kept.join(", "), expected);
}

#[test]
fn the_tag_decides() {
    let decided = |tags: &[&str], settings: &str| {
        let Selection { protect, reason, exclude_disks } = Gfs::select(vm(tags), context(settings)).unwrap();
        assert!(exclude_disks.is_empty());
        (protect, reason)
    };
    assert_eq!(decided(&["linux", "backup"], "{}"), (true, "tag backup".into()));
    assert_eq!(decided(&["Backup"], "{}"), (false, "no tag backup".into()));
    assert_eq!(decided(&["backup"], r#"{"tag": "gold"}"#), (false, "no tag gold".into()));
    assert_eq!(decided(&["gold"], r#"{"tag": "gold"}"#), (true, "tag gold".into()));
}

#[test]
fn a_full_comes_once_the_newest_is_too_old() {
    let week = 7 * DAY_MS;
    for (name, last_full_ms, settings, kind) in [
        ("none yet", None, "{}", PlanType::Full),
        (
            "not quite a week by the clock, one by the calendar",
            Some(NOW_MS - week + HOUR_MS),
            "{}",
            PlanType::Full,
        ),
        ("the day before", Some(NOW_MS - week + DAY_MS), "{}", PlanType::Incremental),
        ("as the setting says", Some(NOW_MS - week), r#"{"full_every_days": 6}"#, PlanType::Full),
        ("never again", Some(0), r#"{"full_every_days": 4294967295}"#, PlanType::Incremental),
        ("dated into the future", Some(NOW_MS + week), "{}", PlanType::Incremental),
        ("at the end of time", Some(i64::MAX), "{}", PlanType::Incremental),
        ("at its beginning", Some(i64::MIN), "{}", PlanType::Full),
    ] {
        let plan = Gfs::plan(vm(&[]), history(last_full_ms), context(settings)).unwrap();
        assert_eq!(plan.kind, kind, "{name}");
    }
}

#[test]
fn the_plan_names_the_last_full_by_its_local_date() {
    // 2026-06-04T22:30Z is the 5th in Berlin.
    let last_full_ms = NOW_MS - 7 * DAY_MS - 13 * HOUR_MS - HOUR_MS / 2;
    let plan = Gfs::plan(vm(&[]), history(Some(last_full_ms)), context("{}")).unwrap();
    assert_eq!(plan.reason, "the last full is of 2026-06-05");
    assert_eq!(Gfs::plan(vm(&[]), history(None), context("{}")).unwrap().reason, "there is none yet");
}

#[test]
fn wrong_settings_and_zones_are_refused_by_every_decision() {
    let wrong = context(r#"{"daily": "seven"}"#);
    let errors = [
        Gfs::retain(vec![], wrong.clone()).unwrap_err(),
        Gfs::select(vm(&[]), wrong.clone()).unwrap_err(),
        Gfs::plan(vm(&[]), history(None), wrong).unwrap_err(),
    ];
    for error in errors {
        assert_eq!(error.kind, ErrorKind::Config);
        assert!(error.message.contains("'daily'"), "{}", error.message);
    }
    let nowhere = Context { time_zone: "Mars/Olympus".into(), ..context("{}") };
    let errors = [
        Gfs::retain(vec![], nowhere.clone()).unwrap_err(),
        Gfs::plan(vm(&[]), history(None), nowhere).unwrap_err(),
    ];
    assert!(errors.iter().all(|error| error.kind == ErrorKind::Config));
}

#[test]
fn it_says_who_it_is() {
    let said = Gfs::describe();
    assert_eq!((said.name.as_str(), said.contract.as_str()), ("gfs", tidemark_plugin::CONTRACT));
    assert!(include_str!("../plugin.toml").contains(&format!("version = \"{}\"", said.version)));
}
