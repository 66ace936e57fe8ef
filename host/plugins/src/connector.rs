//! A hypervisor connection, typed. Nothing a connector returns is believed before it was checked; an answer that
//! cannot be ends the session.

mod areas;
mod exports;
mod transport;
mod types;

use std::collections::HashSet;

use tidemark_model::{ByteLen, ChangeId, DiskKey, ExtentList};

use crate::bindings::connector::exports::tidemark::plugin::hypervisor as hv;
use crate::error::Error;
use crate::guest::{Guest, call_guest};

pub(crate) use exports::{Exports, LinkedConnector};
pub use transport::{DiskLease, HttpSource, Transport, VddkSource};
pub use types::{
    Finding, OwnSnapshot, PowerState, PreflightReport, Product, Severity, Since, Snapshot, SnapshotDisk,
    VirtualDisk, VirtualMachine,
};

/// Virtual machines asked for at once.
const PAGE: u32 = 500;
/// No inventory has more pages.
const MAX_PAGES: usize = 10_000;
/// Longest key, token or cursor, in bytes.
const MAX_TOKEN_BYTES: usize = 64 << 10;

/// A running connector.
pub struct Connector {
    guest: Guest<Exports>,
}

impl Connector {
    /// Running and who it claims to be, but not configured.
    pub(crate) async fn described(guest: Guest<Exports>, contract: &str) -> Result<Self, Error> {
        let mut connector = Self { guest };
        let guest = &mut connector.guest;
        let said = call_guest!(guest, "describe", tidemark_plugin_hypervisor.call_describe());
        guest.check_description(said, contract)?;
        Ok(connector)
    }

    pub(crate) async fn start(guest: Guest<Exports>, contract: &str, settings: &str) -> Result<Self, Error> {
        let mut connector = Self::described(guest, contract).await?;
        let guest = &mut connector.guest;
        let configured = call_guest!(guest, "configure", tidemark_plugin_hypervisor.call_configure(settings));
        guest.returned("configure", configured)?;
        Ok(connector)
    }

    /// Logs in and reports what stands in the way of backups.
    ///
    /// # Errors
    /// See [`crate::ErrorKind`].
    pub async fn check(&mut self) -> Result<Vec<Finding>, Error> {
        let guest = &mut self.guest;
        let result = call_guest!(guest, "check", tidemark_plugin_hypervisor.call_check());
        let findings = guest.returned("check", result)?;
        Ok(guest.bounded("check", findings)?.into_iter().map(types::finding).collect())
    }

    /// What it talks to; none where the plugin does not say.
    ///
    /// # Errors
    /// See [`crate::ErrorKind`].
    pub async fn identify(&mut self) -> Result<Option<Product>, Error> {
        let guest = &mut self.guest;
        let Some(found) = guest.bindings.about() else { return Ok(None) };
        let result = call_guest!(guest, "identify", found => about.call_identify());
        guest.returned("identify", result).map(|product| Some(types::product(product)))
    }

    /// The whole inventory.
    ///
    /// # Errors
    /// See [`crate::ErrorKind`]; [`crate::ErrorKind::Invalid`] where pages do not advance or an id comes twice.
    pub async fn list_all_vms(&mut self) -> Result<Vec<VirtualMachine>, Error> {
        const OPERATION: &str = "list-vms";
        let guest = &mut self.guest;
        let limit = guest.store.data().limits.list_items;
        let (mut all, mut seen, mut cursors) = (Vec::new(), HashSet::new(), HashSet::new());
        let mut cursor: Option<String> = None;
        for _ in 0..MAX_PAGES {
            let result = call_guest!(
                guest,
                "list-vms",
                tidemark_plugin_hypervisor.call_list_vms(cursor.as_deref(), PAGE)
            );
            let hv::VmPage { vms, next } = guest.returned(OPERATION, result)?;
            for vm in vms {
                let vm = types::machine(guest, OPERATION, vm)?;
                if !seen.insert(vm.key.clone()) {
                    return Err(guest.nonsense(OPERATION, format!("VM {} comes twice", vm.key)));
                }
                all.push(vm);
            }
            if all.len() > limit {
                return Err(guest.nonsense(OPERATION, format!("more than {limit} VMs")));
            }
            let Some(next) = next else { return Ok(all) };
            if next.len() > MAX_TOKEN_BYTES || !cursors.insert(next.clone()) {
                return Err(guest.nonsense(OPERATION, "its cursor does not advance"));
            }
            cursor = Some(next);
        }
        Err(guest.nonsense(OPERATION, format!("more than {MAX_PAGES} pages")))
    }

    /// What stands in the way of a backup of this VM, and the VM as it is now.
    ///
    /// # Errors
    /// See [`crate::ErrorKind`].
    pub async fn preflight(&mut self, vm: &str) -> Result<PreflightReport, Error> {
        let guest = &mut self.guest;
        let result = call_guest!(guest, "preflight", tidemark_plugin_hypervisor.call_preflight(vm));
        let hv::PreflightReport { vm: found, findings, can_enable_change_tracking } =
            guest.returned("preflight", result)?;
        let found = types::machine(guest, "preflight", found)?;
        if found.key != vm {
            return Err(
                guest.nonsense("preflight", format!("asked for VM {vm}, it answers for {}", found.key))
            );
        }
        let findings = guest.bounded("preflight", findings)?.into_iter().map(types::finding).collect();
        Ok(PreflightReport { vm: found, findings, can_enable_change_tracking })
    }

    /// Turns change tracking on and brings it into effect.
    ///
    /// # Errors
    /// See [`crate::ErrorKind`].
    pub async fn enable_change_tracking(&mut self, vm: &str) -> Result<(), Error> {
        let guest = &mut self.guest;
        let result = call_guest!(
            guest,
            "enable-change-tracking",
            tidemark_plugin_hypervisor.call_enable_change_tracking(vm)
        );
        guest.returned("enable-change-tracking", result)
    }

    /// Takes a snapshot, or finds the one that was taken with the same key.
    ///
    /// # Errors
    /// See [`crate::ErrorKind`].
    pub async fn create_snapshot(
        &mut self,
        vm: &str,
        idempotency_key: &str,
        quiesce: bool,
    ) -> Result<Snapshot, Error> {
        let guest = &mut self.guest;
        let result = call_guest!(
            guest,
            "create-snapshot",
            tidemark_plugin_hypervisor.call_create_snapshot(vm, idempotency_key, quiesce)
        );
        let snapshot = guest.returned("create-snapshot", result)?;
        types::snapshot(guest, snapshot)
    }

    /// Removes a snapshot; succeeds too where it is gone.
    ///
    /// # Errors
    /// See [`crate::ErrorKind`].
    pub async fn remove_snapshot(&mut self, vm: &str, token: &str) -> Result<(), Error> {
        let guest = &mut self.guest;
        let result =
            call_guest!(guest, "remove-snapshot", tidemark_plugin_hypervisor.call_remove_snapshot(vm, token));
        guest.returned("remove-snapshot", result)
    }

    /// The snapshots that this product made and did not remove.
    ///
    /// # Errors
    /// See [`crate::ErrorKind`].
    pub async fn list_own_snapshots(&mut self, vm: &str) -> Result<Vec<OwnSnapshot>, Error> {
        const OPERATION: &str = "list-own-snapshots";
        let guest = &mut self.guest;
        let result =
            call_guest!(guest, "list-own-snapshots", tidemark_plugin_hypervisor.call_list_own_snapshots(vm));
        let snapshots = guest.returned(OPERATION, result)?;
        let mut found = Vec::new();
        for hv::OwnSnapshot { token, idempotency_key } in guest.bounded(OPERATION, snapshots)? {
            check_token(guest, OPERATION, "snapshot", &token)?;
            found.push(OwnSnapshot { token, idempotency_key });
        }
        Ok(found)
    }

    /// Everything that changed on a disk, to the end of the disk.
    ///
    /// # Errors
    /// See [`crate::ErrorKind`]; [`crate::ErrorKind::ChangeTrackingReset`] where only a full is right.
    pub async fn changed_areas(
        &mut self,
        vm: &str,
        snapshot: &str,
        disk: &DiskKey,
        since: &Since,
        capacity: ByteLen,
    ) -> Result<ExtentList, Error> {
        const OPERATION: &str = "changed-areas";
        let guest = &mut self.guest;
        let since = match since {
            Since::Allocated => hv::Since::Allocated,
            Since::ChangeId(ChangeId(id)) => hv::Since::ChangeId(id.clone()),
        };
        let mut areas = areas::Areas::new(capacity);
        while let Some(start) = areas.next_start() {
            let result = call_guest!(
                guest,
                "changed-areas",
                tidemark_plugin_hypervisor.call_changed_areas(vm, snapshot, &disk.0, &since, start)
            );
            let hv::AreaPage { extents, complete_to } = guest.returned(OPERATION, result)?;
            let extents = extents.into_iter().map(|extent| (extent.offset, extent.length));
            if let Err(problem) = areas.add(extents, complete_to) {
                return Err(guest.nonsense(OPERATION, format!("disk {disk}: {problem}")));
            }
        }
        areas.finish().map_err(|problem| guest.nonsense(OPERATION, format!("disk {disk}: {problem}")))
    }

    /// Says where the host reads (or writes) a disk's bytes. The transport is checked against the grants here.
    ///
    /// # Errors
    /// See [`crate::ErrorKind`]; [`crate::ErrorKind::Denied`] where the transport leads somewhere that was not granted.
    pub async fn open_disk(
        &mut self,
        vm: &str,
        snapshot: &str,
        disk: &DiskKey,
        writable: bool,
    ) -> Result<DiskLease, Error> {
        let guest = &mut self.guest;
        let result = call_guest!(
            guest,
            "open-disk",
            tidemark_plugin_hypervisor.call_open_disk(vm, snapshot, &disk.0, writable)
        );
        let hv::Lease { token, transport } = guest.returned("open-disk", result)?;
        check_token(guest, "open-disk", "lease", &token)?;
        let transport = transport::checked(guest, transport)?;
        Ok(DiskLease { token, transport })
    }

    /// Ends a lease.
    ///
    /// # Errors
    /// See [`crate::ErrorKind`].
    pub async fn close_disk(&mut self, token: &str) -> Result<(), Error> {
        let guest = &mut self.guest;
        let result = call_guest!(guest, "close-disk", tidemark_plugin_hypervisor.call_close_disk(token));
        guest.returned("close-disk", result)
    }

    /// To be called at least every ten minutes while a job runs.
    ///
    /// # Errors
    /// See [`crate::ErrorKind`].
    pub async fn keep_alive(&mut self) -> Result<(), Error> {
        let guest = &mut self.guest;
        let result = call_guest!(guest, "keep-alive", tidemark_plugin_hypervisor.call_keep_alive());
        guest.returned("keep-alive", result)
    }

    /// Logs out. Whatever it answers, the session is over.
    ///
    /// # Errors
    /// See [`crate::ErrorKind`].
    pub async fn close(mut self) -> Result<(), Error> {
        let guest = &mut self.guest;
        let result = call_guest!(guest, "close", tidemark_plugin_hypervisor.call_close());
        guest.returned("close", result)
    }
}

fn check_token(
    guest: &mut Guest<Exports>,
    operation: &'static str,
    what: &str,
    token: &str,
) -> Result<(), Error> {
    if token.is_empty() || token.len() > MAX_TOKEN_BYTES {
        return Err(guest.nonsense(operation, format!("a {what} token of {} bytes", token.len())));
    }
    Ok(())
}

impl std::fmt::Debug for Connector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = self.guest.store.data();
        write!(f, "Connector({} {})", state.plugin, state.version)
    }
}
