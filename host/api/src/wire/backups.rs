//! Backups as clients see them: one entry a backup, its disks inside. A backup that is still being made, or that
//! failed, is known by its job and gets its status from there.

use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tidemark_catalog::{Backup, BackupDisk, Job, Repository, Vm};
use tidemark_engine::SubmittedBackup;
use tidemark_model::{BackupId, JobState, RequestedType};

use super::{json_value, rfc3339};
use crate::extract::KeptBody;

/// What is asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RequestedBackupType {
    /// A full.
    Full,
    /// An incremental; a full with its reason where an incremental would be wrong.
    Incremental,
    /// Whichever is right.
    #[default]
    Auto,
}

impl From<RequestedBackupType> for RequestedType {
    fn from(wire: RequestedBackupType) -> Self {
        match wire {
            RequestedBackupType::Full => Self::Full,
            RequestedBackupType::Incremental => Self::Incremental,
            RequestedBackupType::Auto => Self::Auto,
        }
    }
}

impl RequestedBackupType {
    /// The word of the API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        RequestedType::from(self).as_str()
    }
}

/// Starts a backup.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StartBackup {
    /// The VM's name or id.
    #[serde(alias = "vm_id", alias = "vm")]
    pub vm_name: String,
    /// The repository's name or id.
    #[serde(alias = "repository", alias = "repository_name")]
    pub repository_id: String,
    /// `auto` where not given.
    #[serde(default)]
    pub backup_type: RequestedBackupType,
    /// Stored bytes a second that it may write, within what its repository may take; no bound of its own where not
    /// given or 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth_bytes_per_second: Option<u64>,
}

impl KeptBody for StartBackup {
    const MEMBERS: &'static [&'static str] = &[
        "vm_name",
        "vm_id",
        "vm",
        "repository_id",
        "repository",
        "repository_name",
        "backup_type",
        "bandwidth_bytes_per_second",
    ];
}

/// A backup that was started.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct StartedBackup {
    /// The backup's id, from now on valid in `/api/v1/backups/{id}`.
    pub backup_id: String,
    /// The VM's name.
    pub vm_name: String,
    /// The VM's id.
    pub vm_id: String,
    /// As it was asked for.
    pub backup_type: String,
    /// The job's state.
    pub status: String,
    /// Known only once the snapshot was taken.
    pub change_id: Option<String>,
    /// For people.
    pub message: String,
    /// The job that makes it.
    pub job_id: String,
    /// What of the request was passed over.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

impl StartedBackup {
    /// The answer to a request for a backup.
    #[must_use]
    pub fn new(submitted: &SubmittedBackup, requested: RequestedBackupType, warnings: Vec<String>) -> Self {
        let SubmittedBackup { job, backup_id, vm } = submitted;
        Self {
            backup_id: backup_id.to_string(),
            vm_name: vm.name.clone(),
            vm_id: vm.id.to_string(),
            backup_type: requested.as_str().to_owned(),
            status: status_of(job.state).to_owned(),
            change_id: None,
            message: format!("backup of '{}' accepted; job {} makes it", vm.name, job.id),
            job_id: job.id.to_string(),
            warnings,
        }
    }
}

/// The word for a backup whose job is in this state.
fn status_of(state: JobState) -> &'static str {
    match state {
        JobState::Queued => "pending",
        JobState::Running => "running",
        JobState::Succeeded => "completed",
        JobState::Failed => "failed",
        JobState::Cancelled => "cancelled",
    }
}

/// A backup in a list.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct BackupSummary {
    /// Its id.
    pub backup_id: String,
    /// The VM's name at that time.
    pub vm_name: String,
    /// The VM's id.
    pub vm_id: String,
    /// Where it is kept; none until it is durable.
    pub repository_id: Option<String>,
    /// `full` or `incremental`; as asked for until it is durable.
    pub backup_type: String,
    /// `completed`, `damaged`; `pending`, `running`, `failed` or `cancelled` where there is only the job.
    pub status: String,
    /// The moment of its snapshot; of the request where there is only the job.
    pub created_at: String,
    /// When it became durable.
    pub completed_at: Option<String>,
    /// How many disks it has.
    pub disks_count: usize,
    /// The first disk's change id.
    pub change_id: Option<String>,
    /// The backup this one needs; none for a full.
    pub parent_backup_id: Option<String>,
    /// Stable code of why it is of its type.
    pub reason_code: String,
    /// The same in words.
    pub reason: String,
    /// Whether it is kept whatever a policy says.
    pub pinned: bool,
    /// The disks' sizes together.
    pub capacity_bytes: u64,
    /// What was read from the source.
    pub read_bytes: u64,
    /// What its objects take in the repository.
    pub stored_bytes: u64,
    /// What was not read, or was read and found zero.
    pub skipped_bytes: u64,
    /// When it was last verified with a good result.
    pub verified_at: Option<String>,
    /// How thoroughly: `full` or `deep`.
    pub verified_level: Option<String>,
    /// When a merge last rewrote its objects.
    pub consolidated_at: Option<String>,
    /// The backup of another repository that it is a copy of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copy_of: Option<String>,
}

/// One page of backups, newest first.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct BackupList {
    /// The backups.
    pub backups: Vec<BackupSummary>,
    /// For the next page.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

/// A VM's newest chain: the full and its incrementals in order.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct BackupChain {
    /// The VM's name.
    pub vm_name: String,
    /// The VM's id.
    pub vm_id: String,
    /// The full's id.
    pub full_backup_id: Option<String>,
    /// How many backups there are.
    pub chain_length: usize,
    /// The full first.
    pub backups: Vec<BackupSummary>,
}

/// The change id from which the next incremental of a disk counts.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct ChangeIdAnswer {
    /// The VM's name.
    pub vm_name: String,
    /// The disk's key in the hypervisor.
    pub disk_id: String,
    /// The disk's index in the backup.
    pub disk_index: u32,
    /// None where change tracking was off.
    pub change_id: Option<String>,
    /// The newest backup that has it.
    pub backup_id: String,
}

/// One disk of a backup.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct BackupDiskEntry {
    /// 0, 1, …
    pub disk_index: u32,
    /// The disk's key in the hypervisor.
    pub disk_id: String,
    /// What an administrator calls it.
    pub label: String,
    /// Its size at that moment.
    pub capacity_bytes: u64,
    /// From which the next incremental counts.
    pub change_id: Option<String>,
    /// What was read from the source.
    pub read_bytes: u64,
    /// The object's size.
    pub stored_bytes: u64,
    /// What was not read, or was read and found zero.
    pub skipped_bytes: u64,
    /// How long the move took.
    pub moved_ms: u64,
    /// Where its image is: the whole path where the repository is a folder, else the object's key.
    pub path: String,
    /// The object's key in the repository.
    pub object_key: String,
    /// BLAKE3 of the object's bytes, in hexadecimal.
    pub digest: String,
    /// Where the digests of its guest ranges are; none for backups of earlier versions.
    pub range_digests_path: Option<String>,
}

/// A backup with everything known of it.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct BackupDetail {
    /// What a list shows of it.
    #[serde(flatten)]
    pub summary: BackupSummary,
    /// When its job began.
    pub started_at: Option<String>,
    /// From the job's beginning until it was durable.
    pub duration_ms: Option<i64>,
    /// Its disks by ascending index.
    pub disks: Vec<BackupDiskEntry>,
    /// What the user must know.
    pub warnings: Vec<String>,
    /// Which plugin versions made it.
    pub plugins: Value,
    /// Where its manifest is.
    pub manifest_path: Option<String>,
    /// The job that made it; none when it was imported.
    pub job_id: Option<String>,
    /// How far the job is, while there is only the job.
    pub progress: Option<Value>,
    /// Why it failed.
    pub error: Option<Value>,
    /// For people.
    pub message: String,
}

impl From<&Backup> for BackupSummary {
    fn from(backup: &Backup) -> Self {
        let Backup {
            id,
            vm_id,
            vm_name,
            repository_id,
            backup_type,
            parent_id,
            status,
            reason_code,
            reason,
            started_at: _,
            snapshot_at,
            completed_at,
            manifest_key: _,
            pinned,
            plugins_json: _,
            warnings_json: _,
            job_id: _,
            copy_of,
            verified_at,
            verified_level,
            consolidated_at,
            staged_manifest_key: _,
            disks,
        } = backup;
        Self {
            backup_id: id.to_string(),
            vm_name: vm_name.clone(),
            vm_id: vm_id.to_string(),
            repository_id: Some(repository_id.to_string()),
            backup_type: backup_type.as_str().to_owned(),
            status: status.as_str().to_owned(),
            created_at: rfc3339(*snapshot_at),
            completed_at: Some(rfc3339(*completed_at)),
            disks_count: disks.len(),
            change_id: disks.first().and_then(|disk| disk.change_id.as_ref()).map(ToString::to_string),
            parent_backup_id: parent_id.map(|id| id.to_string()),
            reason_code: reason_code.clone(),
            reason: reason.clone(),
            pinned: *pinned,
            capacity_bytes: disks.iter().map(|disk| disk.capacity.0).sum(),
            read_bytes: disks.iter().map(|disk| disk.read.0).sum(),
            stored_bytes: disks.iter().map(|disk| disk.stored.0).sum(),
            skipped_bytes: disks.iter().map(|disk| disk.skipped.0).sum(),
            verified_at: verified_at.map(rfc3339),
            verified_level: verified_level.map(|level| level.as_str().to_owned()),
            consolidated_at: consolidated_at.map(rfc3339),
            copy_of: copy_of.map(|id| id.to_string()),
        }
    }
}

impl BackupDetail {
    /// A durable backup, in this repository.
    #[must_use]
    pub fn stored(backup: &Backup, repository: Option<&Repository>) -> Self {
        let folder = repository.and_then(folder_of);
        let warnings = serde_json::from_str(&backup.warnings_json).unwrap_or_default();
        Self {
            summary: BackupSummary::from(backup),
            started_at: Some(rfc3339(backup.started_at)),
            duration_ms: Some(backup.completed_at.0.saturating_sub(backup.started_at.0)),
            disks: backup.disks.iter().map(|disk| disk_entry(disk, folder.as_deref())).collect(),
            warnings,
            plugins: json_value(&backup.plugins_json),
            manifest_path: Some(locate(folder.as_deref(), &backup.manifest_key)),
            job_id: backup.job_id.map(|id| id.to_string()),
            progress: None,
            error: None,
            message: backup.reason.clone(),
        }
    }

    /// A backup that is known by its job only.
    #[must_use]
    pub fn pending(id: BackupId, job: &Job, vm: &Vm) -> Self {
        let request = json_value(&job.payload_json);
        let requested = request.get("requested");
        let error = job.error_json.as_deref().map(json_value);
        let words = error.as_ref().and_then(|error| error.get("message")).and_then(Value::as_str);
        let status = status_of(job.state);
        let message = words.map_or_else(|| format!("the backup is {status}"), str::to_owned);
        let summary = BackupSummary {
            backup_id: id.to_string(),
            vm_name: vm.name.clone(),
            vm_id: vm.id.to_string(),
            repository_id: request.get("repository_id").and_then(Value::as_str).map(str::to_owned),
            backup_type: requested.and_then(Value::as_str).unwrap_or("auto").to_owned(),
            status: status.to_owned(),
            created_at: rfc3339(job.created_at),
            completed_at: None,
            disks_count: 0,
            change_id: None,
            parent_backup_id: None,
            reason_code: String::new(),
            reason: String::new(),
            pinned: false,
            capacity_bytes: 0,
            read_bytes: 0,
            stored_bytes: 0,
            skipped_bytes: 0,
            verified_at: None,
            verified_level: None,
            consolidated_at: None,
            copy_of: None,
        };
        Self {
            summary,
            started_at: job.started_at.map(rfc3339),
            duration_ms: job.started_at.zip(job.ended_at).map(|(start, end)| end.0.saturating_sub(start.0)),
            disks: Vec::new(),
            warnings: Vec::new(),
            plugins: Value::Object(serde_json::Map::new()),
            manifest_path: None,
            job_id: Some(job.id.to_string()),
            progress: Some(json_value(&job.progress_json)),
            error,
            message,
        }
    }
}

fn disk_entry(disk: &BackupDisk, folder: Option<&str>) -> BackupDiskEntry {
    let BackupDisk {
        disk_index,
        disk_key,
        label,
        capacity,
        change_id,
        object_key,
        stored,
        read,
        skipped,
        moved_ms,
        digest,
        staged_key: _,
        ranges,
    } = disk;
    BackupDiskEntry {
        disk_index: *disk_index,
        disk_id: disk_key.to_string(),
        label: label.clone(),
        capacity_bytes: capacity.0,
        change_id: change_id.as_ref().map(ToString::to_string),
        read_bytes: read.0,
        stored_bytes: stored.0,
        skipped_bytes: skipped.0,
        moved_ms: *moved_ms,
        path: locate(folder, object_key),
        object_key: object_key.clone(),
        digest: digest.clone(),
        range_digests_path: ranges.as_ref().map(|ranges| locate(folder, &ranges.object_key)),
    }
}

/// A folder target keeps its root in the setting `path`, by which administrators find the plain QCOW2 files.
fn folder_of(repository: &Repository) -> Option<String> {
    let settings = json_value(&repository.settings_json);
    settings.get("path").and_then(Value::as_str).map(str::to_owned)
}

fn locate(folder: Option<&str>, key: &str) -> String {
    folder.map_or_else(|| key.to_owned(), |root| Path::new(root).join(key).to_string_lossy().into_owned())
}
