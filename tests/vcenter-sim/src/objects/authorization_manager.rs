//! `AuthorizationManager`: everything is granted but what a fault switch takes away.

use super::inventory::exists;
use super::{Call, Reply};
use crate::soap::fault::Fault;
use crate::soap::value::{Obj, Value};
use crate::state::Vcenter;
use crate::state::faults::FaultName;

/// Whether the one role has a privilege. The switch's argument is a list with commas.
#[must_use]
pub fn granted(vcenter: &Vcenter, privilege: &str) -> bool {
    let missing = vcenter.faults.active(FaultName::NoPermission);
    missing.is_none_or(|list| list.split(',').all(|name| name.trim() != privilege))
}

pub(super) fn call(call: &Call) -> Result<Reply, Fault> {
    let known = call.vcenter.sessions.get(call.args.text("sessionId")).is_some();
    if !known {
        return Err(Fault::invalid_argument("sessionId"));
    }
    let privileges = call.args.texts("privId");
    let entities: Vec<_> = call.args.all("entity").filter_map(|entity| entity.own_reference()).collect();
    if let Some(unknown) = entities.iter().find(|entity| !exists(call.vcenter, entity)) {
        return Err(Fault::not_found(unknown));
    }
    let grants = privileges.iter().map(|name| granted(call.vcenter, name));
    if call.method == "HasPrivilegeOnEntity" {
        return Ok(Reply::Value(grants.collect::<Vec<_>>().into()));
    }
    let availability: Value = privileges
        .iter()
        .zip(grants)
        .map(|(name, is)| Obj::new("PrivilegeAvailability").set("privId", name.as_str()).set("isGranted", is))
        .collect::<Vec<_>>()
        .into();
    let answer = entities.into_iter().map(|entity| {
        Obj::new("EntityPrivilege").set("entity", entity).set("privAvailability", availability.clone())
    });
    Ok(Reply::Value(answer.collect::<Vec<_>>().into()))
}
