//! `VirtualMachineConfigInfo`, of the running VM and of a snapshot: above all its disks.

use time::OffsetDateTime;

use crate::objects::inventory::fixed;
use crate::soap::value::{Obj, Value};
use crate::state::Vcenter;
use crate::state::machine::{DiskKind, Snapshot, Vm, VmDisk};

/// How many CPUs every VM has.
pub const CPUS: u32 = 2;
/// How much memory every VM has, in MiB.
pub const MEMORY_MB: u32 = 4096;
/// What every VM runs.
pub const GUEST_ID: &str = "otherLinux64Guest";
/// What every VM runs, in words.
pub const GUEST_NAME: &str = "Other Linux (64-bit)";

const CONTROLLER: u32 = 1000;
/// Where a SCSI controller itself sits on its bus.
const RESERVED_UNIT: usize = 7;

/// Which configuration is asked for.
#[derive(Debug, Clone, Copy)]
pub enum Moment<'a> {
    /// The running VM's.
    Now,
    /// The one a snapshot froze.
    Snapshot(&'a Snapshot),
}

/// A path as the API writes it: `[datastore1] web/web.vmdk`.
#[must_use]
pub fn path_on_datastore(vcenter: &Vcenter, path: &str) -> String {
    format!("[{}] {path}", vcenter.settings.datastore)
}

/// The files of a disk from its first to the one that is written now.
#[must_use]
pub fn chain(vm: &Vm, disk: &VmDisk) -> Vec<String> {
    let mut files = files_above(vm, vm.current.as_ref().and_then(|current| vm.snapshot(current)), disk);
    if files.last() != Some(&disk.file) {
        files.push(disk.file.clone());
    }
    files
}

/// The files of a disk from its first to the one a snapshot froze.
fn files_above(vm: &Vm, snapshot: Option<&Snapshot>, disk: &VmDisk) -> Vec<String> {
    let mut files: Vec<String> = Vec::new();
    let mut at = snapshot;
    while let Some(snapshot) = at {
        if let Some(frozen) = snapshot.disk(disk.key)
            && files.last() != Some(&frozen.file)
        {
            files.push(frozen.file.clone());
        }
        at = snapshot.parent.as_ref().and_then(|parent| vm.snapshot(parent));
    }
    files.reverse();
    files
}

/// The configuration of a moment.
#[must_use]
pub fn config(vcenter: &Vcenter, vm: &Vm, moment: Moment) -> Obj {
    let (tracking, modified) = match moment {
        Moment::Now => (vm.change_tracking, OffsetDateTime::UNIX_EPOCH),
        Moment::Snapshot(snapshot) => (snapshot.change_tracking, snapshot.created),
    };
    let folder = path_on_datastore(vcenter, &format!("{}/", vm.name));
    let files = Obj::new("VirtualMachineFileInfo")
        .set("vmPathName", path_on_datastore(vcenter, &format!("{0}/{0}.vmx", vm.name)))
        .set_all(&["snapshotDirectory", "suspendDirectory", "logDirectory"], &folder.into());
    let option = Obj::new("OptionValue").set("key", "ctkEnabled");
    let option = option.set("value", Value::Typed(STRING, Box::new(tracking.to_string().into())));
    Obj::new("VirtualMachineConfigInfo")
        .set("changeVersion", modified.unix_timestamp().to_string())
        .set("modified", modified)
        .set("name", vm.name.as_str())
        .set("guestFullName", GUEST_NAME)
        .set("version", "vmx-19")
        .set("uuid", vm.bios_uuid.as_str())
        .set("instanceUuid", vm.instance_uuid.as_str())
        .set("template", vm.template)
        .set("guestId", GUEST_ID)
        .set("alternateGuestName", "")
        .set("annotation", "")
        .set("files", files)
        .set("flags", Obj::new("VirtualMachineFlagInfo").set("diskUuidEnabled", true))
        .set("defaultPowerOps", Obj::new("VirtualMachineDefaultPowerOpInfo"))
        .set("hardware", hardware(vcenter, vm, moment))
        .set("extraConfig", vec![option])
        .set("bootOptions", Obj::new("VirtualMachineBootOptions").set("efiSecureBootEnabled", false))
        .set("changeTrackingEnabled", tracking)
        .set("firmware", "bios")
}

const STRING: crate::soap::schema::TypeRef =
    crate::soap::schema::TypeRef { name: "xsd:string", array: false };

fn hardware(vcenter: &Vcenter, vm: &Vm, moment: Moment) -> Obj {
    let mut devices = vec![controller(vm)];
    devices.extend(vm.disks.iter().enumerate().map(|(index, disk)| device(vcenter, vm, index, disk, moment)));
    Obj::new("VirtualHardware")
        .set("numCPU", CPUS)
        .set("numCoresPerSocket", 1)
        .set("memoryMB", MEMORY_MB)
        .set("device", devices)
}

fn controller(vm: &Vm) -> Obj {
    let keys: Vec<u32> = vm.disks.iter().map(|disk| disk.key).collect();
    Obj::new("ParaVirtualSCSIController")
        .set("key", CONTROLLER)
        .set("deviceInfo", label("SCSI controller 0", "VMware paravirtual SCSI"))
        .set("controllerKey", 100)
        .set("unitNumber", 3)
        .set("busNumber", 0)
        .set("device", keys)
        .set("hotAddRemove", true)
        .set("sharedBus", "noSharing")
        .set("scsiCtlrUnitNumber", 7)
}

fn label(label: &str, summary: &str) -> Obj {
    Obj::new("Description").set("label", label).set("summary", summary)
}

fn device(vcenter: &Vcenter, vm: &Vm, index: usize, disk: &VmDisk, moment: Moment) -> Obj {
    let frozen = match moment {
        Moment::Now => None,
        Moment::Snapshot(snapshot) => snapshot.disk(disk.key).and_then(|disk| disk.frozen.as_ref()),
    };
    let capacity = frozen.map_or_else(|| disk.disk.capacity(), |frozen| frozen.capacity());
    let unit = if index < RESERVED_UNIT { index } else { index + 1 };
    let unit = u32::try_from(unit).unwrap_or(u32::MAX);
    Obj::new("VirtualDisk")
        .set("key", disk.key)
        .set("deviceInfo", label(&format!("Hard disk {}", index + 1), &format!("{} KB", capacity / 1024)))
        .set("backing", backing(vcenter, vm, disk, moment))
        .set("controllerKey", CONTROLLER)
        .set("unitNumber", unit)
        .set("capacityInKB", capacity / 1024)
        .set("capacityInBytes", capacity)
        .set("diskObjectId", format!("{}-{}", vm.reference.id.trim_start_matches("vm-"), disk.key))
        .set("nativeUnmanagedLinkedClone", false)
}

fn backing(vcenter: &Vcenter, vm: &Vm, disk: &VmDisk, moment: Moment) -> Obj {
    let (files, change_id) = match moment {
        Moment::Now => (chain(vm, disk), vm.live_change_id(disk)),
        Moment::Snapshot(snapshot) => {
            let frozen = snapshot.disk(disk.key).and_then(|disk| disk.frozen.as_ref());
            (files_above(vm, Some(snapshot), disk), frozen.and_then(|frozen| frozen.change_id().cloned()))
        }
    };
    if disk.kind == DiskKind::PhysicalRdm {
        return Obj::new("VirtualDiskRawDiskMappingVer1BackingInfo")
            .set("fileName", path_on_datastore(vcenter, &disk.file))
            .set("datastore", fixed("datastore-12"))
            .set("lunUuid", disk.uuid.replace('-', "").to_lowercase())
            .set("deviceName", "vml.0200000000")
            .set("compatibilityMode", "physicalMode")
            .set("diskMode", "independent_persistent")
            .set("uuid", disk.uuid.as_str());
    }
    let mode = if disk.kind == DiskKind::Independent { "independent_persistent" } else { "persistent" };
    let mut parent = None;
    for (index, file) in files.iter().enumerate() {
        let is_last = index + 1 == files.len();
        let info = Obj::new("VirtualDiskFlatVer2BackingInfo")
            .set("fileName", path_on_datastore(vcenter, file))
            .set("datastore", fixed("datastore-12"))
            .set("diskMode", mode)
            .set_all(&["split", "writeThrough"], &false.into())
            .set("thinProvisioned", true)
            .set("uuid", disk.uuid.as_str())
            .set("contentId", content_id(disk, file))
            .set_some("changeId", change_id.as_ref().filter(|_| is_last).map(ToString::to_string))
            .set_some("parent", parent.take())
            .set("digestEnabled", false)
            .set("sharing", "sharingNone");
        let delta = index > 0;
        parent = Some(if delta { info.set("deltaDiskFormat", "redoLogFormat") } else { info });
    }
    parent.unwrap_or_else(|| Obj::new("VirtualDiskFlatVer2BackingInfo"))
}

/// A stable id that differs between the files of a chain.
fn content_id(disk: &VmDisk, file: &str) -> String {
    use sha2::{Digest, Sha256};
    let digest = Sha256::digest(format!("{}/{file}", disk.uuid));
    digest[..16].iter().map(|byte| format!("{byte:02x}")).collect()
}
