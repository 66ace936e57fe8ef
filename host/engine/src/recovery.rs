//! Undoes what jobs left behind: at once when a job fails, and at the start or when a lease ran out for what a
//! dead process left.
//!
//! A job that died is never simply run again. If the catalog knows its backup, the rest is finished; if not, its
//! objects and its snapshot are removed and it ends as failed. Undoing may be repeated at any point.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tidemark_catalog::{Job, JobOutcome, JobStep, Lease};
use tidemark_model::{BackupId, JobKind, UtcMillis};
use tidemark_plugins::Connector;
use tokio_util::task::AbortOnDropHandle;

use crate::engine::Shared;
use crate::error::{Error, ErrorKind, Result};
use crate::queue::LEASE_MS;
use crate::requests::BackupPayload;
use crate::step::{Leftovers, Step};
use crate::store::{self, Location, ObjectStore};
use crate::{backup, delete, merge, plugins};

/// How often expired leases are looked for.
const WATCH: Duration = Duration::from_secs(10);
/// A job that could not be recovered for so long after the first try, in milliseconds, ends with what is left named.
const GIVE_UP_AFTER_MS: i64 = 24 * 3600 * 1000;
/// The key of a snapshot that brings change tracking into effect (`sdk/wit/connector.wit`).
const CONNECTOR_SNAPSHOT: &str = "enable-change-tracking";
/// How often the end of a job is tried to be recorded.
const END_ATTEMPTS: u32 = 5;

/// The name of a snapshot: whose it is and for which backup.
pub(crate) fn snapshot_key(installation: &str, backup: BackupId) -> String {
    format!("{installation}-{backup}")
}

/// Looks for jobs of dead hosts, and for objects whose backup is gone, until the host stops.
pub(crate) async fn watch(shared: Arc<Shared>) {
    while !shared.is_stopping() {
        match shared.catalog.claim_expired(&shared.owner, LEASE_MS, UtcMillis::now()).await {
            Ok(Some((job, lease))) => {
                let recovering = recover(Arc::clone(&shared), job, lease);
                shared.tasks.spawn(recovering);
                continue;
            }
            Ok(None) => {}
            Err(error) => {
                tracing::error!(error = %Error::from(error).chain(), "looking for expired jobs failed")
            }
        }
        if let Err(error) = delete::sweep_all(&shared).await {
            tracing::warn!(error = %error.chain(), "tidying up after changed chains failed; it is tried again");
        }
        tokio::select! {
            () = tokio::time::sleep(WATCH) => {}
            () = shared.shutdown.cancelled() => {}
        }
    }
}

/// Ends a job whose process died.
pub(crate) async fn recover(shared: Arc<Shared>, job: Job, lease: Lease) {
    tracing::info!(job_id = %job.id, kind = job.kind.as_str(), epoch = lease.epoch, "recovering an interrupted job");
    let _beats = AbortOnDropHandle::new(tokio::spawn(keep(Arc::clone(&shared), lease.clone())));
    // After a pause of the whole machine the job may still run in this very process: it is stopped first.
    shared.stop_running(job.id).await;
    if job.kind.waits_for_others() {
        return requeue(&shared, &job, &lease).await;
    }
    let outcome = settle(&shared, &job, &lease).await;
    match outcome {
        Ok(outcome) => record_end(&shared, &job, &lease, outcome).await,
        Err(error) if tried_long_enough(&shared, &job).await => {
            tracing::error!(job_id = %job.id, error = %error.chain(), "giving up on recovering a job");
            let message = format!("interrupted, and what it left could not be removed: {}", error.chain());
            let error_json = json!({ "kind": error.kind().as_str(), "message": message }).to_string();
            record_end(&shared, &job, &lease, JobOutcome::Failed { error_json }).await;
        }
        Err(error) => {
            tracing::warn!(job_id = %job.id, error = %error.chain(), "recovering a job failed; it is tried again");
        }
    }
}

async fn keep(shared: Arc<Shared>, lease: Lease) {
    loop {
        tokio::time::sleep(Duration::from_secs(5)).await;
        let progress = json!({ "phase": "recovering" }).to_string();
        if shared.catalog.heartbeat(&lease, LEASE_MS, &progress, UtcMillis::now()).await.is_err() {
            return;
        }
    }
}

/// Puts a job back that only waits for others: whoever takes it finds what it had queued, and goes on.
pub(crate) async fn requeue(shared: &Shared, job: &Job, lease: &Lease) {
    match shared.catalog.requeue_job(lease, UtcMillis::now()).await {
        Ok(_) => shared.wake.all(),
        Err(error) => {
            let error = Error::from(error).chain();
            tracing::warn!(job_id = %job.id, error, "a job could not be put back into the queue; it is tried again");
        }
    }
}

/// Whether a job's recovery has been tried for so long that it is not tried again. Counted from the first try, not
/// from the job's start: a host that was down for days has tried nothing yet.
async fn tried_long_enough(shared: &Shared, job: &Job) -> bool {
    let steps = shared.catalog.steps(job.id).await.unwrap_or_default();
    first_try(&steps).is_some_and(|first| UtcMillis::now().0 - first.0 > GIVE_UP_AFTER_MS)
}

/// When a job's recovery was tried first; none where it was not.
fn first_try(steps: &[JobStep]) -> Option<UtcMillis> {
    steps.iter().find(|step| step.name == Step::Recovering.name()).map(|step| step.recorded_at)
}

async fn settle(shared: &Arc<Shared>, job: &Job, lease: &Lease) -> Result<JobOutcome> {
    let steps = shared.catalog.steps(job.id).await?;
    if first_try(&steps).is_none() {
        shared.record(lease, &Step::Recovering).await?;
    }
    let left = Leftovers::from_steps(&steps)?;
    if job.kind == JobKind::Backup {
        if let Some(stored) = known_backup(shared, backup::backup_id(job)?).await? {
            let mut warnings = vec!["the host was interrupted after the backup was complete".to_owned()];
            if let Err(error) = remove_snapshot(shared, job, &left).await {
                // The backup stands; the VM's next run removes the snapshot.
                warnings.push(format!(
                    "the snapshot could not be removed and is tried again later: {}",
                    error.chain()
                ));
            }
            let result = json!({
                "backup_id": stored.id.to_string(),
                "backup_type": stored.backup_type.as_str(),
                "reason_code": stored.reason_code,
                "reason": stored.reason,
                "warnings": warnings,
            });
            return Ok(JobOutcome::Succeeded { result_json: result.to_string() });
        }
        undo_backup(shared, job, &left).await?;
    }
    if matches!(job.kind, JobKind::DeleteBackup | JobKind::SynthesizeFull) {
        if let Some(result) = merge::finish_dead(shared, &left).await? {
            return Ok(JobOutcome::Succeeded { result_json: result.to_string() });
        }
        merge::undo(shared, job, &left).await?;
    }
    if job.kind == JobKind::CopyBackup {
        if let Some(result) = merge::finish_dead_copy(shared, job).await? {
            return Ok(JobOutcome::Succeeded { result_json: result.to_string() });
        }
        merge::undo(shared, job, &left).await?;
    }
    if let Some(path) = left.target.as_deref() {
        store::remove_local(Location::of(path)?).await?;
    }
    shared.catalog.clear_steps(lease).await?;
    let (kind, message) = left.failure.unwrap_or_else(|| {
        let message = "the host was interrupted while the job ran; what it had begun is undone, run it again";
        ("interrupted".to_owned(), message.to_owned())
    });
    if kind == ErrorKind::Cancelled.as_str() {
        return Ok(JobOutcome::Cancelled);
    }
    Ok(JobOutcome::Failed { error_json: json!({ "kind": kind, "message": message }).to_string() })
}

async fn known_backup(shared: &Shared, id: BackupId) -> Result<Option<tidemark_catalog::Backup>> {
    match shared.catalog.backup(id).await {
        Ok(backup) => Ok(Some(backup)),
        Err(error) if error.kind() == tidemark_catalog::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Removes the objects and the snapshot of a backup that is not in the catalog.
pub(crate) async fn undo_backup(shared: &Arc<Shared>, job: &Job, left: &Leftovers) -> Result<()> {
    let id = backup::backup_id(job)?;
    if known_backup(shared, id).await?.is_some() {
        return Err(Error::internal(format!("backup {id} is in the catalog; it is not undone")));
    }
    // Both are tried whatever becomes of the other: a snapshot grows as long as it stays.
    let objects = remove_objects(shared, job, left).await;
    let snapshot = remove_snapshot(shared, job, left).await;
    objects.and(snapshot)
}

async fn remove_objects(shared: &Arc<Shared>, job: &Job, left: &Leftovers) -> Result<()> {
    let Some((_, pin)) = left.pins.as_ref().filter(|_| !left.objects.is_empty()) else {
        return Ok(());
    };
    let payload = payload(job)?;
    let id = payload.repository_id.parse().map_err(|e| Error::damaged(format!("{e}")))?;
    let repository = shared.catalog.repository(id).await?;
    let (mut store, _) = ObjectStore::open(shared, &repository, job, Some(pin)).await?;
    // The manifest comes last in the list and goes first: nothing describes disks that are gone.
    for object in left.objects.iter().rev() {
        store.discard(object).await?;
    }
    Ok(())
}

async fn remove_snapshot(shared: &Arc<Shared>, job: &Job, left: &Leftovers) -> Result<()> {
    let (Some((vm_key, key)), Some((pin, _))) = (&left.snapshot, &left.pins) else {
        return Ok(());
    };
    let payload = payload(job)?;
    let vm = shared.catalog.vm(payload.vm_id.parse().map_err(|e| Error::damaged(format!("{e}")))?).await?;
    let Some(connector_id) = vm.connector_id else { return Ok(()) };
    let record = shared.catalog.connector(connector_id).await?;
    let (mut connector, _) = shared.open_connector(&record, Some(job.id), Some(pin)).await?;
    let removed = remove_snapshot_by_key(&mut connector, vm_key, key, left.snapshot_token.as_deref()).await;
    plugins::log_out(connector).await;
    removed
}

/// By its token where that is known; by its key in any case, as the answer to its creation may have been lost.
async fn remove_snapshot_by_key(
    connector: &mut Connector,
    vm_key: &str,
    key: &str,
    token: Option<&str>,
) -> Result<()> {
    if let Some(token) = token {
        plugins::remove_snapshot(connector, vm_key, token).await?;
    }
    for snapshot in plugins::list_own_snapshots(connector, vm_key).await? {
        if snapshot.idempotency_key == key {
            plugins::remove_snapshot(connector, vm_key, &snapshot.token).await?;
        }
    }
    Ok(())
}

/// Removes every snapshot of this installation on a VM whose only job is the caller, and those that a connector made
/// for itself (their keys name no installation) and could not remove.
pub(crate) async fn remove_stale_snapshots(
    connector: &mut Connector,
    vm_key: &str,
    installation: &str,
) -> Result<usize> {
    let mut removed = 0;
    for snapshot in plugins::list_own_snapshots(connector, vm_key).await? {
        let key = snapshot.idempotency_key.as_str();
        let ours = key.strip_prefix(installation).is_some_and(|rest| rest.starts_with('-'));
        if ours || key == CONNECTOR_SNAPSHOT {
            plugins::remove_snapshot(connector, vm_key, &snapshot.token).await?;
            removed += 1;
        }
    }
    Ok(removed)
}

/// Keeps why a job failed for whoever finishes its undoing.
pub(crate) async fn record_failure(shared: &Shared, lease: &Lease, error: &Error) {
    let step = Step::Failed { kind: error.kind().as_str().to_owned(), message: error.chain() };
    if let Err(trouble) = shared.record(lease, &step).await {
        tracing::warn!(error = %trouble.chain(), "the job's failure could not be recorded");
    }
}

/// Records a job's end; a catalog that is away for a moment is waited for.
pub(crate) async fn record_end(shared: &Shared, job: &Job, lease: &Lease, outcome: JobOutcome) {
    for attempt in 1..=END_ATTEMPTS {
        match shared.catalog.finish_job(lease, &outcome, UtcMillis::now()).await {
            Ok(()) => {
                let state = match &outcome {
                    JobOutcome::Succeeded { .. } => "succeeded",
                    JobOutcome::Failed { .. } => "failed",
                    JobOutcome::Cancelled => "cancelled",
                };
                shared.emit("job-ended", job, json!({ "state": state }));
                return;
            }
            Err(error) if !error.is_retryable() || attempt == END_ATTEMPTS => {
                let error = Error::from(error).chain();
                tracing::error!(job_id = %job.id, error, "the job's end could not be recorded");
                return;
            }
            Err(_) => tokio::time::sleep(Duration::from_secs(u64::from(attempt))).await,
        }
    }
}

fn payload(job: &Job) -> Result<BackupPayload> {
    serde_json::from_str(&job.payload_json)
        .map_err(|e| Error::damaged(format!("the payload of job {}: {e}", job.id)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(step: &Step, recorded_at: i64) -> JobStep {
        JobStep {
            sequence: recorded_at,
            epoch: 1,
            name: step.name().to_owned(),
            detail_json: step.to_json().unwrap(),
            recorded_at: UtcMillis(recorded_at),
        }
    }

    #[test]
    fn patience_with_a_dead_job_counts_from_the_first_try_to_recover_it() {
        let begun = step(&Step::MergePublishing, 1);
        assert_eq!(first_try(std::slice::from_ref(&begun)), None);
        let tried = [begun, step(&Step::Recovering, 500), step(&Step::Recovering, 900)];
        assert_eq!(first_try(&tried), Some(UtcMillis(500)));
        assert_eq!(Leftovers::from_steps(&tried).unwrap(), Leftovers::default());
    }
}
