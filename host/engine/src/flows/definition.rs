//! What a flow is made of, as administrators write it (TOML or JSON) and the catalog keeps it.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tidemark_model::{ByteLen, RequestedType, VerifyLevel};
use tidemark_policy::{Schedule, Window};

use super::calls::{HookRule, Hooks, NotifyRule};
use crate::error::{Error, Result};

/// A flow: selection × repository × schedule × type × what follows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FlowDefinition {
    /// For people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// Where backups go: a repository's name or id.
    pub repository: String,
    /// Which VMs.
    pub select: SelectRule,
    /// When; without it the flow runs only when asked to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<ScheduleRule>,
    /// How backups are made.
    #[serde(default)]
    pub backup: BackupRule,
    /// What is kept; without it everything is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<RetentionRule>,
    /// How thoroughly each new backup is verified; without it none is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verify: Option<VerifyRule>,
    /// Where each new backup is copied to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copy: Option<CopyRule>,
    /// HTTP calls around the backups.
    #[serde(default, skip_serializing_if = "Hooks::is_empty")]
    pub hooks: Hooks,
    /// Whom to tell at the end.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notify: Vec<NotifyRule>,
}

/// Which VMs a flow protects: those of a policy, or those named.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SelectRule {
    /// A group policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// Its settings.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub settings: Map<String, Value>,
    /// Names or ids of VMs under protection; they need no policy.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub vms: Vec<String>,
    /// Only VMs of these connectors; of all where none is named.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub connectors: Vec<String>,
}

/// When a flow runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScheduleRule {
    /// Five fields, or six with seconds first.
    pub cron: String,
    /// An IANA name.
    #[serde(default = "utc")]
    pub time_zone: String,
    /// Whether a run that nobody was there for is made up for, once.
    #[serde(default = "yes")]
    pub catch_up: bool,
    /// Hours in which backups may begin, for example `22:00-06:00`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<String>,
    /// The days on which the window opens, for example `mon-fri`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window_days: Option<String>,
}

/// How backups are made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BackupRule {
    /// `auto`, `full` or `incremental`, where the group policy has no plan.
    #[serde(rename = "type")]
    pub backup_type: String,
    /// VMs at a time.
    pub concurrency: usize,
    /// How often a backup is tried.
    pub attempts: u32,
    /// The pause before the second try; it doubles with each further one.
    pub retry_after: String,
    /// Jobs of a larger priority come first.
    pub priority: i64,
    /// Stored bytes a second that each backup may write; 0 for no bound.
    pub bandwidth_bytes_per_second: u64,
}

impl Default for BackupRule {
    fn default() -> Self {
        Self {
            backup_type: "auto".to_owned(),
            concurrency: 4,
            attempts: 3,
            retry_after: "1m".to_owned(),
            priority: 0,
            bandwidth_bytes_per_second: 0,
        }
    }
}

/// How far a retention policy's word goes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RetentionLevel {
    /// It is only reported what would go.
    Monitor,
    /// What may go is marked, and goes once somebody approved.
    Approve,
    /// What may go is marked, and goes when the grace period is over.
    #[default]
    Enforce,
}

/// What is kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetentionRule {
    /// A retention policy.
    pub policy: String,
    /// Its settings.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub settings: Map<String, Value>,
    /// How far its word goes.
    #[serde(default)]
    pub level: RetentionLevel,
    /// How long a marked backup stays; the policy must still let it go then.
    #[serde(default = "a_day")]
    pub grace: String,
    /// How many of the newest good backups of a VM always stay.
    #[serde(default = "one")]
    pub min_keep: u32,
    /// The largest share of a VM's backups that one run deletes.
    #[serde(default = "half")]
    pub max_delete_percent: u8,
    /// The time zone of days, weeks and months; the schedule's where none is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_zone: Option<String>,
}

/// How thoroughly new backups are verified.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VerifyRule {
    /// `quick`, `full` or `deep`.
    pub level: String,
}

/// Where new backups are copied to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CopyRule {
    /// Another repository's name or id.
    pub repository: String,
    /// What is kept of the copies; as the flow's own retention says where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<RetentionRule>,
}

fn utc() -> String {
    "UTC".to_owned()
}

fn yes() -> bool {
    true
}

fn a_day() -> String {
    "24h".to_owned()
}

fn one() -> u32 {
    1
}

fn half() -> u8 {
    50
}

impl FlowDefinition {
    /// Its schedule, ready to be asked.
    pub(crate) fn timetable(&self) -> Result<Option<Schedule>> {
        let Some(rule) = &self.schedule else { return Ok(None) };
        let parsed = Schedule::parse(&rule.cron, &rule.time_zone);
        parsed.map(Some).map_err(|e| Error::invalid_field("schedule.cron", e.to_string()))
    }

    /// The hours in which backups may begin.
    pub(crate) fn window(&self) -> Result<Option<Window>> {
        let Some(rule) = &self.schedule else { return Ok(None) };
        let Some(hours) = &rule.window else { return Ok(None) };
        let parsed = Window::parse(hours, rule.window_days.as_deref());
        parsed.map(Some).map_err(|e| Error::invalid_field("schedule.window", e.to_string()))
    }

    /// The zone of its schedule.
    pub(crate) fn time_zone(&self) -> &str {
        self.schedule.as_ref().map_or("UTC", |rule| rule.time_zone.as_str())
    }

    /// The zone in which retention counts days.
    pub(crate) fn retention_zone<'a>(&'a self, rule: &'a RetentionRule) -> &'a str {
        rule.time_zone.as_deref().unwrap_or_else(|| self.time_zone())
    }

    /// Whether it asks this policy.
    pub(crate) fn uses_policy(&self, name: &str) -> bool {
        self.select.policy.as_deref() == Some(name)
            || self.retained().iter().any(|(_, rule)| rule.policy == name)
    }

    /// The repositories where it lets backups go, its own and that of its copies, each with the rule there.
    pub(crate) fn retained(&self) -> Vec<(&str, &RetentionRule)> {
        let here = self.retention.as_ref().map(|rule| (self.repository.as_str(), rule));
        let copies = self.copy.as_ref().and_then(|copy| {
            let rule = copy.retention.as_ref().or(self.retention.as_ref())?;
            Some((copy.repository.as_str(), rule))
        });
        here.into_iter().chain(copies).collect()
    }

    /// The names of secrets that it needs.
    pub(crate) fn secret_names(&self) -> impl Iterator<Item = &str> {
        let hooks = self.hooks.before.iter().chain(&self.hooks.after);
        let notify = self.notify.iter().flat_map(NotifyRule::secret_names);
        hooks.flat_map(HookRule::secret_names).chain(notify)
    }

    /// Sees that everything in it can be understood; what it names is looked up elsewhere.
    ///
    /// # Errors
    /// Invalid, with the field.
    pub(crate) fn check(&self) -> Result<()> {
        self.timetable()?;
        self.window()?;
        tidemark_policy::Zone::parse(self.time_zone())
            .map_err(|e| Error::invalid_field("schedule.time_zone", e.to_string()))?;
        if self.select.policy.is_none() && self.select.vms.is_empty() {
            return Err(Error::invalid_field("select", "name a group policy, or VMs"));
        }
        self.backup.requested()?;
        duration("backup.retry_after", &self.backup.retry_after)?;
        crate::throttle::checked(ByteLen(self.backup.bandwidth_bytes_per_second))
            .map_err(|e| Error::invalid_field("backup.bandwidth_bytes_per_second", e.chain()))?;
        if self.backup.concurrency == 0 || self.backup.attempts == 0 {
            return Err(Error::invalid_field("backup", "concurrency and attempts are at least 1"));
        }
        if let Some(rule) = &self.retention {
            rule.check("retention", self)?;
        }
        if let Some(rule) = self.copy.as_ref().and_then(|copy| copy.retention.as_ref()) {
            rule.check("copy.retention", self)?;
        }
        if let Some(rule) = &self.verify {
            rule.level()?;
        }
        self.hooks.check()?;
        self.notify.iter().try_for_each(NotifyRule::check)
    }
}

impl BackupRule {
    pub(crate) fn requested(&self) -> Result<RequestedType> {
        let parsed = self.backup_type.parse();
        parsed.map_err(|_| Error::invalid_field("backup.type", "auto, full or incremental is expected"))
    }

    pub(crate) fn retry_pause(&self, failures: u32) -> Duration {
        let first = duration("backup.retry_after", &self.retry_after).unwrap_or(Duration::from_secs(60));
        first.saturating_mul(1 << failures.saturating_sub(1).min(10))
    }
}

impl RetentionRule {
    pub(crate) fn grace_ms(&self) -> Result<i64> {
        self.grace_of("retention")
    }

    fn grace_of(&self, table: &str) -> Result<i64> {
        let grace = duration(&format!("{table}.grace"), &self.grace)?;
        Ok(i64::try_from(grace.as_millis()).unwrap_or(i64::MAX))
    }

    fn check(&self, table: &str, flow: &FlowDefinition) -> Result<()> {
        let wrong = |member: &str, why: String| Err(Error::invalid_field(format!("{table}.{member}"), why));
        self.grace_of(table)?;
        if let Err(error) = tidemark_policy::Zone::parse(flow.retention_zone(self)) {
            return wrong("time_zone", error.to_string());
        }
        if self.min_keep == 0 {
            return wrong("min_keep", "at least 1 backup is always kept".to_owned());
        }
        if !(1..=100).contains(&self.max_delete_percent) {
            return wrong("max_delete_percent", "a share from 1 to 100 is expected".to_owned());
        }
        Ok(())
    }
}

impl VerifyRule {
    pub(crate) fn level(&self) -> Result<VerifyLevel> {
        self.level
            .parse()
            .map_err(|_| Error::invalid_field("verify.level", "quick, full or deep is expected"))
    }
}

/// A length of time as people write it: `30s`, `5m`, `24h`, `7d`.
pub(crate) fn duration(field: &str, text: &str) -> Result<Duration> {
    humantime::parse_duration(text).map_err(|e| {
        Error::invalid_field(field, format!("'{text}' is no length of time such as 5m or 24h: {e}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> FlowDefinition {
        toml::from_str(text).unwrap()
    }

    const NIGHTLY: &str = "repository = 'main'\n[select]\npolicy = 'by-tag'\nsettings = { tag = 'prod' }\n\
        [schedule]\ncron = '0 22 * * *'\ntime_zone = 'Europe/Berlin'\nwindow = '22:00-06:00'\n\
        [retention]\npolicy = 'gfs'\nsettings = { daily = 7 }\n";

    #[test]
    fn what_is_left_out_has_a_sensible_value() {
        let flow = parsed(NIGHTLY);
        flow.check().unwrap();
        let schedule = flow.schedule.as_ref().unwrap();
        assert!(schedule.catch_up);
        let retention = flow.retention.as_ref().unwrap();
        assert_eq!((retention.level, retention.min_keep), (RetentionLevel::Enforce, 1));
        assert_eq!(retention.grace_ms().unwrap(), 86_400_000);
        assert_eq!(flow.retention_zone(retention), "Europe/Berlin");
        assert_eq!((flow.backup.concurrency, flow.backup.attempts), (4, 3));
        assert!(flow.uses_policy("gfs") && flow.uses_policy("by-tag") && !flow.uses_policy("main"));
        let again: FlowDefinition = serde_json::from_value(serde_json::to_value(&flow).unwrap()).unwrap();
        assert_eq!(again, flow);
    }

    #[test]
    fn mistakes_name_their_field() {
        for (text, field) in [
            ("cron = '0 22 * *'", "schedule.cron"),
            ("cron = '0 22 * * *'\ntime_zone = 'Mars/Olympus'", "schedule.cron"),
            ("cron = '0 22 * * *'\nwindow = 'late'", "schedule.window"),
        ] {
            let flow = parsed(&format!("repository = 'm'\n[select]\nvms = ['a']\n[schedule]\n{text}\n"));
            let error = flow.check().unwrap_err();
            assert_eq!(error.field(), Some(field), "{text}: {}", error.chain());
        }
        for (text, field) in [
            ("[backup]\ntype = 'sideways'", "backup.type"),
            ("[backup]\nretry_after = 'soon'", "backup.retry_after"),
            ("[verify]\nlevel = 'hard'", "verify.level"),
            ("[retention]\npolicy = 'x'\nmin_keep = 0", "retention.min_keep"),
            ("[retention]\npolicy = 'x'\ngrace = 'x'", "retention.grace"),
            (
                "[copy]\nrepository = 'c'\n[copy.retention]\npolicy = 'x'\nmin_keep = 0",
                "copy.retention.min_keep",
            ),
            ("[[notify]]\nwebhook = 'ftp://x'", "notify.webhook"),
            ("[[notify]]\nwebhook = 'http://u:p@x/'", "notify.webhook"),
            ("[[notify]]\non = ['failed']", "notify"),
            ("[[hooks.before]]\nurl = 'http://x'\nmethod = 'DELETE'", "hooks.before"),
            ("[[hooks.after]]\nurl = 'http://x'\nbody = '{{flow'", "hooks.after"),
            ("[[hooks.after]]\nurl = 'http://x'\nheaders = { 'a b' = 'c' }", "hooks.after"),
            ("[[hooks.after]]\nurl = 'https://x'\nca_pem = 'none'", "hooks.after"),
        ] {
            let flow = parsed(&format!("repository = 'm'\n[select]\nvms = ['a']\n{text}\n"));
            assert_eq!(flow.check().unwrap_err().field(), Some(field), "{text}");
        }
        assert!(
            toml::from_str::<FlowDefinition>("repository = 'm'\nselct = {}\n[select]\nvms = ['a']").is_err()
        );
        assert!(parsed("repository = 'm'\n[select]\n").check().is_err());
    }

    #[test]
    fn copies_are_kept_by_their_own_rule_or_by_the_flows() {
        let places = |text: &str| {
            let flow = parsed(&format!("repository = 'm'\n[select]\nvms = ['a']\n{text}\n"));
            flow.check().unwrap();
            let retained = flow.retained();
            retained.iter().map(|(place, rule)| format!("{place} {}", rule.policy)).collect::<Vec<_>>()
        };
        let (own, copy) = ("[retention]\npolicy = 'x'\n", "[copy]\nrepository = 'c'\n");
        assert_eq!(places(own), ["m x"]);
        assert!(places(copy).is_empty());
        assert_eq!(places(&format!("{own}{copy}")), ["m x", "c x"]);
        assert_eq!(places(&format!("{own}{copy}[copy.retention]\npolicy = 'y'\n")), ["m x", "c y"]);
        assert_eq!(places(&format!("{copy}[copy.retention]\npolicy = 'y'\n")), ["c y"]);
    }

    #[test]
    fn pauses_double() {
        let rule = BackupRule { retry_after: "10s".to_owned(), ..BackupRule::default() };
        let pauses: Vec<u64> = (1..=3).map(|failures| rule.retry_pause(failures).as_secs()).collect();
        assert_eq!(pauses, [10, 20, 40]);
    }
}
