//! Who runs a job: claiming, keeping, losing and giving up its lease.
//!
//! ```text
//!   claim_job             epoch + 1, owner, until                    (queued → running)
//!   heartbeat             until' under the same epoch
//!   claim_expired         epoch + 1, new owner                       (running, lease run out)
//!   claim_abandoned       epoch + 1, same owner, after its restart   (running)
//!   finish_job / requeue_job   lease given back                      (running → ended / queued)
//! ```
//!
//! An expired job is not simply run again: what its dead runner began has first to be undone, from its recorded
//! steps. So whoever takes it over gets it still running, and then ends it or puts it back into the queue.
//!
//! Every effect names its lease, and every change of hands raises the epoch: a host that slept through its expiry
//! finds its effects refused, however late they come.

use tidemark_model::{JobEvent, UtcMillis};

use crate::Catalog;
use crate::database::Transaction;
use crate::error::{Error, ErrorKind, Result};
use crate::jobs::{fetch_job, job_of};
use crate::records::{CancelRequested, Job, JobOutcome, Lease, WorkKind};
use crate::statement::{Row, Statement};

/// The kinds of jobs that wait for others, as SQL; held to [`JobKind::waits_for_others`](tidemark_model::JobKind) by a test.
const WAITING_KINDS: &str = "'prune', 'run-flow'";
/// How often a claim looks for another job after a host was quicker with one that excludes it.
const CLAIM_ATTEMPTS: u32 = 16;

impl Catalog {
    /// Of the jobs of a kind that wait and that no running job excludes, the first by priority, then by age, now running
    /// under the new lease.
    ///
    /// # Errors
    /// `Unavailable` also when other hosts were quicker again and again.
    pub async fn claim_job(
        &self,
        work: WorkKind,
        owner: &str,
        lease_ms: i64,
        now: UtcMillis,
    ) -> Result<Option<(Job, Lease)>> {
        check_lease(owner, lease_ms)?;
        let kinds = match work {
            WorkKind::Waiting => "IN",
            WorkKind::Work => "NOT IN",
        };
        let sql = format!(
            "UPDATE jobs SET state = 'running', epoch = epoch + 1, lease_owner = $1, lease_until = $2,
                 started_at = COALESCE(started_at, $3)
             WHERE state = 'queued' AND id = (
                 SELECT waiting.id FROM jobs waiting
                 WHERE waiting.state = 'queued' AND waiting.kind {kinds} ({WAITING_KINDS}) AND NOT EXISTS (
                     SELECT 1 FROM jobs running
                     WHERE running.state = 'running' AND running.exclusive_key = waiting.exclusive_key)
                 ORDER BY waiting.priority DESC, waiting.sequence LIMIT 1{})
             RETURNING *",
            self.database.skip_locked()
        );
        for _ in 0..CLAIM_ATTEMPTS {
            let claim = Statement::new(sql.clone()).bind(owner).bind(now.plus_millis(lease_ms)).bind(now);
            match self.database.write_returning(claim).await {
                Ok(rows) => return rows.first().map(held).transpose(),
                // Another host began a job with the same exclusive key between our look and our write.
                Err(error) if error.kind() == ErrorKind::Conflict => tokio::task::yield_now().await,
                Err(error) => return Err(error),
            }
        }
        Err(Error::new(ErrorKind::Unavailable, "other hosts were quicker with every job that waits"))
    }

    /// The running job whose lease ran out the longest ago, under a new lease; its steps are still to be undone.
    ///
    /// # Errors
    /// Only those of the database.
    pub async fn claim_expired(
        &self,
        owner: &str,
        lease_ms: i64,
        now: UtcMillis,
    ) -> Result<Option<(Job, Lease)>> {
        check_lease(owner, lease_ms)?;
        let sql = format!(
            "UPDATE jobs SET epoch = epoch + 1, lease_owner = $1, lease_until = $2
             WHERE state = 'running' AND lease_until < $3 AND id = (
                 SELECT expired.id FROM jobs expired WHERE expired.state = 'running' AND expired.lease_until < $3
                 ORDER BY expired.lease_until, expired.sequence LIMIT 1{})
             RETURNING *",
            self.database.skip_locked()
        );
        let claim = Statement::new(sql).bind(owner).bind(now.plus_millis(lease_ms)).bind(now);
        self.database.write_returning(claim).await?.first().map(held).transpose()
    }

    /// All jobs that a dead process of this owner's name left running, under new leases. For the start only: a
    /// process that runs jobs already would take them from itself.
    ///
    /// # Errors
    /// Only those of the database.
    pub async fn claim_abandoned(
        &self,
        owner: &str,
        lease_ms: i64,
        now: UtcMillis,
    ) -> Result<Vec<(Job, Lease)>> {
        check_lease(owner, lease_ms)?;
        let claim = Statement::new(
            "UPDATE jobs SET epoch = epoch + 1, lease_until = $1
             WHERE state = 'running' AND lease_owner = $2 RETURNING *",
        );
        let rows = self.database.write_returning(claim.bind(now.plus_millis(lease_ms)).bind(owner)).await?;
        rows.iter().map(held).collect()
    }

    /// The jobs that this owner holds, the oldest first.
    ///
    /// # Errors
    /// Only those of the database.
    pub async fn owner_jobs(&self, owner: &str) -> Result<Vec<Job>> {
        let query = Statement::new(
            "SELECT * FROM jobs WHERE state = 'running' AND lease_owner = $1 ORDER BY sequence",
        );
        self.database.fetch_all(query.bind(owner)).await?.iter().map(job_of).collect()
    }

    /// Keeps the lease for `lease_ms` from now and shows how far the job is.
    ///
    /// # Errors
    /// `LeaseLost`.
    pub async fn heartbeat(
        &self,
        lease: &Lease,
        lease_ms: i64,
        progress_json: &str,
        now: UtcMillis,
    ) -> Result<CancelRequested> {
        check_lease(&lease.owner, lease_ms)?;
        let beat = Statement::new(
            "UPDATE jobs SET lease_until = $1, progress_json = $2
             WHERE id = $3 AND state = 'running' AND lease_owner = $4 AND epoch = $5 RETURNING cancel_requested",
        );
        let beat = beat.bind(now.plus_millis(lease_ms)).bind(progress_json).bind(lease.job_id);
        let rows = self.database.write_returning(beat.bind(&lease.owner).bind(lease.epoch)).await?;
        match rows.first() {
            Some(row) => row.flag("cancel_requested").map(CancelRequested),
            None => Err(lost(lease)),
        }
    }

    /// Ends the job and gives its lease back.
    ///
    /// # Errors
    /// `LeaseLost`.
    pub async fn finish_job(&self, lease: &Lease, outcome: &JobOutcome, now: UtcMillis) -> Result<()> {
        let (event, result, error) = match outcome {
            JobOutcome::Succeeded { result_json } => (JobEvent::Succeed, Some(result_json.as_str()), None),
            JobOutcome::Failed { error_json } => (JobEvent::Fail, None, Some(error_json.as_str())),
            JobOutcome::Cancelled => (JobEvent::Cancel, None, None),
        };
        let mut transaction = self.database.begin().await?;
        let job = hold(&mut transaction, lease).await?;
        let state = job.state.apply(event).map_err(|denied| Error::conflict(denied.to_string()))?;
        let end = Statement::new(
            "UPDATE jobs SET state = $1, result_json = $2, error_json = $3, ended_at = $4,
                 lease_owner = NULL, lease_until = NULL
             WHERE id = $5",
        );
        transaction.execute(end.bind(state).bind(result).bind(error).bind(now).bind(lease.job_id)).await?;
        transaction.commit().await
    }

    /// Puts a job back into the queue once all it had begun is undone; its steps are forgotten with that. A job
    /// whose end was asked for ends as cancelled instead. Answers with the job as it is now.
    ///
    /// # Errors
    /// `LeaseLost`.
    pub async fn requeue_job(&self, lease: &Lease, now: UtcMillis) -> Result<Job> {
        let mut transaction = self.database.begin().await?;
        let job = hold(&mut transaction, lease).await?;
        let event = if job.cancel_requested { JobEvent::Cancel } else { JobEvent::Expire };
        let state = job.state.apply(event).map_err(|denied| Error::conflict(denied.to_string()))?;
        let ended_at = state.is_final().then_some(now);
        let back = Statement::new(
            "UPDATE jobs SET state = $1, ended_at = $2, lease_owner = NULL, lease_until = NULL WHERE id = $3",
        );
        transaction.execute(back.bind(state).bind(ended_at).bind(lease.job_id)).await?;
        transaction
            .execute(Statement::new("DELETE FROM job_steps WHERE job_id = $1").bind(lease.job_id))
            .await?;
        let job = fetch_job(&mut transaction, lease.job_id).await?;
        transaction.commit().await?;
        Ok(job)
    }
}

/// Checks a lease and keeps its job as it is until the transaction ends: what is done in the transaction is done
/// under the lease.
pub(crate) async fn hold(transaction: &mut Transaction, lease: &Lease) -> Result<Job> {
    let Lease { job_id, epoch, owner } = lease;
    let lock = Statement::new(
        "UPDATE jobs SET epoch = epoch WHERE id = $1 AND epoch = $2 AND lease_owner = $3 AND state = 'running'
         RETURNING *",
    );
    match transaction.fetch_optional(lock.bind(*job_id).bind(*epoch).bind(owner)).await? {
        Some(row) => job_of(&row),
        None => Err(lost(lease)),
    }
}

fn lost(lease: &Lease) -> Error {
    let Lease { job_id, epoch, owner } = lease;
    Error::new(
        ErrorKind::LeaseLost,
        format!("{owner} does not hold job {job_id} under epoch {epoch} any more"),
    )
}

fn held(row: &Row) -> Result<(Job, Lease)> {
    let job = job_of(row)?;
    let lease = Lease { job_id: job.id, epoch: job.epoch, owner: row.text("lease_owner")? };
    Ok((job, lease))
}

fn check_lease(owner: &str, lease_ms: i64) -> Result<()> {
    if owner.is_empty() || lease_ms <= 0 {
        return Err(Error::invalid("a lease has an owner and lasts at least a millisecond"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tidemark_model::JobKind;

    use super::WAITING_KINDS;

    #[test]
    fn the_kinds_that_wait_for_others_are_the_models() {
        for kind in ["backup", "verify", "delete-backup", "copy-backup", "prune", "run-flow"] {
            let known: JobKind = kind.parse().unwrap();
            assert_eq!(WAITING_KINDS.contains(&format!("'{kind}'")), known.waits_for_others(), "{kind}");
        }
    }
}
