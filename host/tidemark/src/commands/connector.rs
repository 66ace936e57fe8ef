//! `tidemark connector`

use anyhow::Result;
use serde_json::Value;
use tidemark_api::wire::{ConnectionEntry, ConnectorList, DiscoveredVm, Discovery, ProductEntry, TestReport};

use super::connection::{self, Bounds};
use crate::args::{ConnectorVerb, MaxDisks};
use crate::client::{Client, escape};
use crate::output::{Ended, Output, Table, or_dash, size, yes_no};

pub(crate) fn run(verb: ConnectorVerb, client: &Client, output: &Output) -> Result<Ended> {
    match verb {
        ConnectorVerb::Add { connection: args, bound: MaxDisks { max_disks } } => {
            let bounds = Bounds { max_disks, ..Bounds::default() };
            let added = connection::add(client, "connectors", args, bounds)?;
            output.document(added, |entry: ConnectionEntry| format!("connector '{}' added", entry.name))?;
        }
        ConnectorVerb::Update { name, values, bound: MaxDisks { max_disks } } => {
            let bounds = Bounds { max_disks, ..Bounds::default() };
            let updated = connection::update(client, "connectors", &name, values, bounds)?;
            output
                .document(updated, |entry: ConnectionEntry| format!("connector '{}' changed", entry.name))?;
        }
        ConnectorVerb::List => {
            let list = client.list("/api/v1/connectors", "connectors")?;
            output
                .document(list, |list: ConnectorList| connection::table(list.connectors, "no connectors"))?;
        }
        ConnectorVerb::Test { name } => {
            let report = client.act(&format!("/api/v1/connectors/{}/actions/test", escape(&name)))?;
            let ended = judge(&report);
            output.document(report, report_text)?;
            return Ok(ended);
        }
        ConnectorVerb::Discover { name } => {
            let found = client.act(&format!("/api/v1/connectors/{}/actions/discover", escape(&name)))?;
            output.document(found, |found: Discovery| inventory(found.vms))?;
        }
        ConnectorVerb::Remove { name } => {
            client.delete(&format!("/api/v1/connectors/{}", escape(&name)))?;
            output.done(&format!("connector '{name}' removed"))?;
        }
    }
    Ok(Ended::Done)
}

/// A connection that cannot back anything up did not pass its test.
fn judge(report: &Value) -> Ended {
    match report["status"].as_str() {
        Some("ok") => Ended::Done,
        Some("warnings") => Ended::Warnings,
        _ => Ended::Failed,
    }
}

fn report_text(report: TestReport) -> String {
    let mut text = report.message;
    if let Some(ProductEntry { name, version, build, .. }) = report.product {
        let build = if build.is_empty() { build } else { format!(" (build {build})") };
        text.push_str(&format!("\n  {name} {version}{build}"));
    }
    for finding in report.findings {
        text.push_str(&format!("\n  {}: {} ({})", finding.severity, finding.message, finding.code));
    }
    text
}

fn inventory(vms: Vec<DiscoveredVm>) -> String {
    let mut table = Table::new(&["NAME", "KEY", "POWER", "DISKS", "SIZE", "CBT", "NOT PROTECTED"]);
    for vm in vms {
        let capacity = size(vm.disks.iter().map(|disk| disk.capacity_bytes).sum());
        let mut reasons: Vec<String> = vm.not_protected.into_iter().collect();
        let count = vm.disks.len().to_string();
        reasons.extend(
            vm.disks.into_iter().filter_map(|disk| Some(format!("{}: {}", disk.label, disk.not_protected?))),
        );
        let reasons = or_dash(Some(reasons.join("; ")));
        table.row([vm.name, vm.key, vm.power_state, count, capacity, yes_no(vm.change_tracking), reasons]);
    }
    table.render("no virtual machines")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_blocked_connection_failed_its_test() {
        for (status, ended) in
            [("ok", Ended::Done), ("warnings", Ended::Warnings), ("blocked", Ended::Failed)]
        {
            assert_eq!(judge(&json!({ "status": status })), ended);
        }
    }
}
