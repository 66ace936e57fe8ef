//! `tidemark flow`

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::{Map, Value};
use tidemark_api::wire::{
    ExecutionEntry, ExecutionList, FiringList, FlowEntry, FlowList, FlowPreview, FlowStanding, JobEntry,
    StartedExecution, WriteFlow,
};

use super::finish_telling;
use crate::args::{FlowVerb, Wait};
use crate::client::{Client, escape};
use crate::output::{Ended, Output, Table, fields, moment, or_dash, yes_no};

const FLOWS: &str = "/api/v1/protection-flows";
/// The members of a definition.
const MEMBERS: [&str; 10] = [
    "description",
    "repository",
    "select",
    "schedule",
    "backup",
    "retention",
    "verify",
    "copy",
    "hooks",
    "notify",
];

pub(crate) fn run(verb: FlowVerb, client: &Client, output: &Output) -> Result<Ended> {
    match verb {
        FlowVerb::Create { name, file, secrets, disabled } => {
            let wire = written(Some(name), &file, &secrets, disabled.then_some(false))?;
            output.document(client.post(FLOWS, &wire)?, |flow: FlowEntry| {
                format!("flow '{}' is made; {}", flow.name, next(&flow))
            })?;
        }
        FlowVerb::Update { name, file, secrets } => {
            let mut wire = written(None, &file, &secrets, None)?;
            // What the file does not say any more goes.
            for member in MEMBERS {
                wire.definition.entry(member).or_insert(Value::Null);
            }
            let changed = client.put(&place(&name, ""), &wire)?;
            output.document(changed, |flow: FlowEntry| {
                format!("flow '{}' is changed; {}", flow.name, next(&flow))
            })?;
        }
        FlowVerb::List => output.document(client.get(FLOWS)?, |list: FlowList| table(&list))?,
        FlowVerb::Show { name } => {
            output
                .document(client.get(&place(&name, "/status"))?, |standing: FlowStanding| show(&standing))?;
        }
        FlowVerb::Run { name, wait } => return execute(client, output, &name, &wait),
        FlowVerb::Enable { name } => {
            let flow = client.act(&place(&name, "/enable"))?;
            output
                .document(flow, |flow: FlowEntry| format!("flow '{}' fires; {}", flow.name, next(&flow)))?;
        }
        FlowVerb::Disable { name } => {
            let flow = client.act(&place(&name, "/disable"))?;
            output.document(flow, |flow: FlowEntry| format!("flow '{}' fires no more", flow.name))?;
        }
        FlowVerb::Runs { name, run: Some(run) } => {
            let path = place(&name, &format!("/executions/{}", escape(&run)));
            output.document(client.get(&path)?, |run: ExecutionEntry| one_run(&run))?;
        }
        FlowVerb::Runs { name, run: None } => {
            let list = client.list(&place(&name, "/executions"), "executions")?;
            output.document(list, |list: ExecutionList| runs(&list))?;
        }
        FlowVerb::Firings { name } => {
            let list = client.list(&place(&name, "/firings"), "firings")?;
            output.document(list, |list: FiringList| firings(&list))?;
        }
        FlowVerb::Preview { name } => {
            output.document(client.get(&place(&name, "/preview"))?, |preview: FlowPreview| {
                previewed(&preview)
            })?;
        }
        FlowVerb::Remove { name } => {
            client.delete(&place(&name, ""))?;
            output.done(&format!("flow '{name}' is forgotten; its backups stay"))?;
        }
    }
    Ok(Ended::Done)
}

fn place(name: &str, below: &str) -> String {
    format!("{FLOWS}/{}{below}", escape(name))
}

fn written(
    name: Option<String>,
    file: &Path,
    secrets: &[String],
    enabled: Option<bool>,
) -> Result<WriteFlow> {
    let text = super::policy::read(file)?;
    let definition: Map<String, Value> = toml::from_str(&text).with_context(|| file.display().to_string())?;
    let mut read = BTreeMap::new();
    for secret in secrets {
        let (name, path) =
            secret.split_once("=@").with_context(|| format!("--secret {secret}: NAME=@FILE is expected"))?;
        let text = std::fs::read_to_string(path).with_context(|| format!("reading {path}"))?;
        read.insert(name.to_owned(), text.trim_end_matches(['\r', '\n']).to_owned());
    }
    Ok(WriteFlow { name, enabled, secrets: read, definition })
}

fn execute(client: &Client, output: &Output, name: &str, wait: &Wait) -> Result<Ended> {
    let started = client.act(&place(name, "/execute"))?;
    if wait.no_wait {
        output.document(started, |started: StartedExecution| started.message)?;
        return Ok(Ended::Done);
    }
    let told = |job: &JobEntry| job.result.is_some();
    finish_telling(client, output, started, wait, told, |job| {
        job.result.as_ref().map_or_else(String::new, summary)
    })
}

fn next(flow: &FlowEntry) -> String {
    match (&flow.next_execution, flow.enabled) {
        (Some(at), _) => format!("it fires next at {}", moment(at)),
        (None, true) => "it has no schedule: it runs when it is asked to".to_owned(),
        (None, false) => "it is disabled".to_owned(),
    }
}

fn table(list: &FlowList) -> String {
    let mut table = Table::new(&["NAME", "ENABLED", "REPOSITORY", "SCHEDULE", "NEXT", "ID"]);
    for flow in &list.flows {
        let text = |path: &str| flow.definition.pointer(path).and_then(Value::as_str).map(str::to_owned);
        table.row([
            flow.name.clone(),
            yes_no(flow.enabled),
            or_dash(text("/repository")),
            or_dash(text("/schedule/cron")),
            or_dash(flow.next_execution.as_deref().map(moment)),
            flow.id.clone(),
        ]);
    }
    table.render("no flows; `tidemark flow create NAME --file FLOW.toml` makes one")
}

fn show(standing: &FlowStanding) -> String {
    let FlowStanding { flow, last_execution, next_run, executions } = standing;
    let counts: Vec<String> = executions.iter().map(|(status, count)| format!("{count} {status}")).collect();
    let mut text = fields(&[
        ("name", flow.name.clone()),
        ("id", flow.id.clone()),
        ("enabled", yes_no(flow.enabled)),
        ("next run", or_dash(next_run.as_deref().map(moment))),
        ("runs", or_dash(Some(counts.join(", ")))),
    ]);
    text.push('\n');
    // What was stored as JSON is shown as it was written.
    text.push_str(&toml::to_string_pretty(&flow.definition).unwrap_or_default());
    if let Some(run) = last_execution {
        text.push_str("\nnewest run:\n");
        text.push_str(&one_run(run));
    }
    text
}

fn runs(list: &ExecutionList) -> String {
    let mut table = Table::new(&["RUN", "CAUSE", "STATUS", "FOR", "BEGUN", "ENDED"]);
    for run in &list.executions {
        table.row([
            run.id.clone(),
            run.execution_type.clone(),
            run.status.clone(),
            or_dash(run.fire_at.as_deref().map(moment)),
            moment(&run.created_at),
            or_dash(run.completed_at.as_deref().map(moment)),
        ]);
    }
    table.render("the flow has not run yet")
}

fn firings(list: &FiringList) -> String {
    let mut table = Table::new(&["FOR", "FIRED", "HOST", "MISSED", "RUN", "PASSED OVER"]);
    for firing in &list.firings {
        table.row([
            moment(&firing.fire_at),
            moment(&firing.fired_at),
            firing.fired_by.clone(),
            firing.missed.to_string(),
            or_dash(firing.execution_id.clone()),
            or_dash(firing.skipped.clone()),
        ]);
    }
    table.render("the flow has not fired yet")
}

fn one_run(run: &ExecutionEntry) -> String {
    let mut text = fields(&[
        ("run", run.id.clone()),
        ("cause", run.execution_type.clone()),
        ("status", run.status.clone()),
        ("begun", moment(&run.created_at)),
        ("ended", or_dash(run.completed_at.as_deref().map(moment))),
    ]);
    let mut table = Table::new(&["VM", "STATE", "PLAN", "TRIES", "BACKUP", "REASON"]);
    for vm in &run.vms {
        let reason = vm.error.clone().unwrap_or_else(|| vm.reason.clone());
        table.row([
            vm.vm_name.clone(),
            vm.state.clone(),
            vm.plan.clone(),
            vm.attempts.to_string(),
            or_dash(vm.backup_id.clone()),
            reason,
        ]);
    }
    text.push('\n');
    text.push_str(&table.render("no VM was selected\n"));
    for warning in run.report["warnings"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        text.push_str(&format!("warning: {warning}\n"));
    }
    text
}

fn summary(result: &Value) -> String {
    let mut table = Table::new(&["VM", "STATE", "PLAN", "BACKUP", "REASON"]);
    for vm in result["vms"].as_array().into_iter().flatten() {
        let text = |key: &str| or_dash(vm[key].as_str().map(str::to_owned));
        let reason = vm["error"].as_str().or(vm["reason"].as_str()).unwrap_or_default().to_owned();
        table.row([text("vm_name"), text("state"), text("plan"), text("backup_id"), reason]);
    }
    let count = |key: &str| result[key].as_u64().unwrap_or(0);
    format!(
        "{}\n{}: {} succeeded, {} failed, {} skipped",
        table.render("no VM was selected"),
        result["status"].as_str().unwrap_or_default(),
        count("succeeded"),
        count("failed"),
        count("skipped")
    )
}

fn previewed(preview: &FlowPreview) -> String {
    let mut table = Table::new(&["VM", "KEY", "PROTECT", "PLAN", "REASON"]);
    for vm in &preview.vms {
        let reasons = match &vm.plan_reason {
            Some(plan) => format!("{}; {plan}", vm.reason),
            None => vm.reason.clone(),
        };
        table.row([vm.name.clone(), vm.key.clone(), yes_no(vm.protect), or_dash(vm.plan.clone()), reasons]);
    }
    let mut text = table.render("no VM is looked at\n");
    for at in &preview.next_firings {
        text.push_str(&format!("fires at {}\n", moment(at)));
    }
    for warning in &preview.warnings {
        text.push_str(&format!("warning: {warning}\n"));
    }
    text
}
