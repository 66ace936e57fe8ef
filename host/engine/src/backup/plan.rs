//! Decides the backup's type and what of each disk changed: proposed by policy, confirmed against the snapshot,
//! and turned into a full where the hypervisor cannot say what changed. Never silently.

use tidemark_catalog::Backup;
use tidemark_model::{
    BackupId, BackupStatus, BackupType, ByteLen, ChangeId, DiskKey, ExtentList, FullReason,
};
use tidemark_plugins::{ErrorKind as PluginError, Since, Snapshot};
use tidemark_policy::{DiskState, ParentState, Plan};

use super::{Attempt, VmFolder};
use crate::chain;
use crate::error::{Error, Result};
use crate::layout;
use crate::step::Step;

/// What will be made.
pub(super) struct Chosen {
    plan: Plan,
    pub(super) reason_code: String,
    pub(super) reason: String,
    pub(super) folder: VmFolder,
    pub(super) disks: Vec<ChosenDisk>,
}

/// What will be made of one disk.
pub(super) struct ChosenDisk {
    pub(super) index: u32,
    pub(super) key: DiskKey,
    pub(super) label: String,
    pub(super) capacity: ByteLen,
    pub(super) change_id: Option<ChangeId>,
    /// What changed since the parent; none for a full.
    pub(super) changed: Option<ExtentList>,
    /// The parent's object, for an incremental.
    pub(super) parent_object: Option<String>,
}

impl Chosen {
    pub(super) fn backup_type(&self) -> BackupType {
        match self.plan {
            Plan::Full(_) => BackupType::Full,
            Plan::Incremental(_) => BackupType::Incremental,
        }
    }

    pub(super) fn parent_id(&self) -> Option<BackupId> {
        match self.plan {
            Plan::Full(_) => None,
            Plan::Incremental(id) => Some(id),
        }
    }

    /// The same snapshot as a full, for a reason that was found only now.
    pub(super) fn into_full(self, reason: FullReason) -> Self {
        let disks = self.disks.into_iter().zip(0..).map(|(disk, index)| ChosenDisk {
            index,
            changed: None,
            parent_object: None,
            ..disk
        });
        let disks = disks.collect();
        let (reason_code, words) = (reason.code().to_owned(), reason.to_string());
        Self { plan: Plan::Full(reason), reason_code, reason: words, folder: self.folder, disks }
    }

    pub(super) fn step(&self) -> Step {
        Step::Planned {
            backup_type: self.backup_type().as_str().to_owned(),
            reason_code: self.reason_code.clone(),
            reason: self.reason.clone(),
            parent_id: self.parent_id().map(|id| id.to_string()),
        }
    }
}

/// Chooses, asking the hypervisor for the changes of every disk before anything is moved.
pub(super) async fn choose(attempt: &mut Attempt<'_>, snapshot: &Snapshot) -> Result<Chosen> {
    let latest = attempt
        .job
        .shared
        .catalog
        .latest_backup(attempt.subject.vm.id, attempt.subject.repository.id)
        .await?;
    let parent = match &latest {
        Some(backup) => Some(parent_state(attempt, backup).await?),
        None => None,
    };
    let now: Vec<DiskState> = snapshot
        .disks
        .iter()
        .map(|disk| DiskState {
            key: disk.key.clone(),
            capacity: disk.capacity,
            change_id: disk.change_id.clone(),
        })
        .collect();
    let mut plan = tidemark_policy::propose(attempt.subject.requested, parent.as_ref());
    plan = tidemark_policy::confirm(plan, parent.as_ref(), &now);
    let mut changes = None;
    if let (Plan::Incremental(_), Some(backup)) = (&plan, &latest) {
        match changed_areas(attempt, snapshot, backup).await? {
            Ok(found) => changes = Some(found),
            Err(reason) => plan = Plan::Full(reason),
        }
    }
    Ok(describe(attempt, snapshot, plan, latest, changes))
}

fn describe(
    attempt: &Attempt<'_>,
    snapshot: &Snapshot,
    plan: Plan,
    latest: Option<Backup>,
    changes: Option<Vec<ExtentList>>,
) -> Chosen {
    let folder = match &latest {
        Some(backup) => layout::folder_of(&backup.manifest_key).to_owned(),
        None => layout::vm_folder(&attempt.subject.vm.name, attempt.subject.vm.id),
    };
    let (reason_code, reason) = match &plan {
        Plan::Full(reason) => (reason.code().to_owned(), reason.to_string()),
        Plan::Incremental(id) => {
            ("incremental".to_owned(), format!("every change since backup {} is known", id.short()))
        }
    };
    if !matches!(&plan, Plan::Incremental(_) | Plan::Full(FullReason::Requested | FullReason::FirstBackup)) {
        tracing::info!(reason_code, reason, "the backup becomes a full");
    }
    let parent = latest.filter(|_| matches!(plan, Plan::Incremental(_)));
    let mut changes = changes.map(Vec::into_iter);
    let mut disks = Vec::new();
    for (disk, position) in snapshot.disks.iter().zip(0_u32..) {
        let before =
            parent.as_ref().and_then(|parent| parent.disks.iter().find(|old| old.disk_key == disk.key));
        disks.push(ChosenDisk {
            index: before.map_or(position, |old| old.disk_index),
            key: disk.key.clone(),
            label: disk.label.clone(),
            capacity: disk.capacity,
            change_id: disk.change_id.clone(),
            changed: changes.as_mut().and_then(Iterator::next),
            parent_object: before.map(|old| old.object_key.clone()),
        });
    }
    Chosen { plan, reason_code, reason, folder: VmFolder(folder), disks }
}

async fn parent_state(attempt: &mut Attempt<'_>, backup: &Backup) -> Result<ParentState> {
    let ancestry = attempt.job.shared.catalog.ancestry(backup.id).await?;
    // Any link: where the parent's own view hides a damage further down, nothing new is built on it all the same.
    let damaged = ancestry.iter().rfind(|link| link.status != BackupStatus::Completed);
    let damaged = damaged.map(|link| format!("backup {}", link.id));
    let mut missing_object = None;
    let (links, most_links) = (ancestry.len(), attempt.job.shared.limits.full_at_depth());
    'chain: for link in &ancestry {
        for disk in &link.disks {
            let found = chain::object_size(&mut attempt.store, disk).await?;
            if found != Some(disk.stored) {
                missing_object = Some(match found {
                    None => disk.object_key.clone(),
                    Some(size) => {
                        format!("{} ({} bytes instead of {})", disk.object_key, size.0, disk.stored.0)
                    }
                });
                break 'chain;
            }
        }
    }
    Ok(ParentState {
        id: backup.id,
        damaged,
        missing_object,
        links,
        most_links,
        disks: backup
            .disks
            .iter()
            .map(|disk| DiskState {
                key: disk.disk_key.clone(),
                capacity: disk.capacity,
                change_id: disk.change_id.clone(),
            })
            .collect(),
    })
}

/// The changed areas of every disk in the snapshot's order, or why only a full is right.
async fn changed_areas(
    attempt: &mut Attempt<'_>,
    snapshot: &Snapshot,
    parent: &Backup,
) -> Result<std::result::Result<Vec<ExtentList>, FullReason>> {
    let mut all = Vec::new();
    for disk in &snapshot.disks {
        attempt.job.check_cancelled()?;
        let since =
            parent.disks.iter().find(|old| old.disk_key == disk.key).and_then(|old| old.change_id.clone());
        let Some(since) = since else {
            return Ok(Err(FullReason::NoChangeId { disk: disk.key.to_string() }));
        };
        let vm_key = &attempt.subject.vm.key;
        let answer = attempt
            .connector
            .changed_areas(vm_key, &snapshot.token, &disk.key, &Since::ChangeId(since), disk.capacity)
            .await;
        match answer {
            Ok(extents) => all.push(extents),
            Err(error) => match error.kind() {
                PluginError::ChangeTrackingReset { code, .. } => {
                    return Ok(Err(FullReason::ChangeTrackingReset {
                        disk: disk.key.to_string(),
                        code: code.clone(),
                        message: error.message().to_owned(),
                    }));
                }
                _ => return Err(Error::from(error)),
            },
        }
    }
    Ok(Ok(all))
}
