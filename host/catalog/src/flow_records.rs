//! What the catalog stores of policies, flows, their runs and retention, as plain values.

use std::str::FromStr;

use tidemark_model::{
    BackupId, BackupStatus, BackupType, ByteLen, ConnectorId, FlowId, JobId, PolicyKind, RepositoryId,
    UtcMillis, VmId,
};

/// A policy with its versions' numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Unique name.
    pub name: String,
    /// What it decides.
    pub kind: PolicyKind,
    /// The version that decides now; none until one is activated.
    pub active: Option<u32>,
    /// The newest version.
    pub newest: u32,
    /// When its first version was put.
    pub created_at: UtcMillis,
}

/// One version of a policy. It never changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyVersion {
    /// The policy's name.
    pub name: String,
    /// What it decides.
    pub kind: PolicyKind,
    /// 1, 2, …
    pub version: u32,
    /// The script.
    pub source: String,
    /// BLAKE3 of the script, in hexadecimal.
    pub digest: String,
    /// When it was put.
    pub created_at: UtcMillis,
    /// Who put it.
    pub created_by: String,
    /// Whether it decides now.
    pub active: bool,
}

/// A policy's version to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewPolicyVersion {
    /// The policy's name; it is made with its first version.
    pub name: String,
    /// What it decides; never changes.
    pub kind: PolicyKind,
    /// The script.
    pub source: String,
    /// BLAKE3 of the script, in hexadecimal.
    pub digest: String,
    /// Who puts it.
    pub created_by: String,
}

/// A protection flow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flow {
    /// Its identity.
    pub id: FlowId,
    /// Unique name.
    pub name: String,
    /// Whether it fires.
    pub enabled: bool,
    /// What it does, a JSON object.
    pub definition_json: String,
    /// Sealed secrets, a JSON object of name → sealed text.
    pub secrets_json: String,
    /// Grows with each change.
    pub revision: i64,
    /// When it is due; none while it is disabled or has no schedule.
    pub next_fire_at: Option<UtcMillis>,
    /// When it was made.
    pub created_at: UtcMillis,
    /// When it was last changed.
    pub updated_at: UtcMillis,
}

/// Why a run began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunCause {
    /// Its time had come.
    Schedule,
    /// Its time had come while nobody was there.
    CatchUp,
    /// Somebody asked for it.
    Manual,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunStatus {
    /// Every VM.
    Succeeded,
    /// Some VMs, or a step after the backups, failed.
    Partly,
    /// No VM, or the run itself.
    Failed,
    /// Its end was asked for.
    Cancelled,
}

/// Where one VM of a run stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunVmState {
    /// Its turn has not come.
    Waiting,
    /// Its backup is queued or runs.
    Running,
    /// It has its backup.
    Succeeded,
    /// It has none.
    Failed,
    /// None was to be made.
    Skipped,
}

/// A text that is no word of a run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no word of a run")]
pub struct ParseRunError(pub String);

macro_rules! words {
    ($kind:ident { $($variant:ident => $word:literal),* $(,)? }) => {
        impl $kind {
            /// The word the catalog and the API use.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),* }
            }
        }

        impl FromStr for $kind {
            type Err = ParseRunError;

            fn from_str(text: &str) -> Result<Self, ParseRunError> {
                match text {
                    $($word => Ok(Self::$variant),)*
                    other => Err(ParseRunError(other.to_owned())),
                }
            }
        }
    };
}
words!(RunCause { Schedule => "schedule", CatchUp => "catch-up", Manual => "manual" });
words!(RunStatus {
    Succeeded => "succeeded", Partly => "partly", Failed => "failed", Cancelled => "cancelled",
});
words!(RunVmState {
    Waiting => "waiting", Running => "running", Succeeded => "succeeded", Failed => "failed",
    Skipped => "skipped",
});

/// A firing that is to become a run, as one host saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewFiring {
    /// Which flow.
    pub flow_id: FlowId,
    /// Its revision then: nothing fires by a schedule that was changed meanwhile.
    pub revision: i64,
    /// For which time.
    pub fire_at: UtcMillis,
    /// The time after it; none where the schedule has none.
    pub next_fire_at: Option<UtcMillis>,
    /// The firings before it that nobody was there for.
    pub missed: u32,
    /// Why there is no run, where there is to be none.
    pub skipped: Option<String>,
    /// The run's priority among jobs.
    pub priority: i64,
    /// Which host.
    pub owner: String,
}

/// A firing that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Firing {
    /// Which flow.
    pub flow_id: FlowId,
    /// For which time.
    pub fire_at: UtcMillis,
    /// When it happened.
    pub fired_at: UtcMillis,
    /// On which host.
    pub fired_by: String,
    /// The firings before it that nobody was there for.
    pub missed: u32,
    /// Its run.
    pub job_id: Option<JobId>,
    /// Why it has none.
    pub skipped: Option<String>,
}

/// A run of a flow: a job, and what it came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlowRun {
    /// The job.
    pub job_id: JobId,
    /// Of which flow.
    pub flow_id: FlowId,
    /// Why it began.
    pub cause: RunCause,
    /// For which time, where the schedule began it.
    pub fire_at: Option<UtcMillis>,
    /// How it ended; none until then.
    pub status: Option<RunStatus>,
    /// What it did beside the backups, a JSON object.
    pub report_json: String,
    /// When it was queued.
    pub created_at: UtcMillis,
    /// When it ended.
    pub ended_at: Option<UtcMillis>,
}

/// One VM of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlowRunVm {
    /// Which VM.
    pub vm_id: VmId,
    /// Its name then.
    pub vm_name: String,
    /// Where it stands.
    pub state: RunVmState,
    /// What was planned: `full`, `incremental`, `synthetic-full`, `auto` or `defer`.
    pub plan: String,
    /// Why it was selected and planned so.
    pub reason: String,
    /// Why it failed or was skipped.
    pub error: Option<String>,
    /// Backups that were tried.
    pub attempts: u32,
    /// The newest of them.
    pub backup_id: Option<BackupId>,
    /// More, a JSON object.
    pub detail_json: String,
}

/// What a flow said of a VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlowMember {
    /// The connector that shows it.
    pub connector_id: ConnectorId,
    /// The hypervisor's key.
    pub vm_key: String,
    /// Its name.
    pub vm_name: String,
    /// Whether the flow protects it.
    pub protect: bool,
    /// Why.
    pub reason: String,
}

/// A VM that a connector showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenVm {
    /// Which connector.
    pub connector_id: ConnectorId,
    /// The hypervisor's key.
    pub vm_key: String,
    /// Its name.
    pub name: String,
    /// The inventory, a JSON object.
    pub inventory_json: String,
    /// When.
    pub seen_at: UtcMillis,
}

/// A backup as retention looks at it: no disks, so that a million are cheap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptBackup {
    /// Its identity.
    pub id: BackupId,
    /// The moment of its snapshot.
    pub snapshot_at: UtcMillis,
    /// Full or incremental.
    pub backup_type: BackupType,
    /// The backup it needs.
    pub parent_id: Option<BackupId>,
    /// Whether it may be restored.
    pub status: BackupStatus,
    /// Whether a verification found it good.
    pub verified: bool,
    /// Whether it is pinned.
    pub pinned: bool,
    /// What its disks store.
    pub stored: ByteLen,
    /// What its disks read from the guest.
    pub read: ByteLen,
}

/// A backup that a policy lets go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetentionMark {
    /// Which backup.
    pub backup_id: BackupId,
    /// Of which VM.
    pub vm_id: VmId,
    /// Where.
    pub repository_id: RepositoryId,
    /// By which policy and version.
    pub policy: String,
    /// Since when.
    pub marked_at: UtcMillis,
    /// When its grace period is over.
    pub due_at: UtcMillis,
    /// Whether it may be deleted then; else somebody must approve first.
    pub approved: bool,
    /// Who did.
    pub approved_by: Option<String>,
}

/// How a VM stands, for those who watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmStanding {
    /// Which VM.
    pub vm_id: VmId,
    /// Its name.
    pub name: String,
    /// Its newest good backup's snapshot.
    pub last_good: Option<UtcMillis>,
    /// Its newest verified backup's snapshot.
    pub last_verified: Option<UtcMillis>,
}
