//! Protection flows, their runs, and what reports say about all of them.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tidemark_catalog::{Firing, Flow, FlowRun, FlowRunVm};
use tidemark_engine::{FlowStatus, Preview, UnprotectedVm};

use super::{json_value, rfc3339};

/// Makes or replaces a flow: its name and state beside the members of its definition (`docs/flows.md`).
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
pub struct WriteFlow {
    /// A unique name. A change may leave it out.
    pub name: Option<String>,
    /// Whether it fires; a new flow does unless it says no.
    pub enabled: Option<bool>,
    /// Secrets by name, for hooks and webhooks; they never come back.
    #[serde(default)]
    pub secrets: BTreeMap<String, String>,
    /// `repository`, `select`, `schedule`, `backup`, `retention`, `verify`, `copy`, `hooks`, `notify`, `description`; or
    /// the older `repository_id`, `target_type` with `target_id`, and `policy_id`.
    #[serde(flatten)]
    pub definition: Map<String, Value>,
}

impl WriteFlow {
    /// The definition's members in today's words; none where there are none.
    pub(crate) fn document(&self) -> Option<Value> {
        let mut members = self.definition.clone();
        members.remove("flow_type");
        if let Some(repository) = members.remove("repository_id") {
            members.entry("repository").or_insert(repository);
        }
        if let Some(target) = members.remove("target_id") {
            let select = match members.remove("target_type").as_ref().and_then(Value::as_str) {
                Some("group") => json!({ "policy": target }),
                _ => json!({ "vms": [target] }),
            };
            members.entry("select").or_insert(select);
        }
        if let Some(policy) = members.remove("policy_id").filter(|policy| !policy.is_null()) {
            members.entry("retention").or_insert(json!({ "policy": policy }));
        }
        if let Some(Value::String(cron)) = members.get("schedule").cloned() {
            members.insert("schedule".to_owned(), json!({ "cron": cron }));
        }
        (!members.is_empty()).then_some(Value::Object(members))
    }
}

/// A flow.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct FlowEntry {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Always `backup`.
    pub flow_type: String,
    /// Whether it fires.
    pub enabled: bool,
    /// What it does.
    pub definition: Value,
    /// When it fires next.
    pub next_execution: Option<String>,
    /// When it was made.
    pub created_at: String,
    /// When it was last changed.
    pub updated_at: String,
}

impl From<&Flow> for FlowEntry {
    fn from(flow: &Flow) -> Self {
        let Flow {
            id,
            name,
            enabled,
            definition_json,
            secrets_json: _,
            revision: _,
            next_fire_at,
            created_at,
            updated_at,
        } = flow;
        Self {
            id: id.to_string(),
            name: name.clone(),
            flow_type: "backup".to_owned(),
            enabled: *enabled,
            definition: json_value(definition_json),
            next_execution: next_fire_at.map(rfc3339),
            created_at: rfc3339(*created_at),
            updated_at: rfc3339(*updated_at),
        }
    }
}

/// Flows.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct FlowList {
    /// By name.
    pub flows: Vec<FlowEntry>,
    /// How many there are.
    pub total: usize,
}

/// A run of a flow.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct ExecutionEntry {
    /// The run's id, which is its job's.
    pub id: String,
    /// The same.
    pub job_id: String,
    /// Of which flow.
    pub flow_id: String,
    /// `schedule`, `catch-up` or `manual`.
    pub execution_type: String,
    /// `running`, `succeeded`, `partly`, `failed` or `cancelled`.
    pub status: String,
    /// For which time, where the schedule began it.
    pub fire_at: Option<String>,
    /// When it was queued.
    pub created_at: String,
    /// When it ended.
    pub completed_at: Option<String>,
    /// What it did beside the backups.
    pub report: Value,
    /// Its VMs; only where one run is asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub vms: Vec<ExecutionVm>,
}

/// One VM of a run.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct ExecutionVm {
    /// Its id.
    pub vm_id: String,
    /// Its name.
    pub vm_name: String,
    /// `waiting`, `running`, `succeeded`, `failed` or `skipped`.
    pub state: String,
    /// What was planned.
    pub plan: String,
    /// Why it was selected and planned so.
    pub reason: String,
    /// Why it failed or was skipped.
    pub error: Option<String>,
    /// Backups that were tried.
    pub attempts: u32,
    /// The newest of them.
    pub backup_id: Option<String>,
    /// What the backup became, and why.
    pub detail: Value,
}

impl ExecutionEntry {
    /// A run with its VMs.
    pub(crate) fn new(run: &FlowRun, vms: &[FlowRunVm]) -> Self {
        let FlowRun { job_id, flow_id, cause, fire_at, status, report_json, created_at, ended_at } = run;
        Self {
            id: job_id.to_string(),
            job_id: job_id.to_string(),
            flow_id: flow_id.to_string(),
            execution_type: cause.as_str().to_owned(),
            status: status.map_or("running", tidemark_catalog::RunStatus::as_str).to_owned(),
            fire_at: fire_at.map(rfc3339),
            created_at: rfc3339(*created_at),
            completed_at: ended_at.map(rfc3339),
            report: json_value(report_json),
            vms: vms.iter().map(ExecutionVm::from).collect(),
        }
    }
}

impl From<&FlowRunVm> for ExecutionVm {
    fn from(vm: &FlowRunVm) -> Self {
        let FlowRunVm { vm_id, vm_name, state, plan, reason, error, attempts, backup_id, detail_json } = vm;
        Self {
            vm_id: vm_id.to_string(),
            vm_name: vm_name.clone(),
            state: state.as_str().to_owned(),
            plan: plan.clone(),
            reason: reason.clone(),
            error: error.clone(),
            attempts: *attempts,
            backup_id: backup_id.map(|id| id.to_string()),
            detail: json_value(detail_json),
        }
    }
}

/// Runs of a flow.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct ExecutionList {
    /// The newest first.
    pub executions: Vec<ExecutionEntry>,
    /// How many are shown.
    pub total: usize,
    /// Pass it back as `cursor` for the next part.
    pub next_cursor: Option<String>,
}

/// A time for which a flow fired.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct FiringEntry {
    /// For which time of the schedule.
    pub fire_at: String,
    /// When it happened.
    pub fired_at: String,
    /// On which host.
    pub fired_by: String,
    /// Times before it that nobody was there for.
    pub missed: u32,
    /// Its run, unless it was passed over.
    pub execution_id: Option<String>,
    /// Why it was passed over.
    pub skipped: Option<String>,
}

impl From<&Firing> for FiringEntry {
    fn from(firing: &Firing) -> Self {
        let Firing { flow_id: _, fire_at, fired_at, fired_by, missed, job_id, skipped } = firing;
        Self {
            fire_at: rfc3339(*fire_at),
            fired_at: rfc3339(*fired_at),
            fired_by: fired_by.clone(),
            missed: *missed,
            execution_id: job_id.map(|id| id.to_string()),
            skipped: skipped.clone(),
        }
    }
}

/// One page of firings.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct FiringList {
    /// The newest first.
    pub firings: Vec<FiringEntry>,
    /// For the next page.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

/// A run that was queued.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct StartedExecution {
    /// The run's id, which is its job's.
    pub execution_id: String,
    /// The same.
    pub job_id: String,
    /// Of which flow.
    pub flow_id: String,
    /// The job's state.
    pub status: String,
    /// For people.
    pub message: String,
}

/// How a flow stands.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct FlowStanding {
    /// The flow.
    pub flow: FlowEntry,
    /// Its newest run.
    pub last_execution: Option<ExecutionEntry>,
    /// When it fires next.
    pub next_run: Option<String>,
    /// Runs by how they ended.
    pub executions: BTreeMap<String, u64>,
}

impl From<&FlowStatus> for FlowStanding {
    fn from(status: &FlowStatus) -> Self {
        let FlowStatus { flow, last_run, last_vms, counts } = status;
        Self {
            flow: FlowEntry::from(flow),
            last_execution: last_run.as_ref().map(|run| ExecutionEntry::new(run, last_vms)),
            next_run: flow.next_fire_at.map(rfc3339),
            executions: counts.clone(),
        }
    }
}

/// What a flow would do now.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct FlowPreview {
    /// Each VM it looks at.
    pub vms: Vec<PreviewEntry>,
    /// What must be known.
    pub warnings: Vec<String>,
    /// When it fires next, and then.
    pub next_firings: Vec<String>,
}

/// What a flow would do with a VM.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct PreviewEntry {
    /// Its name.
    pub name: String,
    /// The hypervisor's key.
    pub key: String,
    /// Whether it is protected.
    pub protect: bool,
    /// Why.
    pub reason: String,
    /// `full`, `incremental`, `synthetic-full` or `defer`, for a protected one.
    pub plan: Option<String>,
    /// Why that.
    pub plan_reason: Option<String>,
}

impl From<Preview> for FlowPreview {
    fn from(preview: Preview) -> Self {
        let Preview { vms, warnings, next_firings } = preview;
        let vms = vms.into_iter().map(|vm| PreviewEntry {
            name: vm.name,
            key: vm.key,
            protect: vm.protect,
            reason: vm.reason,
            plan: vm.plan.as_ref().map(|plan| plan.kind.as_str().to_owned()),
            plan_reason: vm.plan.map(|plan| plan.reason),
        });
        let vms = vms.collect();
        Self { vms, warnings, next_firings: next_firings.into_iter().map(rfc3339).collect() }
    }
}

/// Names flows.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BulkFlows {
    /// Ids or names.
    pub flow_ids: Vec<String>,
}

/// What became of each of them.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
pub struct BulkOutcome {
    /// How many it worked for.
    pub successful: usize,
    /// How many it did not.
    pub failed: usize,
    /// Why not, by what was given.
    pub errors: BTreeMap<String, String>,
    /// The jobs that were queued, where some were.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub jobs: BTreeMap<String, String>,
}

/// All flows in one look.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
pub struct FlowSummary {
    /// How many there are.
    pub total_flows: usize,
    /// How many fire.
    pub enabled_flows: usize,
    /// How many do not.
    pub disabled_flows: usize,
    /// How many have a run under way.
    pub running: usize,
    /// Whose newest run ended well.
    pub succeeded: usize,
    /// Whose newest run ended otherwise.
    pub troubled: usize,
    /// VMs that no enabled flow protects.
    pub unprotected_vms: usize,
}

/// A VM that no enabled flow protects.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct UnprotectedEntry {
    /// Its name.
    pub name: String,
    /// The hypervisor's key.
    pub key: String,
    /// The connector that shows it.
    pub connector: String,
    /// Where it lies in the inventory.
    pub folder: String,
    /// When it was last seen.
    pub seen_at: String,
    /// What each enabled flow that looked at it said.
    pub reasons: Vec<String>,
}

/// VMs that no enabled flow protects.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct UnprotectedList {
    /// By name.
    pub vms: Vec<UnprotectedEntry>,
    /// How many there are.
    pub total: usize,
}

impl From<Vec<UnprotectedVm>> for UnprotectedList {
    fn from(found: Vec<UnprotectedVm>) -> Self {
        let entry = |vm: UnprotectedVm| {
            let UnprotectedVm { name, key, connector, folder, seen_at, reasons } = vm;
            UnprotectedEntry { name, key, connector, folder, seen_at: rfc3339(seen_at), reasons }
        };
        Self { total: found.len(), vms: found.into_iter().map(entry).collect() }
    }
}

/// Whether connectors are asked first.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UnprotectedQuery {
    /// Ask every connector now.
    #[serde(default)]
    pub refresh: bool,
}

#[cfg(test)]
mod tests {
    use tidemark_engine::FlowDefinition;

    use super::*;

    #[test]
    fn older_members_mean_the_same() {
        let older = r#"{"name":"n","flow_type":"backup","target_type":"group","target_id":"by-tag",
            "repository_id":"main","policy_id":"gfs","schedule":"0 22 * * *"}"#;
        let older: WriteFlow = serde_json::from_str(older).unwrap();
        let document = older.document().unwrap();
        assert_eq!(
            document,
            json!({
                "repository": "main", "select": { "policy": "by-tag" }, "retention": { "policy": "gfs" },
                "schedule": { "cron": "0 22 * * *" },
            })
        );
        FlowDefinition::parse(document).unwrap();
        let one: WriteFlow = serde_json::from_str(
            r#"{"name":"n","target_type":"vm","target_id":"web01","repository_id":"m"}"#,
        )
        .unwrap();
        assert_eq!(one.document().unwrap()["select"], json!({ "vms": ["web01"] }));
        let off: WriteFlow = serde_json::from_str(r#"{"enabled":false}"#).unwrap();
        assert!(off.document().is_none());
    }
}
