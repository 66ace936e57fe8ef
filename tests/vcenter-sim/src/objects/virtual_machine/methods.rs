//! The methods of a VM: reconfiguration, snapshots, consolidation, power.

use super::{changes, power_state};
use crate::objects::{Call, Reply};
use crate::soap::fault::Fault;
use crate::soap::schema::TypeRef;
use crate::soap::value::{MoRef, Value};
use crate::state::Vcenter;
use crate::state::faults::FaultName;
use crate::state::machine::NewSnapshot;

/// A snapshot tree may be this deep.
const DEEPEST_TREE: usize = 32;

pub(in crate::objects) fn call(mut call: Call) -> Result<Reply, Fault> {
    let this = call.this.clone();
    match call.method {
        "QueryChangedDiskAreas" => changes::query(&call),
        "ReconfigVM_Task" => Ok(reconfigure(call)),
        "CreateSnapshot_Task" | "CreateSnapshotEx_Task" => create_snapshot(call),
        "RemoveAllSnapshots_Task" => {
            let left_behind = call.vcenter.faults.strikes(FaultName::ConsolidationNeeded, call.method);
            let consolidate = call.args.boolean("consolidate").unwrap_or(true) && !left_behind;
            let effect = move |vcenter: &mut Vcenter| {
                vcenter.vm_mut(&this)?.remove_all_snapshots(consolidate);
                Ok(None)
            };
            Ok(call.start("vm.Snapshot.removeAll", Box::new(effect)))
        }
        "RevertToCurrentSnapshot_Task" => {
            let effect = move |vcenter: &mut Vcenter| {
                let vm = vcenter.vm_mut(&this)?;
                let current = vm.current.clone();
                let current =
                    current.ok_or_else(|| Fault::invalid_state("The virtual machine has no snapshot."))?;
                vm.revert(&current).map_err(|error| Fault::system(&error.to_string()))?;
                Ok(None)
            };
            Ok(call.start("VirtualMachine.revertToCurrentSnapshot", Box::new(effect)))
        }
        "ConsolidateVMDisks_Task" => {
            let effect = move |vcenter: &mut Vcenter| {
                vcenter.vm_mut(&this)?.consolidate();
                Ok(None)
            };
            Ok(call.start("VirtualMachine.consolidateDisks", Box::new(effect)))
        }
        "PowerOnVM_Task" => Ok(power(call, true)),
        "PowerOffVM_Task" => Ok(power(call, false)),
        method => Err(Fault::method_not_found(call.this, method)),
    }
}

fn reconfigure(mut call: Call) -> Reply {
    let this = call.this.clone();
    let tracking = call.args.one("spec").and_then(|spec| spec.boolean("changeTrackingEnabled"));
    let effect = move |vcenter: &mut Vcenter| {
        let vm = vcenter.vm_mut(&this)?;
        if let Some(on) = tracking {
            if vm.template {
                return Err(Fault::not_supported("Change tracking is not supported on a template."));
            }
            // It reaches the disks at the next stun, as it does on a host.
            vm.change_tracking = on;
        }
        Ok(None)
    };
    call.start("VirtualMachine.reconfigure", Box::new(effect))
}

fn create_snapshot(mut call: Call) -> Result<Reply, Fault> {
    let this = call.this.clone();
    let name = call.args.text("name").to_owned();
    if name.is_empty() || name.len() > 80 {
        return Err(Fault::invalid_argument("name"));
    }
    let quiesce = match call.method {
        "CreateSnapshotEx_Task" => call.args.one("quiesceSpec").is_some(),
        _ => call.args.boolean("quiesce").unwrap_or_default(),
    };
    let quiesce_fails =
        quiesce && call.vcenter.faults.strikes(FaultName::ApplicationQuiesceFault, call.method);
    let description = call.args.text("description").to_owned();
    let effect = move |vcenter: &mut Vcenter| {
        if quiesce_fails {
            return Err(Fault::application_quiesce());
        }
        let reference = MoRef::new("VirtualMachineSnapshot", format!("snapshot-{}", vcenter.take_id()));
        let vm = vcenter.vm_mut(&this)?;
        if vm.template {
            return Err(Fault::not_supported("A template cannot have a snapshot."));
        }
        if vm.snapshots.len() >= DEEPEST_TREE {
            return Err(Fault::invalid_state("The snapshot tree is too deep."));
        }
        let quiesce = quiesce && vm.powered_on;
        vm.create_snapshot(NewSnapshot { reference: reference.clone(), name, description, quiesce });
        let ty = TypeRef::parse("ManagedObjectReference");
        Ok(Some(Value::Typed(ty, Box::new(reference.into()))))
    };
    Ok(call.start("VirtualMachine.createSnapshot", Box::new(effect)))
}

fn power(mut call: Call, on: bool) -> Reply {
    let this = call.this.clone();
    let effect = move |vcenter: &mut Vcenter| {
        let vm = vcenter.vm_mut(&this)?;
        if vm.powered_on == on || vm.template {
            return Err(Fault::invalid_power_state(power_state(vm.powered_on), power_state(on)));
        }
        vm.powered_on = on;
        Ok(None)
    };
    call.start(if on { "VirtualMachine.powerOn" } else { "VirtualMachine.powerOff" }, Box::new(effect))
}
