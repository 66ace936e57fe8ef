//! The policy `my-plugin`: the newest backups stay, and so does everything that is young.
//!
//! Each answer is a function of its arguments alone: the host gives a policy no clock, no chance and no network, and
//! asks it again with the same arguments when it wants to know what another version would have decided.

use serde::Deserialize;
use tidemark_plugin::policy::{
    BackupPlan, Candidate, Context, History, KeepVerdict, PlanType, Point, Policy, Selection,
};
use tidemark_plugin::{Description, Error, Result, description};

/// What an administrator may choose; `plugin.toml` declares the same names and defaults.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Settings {
    newest: u32,
    days: f64,
    tag: String,
    longest_chain: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self { newest: 7, days: 14.0, tag: "backup".to_owned(), longest_chain: 14 }
    }
}

impl Settings {
    /// An error lets the host keep everything, which a setting that was silently overlooked would not.
    fn parse(json: &str) -> Result<Self> {
        serde_json::from_str(json).map_err(|error| Error::config(format!("the settings: {error}")))
    }

    /// Why a backup stays; none where it may go.
    fn keeps(&self, point: &Point) -> Option<String> {
        if point.rank.last < self.newest {
            return Some(format!("one of the newest {}", self.newest));
        }
        (point.age_days < self.days).then(|| format!("younger than {} days", self.days))
    }
}

/// Keeps what is new.
#[derive(Debug)]
pub struct KeepNew;

impl Policy for KeepNew {
    fn describe() -> Description {
        description("my-plugin", env!("CARGO_PKG_VERSION"))
    }

    fn retain(points: Vec<Point>, context: Context) -> Result<Vec<KeepVerdict>> {
        let settings = Settings::parse(&context.settings)?;
        let verdict = |point: Point| KeepVerdict { reason: settings.keeps(&point), id: point.id };
        Ok(points.into_iter().map(verdict).collect())
    }

    fn select(vm: Candidate, context: Context) -> Result<Selection> {
        let Settings { tag, .. } = Settings::parse(&context.settings)?;
        let protect = vm.tags.contains(&tag);
        let reason = if protect { format!("tag {tag}") } else { format!("no tag {tag}") };
        Ok(Selection { protect, reason, exclude_disks: Vec::new() })
    }

    fn plan(_vm: Candidate, history: History, context: Context) -> Result<BackupPlan> {
        let Settings { longest_chain, .. } = Settings::parse(&context.settings)?;
        let length = history.chain_length;
        let kind =
            if length == 0 || length >= longest_chain { PlanType::Full } else { PlanType::Incremental };
        Ok(BackupPlan { kind, reason: format!("{length} backups in the chain") })
    }
}

tidemark_plugin::export_policy!(KeepNew);

#[cfg(test)]
mod tests {
    use tidemark_plugin::ErrorKind;
    use tidemark_plugin::policy::Ranks;

    use super::*;

    fn context(settings: &str) -> Context {
        Context { now_ms: 0, time_zone: "UTC".into(), settings: settings.into(), vm: None }
    }

    /// The backup of `place` days ago.
    fn point(place: u32) -> Point {
        let rank = Ranks { last: place, hourly: place, daily: place, weekly: 0, monthly: 0, yearly: 0 };
        Point {
            id: format!("backup-{place}"),
            created_ms: -i64::from(place) * 86_400_000,
            age_days: f64::from(place),
            rank,
            backup_type: "incremental".into(),
            verified: false,
            damaged: false,
            pinned: false,
            size_bytes: 1,
        }
    }

    fn kept(settings: &str, points: impl IntoIterator<Item = u32>) -> Vec<String> {
        let verdicts = KeepNew::retain(points.into_iter().map(point).collect(), context(settings)).unwrap();
        verdicts.into_iter().filter(|verdict| verdict.reason.is_some()).map(|verdict| verdict.id).collect()
    }

    #[test]
    fn the_newest_and_the_young_stay() {
        assert_eq!(kept(r#"{"newest": 2, "days": 0}"#, 0..9), ["backup-0", "backup-1"]);
        assert_eq!(kept(r#"{"newest": 1, "days": 3}"#, 0..9), ["backup-0", "backup-1", "backup-2"]);
        assert_eq!(kept("{}", [0, 6, 13, 14, 300]), ["backup-0", "backup-6", "backup-13"]);
    }

    #[test]
    fn a_setting_that_does_not_exist_is_refused() {
        let error = KeepNew::retain(Vec::new(), context(r#"{"dyas": 30}"#)).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Config);
        assert!(error.message.contains("dyas"), "{}", error.message);
    }

    #[test]
    fn a_chain_ends_with_a_full() {
        let vm = || Candidate {
            key: "vm-1".into(),
            name: "web01".into(),
            connector: "lab".into(),
            folder: "/".into(),
            power: "on".into(),
            guest_os: String::new(),
            tags: vec!["backup".into()],
            datastores: Vec::new(),
            protected_by: Vec::new(),
            disks: Vec::new(),
        };
        let after = |chain_length| {
            let history = History {
                chain_length,
                last_full_ms: Some(0),
                last_backup_ms: Some(0),
                full_bytes: None,
                increments_bytes: 0,
                changed_bytes: None,
            };
            KeepNew::plan(vm(), history, context(r#"{"longest_chain": 3}"#)).unwrap().kind
        };
        assert_eq!(
            [0, 1, 2, 3].map(after),
            [PlanType::Full, PlanType::Incremental, PlanType::Incremental, PlanType::Full]
        );
        assert!(KeepNew::select(vm(), context("{}")).unwrap().protect);
        assert!(!KeepNew::select(vm(), context(r#"{"tag": "gold"}"#)).unwrap().protect);
    }
}
