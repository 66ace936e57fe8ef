//! What the catalog stores, as plain values. Rows are converted to and from these explicitly; nothing here knows
//! SQL. Columns named `*_json` hold JSON text whose shape belongs to the crate that wrote it.

use std::collections::HashMap;
use std::str::FromStr;

use tidemark_model::{
    BackupId, BackupStatus, BackupType, ByteLen, ChangeId, ConnectorId, DiskKey, JobId, JobKind, JobState,
    RepositoryId, TokenId, UtcMillis, VerifyLevel, VmId,
};

/// A configured hypervisor connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connector {
    /// Its identity.
    pub id: ConnectorId,
    /// Unique name.
    pub name: String,
    /// The plugin that serves it.
    pub plugin: String,
    /// Settings without secrets, a JSON object.
    pub settings_json: String,
    /// Sealed secrets, a JSON object of name → sealed text.
    pub secrets_json: String,
    /// Disks that a host moves from it at the same time; none for no bound of its own.
    pub max_disks: Option<u32>,
    /// When it was added.
    pub created_at: UtcMillis,
}

/// A place for backups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repository {
    /// Its identity.
    pub id: RepositoryId,
    /// Unique name.
    pub name: String,
    /// The storage-target plugin that serves it.
    pub plugin: String,
    /// Settings without secrets, a JSON object.
    pub settings_json: String,
    /// Sealed secrets, a JSON object of name → sealed text.
    pub secrets_json: String,
    /// Disks that a host writes to it at the same time; none for no bound of its own.
    pub max_disks: Option<u32>,
    /// Bytes that a host writes to it in a second; none for no bound.
    pub bandwidth: Option<ByteLen>,
    /// When it was added.
    pub created_at: UtcMillis,
}

/// A virtual machine under protection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vm {
    /// Its identity.
    pub id: VmId,
    /// The connection it was found by; none for a VM known only from an imported repository.
    pub connector_id: Option<ConnectorId>,
    /// The hypervisor's own key.
    pub key: String,
    /// Its name as last seen. Not unique: hypervisors allow one name in two folders.
    pub name: String,
    /// The inventory as last seen, a JSON object.
    pub inventory_json: String,
    /// When it was added.
    pub created_at: UtcMillis,
}

/// A complete, durable backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backup {
    /// Its identity.
    pub id: BackupId,
    /// Of which VM.
    pub vm_id: VmId,
    /// The VM's name at that time.
    pub vm_name: String,
    /// Where it is kept.
    pub repository_id: RepositoryId,
    /// Full or incremental.
    pub backup_type: BackupType,
    /// The backup this one needs; none for a full.
    pub parent_id: Option<BackupId>,
    /// Whether it may be restored.
    pub status: BackupStatus,
    /// Stable code of why it is of its type.
    pub reason_code: String,
    /// The same in words.
    pub reason: String,
    /// When its job began.
    pub started_at: UtcMillis,
    /// The moment of its snapshot.
    pub snapshot_at: UtcMillis,
    /// When it became durable.
    pub completed_at: UtcMillis,
    /// The manifest's object key.
    pub manifest_key: String,
    /// Kept whatever a policy says.
    pub pinned: bool,
    /// Which plugin versions made it, a JSON object of name → version.
    pub plugins_json: String,
    /// What the user must know, a JSON array of strings.
    pub warnings_json: String,
    /// The job that made it; none when it was imported.
    pub job_id: Option<JobId>,
    /// The backup of another repository that it is a copy of.
    pub copy_of: Option<BackupId>,
    /// When it was last verified with a good result.
    pub verified_at: Option<UtcMillis>,
    /// How thoroughly that was.
    pub verified_level: Option<VerifyLevel>,
    /// When a merge last rewrote its objects; none while they are as the backup made them.
    pub consolidated_at: Option<UtcMillis>,
    /// The key under which a merge published the manifest, until it takes the place of `manifest_key`.
    pub staged_manifest_key: Option<String>,
    /// Its disks by ascending index.
    pub disks: Vec<BackupDisk>,
}

/// What a verification found out about backups, each of which it read as far as its level goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verification {
    /// How thorough it was.
    pub level: VerifyLevel,
    /// When it ended.
    pub at: UtcMillis,
    /// The backups whose guest's view is whole.
    pub whole: Vec<BackupId>,
    /// The backups in whose view damage is visible, or whose objects cannot be read.
    pub damaged: Vec<BackupId>,
    /// When a merge had last rewritten each backup that was read. One that was rewritten since is passed over, as its
    /// objects of now are not those that were read.
    pub read: HashMap<BackupId, Option<UtcMillis>>,
}

/// What a verification changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StatusChanges {
    /// Damaged from now on, and completed before.
    pub marked: Vec<BackupId>,
    /// Completed from now on, and damaged before.
    pub cleared: Vec<BackupId>,
}

/// One disk of a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupDisk {
    /// 0, 1, … in the order of the VM's disks.
    pub disk_index: u32,
    /// The hypervisor's key.
    pub disk_key: DiskKey,
    /// What an administrator calls it.
    pub label: String,
    /// The disk's size at that moment.
    pub capacity: ByteLen,
    /// From which the next incremental counts; none where change tracking was off.
    pub change_id: Option<ChangeId>,
    /// The object's key in the repository.
    pub object_key: String,
    /// The object's size.
    pub stored: ByteLen,
    /// Bytes read from the source.
    pub read: ByteLen,
    /// Bytes of the capacity that were not read, or read and found zero.
    pub skipped: ByteLen,
    /// How long the move took, in milliseconds.
    pub moved_ms: u64,
    /// BLAKE3 of the object's bytes, in hexadecimal.
    pub digest: String,
    /// The key under which a merge published the object, until it takes the place of `object_key`.
    pub staged_key: Option<String>,
    /// Where the digests of the stored guest ranges are; none for backups of versions that made none.
    pub ranges: Option<RangeDigests>,
}

/// The object that holds the digests of the guest ranges which a disk's object stores.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RangeDigests {
    /// Its key in the repository.
    pub object_key: String,
    /// Its size.
    pub stored: ByteLen,
    /// BLAKE3 of its bytes, in hexadecimal.
    pub digest: String,
}

/// What a job does to a chain: backups leave it, and others take up what they held.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChainChange {
    /// Every backup that was read to make the merged ones, as it was then; the merged ones are among them.
    pub sources: Vec<Backup>,
    /// The merged backups as they are from now on: their type, parent and reason, their disks with new sizes, digests
    /// and staged keys, their staged manifest and the time of the merge. Nothing else of them changes.
    pub merged: Vec<Backup>,
    /// The backups that go.
    pub removed: Vec<BackupId>,
}

/// A piece of work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// Its identity.
    pub id: JobId,
    /// What it does.
    pub kind: JobKind,
    /// Where it stands.
    pub state: JobState,
    /// What to do, a JSON object.
    pub payload_json: String,
    /// How far it is, a JSON object.
    pub progress_json: String,
    /// What came of it, a JSON object; none until it ends.
    pub result_json: Option<String>,
    /// Why it failed, a JSON object; none unless it failed.
    pub error_json: Option<String>,
    /// Two jobs with the same key never run at the same time (for example `vm:<id>`); none for no such bound.
    pub exclusive_key: Option<String>,
    /// Whether its end was asked for.
    pub cancel_requested: bool,
    /// Grows with each claim; an effect with an older epoch is refused.
    pub epoch: i64,
    /// The host that holds it.
    pub lease_owner: Option<String>,
    /// Until when, without a heartbeat.
    pub lease_until: Option<UtcMillis>,
    /// When it was submitted.
    pub created_at: UtcMillis,
    /// When it was first claimed.
    pub started_at: Option<UtcMillis>,
    /// When it ended.
    pub ended_at: Option<UtcMillis>,
}

/// A job to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewJob {
    /// What it does.
    pub kind: JobKind,
    /// What to do, a JSON object.
    pub payload_json: String,
    /// See [`Job::exclusive_key`].
    pub exclusive_key: Option<String>,
    /// Submitting again with the same key answers with the first job.
    pub idempotency_key: Option<String>,
    /// Jobs of a larger one come first.
    pub priority: i64,
}

/// Which jobs a worker takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkKind {
    /// Those that do the work.
    Work,
    /// Those that wait for others ([`JobKind::waits_for_others`]).
    Waiting,
}

/// The right to run a job, checked by every effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The job.
    pub job_id: JobId,
    /// The epoch of the claim.
    pub epoch: i64,
    /// The host.
    pub owner: String,
}

/// How a job ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobOutcome {
    /// The work is done.
    Succeeded {
        /// What came of it, a JSON object.
        result_json: String,
    },
    /// The work failed and what it had begun is undone.
    Failed {
        /// Why, a JSON object.
        error_json: String,
    },
    /// The work was ended on request and what it had begun is undone.
    Cancelled,
}

/// What a heartbeat brings back: whether the job's end was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CancelRequested(pub bool);

/// Which jobs are wanted; an empty filter wants all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JobFilter {
    /// Only in this state.
    pub state: Option<JobState>,
    /// Only of this kind.
    pub kind: Option<JobKind>,
}

/// Which backups are wanted; an empty filter wants all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BackupFilter {
    /// Only of this VM.
    pub vm_id: Option<VmId>,
    /// Only in this repository.
    pub repository_id: Option<RepositoryId>,
    /// Only in this status.
    pub status: Option<BackupStatus>,
}

/// An object whose backup is gone from the catalog and which is still to be deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DoomedObject {
    /// Where it is.
    pub repository_id: RepositoryId,
    /// The object's key there.
    pub object_key: String,
    /// The backup it belonged to.
    pub backup_id: BackupId,
    /// When that was removed.
    pub doomed_at: UtcMillis,
}

/// A recorded step of a job: written before its effect, so that whoever comes after a crash can undo it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobStep {
    /// Ascending within the job.
    pub sequence: i64,
    /// The epoch that recorded it.
    pub epoch: i64,
    /// The step's stable name, for example `snapshot-requested`.
    pub name: String,
    /// What is needed to undo it, a JSON object.
    pub detail_json: String,
    /// When it was recorded.
    pub recorded_at: UtcMillis,
}

/// An installed version of a plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PluginVersion {
    /// The plugin's name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// `connector`, `storage-target`, `guest-filesystem`, `volume-reader` or `policy`.
    pub kind: String,
    /// SHA-256 of the component, in hexadecimal: under it the catalog has the component itself.
    pub digest: String,
    /// The manifest, a JSON object.
    pub manifest_json: String,
    /// When it was installed.
    pub installed_at: UtcMillis,
    /// Whether new jobs use it.
    pub active: bool,
    /// Why it is not used any more, where it misbehaved.
    pub quarantine: Option<String>,
    /// The key that signed it; none where nobody did.
    pub signed_by: Option<String>,
    /// Jobs, or sessions outside of jobs, in a row in which it misbehaved.
    pub strikes: u32,
}

/// A right that the administrator gave a plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The plugin's name.
    pub plugin: String,
    /// The capability, for example `http` or `path:/backup`.
    pub capability: String,
    /// Who gave it.
    pub granted_by: String,
    /// When.
    pub granted_at: UtcMillis,
}

/// What a token allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Reads.
    Viewer,
    /// Runs jobs.
    Operator,
    /// Everything.
    Admin,
}

/// A text that is no role.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no role (admin, operator or viewer)")]
pub struct ParseRoleError(pub String);

impl Role {
    /// The word the catalog and the API use.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }
}

impl FromStr for Role {
    type Err = ParseRoleError;

    fn from_str(text: &str) -> Result<Self, ParseRoleError> {
        match text {
            "viewer" => Ok(Self::Viewer),
            "operator" => Ok(Self::Operator),
            "admin" => Ok(Self::Admin),
            other => Err(ParseRoleError(other.to_owned())),
        }
    }
}

/// An access token; its secret is stored only as a digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// Its identity.
    pub id: TokenId,
    /// Unique name.
    pub name: String,
    /// What it allows.
    pub role: Role,
    /// SHA-256 of the secret, in hexadecimal.
    pub digest: String,
    /// When it was made.
    pub created_at: UtcMillis,
    /// When it was revoked.
    pub revoked_at: Option<UtcMillis>,
}

/// One line of the audit trail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditEntry {
    /// When.
    pub at: UtcMillis,
    /// Who: a token's name, `plugin NAME VERSION` or `host`.
    pub actor: String,
    /// What, for example `connector.add` or `plugin.http`.
    pub action: String,
    /// To what.
    pub target: String,
    /// `ok`, `denied` or `failed`.
    pub outcome: String,
    /// More, a JSON object.
    pub detail_json: String,
}

/// A part of a long list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T> {
    /// The items.
    pub items: Vec<T>,
    /// Pass it back for the next part; none on the last.
    pub next: Option<String>,
}

/// Which part of a long list is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageRequest {
    /// At most so many items (1 to 1000).
    pub limit: u32,
    /// From an earlier page.
    pub cursor: Option<String>,
}

impl Default for PageRequest {
    fn default() -> Self {
        Self { limit: 100, cursor: None }
    }
}
