//! Changed block tracking: turn it on, and ask what is allocated or changed.
//!
//! A change id is `<uuid>/<number>`: the uuid names an unbroken history, the number a point in it. Asking with an
//! id of another history, or with a later point than the snapshot's, would be answered wrongly or not at all, so
//! both are refused here before the server is asked.

use tidemark_plugin::connector::{AreaPage, Since};
use tidemark_plugin::{Error, Extent, Result, warn};

use crate::fault::Fault;
use crate::machine::{Disk, Machine};
use crate::session::{Repeat, Session};
use crate::snapshot;
use crate::task;
use crate::xml::{Element, Ref};

/// The key of the snapshot that brings change tracking into effect.
const STUN_KEY: &str = "enable-change-tracking";

/// One page of what is allocated or changed on a disk from `start` on: exactly one question to the server.
pub(crate) fn page(
    session: &mut Session,
    vm: &Ref,
    snapshot: &Ref,
    disk: &Disk,
    since: &Since,
    start: u64,
) -> Result<AreaPage> {
    if start >= disk.capacity {
        return Err(Error::config(format!(
            "nothing is at {start}: {} ends at {} (asking there is an error in vSphere too)",
            disk.label, disk.capacity
        )));
    }
    let change_id = match since {
        Since::ChangeId(change_id) => {
            comparable(disk, change_id)?;
            change_id.as_str()
        }
        // Without change tracking the server cannot say what is allocated; everything is a right answer.
        Since::Allocated if disk.change_id.is_none() => return Ok(rest(disk, start)),
        Since::Allocated => "*",
    };
    let answer = session.try_call("QueryChangedDiskAreas", vm, Repeat::Safe, &|xml| {
        xml.reference("snapshot", snapshot)
            .element("deviceKey", &disk.key)
            .element("startOffset", &start.to_string())
            .element("changeId", change_id)
    })?;
    match (answer, since) {
        (Ok(answer), _) => parse(&answer, disk, start),
        (Err(fault), Since::Allocated) if fault.is_file_fault() || fault.is("InvalidArgument") => {
            // Some datastores (NFS, vVols) do not know what is allocated.
            warn!("{}: all of it is read from {start} on, as the server says {}", disk.label, fault.kind);
            Ok(rest(disk, start))
        }
        (Err(fault), _) => Err(refused(&fault, disk)),
    }
}

fn rest(disk: &Disk, start: u64) -> AreaPage {
    let extents = vec![Extent { offset: start, length: disk.capacity - start }];
    AreaPage { extents, complete_to: disk.capacity }
}

/// Refuses a change id from which this snapshot's changes cannot be counted.
fn comparable(disk: &Disk, since: &str) -> Result<()> {
    let reset = |code: &str, message: String| Err(Error::change_tracking_reset(code, &disk.key, message));
    let Some(now) = disk.change_id.as_deref() else {
        return reset("change-tracking-off", format!("{} has no change id in this snapshot", disk.label));
    };
    let (history, point) = split(since);
    let (history_now, point_now) = split(now);
    if !history.eq_ignore_ascii_case(history_now) {
        let message = format!("the change id {since} of {} is of another history than {now}", disk.label);
        return reset("change-id-foreign", message);
    }
    if let (Ok(point), Ok(point_now)) = (point.parse::<u64>(), point_now.parse::<u64>())
        && point > point_now
    {
        let message = format!("{} went back behind the change id {since}: it is at {now}", disk.label);
        return reset("reverted", message);
    }
    Ok(())
}

fn split(change_id: &str) -> (&str, &str) {
    change_id.rsplit_once('/').unwrap_or((change_id, ""))
}

fn refused(fault: &Fault, disk: &Disk) -> Error {
    let doing = format!("asking for the changed areas of {}", disk.label);
    let error = fault.to_error(&doing);
    let code = if fault.is_file_fault() {
        "file-fault"
    } else if fault.is("InvalidArgument") {
        "invalid-argument"
    } else {
        return error;
    };
    Error::change_tracking_reset(code, &disk.key, error.message)
}

/// Checks an answer against the question. The rules are strict, as a wrong area list corrupts a backup silently.
fn parse(answer: &Element, disk: &Disk, start: u64) -> Result<AreaPage> {
    let wrong =
        |what: String| Error::corrupt(format!("changed areas of {} from {start} on: {what}", disk.label));
    let info = answer.child("returnval").ok_or_else(|| wrong("an empty answer".to_owned()))?;
    let (offset, length) = (info.number_of("startOffset")?, info.number_of("length")?);
    if offset != start {
        return Err(wrong(format!("the answer begins at {offset}")));
    }
    if length == 0 {
        return Err(wrong("the answer covers nothing".to_owned()));
    }
    // The last page may reach beyond the end by rounding; nothing is there.
    let end = offset.checked_add(length).ok_or_else(|| wrong("the answer has no end".to_owned()))?;
    let complete_to = end.min(disk.capacity);
    let mut extents = Vec::new();
    for area in info.all("changedArea") {
        let (offset, length) = (area.number_of("start")?, area.number_of("length")?);
        let area_end = offset.checked_add(length).ok_or_else(|| wrong("an area has no end".to_owned()))?;
        if offset < start || (area_end > end && complete_to < disk.capacity) {
            return Err(wrong(format!("an area at {offset} of {length} bytes lies outside the answer")));
        }
        let area_end = area_end.min(complete_to);
        if offset < area_end {
            extents.push(Extent { offset, length: area_end - offset });
        }
    }
    extents.sort_by_key(|extent| extent.offset);
    Ok(AreaPage { extents: join(extents), complete_to })
}

/// Joins neighbours of an ascending list that overlap or touch.
fn join(sorted: Vec<Extent>) -> Vec<Extent> {
    let mut joined: Vec<Extent> = Vec::with_capacity(sorted.len());
    for extent in sorted {
        match joined.last_mut() {
            Some(last) if extent.offset <= last.offset + last.length => {
                let end = (last.offset + last.length).max(extent.offset + extent.length);
                last.length = end - last.offset;
            }
            _ => joined.push(extent),
        }
    }
    joined
}

/// Turns change tracking on, takes and removes a snapshot (the stun from which on tracking works) and looks whether
/// it came about.
pub(crate) fn enable(session: &mut Session, vm: &str) -> Result<()> {
    let mut machine = snapshot::settled(session, vm)?;
    let name = machine.name.clone();
    if let Some(leftover) = machine.snapshots.iter().find(|node| snapshot::own_key(node) == Some(STUN_KEY)) {
        // An earlier attempt ended between its two halves. It goes first, whatever became of the tracking.
        snapshot::remove(session, vm, &leftover.of.id.clone())?;
        machine = Machine::read(session, vm)?;
    }
    if tracked(&machine) {
        return Ok(());
    }
    if let Some(reason) = machine.not_protected() {
        return Err(Error::unsupported(format!("{name} cannot be backed up: {reason}")));
    }
    if !machine.tracking_supported {
        return Err(Error::unsupported(format!(
            "{name} does not support change tracking (virtual hardware 7 or later)"
        )));
    }
    if let Some(other) = machine.snapshots.first() {
        return Err(Error::conflict(format!(
            "change tracking of {name} cannot be turned on while it has snapshots (the first is '{}')",
            other.name
        )));
    }
    if !machine.tracking {
        let done = task::run(session, "ReconfigVM_Task", &machine.of, &|xml| {
            xml.typed("spec", "VirtualMachineConfigSpec", |xml| xml.element("changeTrackingEnabled", "true"))
        })?;
        done.map_err(|fault| fault.to_error(&format!("turning change tracking of {name} on")))?;
    }
    let (stun, _) = snapshot::create(session, vm, STUN_KEY, false)?;
    snapshot::remove(session, vm, &stun.token)?;
    // The snapshot's own ids count too: it is from snapshots that backups read them.
    let in_effect = stun.disks.iter().all(|disk| disk.change_id.is_some());
    let machine = Machine::read(session, vm)?;
    if tracked(&machine) || (machine.tracking && in_effect) {
        return Ok(());
    }
    Err(Error::unavailable(format!("change tracking of {name} was turned on but did not come into effect")))
}

/// Whether tracking is on and in effect for every disk that a backup holds.
fn tracked(machine: &Machine) -> bool {
    let mut disks = machine.disks.iter().filter(|disk| disk.not_protected().is_none());
    machine.tracking && disks.all(|disk| disk.change_id.is_some())
}
