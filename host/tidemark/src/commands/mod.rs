//! The verbs, one file a noun: each turns arguments into REST calls and answers into words.

pub(crate) mod backup;
pub(crate) mod connection;
pub(crate) mod connector;
mod files;
pub(crate) mod flow;
pub(crate) mod job;
pub(crate) mod plugin;
pub(crate) mod policy;
pub(crate) mod prune;
pub(crate) mod repository;
pub(crate) mod restore;
mod simulate;
pub(crate) mod token;
pub(crate) mod vm;

use anyhow::Result;
use serde_json::Value;
use tidemark_api::wire::{Accepted, JobEntry};

use crate::args::Wait;
use crate::client::Client;
use crate::output::{Ended, Output};
use crate::watch::{Style, conclude, follow};

/// Shows the accepted job, or waits for its end and shows that.
fn finish(
    client: &Client,
    output: &Output,
    accepted: Value,
    wait: &Wait,
    human: impl FnOnce(&JobEntry) -> String,
) -> Result<Ended> {
    finish_telling(client, output, accepted, wait, |_| false, human)
}

/// The same where some failures have something to show, too.
fn finish_telling(
    client: &Client,
    output: &Output,
    accepted: Value,
    wait: &Wait,
    tells: impl FnOnce(&JobEntry) -> bool,
    human: impl FnOnce(&JobEntry) -> String,
) -> Result<Ended> {
    if wait.no_wait {
        output.document(accepted, |started: Accepted| started.message)?;
        return Ok(Ended::Done);
    }
    let started = accepted.get("job_id").and_then(Value::as_str).unwrap_or_default();
    let (job, document) = follow(client, output, started, Style::Progress)?;
    let ended = conclude(output, &job);
    if output.is_json() || ended != Ended::Failed || tells(&job) {
        output.document(document, |job: JobEntry| human(&job))?;
    }
    Ok(ended)
}
