//! The duties of a connector, on one VM: a snapshot that is found again, areas that reach the disk's end, and nothing
//! left behind. It talks to the hypervisor that the settings name.

use tidemark_model::{ChangeId, DiskKey};

use super::{Report, Trial, ensure, words};
use crate::connector::{Connector, Product, Severity, Since, Snapshot, VirtualMachine};
use crate::error::{Error, ErrorKind};
use crate::runtime::{Plugin, Runtime};

/// What no hypervisor calls a VM or a change.
const FOREIGN: &str = "tidemark-conformance-does-not-exist";

pub(super) async fn run(
    runtime: &Runtime,
    plugin: &Plugin,
    trial: &Trial,
    report: &mut Report,
) -> Option<()> {
    let opened = runtime.connector(plugin, trial.session(plugin)).await;
    let mut connector = report.settle("configure takes the settings", told(opened))?;
    report.settle("check finds nothing that stands in the way", check(&mut connector).await);
    let said = match connector.identify().await {
        // A language that cannot leave an interface out answers so.
        Err(error) if *error.kind() == ErrorKind::Unsupported => Ok(None),
        said => told(said),
    };
    report.settle("identify names the product, where the plugin has it", said.and_then(named));
    let vm = listed(&mut connector, trial).await;
    let vm = report.settle("list-vms shows each VM once, and one that can be backed up", vm)?;
    let seen = preflight(&mut connector, &vm).await;
    report.settle("preflight answers for the VM that it is asked for, and for no other", seen);
    // Another key each time, as for each job: a snapshot that an earlier trial left must not be taken for this one's.
    let key = format!("conformance-{}", trial.now.0);
    let taken = snapshot(&mut connector, &vm, &key).await;
    let snapshot = report.settle("create-snapshot with the same key is the same snapshot", taken)?;
    let own = own(&mut connector, &vm, &key).await.and_then(|tokens| {
        ensure(tokens == [snapshot.token.clone()], || format!("with the key {key} it lists {tokens:?}"))
    });
    report.settle("list-own-snapshots names it by its key", own);
    let areas = areas(&mut connector, &vm, &snapshot).await;
    report.settle("changed-areas covers every disk to its end", areas);
    let reset = foreign_change(&mut connector, &vm, &snapshot).await;
    report.settle("changed-areas of a foreign change id asks for a full", reset);
    let disks = disks(&mut connector, &vm, &snapshot).await;
    report.settle("open-disk leads to what is granted, and close-disk ends it", disks);
    report.settle("keep-alive answers", told(connector.keep_alive().await));
    let removed = removed(&mut connector, &vm, &snapshot).await;
    report.settle("remove-snapshot succeeds, and again when it is gone", removed);
    let left = self::own(&mut connector, &vm, &key)
        .await
        .and_then(|tokens| ensure(tokens.is_empty(), || format!("it still lists {tokens:?}")));
    report.settle("list-own-snapshots forgets it", left);
    report.settle("close answers", told(connector.close().await))
}

fn told<T>(ended: Result<T, Error>) -> Result<T, String> {
    ended.map_err(|error| words(&error))
}

async fn check(connector: &mut Connector) -> Result<(), String> {
    let findings = told(connector.check().await)?;
    match findings.into_iter().find(|finding| finding.severity == Severity::Blocker) {
        Some(finding) => Err(format!("{}: {}", finding.code, finding.message)),
        None => Ok(()),
    }
}

fn named(product: Option<Product>) -> Result<(), String> {
    let nameless = product.is_some_and(|product| product.name.trim().is_empty());
    ensure(!nameless, || "a product without a name".to_owned())
}

async fn listed(connector: &mut Connector, trial: &Trial) -> Result<VirtualMachine, String> {
    let vms = told(connector.list_all_vms().await)?;
    let count = vms.len();
    let wanted = |vm: &VirtualMachine| match &trial.vm {
        Some(name) => vm.key == *name || vm.name == *name,
        None => vm.not_protected.is_none() && vm.disks.iter().any(|disk| disk.not_protected.is_none()),
    };
    let missing = || match &trial.vm {
        Some(name) => format!("there is no VM '{name}' among {count}"),
        None => format!("none of {count} can be backed up"),
    };
    vms.into_iter().find(wanted).ok_or_else(missing)
}

async fn preflight(connector: &mut Connector, vm: &VirtualMachine) -> Result<(), String> {
    let report = told(connector.preflight(&vm.key).await)?;
    let keys = |vm: &VirtualMachine| vm.disks.iter().map(|disk| disk.key.clone()).collect::<Vec<DiskKey>>();
    ensure(keys(&report.vm) == keys(vm), || format!("other disks than in the list: {:?}", keys(&report.vm)))?;
    match connector.preflight(FOREIGN).await {
        Ok(_) => Err(format!("it answers for a VM '{FOREIGN}'")),
        Err(error) if error.is_misbehaviour() => Err(words(&error)),
        Err(_) => Ok(()),
    }
}

async fn snapshot(connector: &mut Connector, vm: &VirtualMachine, key: &str) -> Result<Snapshot, String> {
    let first = told(connector.create_snapshot(&vm.key, key, false).await)?;
    ensure(!first.disks.is_empty(), || "a snapshot without a disk".to_owned())?;
    let again = told(connector.create_snapshot(&vm.key, key, false).await)?;
    ensure(first.token == again.token && first.disks == again.disks, || {
        format!("{} with {:?}, then {} with {:?}", first.token, first.disks, again.token, again.disks)
    })?;
    Ok(first)
}

/// The tokens of the own snapshots with a key.
async fn own(connector: &mut Connector, vm: &VirtualMachine, key: &str) -> Result<Vec<String>, String> {
    let mut own = told(connector.list_own_snapshots(&vm.key).await)?;
    own.retain(|snapshot| snapshot.idempotency_key == key);
    Ok(own.into_iter().map(|snapshot| snapshot.token).collect())
}

async fn areas(connector: &mut Connector, vm: &VirtualMachine, snapshot: &Snapshot) -> Result<(), String> {
    for disk in &snapshot.disks {
        let (token, since) = (&snapshot.token, Since::Allocated);
        // The façade asks on to the capacity, and believes no page.
        told(connector.changed_areas(&vm.key, token, &disk.key, &since, disk.capacity).await)?;
    }
    Ok(())
}

async fn foreign_change(
    connector: &mut Connector,
    vm: &VirtualMachine,
    snapshot: &Snapshot,
) -> Result<(), String> {
    let Some(disk) = snapshot.disks.first() else { return Ok(()) };
    let since = Since::ChangeId(ChangeId(FOREIGN.to_owned()));
    match connector.changed_areas(&vm.key, &snapshot.token, &disk.key, &since, disk.capacity).await {
        Err(error) if matches!(error.kind(), ErrorKind::ChangeTrackingReset { .. }) => Ok(()),
        Err(error) => Err(format!("change-tracking-reset was expected, not {}", words(&error))),
        Ok(areas) => Err(format!("it knows what changed since '{FOREIGN}': {} bytes", areas.total().0)),
    }
}

async fn disks(connector: &mut Connector, vm: &VirtualMachine, snapshot: &Snapshot) -> Result<(), String> {
    for disk in &snapshot.disks {
        let lease = told(connector.open_disk(&vm.key, &snapshot.token, &disk.key, false).await)?;
        told(connector.close_disk(&lease.token).await)?;
    }
    Ok(())
}

async fn removed(connector: &mut Connector, vm: &VirtualMachine, snapshot: &Snapshot) -> Result<(), String> {
    told(connector.remove_snapshot(&vm.key, &snapshot.token).await)?;
    told(connector.remove_snapshot(&vm.key, &snapshot.token).await)
}
