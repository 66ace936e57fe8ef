//! Policies: putting versions, choosing the one that decides, and asking it. Scripts and plugins answer alike.
//!
//! ```text
//!   "gfs"          the active version of a script in the catalog
//!   "plugin:gfs"   the active version of a policy plugin
//! ```
//! What decided is named with version and digest wherever a decision is recorded.

use std::sync::Arc;

use serde_json::{Map, Value, json};
use tidemark_catalog::{NewPolicyVersion, PolicyVersion};
use tidemark_model::{
    Candidate, History, KeepVerdict, PlanDecision, PlanType, PolicyContext, PolicyKind, RetentionPoint,
    Selection,
};
use tidemark_plugins::Policy as PluginPolicy;
use tidemark_policy::{Diagnostic, Script, ScriptError, Severity};
use tokio::sync::Mutex;

use crate::engine::{Engine, Shared};
use crate::error::{Error, ErrorKind, Result};
use crate::flows;
use crate::store::blocking;

/// How a policy plugin is told from a script.
pub(crate) const PLUGIN_PREFIX: &str = "plugin:";

/// What decided: `name`, `version` and `digest` as they are recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PolicyRef {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) digest: String,
}

impl PolicyRef {
    pub(crate) fn to_json(&self) -> Value {
        let Self { name, version, digest } = self;
        json!({ "name": name, "version": version, "digest": digest })
    }
}

impl std::fmt::Display for PolicyRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.name, self.version)
    }
}

/// A policy that can be asked.
#[derive(Clone)]
pub(crate) struct Decider {
    pub(crate) policy: PolicyRef,
    how: How,
}

#[derive(Clone)]
enum How {
    Script(Script),
    /// An instance serves one call at a time.
    Plugin(Arc<Mutex<PluginPolicy>>),
}

impl Decider {
    /// A script that is not in the catalog as the version that decides.
    pub(crate) fn script(policy: PolicyRef, script: Script) -> Self {
        Self { policy, how: How::Script(script) }
    }

    /// Verdict number `i` is that of point number `i`.
    pub(crate) async fn retain(
        &self,
        points: Vec<RetentionPoint>,
        context: PolicyContext,
    ) -> Result<Vec<KeepVerdict>> {
        match &self.how {
            How::Plugin(plugin) => Ok(plugin.lock().await.retain(&points, &context).await?),
            How::Script(script) => {
                let script = script.clone();
                let told = blocking("asking a policy", move || Ok(script.retain(&points, &context)));
                told.await?.map_err(|error| self.failed(&error))
            }
        }
    }

    pub(crate) async fn select(&self, vm: &Candidate, context: &PolicyContext) -> Result<Selection> {
        match &self.how {
            How::Plugin(plugin) => Ok(plugin.lock().await.select(vm, context).await?),
            How::Script(script) => {
                let (script, vm, context) = (script.clone(), vm.clone(), context.clone());
                let told = blocking("asking a policy", move || Ok(script.select(&vm, &context)));
                told.await?.map_err(|error| self.failed(&error))
            }
        }
    }

    pub(crate) async fn plan(
        &self,
        vm: &Candidate,
        history: &History,
        context: &PolicyContext,
    ) -> Result<PlanDecision> {
        match &self.how {
            How::Plugin(plugin) => Ok(plugin.lock().await.plan(vm, history, context).await?),
            How::Script(script) if !script.has("plan") => {
                let reason = "the policy leaves the type to the chain".to_owned();
                Ok(PlanDecision { kind: PlanType::Incremental, reason })
            }
            How::Script(script) => {
                let (script, vm, context, history) = (script.clone(), vm.clone(), context.clone(), *history);
                let told = blocking("asking a policy", move || Ok(script.plan(&vm, &history, &context)));
                told.await?.map_err(|error| self.failed(&error))
            }
        }
    }

    fn failed(&self, error: &ScriptError) -> Error {
        Error::new(ErrorKind::Invalid, format!("policy {}: {error}", self.policy))
    }
}

impl Shared {
    /// The version of a policy that decides now, ready to be asked.
    ///
    /// # Errors
    /// Not found; invalid where it is of another kind; plugin where it does not start.
    pub(crate) async fn decider(&self, kind: PolicyKind, name: &str) -> Result<Decider> {
        if let Some(plugin) = name.strip_prefix(PLUGIN_PREFIX) {
            let (policy, pin) = self.open_policy(plugin).await?;
            let policy_ref = PolicyRef { name: name.to_owned(), version: pin.version, digest: pin.digest };
            return Ok(Decider { policy: policy_ref, how: How::Plugin(Arc::new(Mutex::new(policy))) });
        }
        let stored = self.catalog.policy_version(name, None).await?;
        if stored.kind != kind {
            let message = format!("policy '{name}' is a {} policy", stored.kind.as_str());
            return Err(Error::invalid(message));
        }
        compiled(&stored)
    }
}

/// A stored version, ready to be asked.
pub(crate) fn compiled(stored: &PolicyVersion) -> Result<Decider> {
    let PolicyVersion { name, kind, version, source, digest, .. } = stored;
    let script = Script::compile(*kind, source)
        .map_err(|error| Error::invalid(format!("policy {name} {version}: {error}")))?;
    let policy = PolicyRef { name: name.clone(), version: version.to_string(), digest: digest.clone() };
    Ok(Decider::script(policy, script))
}

/// A policy's version to be.
#[derive(Debug, Clone)]
pub struct PutPolicy {
    /// The policy's name.
    pub name: String,
    /// What it decides.
    pub kind: PolicyKind,
    /// The script.
    pub source: String,
    /// Whether it decides from now on.
    pub activate: bool,
}

/// A stored version, and what a check says of it.
#[derive(Debug, Clone)]
pub struct PolicyPut {
    /// The version.
    pub version: PolicyVersion,
    /// What may be wrong although it compiles.
    pub warnings: Vec<Diagnostic>,
}

impl Engine {
    /// Stores a version of a script, after a check of it.
    ///
    /// # Errors
    /// Invalid with line and column; conflict where the policy is of another kind.
    pub async fn put_policy(&self, actor: &str, put: PutPolicy) -> Result<PolicyPut> {
        let PutPolicy { name, kind, source, activate } = put;
        check_name(&name)?;
        let found = tidemark_policy::check(kind, &source);
        if let Some(error) = found.iter().find(|found| found.severity == Severity::Error) {
            let place = match (error.line, error.column) {
                (Some(line), Some(column)) => format!("line {line}, column {column}: "),
                (Some(line), None) => format!("line {line}: "),
                _ => String::new(),
            };
            return Err(Error::invalid_field("source", format!("{place}{}", error.message)));
        }
        let digest = blake3::hash(source.as_bytes()).to_hex().to_string();
        let new = NewPolicyVersion { name, kind, source, digest, created_by: actor.to_owned() };
        let version = self.catalog().put_policy(&new, activate, self.shared.clock.now()).await?;
        let detail =
            json!({ "version": version.version, "digest": version.digest, "active": version.active });
        self.shared.audit(actor, "policy.put", &version.name, detail).await;
        Ok(PolicyPut { version, warnings: found })
    }

    /// Lets a version decide from now on.
    ///
    /// # Errors
    /// Not found; invalid where it does not compile any more.
    pub async fn activate_policy(&self, actor: &str, name: &str, version: u32) -> Result<PolicyVersion> {
        compiled(&self.catalog().policy_version(name, Some(version)).await?)?;
        let now = self.shared.clock.now();
        let active = self.catalog().activate_policy(name, version, actor, now).await?;
        self.shared.audit(actor, "policy.activate", name, json!({ "version": version })).await;
        Ok(active)
    }

    /// Returns to the version that decided before.
    ///
    /// # Errors
    /// Not found; conflict where there is none.
    pub async fn rollback_policy(&self, actor: &str, name: &str) -> Result<PolicyVersion> {
        let active = self.catalog().rollback_policy(name, actor, self.shared.clock.now()).await?;
        let detail = json!({ "version": active.version });
        self.shared.audit(actor, "policy.rollback", name, detail).await;
        Ok(active)
    }

    /// Forgets a policy that no flow uses.
    ///
    /// # Errors
    /// Not found; conflict while a flow uses it.
    pub async fn remove_policy(&self, actor: &str, name: &str) -> Result<()> {
        for flow in self.catalog().list_flows().await? {
            if flows::definition_of(&flow)?.uses_policy(name) {
                let message = format!("policy '{name}' is used by flow '{}'", flow.name);
                return Err(Error::new(ErrorKind::Conflict, message));
            }
        }
        self.catalog().remove_policy(name).await?;
        self.shared.audit(actor, "policy.remove", name, json!({})).await;
        Ok(())
    }
}

/// The settings of a policy in a flow, as it gets them.
pub(crate) fn settings_json(settings: &Map<String, Value>) -> String {
    Value::Object(settings.clone()).to_string()
}

fn check_name(name: &str) -> Result<()> {
    let fits = !name.is_empty()
        && name.len() <= 64
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
    if fits {
        return Ok(());
    }
    let message = format!("'{name}' is no name of a policy: up to 64 letters, digits, '-', '_' and '.' are");
    Err(Error::invalid_field("name", message))
}
