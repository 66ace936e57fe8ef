//! What a backup is, which kind it is, and why it is of that kind.

use std::fmt;
use std::str::FromStr;

/// The hypervisor's name for a disk's state, from which later changes are counted. Opaque to the host.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ChangeId(pub String);

impl fmt::Display for ChangeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a backup stores: everything allocated, or what changed since its parent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BackupType {
    /// Stands alone.
    Full,
    /// Needs its parent.
    Incremental,
}

/// What was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RequestedType {
    /// A full, whatever the chain looks like.
    Full,
    /// An incremental; a full only where an incremental would be wrong, with its reason recorded.
    Incremental,
    /// An incremental where there is a good parent, else a full.
    Auto,
}

/// Where a backup stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BackupStatus {
    /// Complete and durable: the only status from which one may restore.
    Completed,
    /// A verification found damage, here or in a backup this one needs.
    Damaged,
}

/// How thoroughly backups are verified, the shallowest first. Each level does all that the one before it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum VerifyLevel {
    /// Objects are present, of the recorded size, and sound in structure.
    Quick,
    /// And every stored byte has the recorded digest.
    Full,
    /// And every cluster of the guest can be read and has the recorded digest.
    Deep,
}

/// Why a backup is a full. Recorded with the backup; a full without a reason cannot be constructed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FullReason {
    /// Asked for by the user or the flow.
    Requested,
    /// There is no earlier backup of this virtual machine in the repository.
    FirstBackup,
    /// The parent has no change id for the disk.
    NoChangeId {
        /// The disk's key.
        disk: String,
    },
    /// The hypervisor does not accept the parent's change id; the connector's words say why.
    ChangeTrackingReset {
        /// The disk's key.
        disk: String,
        /// A stable code, for example `change-id-foreign` or `file-fault`.
        code: String,
        /// The connector's explanation.
        message: String,
    },
    /// The disk's capacity differs from the parent's.
    CapacityChanged {
        /// The disk's key.
        disk: String,
    },
    /// The set of disks differs from the parent's.
    DisksChanged {
        /// What differs, in words.
        detail: String,
    },
    /// Changed block tracking was off when the snapshot was taken.
    ChangeTrackingOff {
        /// The disk's key.
        disk: String,
    },
    /// A backup that the next incremental would need is marked damaged.
    ParentDamaged {
        /// Which one.
        detail: String,
    },
    /// The parent's object is missing from the repository.
    ParentMissing {
        /// Which object.
        detail: String,
    },
    /// A sample of what the hypervisor called unchanged differs from what was stored: its map cannot be trusted.
    AuditMismatch {
        /// The disk's key.
        disk: String,
        /// Where, in words.
        detail: String,
    },
    /// The chain has as many links as it may have.
    ChainDepth {
        /// How many it has.
        depth: usize,
    },
}

impl FullReason {
    /// The stable code that the catalog and the API carry.
    #[must_use]
    pub fn code(&self) -> &str {
        match self {
            Self::Requested => "requested",
            Self::FirstBackup => "first-backup",
            Self::NoChangeId { .. } => "no-change-id",
            Self::ChangeTrackingReset { code, .. } => code,
            Self::CapacityChanged { .. } => "capacity-changed",
            Self::DisksChanged { .. } => "disks-changed",
            Self::ChangeTrackingOff { .. } => "change-tracking-off",
            Self::ParentDamaged { .. } => "parent-damaged",
            Self::ParentMissing { .. } => "parent-missing",
            Self::AuditMismatch { .. } => "audit-mismatch",
            Self::ChainDepth { .. } => "chain-depth",
        }
    }
}

impl fmt::Display for FullReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Requested => f.write_str("a full was requested"),
            Self::FirstBackup => f.write_str("first backup of this VM in the repository"),
            Self::NoChangeId { disk } => write!(f, "the parent has no change id for disk {disk}"),
            Self::ChangeTrackingReset { disk, code, message } => {
                write!(f, "change tracking of disk {disk} was reset ({code}): {message}")
            }
            Self::CapacityChanged { disk } => write!(f, "the capacity of disk {disk} changed"),
            Self::DisksChanged { detail } => write!(f, "the set of disks changed: {detail}"),
            Self::ChangeTrackingOff { disk } => write!(f, "change tracking was off for disk {disk}"),
            Self::ParentDamaged { detail } => {
                write!(f, "an incremental would need what is damaged: {detail}")
            }
            Self::ParentMissing { detail } => write!(f, "the parent backup's object is missing: {detail}"),
            Self::AuditMismatch { disk, detail } => {
                write!(f, "change tracking of disk {disk} cannot be trusted: {detail}")
            }
            Self::ChainDepth { depth } => write!(f, "the chain has {depth} links, which is the most allowed"),
        }
    }
}

/// A text that is no backup type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no backup type (full, incremental or auto)")]
pub struct ParseBackupTypeError(pub String);

/// A text that is no level of verification.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no level of verification (quick, full or deep)")]
pub struct ParseLevelError(pub String);

/// A text that is no backup status.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no backup status")]
pub struct ParseStatusError(pub String);

impl BackupType {
    /// The word the catalog and the API use.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Incremental => "incremental",
        }
    }
}

impl FromStr for BackupType {
    type Err = ParseBackupTypeError;

    fn from_str(text: &str) -> Result<Self, ParseBackupTypeError> {
        match text {
            "full" => Ok(Self::Full),
            "incremental" => Ok(Self::Incremental),
            other => Err(ParseBackupTypeError(other.to_owned())),
        }
    }
}

impl RequestedType {
    /// The word the catalog and the API use.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Incremental => "incremental",
            Self::Auto => "auto",
        }
    }
}

impl FromStr for RequestedType {
    type Err = ParseBackupTypeError;

    fn from_str(text: &str) -> Result<Self, ParseBackupTypeError> {
        match text {
            "full" => Ok(Self::Full),
            "incremental" => Ok(Self::Incremental),
            "auto" => Ok(Self::Auto),
            other => Err(ParseBackupTypeError(other.to_owned())),
        }
    }
}

impl VerifyLevel {
    /// The word the catalog and the API use.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Quick => "quick",
            Self::Full => "full",
            Self::Deep => "deep",
        }
    }
}

impl FromStr for VerifyLevel {
    type Err = ParseLevelError;

    fn from_str(text: &str) -> Result<Self, ParseLevelError> {
        match text {
            "quick" => Ok(Self::Quick),
            "full" => Ok(Self::Full),
            "deep" => Ok(Self::Deep),
            other => Err(ParseLevelError(other.to_owned())),
        }
    }
}

impl BackupStatus {
    /// The word the catalog and the API use.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Damaged => "damaged",
        }
    }
}

impl FromStr for BackupStatus {
    type Err = ParseStatusError;

    fn from_str(text: &str) -> Result<Self, ParseStatusError> {
        match text {
            "completed" => Ok(Self::Completed),
            "damaged" => Ok(Self::Damaged),
            other => Err(ParseStatusError(other.to_owned())),
        }
    }
}
