//! The recorded steps of a job: each is written before its effect begins, so that whoever comes after a crash knows
//! all that may have to be undone.

use tidemark_model::{JobId, UtcMillis};

use crate::Catalog;
use crate::error::Result;
use crate::leases::hold;
use crate::records::{JobStep, Lease};
use crate::statement::{Row, Statement};

impl Catalog {
    /// Records a step, durably on return. Answers with its number within the job.
    ///
    /// # Errors
    /// `LeaseLost`.
    pub async fn record_step(
        &self,
        lease: &Lease,
        name: &str,
        detail_json: &str,
        now: UtcMillis,
    ) -> Result<i64> {
        let mut transaction = self.database.begin().await?;
        hold(&mut transaction, lease).await?;
        let insert = Statement::new(
            "INSERT INTO job_steps (job_id, sequence, epoch, name, detail_json, recorded_at)
             SELECT $1, COALESCE(MAX(sequence), 0) + 1, $2, $3, $4, $5 FROM job_steps WHERE job_id = $1
             RETURNING sequence",
        );
        let insert = insert.bind(lease.job_id).bind(lease.epoch).bind(name).bind(detail_json).bind(now);
        let row = transaction.fetch_optional(insert).await?;
        let sequence = row.map(|row| row.integer("sequence")).transpose()?.unwrap_or_default();
        transaction.commit().await?;
        Ok(sequence)
    }

    /// The steps in the order of their recording.
    ///
    /// # Errors
    /// Only those of the database.
    pub async fn steps(&self, job_id: JobId) -> Result<Vec<JobStep>> {
        let query =
            Statement::new("SELECT * FROM job_steps WHERE job_id = $1 ORDER BY sequence").bind(job_id);
        self.database.fetch_all(query).await?.iter().map(step_of).collect()
    }

    /// Forgets all steps, once what they began is undone.
    ///
    /// # Errors
    /// `LeaseLost`.
    pub async fn clear_steps(&self, lease: &Lease) -> Result<()> {
        let mut transaction = self.database.begin().await?;
        hold(&mut transaction, lease).await?;
        transaction
            .execute(Statement::new("DELETE FROM job_steps WHERE job_id = $1").bind(lease.job_id))
            .await?;
        transaction.commit().await
    }
}

fn step_of(row: &Row) -> Result<JobStep> {
    Ok(JobStep {
        sequence: row.integer("sequence")?,
        epoch: row.integer("epoch")?,
        name: row.text("name")?,
        detail_json: row.text("detail_json")?,
        recorded_at: row.time("recorded_at")?,
    })
}
