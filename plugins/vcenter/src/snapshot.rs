//! Snapshots: take one by an idempotency key, find and remove our own.
//!
//! A snapshot is ours when its description carries [`MARKER`] on a line of its own with the key behind it. Names
//! can be shortened or edited; a snapshot without the marker is never removed.

use tidemark_plugin::connector::{OwnSnapshot, Snapshot, SnapshotDisk};
use tidemark_plugin::{Error, ErrorKind, Result, info};

use crate::machine::{Disk, Machine, SnapshotNode};
use crate::property;
use crate::session::Session;
use crate::task;
use crate::xml::{Element, Ref, Xml};

const MARKER: &str = "tidemark-key: ";
const NAME_PREFIX: &str = "tidemark-";
/// vSphere's limit for the names of snapshots.
const MAX_NAME: usize = 80;

/// The key of one of our own snapshots.
pub(crate) fn own_key(node: &SnapshotNode) -> Option<&str> {
    node.description.lines().find_map(|line| line.trim().strip_prefix(MARKER)).filter(|key| !key.is_empty())
}

/// Takes a snapshot, or answers with the one that was taken with this key before.
pub(crate) fn create(
    session: &mut Session,
    vm: &str,
    key: &str,
    quiesce: bool,
) -> Result<(Snapshot, Vec<Disk>)> {
    if key.is_empty() || key.len() > 200 || key.chars().any(char::is_control) || key.trim() != key {
        return Err(Error::config("an idempotency key is one line of at most 200 bytes"));
    }
    let machine = settled(session, vm)?;
    if let Some(reason) = machine.not_protected() {
        return Err(Error::unsupported(format!("{} cannot be backed up: {reason}", machine.name)));
    }
    let mut warnings = Vec::new();
    if !machine.snapshots.iter().any(|node| own_key(node) == Some(key)) {
        take(session, &machine, key, quiesce, &mut warnings)?;
    }
    // Read again: what counts is what the server has recorded, not what was asked for.
    let machine = Machine::read(session, vm)?;
    let node = machine.snapshots.iter().find(|node| own_key(node) == Some(key)).ok_or_else(|| {
        Error::unavailable(format!(
            "the snapshot of {} was taken, but the server does not show it",
            machine.name
        ))
    })?;
    let disks = disks(session, &node.of)?;
    let mut protected = Vec::new();
    for disk in &disks {
        if let Some(reason) = disk.not_protected() {
            warnings.push(format!("{} is not backed up: {reason}", disk.label));
            continue;
        }
        if disk.change_id.is_none() {
            warnings.push(format!("{} has no change id: change tracking is off for it", disk.label));
        }
        protected.push(SnapshotDisk {
            key: disk.key.clone(),
            label: disk.label.clone(),
            capacity_bytes: disk.capacity,
            change_id: disk.change_id.clone(),
        });
    }
    let token = node.of.id.clone();
    Ok((Snapshot { token, quiesced: node.quiesced, disks: protected, warnings }, disks))
}

/// The machine once no task on its snapshots is under way.
pub(crate) fn settled(session: &mut Session, vm: &str) -> Result<Machine> {
    let machine = Machine::read(session, vm)?;
    if task::settle(session, &machine)? { Machine::read(session, vm) } else { Ok(machine) }
}

/// The disks as the snapshot has frozen them.
pub(crate) fn disks(session: &mut Session, snapshot: &Ref) -> Result<Vec<Disk>> {
    let doing = format!("reading snapshot {}", snapshot.id);
    let object = property::of_object(session, snapshot, &["config.hardware.device"], &doing)?;
    let devices = object.get("config.hardware.device");
    Disk::all(devices.ok_or_else(|| Error::corrupt(format!("{doing}: it shows no devices")))?)
}

fn take(
    session: &mut Session,
    machine: &Machine,
    key: &str,
    quiesce: bool,
    warnings: &mut Vec<String>,
) -> Result<()> {
    let name: String = format!("{NAME_PREFIX}{key}").chars().take(MAX_NAME).collect();
    let description = format!("Taken by Tidemark for a backup, which removes it at its end.\n{MARKER}{key}");
    let mut quiesce = quiesce;
    loop {
        let arguments = |xml: Xml| {
            xml.element("name", &name)
                .element("description", &description)
                .element("memory", "false")
                .element("quiesce", if quiesce { "true" } else { "false" })
        };
        match task::run(session, "CreateSnapshot_Task", &machine.of, &arguments)? {
            Ok(_) => return Ok(()),
            Err(fault) if quiesce && fault.is_quiesce_fault() => {
                warnings.push(format!(
                    "the guest could not be quiesced ({}: {}), so the snapshot is only crash-consistent",
                    fault.kind, fault.message
                ));
                quiesce = false;
            }
            Err(fault) => return Err(fault.to_error(&format!("taking a snapshot of {}", machine.name))),
        }
    }
}

/// Removes one of our snapshots and consolidates the disks where that is still needed. A snapshot or a machine that
/// does not exist any more is removed.
pub(crate) fn remove(session: &mut Session, vm: &str, token: &str) -> Result<()> {
    let of = Ref::checked("VirtualMachineSnapshot", token)?;
    let machine = match settled(session, vm) {
        Ok(machine) => machine,
        Err(error) if error.kind == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if let Some(node) = machine.snapshots.iter().find(|node| node.of.id == of.id) {
        if own_key(node).is_none() {
            return Err(Error::conflict(format!(
                "the snapshot '{}' of {} was not made by this product and stays",
                node.name, machine.name
            )));
        }
        let removed = task::run(session, "RemoveSnapshot_Task", &of, &|xml| {
            xml.element("removeChildren", "false").element("consolidate", "true")
        })?;
        match removed {
            Err(fault) if !fault.is("ManagedObjectNotFound") => {
                return Err(
                    fault.to_error(&format!("removing the snapshot '{}' of {}", node.name, machine.name))
                );
            }
            _ => {}
        }
    }
    consolidate(session, &machine)
}

/// Brings the disks' files together where a removal has left them apart.
fn consolidate(session: &mut Session, machine: &Machine) -> Result<()> {
    let doing = format!("consolidating the disks of {}", machine.name);
    let state = property::of_object(session, &machine.of, &["runtime.consolidationNeeded"], &doing)?;
    if state.flag("runtime.consolidationNeeded") != Some(true) {
        return Ok(());
    }
    info!("{doing}");
    let done = task::run(session, "ConsolidateVMDisks_Task", &machine.of, &|xml| xml)?;
    done.map(|_: Option<Element>| ()).map_err(|fault| fault.to_error(&doing))
}

/// The snapshots that carry our marker. A snapshot that is being taken counts: its task is waited for.
pub(crate) fn list_own(session: &mut Session, vm: &str) -> Result<Vec<OwnSnapshot>> {
    let machine = settled(session, vm)?;
    let own = machine.snapshots.iter().filter_map(|node| {
        let idempotency_key = own_key(node)?.to_owned();
        Some(OwnSnapshot { token: node.of.id.clone(), idempotency_key })
    });
    Ok(own.collect())
}
