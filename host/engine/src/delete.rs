//! The only place where the objects of a known backup are deleted: first the catalog forgets the backup and writes down what
//! it leaves (one transaction), then the objects go. A crash in between leaves notes that the next sweep reads.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Value, json};
use tidemark_catalog::Job;
use tidemark_model::{BackupId, JobKind, RepositoryId, UtcMillis};

use crate::engine::{Engine, Shared};
use crate::error::{Error, ErrorKind, Result};
use crate::queue::JobContext;
use crate::requests::DeletePayload;
use crate::store::ObjectStore;

impl Engine {
    /// Queues the deletion of a backup.
    ///
    /// # Errors
    /// Not found; conflict while it is pinned or another backup needs it.
    pub async fn submit_delete(
        &self,
        actor: &str,
        id: BackupId,
        idempotency_key: Option<String>,
    ) -> Result<Job> {
        let backup = self.catalog().backup(id).await?;
        if backup.pinned {
            return Err(Error::new(ErrorKind::Conflict, format!("backup {id} is pinned; unpin it first")));
        }
        if let Some(child) = self.catalog().children(id).await?.first() {
            let message = format!("backup {id} is needed by {}; delete the newer ones first", child.id);
            return Err(Error::new(ErrorKind::Conflict, message));
        }
        let payload = DeletePayload { backup_id: id.to_string() };
        // The same key as a backup of the VM: a chain is never cut while it grows.
        let exclusive = Some(format!("vm:{}", backup.vm_id));
        let job = self.shared.submit(JobKind::DeleteBackup, &payload, exclusive, idempotency_key).await?;
        self.shared.audit(actor, "backup.delete", &id.to_string(), json!({ "vm": backup.vm_name })).await;
        Ok(job)
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

/// Runs a delete job.
pub(crate) async fn run(job: &Arc<JobContext>) -> Result<Value> {
    let payload: DeletePayload = job.payload()?;
    let id = payload.backup_id.parse().map_err(|e| Error::damaged(format!("{e}")))?;
    let removed = job.shared.catalog.remove_backup(&job.lease, id, UtcMillis::now()).await?;
    let swept = sweep(&job.shared, removed.repository_id).await?;
    Ok(json!({ "backup_id": payload.backup_id, "deleted_objects": swept }))
}

/// Deletes what removed backups left, in every repository.
pub(crate) async fn sweep_all(shared: &Arc<Shared>) -> Result<()> {
    let mut waiting: BTreeSet<RepositoryId> = BTreeSet::new();
    for repository in shared.catalog.list_repositories().await? {
        if !shared.catalog.doomed_objects(repository.id).await?.is_empty() {
            waiting.insert(repository.id);
        }
    }
    for id in waiting {
        sweep(shared, id).await?;
    }
    Ok(())
}

async fn sweep(shared: &Arc<Shared>, repository_id: RepositoryId) -> Result<usize> {
    let doomed = shared.catalog.doomed_objects(repository_id).await?;
    if doomed.is_empty() {
        return Ok(0);
    }
    let repository = shared.catalog.repository(repository_id).await?;
    let (target, _) = shared.open_storage(&repository, None, None).await?;
    let mut store = ObjectStore::over(repository.name, target).await?;
    for object in &doomed {
        store.remove(&object.object_key).await?;
        shared.catalog.forget_doomed(repository_id, &object.object_key).await?;
    }
    Ok(doomed.len())
}
