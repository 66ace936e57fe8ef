//! `VirtualMachine`: its properties. Methods, configuration and changed areas have files of their own.

pub mod changes;
pub mod config;
pub mod methods;

use time::OffsetDateTime;

use super::inventory::fixed;
use crate::soap::value::{MoRef, Obj, Value};
use crate::state::Vcenter;
use crate::state::machine::{DiskKind, Snapshot, Vm};
use config::{Moment, config, path_on_datastore};

pub(super) fn property(vcenter: &Vcenter, vm: &Vm, name: &str) -> Option<Value> {
    match name {
        "capability" => Some(capability(vm).into()),
        "config" => Some(config(vcenter, vm, Moment::Now).into()),
        "layoutEx" => Some(layout(vcenter, vm).into()),
        "storage" => Some(storage(vm).into()),
        "environmentBrowser" => Some(MoRef::new("EnvironmentBrowser", "envbrowser-7").into()),
        "resourcePool" => (!vm.template).then(|| fixed("resgroup-8").into()),
        "runtime" => Some(runtime(vm).into()),
        "guest" => Some(guest(vm).into()),
        "summary" => Some(summary(vcenter, vm).into()),
        "datastore" => Some(vec![fixed("datastore-12")].into()),
        "network" => Some(vec![fixed("network-13")].into()),
        "snapshot" => snapshots(vm).map(Value::from),
        "rootSnapshot" => Some(vm.children(None).map(|s| s.reference.clone()).collect::<Vec<_>>().into()),
        "guestHeartbeatStatus" => Some(if vm.powered_on { "green" } else { "gray" }.into()),
        _ => None,
    }
}

/// The word for a power state.
#[must_use]
pub fn power_state(on: bool) -> &'static str {
    if on { "poweredOn" } else { "poweredOff" }
}

fn capability(vm: &Vm) -> Obj {
    let supported = [
        "snapshotOperationsSupported",
        "multipleSnapshotsSupported",
        "poweredOffSnapshotsSupported",
        "memorySnapshotsSupported",
        "revertToSnapshotSupported",
        "quiescedSnapshotsSupported",
        "bootOptionsSupported",
        "diskSharesSupported",
        "multipleCoresPerSocketSupported",
        "nestedHVSupported",
        "secureBootSupported",
    ];
    let missing = [
        "snapshotConfigSupported",
        "disableSnapshotsSupported",
        "lockSnapshotsSupported",
        "consolePreferencesSupported",
        "cpuFeatureMaskSupported",
        "s1AcpiManagementSupported",
        "settingScreenResolutionSupported",
        "toolsAutoUpdateSupported",
        "vmNpivWwnSupported",
        "npivWwnOnNonRdmVmSupported",
        "vmNpivWwnDisableSupported",
        "vmNpivWwnUpdateSupported",
        "swapPlacementSupported",
        "toolsSyncTimeSupported",
        "virtualMmuUsageSupported",
        "bootRetryOptionsSupported",
        "settingVideoRamSizeSupported",
        "settingDisplayTopologySupported",
        "recordReplaySupported",
        "hostBasedReplicationSupported",
        "guestAutoLockSupported",
        "memoryReservationLockSupported",
        "featureRequirementSupported",
        "poweredOnMonitorTypeChangeSupported",
        "seSparseDiskSupported",
        "vPMCSupported",
    ];
    Obj::new("VirtualMachineCapability")
        .set_all(&supported, &true.into())
        .set_all(&missing, &false.into())
        .set("changeTrackingSupported", !vm.template)
}

fn runtime(vm: &Vm) -> Obj {
    Obj::new("VirtualMachineRuntimeInfo")
        .set("host", fixed("host-9"))
        .set("connectionState", "connected")
        .set("powerState", power_state(vm.powered_on))
        .set("faultToleranceState", "notConfigured")
        .set_all(&["toolsInstallerMounted", "onlineStandby"], &false.into())
        .set("numMksConnections", 0)
        .set("recordReplayState", "inactive")
        .set("consolidationNeeded", vm.consolidation_needed)
}

fn guest(vm: &Vm) -> Obj {
    Obj::new("GuestInfo")
        .set("toolsStatus", if vm.powered_on { "toolsOk" } else { "toolsNotRunning" })
        .set("toolsRunningStatus", if vm.powered_on { "guestToolsRunning" } else { "guestToolsNotRunning" })
        .set("guestId", config::GUEST_ID)
        .set("guestFullName", config::GUEST_NAME)
        .set("hostName", vm.name.as_str())
        .set("guestState", if vm.powered_on { "running" } else { "notRunning" })
}

fn summary(vcenter: &Vcenter, vm: &Vm) -> Obj {
    let settings = Obj::new("VirtualMachineConfigSummary")
        .set("name", vm.name.as_str())
        .set("template", vm.template)
        .set("vmPathName", path_on_datastore(vcenter, &format!("{0}/{0}.vmx", vm.name)))
        .set("memorySizeMB", config::MEMORY_MB)
        .set("numCpu", config::CPUS)
        .set("numEthernetCards", 0)
        .set("numVirtualDisks", u32::try_from(vm.disks.len()).unwrap_or(u32::MAX))
        .set("uuid", vm.bios_uuid.as_str())
        .set("instanceUuid", vm.instance_uuid.as_str())
        .set("guestId", config::GUEST_ID)
        .set("guestFullName", config::GUEST_NAME);
    let (committed, uncommitted) = usage(vm);
    let storage = Obj::new("VirtualMachineStorageSummary")
        .set("committed", committed)
        .set("uncommitted", uncommitted)
        .set("unshared", committed)
        .set("timestamp", OffsetDateTime::UNIX_EPOCH);
    let guest = Obj::new("VirtualMachineGuestSummary")
        .set("guestId", config::GUEST_ID)
        .set("guestFullName", config::GUEST_NAME)
        .set("hostName", vm.name.as_str());
    Obj::new("VirtualMachineSummary")
        .set("vm", vm.reference.clone())
        .set("runtime", runtime(vm))
        .set("guest", guest)
        .set("config", settings)
        .set("storage", storage)
        .set("quickStats", Obj::new("VirtualMachineQuickStats").set("guestHeartbeatStatus", "green"))
        .set("overallStatus", "green")
}

fn usage(vm: &Vm) -> (u64, u64) {
    let committed: u64 = vm.disks.iter().map(|disk| disk.disk.allocated_bytes()).sum();
    let capacity: u64 = vm.disks.iter().map(|disk| disk.disk.capacity()).sum();
    (committed, capacity.saturating_sub(committed))
}

fn storage(vm: &Vm) -> Obj {
    let (committed, uncommitted) = usage(vm);
    let usage = Obj::new("VirtualMachineUsageOnDatastore")
        .set("datastore", fixed("datastore-12"))
        .set_all(&["committed", "unshared"], &committed.into())
        .set("uncommitted", uncommitted);
    Obj::new("VirtualMachineStorageInfo")
        .set("perDatastoreUsage", vec![usage])
        .set("timestamp", OffsetDateTime::UNIX_EPOCH)
}

fn layout(vcenter: &Vcenter, vm: &Vm) -> Obj {
    let mut files = Vec::new();
    let mut disks = Vec::new();
    let mut add = |name: String, kind: &'static str, bytes: u64| {
        let key = i32::try_from(files.len()).unwrap_or(i32::MAX);
        let file = Obj::new("VirtualMachineFileLayoutExFileInfo").set("key", key);
        files.push(file.set("name", name).set("type", kind).set("size", bytes).set("accessible", true));
        key
    };
    add(path_on_datastore(vcenter, &format!("{0}/{0}.vmx", vm.name)), "config", 4096);
    for disk in vm.disks.iter().filter(|disk| disk.kind != DiskKind::PhysicalRdm) {
        let mut units = Vec::new();
        for file in config::chain(vm, disk) {
            let extent =
                file.replace(".vmdk", if file.contains("-0000") { "-sesparse.vmdk" } else { "-flat.vmdk" });
            let descriptor = add(path_on_datastore(vcenter, &file), "diskDescriptor", 1024);
            let data = add(path_on_datastore(vcenter, &extent), "diskExtent", disk.disk.allocated_bytes());
            units.push(Obj::new("VirtualMachineFileLayoutExDiskUnit").set("fileKey", vec![descriptor, data]));
        }
        disks.push(Obj::new("VirtualMachineFileLayoutExDiskLayout").set("key", disk.key).set("chain", units));
    }
    Obj::new("VirtualMachineFileLayoutEx")
        .set("file", files)
        .set("disk", disks)
        .set("timestamp", OffsetDateTime::UNIX_EPOCH)
}

fn snapshots(vm: &Vm) -> Option<Obj> {
    let roots: Vec<Obj> = vm.children(None).map(|root| tree(vm, root)).collect();
    if roots.is_empty() {
        return None;
    }
    let info = Obj::new("VirtualMachineSnapshotInfo").set_some("currentSnapshot", vm.current.clone());
    Some(info.set("rootSnapshotList", roots))
}

fn tree(vm: &Vm, snapshot: &Snapshot) -> Obj {
    let children: Vec<Obj> = vm.children(Some(&snapshot.reference)).map(|child| tree(vm, child)).collect();
    Obj::new("VirtualMachineSnapshotTree")
        .set("snapshot", snapshot.reference.clone())
        .set("vm", vm.reference.clone())
        .set("name", snapshot.name.as_str())
        .set("description", snapshot.description.as_str())
        .set("id", snapshot.number)
        .set("createTime", snapshot.created)
        .set("state", power_state(snapshot.powered_on))
        .set("quiesced", snapshot.quiesced)
        .set("childSnapshotList", children)
        .set("replaySupported", false)
}
