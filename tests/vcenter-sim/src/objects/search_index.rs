//! `SearchIndex`: objects by inventory path or uuid.

use super::inventory::{children, entity_name, fixed};
use super::{Call, Reply};
use crate::soap::fault::Fault;
use crate::soap::value::MoRef;

pub(super) fn call(call: &Call) -> Result<Reply, Fault> {
    let found = match call.method {
        "FindByInventoryPath" => by_path(call, call.args.text("inventoryPath")),
        "FindByUuid" => by_uuid(call),
        method => return Err(Fault::method_not_found(call.this, method)),
    };
    Ok(found.map_or(Reply::Void, |found| Reply::Value(found.into())))
}

fn by_path(call: &Call, path: &str) -> Option<MoRef> {
    let mut at = fixed("group-d1");
    for name in path.split('/').filter(|name| !name.is_empty()) {
        at =
            children(call.vcenter, &at).into_iter().find(|child| entity_name(call.vcenter, child) == name)?;
    }
    Some(at)
}

fn by_uuid(call: &Call) -> Option<MoRef> {
    let wanted = call.args.text("uuid").to_ascii_lowercase();
    let instance = call.args.boolean("instanceUuid").unwrap_or_default();
    let of_vm = call.args.boolean("vmSearch").unwrap_or_default();
    let mut vms = call.vcenter.vms.iter().filter(|_| of_vm);
    let vm = vms.find(|vm| if instance { vm.instance_uuid == wanted } else { vm.bios_uuid == wanted })?;
    Some(vm.reference.clone())
}
