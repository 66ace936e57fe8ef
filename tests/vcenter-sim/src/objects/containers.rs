//! `Folder` and `Datacenter`: what contains the rest.

use super::inventory::{children, fixed};
use crate::soap::value::{MoRef, Value};
use crate::state::Vcenter;

pub(super) fn property(vcenter: &Vcenter, of: &MoRef, name: &str) -> Option<Value> {
    match (of.kind.as_str(), name) {
        ("Folder", "childEntity") => Some(children(vcenter, of).into()),
        ("Folder", "childType") => {
            let kinds: &[&str] = match of.id.as_str() {
                "group-d1" => &["Folder", "Datacenter"],
                "group-v3" => &["Folder", "VirtualMachine", "VirtualApp"],
                "group-h4" => &["Folder", "ComputeResource"],
                "group-s5" => &["Folder", "Datastore", "StoragePod"],
                _ => &["Folder", "Network", "DistributedVirtualSwitch"],
            };
            Some(kinds.to_vec().into())
        }
        ("Datacenter", "vmFolder") => Some(fixed("group-v3").into()),
        ("Datacenter", "hostFolder") => Some(fixed("group-h4").into()),
        ("Datacenter", "datastoreFolder") => Some(fixed("group-s5").into()),
        ("Datacenter", "networkFolder") => Some(fixed("group-n6").into()),
        ("Datacenter", "datastore") => Some(vec![fixed("datastore-12")].into()),
        ("Datacenter", "network") => Some(vec![fixed("network-13")].into()),
        _ => None,
    }
}
