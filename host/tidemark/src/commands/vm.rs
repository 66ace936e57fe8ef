//! `tidemark vm`

use anyhow::Result;
use serde_json::Value;
use tidemark_api::wire::{AcceptedJobs, AddVms, AddedVms, CopyBackups, UnprotectedList, VmEntry, VmList};

use crate::args::{VmVerb, Wait};
use crate::client::{Client, escape};
use crate::output::{Ended, Output, Table, fields, moment, or_dash, size};
use crate::watch::{Style, conclude, follow};

pub(crate) fn run(verb: VmVerb, client: &Client, output: &Output) -> Result<Ended> {
    match verb {
        VmVerb::List => {
            let list = client.list("/api/v1/vms", "vms")?;
            output.document(list, |list: VmList| table(list.vms))?;
        }
        VmVerb::Add { connector, vms } => {
            let added = client.post("/api/v1/vms", &AddVms { connector, vm_names: vms })?;
            output.document(added, |added: AddedVms| {
                let names: Vec<String> = added.vms.into_iter().map(|vm| format!("'{}'", vm.name)).collect();
                format!("under protection: {}", names.join(", "))
            })?;
        }
        VmVerb::Show { vm } => {
            let shown = client.get(&format!("/api/v1/vms/{}", escape(&vm)))?;
            output.document(shown, show)?;
        }
        VmVerb::Copy { vm, from, to, wait } => return copy(client, output, &vm, from, to, &wait),
        VmVerb::Unprotected { refresh } => {
            let list = client.get(&format!("/api/v1/reports/unprotected-vms?refresh={refresh}"))?;
            output.document(list, |list: UnprotectedList| unprotected(&list))?;
        }
        VmVerb::Remove { vm } => {
            client.delete(&format!("/api/v1/vms/{}", escape(&vm)))?;
            output.done(&format!("VM '{vm}' is not under protection any more"))?;
        }
    }
    Ok(Ended::Done)
}

/// Several jobs, one a backup: each is followed to its end.
fn copy(client: &Client, output: &Output, vm: &str, from: String, to: String, wait: &Wait) -> Result<Ended> {
    let queued =
        client.post(&format!("/api/v1/vms/{}/actions/copy", escape(vm)), &CopyBackups { from, to })?;
    let jobs: AcceptedJobs = serde_json::from_value(queued.clone())?;
    let mut ended = Ended::Done;
    if !wait.no_wait {
        for id in &jobs.job_ids {
            let (job, _) = follow(client, output, id, Style::Progress)?;
            ended = ended.max(conclude(output, &job));
        }
    }
    output.document(queued, |jobs: AcceptedJobs| jobs.message)?;
    Ok(ended)
}

fn unprotected(list: &UnprotectedList) -> String {
    let mut table = Table::new(&["NAME", "CONNECTOR", "FOLDER", "KEY", "SEEN", "WHY NOT"]);
    for vm in &list.vms {
        table.row([
            vm.name.clone(),
            vm.connector.clone(),
            vm.folder.clone(),
            vm.key.clone(),
            moment(&vm.seen_at),
            or_dash(Some(vm.reasons.join("; "))),
        ]);
    }
    table.render("every VM that was seen is protected by an enabled flow")
}

fn disks(vm: &VmEntry) -> &[Value] {
    vm.inventory.get("disks").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

fn text(vm: &VmEntry, key: &str) -> String {
    or_dash(vm.inventory.get(key).and_then(Value::as_str).map(str::to_owned))
}

fn table(vms: Vec<VmEntry>) -> String {
    let mut table = Table::new(&["NAME", "ID", "KEY", "DISKS", "SIZE", "ADDED"]);
    for vm in vms {
        let capacity = disks(&vm).iter().filter_map(|disk| disk["capacity_bytes"].as_u64()).sum();
        let count = disks(&vm).len().to_string();
        table.row([vm.name, vm.id, vm.key, count, size(capacity), moment(&vm.created_at)]);
    }
    table.render("no virtual machines are under protection")
}

fn show(vm: VmEntry) -> String {
    let mut shown = fields(&[
        ("name", vm.name.clone()),
        ("id", vm.id.clone()),
        ("key", vm.key.clone()),
        ("connector", or_dash(vm.connector_id.clone())),
        ("power", text(&vm, "power")),
        ("guest", text(&vm, "guest_os")),
        ("folder", text(&vm, "folder")),
        ("not protected", text(&vm, "not_protected")),
        ("added", moment(&vm.created_at)),
    ]);
    let mut table = Table::new(&["DISK", "KEY", "SIZE", "NOT PROTECTED"]);
    for disk in disks(&vm) {
        let word = |key: &str| or_dash(disk[key].as_str().map(str::to_owned));
        let capacity = size(disk["capacity_bytes"].as_u64().unwrap_or(0));
        table.row([word("label"), word("key"), capacity, word("not_protected")]);
    }
    shown.push('\n');
    shown.push_str(&table.render("no disks"));
    shown
}
