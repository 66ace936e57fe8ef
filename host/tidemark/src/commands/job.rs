//! `tidemark job`

use anyhow::Result;
use tidemark_api::wire::{JobEntry, JobList};

use crate::args::JobVerb;
use crate::client::{Client, escape};
use crate::output::{Ended, Output, Table, fields, moment, or_dash};
use crate::watch::{Style, conclude, follow};

pub(crate) fn run(verb: JobVerb, client: &Client, output: &Output) -> Result<Ended> {
    match verb {
        JobVerb::List { limit, status } => {
            let filter = status.map(|status| format!("&status={}", escape(&status))).unwrap_or_default();
            let list = client.get(&format!("/api/v1/jobs?limit={limit}{filter}"))?;
            output.document(list, |list: JobList| table(list.jobs))?;
        }
        JobVerb::Show { id } => {
            let shown = client.get(&format!("/api/v1/jobs/{}", escape(&id)))?;
            output.document(shown, |job: JobEntry| show(&job))?;
        }
        JobVerb::Watch { id } => {
            let (job, _) = follow(client, output, &id, Style::Lines)?;
            let ended = conclude(output, &job);
            if !output.is_json() {
                output.done(&format!("{} job {} {}", job.kind, job.job_id, job.status))?;
            }
            return Ok(ended);
        }
        JobVerb::Cancel { id } => {
            let asked = client.act(&format!("/api/v1/jobs/{}/actions/cancel", escape(&id)))?;
            output.document(asked, |job: JobEntry| match job.status.as_str() {
                "cancelled" => format!("job {} is cancelled", job.job_id),
                _ => format!("job {} was asked to end; it cleans up first", job.job_id),
            })?;
        }
    }
    Ok(Ended::Done)
}

fn phase(job: &JobEntry) -> Option<String> {
    Some(job.progress.get("phase")?.as_str()?.to_owned()).filter(|_| job.status == "running")
}

fn error(job: &JobEntry) -> Option<String> {
    Some(job.error.as_ref()?.get("message")?.as_str()?.to_owned())
}

fn table(jobs: Vec<JobEntry>) -> String {
    let mut table = Table::new(&["JOB", "KIND", "STATUS", "SUBMITTED", "ENDED", "NOTE"]);
    for job in jobs {
        let ended = or_dash(job.ended_at.as_deref().map(moment));
        let note = or_dash(error(&job).or_else(|| phase(&job)));
        table.row([job.job_id, job.kind, job.status, moment(&job.created_at), ended, note]);
    }
    table.render("no jobs")
}

fn show(job: &JobEntry) -> String {
    let mut shown = fields(&[
        ("job", job.job_id.clone()),
        ("kind", job.kind.clone()),
        ("status", job.status.clone()),
        ("phase", or_dash(phase(job))),
        ("error", or_dash(error(job))),
        ("host", or_dash(job.host.clone())),
        ("submitted", moment(&job.created_at)),
        ("started", or_dash(job.started_at.as_deref().map(moment))),
        ("ended", or_dash(job.ended_at.as_deref().map(moment))),
        ("request", job.request.to_string()),
        ("progress", job.progress.to_string()),
        ("result", or_dash(job.result.as_ref().map(ToString::to_string))),
    ]);
    for warning in &job.warnings {
        shown.push_str(&format!("warning    {warning}\n"));
    }
    shown
}
