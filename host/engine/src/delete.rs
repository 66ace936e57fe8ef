//! Deletes backups: what newer ones need of them is merged into those first ([`crate::merge`]). The only place where the
//! objects of a known backup are deleted: first the catalog forgets the backup and writes down what it leaves (one
//! transaction), then the objects go. A crash in between leaves notes that the next sweep reads.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::{Value, json};
use tidemark_catalog::{Backup, Job};
use tidemark_model::{BackupId, JobKind, RepositoryId, VmId};

use crate::engine::{Engine, Shared};
use crate::error::{Error, Result};
use crate::merge::{self, Consolidation};
use crate::queue::{Failure, JobContext};
use crate::requests::{Asked, DeletePayload};
use crate::store::ObjectStore;

impl Engine {
    /// Queues the deletion of backups, anywhere in their chains: one job a VM and repository.
    ///
    /// # Errors
    /// Not found; invalid for none; conflict while one is pinned, or is damaged and needed by one that is kept. Then
    /// nothing is queued.
    pub async fn submit_delete(
        &self,
        actor: &str,
        ids: &[BackupId],
        idempotency_key: Option<String>,
    ) -> Result<Vec<Job>> {
        if ids.is_empty() {
            return Err(Error::invalid("name at least one backup to delete"));
        }
        let mut sets: BTreeMap<(VmId, RepositoryId), Vec<Backup>> = BTreeMap::new();
        for id in ids.iter().copied().collect::<BTreeSet<_>>() {
            let backup = self.catalog().backup(id).await?;
            sets.entry((backup.vm_id, backup.repository_id)).or_default().push(backup);
        }
        for ((vm_id, repository_id), set) in &sets {
            let known = merge::backups_of(&self.shared, *vm_id, *repository_id).await?;
            let links: Vec<_> = known.iter().map(merge::link).collect();
            let gone: Vec<BackupId> = set.iter().map(|backup| backup.id).collect();
            tidemark_policy::plan_deletion(&links, &gone)?;
        }
        let mut jobs = Vec::new();
        for (number, ((vm_id, repository_id), set)) in sets.into_iter().enumerate() {
            // One request may become several jobs, each found again by a key of its own.
            let key = idempotency_key.as_ref().map(|key| match number {
                0 => key.clone(),
                number => format!("{key}#{number}"),
            });
            let ids: Vec<BackupId> = set.iter().map(|backup| backup.id).collect();
            let asked = Asked { actor, idempotency_key: key, ..Asked::default() };
            jobs.push(self.shared.submit_deletion(asked, vm_id, repository_id, &ids, false).await?);
        }
        Ok(jobs)
    }

    /// Keeps a backup whatever a policy says, or lets it go again.
    ///
    /// # Errors
    /// Not found.
    pub async fn set_pinned(&self, actor: &str, id: BackupId, pinned: bool) -> Result<()> {
        self.catalog().set_pinned(id, pinned).await?;
        let action = if pinned { "backup.pin" } else { "backup.unpin" };
        self.shared.audit(actor, action, &id.to_string(), json!({})).await;
        Ok(())
    }
}

impl Shared {
    /// Queues the deletion of backups of one VM from one repository.
    pub(crate) async fn submit_deletion(
        &self,
        asked: Asked<'_>,
        vm_id: VmId,
        repository_id: RepositoryId,
        ids: &[BackupId],
        by_retention: bool,
    ) -> Result<Job> {
        let payload = DeletePayload {
            vm_id: vm_id.to_string(),
            repository_id: repository_id.to_string(),
            backup_ids: ids.iter().map(ToString::to_string).collect(),
            by_retention,
        };
        // The same key as a backup of the VM: a chain is never cut while it grows.
        let exclusive = Some(format!("vm:{vm_id}"));
        let job = self.submit_as(&asked, JobKind::DeleteBackup, &payload, exclusive).await?;
        let vm = self.catalog.vm(vm_id).await?;
        for id in ids {
            let detail = json!({ "vm": vm.name, "job_id": job.id.to_string() });
            self.audit(asked.actor, "backup.delete", &id.to_string(), detail).await;
        }
        Ok(job)
    }
}

/// Runs a delete job.
pub(crate) async fn run(job: &Arc<JobContext>) -> std::result::Result<Value, Failure> {
    let DeletePayload { vm_id, repository_id, backup_ids, by_retention } = job.payload()?;
    let damaged = |e: tidemark_model::IdParseError| Error::damaged(e.to_string());
    let (vm_id, repository_id) = (vm_id.parse().map_err(damaged)?, repository_id.parse().map_err(damaged)?);
    let ids = backup_ids.iter().map(|id| id.parse().map_err(damaged));
    let mut ids = ids.collect::<Result<Vec<BackupId>>>()?;
    if by_retention {
        ids = crate::retention::still_going(&job.shared, vm_id, repository_id, ids).await?;
    }
    let change = Consolidation::open(job, vm_id, repository_id).await?;
    let plan = tidemark_policy::plan_deletion(&change.links(), &ids).map_err(Error::from)?;
    change.run(&plan).await
}

/// In every repository, finishes what changed chains left: names of merged objects, then objects nobody needs.
pub(crate) async fn sweep_all(shared: &Arc<Shared>) -> Result<()> {
    let mut failed = None;
    for repository in shared.catalog.list_repositories().await? {
        let staged = shared.catalog.staged_backups(repository.id).await?;
        if staged.is_empty() && shared.catalog.doomed_objects(repository.id).await?.is_empty() {
            continue;
        }
        // A repository that cannot be reached does not keep the others waiting.
        if let Err(error) = sweep(shared, repository.id).await {
            failed.get_or_insert(error.context(format!("repository '{}'", repository.name)));
        }
    }
    failed.map_or(Ok(()), Err)
}

/// As [`sweep_all`] in one repository; answers how many objects were deleted.
pub(crate) async fn sweep(shared: &Arc<Shared>, repository_id: RepositoryId) -> Result<usize> {
    let repository = shared.catalog.repository(repository_id).await?;
    let (target, _) = shared.open_storage(&repository, None, None).await?;
    let mut store = ObjectStore::over(repository.name, target).await?;
    merge::settle(shared, &mut store, repository_id).await?;
    sweep_open(shared, &mut store, repository_id).await
}

/// Deletes what nobody needs any more; names are final.
pub(crate) async fn sweep_open(
    shared: &Arc<Shared>,
    store: &mut ObjectStore,
    repository_id: RepositoryId,
) -> Result<usize> {
    let doomed = shared.catalog.doomed_objects(repository_id).await?;
    for object in &doomed {
        store.remove(&object.object_key).await?;
        shared.catalog.forget_doomed(repository_id, &object.object_key).await?;
    }
    Ok(doomed.len())
}
