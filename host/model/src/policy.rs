//! What policies look at and what they answer: the same for scripts and for plugins.

use std::fmt;
use std::str::FromStr;

use crate::{BackupId, BackupType, ByteLen, DiskKey, UtcMillis};

/// What a policy decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PolicyKind {
    /// Which backups are kept.
    Retention,
    /// Which VMs are protected, and which type of backup each gets.
    Group,
}

/// A text that is no kind of policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParsePolicyKindError(pub String);

impl PolicyKind {
    /// The word the catalog, the API and the command line use.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Retention => "retention",
            Self::Group => "group",
        }
    }
}

impl FromStr for PolicyKind {
    type Err = ParsePolicyKindError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "retention" => Ok(Self::Retention),
            "group" => Ok(Self::Group),
            other => Err(ParsePolicyKindError(other.to_owned())),
        }
    }
}

impl fmt::Display for ParsePolicyKindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "'{}' is no kind of policy (retention or group)", self.0)
    }
}

impl std::error::Error for ParsePolicyKindError {}

/// A backup's places in the calendar of the policy's time zone, as the host computed them. The newest backup of each
/// period is counted, from 0 for the newest period that has one; all others have [`Ranks::NONE`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ranks {
    /// Among all.
    pub last: u32,
    /// Among the newest of each hour.
    pub hourly: u32,
    /// Of each day.
    pub daily: u32,
    /// Of each ISO 8601 week.
    pub weekly: u32,
    /// Of each month.
    pub monthly: u32,
    /// Of each year.
    pub yearly: u32,
}

impl Ranks {
    /// Not the newest of its period: larger than any number that a policy keeps.
    pub const NONE: u32 = u32::MAX;
}

/// A backup that a retention policy judges.
#[derive(Debug, Clone, PartialEq)]
pub struct RetentionPoint {
    /// Its identity.
    pub id: BackupId,
    /// The moment of its snapshot.
    pub created_at: UtcMillis,
    /// How old it is, in days of 24 hours; negative where the clock went back.
    pub age_days: f64,
    /// Its places in the calendar.
    pub rank: Ranks,
    /// Full or incremental.
    pub backup_type: BackupType,
    /// Whether a verification found it good.
    pub verified: bool,
    /// Whether a verification found it damaged.
    pub damaged: bool,
    /// Whether it is pinned.
    pub pinned: bool,
    /// What it stores.
    pub size: ByteLen,
}

/// What is to become of a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeepVerdict {
    /// It stays, for this reason.
    Keep(String),
    /// It may go.
    MayGo,
}

/// What all decisions may look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyContext {
    /// The moment of the decision.
    pub now: UtcMillis,
    /// An IANA name.
    pub time_zone: String,
    /// The policy's own settings, a JSON object.
    pub settings_json: String,
    /// The VM whose backups are judged; none in a decision about a VM, which is an argument of its own there.
    pub vm: Option<Candidate>,
}

/// A VM that a group policy judges.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Candidate {
    /// The hypervisor's identifier.
    pub key: String,
    /// Its name.
    pub name: String,
    /// The connector that shows it.
    pub connector: String,
    /// Where it lies in the inventory.
    pub folder: String,
    /// `on`, `off`, `suspended` or `unknown`.
    pub power: String,
    /// The guest's operating system.
    pub guest_os: String,
    /// Its tags.
    pub tags: Vec<String>,
    /// The datastores that its disks lie on.
    pub datastores: Vec<String>,
    /// The other enabled flows that protect it, by name.
    pub protected_by: Vec<String>,
    /// Its disks.
    pub disks: Vec<CandidateDisk>,
}

/// A disk of a VM that a group policy judges.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CandidateDisk {
    /// Its identity inside its VM.
    pub key: DiskKey,
    /// What an administrator calls it.
    pub label: String,
    /// Its size.
    pub capacity: ByteLen,
}

/// Whether a VM is protected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection {
    /// Whether.
    pub protect: bool,
    /// Why.
    pub reason: String,
    /// Disks that are left out.
    pub exclude_disks: Vec<DiskKey>,
}

/// What was backed up before: the VM's newest chain in the repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct History {
    /// Backups in the chain.
    pub chain_length: u32,
    /// When its full was made.
    pub last_full: Option<UtcMillis>,
    /// When its newest backup was made.
    pub last_backup: Option<UtcMillis>,
    /// What its full stores.
    pub full_size: Option<ByteLen>,
    /// What its incrementals store together.
    pub increments_size: ByteLen,
    /// What the newest incremental read from the guest: how much had changed.
    pub changed: Option<ByteLen>,
}

/// Which backup to make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlanType {
    /// A full that reads the guest.
    Full,
    /// An incremental; a full only where an incremental would be wrong.
    Incremental,
    /// An incremental that is then made a full by merging what it needs into it.
    SyntheticFull,
    /// None now.
    Defer,
}

impl PlanType {
    /// The word that scripts, the API and reports use.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Incremental => "incremental",
            Self::SyntheticFull => "synthetic-full",
            Self::Defer => "defer",
        }
    }
}

/// Which backup to make, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanDecision {
    /// Which.
    pub kind: PlanType,
    /// Why.
    pub reason: String,
}
