//! The connector `my-plugin`: one disk on an NBD server, shown as a VM.
//!
//! It stands for a hypervisor without snapshots and without change tracking: the disk is read as it is, and every
//! backup is a full. A real one asks its hypervisor in these functions, with `tidemark_plugin::http`; the bytes of the
//! disk are read by the host in any case, from where `open_disk` says.

use serde::Deserialize;
use tidemark_plugin::about::{About, Product};
use tidemark_plugin::connector::{
    AreaPage, Connector, Finding, Lease, NbdSource, OwnSnapshot, PowerState, PreflightReport, Severity,
    Since, Snapshot, SnapshotDisk, Transport, VirtualDisk, VirtualMachine, VmPage,
};
use tidemark_plugin::{Description, Error, Extent, Result, description};

/// The VM's and the disk's identity. A hypervisor's own keys belong here: they outlive a change of names.
const VM: &str = "vm-1";
const DISK: &str = "disk-1";
const DISK_LABEL: &str = "Hard disk 1";

/// A connection's settings; `plugin.toml` declares the same names and defaults.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    nbd_url: String,
    size_bytes: u64,
    #[serde(default = "vm_name")]
    vm_name: String,
}

fn vm_name() -> String {
    "my-vm".to_owned()
}

/// A connection. One is made for each job and thrown away with it.
#[derive(Debug)]
pub struct OneDisk {
    settings: Settings,
    /// The keys of the snapshots that were taken. A hypervisor keeps them, this only remembers.
    snapshots: Vec<String>,
}

impl OneDisk {
    fn machine(&self) -> VirtualMachine {
        VirtualMachine {
            key: VM.to_owned(),
            name: self.settings.vm_name.clone(),
            power: PowerState::Unknown,
            guest_os: String::new(),
            folder: "/".to_owned(),
            tags: Vec::new(),
            datastores: Vec::new(),
            disks: vec![VirtualDisk {
                key: DISK.to_owned(),
                label: DISK_LABEL.to_owned(),
                capacity_bytes: self.settings.size_bytes,
                not_protected: None,
            }],
            change_tracking: false,
            not_protected: None,
        }
    }
}

impl Connector for OneDisk {
    fn describe() -> Description {
        description("my-plugin", env!("CARGO_PKG_VERSION"))
    }

    fn configure(settings: &str) -> Result<Self> {
        let settings: Settings = serde_json::from_str(settings)
            .map_err(|error| Error::config(format!("the settings: {error}")))?;
        if !settings.nbd_url.starts_with("nbd://") && !settings.nbd_url.starts_with("nbds://") {
            return Err(Error::config(format!("nbd_url '{}' is no NBD address", settings.nbd_url)));
        }
        Ok(Self { settings, snapshots: Vec::new() })
    }

    fn check(&mut self) -> Result<Vec<Finding>> {
        // A hypervisor is logged in to here.
        Ok(Vec::new())
    }

    fn list_vms(&mut self, _cursor: Option<&str>, _limit: u32) -> Result<VmPage> {
        Ok(VmPage { vms: vec![self.machine()], next: None })
    }

    fn preflight(&mut self, vm: &str) -> Result<PreflightReport> {
        known(vm, VM)?;
        let finding = Finding {
            severity: Severity::Info,
            code: "no-snapshots".to_owned(),
            message: "the disk is read as it is: nothing may write to it during a backup".to_owned(),
        };
        Ok(PreflightReport { vm: self.machine(), findings: vec![finding], can_enable_change_tracking: false })
    }

    fn enable_change_tracking(&mut self, _vm: &str) -> Result<()> {
        Err(Error::unsupported("an NBD server does not say what has changed"))
    }

    fn create_snapshot(&mut self, vm: &str, idempotency_key: &str, _quiesce: bool) -> Result<Snapshot> {
        known(vm, VM)?;
        // The same key again, for example after the host was restarted, is the same snapshot.
        if !self.snapshots.iter().any(|taken| taken == idempotency_key) {
            self.snapshots.push(idempotency_key.to_owned());
        }
        let disk = SnapshotDisk {
            key: DISK.to_owned(),
            label: DISK_LABEL.to_owned(),
            capacity_bytes: self.settings.size_bytes,
            change_id: None,
        };
        Ok(Snapshot {
            token: idempotency_key.to_owned(),
            quiesced: false,
            disks: vec![disk],
            warnings: Vec::new(),
        })
    }

    fn remove_snapshot(&mut self, vm: &str, token: &str) -> Result<()> {
        known(vm, VM)?;
        self.snapshots.retain(|taken| taken != token);
        Ok(())
    }

    fn list_own_snapshots(&mut self, vm: &str) -> Result<Vec<OwnSnapshot>> {
        known(vm, VM)?;
        let own = |key: &String| OwnSnapshot { token: key.clone(), idempotency_key: key.clone() };
        Ok(self.snapshots.iter().map(own).collect())
    }

    fn changed_areas(
        &mut self,
        vm: &str,
        _snapshot: &str,
        disk: &str,
        since: &Since,
        start: u64,
    ) -> Result<AreaPage> {
        known(vm, VM)?;
        known(disk, DISK)?;
        // Never a guess: where it is not known what changed, the host makes a full.
        if let Since::ChangeId(id) = since {
            let message = format!("there is no change tracking that knows the change id '{id}'");
            return Err(Error::change_tracking_reset("no-change-tracking", disk, message));
        }
        let end = self.settings.size_bytes;
        let length = end.checked_sub(start).filter(|length| *length > 0);
        let length = length.ok_or_else(|| Error::config(format!("{start} is not inside the disk")))?;
        Ok(AreaPage { extents: vec![Extent { offset: start, length }], complete_to: end })
    }

    fn open_disk(&mut self, vm: &str, _snapshot: &str, disk: &str, writable: bool) -> Result<Lease> {
        known(vm, VM)?;
        known(disk, DISK)?;
        if writable {
            return Err(Error::unsupported("the disk is only read"));
        }
        let transport = Transport::Nbd(NbdSource { uri: self.settings.nbd_url.clone() });
        Ok(Lease { token: disk.to_owned(), transport })
    }

    fn close_disk(&mut self, _token: &str) -> Result<()> {
        Ok(())
    }

    fn keep_alive(&mut self) -> Result<()> {
        Ok(())
    }

    fn close(&mut self) -> Result<()> {
        Ok(())
    }
}

fn known(asked: &str, key: &str) -> Result<()> {
    if asked == key { Ok(()) } else { Err(Error::not_found(format!("there is no {asked}"))) }
}

/// Shown to the administrator who tests the connection. It may be left out, with the word in the macro below.
impl About for OneDisk {
    fn identify(&mut self) -> Result<Product> {
        Ok(Product {
            name: "A disk on an NBD server".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            build: String::new(),
            instance: None,
        })
    }
}

tidemark_plugin::export_connector!(OneDisk, about);

#[cfg(test)]
mod tests {
    use tidemark_plugin::ErrorKind;

    use super::*;

    fn connection() -> OneDisk {
        OneDisk::configure(r#"{"nbd_url": "nbd://127.0.0.1/disk", "size_bytes": 4096}"#).unwrap()
    }

    #[test]
    fn settings_that_cannot_work_are_refused() {
        for settings in ["{}", r#"{"nbd_url": "/dev/sda", "size_bytes": 1}"#, r#"{"nbd_url": "nbd://h/"}"#] {
            assert_eq!(OneDisk::configure(settings).unwrap_err().kind, ErrorKind::Config, "{settings}");
        }
    }

    #[test]
    fn the_same_key_is_the_same_snapshot() {
        let mut connection = connection();
        let first = connection.create_snapshot(VM, "job-1", false).unwrap();
        assert_eq!(connection.create_snapshot(VM, "job-1", false).unwrap(), first);
        assert_eq!(connection.list_own_snapshots(VM).unwrap().len(), 1);
        for _ in 0..2 {
            connection.remove_snapshot(VM, &first.token).unwrap();
        }
        assert!(connection.list_own_snapshots(VM).unwrap().is_empty());
    }

    #[test]
    fn all_is_allocated_and_no_change_is_guessed() {
        let mut connection = connection();
        let page = connection.changed_areas(VM, "job-1", DISK, &Since::Allocated, 1024).unwrap();
        assert_eq!(page.extents, [Extent { offset: 1024, length: 3072 }]);
        assert_eq!(page.complete_to, 4096);
        let since = Since::ChangeId("7".into());
        let error = connection.changed_areas(VM, "job-1", DISK, &since, 0).unwrap_err();
        assert_eq!(error.kind, ErrorKind::ChangeTrackingReset);
    }

    #[test]
    fn a_disk_is_where_the_settings_say() {
        let lease = connection().open_disk(VM, "job-1", DISK, false).unwrap();
        assert_eq!(lease.transport, Transport::Nbd(NbdSource { uri: "nbd://127.0.0.1/disk".into() }));
        assert_eq!(
            connection().open_disk(VM, "job-1", "disk-2", false).unwrap_err().kind,
            ErrorKind::NotFound
        );
    }
}
