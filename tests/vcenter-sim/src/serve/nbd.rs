//! The NBD side: the frozen disk of each live snapshot under `<vm>/<snapshot>/<disk key>`.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tidemark_model::{ByteLen, Extent, GuestOffset};
use tidemark_nbd::{AllocationExtent, Command, Errno, Export, ExportSource, Fault, Request, ServerOptions};

use crate::disk::{DiskError, Frozen};
use crate::soap::value::MoRef;
use crate::state::Simulator;
use crate::state::faults::FaultName;

/// Finds the exports in the vCenter's state.
#[derive(Debug, Clone)]
pub struct Exports(pub Simulator);

impl ExportSource for Exports {
    fn find(&self, name: &str) -> Option<Arc<dyn Export>> {
        let mut parts = name.split('/');
        let (vm, snapshot, key) = (parts.next()?, parts.next()?, parts.next()?.parse().ok()?);
        let vcenter = self.0.lock();
        if parts.next().is_some() || vcenter.faults.active(FaultName::NbdGone).is_some() {
            return None;
        }
        let (owner, snapshot) = vcenter.snapshot(&MoRef::new("VirtualMachineSnapshot", snapshot))?;
        let frozen = snapshot.disk(key).filter(|_| owner.reference.id == vm)?.frozen.clone()?;
        Some(Arc::new(FrozenExport(frozen)))
    }

    fn names(&self) -> Vec<String> {
        let vcenter = self.0.lock();
        if vcenter.faults.active(FaultName::NbdGone).is_some() {
            return Vec::new();
        }
        let snapshots = vcenter.vms.iter().flat_map(|vm| vm.snapshots.iter().map(move |one| (vm, one)));
        let names = snapshots.flat_map(|(vm, snapshot)| {
            let disks = snapshot.disks.iter().filter(|disk| disk.frozen.is_some());
            disks.map(move |disk| format!("{}/{}/{}", vm.reference.id, snapshot.reference.id, disk.key))
        });
        names.collect()
    }
}

struct FrozenExport(Arc<Frozen>);

impl Export for FrozenExport {
    fn size(&self) -> ByteLen {
        ByteLen(self.0.capacity())
    }

    fn read_at(&self, offset: GuestOffset, buffer: &mut [u8]) -> io::Result<()> {
        self.0.read(offset.0, buffer).map_err(io_error)
    }

    fn allocation(&self, range: Extent) -> io::Result<Vec<AllocationExtent>> {
        if !self.0.is_alive() {
            return Err(io_error(DiskError::Released));
        }
        let run = |(length, allocated)| match allocated {
            true => AllocationExtent::data(length),
            false => AllocationExtent::hole(length),
        };
        Ok(self.0.runs(range).into_iter().map(run).collect())
    }
}

fn io_error(error: DiskError) -> io::Error {
    io::Error::other(error)
}

/// The server's options, with the fault switches at work on every request.
#[must_use]
pub fn options(simulator: Simulator) -> ServerOptions {
    let hook = move |request: &Request| {
        let mut vcenter = simulator.lock();
        let faults = &mut vcenter.faults;
        if faults.active(FaultName::NbdGone).is_some() {
            return Fault::Fail(Errno::IO);
        }
        if request.command != Command::READ {
            return Fault::None;
        }
        if faults.strikes_after(FaultName::DropNbd, request.extent.length.0) {
            return Fault::Disconnect;
        }
        match faults.number(FaultName::NbdSlow, 50) {
            Some(delay_ms) => Fault::Delay(Duration::from_millis(delay_ms)),
            None => Fault::None,
        }
    };
    ServerOptions { fault_hook: Some(Arc::new(hook)), ..ServerOptions::default() }
}
