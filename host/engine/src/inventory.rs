//! What the catalog, the API and policies see of a virtual machine, as the hypervisor described it.

use serde_json::{Value, json};
use tidemark_catalog::Vm;
use tidemark_model::{ByteLen, Candidate, CandidateDisk, DiskKey};
use tidemark_plugins::VirtualMachine;

use crate::engine::Shared;
use crate::error::Result;

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

/// A machine as policies see it, from the inventory that the catalog keeps.
pub(crate) fn candidate_of(inventory_json: &str, connector: &str, protected_by: Vec<String>) -> Candidate {
    let inventory: Value = serde_json::from_str(inventory_json).unwrap_or_default();
    let text = |name: &str| inventory.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let texts = |name: &str| {
        let list = inventory.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        list.iter().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let disks = inventory.get("disks").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let disk = |disk: &Value| {
        let text = |name: &str| disk.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let capacity = disk.get("capacity_bytes").and_then(Value::as_u64).unwrap_or(0);
        CandidateDisk { key: DiskKey(text("key")), label: text("label"), capacity: ByteLen(capacity) }
    };
    Candidate {
        key: text("key"),
        name: text("name"),
        connector: connector.to_owned(),
        folder: text("folder"),
        power: text("power"),
        guest_os: text("guest_os"),
        tags: texts("tags"),
        datastores: texts("datastores"),
        protected_by,
        disks: disks.iter().map(disk).collect(),
    }
}

/// A VM of the catalog as policies see it; which flows protect it is left out.
pub(crate) async fn candidate(shared: &Shared, vm: &Vm) -> Result<Candidate> {
    let connector = match vm.connector_id {
        Some(id) => shared.catalog.connector(id).await?.name,
        None => String::new(),
    };
    let seen = candidate_of(&vm.inventory_json, &connector, Vec::new());
    Ok(Candidate { key: vm.key.clone(), name: vm.name.clone(), ..seen })
}

#[cfg(test)]
mod tests {
    use tidemark_plugins::{PowerState, VirtualDisk};

    use super::*;

    #[test]
    fn a_policy_sees_what_the_hypervisor_showed() {
        let vm = VirtualMachine {
            key: "vm-7".to_owned(),
            name: "web01".to_owned(),
            power: PowerState::On,
            guest_os: "Linux".to_owned(),
            folder: "prod/web".to_owned(),
            tags: vec!["gold".to_owned()],
            datastores: vec!["ds1".to_owned()],
            disks: vec![VirtualDisk {
                key: DiskKey("2000".to_owned()),
                label: "Hard disk 1".to_owned(),
                capacity: ByteLen(1 << 30),
                not_protected: None,
            }],
            change_tracking: true,
            not_protected: None,
        };
        let seen = candidate_of(&to_json(&vm), "vc1", vec!["other".to_owned()]);
        assert_eq!(
            (seen.name.as_str(), seen.power.as_str(), seen.connector.as_str()),
            ("web01", "on", "vc1")
        );
        assert_eq!((seen.tags, seen.datastores), (vm.tags, vm.datastores));
        assert_eq!((seen.disks.len(), seen.disks[0].capacity), (1, ByteLen(1 << 30)));
        assert_eq!(candidate_of("nonsense", "vc1", Vec::new()).power, "");
    }
}
