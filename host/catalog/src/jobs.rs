//! The queue of jobs: putting work in, looking at it, asking for its end.

use tidemark_model::{JobEvent, JobId, JobState, UtcMillis};

use crate::Catalog;
use crate::database::Transaction;
use crate::error::{Error, ErrorKind, Result};
use crate::pages::{number_cursor, page, rows_wanted};
use crate::records::{Job, JobFilter, NewJob, Page, PageRequest};
use crate::statement::{Row, Statement};

impl Catalog {
    /// Queues a job. The same idempotency key with the same work answers with the first job, in whatever state it
    /// is by now.
    ///
    /// # Errors
    /// `Conflict` when the idempotency key was used for other work; `Invalid` when the payload is not JSON.
    pub async fn submit_job(&self, new: &NewJob, now: UtcMillis) -> Result<Job> {
        let NewJob { kind, payload_json, exclusive_key, idempotency_key, priority } = new;
        let payload = json(payload_json).map_err(|source| {
            Error::with_source(ErrorKind::Invalid, "the job's payload is not JSON", source)
        })?;
        let mut transaction = self.database.begin().await?;
        // The counter is taken first: from here on submissions pass one by one, so two of the same idempotency key
        // cannot both find it unused.
        let sequence = transaction.next_number("jobs").await?;
        if let Some(key) = idempotency_key {
            let known = Statement::new("SELECT * FROM jobs WHERE idempotency_key = $1").bind(key);
            if let Some(row) = transaction.fetch_optional(known).await? {
                let job = job_of(&row)?;
                let same = job.kind == *kind
                    && job.exclusive_key == *exclusive_key
                    && json(&job.payload_json).is_ok_and(|known| known == payload);
                let other =
                    || Error::conflict(format!("the idempotency key '{key}' was used for other work"));
                return if same { Ok(job) } else { Err(other()) };
            }
        }
        let id = JobId::random();
        let insert = Statement::new(
            "INSERT INTO jobs (id, sequence, kind, state, payload_json, progress_json, exclusive_key,
                 idempotency_key, cancel_requested, epoch, created_at, priority)
             VALUES ($1, $2, $3, $4, $5, '{}', $6, $7, 0, 0, $8, $9)",
        );
        let insert = insert.bind(id).bind(sequence).bind(*kind).bind(JobState::Queued).bind(payload_json);
        let insert = insert.bind(exclusive_key.as_deref()).bind(idempotency_key.as_deref()).bind(now);
        transaction.execute(insert.bind(*priority)).await?;
        let job = fetch_job(&mut transaction, id).await?;
        transaction.commit().await?;
        Ok(job)
    }

    /// The job with this id.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn job(&self, id: JobId) -> Result<Job> {
        let row =
            self.database.fetch_optional(Statement::new("SELECT * FROM jobs WHERE id = $1").bind(id)).await?;
        job_of(&row.ok_or_else(|| Error::not_found("job", id))?)
    }

    /// The wanted jobs, the newest first.
    ///
    /// # Errors
    /// `Invalid` for a wrong limit or cursor.
    pub async fn list_jobs(&self, filter: &JobFilter, request: &PageRequest) -> Result<Page<Job>> {
        let JobFilter { state, kind } = filter;
        let query = Statement::new("SELECT * FROM jobs WHERE 1 = 1").and_if(" AND state = {}", *state);
        let query =
            query.and_if(" AND kind = {}", *kind).and_if(" AND sequence < {}", number_cursor(request)?);
        let query = query.and(" ORDER BY sequence DESC LIMIT {}", rows_wanted(request)?);
        let rows = self.database.fetch_all(query).await?;
        let jobs = rows.iter().map(|row| Ok((row.integer("sequence")?, job_of(row)?)));
        let page =
            page(jobs.collect::<Result<Vec<(i64, Job)>>>()?, request, |(sequence, _)| sequence.to_string());
        Ok(Page { items: page.items.into_iter().map(|(_, job)| job).collect(), next: page.next })
    }

    /// Asks for the job's end. A job that still waits ends at once; a running one is told at its next heartbeat.
    /// Answers with the job as it is now.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` when it has already ended.
    pub async fn request_cancel(&self, id: JobId, now: UtcMillis) -> Result<Job> {
        let mut transaction = self.database.begin().await?;
        let request =
            Statement::new("UPDATE jobs SET cancel_requested = 1 WHERE id = $1 RETURNING *").bind(id);
        let row = transaction.fetch_optional(request).await?.ok_or_else(|| Error::not_found("job", id))?;
        let job = job_of(&row)?;
        let ended =
            job.state.apply(JobEvent::Cancel).map_err(|denied| Error::conflict(denied.to_string()))?;
        if job.state == JobState::Queued {
            let end = Statement::new("UPDATE jobs SET state = $1, ended_at = $2 WHERE id = $3");
            transaction.execute(end.bind(ended).bind(now).bind(id)).await?;
        }
        let job = fetch_job(&mut transaction, id).await?;
        transaction.commit().await?;
        Ok(job)
    }
}

pub(crate) async fn fetch_job(transaction: &mut Transaction, id: JobId) -> Result<Job> {
    let row = transaction.fetch_optional(Statement::new("SELECT * FROM jobs WHERE id = $1").bind(id)).await?;
    job_of(&row.ok_or_else(|| Error::not_found("job", id))?)
}

pub(crate) fn job_of(row: &Row) -> Result<Job> {
    Ok(Job {
        id: row.parsed("id")?,
        kind: row.parsed("kind")?,
        state: row.parsed("state")?,
        payload_json: row.text("payload_json")?,
        progress_json: row.text("progress_json")?,
        result_json: row.opt_text("result_json")?,
        error_json: row.opt_text("error_json")?,
        exclusive_key: row.opt_text("exclusive_key")?,
        cancel_requested: row.flag("cancel_requested")?,
        epoch: row.integer("epoch")?,
        lease_owner: row.opt_text("lease_owner")?,
        lease_until: row.opt_time("lease_until")?,
        created_at: row.time("created_at")?,
        started_at: row.opt_time("started_at")?,
        ended_at: row.opt_time("ended_at")?,
    })
}

fn json(text: &str) -> serde_json::Result<serde_json::Value> {
    serde_json::from_str(text)
}
