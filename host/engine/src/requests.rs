//! What callers hand to the engine, and what the engine keeps of it in a job's payload.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use tidemark_catalog::{Backup, Job, Vm};
use tidemark_model::{BackupId, ByteLen, JobId, RequestedType, UtcMillis};

/// A connection to be: to a hypervisor or to a storage target.
#[derive(Clone)]
pub struct NewConnection {
    /// Unique name.
    pub name: String,
    /// The plugin that serves it.
    pub plugin: String,
    /// Settings, checked against the plugin's schema.
    pub settings: serde_json::Map<String, serde_json::Value>,
    /// Secrets by name; sealed before they are stored.
    pub secrets: BTreeMap<String, String>,
    /// How much at once.
    pub bounds: Bounds,
}

/// A change of a connection: what is given replaces what was, the rest stays.
#[derive(Clone, Default)]
pub struct ConnectionChange {
    /// Checked together with those that stay.
    pub settings: serde_json::Map<String, serde_json::Value>,
    /// Secrets by name; sealed before they are stored.
    pub secrets: BTreeMap<String, String>,
    /// 0 takes a bound away.
    pub bounds: Bounds,
}

/// How much at once a connection carries. 0 is no bound; where none is given, what was stays.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bounds {
    /// Disks that a host moves from a connector, or writes to a repository, at the same time.
    pub max_disks: Option<u32>,
    /// Of a repository: bytes that a host writes to it in a second.
    pub bandwidth: Option<ByteLen>,
}

/// Who asks for a job, and how it is queued.
#[derive(Debug, Clone, Default)]
pub(crate) struct Asked<'a> {
    /// For the audit trail.
    pub(crate) actor: &'a str,
    /// Jobs of a larger priority come first.
    pub(crate) priority: i64,
    /// The same key again finds the same job.
    pub(crate) idempotency_key: Option<String>,
}

/// A backup to be.
#[derive(Debug, Clone)]
pub struct BackupRequest {
    /// The VM's name or id.
    pub vm: String,
    /// The repository's name or id.
    pub repository: String,
    /// What is wanted.
    pub requested: RequestedType,
    /// Stored bytes a second that this backup may write, within what its repository may take; none or 0 for no bound
    /// of its own.
    pub bandwidth: Option<ByteLen>,
    /// Disks that are left out, by key or label.
    pub exclude_disks: Vec<String>,
    /// Whether it is made a full afterwards by merging what it needs into it.
    pub then_synthetic: bool,
    /// Jobs of a larger priority come first.
    pub priority: i64,
    /// Asking again with the same key answers with the first job.
    pub idempotency_key: Option<String>,
}

/// A submitted backup. The backup, once it exists, bears the id of the job that made it.
#[derive(Debug, Clone)]
pub struct SubmittedBackup {
    /// The job.
    pub job: Job,
    /// The id that the backup will have.
    pub backup_id: BackupId,
    /// Of which VM.
    pub vm: Vm,
}

/// A restore of one disk to a file on this host.
#[derive(Debug, Clone)]
pub struct RestoreRequest {
    /// From which backup.
    pub backup_id: BackupId,
    /// Which disk.
    pub disk_index: u32,
    /// To which file; it must not exist.
    pub to: PathBuf,
    /// In which format.
    pub format: ImageFormat,
    /// Asking again with the same key answers with the first job.
    pub idempotency_key: Option<String>,
}

/// What is known of a backup id.
#[derive(Debug, Clone)]
pub enum BackupView {
    /// A complete, durable backup.
    Stored(Box<Backup>),
    /// Not in the catalog: still queued or running, or failed.
    Pending {
        /// Its job.
        job: Box<Job>,
        /// Of which VM.
        vm: Box<Vm>,
    },
}

/// The format of a restored disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ImageFormat {
    /// The bytes of the disk, sparse.
    Raw,
    /// One standalone QCOW2 image.
    Qcow2,
    /// A stream-optimised VMDK.
    Vmdk,
}

/// Something happened.
#[derive(Debug, Clone)]
pub struct Event {
    /// When.
    pub at: UtcMillis,
    /// `job-queued`, `job-started`, `job-progress` or `job-ended`.
    pub kind: &'static str,
    /// Which job.
    pub job_id: Option<JobId>,
    /// More.
    pub payload: serde_json::Value,
}

/// The payload of a backup job.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct BackupPayload {
    pub(crate) vm_id: String,
    pub(crate) vm_name: String,
    pub(crate) repository_id: String,
    pub(crate) requested: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) bandwidth_bytes_per_second: Option<u64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) exclude_disks: Vec<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) then_synthetic: bool,
}

/// The payload of a run of a flow, as the catalog queues it.
#[derive(Debug, Deserialize)]
pub(crate) struct RunFlowPayload {
    pub(crate) flow_id: String,
}

/// The payload of a job that lets retention decide in a repository.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct PrunePayload {
    pub(crate) repository_id: String,
    pub(crate) dry_run: bool,
    /// Who is named in the audit trail.
    pub(crate) actor: String,
}

/// The payload of a job that copies a backup to another repository.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct CopyPayload {
    pub(crate) vm_id: String,
    pub(crate) backup_id: String,
    /// Where to.
    pub(crate) repository_id: String,
}

/// The payload of a restore job.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct RestorePayload {
    pub(crate) backup_id: String,
    pub(crate) disk_index: u32,
    pub(crate) to: PathBuf,
    pub(crate) format: ImageFormat,
}

/// The payload of a verify job.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct VerifyPayload {
    pub(crate) backup_id: String,
    pub(crate) level: String,
}

/// The payload of a job that deletes backups of one VM from one repository.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct DeletePayload {
    pub(crate) vm_id: String,
    pub(crate) repository_id: String,
    pub(crate) backup_ids: Vec<String>,
    /// Whether a policy let them go: then only those go that it still does when the job runs.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) by_retention: bool,
}

/// The payload of a job that makes a full of an incremental.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SynthesizePayload {
    pub(crate) vm_id: String,
    pub(crate) repository_id: String,
    pub(crate) backup_id: String,
}

/// The payload of a job that imports a repository.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ImportPayload {
    pub(crate) repository_id: String,
}

/// The payload of a job that checks a repository.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct CheckPayload {
    pub(crate) repository_id: String,
    /// Whether garbage is deleted.
    pub(crate) delete: bool,
    /// Younger garbage is left alone.
    pub(crate) grace_hours: u32,
}
