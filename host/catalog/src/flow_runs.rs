//! Runs of flows: what each decided and did about each VM, and how it ended; and what flows said of VMs at all. A run
//! is written by whoever holds its job.

use tidemark_model::{ConnectorId, FlowId, JobId, UtcMillis};

use crate::Catalog;
use crate::error::{Error, Result};
use crate::flow_records::{FlowMember, FlowRun, FlowRunVm, RunStatus, SeenVm};
use crate::leases::hold;
use crate::pages::{number_cursor, page, rows_wanted};
use crate::records::{Lease, Page, PageRequest};
use crate::statement::{Row, Statement};

impl Catalog {
    /// The run with this id.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn flow_run(&self, id: JobId) -> Result<FlowRun> {
        let query = Statement::new("SELECT * FROM flow_runs WHERE job_id = $1").bind(id);
        let row = self.database.fetch_optional(query).await?;
        run_of(&row.ok_or_else(|| Error::not_found("run", id))?)
    }

    /// The runs of a flow, the newest first.
    ///
    /// # Errors
    /// `Invalid` for a wrong limit or cursor.
    pub async fn list_flow_runs(&self, flow: FlowId, request: &PageRequest) -> Result<Page<FlowRun>> {
        let query = Statement::new("SELECT * FROM flow_runs WHERE flow_id = $1").bind(flow);
        let query = query.and_if(" AND sequence < {}", number_cursor(request)?);
        let query = query.and(" ORDER BY sequence DESC LIMIT {}", rows_wanted(request)?);
        let rows = self.database.fetch_all(query).await?;
        let runs = rows.iter().map(|row| Ok((row.integer("sequence")?, run_of(row)?)));
        let page =
            page(runs.collect::<Result<Vec<(i64, _)>>>()?, request, |(sequence, _)| sequence.to_string());
        Ok(Page { items: page.items.into_iter().map(|(_, run)| run).collect(), next: page.next })
    }

    /// How many runs of a flow ended in each way.
    ///
    /// # Errors
    /// Only those of the database.
    pub async fn count_flow_runs(&self, flow: FlowId) -> Result<Vec<(Option<RunStatus>, u64)>> {
        let query = Statement::new(
            "SELECT status, COUNT(*) AS runs FROM flow_runs WHERE flow_id = $1 GROUP BY status",
        );
        let rows = self.database.fetch_all(query.bind(flow)).await?;
        rows.iter().map(|row| Ok((row.opt_parsed("status")?, row.unsigned("runs")?))).collect()
    }

    /// Adds VMs to the run that is held; those it has already stay as they are, so that a run which goes on elsewhere
    /// keeps its decisions.
    ///
    /// # Errors
    /// `LeaseLost`.
    pub async fn add_run_vms(&self, lease: &Lease, vms: &[FlowRunVm]) -> Result<()> {
        let mut transaction = self.database.begin().await?;
        hold(&mut transaction, lease).await?;
        for vm in vms {
            let FlowRunVm { vm_id, vm_name, state, plan, reason, error, attempts, backup_id, detail_json } =
                vm;
            let insert = Statement::new(
                "INSERT INTO flow_run_vms (run_id, vm_id, vm_name, state, plan, reason, error, attempts, backup_id,
                     detail_json)
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) ON CONFLICT (run_id, vm_id) DO NOTHING",
            );
            let insert = insert.bind(lease.job_id).bind(*vm_id).bind(vm_name).bind(state.as_str()).bind(plan);
            let insert = insert.bind(reason).bind(error.as_deref()).bind(i64::from(*attempts));
            transaction.execute(insert.bind(*backup_id).bind(detail_json)).await?;
        }
        transaction.commit().await
    }

    /// Records where a VM of the run that is held stands.
    ///
    /// # Errors
    /// `LeaseLost`, `NotFound`.
    pub async fn update_run_vm(&self, lease: &Lease, vm: &FlowRunVm) -> Result<()> {
        let FlowRunVm { vm_id, vm_name: _, state, plan, reason, error, attempts, backup_id, detail_json } =
            vm;
        let update = Statement::new(
            "UPDATE flow_run_vms SET state = $1, plan = $2, reason = $3, error = $4, attempts = $5, backup_id = $6,
                 detail_json = $7
             WHERE run_id = $8 AND vm_id = $9",
        );
        let update = update.bind(state.as_str()).bind(plan).bind(reason).bind(error.as_deref());
        let update = update.bind(i64::from(*attempts)).bind(*backup_id).bind(detail_json);
        let mut transaction = self.database.begin().await?;
        hold(&mut transaction, lease).await?;
        if transaction.execute(update.bind(lease.job_id).bind(*vm_id)).await? == 0 {
            return Err(Error::not_found("VM of a run", vm_id));
        }
        transaction.commit().await
    }

    /// The VMs of a run by name.
    ///
    /// # Errors
    /// Only those of the database.
    pub async fn run_vms(&self, run: JobId) -> Result<Vec<FlowRunVm>> {
        let query = Statement::new("SELECT * FROM flow_run_vms WHERE run_id = $1 ORDER BY vm_name, vm_id");
        self.database.fetch_all(query.bind(run)).await?.iter().map(run_vm_of).collect()
    }

    /// Records what the run that is held did beside its backups, before it ends.
    ///
    /// # Errors
    /// `LeaseLost`, `NotFound`.
    pub async fn report_run(&self, lease: &Lease, report_json: &str) -> Result<()> {
        let update = Statement::new("UPDATE flow_runs SET report_json = $1 WHERE job_id = $2");
        let mut transaction = self.database.begin().await?;
        hold(&mut transaction, lease).await?;
        if transaction.execute(update.bind(report_json).bind(lease.job_id)).await? == 0 {
            return Err(Error::not_found("run", lease.job_id));
        }
        transaction.commit().await
    }

    /// Records how the run that is held ended; the first word counts. Answers whether this was it.
    ///
    /// # Errors
    /// `LeaseLost`.
    pub async fn end_run(&self, lease: &Lease, status: RunStatus, now: UtcMillis) -> Result<bool> {
        let mut transaction = self.database.begin().await?;
        hold(&mut transaction, lease).await?;
        let ended = transaction.execute(ending(lease.job_id, status, now)).await? == 1;
        transaction.commit().await?;
        Ok(ended)
    }

    /// Records the end of a run whose job has ended without it, so that nobody holds it any more.
    ///
    /// # Errors
    /// Only those of the database.
    pub async fn end_orphan(&self, run: JobId, status: RunStatus, now: UtcMillis) -> Result<bool> {
        Ok(self.database.write(ending(run, status, now)).await? == 1)
    }

    /// The runs without an end whose job has ended: their host died between the two, or they were cancelled while they
    /// waited.
    ///
    /// # Errors
    /// Only those of the database.
    pub async fn unended_runs(&self) -> Result<Vec<FlowRun>> {
        let query = Statement::new(
            "SELECT flow_runs.* FROM flow_runs JOIN jobs ON jobs.id = flow_runs.job_id
             WHERE flow_runs.status IS NULL AND jobs.state IN ('succeeded', 'failed', 'cancelled')
             ORDER BY flow_runs.sequence",
        );
        self.database.fetch_all(query).await?.iter().map(run_of).collect()
    }

    /// Replaces all that a flow said of VMs, as the run that is held says now.
    ///
    /// # Errors
    /// `LeaseLost`; `Conflict` when the flow is gone.
    pub async fn set_flow_members(
        &self,
        lease: &Lease,
        flow: FlowId,
        members: &[FlowMember],
        now: UtcMillis,
    ) -> Result<()> {
        let mut transaction = self.database.begin().await?;
        hold(&mut transaction, lease).await?;
        let clear = Statement::new("DELETE FROM flow_members WHERE flow_id = $1").bind(flow);
        transaction.execute(clear).await?;
        for member in members {
            let FlowMember { connector_id, vm_key, vm_name, protect, reason } = member;
            let insert = Statement::new(
                "INSERT INTO flow_members (flow_id, connector_id, vm_key, vm_name, protect, reason, evaluated_at)
                 VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (flow_id, connector_id, vm_key) DO NOTHING",
            );
            let insert = insert.bind(flow).bind(*connector_id).bind(vm_key).bind(vm_name).bind(*protect);
            transaction.execute(insert.bind(reason).bind(now)).await?;
        }
        transaction.commit().await
    }

    /// What a flow last said, by name.
    ///
    /// # Errors
    /// Only those of the database.
    pub async fn flow_members(&self, flow: FlowId) -> Result<Vec<FlowMember>> {
        let query = Statement::new("SELECT * FROM flow_members WHERE flow_id = $1 ORDER BY vm_name, vm_key");
        self.database.fetch_all(query.bind(flow)).await?.iter().map(member_of).collect()
    }

    /// Replaces all that a connector was seen to have.
    ///
    /// # Errors
    /// `Conflict` when the connector is gone.
    pub async fn set_seen_vms(&self, connector: ConnectorId, vms: &[SeenVm]) -> Result<()> {
        let mut transaction = self.database.begin().await?;
        let clear = Statement::new("DELETE FROM seen_vms WHERE connector_id = $1").bind(connector);
        transaction.execute(clear).await?;
        for vm in vms {
            let SeenVm { connector_id: _, vm_key, name, inventory_json, seen_at } = vm;
            let insert = Statement::new(
                "INSERT INTO seen_vms (connector_id, vm_key, name, inventory_json, seen_at)
                 VALUES ($1, $2, $3, $4, $5) ON CONFLICT (connector_id, vm_key) DO NOTHING",
            );
            let insert = insert.bind(connector).bind(vm_key).bind(name).bind(inventory_json);
            transaction.execute(insert.bind(*seen_at)).await?;
        }
        transaction.commit().await
    }

    /// All that connectors were seen to have, by name.
    ///
    /// # Errors
    /// Only those of the database.
    pub async fn seen_vms(&self) -> Result<Vec<SeenVm>> {
        let query = Statement::new("SELECT * FROM seen_vms ORDER BY name, connector_id, vm_key");
        self.database.fetch_all(query).await?.iter().map(seen_of).collect()
    }

    /// Of all that connectors were seen to have, what no enabled flow protects.
    ///
    /// # Errors
    /// Only those of the database.
    pub async fn unprotected_vms(&self) -> Result<Vec<SeenVm>> {
        let query = Statement::new(
            "SELECT * FROM seen_vms WHERE NOT EXISTS (
                 SELECT 1 FROM flow_members JOIN flows ON flows.id = flow_members.flow_id
                 WHERE flow_members.connector_id = seen_vms.connector_id
                     AND flow_members.vm_key = seen_vms.vm_key
                     AND flow_members.protect = 1 AND flows.enabled = 1)
             ORDER BY name, connector_id, vm_key",
        );
        self.database.fetch_all(query).await?.iter().map(seen_of).collect()
    }
}

fn ending(run: JobId, status: RunStatus, now: UtcMillis) -> Statement {
    let update = Statement::new(
        "UPDATE flow_runs SET status = $1, ended_at = $2 WHERE job_id = $3 AND status IS NULL",
    );
    update.bind(status.as_str()).bind(now).bind(run)
}

fn run_of(row: &Row) -> Result<FlowRun> {
    Ok(FlowRun {
        job_id: row.parsed("job_id")?,
        flow_id: row.parsed("flow_id")?,
        cause: row.parsed("cause")?,
        fire_at: row.opt_time("fire_at")?,
        status: row.opt_parsed("status")?,
        report_json: row.text("report_json")?,
        created_at: row.time("created_at")?,
        ended_at: row.opt_time("ended_at")?,
    })
}

fn run_vm_of(row: &Row) -> Result<FlowRunVm> {
    Ok(FlowRunVm {
        vm_id: row.parsed("vm_id")?,
        vm_name: row.text("vm_name")?,
        state: row.parsed("state")?,
        plan: row.text("plan")?,
        reason: row.text("reason")?,
        error: row.opt_text("error")?,
        attempts: row.unsigned("attempts")?,
        backup_id: row.opt_parsed("backup_id")?,
        detail_json: row.text("detail_json")?,
    })
}

fn member_of(row: &Row) -> Result<FlowMember> {
    Ok(FlowMember {
        connector_id: row.parsed("connector_id")?,
        vm_key: row.text("vm_key")?,
        vm_name: row.text("vm_name")?,
        protect: row.flag("protect")?,
        reason: row.text("reason")?,
    })
}

fn seen_of(row: &Row) -> Result<SeenVm> {
    Ok(SeenVm {
        connector_id: row.parsed("connector_id")?,
        vm_key: row.text("vm_key")?,
        name: row.text("name")?,
        inventory_json: row.text("inventory_json")?,
        seen_at: row.time("seen_at")?,
    })
}
