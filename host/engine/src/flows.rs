//! Protection flows: which VMs are backed up where and when, and what follows. A flow is defined here, fired by
//! [`scheduler`], and each of its runs is a job whose story [`run`] tells.
//!
//! ```text
//! definition ─▶ scheduler (any host) ─▶ firing + job ─▶ run: select ▶ plan ▶ backups ▶ verify ▶ copy ▶ retention ▶ tell
//! ```

mod calls;
mod definition;
mod report;
mod run;
mod scheduler;
mod select;
mod steps;
mod wait;

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tidemark_catalog::{Flow, FlowRun, FlowRunVm, Job};
use tidemark_model::{FlowId, PolicyKind, UtcMillis};

pub use calls::{HookRule, Hooks, NotifyRule, OnFailure};
pub use definition::{
    BackupRule, CopyRule, FlowDefinition, RetentionLevel, RetentionRule, ScheduleRule, SelectRule, VerifyRule,
};
pub use report::UnprotectedVm;
pub(crate) use run::run;
pub(crate) use scheduler::watch;
pub use select::{Preview, PreviewVm};

use crate::engine::{Engine, Shared};
use crate::error::{Error, ErrorKind, Result};

/// A flow to be.
#[derive(Clone)]
pub struct NewFlow {
    /// Unique name.
    pub name: String,
    /// What it does.
    pub definition: FlowDefinition,
    /// Secrets by name, for hooks and webhooks; sealed before they are stored.
    pub secrets: BTreeMap<String, String>,
    /// Whether it fires from now on.
    pub enabled: bool,
}

/// A change of a flow: what is given replaces what was.
#[derive(Clone, Default)]
pub struct FlowChange {
    /// Another name.
    pub name: Option<String>,
    /// Another definition, whole.
    pub definition: Option<FlowDefinition>,
    /// Secrets by name; those that are not given stay.
    pub secrets: BTreeMap<String, String>,
    /// Whether it fires.
    pub enabled: Option<bool>,
}

/// How a flow stands.
#[derive(Debug, Clone)]
pub struct FlowStatus {
    /// The flow.
    pub flow: Flow,
    /// Its newest run.
    pub last_run: Option<FlowRun>,
    /// That run's VMs.
    pub last_vms: Vec<FlowRunVm>,
    /// Runs by how they ended.
    pub counts: BTreeMap<String, u64>,
}

/// What a flow does, as it was stored.
pub(crate) fn definition_of(flow: &Flow) -> Result<FlowDefinition> {
    serde_json::from_str(&flow.definition_json)
        .map_err(|e| Error::damaged(format!("the definition of flow '{}': {e}", flow.name)))
}

impl FlowDefinition {
    /// A definition as a client wrote it.
    ///
    /// # Errors
    /// Invalid, with the field.
    pub fn parse(document: Value) -> Result<Self> {
        serde_path_to_error::deserialize(document).map_err(|error| {
            let path = error.path().to_string();
            let words = error.inner().to_string();
            if path == "." { Error::invalid(words) } else { Error::invalid_field(path, words) }
        })
    }

    /// The same as a document.
    ///
    /// # Errors
    /// Internal, where it cannot be written.
    pub fn to_document(&self) -> Result<Value> {
        serde_json::to_value(self).map_err(|e| Error::internal(format!("writing a definition: {e}")))
    }

    /// The definition that a stored flow has.
    ///
    /// # Errors
    /// Damaged where it cannot be read.
    pub fn of(flow: &Flow) -> Result<Self> {
        definition_of(flow)
    }
}

impl Engine {
    /// Makes a flow.
    ///
    /// # Errors
    /// Invalid by field; not found for what it names; conflict where the name is taken.
    pub async fn create_flow(&self, actor: &str, new: NewFlow) -> Result<Flow> {
        let NewFlow { name, definition, secrets, enabled } = new;
        check_name(&name)?;
        self.check_flow(&definition, &secrets).await?;
        let id = FlowId::random();
        let now = self.shared.clock.now();
        let flow = Flow {
            id,
            secrets_json: self.shared.secrets.seal_all(&owner_of(id), &secrets)?,
            definition_json: to_json(&definition)?,
            enabled,
            revision: 1,
            next_fire_at: next_fire(&definition, enabled, now)?,
            name,
            created_at: now,
            updated_at: now,
        };
        self.catalog().add_flow(&flow).await?;
        self.shared.audit(actor, "flow.create", &flow.name, json!({ "enabled": enabled })).await;
        Ok(flow)
    }

    /// Changes a flow. Its next time is counted from now.
    ///
    /// # Errors
    /// As [`Engine::create_flow`]; conflict where it was changed meanwhile.
    pub async fn update_flow(&self, actor: &str, name_or_id: &str, change: FlowChange) -> Result<Flow> {
        let FlowChange { name, definition, secrets, enabled } = change;
        let mut flow = self.flow(name_or_id).await?;
        let definition = match definition {
            Some(definition) => definition,
            None => definition_of(&flow)?,
        };
        if let Some(name) = name {
            check_name(&name)?;
            flow.name = name;
        }
        let mut sealed = self.shared.secrets.open_all(&owner_of(flow.id), &flow.secrets_json)?;
        sealed.extend(secrets);
        self.check_flow(&definition, &sealed).await?;
        flow.enabled = enabled.unwrap_or(flow.enabled);
        flow.updated_at = self.shared.clock.now();
        flow.next_fire_at = next_fire(&definition, flow.enabled, flow.updated_at)?;
        flow.definition_json = to_json(&definition)?;
        flow.secrets_json = self.shared.secrets.seal_all(&owner_of(flow.id), &sealed)?;
        let flow = self.catalog().update_flow(&flow).await?;
        self.shared.audit(actor, "flow.update", &flow.name, json!({ "enabled": flow.enabled })).await;
        Ok(flow)
    }

    /// Lets a flow fire, or not.
    ///
    /// # Errors
    /// Not found; invalid where it cannot fire any more as it is.
    pub async fn set_flow_enabled(&self, actor: &str, name_or_id: &str, enabled: bool) -> Result<Flow> {
        let change = FlowChange { enabled: Some(enabled), ..FlowChange::default() };
        self.update_flow(actor, name_or_id, change).await
    }

    /// Forgets a flow, its firings and runs. Its backups stay.
    ///
    /// # Errors
    /// Not found; conflict while it runs.
    pub async fn remove_flow(&self, actor: &str, name_or_id: &str) -> Result<()> {
        let flow = self.flow(name_or_id).await?;
        self.catalog().remove_flow(flow.id).await?;
        self.shared.audit(actor, "flow.remove", &flow.name, json!({})).await;
        Ok(())
    }

    /// Runs a flow now, enabled or not.
    ///
    /// # Errors
    /// Not found; conflict while a run of it waits already.
    pub async fn execute_flow(
        &self,
        actor: &str,
        name_or_id: &str,
        idempotency_key: Option<String>,
    ) -> Result<(Flow, Job)> {
        let flow = self.flow(name_or_id).await?;
        let priority = definition_of(&flow)?.backup.priority;
        let now = self.shared.clock.now();
        let job = self.catalog().run_flow(flow.id, priority, idempotency_key.as_deref(), now).await?;
        self.shared.emit("job-queued", &job, json!({ "flow": flow.name }));
        self.shared.wake.all();
        let detail = json!({ "job_id": job.id.to_string() });
        self.shared.audit(actor, "flow.execute", &flow.name, detail).await;
        Ok((flow, job))
    }

    /// How a flow stands.
    ///
    /// # Errors
    /// Not found.
    pub async fn flow_status(&self, name_or_id: &str) -> Result<FlowStatus> {
        let flow = self.flow(name_or_id).await?;
        let request = tidemark_catalog::PageRequest { limit: 1, cursor: None };
        let last_run = self.catalog().list_flow_runs(flow.id, &request).await?.items.into_iter().next();
        let last_vms = match &last_run {
            Some(run) => self.catalog().run_vms(run.job_id).await?,
            None => Vec::new(),
        };
        let counted = self.catalog().count_flow_runs(flow.id).await?;
        let counts = counted
            .into_iter()
            .map(|(status, runs)| {
                (status.map_or("running", tidemark_catalog::RunStatus::as_str).to_owned(), runs)
            })
            .collect();
        Ok(FlowStatus { flow, last_run, last_vms, counts })
    }

    /// When a flow would fire next, and so on.
    ///
    /// # Errors
    /// Not found.
    pub async fn next_firings(&self, name_or_id: &str, count: usize) -> Result<Vec<UtcMillis>> {
        let flow = self.flow(name_or_id).await?;
        let timetable = definition_of(&flow)?.timetable()?;
        let now = self.shared.clock.now();
        Ok(timetable.map(|timetable| timetable.upcoming(now, count)).unwrap_or_default())
    }

    /// The flow of this name or id.
    ///
    /// # Errors
    /// Not found.
    pub async fn flow(&self, name_or_id: &str) -> Result<Flow> {
        let found = self.catalog().flow_by_name_or_id(name_or_id).await?;
        found.ok_or_else(|| Error::not_found("flow", name_or_id))
    }

    /// Sees that a definition can be understood and that what it names exists.
    async fn check_flow(
        &self,
        definition: &FlowDefinition,
        secrets: &BTreeMap<String, String>,
    ) -> Result<()> {
        definition.check()?;
        let repository = self.named("repository", self.repository(&definition.repository).await)?;
        if let Some(copy) = &definition.copy {
            let target = self.named("copy.repository", self.repository(&copy.repository).await)?;
            if target.id == repository.id {
                let message = "a copy belongs into another repository than the backups";
                return Err(Error::invalid_field("copy.repository", message));
            }
        }
        if let Some(policy) = &definition.select.policy {
            self.named("select.policy", self.shared.decider(PolicyKind::Group, policy).await)?;
        }
        for (place, rule) in definition.retained() {
            let own = place == definition.repository;
            let field = if own { "retention.policy" } else { "copy.retention.policy" };
            self.named(field, self.shared.decider(PolicyKind::Retention, &rule.policy).await)?;
        }
        for connector in &definition.select.connectors {
            self.named("select.connectors", self.connector(connector).await)?;
        }
        for vm in &definition.select.vms {
            self.named("select.vms", self.vm(vm).await)?;
        }
        if let Some(missing) = definition.secret_names().find(|name| !secrets.contains_key(*name)) {
            let message = format!("the flow has no secret '{missing}'");
            return Err(Error::invalid_field("secrets", message));
        }
        let mail = definition.notify.iter().flat_map(|rule| &rule.mail);
        for address in mail {
            if self.shared.mail.is_none() {
                let message =
                    "this server has no [smtp] section in its configuration, so it cannot send mail";
                return Err(Error::invalid_field("notify.mail", message));
            }
            address
                .parse::<tidemark_notify::Address>()
                .map_err(|e| Error::invalid_field("notify.mail", e.to_string()))?;
        }
        Ok(())
    }

    /// An error of a look-up is the field's fault.
    fn named<T>(&self, field: &str, found: Result<T>) -> Result<T> {
        found.map_err(|error| match error.kind() {
            ErrorKind::NotFound | ErrorKind::Invalid => Error::invalid_field(field, error.chain()),
            _ => error,
        })
    }
}

impl Shared {
    /// A flow's secret.
    pub(crate) fn flow_secret(&self, flow: &Flow, name: &str) -> Result<String> {
        let secrets = self.secrets.open_all(&owner_of(flow.id), &flow.secrets_json)?;
        let missing = || Error::invalid(format!("flow '{}' has no secret '{name}'", flow.name));
        secrets.get(name).cloned().ok_or_else(missing)
    }
}

/// Whose sealed secrets they are: an id, as a flow may be renamed.
fn owner_of(id: FlowId) -> String {
    format!("flow {id}")
}

fn to_json(definition: &FlowDefinition) -> Result<String> {
    serde_json::to_string(definition).map_err(|e| Error::internal(format!("writing a definition: {e}")))
}

fn next_fire(definition: &FlowDefinition, enabled: bool, now: UtcMillis) -> Result<Option<UtcMillis>> {
    let timetable = if enabled { definition.timetable()? } else { None };
    Ok(timetable.and_then(|timetable| timetable.next_after(now)))
}

fn check_name(name: &str) -> Result<()> {
    if name.is_empty() || name.len() > 128 || name.chars().any(char::is_control) {
        return Err(Error::invalid_field("name", "a flow's name has 1 to 128 printable characters"));
    }
    Ok(())
}

/// A report as JSON, empty where it cannot be read.
pub(crate) fn report_of(run: &FlowRun) -> Value {
    serde_json::from_str(&run.report_json).unwrap_or_else(|_| json!({}))
}
