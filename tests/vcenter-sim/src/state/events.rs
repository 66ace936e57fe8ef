//! What somebody else does to the VMs, at once: the change history is lost, a disk grows, a VM goes back in time.

use super::faults::{FaultName, Times};
use super::machine::Vm;
use super::{Simulator, Vcenter};

/// How much a disk grows when nobody says.
const DEFAULT_GROWTH: u64 = 64 << 20;

impl Simulator {
    /// Sets a fault switch, or lets the event happen that it stands for.
    ///
    /// # Errors
    /// Why the event cannot happen, in words.
    pub fn set_fault(
        &self,
        name: FaultName,
        arg: Option<String>,
        times: Option<Times>,
    ) -> Result<(), String> {
        let mut vcenter = self.lock();
        let arg_text = arg.as_deref().unwrap_or_default();
        let outcome = match name {
            FaultName::CbtReset => for_vms(&mut vcenter, arg_text, |vm| {
                vm.disks.iter().for_each(|disk| disk.disk.reset_tracking());
                Ok(())
            }),
            FaultName::Revert => for_vms(&mut vcenter, arg_text, revert),
            FaultName::Resize => resize(&mut vcenter, arg_text),
            FaultName::NoPermission if arg_text.is_empty() && times != Some(Times::Count(0)) => {
                Err("NoPermission needs the privilege as its argument".to_owned())
            }
            _ => {
                vcenter.faults.set(name, arg, times);
                Ok(())
            }
        };
        drop(vcenter);
        self.notify();
        outcome
    }
}

fn for_vms(
    vcenter: &mut Vcenter,
    name: &str,
    mut event: impl FnMut(&mut Vm) -> Result<(), String>,
) -> Result<(), String> {
    let mut met = false;
    for vm in vcenter.vms.iter_mut().filter(|vm| name.is_empty() || vm.name == name) {
        event(vm)?;
        met = true;
    }
    if met { Ok(()) } else { Err(format!("there is no VM {name}")) }
}

/// Back to the newest snapshot, or to the disks as they were at the start.
fn revert(vm: &mut Vm) -> Result<(), String> {
    if let Some(current) = vm.current.clone() {
        return vm.revert(&current).map_err(|error| error.to_string());
    }
    for disk in &vm.disks {
        disk.disk.revert_to_initial().map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// The argument is `VM/N=BYTES`, `VM/N` or `VM`; without any, the first disk of the first VM grows.
fn resize(vcenter: &mut Vcenter, arg: &str) -> Result<(), String> {
    let (target, bytes) = match arg.split_once('=') {
        Some((target, bytes)) => {
            (target, Some(bytes.parse::<u64>().map_err(|_| format!("{bytes} is no number of bytes"))?))
        }
        None => (arg, None),
    };
    let (name, index) = match target.rsplit_once('/') {
        Some((name, index)) => {
            (name, index.parse::<usize>().map_err(|_| format!("{index} is no disk number"))?)
        }
        None => (target, 0),
    };
    let vm = vcenter.vms.iter_mut().find(|vm| name.is_empty() || vm.name == name);
    let vm = vm.ok_or_else(|| format!("there is no VM {name}"))?;
    if !vm.snapshots.is_empty() {
        return Err("a disk cannot grow while its VM has snapshots".to_owned());
    }
    let disk = vm.disks.get(index).ok_or_else(|| format!("{} has no disk {index}", vm.name))?;
    let bytes = bytes.unwrap_or(disk.disk.capacity() + DEFAULT_GROWTH);
    disk.disk.resize(bytes).map_err(|error| error.to_string())
}
