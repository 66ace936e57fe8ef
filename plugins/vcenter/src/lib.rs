//! The connector `vcenter`: vSphere's SOAP web services (vim25), from 6.7 on, from inside the sandbox.
//!
//! ```text
//!   lib (the contract's functions)
//!    ├─ inventory  preflight  snapshot  changes  reading      what is asked
//!    │     └─ machine   task                                  what is understood of the answers
//!    ├─ property   session                                    how it is asked, logins included
//!    ├─ soap   fault   xml                                    the form, without I/O
//!    └─ wire                                                  the host's HTTP, or a test's script
//! ```
//!
//! The password never comes here: requests name it, and the host fills it in.

mod changes;
mod fault;
mod inventory;
mod machine;
mod preflight;
mod property;
mod reading;
mod session;
mod settings;
mod snapshot;
mod soap;
mod task;
mod wire;
mod xml;

#[cfg(test)]
mod tests;

use std::collections::HashMap;

use tidemark_plugin::about::{About, Product};
use tidemark_plugin::connector::{
    AreaPage, Connector, Finding, Lease, OwnSnapshot, PreflightReport, Since, Snapshot, VmPage,
};
use tidemark_plugin::{Description, Error, Result, description};

use crate::inventory::{Ancestors, CustomFields, Listing};
use crate::machine::{Disk, Machine};
use crate::session::{Repeat, Session};
use crate::settings::Settings;
use crate::wire::{HostWire, Wire};
use crate::xml::Ref;

/// A connection to one vCenter server. What it keeps between calls are caches: every token that the contract's
/// functions answer with is understood by a fresh instance too.
pub struct VCenter {
    session: Session,
    listing: Option<Listing>,
    ancestors: Ancestors,
    fields: CustomFields,
    /// The frozen disks by snapshot: they never change, and each page of changed areas needs them.
    frozen: HashMap<String, Vec<Disk>>,
}

impl VCenter {
    fn with_wire(settings: &str, wire: Box<dyn Wire>) -> Result<Self> {
        Ok(Self {
            session: Session::new(Settings::parse(settings)?, wire),
            listing: None,
            ancestors: Ancestors::default(),
            fields: CustomFields::default(),
            frozen: HashMap::new(),
        })
    }

    /// The references and the frozen disk that a contract's call names.
    fn frozen_disk(&mut self, vm: &str, snapshot: &str, disk: &str) -> Result<(Ref, Ref, Disk)> {
        let vm = Ref::checked("VirtualMachine", vm)?;
        let snapshot = Ref::checked("VirtualMachineSnapshot", snapshot)?;
        if !self.frozen.contains_key(&snapshot.id) {
            let disks = snapshot::disks(&mut self.session, &snapshot)?;
            self.frozen.insert(snapshot.id.clone(), disks);
        }
        let mut disks = self.frozen.get(&snapshot.id).into_iter().flatten();
        let found = disks.find(|found| found.key == disk).cloned();
        let found =
            found.ok_or_else(|| Error::not_found(format!("snapshot {} has no disk {disk}", snapshot.id)))?;
        Ok((vm, snapshot, found))
    }
}

impl Connector for VCenter {
    fn describe() -> Description {
        description("vcenter", env!("CARGO_PKG_VERSION"))
    }

    fn configure(settings: &str) -> Result<Self> {
        Self::with_wire(settings, Box::new(HostWire))
    }

    fn check(&mut self) -> Result<Vec<Finding>> {
        preflight::connection(&mut self.session)
    }

    fn list_vms(&mut self, cursor: Option<&str>, limit: u32) -> Result<VmPage> {
        let under_way = self.listing.take();
        let mut listing = match (cursor, under_way) {
            (None, under_way) => {
                if let Some(abandoned) = under_way {
                    abandoned.end(&mut self.session);
                }
                Listing::begin(&mut self.session, limit)?
            }
            (Some(cursor), Some(listing)) if listing.cursor() == cursor => listing,
            (Some(cursor), _) => {
                return Err(Error::conflict(format!("the listing at '{cursor}' has ended; begin it again")));
            }
        };
        let (machines, more) = listing.page(&mut self.session, limit)?;
        let vms = inventory::describe(&mut self.session, &mut self.ancestors, &mut self.fields, &machines)?;
        if more {
            let next = Some(listing.cursor());
            self.listing = Some(listing);
            return Ok(VmPage { vms, next });
        }
        listing.end(&mut self.session);
        Ok(VmPage { vms, next: None })
    }

    fn preflight(&mut self, vm: &str) -> Result<PreflightReport> {
        let machine = Machine::read(&mut self.session, vm)?;
        let findings = preflight::of_machine(&mut self.session, &machine)?;
        let can_enable_change_tracking = preflight::can_enable_tracking(&machine);
        let machines = [machine];
        let described =
            inventory::describe(&mut self.session, &mut self.ancestors, &mut self.fields, &machines)?;
        let vm =
            described.into_iter().next().ok_or_else(|| Error::corrupt("a machine was lost on the way"))?;
        Ok(PreflightReport { vm, findings, can_enable_change_tracking })
    }

    fn enable_change_tracking(&mut self, vm: &str) -> Result<()> {
        self.session.begin_call();
        changes::enable(&mut self.session, vm)
    }

    fn create_snapshot(&mut self, vm: &str, idempotency_key: &str, quiesce: bool) -> Result<Snapshot> {
        self.session.begin_call();
        let quiesce = quiesce && self.session.settings().quiesce;
        let (snapshot, disks) = snapshot::create(&mut self.session, vm, idempotency_key, quiesce)?;
        self.frozen.insert(snapshot.token.clone(), disks);
        Ok(snapshot)
    }

    fn remove_snapshot(&mut self, vm: &str, token: &str) -> Result<()> {
        self.session.begin_call();
        self.frozen.remove(token);
        snapshot::remove(&mut self.session, vm, token)
    }

    fn list_own_snapshots(&mut self, vm: &str) -> Result<Vec<OwnSnapshot>> {
        self.session.begin_call();
        snapshot::list_own(&mut self.session, vm)
    }

    fn changed_areas(
        &mut self,
        vm: &str,
        snapshot: &str,
        disk: &str,
        since: &Since,
        start: u64,
    ) -> Result<AreaPage> {
        let (vm, snapshot, disk) = self.frozen_disk(vm, snapshot, disk)?;
        changes::page(&mut self.session, &vm, &snapshot, &disk, since, start)
    }

    fn open_disk(&mut self, vm: &str, snapshot: &str, disk: &str, writable: bool) -> Result<Lease> {
        if writable {
            return Err(Error::unsupported("a frozen disk is only read"));
        }
        let (vm, snapshot, disk) = self.frozen_disk(vm, snapshot, disk)?;
        reading::open(&mut self.session, &mut self.ancestors, &vm, &snapshot, &disk)
    }

    fn close_disk(&mut self, _token: &str) -> Result<()> {
        // The server holds nothing for a lease: reading ends with the host's own connection.
        Ok(())
    }

    fn keep_alive(&mut self) -> Result<()> {
        let this = Ref::new("ServiceInstance", "ServiceInstance");
        self.session.call("CurrentTime", &this, Repeat::Safe, "keeping the session alive", &|xml| xml)?;
        Ok(())
    }

    fn close(&mut self) -> Result<()> {
        if let Some(listing) = self.listing.take() {
            listing.end(&mut self.session);
        }
        self.session.close()
    }
}

impl About for VCenter {
    fn identify(&mut self) -> Result<Product> {
        Ok(self.session.content()?.product.clone())
    }
}

tidemark_plugin::export_connector!(VCenter, about);
