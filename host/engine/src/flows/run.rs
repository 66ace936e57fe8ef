//! One run of a flow, from its hooks to its end. Read [`Run::carry_out`] for the story.
//!
//! ```text
//! (window) ▶ hooks ▶ select and plan: recorded ▶ backups, some at a time, each tried again ▶ verify ▶ copy ▶ retention ▶ hooks ▶ tell
//! ```
//! Whatever it decides is recorded before it is done, and every job it queues has a key made of the run's id: a run whose
//! host dies or stops goes back to the queue, and whoever takes it finds the same jobs again. One VM's failure stops no other.

use std::sync::Arc;

use futures_util::{StreamExt as _, stream};
use serde_json::{Map, Value, json};
use tidemark_catalog::{Flow, FlowRunVm, Job, RunCause, RunStatus, RunVmState};
use tidemark_model::{ByteLen, JobId, PlanType, PolicyKind, RequestedType};
use tidemark_policy::{Window, Zone};

use super::select::{self, Selected};
use super::{FlowDefinition, OnFailure, definition_of, report_of, steps, wait};
use crate::error::{Error, ErrorKind, Result};
use crate::queue::JobContext;
use crate::requests::{BackupRequest, RunFlowPayload};

/// Who asks for what a flow does, in the audit trail.
pub(super) fn actor(flow: &Flow) -> String {
    format!("flow {}", flow.name)
}

/// A run under way.
pub(super) struct Run<'a> {
    pub(super) job: &'a Arc<JobContext>,
    pub(super) flow: Flow,
    pub(super) definition: FlowDefinition,
    cause: RunCause,
    /// What it did beside its backups; recorded after each step.
    pub(super) report: Map<String, Value>,
    pub(super) warnings: Vec<String>,
    /// Whether a step after the backups failed.
    pub(super) fell_short: bool,
}

/// Runs a flow's job.
pub(crate) async fn run(job: &Arc<JobContext>) -> Result<Value> {
    let mut run = match Run::open(job).await? {
        Opened::Run(run) => run,
        Opened::Ended(status, summary) => return ended_before(status, summary),
    };
    let ended = run.carry_out().await;
    if job.is_interrupted() {
        // It goes on when a host takes it again.
        return Err(Error::cancelled());
    }
    run.conclude(ended).await
}

/// The job of a run that had ended before: it ends as the run did.
fn ended_before(status: RunStatus, summary: Value) -> Result<Value> {
    match status {
        RunStatus::Succeeded | RunStatus::Partly => Ok(summary),
        RunStatus::Cancelled => Err(Error::cancelled()),
        RunStatus::Failed => {
            let why = summary["error"].as_str().unwrap_or("no VM could be backed up").to_owned();
            Err(Error::new(ErrorKind::Unavailable, format!("the flow's run failed: {why}")))
        }
    }
}

/// A run to carry out, or one whose end was recorded before its host could end the job.
enum Opened<'a> {
    Run(Box<Run<'a>>),
    Ended(RunStatus, Value),
}

impl<'a> Run<'a> {
    async fn open(job: &'a Arc<JobContext>) -> Result<Opened<'a>> {
        let RunFlowPayload { flow_id } = job.payload()?;
        let id = flow_id.parse().map_err(|e| Error::damaged(format!("{e}")))?;
        let flow = job.shared.catalog.flow(id).await?;
        let known = job.shared.catalog.flow_run(job.job.id).await?;
        if let Some(status) = known.status {
            return Ok(Opened::Ended(status, report_of(&known)["summary"].clone()));
        }
        let report = match report_of(&known) {
            Value::Object(report) => report,
            _ => Map::new(),
        };
        // A run goes on with the definition that it began with.
        let definition = match report.get("definition") {
            Some(begun) => FlowDefinition::parse(begun.clone())?,
            None => definition_of(&flow)?,
        };
        let told = report.get("warnings").and_then(Value::as_array).cloned().unwrap_or_default();
        let warnings = told.iter().filter_map(|word| word.as_str().map(str::to_owned)).collect();
        let cause = known.cause;
        Ok(Opened::Run(Box::new(Self { job, flow, definition, cause, report, warnings, fell_short: false })))
    }

    pub(super) fn id(&self) -> JobId {
        self.job.job.id
    }

    async fn carry_out(&mut self) -> Result<()> {
        if !self.report.contains_key("definition") {
            let begun = self.definition.to_document()?;
            self.record("definition", begun).await?;
        }
        let zone = Zone::parse(self.definition.time_zone()).map_err(|e| Error::invalid(e.to_string()))?;
        // Who asks for a run means now.
        let window = if self.cause == RunCause::Manual { None } else { self.definition.window()? };
        wait::for_window(self.job, window, zone).await?;
        self.hooks_before().await?;
        let worked = self.work(window, zone).await;
        if self.job.is_interrupted() {
            return worked;
        }
        // However it went: what a hook before has paused, one after resumes.
        let told = self.hooks_after().await;
        worked.and(told)
    }

    async fn work(&mut self, window: Option<Window>, zone: Zone) -> Result<()> {
        self.select().await?;
        self.back_up(window, zone).await?;
        self.job.check_cancelled()?;
        steps::verify(self).await?;
        self.job.check_cancelled()?;
        steps::copy(self).await?;
        steps::retention(self).await?;
        self.job.check_cancelled()
    }

    /// Keeps a part of the report.
    pub(super) async fn record(&mut self, name: &str, value: Value) -> Result<()> {
        self.report.insert(name.to_owned(), value);
        self.report.insert("warnings".to_owned(), json!(self.warnings));
        let report = Value::Object(self.report.clone()).to_string();
        self.job.shared.catalog.report_run(&self.job.lease, &report).await.map_err(Error::from)
    }

    /// The report as hooks get it: what was done, without how it was ordered.
    pub(super) fn told(&self) -> Value {
        let told = self.report.iter().filter(|(name, _)| *name != "definition");
        Value::Object(told.map(|(name, value)| (name.clone(), value.clone())).collect())
    }

    /// Decides once which VMs are backed up and how; a run that goes on keeps what was decided.
    async fn select(&mut self) -> Result<()> {
        let shared = &self.job.shared;
        if !shared.catalog.run_vms(self.id()).await?.is_empty() {
            return Ok(());
        }
        self.job.phase("selecting");
        let decided = select::decide(shared, &self.flow, &self.definition).await?;
        let (lease, now) = (&self.job.lease, shared.clock.now());
        shared.catalog.set_flow_members(lease, self.flow.id, &decided.members, now).await?;
        self.warnings.extend(decided.warnings);
        let mut vms = Vec::new();
        for selected in decided.selected {
            vms.push(self.planned(selected).await?);
        }
        shared.catalog.add_run_vms(lease, &vms).await?;
        let mut retention = Map::new();
        for (place, rule) in self.definition.retained() {
            if let Ok(decider) = shared.decider(PolicyKind::Retention, &rule.policy).await {
                retention.insert(place.to_owned(), decider.policy.to_json());
            }
        }
        let of_copies = self.definition.copy.as_ref().and_then(|copy| retention.get(&copy.repository));
        let policies = json!({
            "select": decided.policy,
            "retention": retention.get(&self.definition.repository),
            "copy_retention": of_copies,
        });
        self.record("policies", policies).await
    }

    async fn planned(&self, selected: Selected) -> Result<FlowRunVm> {
        let Selected { connector_id, key, name, inventory_json, reason, exclude_disks, plan } = selected;
        let vm = self.job.shared.protect(connector_id, &key, &name, &inventory_json).await?;
        let deferred = plan.kind == PlanType::Defer;
        let excluded: Vec<String> = exclude_disks.into_iter().map(|disk| disk.0).collect();
        Ok(FlowRunVm {
            vm_id: vm.id,
            vm_name: vm.name,
            state: if deferred { RunVmState::Skipped } else { RunVmState::Waiting },
            plan: plan.kind.as_str().to_owned(),
            reason: format!("{reason}; {}", plan.reason),
            error: deferred.then(|| format!("deferred by the policy: {}", plan.reason)),
            attempts: 0,
            backup_id: None,
            detail_json: json!({ "exclude_disks": excluded }).to_string(),
        })
    }

    async fn back_up(&mut self, window: Option<Window>, zone: Zone) -> Result<()> {
        let vms = self.job.shared.catalog.run_vms(self.id()).await?;
        let total = vms.len();
        self.job.report_with(move || json!({ "phase": "backing up", "vms": total }));
        let open: Vec<FlowRunVm> = vms
            .into_iter()
            .filter(|vm| matches!(vm.state, RunVmState::Waiting | RunVmState::Running))
            .collect();
        let run = &*self;
        let mut ends = stream::iter(open)
            .map(|vm| run.back_up_one(vm, window, zone))
            .buffer_unordered(self.definition.backup.concurrency.max(1));
        let mut stopped = None;
        while let Some(ended) = ends.next().await {
            if let Err(error) = ended {
                stopped.get_or_insert(error);
            }
        }
        stopped.map_or(Ok(()), Err)
    }

    /// One VM's backup with its tries. An error is the run's, not the VM's.
    async fn back_up_one(&self, mut vm: FlowRunVm, window: Option<Window>, zone: Zone) -> Result<()> {
        loop {
            if self.job.is_interrupted() {
                // Its turn comes when the run goes on.
                return Err(Error::cancelled());
            }
            if self.job.cancel.is_cancelled() {
                self.keep(
                    &mut vm,
                    RunVmState::Skipped,
                    Some("the run was cancelled before its turn".to_owned()),
                )
                .await?;
                return Err(Error::cancelled());
            }
            let closed = window.is_some_and(|window| !window.contains(self.job.shared.clock.now(), zone));
            if closed && vm.state == RunVmState::Waiting {
                let why = "the window closed before its turn".to_owned();
                return self.keep(&mut vm, RunVmState::Skipped, Some(why)).await;
            }
            let job = match self.submit(&mut vm).await {
                Ok(job) => wait::for_job(self.job, job.id).await?,
                Err(_) if self.job.is_interrupted() => return Err(Error::cancelled()),
                Err(error) => {
                    return self.keep(&mut vm, RunVmState::Failed, Some(error.chain())).await;
                }
            };
            vm.attempts += 1;
            let (again, why) = match wait::verdict(&job) {
                Ok(()) => {
                    self.note_success(&mut vm, &job);
                    return self.keep(&mut vm, RunVmState::Succeeded, None).await;
                }
                Err(failed) => failed,
            };
            if !again || vm.attempts >= self.definition.backup.attempts || self.job.cancel.is_cancelled() {
                return self.keep(&mut vm, RunVmState::Failed, Some(why)).await;
            }
            tracing::info!(
                vm = vm.vm_name,
                attempt = vm.attempts,
                why,
                "a flow's backup failed and is tried again"
            );
            self.keep(&mut vm, RunVmState::Waiting, Some(why)).await?;
            let pause = self.definition.backup.retry_pause(vm.attempts);
            // Cancelled: the next turn of the loop says so.
            let _ = wait::pause(self.job, pause).await;
        }
    }

    async fn submit(&self, vm: &mut FlowRunVm) -> Result<Job> {
        let detail: Value = serde_json::from_str(&vm.detail_json).unwrap_or_default();
        let excluded = detail.get("exclude_disks").and_then(Value::as_array).cloned().unwrap_or_default();
        let backup = &self.definition.backup;
        let request = BackupRequest {
            vm: vm.vm_id.to_string(),
            repository: self.definition.repository.clone(),
            requested: if vm.plan == PlanType::Full.as_str() {
                RequestedType::Full
            } else {
                RequestedType::Auto
            },
            bandwidth: Some(ByteLen(backup.bandwidth_bytes_per_second)),
            exclude_disks: excluded.iter().filter_map(|disk| disk.as_str().map(str::to_owned)).collect(),
            then_synthetic: vm.plan == PlanType::SyntheticFull.as_str(),
            priority: backup.priority,
            idempotency_key: Some(format!("flow/{}/{}/{}", self.id(), vm.vm_id, vm.attempts)),
        };
        let submitted = self.job.shared.submit_backup(&actor(&self.flow), request).await?;
        vm.backup_id = Some(submitted.backup_id);
        self.keep(vm, RunVmState::Running, None).await?;
        Ok(submitted.job)
    }

    fn note_success(&self, vm: &mut FlowRunVm, job: &Job) {
        let result: Value =
            job.result_json.as_deref().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
        let mut detail: Value = serde_json::from_str(&vm.detail_json).unwrap_or_else(|_| json!({}));
        for name in ["backup_type", "reason_code", "reason", "read_bytes", "stored_bytes", "warnings"] {
            if let Some(value) = result.get(name) {
                detail[name] = value.clone();
            }
        }
        vm.detail_json = detail.to_string();
    }

    async fn keep(&self, vm: &mut FlowRunVm, state: RunVmState, error: Option<String>) -> Result<()> {
        vm.state = state;
        vm.error = error;
        self.job.shared.catalog.update_run_vm(&self.job.lease, vm).await.map_err(Error::from)
    }

    async fn hooks_before(&mut self) -> Result<()> {
        if self.definition.hooks.before.is_empty() {
            return Ok(());
        }
        if let Some(told) = self.report.get("hooks_before") {
            // A run that goes on: what stopped it stops it again.
            let refused = told.as_array().is_some_and(|told| told.iter().any(|hook| hook["aborts"] == true));
            let message = "a hook before the backups refused, before the run's host was interrupted";
            return if refused { Err(Error::new(ErrorKind::Unavailable, message)) } else { Ok(()) };
        }
        self.job.phase("calling hooks");
        let hooks = self.definition.hooks.before.clone();
        let told = steps::call_hooks(self, "before", &hooks).await;
        let failed = told.iter().find(|told| told.failed && told.on_failure == OnFailure::Abort);
        let failed = failed.map(|told| Error::new(ErrorKind::Unavailable, format!("hook {}", told.words)));
        let told: Vec<Value> = told.iter().map(steps::HookTold::to_json).collect();
        self.record("hooks_before", json!(told)).await?;
        failed.map_or(Ok(()), Err)
    }

    async fn hooks_after(&mut self) -> Result<()> {
        if self.definition.hooks.after.is_empty() {
            return Ok(());
        }
        self.job.phase("calling hooks");
        let hooks = self.definition.hooks.after.clone();
        let told = steps::call_hooks(self, "after", &hooks).await;
        self.fell_short |= told.iter().any(|told| told.failed && told.on_failure == OnFailure::Abort);
        let told: Vec<Value> = told.iter().map(steps::HookTold::to_json).collect();
        self.record("hooks_after", json!(told)).await
    }

    /// How it ended, recorded, told, and as the job's result.
    async fn conclude(&mut self, ended: Result<()>) -> Result<Value> {
        let shared = Arc::clone(&self.job.shared);
        let vms = shared.catalog.run_vms(self.id()).await?;
        let status = status_of(&vms, &ended, self.fell_short);
        let summary = self.summary(status, &vms, ended.as_ref().err());
        self.record("summary", summary.clone()).await?;
        steps::notify(self, status, &summary).await;
        self.record("warnings", json!(self.warnings)).await?;
        shared.catalog.end_run(&self.job.lease, status, shared.clock.now()).await?;
        tracing::info!(
            flow = self.flow.name,
            status = status.as_str(),
            vms = vms.len(),
            "a flow's run ended"
        );
        match (status, ended) {
            (RunStatus::Cancelled, _) => Err(Error::cancelled()),
            (RunStatus::Failed, Err(error)) => Err(error.context(format!("flow '{}'", self.flow.name))),
            (RunStatus::Failed, Ok(())) => Err(Error::new(
                ErrorKind::Unavailable,
                format!("flow '{}': no VM could be backed up: {}", self.flow.name, first_failures(&vms)),
            )),
            _ => Ok(summary),
        }
    }

    fn summary(&self, status: RunStatus, vms: &[FlowRunVm], error: Option<&Error>) -> Value {
        let count = |state: RunVmState| vms.iter().filter(|vm| vm.state == state).count();
        let told: Vec<Value> = vms
            .iter()
            .map(|vm| {
                json!({
                    "vm_name": vm.vm_name,
                    "state": vm.state.as_str(),
                    "plan": vm.plan,
                    "reason": vm.reason,
                    "error": vm.error,
                    "backup_id": vm.backup_id.map(|id| id.to_string()),
                })
            })
            .collect();
        let mut warnings = self.warnings.clone();
        if status == RunStatus::Partly {
            warnings.push(format!("not all went well: {}", first_failures(vms)));
        }
        json!({
            "flow": self.flow.name,
            "run_id": self.id().to_string(),
            "status": status.as_str(),
            "succeeded": count(RunVmState::Succeeded),
            "failed": count(RunVmState::Failed),
            "skipped": count(RunVmState::Skipped),
            "error": error.map(Error::chain),
            "vms": told,
            "warnings": warnings,
        })
    }
}

/// One VM's failure makes it partly; all of them make it failed.
fn status_of(vms: &[FlowRunVm], ended: &Result<()>, fell_short: bool) -> RunStatus {
    let any = |state: RunVmState| vms.iter().any(|vm| vm.state == state);
    match ended {
        Err(error) if error.kind() == ErrorKind::Cancelled => RunStatus::Cancelled,
        Err(_) if any(RunVmState::Succeeded) => RunStatus::Partly,
        Err(_) => RunStatus::Failed,
        Ok(()) if any(RunVmState::Failed) && !any(RunVmState::Succeeded) => RunStatus::Failed,
        Ok(()) if any(RunVmState::Failed) || fell_short => RunStatus::Partly,
        Ok(()) => {
            let cut_short =
                vms.iter().any(|vm| vm.state == RunVmState::Skipped && vm.plan != PlanType::Defer.as_str());
            if cut_short { RunStatus::Partly } else { RunStatus::Succeeded }
        }
    }
}

/// The first few VMs without a backup, and why.
fn first_failures(vms: &[FlowRunVm]) -> String {
    let failed: Vec<String> = vms
        .iter()
        .filter(|vm| matches!(vm.state, RunVmState::Failed | RunVmState::Skipped))
        .filter_map(|vm| vm.error.as_ref().map(|error| format!("{}: {error}", vm.vm_name)))
        .collect();
    let more = failed.len().saturating_sub(3);
    let told = failed[..failed.len().min(3)].join("; ");
    if more > 0 { format!("{told}; and {more} more") } else { told }
}

#[cfg(test)]
mod tests {
    use tidemark_model::VmId;

    use super::*;

    fn vm(state: RunVmState, plan: PlanType) -> FlowRunVm {
        FlowRunVm {
            vm_id: VmId::random(),
            vm_name: "web01".to_owned(),
            state,
            plan: plan.as_str().to_owned(),
            reason: String::new(),
            error: (state != RunVmState::Succeeded).then(|| "why".to_owned()),
            attempts: 1,
            backup_id: None,
            detail_json: "{}".to_owned(),
        }
    }

    #[test]
    fn a_run_is_as_good_as_its_vms() {
        let good = || vm(RunVmState::Succeeded, PlanType::Incremental);
        let bad = || vm(RunVmState::Failed, PlanType::Incremental);
        let late = || vm(RunVmState::Skipped, PlanType::Incremental);
        let deferred = || vm(RunVmState::Skipped, PlanType::Defer);
        let status = |vms: &[FlowRunVm]| status_of(vms, &Ok(()), false);
        assert_eq!(status(&[good(), good()]), RunStatus::Succeeded);
        assert_eq!(status(&[good(), bad()]), RunStatus::Partly);
        assert_eq!(status(&[bad(), bad()]), RunStatus::Failed);
        assert_eq!(status(&[good(), late()]), RunStatus::Partly);
        assert_eq!(status(&[good(), deferred()]), RunStatus::Succeeded);
        assert_eq!(status(&[]), RunStatus::Succeeded);
        assert_eq!(status_of(&[good()], &Ok(()), true), RunStatus::Partly);
        assert_eq!(status_of(&[good()], &Err(Error::invalid("x")), false), RunStatus::Partly);
        assert_eq!(status_of(&[], &Err(Error::invalid("x")), false), RunStatus::Failed);
        assert_eq!(status_of(&[good()], &Err(Error::cancelled()), false), RunStatus::Cancelled);
    }

    #[test]
    fn failures_are_told_by_name_but_not_without_end() {
        let vms: Vec<FlowRunVm> = (0..5).map(|_| vm(RunVmState::Failed, PlanType::Full)).collect();
        assert_eq!(first_failures(&vms), "web01: why; web01: why; web01: why; and 2 more");
    }
}
