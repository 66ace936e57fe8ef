//! A virtual machine: its disks, its tree of snapshots, and what happens to both.
//!
//! ```text
//!   snapshot-1 ── snapshot-2 ── (running state)     a removal joins a snapshot with what follows it,
//!        └─────── snapshot-3                        a revert hangs the running state below another one
//! ```
//! File names follow vSphere: the frozen state keeps its file, the running state goes on in a new `-NNNNNN.vmdk`,
//! and when a snapshot is removed its successor takes its file over.

use std::sync::Arc;

use time::OffsetDateTime;

use crate::disk::{CbtId, Disk, DiskError, Frozen};
use crate::soap::value::MoRef;

/// What kind of disk it is, which decides whether snapshots and CBT reach it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskKind {
    /// A file on the datastore.
    Flat,
    /// A file that snapshots leave out.
    Independent,
    /// A raw device in physical mode, which snapshots leave out.
    PhysicalRdm,
}

/// A disk of a VM.
#[derive(Debug, Clone)]
pub struct VmDisk {
    /// Its device key: 2000, 2001, ….
    pub key: u32,
    /// Its kind.
    pub kind: DiskKind,
    /// Its identity, which survives snapshots.
    pub uuid: String,
    /// Its content.
    pub disk: Arc<Disk>,
    /// The path of its first file without `.vmdk`, for example `web/web_1`.
    pub base: String,
    /// The file that the running VM writes, with `.vmdk`.
    pub file: String,
}

/// A disk as a snapshot froze it.
#[derive(Debug, Clone)]
pub struct SnapshotDisk {
    /// The disk's device key.
    pub key: u32,
    /// The file that was frozen.
    pub file: String,
    /// Its content; nothing for a disk that snapshots leave out.
    pub frozen: Option<Arc<Frozen>>,
}

/// A snapshot.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Its reference.
    pub reference: MoRef,
    /// Its number within the VM.
    pub number: u32,
    /// Its name.
    pub name: String,
    /// Its description.
    pub description: String,
    /// The snapshot it hangs below.
    pub parent: Option<MoRef>,
    /// When it was made.
    pub created: OffsetDateTime,
    /// Whether the guest was quiesced.
    pub quiesced: bool,
    /// Whether the VM ran.
    pub powered_on: bool,
    /// Whether change tracking was on.
    pub change_tracking: bool,
    /// Its disks.
    pub disks: Vec<SnapshotDisk>,
}

impl Snapshot {
    /// The disk with that key.
    #[must_use]
    pub fn disk(&self, key: u32) -> Option<&SnapshotDisk> {
        self.disks.iter().find(|disk| disk.key == key)
    }
}

/// A virtual machine.
#[derive(Debug)]
pub struct Vm {
    /// Its reference.
    pub reference: MoRef,
    /// Its name.
    pub name: String,
    /// Its BIOS uuid.
    pub bios_uuid: String,
    /// Its uuid within the vCenter.
    pub instance_uuid: String,
    /// Whether it runs.
    pub powered_on: bool,
    /// Whether it is a template.
    pub template: bool,
    /// The setting; it reaches the disks at the next stun.
    pub change_tracking: bool,
    /// Whether files of removed snapshots were left behind.
    pub consolidation_needed: bool,
    /// The task that holds it.
    pub busy: Option<MoRef>,
    /// Its disks.
    pub disks: Vec<VmDisk>,
    /// Its snapshots, oldest first.
    pub snapshots: Vec<Snapshot>,
    /// The snapshot that the running state hangs below.
    pub current: Option<MoRef>,
    next_file: u32,
    next_snapshot: u32,
}

/// What a caller says of a new snapshot.
#[derive(Debug, Clone)]
pub struct NewSnapshot {
    /// Its reference, unique in the vCenter.
    pub reference: MoRef,
    /// Its name.
    pub name: String,
    /// Its description.
    pub description: String,
    /// Whether to quiesce the guest.
    pub quiesce: bool,
}

impl Vm {
    /// A running VM with these disks and no snapshots.
    #[must_use]
    pub fn new(reference: MoRef, name: &str, uuids: (String, String), disks: Vec<VmDisk>) -> Self {
        Self {
            reference,
            name: name.to_owned(),
            bios_uuid: uuids.0,
            instance_uuid: uuids.1,
            powered_on: true,
            template: false,
            change_tracking: false,
            consolidation_needed: false,
            busy: None,
            disks,
            snapshots: Vec::new(),
            current: None,
            next_file: 1,
            next_snapshot: 1,
        }
    }

    /// The snapshot of that reference.
    #[must_use]
    pub fn snapshot(&self, reference: &MoRef) -> Option<&Snapshot> {
        self.snapshots.iter().find(|snapshot| snapshot.reference == *reference)
    }

    /// The snapshots right below one, or at the root.
    pub fn children<'a>(&'a self, parent: Option<&'a MoRef>) -> impl Iterator<Item = &'a Snapshot> {
        self.snapshots.iter().filter(move |snapshot| snapshot.parent.as_ref() == parent)
    }

    /// The disk with that key.
    #[must_use]
    pub fn disk(&self, key: u32) -> Option<&VmDisk> {
        self.disks.iter().find(|disk| disk.key == key)
    }

    /// The change id that the running VM shows for a disk.
    #[must_use]
    pub fn live_change_id(&self, disk: &VmDisk) -> Option<CbtId> {
        disk.disk.change_id().filter(|_| self.change_tracking && disk.kind == DiskKind::Flat)
    }

    /// Freezes the disks; the stun also brings the change tracking setting into force.
    pub fn create_snapshot(&mut self, new: NewSnapshot) {
        let suffix = self.take_file_number();
        let mut disks = Vec::new();
        for disk in &mut self.disks {
            let frozen = (disk.kind == DiskKind::Flat).then(|| {
                disk.disk.track(self.change_tracking);
                disk.disk.freeze()
            });
            let file = disk.file.clone();
            if frozen.is_some() {
                disk.file = format!("{}-{suffix:06}.vmdk", disk.base);
            }
            disks.push(SnapshotDisk { key: disk.key, file, frozen });
        }
        self.snapshots.push(Snapshot {
            reference: new.reference.clone(),
            number: self.next_snapshot,
            name: new.name,
            description: new.description,
            parent: self.current.take(),
            created: OffsetDateTime::now_utc(),
            quiesced: new.quiesce,
            powered_on: self.powered_on,
            change_tracking: self.change_tracking,
            disks,
        });
        self.next_snapshot += 1;
        self.current = Some(new.reference);
    }

    fn take_file_number(&mut self) -> u32 {
        let number = self.next_file;
        self.next_file += 1;
        number
    }

    /// Removes a snapshot, with everything below it when asked; `consolidate` joins the files.
    pub fn remove_snapshot(&mut self, reference: &MoRef, with_children: bool, consolidate: bool) {
        if with_children {
            let below: Vec<MoRef> =
                self.children(Some(reference)).map(|child| child.reference.clone()).collect();
            for child in below {
                self.remove_snapshot(&child, true, consolidate);
            }
        }
        let Some(index) = self.snapshots.iter().position(|snapshot| snapshot.reference == *reference) else {
            return;
        };
        let removed = self.snapshots.remove(index);
        for disk in &removed.disks {
            if let (Some(frozen), Some(live)) = (&disk.frozen, self.disk(disk.key)) {
                live.disk.release(frozen);
            }
        }
        if consolidate {
            self.hand_files_over(&removed);
        } else {
            self.consolidation_needed = true;
        }
        for child in self.snapshots.iter_mut().filter(|child| child.parent.as_ref() == Some(reference)) {
            child.parent.clone_from(&removed.parent);
        }
        if self.current.as_ref() == Some(reference) {
            self.current = removed.parent;
        }
    }

    /// The state that follows a removed snapshot goes on in its files.
    fn hand_files_over(&mut self, removed: &Snapshot) {
        let is_current = self.current.as_ref() == Some(&removed.reference);
        let successor =
            self.snapshots.iter_mut().find(|child| child.parent.as_ref() == Some(&removed.reference));
        let files: &mut dyn Iterator<Item = (u32, &mut String)> = match successor {
            Some(child) if !is_current => &mut child.disks.iter_mut().map(|disk| (disk.key, &mut disk.file)),
            _ if is_current => &mut self.disks.iter_mut().map(|disk| (disk.key, &mut disk.file)),
            _ => return,
        };
        for (key, file) in files {
            if let Some(disk) = removed.disk(key) {
                file.clone_from(&disk.file);
            }
        }
    }

    /// Removes all snapshots.
    pub fn remove_all_snapshots(&mut self, consolidate: bool) {
        while let Some(reference) = self.snapshots.first().map(|first| first.reference.clone()) {
            self.remove_snapshot(&reference, false, consolidate);
        }
    }

    /// Joins the files that removals left behind.
    pub fn consolidate(&mut self) {
        self.consolidation_needed = false;
        if self.snapshots.is_empty() {
            for disk in &mut self.disks {
                disk.file = format!("{}.vmdk", disk.base);
            }
        }
    }

    /// Takes the running state back to a snapshot.
    ///
    /// # Errors
    /// When a disk's content is gone, which cannot be while the snapshot exists.
    pub fn revert(&mut self, reference: &MoRef) -> Result<(), DiskError> {
        let Some(snapshot) = self.snapshot(reference).cloned() else { return Err(DiskError::Released) };
        let suffix = self.take_file_number();
        for disk in &mut self.disks {
            if let Some(frozen) = snapshot.disk(disk.key).and_then(|disk| disk.frozen.as_ref()) {
                disk.disk.revert(frozen)?;
                disk.file = format!("{}-{suffix:06}.vmdk", disk.base);
            }
        }
        self.change_tracking = snapshot.change_tracking;
        self.current = Some(reference.clone());
        Ok(())
    }
}
