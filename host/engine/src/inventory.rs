//! What the catalog and the API show of a virtual machine, as the hypervisor described it.

use serde_json::json;
use tidemark_plugins::VirtualMachine;

/// The inventory as the JSON object that the catalog keeps.
pub(crate) fn to_json(vm: &VirtualMachine) -> String {
    let VirtualMachine {
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
    let disks: Vec<_> = disks
        .iter()
        .map(|disk| {
            json!({
                "key": disk.key.0,
                "label": disk.label,
                "capacity_bytes": disk.capacity.0,
                "not_protected": disk.not_protected,
            })
        })
        .collect();
    json!({
        "key": key,
        "name": name,
        "power": power.as_str(),
        "guest_os": guest_os,
        "folder": folder,
        "tags": tags,
        "datastores": datastores,
        "change_tracking": change_tracking,
        "not_protected": not_protected,
        "disks": disks,
    })
    .to_string()
}
