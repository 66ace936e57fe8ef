//! A policy plugin, typed, on the deterministic engine: the same inputs give the same answers on every machine.
//! Whatever it leaves out is kept; whatever it invents is ignored.

use std::collections::HashMap;

use tidemark_model::{
    Candidate, CandidateDisk, DiskKey, History, KeepVerdict, PlanDecision, PlanType, PolicyContext, Ranks,
    RetentionPoint, Selection,
};

use crate::bindings::policy as wit;
use crate::bindings::policy::exports::tidemark::plugin::decisions as dec;
use crate::error::Error;
use crate::guest::{Guest, call_guest};
use crate::offered::log::printable;

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
        points: &[RetentionPoint],
        context: &PolicyContext,
    ) -> Result<Vec<KeepVerdict>, Error> {
        Ok(matched(points, self.judged(points, context).await?))
    }

    /// What it says of each point in its own words: an id, and why that is kept.
    ///
    /// # Errors
    /// See [`crate::ErrorKind`].
    pub(crate) async fn verdicts(
        &mut self,
        points: &[RetentionPoint],
        context: &PolicyContext,
    ) -> Result<Vec<(String, Option<String>)>, Error> {
        let said = self.judged(points, context).await?;
        Ok(said.into_iter().map(|dec::KeepVerdict { id, reason }| (id, reason)).collect())
    }

    async fn judged(
        &mut self,
        points: &[RetentionPoint],
        context: &PolicyContext,
    ) -> Result<Vec<dec::KeepVerdict>, Error> {
        let guest = &mut self.guest;
        let asked: Vec<_> = points.iter().map(point).collect();
        let context = context_of(context);
        let result = call_guest!(guest, "retain", tidemark_plugin_decisions.call_retain(&asked, &context));
        let verdicts = guest.returned("retain", result)?;
        guest.bounded("retain", verdicts)
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
        let history = history_of(history);
        let (vm, context) = (candidate(vm), context_of(context));
        let result = call_guest!(guest, "plan", tidemark_plugin_decisions.call_plan(&vm, history, &context));
        let dec::BackupPlan { kind, reason } = guest.returned("plan", result)?;
        let kind = match kind {
            dec::PlanType::Full => PlanType::Full,
            dec::PlanType::Incremental => PlanType::Incremental,
            dec::PlanType::SyntheticFull => PlanType::SyntheticFull,
            dec::PlanType::Defer => PlanType::Defer,
        };
        Ok(PlanDecision { kind, reason: printable(&reason) })
    }
}

/// Two verdicts on one point that differ are as good as none.
fn matched(points: &[RetentionPoint], verdicts: Vec<dec::KeepVerdict>) -> Vec<KeepVerdict> {
    let mut by_id: HashMap<String, Option<Option<String>>> = HashMap::new();
    for dec::KeepVerdict { id, reason } in verdicts {
        by_id
            .entry(id)
            .and_modify(|known| *known = known.take().filter(|known| *known == reason))
            .or_insert(Some(reason));
    }
    let verdict = |point: &RetentionPoint| match by_id.get(&point.id.to_string()) {
        Some(Some(None)) => KeepVerdict::MayGo,
        Some(Some(Some(reason))) => KeepVerdict::Keep(printable(reason)),
        Some(None) => KeepVerdict::Keep("the policy contradicts itself".to_owned()),
        None => KeepVerdict::Keep("the policy says nothing of it".to_owned()),
    };
    points.iter().map(verdict).collect()
}

fn point(point: &RetentionPoint) -> dec::Point {
    let RetentionPoint { id, created_at, age_days, rank, backup_type, verified, damaged, pinned, size } =
        point;
    let Ranks { last, hourly, daily, weekly, monthly, yearly } = *rank;
    dec::Point {
        id: id.to_string(),
        created_ms: created_at.0,
        age_days: *age_days,
        rank: dec::Ranks { last, hourly, daily, weekly, monthly, yearly },
        backup_type: backup_type.as_str().to_owned(),
        verified: *verified,
        damaged: *damaged,
        pinned: *pinned,
        size_bytes: size.0,
    }
}

fn candidate(vm: &Candidate) -> dec::Candidate {
    let Candidate { key, name, connector, folder, power, guest_os, tags, datastores, protected_by, disks } =
        vm.clone();
    let disk = |disk: CandidateDisk| {
        let CandidateDisk { key: DiskKey(key), label, capacity } = disk;
        dec::CandidateDisk { key, label, capacity_bytes: capacity.0 }
    };
    let disks = disks.into_iter().map(disk).collect();
    dec::Candidate { key, name, connector, folder, power, guest_os, tags, datastores, protected_by, disks }
}

fn history_of(history: &History) -> dec::History {
    let History { chain_length, last_full, last_backup, full_size, increments_size, changed } = *history;
    dec::History {
        chain_length,
        last_full_ms: last_full.map(|at| at.0),
        last_backup_ms: last_backup.map(|at| at.0),
        full_bytes: full_size.map(|size| size.0),
        increments_bytes: increments_size.0,
        changed_bytes: changed.map(|size| size.0),
    }
}

fn context_of(context: &PolicyContext) -> dec::Context {
    let PolicyContext { now, time_zone, settings_json, vm } = context.clone();
    let vm = vm.as_ref().map(candidate);
    dec::Context { now_ms: now.0, time_zone, settings: settings_json, vm }
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
    use tidemark_model::{BackupId, BackupType, ByteLen, UtcMillis};

    #[test]
    fn what_a_policy_leaves_out_is_kept_and_what_it_invents_ignored() {
        let point = || RetentionPoint {
            id: BackupId::random(),
            created_at: UtcMillis(0),
            age_days: 0.0,
            rank: Ranks::default(),
            backup_type: BackupType::Full,
            verified: false,
            damaged: false,
            pinned: false,
            size: ByteLen(0),
        };
        let points = [point(), point(), point(), point()];
        let says = |id: String, reason: Option<&str>| dec::KeepVerdict { id, reason: reason.map(Into::into) };
        let id = |place: usize| points[place].id.to_string();
        let verdicts = vec![
            says(id(0), None),
            says(id(1), Some("daily")),
            says(id(2), None),
            says(id(2), Some("x")),
            says("ghost".into(), None),
        ];
        let got = matched(&points, verdicts);
        assert_eq!(got[0], KeepVerdict::MayGo);
        assert_eq!(got[1], KeepVerdict::Keep("daily".into()));
        assert!(matches!(&got[2], KeepVerdict::Keep(why) if why.contains("contradicts")));
        assert!(matches!(&got[3], KeepVerdict::Keep(why) if why.contains("nothing")));
    }
}
