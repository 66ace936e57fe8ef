//! Copies one backup to another repository: its layer is written again, digest by digest, onto the copy of what it stands
//! on there. Where that is not there, the layers in between are merged into the copy; without any it becomes a full.
//!
//! ```text
//!   here    A ◀── b ◀── c        copy c where the other repository has A' only:   A' ◀── c'   (c' holds b and c)
//! ```
//! As with backups, the copy has the id of the job that makes it, and is known only once all its bytes are durable.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};
use tidemark_catalog::{Backup, BackupDisk, Job, RangeDigests, Repository, Vm};
use tidemark_model::{BackupId, BackupStatus, BackupType, ByteLen, JobKind, RepositoryId, VmId};
use tidemark_policy::Merge;
use tidemark_qcow2::{MergeLayout, Merger};

use super::disk::PlannedDisk;
use super::{Progress, backing_file, backups_of, give_up, progress_json, settle, sources};
use crate::engine::{Engine, Shared};
use crate::error::{Error, ErrorKind, Result};
use crate::image_file::StoredImage;
use crate::queue::{Failure, JobContext};
use crate::requests::{Asked, CopyPayload};
use crate::step::{Leftovers, ObjectRef, PluginPin, Step};
use crate::store::ObjectStore;
use crate::{backup, layout, manifest};

impl Engine {
    /// Queues the copying of a VM's backups that another repository lacks: those after the newest copy there, or the whole
    /// newest chain where there is none. One job a backup, in order.
    ///
    /// # Errors
    /// Not found; invalid where both repositories are the same.
    pub async fn submit_copies(
        &self,
        actor: &str,
        vm: &str,
        from: &str,
        to: &str,
        idempotency_key: Option<String>,
    ) -> Result<Vec<Job>> {
        let vm = self.vm(vm).await?;
        let asked = Asked { actor, idempotency_key, ..Asked::default() };
        self.shared.submit_copies(asked, vm.id, from, to).await
    }
}

impl Shared {
    /// See [`Engine::submit_copies`].
    pub(crate) async fn submit_copies(
        &self,
        asked: Asked<'_>,
        vm_id: VmId,
        from: &str,
        to: &str,
    ) -> Result<Vec<Job>> {
        let [from, to] = [self.repository_named(from).await?, self.repository_named(to).await?];
        if from.id == to.id {
            return Err(Error::invalid("a copy belongs into another repository than the backups"));
        }
        let mut jobs = Vec::new();
        for backup in missing_copies(self, vm_id, from.id, to.id).await? {
            let payload = CopyPayload {
                vm_id: vm_id.to_string(),
                backup_id: backup.id.to_string(),
                repository_id: to.id.to_string(),
            };
            // Neither chain changes while one is copied to the other.
            let exclusive = Some(format!("vm:{vm_id}"));
            let key = asked.idempotency_key.as_ref().map(|key| format!("{key}/{}", backup.id));
            let each = Asked { idempotency_key: key, ..asked.clone() };
            let job = self.submit_as(&each, JobKind::CopyBackup, &payload, exclusive).await?;
            let detail = json!({ "to": to.name, "job_id": job.id.to_string() });
            self.audit(asked.actor, "backup.copy", &backup.id.to_string(), detail).await;
            jobs.push(job);
        }
        Ok(jobs)
    }

    async fn repository_named(&self, name_or_id: &str) -> Result<Repository> {
        let found = self.catalog.repository_by_name_or_id(name_or_id).await?;
        found.ok_or_else(|| Error::not_found("repository", name_or_id))
    }
}

/// What is to be copied, the oldest first. What retention took away over there is older than the newest copy, and does
/// not come back.
async fn missing_copies(
    shared: &Shared,
    vm_id: VmId,
    from: RepositoryId,
    to: RepositoryId,
) -> Result<Vec<Backup>> {
    let copied = shared.catalog.copies(vm_id, to).await?;
    let mut here = backups_of(shared, vm_id, from).await?;
    here.reverse();
    here.retain(|backup| backup.status == BackupStatus::Completed);
    let newest_copy = here
        .iter()
        .rfind(|backup| copied.iter().any(|(origin, _)| *origin == backup.id))
        .map(|b| b.snapshot_at);
    match (newest_copy, here.last()) {
        (_, None) => Ok(Vec::new()),
        (Some(since), _) => Ok(here.into_iter().filter(|backup| backup.snapshot_at > since).collect()),
        (None, Some(newest)) => {
            let chain = shared.catalog.ancestry(newest.id).await?;
            Ok(chain.into_iter().filter(|backup| backup.status == BackupStatus::Completed).collect())
        }
    }
}

/// Runs a copy job.
pub(crate) async fn run(job: &Arc<JobContext>) -> std::result::Result<Value, Failure> {
    let mut copy = match Copy::open(job).await? {
        Ok(copy) => copy,
        Err(known) => return Ok(json!({ "backup_id": known.to_string(), "copied": false })),
    };
    match copy.carry_out().await {
        Ok(copied) => Ok(json!({
            "backup_id": copied.id.to_string(),
            "copied": true,
            "copy_of": copied.copy_of.map(|id| id.to_string()),
            "backup_type": copied.backup_type.as_str(),
            "stored_bytes": copied.disks.iter().map(|disk| disk.stored.0).sum::<u64>(),
        })),
        Err(error) => Err(give_up(job, &copy.left, error).await),
    }
}

/// One copy under way.
struct Copy<'a> {
    job: &'a Arc<JobContext>,
    vm: Vm,
    /// The backup and all it needs, by id.
    backups: BTreeMap<BackupId, Backup>,
    /// What is read: the backup's layer, and those below it down to what the other repository has.
    merge: Merge,
    /// The copy that it stands on there.
    parent: Option<Backup>,
    source: ObjectStore,
    target: ObjectStore,
    repository: Repository,
    storage: PluginPin,
    left: Leftovers,
    progress: Arc<Progress>,
}

impl<'a> Copy<'a> {
    /// Looks at both sides; the copy's id where there is one already.
    async fn open(job: &'a Arc<JobContext>) -> Result<std::result::Result<Self, BackupId>> {
        let CopyPayload { vm_id: _, backup_id, repository_id } = job.payload()?;
        let damaged = |e: tidemark_model::IdParseError| Error::damaged(e.to_string());
        let id: BackupId = backup_id.parse().map_err(damaged)?;
        let to: RepositoryId = repository_id.parse().map_err(damaged)?;
        let shared = &job.shared;
        if let Some(known) = shared.catalog.copy_of(id, to).await? {
            return Ok(Err(known));
        }
        let chain = crate::chain::ancestry(shared, id).await?;
        let origin = chain.last().cloned().ok_or_else(|| Error::internal("an empty ancestry"))?;
        let from = shared.catalog.repository(origin.repository_id).await?;
        let (mut source, _) = ObjectStore::open(shared, &from, &job.job, None).await?;
        settle(shared, &mut source, from.id).await?;
        let (run, parent) = below(shared, &chain, to).await?;
        let repository = shared.catalog.repository(to).await?;
        shared.disk_slots.bound(repository.id.into(), repository.max_disks);
        let (target, storage) = ObjectStore::open(shared, &repository, &job.job, None).await?;
        let new_parent =
            chain.iter().rev().nth(run.len() + 1).filter(|_| parent.is_some()).map(|link| link.id);
        Ok(Ok(Self {
            job,
            vm: shared.catalog.vm(origin.vm_id).await?,
            merge: Merge { into: id, run, new_parent },
            backups: chain.into_iter().map(|backup| (backup.id, backup)).collect(),
            parent,
            source,
            target,
            repository,
            storage,
            left: Leftovers::default(),
            progress: Arc::default(),
        }))
    }

    async fn carry_out(&mut self) -> Result<Backup> {
        let shown = Arc::clone(&self.progress);
        self.job.report_with(move || progress_json("checking", &shown));
        let (shared, cancel) = (&self.job.shared, &self.job.cancel);
        let merges = std::slice::from_ref(&self.merge);
        let opened =
            sources::open(shared, &mut self.source, &self.backups, merges, &self.progress, cancel).await?;
        let disks = opened.into_iter().next().unwrap_or_default();
        let (planned, mut copy) = self.plan(disks).await?;
        let shown = Arc::clone(&self.progress);
        self.job.report_with(move || progress_json("copying", &shown));
        let mut stored = Vec::new();
        for disk in planned {
            stored.push(
                disk.make(self.job, &self.target, &self.repository, MergeLayout::Packed, &self.progress)
                    .await?,
            );
        }
        self.publish(&mut copy, stored).await?;
        self.commit(&copy).await?;
        Ok(copy)
    }

    async fn record(&mut self, step: Step) -> Result<()> {
        self.job.check_cancelled()?;
        self.job.shared.record(&self.job.lease, &step).await?;
        self.left.add(step);
        Ok(())
    }

    /// Names every object of the copy, and records them before the first one is made.
    async fn plan(&mut self, disks: Vec<sources::DiskSources>) -> Result<(Vec<PlannedDisk>, Backup)> {
        let origin = self.backups[&self.merge.into].clone();
        let mut copy = self.describe(&origin).await?;
        let (mut planned, mut objects, mut total) = (Vec::new(), Vec::new(), 0_u64);
        for (disk, sources) in copy.disks.iter().zip(disks) {
            let below = self.parent.as_ref().map(|parent| parent_object(parent, disk)).transpose()?;
            let backing = below.as_deref().map(backing_file);
            let merger = Merger::new(sources.images.clone(), backing, MergeLayout::Packed)?;
            total = total.saturating_add(merger.estimate().fresh.0);
            let image = self.target.begin(&disk.object_key, merger.estimate().total.0).await?;
            let ranges = match &sources.ranges {
                Some(_) => Some(self.target.begin(&layout::ranges_key(&disk.object_key), 0).await?),
                None => None,
            };
            objects.extend(
                [Some(&image), ranges.as_ref()].into_iter().flatten().map(|object| object.reference()),
            );
            planned.push(PlannedDisk { sources, merger, image, ranges });
        }
        let token = self.target.begin(&copy.manifest_key, 0).await?.token().to_owned();
        objects.push(ObjectRef { key: copy.manifest_key.clone(), token });
        self.progress.expected.store(total, std::sync::atomic::Ordering::Relaxed);
        self.target.check_space(ByteLen(total)).await?;
        let (repository_id, storage) = (self.repository.id.to_string(), self.storage.clone());
        self.record(Step::MergeBegun { repository_id, storage, objects }).await?;
        copy.started_at = self.job.shared.clock.now();
        Ok((planned, copy))
    }

    /// The copy as it will be; sizes and digests come later.
    async fn describe(&self, origin: &Backup) -> Result<Backup> {
        let shared = &self.job.shared;
        let id = backup::backup_id(&self.job.job)?;
        let folder = match shared.catalog.latest_backup(self.vm.id, self.repository.id).await? {
            Some(latest) => layout::folder_of(&latest.manifest_key).to_owned(),
            None => layout::vm_folder(&origin.vm_name, self.vm.id),
        };
        let backup_type = if self.parent.is_some() { BackupType::Incremental } else { BackupType::Full };
        let disks = origin.disks.iter().map(|disk| BackupDisk {
            object_key: layout::disk_key(&folder, disk.disk_index, origin.snapshot_at, id, backup_type),
            staged_key: None,
            ranges: None,
            ..disk.clone()
        });
        Ok(Backup {
            id,
            repository_id: self.repository.id,
            backup_type,
            parent_id: self.parent.as_ref().map(|parent| parent.id),
            reason_code: "copy".to_owned(),
            reason: format!("a copy of backup {}", origin.id),
            manifest_key: layout::manifest_key(&folder, origin.snapshot_at, id),
            pinned: false,
            job_id: Some(self.job.job.id),
            copy_of: Some(origin.id),
            verified_at: None,
            verified_level: None,
            consolidated_at: None,
            staged_manifest_key: None,
            disks: disks.collect(),
            ..origin.clone()
        })
    }

    async fn publish(&mut self, copy: &mut Backup, stored: Vec<StoredImage>) -> Result<()> {
        self.job.phase("publishing");
        self.record(Step::MergePublishing).await?;
        for (disk, StoredImage { object, digest, ranges }) in copy.disks.iter_mut().zip(stored) {
            disk.stored = object.size();
            disk.digest = digest;
            if let Some(ranges) = ranges {
                disk.ranges = Some(RangeDigests {
                    object_key: ranges.object.key().to_owned(),
                    stored: ranges.object.size(),
                    digest: ranges.digest.clone(),
                });
                self.target.publish(ranges.object).await?;
            }
            self.target.publish(object).await?;
        }
        copy.completed_at = self.job.shared.clock.now().max(copy.started_at);
        let bytes = manifest::write(&self.vm, copy)?;
        self.target.put(&copy.manifest_key, bytes.into()).await
    }

    /// The only place where a copy becomes known.
    async fn commit(&mut self, copy: &Backup) -> Result<()> {
        self.record(Step::Committing { backup_id: copy.id.to_string() }).await?;
        self.job.shared.catalog.commit_backup(&self.job.lease, copy).await.map_err(Error::from)
    }
}

/// The backups below the newest of a chain that the other repository has no good copy of, the nearest first, and the copy
/// that follows them there.
async fn below(
    shared: &Shared,
    chain: &[Backup],
    to: RepositoryId,
) -> Result<(Vec<BackupId>, Option<Backup>)> {
    let mut run = Vec::new();
    for link in chain.iter().rev().skip(1) {
        if let Some(copy) = shared.catalog.copy_of(link.id, to).await? {
            let copy = shared.catalog.backup(copy).await?;
            if copy.status == BackupStatus::Completed {
                return Ok((run, Some(copy)));
            }
        }
        run.push(link.id);
    }
    Ok((run, None))
}

fn parent_object(parent: &Backup, disk: &BackupDisk) -> Result<String> {
    let found = parent.disks.iter().find(|below| below.disk_key == disk.disk_key);
    let missing = || {
        let message =
            format!("the copy {} that this one would stand on has no disk {}", parent.id, disk.disk_key);
        Error::new(ErrorKind::Damaged, message)
    };
    Ok(found.ok_or_else(missing)?.object_key.clone())
}

/// When a copy's job died: the copy, where it came to be known.
pub(crate) async fn finish_dead(shared: &Shared, job: &Job) -> Result<Option<Value>> {
    let id = backup::backup_id(job)?;
    match shared.catalog.backup(id).await {
        Ok(copy) => Ok(Some(json!({
            "backup_id": copy.id.to_string(),
            "copied": true,
            "copy_of": copy.copy_of.map(|id| id.to_string()),
            "warnings": ["the host was interrupted after the copy was complete"],
        }))),
        Err(error) if error.kind() == tidemark_catalog::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}
