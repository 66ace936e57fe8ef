//! What the catalog and the API show of a virtual machine, as the hypervisor described it.

use serde_json::json;
use tidemark_plugins::{PowerState, VirtualMachine};

/// The inventory as the JSON object that the catalog keeps.
pub(crate) fn to_json(vm: &VirtualMachine) -> String {
    let VirtualMachine { key, name, power, guest_os, folder, tags, disks, change_tracking, not_protected } =
        vm;
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
    let power = match power {
        PowerState::On => "on",
        PowerState::Off => "off",
        PowerState::Suspended => "suspended",
        PowerState::Unknown => "unknown",
    };
    json!({
        "key": key,
        "name": name,
        "power": power,
        "guest_os": guest_os,
        "folder": folder,
        "tags": tags,
        "change_tracking": change_tracking,
        "not_protected": not_protected,
        "disks": disks,
    })
    .to_string()
}
