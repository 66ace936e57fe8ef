//! Protection flows: their definitions, and firing them.
//!
//! ```text
//!   due_flows ─▶ (any number of hosts) fire ─▶ ONE transaction: firing row, job, run, the next time
//! ```
//! A firing is a row unique on (flow, fire time), and the time after it is set in the same transaction under the
//! revision that the host looked at: whichever host comes second finds nothing to do.

use tidemark_model::{FlowId, JobId, JobKind, JobState, UtcMillis};

use crate::Catalog;
use crate::database::Transaction;
use crate::error::{Error, ErrorKind, Result};
use crate::flow_records::{Firing, Flow, NewFiring, RunCause};
use crate::jobs::fetch_job;
use crate::pages::{number_cursor, page, rows_wanted};
use crate::records::{Job, Page, PageRequest};
use crate::statement::{Row, Statement};

/// What keeps two runs of one flow apart.
fn exclusive_key(flow: FlowId) -> String {
    format!("flow:{flow}")
}

impl Catalog {
    /// Adds a flow.
    ///
    /// # Errors
    /// `Conflict` when the name is taken.
    pub async fn add_flow(&self, flow: &Flow) -> Result<()> {
        let Flow {
            id,
            name,
            enabled,
            definition_json,
            secrets_json,
            revision,
            next_fire_at,
            created_at,
            updated_at,
        } = flow;
        let insert = Statement::new(
            "INSERT INTO flows (id, name, enabled, definition_json, secrets_json, revision, next_fire_at,
                 created_at, updated_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        );
        let insert = insert.bind(*id).bind(name).bind(*enabled).bind(definition_json).bind(secrets_json);
        let insert = insert.bind(*revision).bind(*next_fire_at).bind(*created_at).bind(*updated_at);
        let added = self.database.write(insert).await;
        added.map(drop).map_err(|error| taken(error, name))
    }

    /// Replaces name, definition, secrets, state and next time of a flow that still has the revision given in it.
    /// Answers with the flow as it is now.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` when it was changed meanwhile or the name is taken.
    pub async fn update_flow(&self, flow: &Flow) -> Result<Flow> {
        let update = Statement::new(
            "UPDATE flows SET name = $1, enabled = $2, definition_json = $3, secrets_json = $4,
                 revision = revision + 1, next_fire_at = $5, updated_at = $6
             WHERE id = $7 AND revision = $8 RETURNING *",
        );
        let update = update.bind(&flow.name).bind(flow.enabled).bind(&flow.definition_json);
        let update = update.bind(&flow.secrets_json).bind(flow.next_fire_at).bind(flow.updated_at);
        let rows = self.database.write_returning(update.bind(flow.id).bind(flow.revision)).await;
        match rows.map_err(|error| taken(error, &flow.name))?.first() {
            Some(row) => flow_of(row),
            None => {
                self.flow(flow.id).await?;
                Err(Error::conflict(format!(
                    "the flow '{}' was changed by somebody else meanwhile; try again",
                    flow.name
                )))
            }
        }
    }

    /// Forgets a flow with its firings and runs. Backups stay.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` while a run of it waits or runs.
    pub async fn remove_flow(&self, id: FlowId) -> Result<()> {
        let mut transaction = self.database.begin().await?;
        let lock = Statement::new("UPDATE flows SET revision = revision + 1 WHERE id = $1 RETURNING *");
        let row = transaction.fetch_optional(lock.bind(id)).await?;
        flow_of(&row.ok_or_else(|| Error::not_found("flow", id))?)?;
        let busy = Statement::new(
            "SELECT id FROM jobs WHERE exclusive_key = $1 AND state IN ('queued', 'running') LIMIT 1",
        );
        if let Some(row) = transaction.fetch_optional(busy.bind(&exclusive_key(id))).await? {
            let job = row.text("id")?;
            return Err(Error::conflict(format!("run {job} of the flow is still going on; cancel it first")));
        }
        transaction.execute(Statement::new("DELETE FROM flows WHERE id = $1").bind(id)).await?;
        transaction.commit().await
    }

    /// The flow with this id.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn flow(&self, id: FlowId) -> Result<Flow> {
        let query = Statement::new("SELECT * FROM flows WHERE id = $1").bind(id);
        flow_of(&self.database.fetch_optional(query).await?.ok_or_else(|| Error::not_found("flow", id))?)
    }

    /// The flow with this id, or else the one with this name.
    ///
    /// # Errors
    /// Only those of the database.
    pub async fn flow_by_name_or_id(&self, name_or_id: &str) -> Result<Option<Flow>> {
        let query = Statement::new(
            "SELECT * FROM flows WHERE id = $1 OR name = $2
             ORDER BY CASE WHEN id = $1 THEN 0 ELSE 1 END LIMIT 1",
        );
        let query = query.bind(name_or_id.to_lowercase().as_str()).bind(name_or_id);
        self.database.fetch_optional(query).await?.as_ref().map(flow_of).transpose()
    }

    /// All flows by name.
    ///
    /// # Errors
    /// Only those of the database.
    pub async fn list_flows(&self) -> Result<Vec<Flow>> {
        let rows = self.database.fetch_all(Statement::new("SELECT * FROM flows ORDER BY name")).await?;
        rows.iter().map(flow_of).collect()
    }

    /// The enabled flows whose time has come, the longest due first.
    ///
    /// # Errors
    /// Only those of the database.
    pub async fn due_flows(&self, now: UtcMillis) -> Result<Vec<Flow>> {
        let query = Statement::new(
            "SELECT * FROM flows WHERE enabled = 1 AND next_fire_at IS NOT NULL AND next_fire_at <= $1
             ORDER BY next_fire_at, id LIMIT 100",
        );
        self.database.fetch_all(query.bind(now)).await?.iter().map(flow_of).collect()
    }

    /// Sets a flow's next time, where it is still the one that is given. A time that was fired already does not fire again.
    ///
    /// # Errors
    /// Only those of the database.
    pub async fn set_next_fire(
        &self,
        id: FlowId,
        revision: i64,
        known: UtcMillis,
        next: UtcMillis,
    ) -> Result<()> {
        let update = Statement::new(
            "UPDATE flows SET next_fire_at = $1 WHERE id = $2 AND revision = $3 AND next_fire_at = $4",
        );
        self.database.write(update.bind(next).bind(id).bind(revision).bind(known)).await.map(drop)
    }

    /// Fires a flow for one time: firing, job, run and the next time in one transaction. Answers with the firing where
    /// this host was the one; none where another host fired it or the flow was changed meanwhile. While a run of the
    /// flow waits already, no second one joins it: the firing says so.
    ///
    /// # Errors
    /// Only those of the database.
    pub async fn fire(&self, firing: &NewFiring, now: UtcMillis) -> Result<Option<Firing>> {
        let NewFiring { flow_id, revision, fire_at, next_fire_at, missed, skipped, priority, owner } = firing;
        let mut transaction = self.database.begin().await?;
        let advance = Statement::new(
            "UPDATE flows SET next_fire_at = $1
             WHERE id = $2 AND revision = $3 AND enabled = 1 AND next_fire_at <= $4 RETURNING id",
        );
        let advance = advance.bind(*next_fire_at).bind(*flow_id).bind(*revision).bind(*fire_at);
        if transaction.fetch_optional(advance).await?.is_none() {
            return Ok(None);
        }
        let known = Statement::new("SELECT fire_at FROM flow_firings WHERE flow_id = $1 AND fire_at = $2");
        if transaction.fetch_optional(known.bind(*flow_id).bind(*fire_at)).await?.is_some() {
            // Fired before a change of the flow set its clock back; only the next time was to be set.
            transaction.commit().await?;
            return Ok(None);
        }
        let mut skipped = skipped.clone();
        if skipped.is_none() && waits(&mut transaction, *flow_id).await? {
            skipped = Some("an earlier run of the flow still waits for its turn".to_owned());
        }
        let cause = if *missed > 0 { RunCause::CatchUp } else { RunCause::Schedule };
        let job_id = match skipped {
            Some(_) => None,
            None => {
                let job = queue_run(&mut transaction, *flow_id, cause, Some(*fire_at), *priority, now);
                Some(job.await?.id)
            }
        };
        let insert = Statement::new(
            "INSERT INTO flow_firings (flow_id, fire_at, fired_at, fired_by, missed, job_id, skipped)
             VALUES ($1, $2, $3, $4, $5, $6, $7)",
        );
        let insert = insert.bind(*flow_id).bind(*fire_at).bind(now).bind(owner).bind(i64::from(*missed));
        transaction.execute(insert.bind(job_id).bind(skipped.as_deref())).await?;
        transaction.commit().await?;
        Ok(Some(Firing {
            flow_id: *flow_id,
            fire_at: *fire_at,
            fired_at: now,
            fired_by: owner.clone(),
            missed: *missed,
            job_id,
            skipped,
        }))
    }

    /// Queues a run that somebody asks for. The same idempotency key answers with the first run's job.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` while a run of the flow waits already.
    pub async fn run_flow(
        &self,
        id: FlowId,
        priority: i64,
        idempotency_key: Option<&str>,
        now: UtcMillis,
    ) -> Result<Job> {
        let mut transaction = self.database.begin().await?;
        let lock = Statement::new("UPDATE flows SET revision = revision WHERE id = $1 RETURNING id");
        let row = transaction.fetch_optional(lock.bind(id)).await?;
        row.ok_or_else(|| Error::not_found("flow", id))?;
        if let Some(key) = idempotency_key {
            let known = Statement::new("SELECT id FROM jobs WHERE idempotency_key = $1").bind(key);
            if let Some(row) = transaction.fetch_optional(known).await? {
                let job_id = row.parsed("id")?;
                return fetch_job(&mut transaction, job_id).await;
            }
        }
        if waits(&mut transaction, id).await? {
            return Err(Error::conflict("a run of the flow waits for its turn already"));
        }
        let job = queue_run(&mut transaction, id, RunCause::Manual, None, priority, now).await?;
        if let Some(key) = idempotency_key {
            let set = Statement::new("UPDATE jobs SET idempotency_key = $1 WHERE id = $2");
            transaction.execute(set.bind(key).bind(job.id)).await?;
        }
        transaction.commit().await?;
        Ok(job)
    }

    /// The firings of a flow, the newest first.
    ///
    /// # Errors
    /// `Invalid` for a wrong limit or cursor.
    pub async fn list_firings(&self, id: FlowId, request: &PageRequest) -> Result<Page<Firing>> {
        let query = Statement::new("SELECT * FROM flow_firings WHERE flow_id = $1").bind(id);
        let query = query.and_if(" AND fire_at < {}", number_cursor(request)?);
        let query = query.and(" ORDER BY fire_at DESC LIMIT {}", rows_wanted(request)?);
        let rows = self.database.fetch_all(query).await?;
        let firings = rows.iter().map(firing_of).collect::<Result<Vec<_>>>()?;
        Ok(page(firings, request, |firing| firing.fire_at.0.to_string()))
    }
}

fn taken(error: Error, name: &str) -> Error {
    error.meaning(ErrorKind::Conflict, format!("a flow named '{name}' exists already"))
}

/// Whether a run of the flow is queued. The flow's row is locked by the caller.
async fn waits(transaction: &mut Transaction, id: FlowId) -> Result<bool> {
    let waiting = Statement::new("SELECT id FROM jobs WHERE exclusive_key = $1 AND state = 'queued' LIMIT 1");
    Ok(transaction.fetch_optional(waiting.bind(&exclusive_key(id))).await?.is_some())
}

async fn queue_run(
    transaction: &mut Transaction,
    id: FlowId,
    cause: RunCause,
    fire_at: Option<UtcMillis>,
    priority: i64,
    now: UtcMillis,
) -> Result<Job> {
    let sequence = transaction.next_number("jobs").await?;
    let job_id = JobId::random();
    let payload = serde_json::json!({ "flow_id": id.to_string(), "cause": cause.as_str() }).to_string();
    let job = Statement::new(
        "INSERT INTO jobs (id, sequence, kind, state, payload_json, progress_json, exclusive_key,
             cancel_requested, epoch, created_at, priority)
         VALUES ($1, $2, $3, $4, $5, '{}', $6, 0, 0, $7, $8)",
    );
    let job = job.bind(job_id).bind(sequence).bind(JobKind::RunFlow).bind(JobState::Queued).bind(&payload);
    transaction.execute(job.bind(&exclusive_key(id)).bind(now).bind(priority)).await?;
    let run = Statement::new(
        "INSERT INTO flow_runs (job_id, flow_id, sequence, cause, fire_at, report_json, created_at)
         VALUES ($1, $2, $3, $4, $5, '{}', $6)",
    );
    let run = run.bind(job_id).bind(id).bind(sequence).bind(cause.as_str()).bind(fire_at).bind(now);
    transaction.execute(run).await?;
    fetch_job(transaction, job_id).await
}

fn flow_of(row: &Row) -> Result<Flow> {
    Ok(Flow {
        id: row.parsed("id")?,
        name: row.text("name")?,
        enabled: row.flag("enabled")?,
        definition_json: row.text("definition_json")?,
        secrets_json: row.text("secrets_json")?,
        revision: row.integer("revision")?,
        next_fire_at: row.opt_time("next_fire_at")?,
        created_at: row.time("created_at")?,
        updated_at: row.time("updated_at")?,
    })
}

fn firing_of(row: &Row) -> Result<Firing> {
    Ok(Firing {
        flow_id: row.parsed("flow_id")?,
        fire_at: row.time("fire_at")?,
        fired_at: row.time("fired_at")?,
        fired_by: row.text("fired_by")?,
        missed: row.unsigned("missed")?,
        job_id: row.opt_parsed("job_id")?,
        skipped: row.opt_text("skipped")?,
    })
}
