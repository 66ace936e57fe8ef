//! `VirtualMachineSnapshot`: its frozen configuration, removal and revert.

use super::virtual_machine::config::{Moment, config};
use super::{Call, Reply};
use crate::soap::fault::Fault;
use crate::soap::value::{MoRef, Value};
use crate::state::Vcenter;
use crate::state::faults::FaultName;

pub(super) fn property(vcenter: &Vcenter, of: &MoRef, name: &str) -> Option<Value> {
    let (vm, snapshot) = vcenter.snapshot(of)?;
    match name {
        "config" => Some(config(vcenter, vm, Moment::Snapshot(snapshot)).into()),
        "childSnapshot" => {
            Some(vm.children(Some(of)).map(|child| child.reference.clone()).collect::<Vec<_>>().into())
        }
        "vm" => Some(vm.reference.clone().into()),
        _ => None,
    }
}

pub(super) fn call(call: Call) -> Result<Reply, Fault> {
    let reference = call.this.clone();
    let owner = call.vcenter.snapshot(&reference).map(|(vm, _)| vm.reference.clone());
    let vm = owner.ok_or_else(|| Fault::not_found(&reference))?;
    // The task belongs to the VM, as tasks of snapshots do in vCenter.
    let Call { simulator, vcenter, session, method, args, .. } = call;
    let mut call = Call { simulator, vcenter, session, this: &vm, method, args };
    let held = reference.clone();
    match call.method {
        "RemoveSnapshot_Task" => {
            let with_children = call.args.boolean("removeChildren").unwrap_or_default();
            let left_behind = call.vcenter.faults.strikes(FaultName::ConsolidationNeeded, call.method);
            let consolidate = call.args.boolean("consolidate").unwrap_or(true) && !left_behind;
            let effect = move |vcenter: &mut Vcenter| {
                let owner = vcenter.vms.iter_mut().find(|vm| vm.snapshot(&held).is_some());
                let vm = owner.ok_or_else(|| Fault::not_found(&held))?;
                vm.remove_snapshot(&held, with_children, consolidate);
                Ok(None)
            };
            Ok(call.start("vm.Snapshot.remove", Box::new(effect)))
        }
        "RevertToSnapshot_Task" => {
            let effect = move |vcenter: &mut Vcenter| {
                let owner = vcenter.vms.iter_mut().find(|vm| vm.snapshot(&held).is_some());
                let vm = owner.ok_or_else(|| Fault::not_found(&held))?;
                vm.revert(&held).map_err(|error| Fault::system(&error.to_string()))?;
                Ok(None)
            };
            Ok(call.start("vm.Snapshot.revert", Box::new(effect)))
        }
        method => Err(Fault::method_not_found(&reference, method)),
    }
}
