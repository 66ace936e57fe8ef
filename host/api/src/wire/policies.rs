//! Policies, their versions, what a backtest says, and what retention is about to delete.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tidemark_catalog::{Policy, PolicyVersion, RetentionMark};
use tidemark_engine::{Backtest, BacktestVm, Diagnostic, PolicyPut, PutPolicy};
use tidemark_model::{BackupId, PolicyKind, UtcMillis};

use super::rfc3339;

/// What a policy decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PolicySort {
    /// Which backups are kept.
    Retention,
    /// Which VMs are protected, and how.
    Group,
}

impl From<PolicySort> for PolicyKind {
    fn from(wire: PolicySort) -> Self {
        match wire {
            PolicySort::Retention => Self::Retention,
            PolicySort::Group => Self::Group,
        }
    }
}

impl From<PolicyKind> for PolicySort {
    fn from(kind: PolicyKind) -> Self {
        match kind {
            PolicyKind::Retention => Self::Retention,
            PolicyKind::Group => Self::Group,
        }
    }
}

/// Stores a version of a policy.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WritePolicy {
    /// Its name; the first version makes it.
    pub name: String,
    /// What it decides.
    pub kind: PolicySort,
    /// The Rhai script.
    pub source: String,
    /// Whether it decides from now on; without it only a policy's first version does.
    pub activate: Option<bool>,
}

impl WritePolicy {
    /// For the engine; `first` where the policy is new.
    pub(crate) fn into_put(self, first: bool) -> PutPolicy {
        let Self { name, kind, source, activate } = self;
        PutPolicy { name, kind: kind.into(), source, activate: activate.unwrap_or(first) }
    }
}

/// A finding of a check.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct PolicyFinding {
    /// `error`, `warning` or `hint`, the line and column, and the words.
    pub text: String,
    /// From 1.
    pub line: Option<usize>,
    /// From 1.
    pub column: Option<usize>,
}

impl From<&Diagnostic> for PolicyFinding {
    fn from(found: &Diagnostic) -> Self {
        Self { text: found.to_string(), line: found.line, column: found.column }
    }
}

/// A version of a policy.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct PolicyVersionEntry {
    /// The policy's name.
    pub name: String,
    /// What it decides.
    pub kind: PolicySort,
    /// 1, 2, …
    pub version: u32,
    /// Whether it decides now.
    pub active: bool,
    /// BLAKE3 of the script.
    pub digest: String,
    /// When it was put.
    pub created_at: String,
    /// Who put it.
    pub created_by: String,
    /// The script.
    pub source: String,
    /// What a check says of it; only where it was just put.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub findings: Vec<PolicyFinding>,
}

impl From<&PolicyVersion> for PolicyVersionEntry {
    fn from(stored: &PolicyVersion) -> Self {
        let PolicyVersion { name, kind, version, source, digest, created_at, created_by, active } = stored;
        Self {
            name: name.clone(),
            kind: (*kind).into(),
            version: *version,
            active: *active,
            digest: digest.clone(),
            created_at: rfc3339(*created_at),
            created_by: created_by.clone(),
            source: source.clone(),
            findings: Vec::new(),
        }
    }
}

impl From<&PolicyPut> for PolicyVersionEntry {
    fn from(put: &PolicyPut) -> Self {
        Self { findings: put.warnings.iter().map(PolicyFinding::from).collect(), ..Self::from(&put.version) }
    }
}

/// A policy.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct PolicyEntry {
    /// Its name.
    pub name: String,
    /// What it decides.
    pub kind: PolicySort,
    /// The version that decides.
    pub active_version: Option<u32>,
    /// The newest version.
    pub newest_version: u32,
    /// When its first version was put.
    pub created_at: String,
}

impl From<&Policy> for PolicyEntry {
    fn from(policy: &Policy) -> Self {
        let Policy { name, kind, active, newest, created_at } = policy;
        Self {
            name: name.clone(),
            kind: (*kind).into(),
            active_version: *active,
            newest_version: *newest,
            created_at: rfc3339(*created_at),
        }
    }
}

/// Policies.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct PolicyList {
    /// By name.
    pub policies: Vec<PolicyEntry>,
}

/// All versions of a policy.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct PolicyVersions {
    /// The newest first.
    pub versions: Vec<PolicyVersionEntry>,
}

/// Which version.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PolicyQuery {
    /// That one; without it the one that decides.
    pub version: Option<u32>,
}

/// Chooses the version that decides.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ActivatePolicy {
    /// That one.
    pub version: u32,
}

/// What is to be played against today's catalog: a stored version, or a script.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BacktestPolicy {
    /// A stored version; the newest where neither is given.
    pub version: Option<u32>,
    /// A script.
    pub source: Option<String>,
}

/// What a version would change.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct BacktestReport {
    /// Backups that were looked at.
    pub backups: usize,
    /// The flows that use the policy.
    pub flows: Vec<String>,
    /// VMs whose backups would fare differently.
    pub vms: Vec<BacktestEntry>,
    /// Why something could not be decided, and what floors say.
    pub alerts: Vec<String>,
}

/// What a version would change for one VM.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct BacktestEntry {
    /// The VM's name.
    pub vm_name: String,
    /// The repository's name.
    pub repository: String,
    /// Backups that would go and stay now, with why they stay.
    pub dropped: Vec<BacktestPoint>,
    /// Backups that would stay and go now, with why they would stay.
    pub kept: Vec<BacktestPoint>,
}

/// A backup that would fare differently.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct BacktestPoint {
    /// Which backup.
    pub backup_id: String,
    /// The moment of its snapshot.
    pub snapshot_at: String,
    /// Why it stays under the one version that keeps it.
    pub reason: String,
}

impl From<Backtest> for BacktestReport {
    fn from(backtest: Backtest) -> Self {
        let Backtest { backups, vms, alerts, flows } = backtest;
        let points = |points: Vec<(BackupId, UtcMillis, String)>| {
            points
                .into_iter()
                .map(|(id, at, reason)| BacktestPoint {
                    backup_id: id.to_string(),
                    snapshot_at: rfc3339(at),
                    reason,
                })
                .collect()
        };
        let entry = |vm: BacktestVm| {
            let BacktestVm { vm_name, repository, dropped, kept } = vm;
            BacktestEntry { vm_name, repository, dropped: points(dropped), kept: points(kept) }
        };
        Self { backups, flows, vms: vms.into_iter().map(entry).collect(), alerts }
    }
}

/// Asks for retention in a repository.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PruneRepository {
    /// Only tell what would become of each backup.
    #[serde(default)]
    pub dry_run: bool,
}

/// Lets marked backups go.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ApproveMarks {
    /// Only those of this VM.
    pub vm: Option<String>,
}

/// How many were waiting.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct ApprovedMarks {
    /// Backups that go when their grace period is over.
    pub approved: u64,
}

/// A backup that a policy lets go.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct MarkEntry {
    /// Which backup.
    pub backup_id: String,
    /// Of which VM.
    pub vm_id: String,
    /// The VM's name.
    pub vm_name: String,
    /// By which policy and version.
    pub policy: String,
    /// Since when.
    pub marked_at: String,
    /// When its grace period is over.
    pub due_at: String,
    /// Whether it may be deleted then.
    pub approved: bool,
    /// Who approved.
    pub approved_by: Option<String>,
}

impl MarkEntry {
    /// A mark of a backup of the VM with this name.
    pub(crate) fn new(mark: &RetentionMark, vm_name: &str) -> Self {
        let RetentionMark {
            backup_id,
            vm_id,
            repository_id: _,
            policy,
            marked_at,
            due_at,
            approved,
            approved_by,
        } = mark;
        Self {
            backup_id: backup_id.to_string(),
            vm_id: vm_id.to_string(),
            vm_name: vm_name.to_owned(),
            policy: policy.clone(),
            marked_at: rfc3339(*marked_at),
            due_at: rfc3339(*due_at),
            approved: *approved,
            approved_by: approved_by.clone(),
        }
    }
}

/// Backups that policies let go.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct MarkList {
    /// The oldest mark first.
    pub marks: Vec<MarkEntry>,
}

/// Copies a VM's backups to another repository.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CopyBackups {
    /// From which repository.
    pub from: String,
    /// To which.
    pub to: String,
}

/// The jobs of a request that became several.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct AcceptedJobs {
    /// In order.
    pub job_ids: Vec<String>,
    /// For people.
    pub message: String,
}
