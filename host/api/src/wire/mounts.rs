//! Files out of backups: mounts, partitions, files.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tidemark_engine::{FileEntry as File, MountView, NodeKind, PartitionView};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::rfc3339;
use crate::extract::KeptBody;

/// Opens a disk of a backup for reading its files.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct MountBackup {
    /// The backup.
    pub backup_id: String,
    /// Which of its disks; the first where none is given.
    #[serde(default)]
    pub disk_index: u32,
}

impl KeptBody for MountBackup {
    const MEMBERS: &'static [&'static str] = &["backup_id", "disk_index"];
}

/// A disk whose files can be read.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct MountEntry {
    /// Its id, for all further questions.
    pub mount_id: String,
    /// The backup.
    pub backup_id: String,
    /// Which of its disks.
    pub disk_index: u32,
    /// The VM.
    pub vm_name: String,
    /// When it was opened.
    pub created_at: String,
    /// When it ends unless it is asked for something before.
    pub expires_at: String,
    /// The memory that it takes now: blocks of the disks, and the readers' sandboxes.
    pub memory_bytes: u64,
    /// What is on the disk.
    pub partitions: Vec<PartitionEntry>,
    /// Members of the request that are not known; not of the list.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub warnings: Vec<String>,
}

/// A partition of a mounted disk.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct PartitionEntry {
    /// Its place, from 0.
    pub index: u32,
    /// For example `Partition 1 - Recovery (1.5 GB)`.
    pub name: String,
    /// The file system's label, or the table's name for it.
    pub label: String,
    /// The file system, or what it looks like where it cannot be read.
    pub filesystem: String,
    /// Whether its files can be read.
    pub readable: bool,
    /// Its size.
    pub size_bytes: u64,
    /// Where its files are.
    pub path: String,
    /// What the user must know.
    pub warnings: Vec<String>,
}

/// The mounts of the host that answers.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct MountList {
    /// The newest first.
    pub mounts: Vec<MountEntry>,
}

/// What is in a folder.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct FileList {
    /// The folder.
    pub path: String,
    /// By name.
    pub files: Vec<FileEntry>,
}

/// A file, folder, link, or at the root a partition.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct FileEntry {
    /// Its name; bytes that are no UTF-8 are shown as `\xHH`.
    pub name: String,
    /// `file`, `directory`, `symlink` or `other`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Where it is.
    pub path: String,
    /// Its size in bytes.
    pub size: u64,
    /// When its content changed, in RFC 3339 with what the file system knows of seconds' parts.
    pub modified_time: Option<String>,
    /// When it was made.
    pub created_time: Option<String>,
    /// When it was read.
    pub accessed_time: Option<String>,
    /// Unix permissions in octal, for example `0644`.
    pub mode: Option<String>,
    /// The owner, as the file system names it.
    pub owner: Option<String>,
    /// The group.
    pub group: Option<String>,
    /// How many names it has; none where the reader cannot tell.
    pub links: Option<u32>,
    /// Where a link leads; only where one file is asked for.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub target: Option<String>,
    /// Named streams; only where one file is asked for.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub streams: Vec<StreamEntry>,
    /// What is set for it (`read-only`, `hidden`, `immutable`, …), in the words of the plugin contract; only where one file is
    /// asked for.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub attributes: Vec<String>,
    /// Who may do what, where mode and owners do not say it: for NTFS a security descriptor in SDDL; only where one file is
    /// asked for.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub access_list: Option<String>,
}

/// A named stream of a file.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct StreamEntry {
    /// Its name.
    pub name: String,
    /// Its size in bytes.
    pub size: u64,
}

/// What a search found.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct FoundFiles {
    /// Files, folders and links.
    pub files: Vec<FileEntry>,
    /// There is more than is listed.
    pub truncated: bool,
}

impl From<MountView> for MountEntry {
    fn from(view: MountView) -> Self {
        let MountView {
            id,
            backup_id,
            disk_index,
            vm_name,
            opened_at,
            used_at: _,
            ends_at,
            memory,
            partitions,
        } = view;
        Self {
            mount_id: id,
            backup_id: backup_id.to_string(),
            disk_index,
            vm_name,
            created_at: rfc3339(opened_at),
            expires_at: rfc3339(ends_at),
            memory_bytes: memory.0,
            partitions: partitions.into_iter().map(PartitionEntry::from).collect(),
            warnings: Vec::new(),
        }
    }
}

impl From<PartitionView> for PartitionEntry {
    fn from(view: PartitionView) -> Self {
        let PartitionView { index, name, label, filesystem, readable, size, warnings } = view;
        let path = format!("/{name}");
        Self { index, name, label, filesystem, readable, size_bytes: size.0, path, warnings }
    }
}

impl From<File> for FileEntry {
    fn from(file: File) -> Self {
        let File { name, path, stat, target, streams, attributes } = file;
        let streams = streams.into_iter().map(|(name, size)| StreamEntry { name, size }).collect();
        let entry = Self {
            name,
            kind: "directory".to_owned(),
            path,
            size: 0,
            modified_time: None,
            created_time: None,
            accessed_time: None,
            mode: None,
            owner: None,
            group: None,
            links: None,
            target,
            streams,
            attributes: attributes.flags,
            access_list: attributes.access_list,
        };
        let Some(stat) = stat else { return entry };
        let kind = match stat.kind {
            NodeKind::File => "file",
            NodeKind::Directory => "directory",
            NodeKind::Symlink => "symlink",
            NodeKind::Other => "other",
        };
        Self {
            kind: kind.to_owned(),
            size: stat.size_bytes,
            modified_time: stat.modified_ns.and_then(moment),
            created_time: stat.created_ns.and_then(moment),
            accessed_time: stat.accessed_ns.and_then(moment),
            mode: stat.mode.map(|mode| format!("{:04o}", mode & 0o7777)),
            owner: stat.owner,
            group: stat.group,
            links: Some(stat.links).filter(|links| *links > 0),
            ..entry
        }
    }
}

fn moment(ns: i64) -> Option<String> {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(ns)).ok()?.format(&Rfc3339).ok()
}
