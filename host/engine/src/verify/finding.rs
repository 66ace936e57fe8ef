//! What a verification finds, in words and as documents.

use std::collections::BTreeSet;
use std::fmt;

use serde_json::{Value, json};
use tidemark_catalog::{Backup, BackupDisk};
use tidemark_model::{BackupId, DiskKey, ExtentList};

use super::ranges;

/// What sort of damage it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// An image is not there.
    Missing,
    /// An image has another size than was recorded.
    Size,
    /// An image contradicts itself, or does not fit into its chain.
    Structure,
    /// An image has another digest, and no cluster of the guest says where.
    Digest,
    /// Clusters of the guest are not what they were.
    Data,
    /// The range digests are missing or not what was recorded; the guest's bytes are not concerned.
    RangeDigests,
    /// The manifest is missing or says something else than the catalog; the guest's bytes are not concerned.
    Manifest,
}

impl Kind {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Size => "size",
            Self::Structure => "structure",
            Self::Digest => "digest",
            Self::Data => "data",
            Self::RangeDigests => "range-digests",
            Self::Manifest => "manifest",
        }
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone)]
pub(super) struct Finding {
    pub(super) kind: Kind,
    pub(super) backup_id: BackupId,
    /// The disk's number and the hypervisor's key for it; none for a manifest.
    pub(super) disk: Option<(u32, DiskKey)>,
    pub(super) object_key: String,
    pub(super) message: String,
    /// Which of the guest's bytes are concerned, where that is known.
    pub(super) ranges: Option<ExtentList>,
    /// The backups whose view shows it, or which cannot be read without the object.
    pub(super) affected: BTreeSet<BackupId>,
}

impl Finding {
    pub(super) fn of_disk(
        backup_id: BackupId,
        disk: &BackupDisk,
        kind: Kind,
        message: impl Into<String>,
    ) -> Self {
        Self {
            kind,
            backup_id,
            disk: Some((disk.disk_index, disk.disk_key.clone())),
            object_key: disk.object_key.clone(),
            message: message.into(),
            ranges: None,
            affected: BTreeSet::new(),
        }
    }

    pub(super) fn of_manifest(backup: &Backup, message: impl Into<String>) -> Self {
        Self {
            kind: Kind::Manifest,
            backup_id: backup.id,
            disk: None,
            object_key: backup.manifest_key.clone(),
            message: message.into(),
            ranges: None,
            affected: BTreeSet::new(),
        }
    }

    pub(super) fn document(&self) -> Value {
        let Self { kind, backup_id, disk, object_key, message, ranges, affected } = self;
        json!({
            "kind": kind.as_str(),
            "backup_id": backup_id.to_string(),
            "disk_index": disk.as_ref().map(|(index, _)| index),
            "disk_id": disk.as_ref().map(|(_, key)| key.to_string()),
            "object": object_key,
            "message": message,
            "guest_ranges": ranges.as_ref().map(ranges::document),
            "guest_ranges_count": ranges.as_ref().map(ExtentList::len),
            "damaged_bytes": ranges.as_ref().map(|ranges| ranges.total().0),
            "affected_backups": affected.iter().map(ToString::to_string).collect::<Vec<_>>(),
        })
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "backup {}", self.backup_id)?;
        if let Some((index, _)) = &self.disk {
            write!(f, " disk {index}")?;
        }
        write!(f, " ({}): {}", self.object_key, self.message)
    }
}

/// A disk whose clusters were read with nothing to compare them with.
#[derive(Debug, Clone)]
pub(super) struct NotCompared {
    pub(super) backup_id: BackupId,
    pub(super) disk_index: u32,
    pub(super) clusters: u64,
    pub(super) reason: &'static str,
}

impl NotCompared {
    pub(super) fn document(&self) -> Value {
        let Self { backup_id, disk_index, clusters, reason } = self;
        json!({
            "backup_id": backup_id.to_string(),
            "disk_index": disk_index,
            "clusters": clusters,
            "reason": reason,
        })
    }
}
