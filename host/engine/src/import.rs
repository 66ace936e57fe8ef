//! Rebuilds the catalog from a repository's manifests. Nothing in the repository is changed, nothing already known
//! is overwritten, and a backup whose objects or parent are missing is left out with its reason.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use serde_json::{Value, json};
use tidemark_catalog::Job;
use tidemark_model::{BackupId, ByteLen, JobKind};

use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::manifest::{self, Found};
use crate::queue::JobContext;
use crate::requests::ImportPayload;
use crate::store::ObjectStore;

impl Engine {
    /// Queues the import of a repository.
    ///
    /// # Errors
    /// Not found.
    pub async fn submit_import(
        &self,
        actor: &str,
        repository: &str,
        idempotency_key: Option<String>,
    ) -> Result<Job> {
        let repository = self.repository(repository).await?;
        let payload = ImportPayload { repository_id: repository.id.to_string() };
        let exclusive = Some(format!("import:{}", repository.id));
        let job = self.shared.submit(JobKind::ImportRepository, &payload, exclusive, idempotency_key).await?;
        self.shared.audit(actor, "repository.import", &repository.name, json!({})).await;
        Ok(job)
    }
}

/// Runs an import job.
pub(crate) async fn run(job: &Arc<JobContext>) -> Result<Value> {
    let payload: ImportPayload = job.payload()?;
    let id = payload.repository_id.parse().map_err(|e| Error::damaged(format!("{e}")))?;
    let repository = job.shared.catalog.repository(id).await?;
    let (mut store, _) = ObjectStore::open(&job.shared, &repository, &job.job, None).await?;
    job.phase("listing the repository");
    let sizes: HashMap<String, ByteLen> = store.list("").await?.into_iter().collect();
    let mut skipped: Vec<Value> = Vec::new();
    let mut skip = |key: &str, why: String| skipped.push(json!({ "manifest": key, "reason": why }));

    let mut found: Vec<Found> = Vec::new();
    let mut keys: Vec<&String> = sizes.keys().filter(|key| is_manifest(key)).collect();
    keys.sort_unstable();
    for key in keys {
        job.check_cancelled()?;
        let bytes = store.read(key).await?;
        match manifest::read(key, &bytes, id).and_then(|found| complete(&found, &sizes).map(|()| found)) {
            Ok(one) => found.push(one),
            Err(error) => skip(key, error.chain()),
        }
    }
    // Parents come before the backups that need them.
    found.sort_by_key(|one| one.backup.snapshot_at);
    let (mut imported, mut known) = (0_u64, 0_u64);
    let mut present: HashSet<BackupId> = HashSet::new();
    // A backup that is being made or deleted right now is not what its manifest says.
    let in_progress = job.shared.jobs_in_progress().await?;
    for one in found {
        let id = one.backup.id.to_string();
        if in_progress.iter().any(|other| other.id.to_string() == id || other.payload_json.contains(&id)) {
            skip(&one.backup.manifest_key, "a job is making or deleting it right now".to_owned());
            continue;
        }
        let parent_known = match one.backup.parent_id {
            None => true,
            Some(parent) => present.contains(&parent) || job.shared.catalog.backup(parent).await.is_ok(),
        };
        if !parent_known {
            skip(&one.backup.manifest_key, "the backup it needs is missing or incomplete".to_owned());
            continue;
        }
        job.shared.catalog.import_vm(&one.vm).await?;
        match job.shared.catalog.import_backup(&one.backup).await {
            Ok(true) => imported += 1,
            Ok(false) => known += 1,
            Err(error) => {
                skip(&one.backup.manifest_key, Error::from(error).chain());
                continue;
            }
        }
        present.insert(one.backup.id);
    }
    Ok(json!({ "imported": imported, "already_known": known, "skipped": skipped }))
}

fn is_manifest(key: &str) -> bool {
    // Exactly one folder deep, as the layout has it.
    key.strip_suffix(".json").is_some_and(|stem| stem.matches('/').count() == 1)
}

/// Whether every object of the backup is there with its recorded size.
fn complete(found: &Found, sizes: &HashMap<String, ByteLen>) -> Result<()> {
    for disk in &found.backup.disks {
        match sizes.get(&disk.object_key) {
            Some(size) if *size == disk.stored => {}
            Some(size) => {
                return Err(Error::damaged(format!(
                    "object {} has {} bytes instead of {}",
                    disk.object_key, size.0, disk.stored.0
                )));
            }
            None => return Err(Error::damaged(format!("object {} is missing", disk.object_key))),
        }
    }
    Ok(())
}
