//! What scripts may and may not do.

mod contract;
mod diagnostics;
mod guide;
mod walls;

use tidemark_model::{
    BackupId, ByteLen, Candidate, CandidateDisk, DiskKey, PolicyContext, PolicyKind, RetentionPoint,
};

use super::{Script, ScriptError};
use crate::calendar::Zone;
use crate::fixtures::{hours_before, moment, timeline};

fn berlin() -> Zone {
    Zone::parse("Europe/Berlin").unwrap()
}

fn context(settings: &str) -> PolicyContext {
    PolicyContext {
        now: moment("2026-06-12T12:00", berlin()),
        time_zone: "Europe/Berlin".to_owned(),
        settings_json: settings.to_owned(),
        vm: None,
    }
}

/// One backup every hour before now, the newest first.
fn hourly(count: i64) -> Vec<RetentionPoint> {
    let now = context("").now;
    let times: Vec<_> = (1..=count).map(|hours| hours_before(now, hours)).collect();
    timeline(&times, now, berlin())
}

fn retention(source: &str) -> Script {
    Script::compile(PolicyKind::Retention, source).unwrap_or_else(|error| panic!("{error}\n{source}"))
}

fn group(source: &str) -> Script {
    Script::compile(PolicyKind::Group, source).unwrap_or_else(|error| panic!("{error}\n{source}"))
}

/// What a retention policy of this body fails with, on three backups.
fn fails(body: &str) -> ScriptError {
    let script = retention(&format!("fn retain(p, ctx) {{\n{body}\n}}"));
    match script.retain(&hourly(3), &context("{}")) {
        Ok(verdicts) => panic!("{verdicts:?} from {body}"),
        Err(error) => error,
    }
}

fn web01() -> Candidate {
    let disk = |key: &str, label: &str| CandidateDisk {
        key: DiskKey(key.to_owned()),
        label: label.to_owned(),
        capacity: ByteLen(1 << 34),
    };
    Candidate {
        key: "vm-7".to_owned(),
        name: "web01".to_owned(),
        connector: "lab".to_owned(),
        folder: "/dc/vm/prod".to_owned(),
        power: "on".to_owned(),
        guest_os: "debian12".to_owned(),
        tags: vec!["prod".to_owned(), "gold".to_owned()],
        datastores: vec!["fast".to_owned()],
        protected_by: vec![],
        disks: vec![disk("2000", "system"), disk("2001", "scratch")],
    }
}

fn short(id: BackupId) -> String {
    id.to_string()[30..].to_owned()
}
