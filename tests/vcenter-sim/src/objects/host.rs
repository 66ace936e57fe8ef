//! `ComputeResource`, `ResourcePool`, `HostSystem`, `Network`: the one host that the VMs run on.

use super::inventory::{datastore_browser, entity_name, fixed};
use crate::soap::value::{MoRef, Obj, Value};
use crate::state::Vcenter;

pub(super) fn property(vcenter: &Vcenter, of: &MoRef, name: &str) -> Option<Value> {
    let vms = || vcenter.vms.iter().map(|vm| vm.reference.clone()).collect::<Vec<_>>();
    match (of.kind.as_str(), name) {
        ("ComputeResource", "host") | ("Network", "host") => Some(vec![fixed("host-9")].into()),
        ("ComputeResource", "resourcePool") => Some(fixed("resgroup-8").into()),
        ("ComputeResource", "summary") => Some(compute_summary().into()),
        ("ComputeResource" | "HostSystem", "datastore") => Some(vec![fixed("datastore-12")].into()),
        ("ComputeResource" | "HostSystem", "network") => Some(vec![fixed("network-13")].into()),
        ("HostSystem" | "ResourcePool" | "Network", "vm") => Some(vms().into()),
        ("HostSystem", "runtime") => Some(runtime().into()),
        ("HostSystem", "summary") => Some(host_summary(vcenter, of).into()),
        ("HostSystem", "datastoreBrowser") => Some(datastore_browser().into()),
        ("ResourcePool", "owner") => Some(fixed("domain-s7").into()),
        ("Network", "summary") => {
            let summary = Obj::new("NetworkSummary").set("network", of.clone());
            let summary = summary.set("name", entity_name(vcenter, of)).set("accessible", true);
            Some(summary.set("ipPoolName", "").into())
        }
        _ => None,
    }
}

fn runtime() -> Obj {
    Obj::new("HostRuntimeInfo")
        .set("connectionState", "connected")
        .set("powerState", "poweredOn")
        .set("inMaintenanceMode", false)
        .set("inQuarantineMode", false)
}

fn compute_summary() -> Obj {
    Obj::new("ComputeResourceSummary")
        .set_all(&["totalCpu", "effectiveCpu"], &9600.into())
        .set("totalMemory", 32_i64 << 30)
        .set_all(&["numCpuCores", "numCpuThreads"], &4.into())
        .set("effectiveMemory", 32 << 10)
        .set_all(&["numHosts", "numEffectiveHosts"], &1.into())
        .set("overallStatus", "green")
}

fn host_summary(vcenter: &Vcenter, of: &MoRef) -> Obj {
    let hardware = Obj::new("HostHardwareSummary")
        .set("vendor", "Simulated")
        .set("model", "Simulated")
        .set("uuid", "4c4c4544-0000-1000-8000-000000000009")
        .set("memorySize", 32_i64 << 30)
        .set("cpuModel", "Simulated")
        .set("cpuMhz", 2400)
        .set("numCpuPkgs", 1)
        .set_all(&["numCpuCores", "numCpuThreads"], &4.into())
        .set_all(&["numNics", "numHBAs"], &1.into());
    let config = Obj::new("HostConfigSummary")
        .set("name", entity_name(vcenter, of))
        .set("port", 443)
        .set_all(&["vmotionEnabled", "faultToleranceEnabled"], &false.into());
    Obj::new("HostListSummary")
        .set("host", of.clone())
        .set("hardware", hardware)
        .set("runtime", runtime())
        .set("config", config)
        .set("quickStats", Obj::new("HostListSummaryQuickStats"))
        .set("overallStatus", "green")
        .set("rebootRequired", false)
}
