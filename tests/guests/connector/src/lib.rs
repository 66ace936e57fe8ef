//! A connector that misbehaves as its settings say: `{"behave": "loop", "in": "list-vms"}`. Without `behave` it is a
//! small static connector of one VM with one disk, so that a test can see the host carry on afterwards.

mod behaviour;

wit_bindgen::generate!({ path: "../../../sdk/wit", world: "connector" });

use std::cell::RefCell;

use behaviour::{Settings, other};
use exports::tidemark::plugin::hypervisor::{
    AreaPage, Finding, Guest, Lease, NbdSource, OwnSnapshot, PowerState, PreflightReport, Severity, Since,
    Snapshot, SnapshotDisk, Transport, VirtualDisk, VirtualMachine, VmPage,
};
use tidemark::plugin::types::{Description, Error, ErrorKind};

/// The size of the only disk.
pub const CAPACITY: u64 = 1 << 20;
const VM: &str = "vm-1";
const DISK: &str = "2000";

thread_local! {
    static SETTINGS: RefCell<Settings> = RefCell::new(Settings::default());
    /// The snapshots of this session, whose tokens are their keys. Those of earlier sessions are gone.
    static SNAPSHOTS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

struct Connector;
export!(Connector);

fn settings() -> Settings {
    SETTINGS.with_borrow(Clone::clone)
}

fn machine(number: usize) -> VirtualMachine {
    VirtualMachine {
        key: format!("vm-{number}"),
        name: format!("static-{number}"),
        power: PowerState::On,
        guest_os: "none".into(),
        folder: "/".into(),
        tags: vec![],
        datastores: vec![],
        disks: vec![VirtualDisk {
            key: DISK.into(),
            label: "Hard disk 1".into(),
            capacity_bytes: CAPACITY,
            not_protected: None,
        }],
        change_tracking: true,
        not_protected: None,
    }
}

fn known(vm: &str) -> Result<(), Error> {
    if vm == VM { Ok(()) } else { Err(other(ErrorKind::NotFound, &format!("there is no VM {vm}"))) }
}

impl Guest for Connector {
    fn describe() -> Description {
        Description {
            name: "hostile".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            contract: "0.1.0".into(),
        }
    }

    fn configure(json: String) -> Result<(), Error> {
        let parsed = serde_json::from_str(&json).map_err(|e| other(ErrorKind::Config, &e.to_string()))?;
        SETTINGS.with_borrow_mut(|settings| *settings = parsed);
        settings().act("configure")
    }

    fn check() -> Result<Vec<Finding>, Error> {
        let settings = settings();
        settings.act("check")?;
        let answer = settings.fetch("check")?;
        Ok(answer
            .map(|message| Finding { severity: Severity::Info, code: "answer".into(), message })
            .into_iter()
            .collect())
    }

    fn list_vms(cursor: Option<String>, _limit: u32) -> Result<VmPage, Error> {
        let settings = settings();
        settings.act("list-vms")?;
        Ok(match settings.behave.as_str() {
            "duplicate-vms" => VmPage { vms: vec![machine(1), machine(1)], next: None },
            "stuck-cursor" => VmPage { vms: vec![], next: Some("again".into()) },
            "circling-cursor" => {
                let next = if cursor.as_deref() == Some("a") { "b" } else { "a" };
                VmPage { vms: vec![], next: Some(next.into()) }
            }
            "huge-result" => {
                let mut vm = machine(1);
                vm.tags = vec!["x".repeat(1 << 20); 40];
                VmPage { vms: vec![vm], next: None }
            }
            "error" => return Err(other(ErrorKind::Throttled, "come back later")),
            _ => VmPage { vms: vec![machine(1)], next: None },
        })
    }

    fn preflight(vm: String) -> Result<PreflightReport, Error> {
        settings().act("preflight")?;
        known(&vm)?;
        Ok(PreflightReport { vm: machine(1), findings: vec![], can_enable_change_tracking: false })
    }

    fn enable_change_tracking(vm: String) -> Result<(), Error> {
        settings().act("enable-change-tracking")?;
        known(&vm)
    }

    fn create_snapshot(vm: String, idempotency_key: String, quiesce: bool) -> Result<Snapshot, Error> {
        settings().act("create-snapshot")?;
        known(&vm)?;
        let disk = SnapshotDisk {
            key: DISK.into(),
            label: "Hard disk 1".into(),
            capacity_bytes: CAPACITY,
            change_id: Some("static/1".into()),
        };
        SNAPSHOTS.with_borrow_mut(|taken| {
            taken.retain(|key| *key != idempotency_key);
            taken.push(idempotency_key.clone());
        });
        Ok(Snapshot { token: idempotency_key, quiesced: quiesce, disks: vec![disk], warnings: vec![] })
    }

    fn remove_snapshot(vm: String, token: String) -> Result<(), Error> {
        settings().act("remove-snapshot")?;
        known(&vm)?;
        SNAPSHOTS.with_borrow_mut(|taken| taken.retain(|key| *key != token));
        Ok(())
    }

    fn list_own_snapshots(vm: String) -> Result<Vec<OwnSnapshot>, Error> {
        settings().act("list-own-snapshots")?;
        known(&vm)?;
        let own = |key: &String| OwnSnapshot { token: key.clone(), idempotency_key: key.clone() };
        Ok(SNAPSHOTS.with_borrow(|taken| taken.iter().map(own).collect()))
    }

    fn changed_areas(
        vm: String,
        _snapshot: String,
        disk: String,
        _since: Since,
        start: u64,
    ) -> Result<AreaPage, Error> {
        let settings = settings();
        settings.act("changed-areas")?;
        known(&vm)?;
        if settings.behave == "reset" {
            let mut error = other(ErrorKind::ChangeTrackingReset, "the change id is foreign");
            error.detail = Some(format!("{{\"code\":\"change-id-foreign\",\"disk\":\"{disk}\"}}"));
            return Err(error);
        }
        Ok(settings.areas(start))
    }

    fn open_disk(vm: String, _snapshot: String, _disk: String, _writable: bool) -> Result<Lease, Error> {
        let settings = settings();
        settings.act("open-disk")?;
        known(&vm)?;
        let transport = Transport::Nbd(NbdSource { uri: settings.nbd_url });
        Ok(Lease { token: "lease".into(), transport })
    }

    fn close_disk(_token: String) -> Result<(), Error> {
        settings().act("close-disk")
    }

    fn keep_alive() -> Result<(), Error> {
        settings().act("keep-alive")
    }

    fn close() -> Result<(), Error> {
        settings().act("close")
    }
}
