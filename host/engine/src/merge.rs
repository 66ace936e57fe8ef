//! Changes a chain: backups leave it, and the kept ones that needed them take up what they held. Deleting and making a
//! synthetic full are both this. Read [`Consolidation::carry_out`] for the story; each step is recorded before its
//! effect ([`crate::step`]).
//!
//! ```text
//! finish earlier names ▶ check all sources ▶ room? ▶ make merged objects ▶ publish them under names of their own
//!           ▶ ONE catalog transaction ▶ give them the names they replace ▶ delete what nobody needs
//! ```
//! Images above a merged one name it as their backing file, so a merged object must take the name of the one it
//! replaces; renaming over it is atomic, and who reads the old one keeps it. Up to the transaction everything is undone;
//! after it everything is finished, here or by whoever sweeps the repository next ([`names`], [`crate::delete`]).

mod copy;
mod disk;
mod image;
mod local;
mod names;
mod sources;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};
use tidemark_catalog::{
    Backup, BackupDisk, BackupFilter, ChainChange, PageRequest, RangeDigests, Repository, Vm,
};
use tidemark_model::{BackupId, BackupStatus, BackupType, ByteLen, RepositoryId, UtcMillis, VmId};
use tidemark_policy::{ChainLink, ChainPlan, ChainRefusal, Merge};
use tidemark_qcow2::{BackingFile, MergeLayout, Merger};

use crate::engine::Shared;
use crate::error::{Error, ErrorKind, Result};
use crate::image_file::StoredImage;
use crate::queue::{Failure, JobContext};
use crate::step::{ChangeRef, Leftovers, ObjectRef, PluginPin, Step};
use crate::store::{ObjectStore, PlannedObject, SealedObject};
use crate::{delete, layout, manifest, recovery};

pub(crate) use copy::{finish_dead as finish_dead_copy, run as run_copy};
use disk::PlannedDisk;
pub use local::{MergeChainOptions, MergeChainReport, merge_chain};
pub(crate) use names::settle;
use sources::DiskSources;

/// How far a merge is.
#[derive(Debug, Default)]
struct Progress {
    /// Bytes of all sources.
    sources: AtomicU64,
    /// Of those, how many were compared with their digests.
    checked: AtomicU64,
    /// Bytes that were written.
    written: AtomicU64,
    /// Bytes that were taken over by sharing extents.
    shared: AtomicU64,
    /// The most that written and shared bytes can become.
    expected: AtomicU64,
}

/// A change of one VM's chains in one repository.
pub(crate) struct Consolidation<'a> {
    job: &'a Arc<JobContext>,
    repository: Repository,
    vm: Vm,
    store: ObjectStore,
    storage: PluginPin,
    backups: BTreeMap<BackupId, Backup>,
    left: Leftovers,
    progress: Arc<Progress>,
}

/// One kept backup with its merged disks to be.
struct PlannedMerge<'p> {
    merge: &'p Merge,
    disks: Vec<PlannedDisk>,
    manifest_key: String,
}

/// One kept backup with its merged disks, durable.
struct Made<'p> {
    merge: &'p Merge,
    disks: Vec<StoredImage>,
    manifest_key: String,
}

impl<'a> Consolidation<'a> {
    /// Opens the repository, finishes what an earlier change left, and looks at the VM's chains.
    pub(crate) async fn open(
        job: &'a Arc<JobContext>,
        vm_id: VmId,
        repository_id: RepositoryId,
    ) -> Result<Self> {
        job.phase("looking at the chain");
        let shared = &job.shared;
        let repository = shared.catalog.repository(repository_id).await?;
        shared.disk_slots.bound(repository.id.into(), repository.max_disks);
        let vm = shared.catalog.vm(vm_id).await?;
        let (mut store, storage) = ObjectStore::open(shared, &repository, &job.job, None).await?;
        settle(shared, &mut store, repository_id).await?;
        let backups = backups_of(shared, vm_id, repository_id).await?;
        let backups = backups.into_iter().map(|backup| (backup.id, backup)).collect();
        let (left, progress) = (Leftovers::default(), Arc::default());
        Ok(Self { job, repository, vm, store, storage, backups, left, progress })
    }

    /// The chains as the planner sees them.
    pub(crate) fn links(&self) -> Vec<ChainLink> {
        self.backups.values().map(link).collect()
    }

    /// Carries a plan out or undoes what it began.
    pub(crate) async fn run(mut self, plan: &ChainPlan) -> std::result::Result<Value, Failure> {
        match self.carry_out(plan).await {
            Ok(result) => Ok(result),
            Err(error) => Err(give_up(self.job, &self.left, error).await),
        }
    }

    async fn carry_out(&mut self, plan: &ChainPlan) -> Result<Value> {
        let free_before = self.store.free_space().await?;
        let opened = self.check_sources(plan).await?;
        let layout = self.layout(plan).await?;
        let planned = self.plan_objects(plan, opened, layout).await?;
        let made = self.make(planned, layout).await?;
        let merged_at = UtcMillis::now();
        let merged = self.publish(made, merged_at).await?;
        let change = self.change(plan, merged);
        self.commit(&change, merged_at).await?;
        Ok(self.conclude(plan, free_before, layout).await)
    }

    async fn record(&mut self, step: Step) -> Result<()> {
        self.job.check_cancelled()?;
        self.job.shared.record(&self.job.lease, &step).await?;
        self.left.add(step);
        Ok(())
    }

    async fn check_sources(&mut self, plan: &ChainPlan) -> Result<Vec<Vec<DiskSources>>> {
        let shown = Arc::clone(&self.progress);
        self.job.report_with(move || progress_json("checking", &shown));
        let (shared, cancel) = (&self.job.shared, &self.job.cancel);
        sources::open(shared, &mut self.store, &self.backups, &plan.merges, &self.progress, cancel).await
    }

    async fn layout(&self, plan: &ChainPlan) -> Result<MergeLayout> {
        let shared = !plan.merges.is_empty() && self.store.shares_extents().await?;
        Ok(if shared { MergeLayout::Shared } else { MergeLayout::Packed })
    }

    /// Names every object, sees that there is room for all, and records them before the first one is made.
    async fn plan_objects<'p>(
        &mut self,
        plan: &'p ChainPlan,
        opened: Vec<Vec<DiskSources>>,
        layout: MergeLayout,
    ) -> Result<Vec<PlannedMerge<'p>>> {
        let (mut planned, mut objects) = (Vec::new(), Vec::new());
        let (mut fresh, mut total) = (0_u64, 0_u64);
        for (merge, disks) in plan.merges.iter().zip(opened) {
            let backup = &self.backups[&merge.into];
            let mut merged = Vec::new();
            for (disk, sources) in backup.disks.iter().zip(disks) {
                let key = layout::merged_key(&disk.object_key, self.job.job.id);
                let backing = sources.below.as_deref().map(backing_file);
                let merger = Merger::new(sources.images.clone(), backing, layout)?;
                let estimate = merger.estimate();
                fresh = fresh.saturating_add(estimate.fresh.0);
                total = total.saturating_add(estimate.total.0);
                let image = self.store.begin(&key, estimate.total.0).await?;
                let ranges = match &sources.ranges {
                    Some(_) => Some(self.store.begin(&layout::ranges_key(&key), 0).await?),
                    None => None,
                };
                objects.extend(
                    [Some(&image), ranges.as_ref()].into_iter().flatten().map(PlannedObject::reference),
                );
                merged.push(PlannedDisk { sources, merger, image, ranges });
            }
            let manifest_key = layout::merged_key(&backup.manifest_key, self.job.job.id);
            let token = self.store.begin(&manifest_key, 0).await?.token().to_owned();
            objects.push(ObjectRef { key: manifest_key.clone(), token });
            planned.push(PlannedMerge { merge, disks: merged, manifest_key });
        }
        self.progress.expected.store(total, Ordering::Relaxed);
        if !planned.is_empty() {
            self.store.check_space(ByteLen(fresh)).await?;
            let (repository_id, storage) = (self.repository.id.to_string(), self.storage.clone());
            self.record(Step::MergeBegun { repository_id, storage, objects }).await?;
        }
        Ok(planned)
    }

    /// Makes one image after the other: what it takes is the disk's speed, not the processor's.
    async fn make<'p>(
        &mut self,
        planned: Vec<PlannedMerge<'p>>,
        layout: MergeLayout,
    ) -> Result<Vec<Made<'p>>> {
        let shown = Arc::clone(&self.progress);
        self.job.report_with(move || progress_json("merging", &shown));
        let mut made = Vec::new();
        for PlannedMerge { merge, disks, manifest_key } in planned {
            let mut images = Vec::new();
            for disk in disks {
                images
                    .push(disk.make(self.job, &self.store, &self.repository, layout, &self.progress).await?);
            }
            made.push(Made { merge, disks: images, manifest_key });
        }
        Ok(made)
    }

    /// Publishes what was made under names of its own: images first, then the manifest that describes them. Answers with
    /// the merged backups as they will be.
    async fn publish(&mut self, made: Vec<Made<'_>>, merged_at: UtcMillis) -> Result<Vec<Backup>> {
        if made.is_empty() {
            return Ok(Vec::new());
        }
        self.job.phase("publishing");
        self.record(Step::MergePublishing).await?;
        let mut merged = Vec::new();
        for Made { merge, disks, manifest_key } in made {
            let mut objects = Vec::new();
            let mut backup = self.merged_backup(merge, merged_at, manifest_key.clone());
            for (disk, stored) in backup.disks.iter_mut().zip(disks) {
                objects.extend(describe(disk, stored));
            }
            for object in objects {
                self.store.publish(object).await?;
            }
            let bytes = manifest::write(&self.vm, &backup)?;
            self.store.put(&manifest_key, bytes.into()).await?;
            merged.push(backup);
        }
        Ok(merged)
    }

    /// The kept backup in its new place; its disks are still the old ones.
    fn merged_backup(&self, merge: &Merge, merged_at: UtcMillis, manifest_key: String) -> Backup {
        let mut backup = self.backups[&merge.into].clone();
        backup.parent_id = merge.new_parent;
        match merge.new_parent {
            Some(parent) => backup.reason = format!("every change since backup {} is known", parent.short()),
            None => {
                backup.backup_type = BackupType::Full;
                "merged".clone_into(&mut backup.reason_code);
                backup.reason =
                    format!("a full by merging what it needed of {} older ones into it", merge.run.len());
            }
        }
        backup.consolidated_at = Some(merged_at);
        backup.staged_manifest_key = Some(manifest_key);
        backup.verified_at = None;
        backup
    }

    fn change(&self, plan: &ChainPlan, merged: Vec<Backup>) -> ChainChange {
        let read = plan.merges.iter().flat_map(|merge| merge.run.iter().chain([&merge.into]));
        let read: std::collections::BTreeSet<BackupId> = read.copied().collect();
        let sources = read.iter().map(|id| self.backups[id].clone()).collect();
        ChainChange { sources, merged, removed: plan.removed.clone() }
    }

    /// The only place where a chain changes: one transaction, after all merged bytes are durable.
    async fn commit(&mut self, change: &ChainChange, merged_at: UtcMillis) -> Result<()> {
        self.job.phase("committing");
        let reference = ChangeRef {
            repository_id: self.repository.id.to_string(),
            removed: change.removed.iter().map(ToString::to_string).collect(),
            merged: change.merged.iter().map(|backup| backup.id.to_string()).collect(),
            merged_at: merged_at.0,
        };
        self.record(Step::ChainCommitting(reference)).await?;
        let now = UtcMillis::now();
        self.job.shared.catalog.commit_chain_change(&self.job.lease, change, now).await.map_err(Error::from)
    }

    /// The change stands: names that cannot be given and objects that cannot be deleted now are a warning, and the next
    /// sweep tries again.
    async fn conclude(
        &mut self,
        plan: &ChainPlan,
        free_before: Option<ByteLen>,
        layout: MergeLayout,
    ) -> Value {
        let (job, id) = (self.job, self.repository.id);
        let mut warnings = Vec::new();
        let mut deleted = 0;
        let finished = async {
            self.note(&Step::ChainRenaming).await;
            self.job.phase("naming merged objects");
            settle(&job.shared, &mut self.store, id).await?;
            self.note(&Step::ChainSweeping).await;
            self.job.phase("deleting");
            delete::sweep_open(&job.shared, &mut self.store, id).await
        };
        match finished.await {
            Ok(count) => deleted = count,
            Err(error) => {
                tracing::warn!(error = %error.chain(), "a changed chain is not tidied up yet; it is tried again");
                warnings.push(format!("tidying up is not complete and is tried again: {}", error.chain()));
            }
        }
        let free_after = self.store.free_space().await.ok().flatten();
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let merged: Vec<Value> = plan.merges.iter().map(merge_json).collect();
        let removed: Vec<String> = plan.removed.iter().map(ToString::to_string).collect();
        json!({
            "removed": removed,
            "merged": merged,
            "read_bytes": load(&self.progress.checked),
            "written_bytes": load(&self.progress.written),
            "shared_bytes": load(&self.progress.shared),
            "shares_extents": layout == MergeLayout::Shared,
            "deleted_objects": deleted,
            "freed_bytes": self.freed(plan),
            "free_bytes_before": free_before.map(|free| free.0),
            "free_bytes_after": free_after.map(|free| free.0),
            "warnings": warnings,
        })
    }

    /// A step after the transaction: the work goes on whether it could be recorded or not.
    async fn note(&self, step: &Step) {
        if let Err(error) = self.job.shared.record(&self.job.lease, step).await {
            tracing::warn!(error = %error.chain(), step = step.name(), "a step could not be recorded");
        }
    }

    /// The sizes of the objects that went, replaced ones included.
    fn freed(&self, plan: &ChainPlan) -> u64 {
        let gone = plan.removed.iter().chain(plan.merges.iter().map(|merge| &merge.into));
        let disks = gone.flat_map(|id| &self.backups[id].disks);
        disks.map(|disk| disk.stored.0 + disk.ranges.as_ref().map_or(0, |ranges| ranges.stored.0)).sum()
    }
}

/// Undoes what was begun, unless that is for somebody else to do.
async fn give_up(job: &JobContext, left: &Leftovers, error: Error) -> Failure {
    // What the catalog refused by its own rules has not happened; after any other error of a commit nobody knows.
    let refused = matches!(error.kind(), ErrorKind::Conflict | ErrorKind::Invalid | ErrorKind::NotFound);
    let unknown = !refused && (left.change.is_some() || left.committing);
    if error.kind() == ErrorKind::LeaseLost || job.lease_lost.load(Ordering::Relaxed) || unknown {
        // Another host has the job, or the commit's outcome is unknown: only a new lease makes it safe to look.
        return Failure { error, clean: false };
    }
    job.phase("cleaning up");
    match undo(&job.shared, &job.job, left).await {
        Ok(()) => Failure { error, clean: true },
        Err(trouble) => {
            tracing::warn!(error = %trouble.chain(), "cleaning up after the job failed");
            recovery::record_failure(&job.shared, &job.lease, &error).await;
            Failure { error, clean: false }
        }
    }
}

/// Removes the objects of a merge that the catalog does not know.
pub(crate) async fn undo(shared: &Arc<Shared>, job: &tidemark_catalog::Job, left: &Leftovers) -> Result<()> {
    let Some((repository_id, pin, objects)) = &left.merge else { return Ok(()) };
    let id = repository_id.parse().map_err(|e| Error::damaged(format!("{e}")))?;
    let repository = shared.catalog.repository(id).await?;
    let (mut store, _) = ObjectStore::open(shared, &repository, job, Some(pin)).await?;
    // A manifest comes after the images it describes and goes before them.
    for object in objects.iter().rev() {
        store.discard(object).await?;
    }
    Ok(())
}

/// Finishes a change whose process died after its transaction; none where the catalog does not know it.
pub(crate) async fn finish_dead(shared: &Arc<Shared>, left: &Leftovers) -> Result<Option<Value>> {
    let Some(change) = &left.change else { return Ok(None) };
    if !is_known(shared, change).await? {
        return Ok(None);
    }
    let id = change.repository_id.parse().map_err(|e| Error::damaged(format!("{e}")))?;
    let deleted = delete::sweep(shared, id).await?;
    let merged: Vec<Value> = change.merged.iter().map(|id| json!({ "backup_id": id })).collect();
    Ok(Some(json!({
        "removed": change.removed,
        "merged": merged,
        "deleted_objects": deleted,
        "warnings": ["the host was interrupted after the chain had changed; what remained was finished later"],
    })))
}

/// Whether the catalog has the change: all of it, as it was one transaction.
async fn is_known(shared: &Shared, change: &ChangeRef) -> Result<bool> {
    let parse = |id: &String| id.parse::<BackupId>().map_err(|e| Error::damaged(format!("{e}")));
    if let Some(id) = change.removed.first() {
        return match shared.catalog.backup(parse(id)?).await {
            Ok(_) => Ok(false),
            Err(error) if error.kind() == tidemark_catalog::ErrorKind::NotFound => Ok(true),
            Err(error) => Err(error.into()),
        };
    }
    match change.merged.first() {
        None => Ok(true),
        Some(id) => {
            let backup = shared.catalog.backup(parse(id)?).await?;
            Ok(backup.consolidated_at == Some(UtcMillis(change.merged_at)))
        }
    }
}

/// All backups of a VM in a repository, the newest first.
pub(crate) async fn backups_of(
    shared: &Shared,
    vm_id: VmId,
    repository_id: RepositoryId,
) -> Result<Vec<Backup>> {
    let filter = BackupFilter { vm_id: Some(vm_id), repository_id: Some(repository_id), status: None };
    let (mut backups, mut request) = (Vec::new(), PageRequest { limit: 1000, cursor: None });
    loop {
        let page = shared.catalog.list_backups(&filter, &request).await?;
        backups.extend(page.items);
        match page.next {
            Some(next) => request.cursor = Some(next),
            None => return Ok(backups),
        }
    }
}

/// A backup as the planner sees it.
pub(crate) fn link(backup: &Backup) -> ChainLink {
    ChainLink {
        id: backup.id,
        parent: backup.parent_id,
        pinned: backup.pinned,
        damaged: backup.status == BackupStatus::Damaged,
    }
}

impl From<ChainRefusal> for Error {
    fn from(refusal: ChainRefusal) -> Self {
        let kind = match refusal {
            ChainRefusal::Unknown(_) => ErrorKind::NotFound,
            ChainRefusal::Pinned(_) | ChainRefusal::Damaged { .. } => ErrorKind::Conflict,
            ChainRefusal::Broken(_) => ErrorKind::Damaged,
        };
        Self::new(kind, refusal.to_string())
    }
}

fn backing_file(key: &str) -> BackingFile {
    BackingFile { name: layout::file_name(key).to_owned(), format: "qcow2".to_owned() }
}

/// Puts the merged image into the disk's record; answers with the objects to publish, range digests first.
fn describe(disk: &mut BackupDisk, stored: StoredImage) -> Vec<SealedObject> {
    let StoredImage { object, digest, ranges } = stored;
    disk.stored = object.size();
    disk.digest = digest;
    disk.staged_key = Some(object.key().to_owned());
    disk.ranges = ranges.as_ref().map(|ranges| RangeDigests {
        object_key: ranges.object.key().to_owned(),
        stored: ranges.object.size(),
        digest: ranges.digest.clone(),
    });
    ranges.map(|ranges| ranges.object).into_iter().chain([object]).collect()
}

fn progress_json(phase: &str, progress: &Progress) -> Value {
    let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    json!({
        "phase": phase,
        "source_bytes": load(&progress.sources),
        "checked_bytes": load(&progress.checked),
        "written_bytes": load(&progress.written),
        "shared_bytes": load(&progress.shared),
        "expected_bytes": load(&progress.expected),
    })
}

fn merge_json(merge: &Merge) -> Value {
    let took_up: Vec<String> = merge.run.iter().map(ToString::to_string).collect();
    json!({
        "backup_id": merge.into.to_string(),
        "took_up": took_up,
        "parent_backup_id": merge.new_parent.map(|id| id.to_string()),
    })
}
