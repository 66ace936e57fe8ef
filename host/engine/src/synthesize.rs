//! Makes a full of an incremental without reading the guest: everything it needs is merged into it, and stays where it is
//! for others.

use std::sync::Arc;

use serde_json::{Value, json};
use tidemark_catalog::{Backup, Job};
use tidemark_model::{BackupId, BackupType, JobKind};
use tidemark_policy::ChainPlan;

use crate::engine::{AtMaxDepth, Engine, Shared};
use crate::error::{Error, ErrorKind, Result};
use crate::merge::{self, Consolidation};
use crate::queue::{Failure, JobContext};
use crate::requests::SynthesizePayload;

impl Engine {
    /// Queues the making of a synthetic full.
    ///
    /// # Errors
    /// Not found; conflict where it is a full already or what it needs is damaged.
    pub async fn submit_synthesize(
        &self,
        actor: &str,
        id: BackupId,
        idempotency_key: Option<String>,
    ) -> Result<Job> {
        let backup = self.catalog().backup(id).await?;
        if backup.backup_type == BackupType::Full && idempotency_key.is_none() {
            return Err(already_full(id));
        }
        let known = merge::backups_of(&self.shared, backup.vm_id, backup.repository_id).await?;
        tidemark_policy::plan_full(&known.iter().map(merge::link).collect::<Vec<_>>(), id)?;
        let job = submit(&self.shared, &backup, idempotency_key).await?;
        let detail = json!({ "vm": backup.vm_name, "job_id": job.id.to_string() });
        self.shared.audit(actor, "backup.synthesize", &id.to_string(), detail).await;
        Ok(job)
    }
}

async fn submit(shared: &Shared, backup: &Backup, idempotency_key: Option<String>) -> Result<Job> {
    let payload = SynthesizePayload {
        vm_id: backup.vm_id.to_string(),
        repository_id: backup.repository_id.to_string(),
        backup_id: backup.id.to_string(),
    };
    let exclusive = Some(format!("vm:{}", backup.vm_id));
    shared.submit(JobKind::SynthesizeFull, &payload, exclusive, idempotency_key).await
}

/// Runs a job that makes a synthetic full.
pub(crate) async fn run(job: &Arc<JobContext>) -> std::result::Result<Value, Failure> {
    let SynthesizePayload { vm_id, repository_id, backup_id } = job.payload()?;
    let damaged = |e: tidemark_model::IdParseError| Error::damaged(e.to_string());
    let id: BackupId = backup_id.parse().map_err(damaged)?;
    let (vm_id, repository_id) = (vm_id.parse().map_err(damaged)?, repository_id.parse().map_err(damaged)?);
    let change = Consolidation::open(job, vm_id, repository_id).await?;
    match tidemark_policy::plan_full(&change.links(), id).map_err(Error::from)? {
        Some(merge) => change.run(&ChainPlan { removed: Vec::new(), merges: vec![merge] }).await,
        None => Err(already_full(id).into()),
    }
}

/// After a backup: where it was to become a synthetic full, or its chain is as long as it may be and fulls are to be
/// synthetic, queues that. A request that fails costs nothing but a longer chain; the next backup asks again.
pub(crate) async fn after_backup(shared: &Arc<Shared>, backup: &Backup, wanted: bool) {
    let limits = &shared.limits;
    if backup.parent_id.is_none() || !(wanted || limits.at_max_chain_depth == AtMaxDepth::SyntheticFull) {
        return;
    }
    let queued = async {
        let links = shared.catalog.ancestry(backup.id).await?.len();
        if !wanted && links < limits.max_chain_depth {
            return Ok(());
        }
        let job = submit(shared, backup, Some(format!("synthesize-{}", backup.id))).await?;
        tracing::info!(job_id = %job.id, links, "the chain has as many links as it may: its newest becomes a full");
        Ok::<(), Error>(())
    };
    if let Err(error) = queued.await {
        tracing::warn!(error = %error.chain(), "a synthetic full could not be queued");
    }
}

fn already_full(id: BackupId) -> Error {
    Error::new(ErrorKind::Conflict, format!("backup {id} is a full already"))
}
