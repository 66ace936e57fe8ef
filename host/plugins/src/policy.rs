//! A policy plugin, typed, on the deterministic engine: the same inputs give the same answers on every machine.
//! Whatever it leaves out is kept; whatever it invents is ignored.

use std::collections::HashMap;

use tidemark_model::{DiskKey, UtcMillis};

use crate::bindings::policy as wit;
use crate::bindings::policy::exports::tidemark::plugin::decisions as dec;
use crate::error::Error;
use crate::guest::{Guest, call_guest};
use crate::offered::log::printable;

/// A backup's places in the calendar, as the host computed them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ranks {
    /// Among all.
    pub last: u32,
    /// Among the newest of each hour.
    pub hourly: u32,
    /// Of each day.
    pub daily: u32,
    /// Of each week.
    pub weekly: u32,
    /// Of each month.
    pub monthly: u32,
    /// Of each year.
    pub yearly: u32,
}

/// A backup to be judged.
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    /// Its identity.
    pub id: String,
    /// When it was made.
    pub created_at: UtcMillis,
    /// How old it is.
    pub age_days: f64,
    /// Its places in the calendar.
    pub rank: Ranks,
    /// `full` or `incremental`.
    pub backup_type: String,
    /// Whether it was verified.
    pub verified: bool,
    /// Whether it is pinned.
    pub pinned: bool,
    /// Its stored size.
    pub size_bytes: u64,
}

/// What is to become of a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeepVerdict {
    /// It stays, for this reason.
    Keep(String),
    /// It may go.
    MayGo,
}

/// What all decisions may look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyContext {
    /// The moment of the decision.
    pub now: UtcMillis,
    /// An IANA name.
    pub time_zone: String,
    /// The policy's own settings, a JSON object.
    pub settings_json: String,
}

/// A VM to be judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The hypervisor's identifier.
    pub key: String,
    /// Its name.
    pub name: String,
    /// Where it lies in the inventory.
    pub folder: String,
    /// `on`, `off`, `suspended` or `unknown`.
    pub power: String,
    /// The guest's operating system.
    pub guest_os: String,
    /// Its tags.
    pub tags: Vec<String>,
}

/// Whether a VM is protected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection {
    /// Whether.
    pub protect: bool,
    /// Why.
    pub reason: String,
    /// Disks that are left out.
    pub exclude_disks: Vec<DiskKey>,
}

/// What was backed up before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct History {
    /// Backups in the live chain.
    pub chain_length: u32,
    /// When the last full was made.
    pub last_full: Option<UtcMillis>,
    /// When the last backup was made.
    pub last_backup: Option<UtcMillis>,
    /// How much has changed since, where it is known.
    pub changed_bytes: Option<u64>,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlanType {
    /// A full backup.
    Full,
    /// An incremental backup.
    Incremental,
    /// None now.
    Defer,
}

/// What to do, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanDecision {
    /// What.
    pub kind: PlanType,
    /// Why.
    pub reason: String,
}

/// A running policy.
pub struct Policy {
    guest: Guest<wit::Policy>,
}

impl Policy {
    pub(crate) async fn start(guest: Guest<wit::Policy>, contract: &str) -> Result<Self, Error> {
        let mut policy = Self { guest };
        let guest = &mut policy.guest;
        let said = call_guest!(guest, "describe", tidemark_plugin_decisions.call_describe());
        guest.check_description(said, contract)?;
        Ok(policy)
    }

    /// One verdict for each point, in the points' order.
    ///
    /// # Errors
    /// See [`crate::ErrorKind`]; the caller keeps everything then.
    pub async fn retain(
        &mut self,
        points: &[Point],
        context: &PolicyContext,
    ) -> Result<Vec<KeepVerdict>, Error> {
        let guest = &mut self.guest;
        let asked: Vec<_> = points.iter().map(point).collect();
        let context = context_of(context);
        let result = call_guest!(guest, "retain", tidemark_plugin_decisions.call_retain(&asked, &context));
        let verdicts = guest.returned("retain", result)?;
        Ok(matched(points, guest.bounded("retain", verdicts)?))
    }

    /// Whether a VM is protected.
    ///
    /// # Errors
    /// See [`crate::ErrorKind`].
    pub async fn select(&mut self, vm: &Candidate, context: &PolicyContext) -> Result<Selection, Error> {
        let guest = &mut self.guest;
        let (vm, context) = (candidate(vm), context_of(context));
        let result = call_guest!(guest, "select", tidemark_plugin_decisions.call_select(&vm, &context));
        let dec::Selection { protect, reason, exclude_disks } = guest.returned("select", result)?;
        let exclude_disks = guest.bounded("select", exclude_disks)?.into_iter().map(DiskKey).collect();
        Ok(Selection { protect, reason: printable(&reason), exclude_disks })
    }

    /// What kind of backup is made.
    ///
    /// # Errors
    /// See [`crate::ErrorKind`].
    pub async fn plan(
        &mut self,
        vm: &Candidate,
        history: &History,
        context: &PolicyContext,
    ) -> Result<PlanDecision, Error> {
        let guest = &mut self.guest;
        let History { chain_length, last_full, last_backup, changed_bytes } = *history;
        let history = dec::History {
            chain_length,
            last_full_ms: last_full.map(|at| at.0),
            last_backup_ms: last_backup.map(|at| at.0),
            changed_bytes,
        };
        let (vm, context) = (candidate(vm), context_of(context));
        let result = call_guest!(guest, "plan", tidemark_plugin_decisions.call_plan(&vm, history, &context));
        let dec::BackupPlan { kind, reason } = guest.returned("plan", result)?;
        let kind = match kind {
            dec::PlanType::Full => PlanType::Full,
            dec::PlanType::Incremental => PlanType::Incremental,
            dec::PlanType::Defer => PlanType::Defer,
        };
        Ok(PlanDecision { kind, reason: printable(&reason) })
    }
}

/// Two verdicts on one point that differ are as good as none.
fn matched(points: &[Point], verdicts: Vec<dec::KeepVerdict>) -> Vec<KeepVerdict> {
    let mut by_id: HashMap<String, Option<Option<String>>> = HashMap::new();
    for dec::KeepVerdict { id, reason } in verdicts {
        by_id
            .entry(id)
            .and_modify(|known| *known = known.take().filter(|known| *known == reason))
            .or_insert(Some(reason));
    }
    let verdict = |point: &Point| match by_id.get(&point.id) {
        Some(Some(None)) => KeepVerdict::MayGo,
        Some(Some(Some(reason))) => KeepVerdict::Keep(printable(reason)),
        Some(None) => KeepVerdict::Keep("the policy contradicts itself".to_owned()),
        None => KeepVerdict::Keep("the policy says nothing of it".to_owned()),
    };
    points.iter().map(verdict).collect()
}

fn point(point: &Point) -> dec::Point {
    let Point { id, created_at, age_days, rank, backup_type, verified, pinned, size_bytes } = point;
    let Ranks { last, hourly, daily, weekly, monthly, yearly } = *rank;
    dec::Point {
        id: id.clone(),
        created_ms: created_at.0,
        age_days: *age_days,
        rank: dec::Ranks { last, hourly, daily, weekly, monthly, yearly },
        backup_type: backup_type.clone(),
        verified: *verified,
        pinned: *pinned,
        size_bytes: *size_bytes,
    }
}

fn candidate(vm: &Candidate) -> dec::Candidate {
    let Candidate { key, name, folder, power, guest_os, tags } = vm.clone();
    dec::Candidate { key, name, folder, power, guest_os, tags }
}

fn context_of(context: &PolicyContext) -> dec::Context {
    let PolicyContext { now, time_zone, settings_json } = context.clone();
    dec::Context { now_ms: now.0, time_zone, settings: settings_json }
}

impl std::fmt::Debug for Policy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = self.guest.store.data();
        write!(f, "Policy({} {})", state.plugin, state.version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_policy_leaves_out_is_kept_and_what_it_invents_ignored() {
        let point = |id: &str| Point {
            id: id.into(),
            created_at: UtcMillis(0),
            age_days: 0.0,
            rank: Ranks::default(),
            backup_type: "full".into(),
            verified: false,
            pinned: false,
            size_bytes: 0,
        };
        let says = |id: &str, reason: Option<&str>| dec::KeepVerdict {
            id: id.into(),
            reason: reason.map(Into::into),
        };
        let verdicts = vec![
            says("a", None),
            says("b", Some("daily")),
            says("c", None),
            says("c", Some("x")),
            says("ghost", None),
        ];
        let got = matched(&[point("a"), point("b"), point("c"), point("d")], verdicts);
        assert_eq!(got[0], KeepVerdict::MayGo);
        assert_eq!(got[1], KeepVerdict::Keep("daily".into()));
        assert!(matches!(&got[2], KeepVerdict::Keep(why) if why.contains("contradicts")));
        assert!(matches!(&got[3], KeepVerdict::Keep(why) if why.contains("nothing")));
    }
}
