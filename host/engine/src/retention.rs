//! Retention: policies decide about a VM's backups in a repository, floors have the last word, and what may go is
//! marked, waits for its grace period, and goes only if the policy still says so then.
//!
//! ```text
//! points ─▶ every policy that covers the VM ─▶ kept if any keeps it ─▶ floors ─▶ marks ─▶ (approved, due) ─▶ deletion job
//! ```
//! Nothing is deleted here: [`crate::delete`] does that, with merges where kept backups need what goes.

mod backtest;
mod cover;
mod prune;

use std::sync::Arc;

use serde_json::{Value, json};
use tidemark_catalog::{Job, KeptBackup, Repository, RetentionMark, Vm};
use tidemark_model::{
    BackupId, BackupStatus, KeepVerdict, PolicyContext, Ranks, RepositoryId, RetentionPoint, UtcMillis, VmId,
};
use tidemark_policy::{ChainRefusal, Fate, Floors, Keeper, apply_floors};

use crate::engine::Shared;
use crate::error::{Error, Result};
use crate::flows::RetentionLevel;
use crate::inventory;
use crate::requests::Asked;

pub use backtest::{Backtest, BacktestVm};
pub(crate) use cover::{Cover, CoverRule, Covers};
pub(crate) use prune::run;

/// What became of one VM's backups in a repository.
#[derive(Debug, Clone)]
pub(crate) struct VmRetention {
    pub(crate) vm_name: String,
    pub(crate) kept: Vec<KeptPoint>,
    pub(crate) dropped: Vec<(BackupId, UtcMillis)>,
    /// What an administrator must know.
    pub(crate) alerts: Vec<String>,
    /// Whether a policy could not decide, so that all was kept.
    pub(crate) failed: bool,
    /// Of the dropped ones, how many are queued for deletion now.
    pub(crate) due: Vec<BackupId>,
    pub(crate) level: RetentionLevel,
}

/// A kept backup and why.
#[derive(Debug, Clone)]
pub(crate) struct KeptPoint {
    pub(crate) id: BackupId,
    pub(crate) at: UtcMillis,
    pub(crate) by: Keeper,
    pub(crate) reason: String,
}

impl VmRetention {
    pub(crate) fn to_json(&self) -> Value {
        let kept = self.kept.iter().map(|point| {
            json!({
                "backup_id": point.id.to_string(),
                "snapshot_at_ms": point.at.0,
                "by": point.by.as_str(),
                "reason": point.reason,
            })
        });
        let dropped = self.dropped.iter().map(|(id, at)| {
            json!({
                "backup_id": id.to_string(),
                "snapshot_at_ms": at.0,
                "deleted_now": self.due.contains(id),
            })
        });
        json!({
            "vm_name": self.vm_name,
            "level": self.level,
            "kept": kept.collect::<Vec<_>>(),
            "may_go": dropped.collect::<Vec<_>>(),
            "alerts": self.alerts,
        })
    }
}

/// Lets the policies that cover a VM decide about its backups in a repository. Nothing is changed.
pub(crate) async fn decide(
    shared: &Shared,
    vm: &Vm,
    repository: &Repository,
    cover: &Cover,
    now: UtcMillis,
) -> Result<VmRetention> {
    let backups = shared.catalog.kept_backups(vm.id, repository.id).await?;
    let last_run = shared.catalog.last_look(vm.id, repository.id).await?;
    let mut points: Vec<RetentionPoint> = backups.iter().map(|backup| point(backup, now)).collect();
    let mut verdicts = vec![KeepVerdict::MayGo; points.len()];
    let (mut alerts, mut failed) = (Vec::new(), false);
    if cover.rules.is_empty() {
        verdicts.fill(KeepVerdict::Keep("no policy covers this VM here".to_owned()));
    }
    if let Some(flow) = &cover.keeper {
        verdicts.fill(KeepVerdict::Keep(format!("flow '{flow}' keeps everything")));
    }
    let candidate = match cover.rules.is_empty() {
        true => None,
        false => Some(inventory::candidate(shared, vm).await?),
    };
    for rule in &cover.rules {
        let told = ask(rule, points.clone(), candidate.clone(), now).await;
        match told {
            Ok(told) => merge_verdicts(&mut verdicts, told),
            Err(error) => {
                // A policy that cannot decide lets nothing go.
                let words = format!("retention of flow '{}' kept everything: {}", rule.flow, error.chain());
                tracing::warn!(vm = vm.name, "{words}");
                alerts.push(words);
                failed = true;
                verdicts.fill(KeepVerdict::Keep("the policy failed".to_owned()));
            }
        }
    }
    let floors = cover.floors(now, last_run);
    let outcome = apply_floors(&points, &verdicts, &floors);
    alerts.extend(outcome.alerts.iter().map(ToString::to_string));
    let mut kept = Vec::new();
    let mut dropped = Vec::new();
    for (point, fate) in points.drain(..).zip(outcome.fates) {
        match fate {
            Fate::Kept { by, reason } => {
                kept.push(KeptPoint { id: point.id, at: point.created_at, by, reason });
            }
            Fate::Dropped => dropped.push((point.id, point.created_at)),
        }
    }
    let level = cover.level();
    Ok(VmRetention { vm_name: vm.name.clone(), kept, dropped, alerts, failed, due: Vec::new(), level })
}

async fn ask(
    rule: &CoverRule,
    mut points: Vec<RetentionPoint>,
    candidate: Option<tidemark_model::Candidate>,
    now: UtcMillis,
) -> Result<Vec<KeepVerdict>> {
    let zone = tidemark_policy::Zone::parse(&rule.time_zone).map_err(|e| Error::invalid(e.to_string()))?;
    tidemark_policy::rank_points(&mut points, zone);
    let context = PolicyContext {
        now,
        time_zone: rule.time_zone.clone(),
        settings_json: rule.settings_json.clone(),
        vm: candidate,
    };
    let expected = points.len();
    let verdicts = rule.decider.retain(points, context).await?;
    if verdicts.len() != expected {
        return Err(Error::internal(format!("{} verdicts on {expected} backups", verdicts.len())));
    }
    Ok(verdicts)
}

/// Kept if any policy keeps it.
fn merge_verdicts(all: &mut [KeepVerdict], told: Vec<KeepVerdict>) {
    for (verdict, told) in all.iter_mut().zip(told) {
        if *verdict == KeepVerdict::MayGo {
            *verdict = told;
        }
    }
}

fn point(backup: &KeptBackup, now: UtcMillis) -> RetentionPoint {
    let KeptBackup { id, snapshot_at, backup_type, parent_id: _, status, verified, pinned, stored, read: _ } =
        backup;
    RetentionPoint {
        id: *id,
        created_at: *snapshot_at,
        age_days: tidemark_policy::age_days(*snapshot_at, now),
        rank: Ranks::default(),
        backup_type: *backup_type,
        verified: *verified,
        damaged: *status == BackupStatus::Damaged,
        pinned: *pinned,
        size: *stored,
    }
}

/// Decides and carries out: marks what may go, and queues the deletion of what is due. Answers with the job of that; its
/// key is made of the one that is asked under, so that a run which goes on elsewhere queues nothing twice.
pub(crate) async fn enforce(
    shared: &Arc<Shared>,
    asked: Asked<'_>,
    vm: &Vm,
    repository: &Repository,
    cover: &Cover,
) -> Result<(VmRetention, Option<Job>)> {
    let now = shared.clock.now();
    let mut decided = decide(shared, vm, repository, cover, now).await?;
    shared.catalog.record_look(vm.id, repository.id, now).await?;
    if decided.level == RetentionLevel::Monitor {
        shared.catalog.set_marks(vm.id, repository.id, &[]).await?;
        return Ok((decided, None));
    }
    let marks: Vec<RetentionMark> = decided
        .dropped
        .iter()
        .map(|(id, _)| RetentionMark {
            backup_id: *id,
            vm_id: vm.id,
            repository_id: repository.id,
            policy: cover.names(),
            marked_at: now,
            due_at: now.plus_millis(cover.grace_ms),
            approved: decided.level == RetentionLevel::Enforce,
            approved_by: None,
        })
        .collect();
    shared.catalog.set_marks(vm.id, repository.id, &marks).await?;
    let standing = shared.catalog.marks(repository.id, Some(vm.id)).await?;
    let due: Vec<BackupId> = standing
        .iter()
        .filter(|mark| mark.due_at <= now && mark.approved)
        .map(|mark| mark.backup_id)
        .collect();
    let (due, refused) = deletable(shared, vm, repository, due).await?;
    decided.alerts.extend(refused);
    if due.is_empty() {
        return Ok((decided, None));
    }
    decided.due.clone_from(&due);
    let key = asked.idempotency_key.as_ref().map(|key| format!("{key}/{}/{}", vm.id, repository.id));
    let asked = Asked { idempotency_key: key, ..asked };
    let job = shared.submit_deletion(asked, vm.id, repository.id, &due, true).await?;
    Ok((decided, Some(job)))
}

/// Of backups that were queued for deletion, those that may still go now: a deletion may wait long for its turn, and
/// meanwhile policies, levels and pins change, and verifications find damage.
///
/// # Errors
/// Conflict where no good backup would be left.
pub(crate) async fn still_going(
    shared: &Shared,
    vm_id: VmId,
    repository_id: RepositoryId,
    ids: Vec<BackupId>,
) -> Result<Vec<BackupId>> {
    let now = shared.clock.now();
    let marks = shared.catalog.marks(repository_id, Some(vm_id)).await?;
    let due =
        |id: &BackupId| marks.iter().any(|mark| mark.backup_id == *id && mark.approved && mark.due_at <= now);
    let backups = shared.catalog.kept_backups(vm_id, repository_id).await?;
    let pinned = |id: &BackupId| backups.iter().any(|backup| backup.id == *id && backup.pinned);
    let going: Vec<BackupId> = ids.into_iter().filter(|id| due(id) && !pinned(id)).collect();
    let good = |backup: &&KeptBackup| backup.status == BackupStatus::Completed && !going.contains(&backup.id);
    if !going.is_empty() && !backups.iter().any(|backup| good(&backup)) {
        let message =
            "no good backup of the VM would be left here: what the policy let go stays until there is one";
        return Err(Error::new(crate::ErrorKind::Conflict, message));
    }
    Ok(going)
}

/// Those of a set that can leave: what a kept one needs of a damaged one stays, and is told.
async fn deletable(
    shared: &Shared,
    vm: &Vm,
    repository: &Repository,
    mut due: Vec<BackupId>,
) -> Result<(Vec<BackupId>, Vec<String>)> {
    let backups = crate::merge::backups_of(shared, vm.id, repository.id).await?;
    let links: Vec<_> = backups.iter().map(crate::merge::link).collect();
    let mut told = Vec::new();
    while !due.is_empty() {
        let refusal = match tidemark_policy::plan_deletion(&links, &due) {
            Ok(_) => break,
            Err(refusal) => refusal,
        };
        let stays = match refusal {
            ChainRefusal::Unknown(id) | ChainRefusal::Pinned(id) => vec![id],
            // What the kept one is made of stays with it.
            ChainRefusal::Damaged { kept, .. } | ChainRefusal::Broken(kept) => ancestors(&links, kept),
        };
        let before = due.len();
        due.retain(|id| !stays.contains(id));
        told.push(format!("some backups stay although the policy lets them go: {refusal}"));
        if due.len() == before {
            due.clear();
        }
    }
    Ok((due, told))
}

fn ancestors(links: &[tidemark_policy::ChainLink], of: BackupId) -> Vec<BackupId> {
    let mut found = vec![of];
    let mut next = links.iter().find(|link| link.id == of).and_then(|link| link.parent);
    while let Some(id) = next.filter(|id| !found.contains(id)) {
        found.push(id);
        next = links.iter().find(|link| link.id == id).and_then(|link| link.parent);
    }
    found
}

impl Cover {
    /// The strictest of all.
    fn floors(&self, now: UtcMillis, last_run: Option<UtcMillis>) -> Floors {
        let mut floors = Floors { last_run, ..Floors::new(now) };
        if let Some(least) = self.rules.iter().map(|rule| rule.min_keep).max() {
            floors.min_keep = least;
        }
        if let Some(most) = self.rules.iter().map(|rule| rule.max_delete_percent).min() {
            floors.max_delete_percent = most;
        }
        floors
    }
}
