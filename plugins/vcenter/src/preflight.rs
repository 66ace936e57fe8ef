//! What stands in the way of a backup: of the connection as a whole, and of one virtual machine.

use std::collections::BTreeMap;

use tidemark_plugin::connector::{Finding, Severity};
use tidemark_plugin::{Error, Result};

use crate::machine::Machine;
use crate::session::{Repeat, Session};
use crate::settings::TransportKind;
use crate::snapshot;
use crate::xml::{Element, Ref};

const ON_VM: [&str; 4] = [
    "VirtualMachine.State.CreateSnapshot",
    "VirtualMachine.State.RemoveSnapshot",
    "VirtualMachine.Config.ChangeTracking",
    // QueryChangedDiskAreas asks for it, whatever the transport.
    "VirtualMachine.Provisioning.DiskRandomRead",
];
const ON_VM_FOR_VDDK: [&str; 1] = ["VirtualMachine.Provisioning.GetVmFiles"];
const ON_DATASTORE_FOR_HTTPS: [&str; 2] = ["Datastore.Browse", "Datastore.FileManagement"];

fn finding(severity: Severity, code: &str, message: impl Into<String>) -> Finding {
    Finding { severity, code: code.to_owned(), message: message.into() }
}

/// Logs in and looks at the connection.
pub(crate) fn connection(session: &mut Session) -> Result<Vec<Finding>> {
    let content = session.content()?;
    let mut findings =
        vec![finding(Severity::Info, "connected", format!("connected to {}", content.full_name))];
    if content.api_type != "VirtualCenter" {
        let message =
            "this is a single host, not a vCenter: virtual machines that move away are lost from view";
        findings.push(finding(Severity::Info, "single-host", message));
    }
    findings.extend(missing_thumbprint(session));
    Ok(findings)
}

fn missing_thumbprint(session: &Session) -> Option<Finding> {
    let settings = session.settings();
    if settings.transport != TransportKind::Vddk {
        return None;
    }
    let error = settings.vddk_thumbprint().err()?;
    Some(finding(Severity::Blocker, "vddk-needs-thumbprint", error.message))
}

/// Everything about one virtual machine.
pub(crate) fn of_machine(session: &mut Session, machine: &Machine) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    if let Some(reason) = machine.not_protected() {
        findings.push(finding(Severity::Blocker, "vm-not-protected", format!("{}: {reason}", machine.name)));
    }
    for disk in &machine.disks {
        if let Some(reason) = disk.not_protected() {
            findings.push(finding(
                Severity::Warning,
                "disk-not-protected",
                format!("{}: {reason}", disk.label),
            ));
        }
    }
    if machine.disks.iter().all(|disk| disk.not_protected().is_some()) {
        let message = format!("{} has no disk that can be backed up", machine.name);
        findings.push(finding(Severity::Blocker, "no-disks", message));
    }
    findings.extend(missing_thumbprint(session));
    findings.extend(snapshots(machine, session.settings().transport));
    findings.extend(tracking(machine));
    findings.extend(privileges(session, machine)?);
    Ok(findings)
}

/// Whether `enable-change-tracking` would do something now.
pub(crate) fn can_enable_tracking(machine: &Machine) -> bool {
    !machine.tracking
        && machine.tracking_supported
        && machine.snapshots.is_empty()
        && machine.not_protected().is_none()
}

fn snapshots(machine: &Machine, transport: TransportKind) -> Vec<Finding> {
    let mut findings = Vec::new();
    let (own, foreign): (Vec<_>, Vec<_>) =
        machine.snapshots.iter().partition(|node| snapshot::own_key(node).is_some());
    if !own.is_empty() {
        let message = format!("snapshots of earlier backups that were not removed: {}", own.len());
        findings.push(finding(Severity::Info, "leftover-snapshots", message));
    }
    if let Some(first) = foreign.first() {
        let message = format!(
            "{} has snapshots that others made: {}, for example '{}'",
            machine.name,
            foreign.len(),
            first.name
        );
        findings.push(finding(Severity::Info, "existing-snapshots", message));
        if transport == TransportKind::Https {
            let message = "transport https reads the right file only where the VM has no other snapshot";
            findings.push(finding(Severity::Blocker, "https-needs-single-snapshot", message));
        }
    }
    if machine.consolidation_needed {
        let message = format!("the disks of {} need consolidation", machine.name);
        findings.push(finding(Severity::Warning, "consolidation-needed", message));
    }
    findings
}

fn tracking(machine: &Machine) -> Option<Finding> {
    if machine.tracking {
        return None;
    }
    let name = &machine.name;
    Some(if !machine.tracking_supported {
        finding(
            Severity::Warning,
            "change-tracking-unsupported",
            format!("{name} does not support change tracking: every backup is a full"),
        )
    } else if machine.snapshots.is_empty() {
        finding(Severity::Warning, "change-tracking-off", format!("change tracking of {name} is off"))
    } else {
        let message = format!(
            "change tracking of {name} is off, and can be turned on only once its snapshots are gone"
        );
        finding(Severity::Warning, "change-tracking-off", message)
    })
}

fn privileges(session: &mut Session, machine: &Machine) -> Result<Vec<Finding>> {
    let transport = session.settings().transport;
    let mut on_vm: Vec<&str> = ON_VM.to_vec();
    if transport == TransportKind::Vddk {
        on_vm.extend(ON_VM_FOR_VDDK);
    }
    let mut missing = missing(session, std::slice::from_ref(&machine.of), &on_vm)?;
    if transport == TransportKind::Https && !machine.datastores.is_empty() {
        missing.append(&mut self::missing(session, &machine.datastores, &ON_DATASTORE_FOR_HTTPS)?);
    }
    let username = session.settings().username.clone();
    let blocker = |(entity, names): (String, Vec<String>)| {
        let on = if entity == machine.of.id { machine.name.clone() } else { entity };
        let message = format!("the user {username} lacks on {on}: {}", names.join(", "));
        finding(Severity::Blocker, "missing-privilege", message)
    };
    Ok(missing.into_iter().map(blocker).collect())
}

/// The privileges that the session's user does not have, by entity. What the server does not speak of is missing.
fn missing(
    session: &mut Session,
    entities: &[Ref],
    wanted: &[&str],
) -> Result<BTreeMap<String, Vec<String>>> {
    let Some(manager) = session.content()?.authorization_manager.clone() else {
        return Err(Error::unsupported("the server has no authorization manager"));
    };
    let mut answer = ask(session, &manager, entities, wanted)?;
    // The question names the session: where it was renewed meanwhile, the answer is about the old one.
    for _ in 0..2 {
        match answer {
            Some(_) => break,
            None => answer = ask(session, &manager, entities, wanted)?,
        }
    }
    let answer = answer
        .ok_or_else(|| Error::unavailable("checking privileges: the session expires again and again"))?;
    let mut missing = BTreeMap::new();
    for entity in entities {
        let of = answer.all("returnval").find(|found| found.text_of("entity") == Some(&entity.id));
        let granted = |privilege: &str| {
            of.is_some_and(|of| {
                let found =
                    of.all("privAvailability").find(|found| found.text_of("privId") == Some(privilege));
                found.and_then(|found| found.bool_of("isGranted")) == Some(true)
            })
        };
        let names: Vec<String> =
            wanted.iter().filter(|name| !granted(name)).map(|&name| name.to_owned()).collect();
        if !names.is_empty() {
            missing.insert(entity.id.clone(), names);
        }
    }
    Ok(missing)
}

/// None where the session was renewed by the question itself.
fn ask(session: &mut Session, manager: &Ref, entities: &[Ref], wanted: &[&str]) -> Result<Option<Element>> {
    let (key, logins) = (session.key().to_owned(), session.logins());
    let answer = session.try_call("HasPrivilegeOnEntities", manager, Repeat::Safe, &|xml| {
        let xml = entities.iter().fold(xml, |xml, entity| xml.reference("entity", entity));
        let xml = xml.element("sessionId", &key);
        wanted.iter().fold(xml, |xml, privilege| xml.element("privId", privilege))
    })?;
    if session.logins() != logins {
        return Ok(None);
    }
    answer.map(Some).map_err(|fault| fault.to_error("checking privileges"))
}
