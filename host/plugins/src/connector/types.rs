//! What a connector says, in the host's words, and the checks on the way in.

use std::collections::HashSet;

use tidemark_model::{ByteLen, ChangeId, DiskKey};

use super::{Exports, check_token};
use crate::bindings::about::exports::tidemark::plugin0_2_0::about;
use crate::bindings::connector::exports::tidemark::plugin::hypervisor as hv;
use crate::error::Error;
use crate::guest::{Guest, short};
use crate::offered::log::printable;

/// No hypervisor has larger disks (64 TiB is vSphere's limit; 1 EiB leaves room).
const MAX_CAPACITY: u64 = 1 << 60;
/// The longest name or number of a product, in characters.
const MAX_WORD: usize = 200;

/// Whether a machine runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PowerState {
    /// Off.
    Off,
    /// On.
    On,
    /// Suspended.
    Suspended,
    /// The hypervisor does not say.
    Unknown,
}

impl PowerState {
    /// The word that the catalog, the API and policies use.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::On => "on",
            Self::Suspended => "suspended",
            Self::Unknown => "unknown",
        }
    }
}

/// What a connector talks to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Product {
    /// What its maker calls it.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The maker's build; empty where there is none.
    pub build: String,
    /// What tells this installation from all others; none where the product has no such thing.
    pub instance: Option<String>,
}

/// A disk in the inventory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VirtualDisk {
    /// Its identity inside its VM.
    pub key: DiskKey,
    /// What an administrator calls it.
    pub label: String,
    /// Its size.
    pub capacity: ByteLen,
    /// Why it cannot be backed up; none where it can.
    pub not_protected: Option<String>,
}

/// A machine in the inventory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VirtualMachine {
    /// The hypervisor's own identifier.
    pub key: String,
    /// Its name.
    pub name: String,
    /// Whether it runs.
    pub power: PowerState,
    /// The guest's operating system, in the hypervisor's words.
    pub guest_os: String,
    /// Where it lies in the inventory.
    pub folder: String,
    /// Its tags.
    pub tags: Vec<String>,
    /// The datastores that its disks lie on.
    pub datastores: Vec<String>,
    /// Its disks.
    pub disks: Vec<VirtualDisk>,
    /// Whether changes are tracked.
    pub change_tracking: bool,
    /// Why it cannot be backed up; none where it can.
    pub not_protected: Option<String>,
}

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Good to know.
    Info,
    /// A backup is possible, but not as it should be.
    Warning,
    /// No backup is possible.
    Blocker,
}

/// Something that was found out about a connection or a VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How much it matters.
    pub severity: Severity,
    /// Stable, for example `missing-privilege`.
    pub code: String,
    /// For people.
    pub message: String,
}

/// What stands in the way of a backup of one VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreflightReport {
    /// The VM as it is now.
    pub vm: VirtualMachine,
    /// What was found.
    pub findings: Vec<Finding>,
    /// Change tracking is off and may be turned on now.
    pub can_enable_change_tracking: bool,
}

/// A disk as it is in a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotDisk {
    /// Its identity inside its VM.
    pub key: DiskKey,
    /// What an administrator calls it.
    pub label: String,
    /// Its size in the snapshot.
    pub capacity: ByteLen,
    /// The change id of exactly this snapshot; none where changes are not tracked.
    pub change_id: Option<ChangeId>,
}

/// A snapshot that was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Opaque.
    pub token: String,
    /// Whether the guest's file systems were quiesced.
    pub quiesced: bool,
    /// The disks in it; those that are not protected are left out.
    pub disks: Vec<SnapshotDisk>,
    /// What the user must know.
    pub warnings: Vec<String>,
}

/// A snapshot that was left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnSnapshot {
    /// Opaque.
    pub token: String,
    /// The key it was made with.
    pub idempotency_key: String,
}

/// From when changes are counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Since {
    /// Everything that is allocated.
    Allocated,
    /// What changed after this.
    ChangeId(ChangeId),
}

pub(super) fn finding(finding: hv::Finding) -> Finding {
    let hv::Finding { severity, code, message } = finding;
    let severity = match severity {
        hv::Severity::Info => Severity::Info,
        hv::Severity::Warning => Severity::Warning,
        hv::Severity::Blocker => Severity::Blocker,
    };
    Finding { severity, code: printable(&code), message: printable(&message) }
}

pub(super) fn product(said: about::Product) -> Product {
    let about::Product { name, version, build, instance } = said;
    let word = |text: String| short(&text, MAX_WORD);
    Product { name: word(name), version: word(version), build: word(build), instance: instance.map(word) }
}

pub(super) fn machine(
    guest: &mut Guest<Exports>,
    operation: &'static str,
    vm: hv::VirtualMachine,
) -> Result<VirtualMachine, Error> {
    let hv::VirtualMachine {
        key,
        name,
        power,
        guest_os,
        folder,
        tags,
        datastores,
        disks,
        change_tracking,
        not_protected,
    } = vm;
    check_token(guest, operation, "VM", &key)?;
    let mut checked = Vec::new();
    let mut seen = HashSet::new();
    for disk in guest.bounded(operation, disks)? {
        let hv::VirtualDisk { key: disk_key, label, capacity_bytes, not_protected } = disk;
        if disk_key.is_empty() || capacity_bytes > MAX_CAPACITY || !seen.insert(disk_key.clone()) {
            return Err(
                guest.nonsense(operation, format!("VM {key}: disk '{disk_key}' is wrong or comes twice"))
            );
        }
        checked.push(VirtualDisk {
            key: DiskKey(disk_key),
            label,
            capacity: ByteLen(capacity_bytes),
            not_protected,
        });
    }
    let power = match power {
        hv::PowerState::Off => PowerState::Off,
        hv::PowerState::On => PowerState::On,
        hv::PowerState::Suspended => PowerState::Suspended,
        hv::PowerState::Unknown => PowerState::Unknown,
    };
    let tags = guest.bounded(operation, tags)?;
    let datastores = guest.bounded(operation, datastores)?;
    Ok(VirtualMachine {
        key,
        name,
        power,
        guest_os,
        folder,
        tags,
        datastores,
        disks: checked,
        change_tracking,
        not_protected,
    })
}

pub(super) fn snapshot(guest: &mut Guest<Exports>, snapshot: hv::Snapshot) -> Result<Snapshot, Error> {
    const OPERATION: &str = "create-snapshot";
    let hv::Snapshot { token, quiesced, disks, warnings } = snapshot;
    check_token(guest, OPERATION, "snapshot", &token)?;
    let mut checked = Vec::new();
    let mut seen = HashSet::new();
    for disk in guest.bounded(OPERATION, disks)? {
        let hv::SnapshotDisk { key, label, capacity_bytes, change_id } = disk;
        if key.is_empty() || capacity_bytes > MAX_CAPACITY || !seen.insert(key.clone()) {
            return Err(guest.nonsense(OPERATION, format!("disk '{key}' is wrong or comes twice")));
        }
        // An empty change id would later ask for "changes since nothing", which some hypervisors answer.
        let change_id = change_id.filter(|id| !id.is_empty()).map(ChangeId);
        checked.push(SnapshotDisk { key: DiskKey(key), label, capacity: ByteLen(capacity_bytes), change_id });
    }
    let warnings = guest.bounded(OPERATION, warnings)?.iter().map(|warning| printable(warning)).collect();
    Ok(Snapshot { token, quiesced, disks: checked, warnings })
}
