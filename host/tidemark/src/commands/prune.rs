//! `tidemark prune`

use anyhow::Result;
use serde_json::Value;
use tidemark_api::wire::{ApproveMarks, ApprovedMarks, JobEntry, MarkList, PruneRepository};

use super::finish;
use crate::args::PruneVerb;
use crate::client::{Client, escape};
use crate::output::{Ended, Output, Table, moment, or_dash, yes_no};

pub(crate) fn run(verb: PruneVerb, client: &Client, output: &Output) -> Result<Ended> {
    match verb {
        PruneVerb::Run { repository, dry_run, wait } => {
            let path = format!("/api/v1/repositories/{}/actions/prune", escape(&repository));
            let accepted = client.post(&path, &PruneRepository { dry_run })?;
            return finish(client, output, accepted, &wait, decided);
        }
        PruneVerb::Marks { repository } => {
            let list = client.get(&format!("/api/v1/repositories/{}/marks", escape(&repository)))?;
            output.document(list, |list: MarkList| marks(&list))?;
        }
        PruneVerb::Approve { repository, vm } => {
            let path = format!("/api/v1/repositories/{}/actions/approve", escape(&repository));
            let approved = client.post(&path, &ApproveMarks { vm })?;
            output.document(approved, |approved: ApprovedMarks| {
                format!("{} backups go when their grace period is over", approved.approved)
            })?;
        }
    }
    Ok(Ended::Done)
}

fn marks(list: &MarkList) -> String {
    let mut table = Table::new(&["VM", "BACKUP", "POLICY", "MARKED", "GOES AFTER", "APPROVED", "BY"]);
    for mark in &list.marks {
        table.row([
            mark.vm_name.clone(),
            mark.backup_id.clone(),
            mark.policy.clone(),
            moment(&mark.marked_at),
            moment(&mark.due_at),
            yes_no(mark.approved),
            or_dash(mark.approved_by.clone()),
        ]);
    }
    table.render("no backup is marked")
}

fn decided(job: &JobEntry) -> String {
    let Some(result) = &job.result else { return String::new() };
    let mut table = Table::new(&["VM", "LEVEL", "BACKUP", "FATE", "BY", "REASON"]);
    for vm in result["decisions"].as_array().into_iter().flatten() {
        let name = vm["vm_name"].as_str().unwrap_or_default().to_owned();
        let level = vm["level"].as_str().unwrap_or_default().to_owned();
        for point in vm["kept"].as_array().into_iter().flatten() {
            let text = |key: &str| point[key].as_str().unwrap_or_default().to_owned();
            let row = [
                name.clone(),
                level.clone(),
                text("backup_id"),
                "stays".to_owned(),
                text("by"),
                text("reason"),
            ];
            table.row(row);
        }
        for point in vm["may_go"].as_array().into_iter().flatten() {
            let now = point["deleted_now"].as_bool().unwrap_or(false);
            let fate = if now { "is deleted" } else { "may go" };
            let id = point["backup_id"].as_str().unwrap_or_default().to_owned();
            table.row([name.clone(), level.clone(), id, fate.to_owned(), String::new(), String::new()]);
        }
    }
    let count = |key: &str| result.get(key).and_then(Value::as_u64).unwrap_or(0);
    format!(
        "{}\n{} VMs: {} backups stay, {} may go, {} are deleted now",
        table.render("no backups"),
        count("vms"),
        count("kept"),
        count("may_go"),
        count("queued_for_deletion")
    )
}
