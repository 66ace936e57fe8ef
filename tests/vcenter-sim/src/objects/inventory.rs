//! The tree of managed objects: which exist, what hangs below what, and where a property comes from.
//!
//! ```text
//!   Datacenters (group-d1) ─ Datacenter ┬ vm (group-v3) ─────── the VMs
//!                                       ├ host (group-h4) ───── esx01 (domain-s7) ─ host-9, Resources (resgroup-8)
//!                                       ├ datastore (group-s5)  datastore-12
//!                                       └ network (group-n6) ── network-13
//! ```

use super::{containers, datastore, host, property_collector, service_instance, session_manager};
use super::{snapshot, task, view, virtual_machine};
use crate::soap::schema::schema;
use crate::soap::value::{MoRef, Value};
use crate::state::Vcenter;

/// The fixed objects: type and id.
const FIXED: [(&str, &str); 18] = [
    ("ServiceInstance", "ServiceInstance"),
    ("SessionManager", "SessionManager"),
    ("AuthorizationManager", "AuthorizationManager"),
    ("ViewManager", "ViewManager"),
    ("SearchIndex", "SearchIndex"),
    ("TaskManager", "TaskManager"),
    ("PropertyCollector", "propertyCollector"),
    ("Folder", "group-d1"),
    ("Datacenter", "datacenter-2"),
    ("Folder", "group-v3"),
    ("Folder", "group-h4"),
    ("Folder", "group-s5"),
    ("Folder", "group-n6"),
    ("ComputeResource", "domain-s7"),
    ("ResourcePool", "resgroup-8"),
    ("HostSystem", "host-9"),
    ("Datastore", "datastore-12"),
    ("Network", "network-13"),
];

/// A fixed object by its id.
#[must_use]
pub fn fixed(id: &str) -> MoRef {
    let kind = FIXED.iter().find(|(_, known)| *known == id).map_or("ManagedObject", |(kind, _)| kind);
    MoRef::new(kind, id)
}

/// The browser of the datastore.
#[must_use]
pub fn datastore_browser() -> MoRef {
    MoRef::new("HostDatastoreBrowser", "datastoreBrowser-datastore-12")
}

/// Whether a reference leads to something.
#[must_use]
pub fn exists(vcenter: &Vcenter, of: &MoRef) -> bool {
    let is_fixed = FIXED.iter().any(|(kind, id)| of.kind == *kind && of.id == *id);
    match of.kind.as_str() {
        _ if is_fixed => true,
        "VirtualMachine" => vcenter.vm(of).is_some(),
        "VirtualMachineSnapshot" => vcenter.snapshot(of).is_some(),
        "Task" => vcenter.task(of).is_some(),
        "ContainerView" => vcenter.views.contains_key(&of.id),
        "HostDatastoreBrowser" => *of == datastore_browser(),
        "PropertyCollector" | "PropertyFilter" => vcenter.collectors.knows(of),
        _ => false,
    }
}

/// The value of a property of an existing object; `None` when it is unset.
#[must_use]
pub fn property(vcenter: &Vcenter, session: Option<&str>, of: &MoRef, name: &str) -> Option<Value> {
    if schema().is_a(&of.kind, "ManagedEntity")
        && let Some(value) = entity_property(vcenter, of, name)
    {
        return Some(value);
    }
    match of.kind.as_str() {
        "ServiceInstance" => service_instance::property(vcenter, name),
        "SessionManager" => session_manager::property(vcenter, session, name),
        "ViewManager" | "ContainerView" => view::property(vcenter, session, of, name),
        "TaskManager" => (name == "recentTask").then(|| {
            vcenter.tasks.iter().rev().take(20).map(|task| task.reference.clone()).collect::<Vec<_>>().into()
        }),
        "Task" => task::property(vcenter, of, name),
        "Folder" | "Datacenter" => containers::property(vcenter, of, name),
        "ComputeResource" | "ResourcePool" | "HostSystem" | "Network" => host::property(vcenter, of, name),
        "Datastore" | "HostDatastoreBrowser" => datastore::property(vcenter, of, name),
        "VirtualMachine" => vcenter.vm(of).and_then(|vm| virtual_machine::property(vcenter, vm, name)),
        "VirtualMachineSnapshot" => snapshot::property(vcenter, of, name),
        "PropertyCollector" => property_collector::property(vcenter, of, name),
        _ => None,
    }
}

/// The name of a managed entity.
#[must_use]
pub fn entity_name(vcenter: &Vcenter, of: &MoRef) -> String {
    match of.id.as_str() {
        "group-d1" => "Datacenters",
        "group-v3" => "vm",
        "group-h4" => "host",
        "group-s5" => "datastore",
        "group-n6" => "network",
        "datacenter-2" => &vcenter.settings.datacenter,
        "domain-s7" | "host-9" => "esx01.example.test",
        "resgroup-8" => "Resources",
        "datastore-12" => &vcenter.settings.datastore,
        "network-13" => "VM Network",
        _ => vcenter.vm(of).map_or("", |vm| &vm.name),
    }
    .to_owned()
}

/// The entity above an entity.
#[must_use]
pub fn parent(of: &MoRef) -> Option<MoRef> {
    let above = match of.id.as_str() {
        "group-d1" => return None,
        "datacenter-2" => "group-d1",
        "group-v3" | "group-h4" | "group-s5" | "group-n6" => "datacenter-2",
        "domain-s7" => "group-h4",
        "resgroup-8" | "host-9" => "domain-s7",
        "datastore-12" => "group-s5",
        "network-13" => "group-n6",
        _ => "group-v3",
    };
    Some(fixed(above))
}

/// The entities right below an entity, in the order of the tree.
#[must_use]
pub fn children(vcenter: &Vcenter, of: &MoRef) -> Vec<MoRef> {
    let all = FIXED.iter().map(|(kind, id)| MoRef::new(kind, *id));
    let entities = all.filter(|object| schema().is_a(&object.kind, "ManagedEntity"));
    let vms = vcenter.vms.iter().map(|vm| vm.reference.clone());
    entities.chain(vms).filter(|object| parent(object).as_ref() == Some(of)).collect()
}

fn entity_property(vcenter: &Vcenter, of: &MoRef, name: &str) -> Option<Value> {
    match name {
        "name" => Some(entity_name(vcenter, of).into()),
        "parent" => parent(of).map(Value::from),
        "overallStatus" | "configStatus" => Some("green".into()),
        "effectiveRole" => Some(vec![-1].into()),
        "alarmActionsEnabled" => Some(true.into()),
        "recentTask" => {
            let tasks = vcenter.tasks.iter().filter(|task| task.entity() == of);
            Some(tasks.rev().take(5).map(|task| task.reference.clone()).collect::<Vec<_>>().into())
        }
        _ => None,
    }
}
