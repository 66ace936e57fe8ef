//! Follows a job to its end: a progress bar on a terminal, a line per change elsewhere, JSON lines where a stream
//! of documents is wanted.

use std::io::IsTerminal as _;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, Result};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;
use tidemark_api::wire::JobEntry;

use crate::client::{Client, escape};
use crate::output::{Ended, Output, size};

/// The server notes a job's progress about once a second.
const POLL: Duration = Duration::from_millis(400);
/// A server that restarts is away for a moment; the job is not lost.
const MISSES: u32 = 25;

/// How a job is shown while it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    /// For people, on standard error.
    Progress,
    /// Every change as a line on standard output.
    Lines,
}

/// Waits for the job's end.
pub(crate) fn follow(client: &Client, output: &Output, id: &str, style: Style) -> Result<(JobEntry, Value)> {
    let mut view = View::new(output, style);
    let mut misses = 0;
    loop {
        let document = match client.get(&format!("/api/v1/jobs/{}", escape(id))) {
            Ok(document) => document,
            Err(error) if error.is::<crate::client::Refused>() || misses == MISSES => return Err(error),
            Err(_) => {
                misses += 1;
                sleep(POLL);
                continue;
            }
        };
        misses = 0;
        let job: JobEntry =
            serde_json::from_value(document.clone()).context("the server's answer is not as expected")?;
        let ended = matches!(job.status.as_str(), "succeeded" | "failed" | "cancelled");
        view.show(output, &job, &document)?;
        if ended {
            view.finish();
            return Ok((job, document));
        }
        sleep(POLL);
    }
}

/// Says how the job ended, with its warnings or its error on standard error.
pub(crate) fn conclude(output: &Output, job: &JobEntry) -> Ended {
    for warning in &job.warnings {
        output.warning(warning);
    }
    match job.status.as_str() {
        "succeeded" if job.warnings.is_empty() => Ended::Done,
        "succeeded" => Ended::Warnings,
        status => {
            let words = job.error.as_ref().and_then(|error| error.get("message")).and_then(Value::as_str);
            eprintln!(
                "tidemark: {} job {} {status}{}",
                job.kind,
                job.job_id,
                words.map(|w| format!(": {w}")).unwrap_or_default()
            );
            Ended::Failed
        }
    }
}

enum View {
    Bar(ProgressBar),
    Plain { last: String },
    Documents { last: Option<Value> },
}

impl View {
    fn new(output: &Output, style: Style) -> Self {
        if style == Style::Lines && output.is_json() {
            return Self::Documents { last: None };
        }
        if !output.is_json() && std::io::stderr().is_terminal() {
            let bar = ProgressBar::no_length();
            let template = "{spinner} {msg}  {wide_bar} {bytes}/{total_bytes}  {binary_bytes_per_sec}  {eta}";
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style);
            }
            return Self::Bar(bar);
        }
        Self::Plain { last: String::new() }
    }

    fn show(&mut self, output: &Output, job: &JobEntry, document: &Value) -> Result<()> {
        let Progress { phase, done, total } = Progress::of(job);
        match self {
            Self::Bar(bar) => {
                if let Some(total) = total {
                    bar.set_length(total);
                }
                bar.set_position(done);
                bar.set_message(phase);
                bar.tick();
            }
            Self::Plain { last } => {
                let amount =
                    total.map(|total| format!(" {} of {}", size(done), size(total))).unwrap_or_default();
                let line = format!("{} {}: {phase}{amount}", job.kind, job.status);
                if *last != line {
                    eprintln!("{line}");
                    *last = line;
                }
            }
            Self::Documents { last } => {
                if last.as_ref() != Some(document) {
                    output.json_line(document)?;
                    *last = Some(document.clone());
                }
            }
        }
        Ok(())
    }

    fn finish(&self) {
        if let Self::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}

/// What the kinds of jobs tell of themselves, under one roof.
struct Progress {
    phase: String,
    done: u64,
    total: Option<u64>,
}

impl Progress {
    fn of(job: &JobEntry) -> Self {
        let number = |key: &str| job.progress.get(key).and_then(Value::as_u64);
        let phase = job.progress.get("phase").and_then(Value::as_str).unwrap_or(&job.status).to_owned();
        let (done, total) = match (number("planned_bytes"), number("capacity_bytes"), phase.as_str()) {
            (Some(planned), ..) => (number("read_bytes"), Some(planned)),
            (None, Some(capacity), _) => (number("written_bytes"), Some(capacity)),
            (None, None, "checking") => (number("checked_bytes"), number("source_bytes")),
            (None, None, "merging") => {
                let made = number("written_bytes").unwrap_or(0) + number("shared_bytes").unwrap_or(0);
                (Some(made), number("expected_bytes"))
            }
            (None, None, _) => (None, None),
        };
        Self { phase, done: done.unwrap_or(0), total: total.filter(|total| *total > 0) }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn job(status: &str, progress: Value, warnings: &[&str]) -> JobEntry {
        serde_json::from_value(json!({
            "job_id": "1", "kind": "backup", "status": status, "request": {}, "progress": progress,
            "result": null, "error": {"kind": "denied", "message": "no grant"}, "warnings": warnings,
            "cancel_requested": false, "host": null, "created_at": "t", "started_at": null, "ended_at": null,
        }))
        .unwrap()
    }

    #[test]
    fn the_end_decides_the_exit_code() {
        let output = Output::new(false);
        assert_eq!(conclude(&output, &job("succeeded", json!({}), &[])), Ended::Done);
        assert_eq!(
            conclude(&output, &job("succeeded", json!({}), &["a disk is not protected"])),
            Ended::Warnings
        );
        assert_eq!(conclude(&output, &job("failed", json!({}), &[])), Ended::Failed);
        assert_eq!(conclude(&output, &job("cancelled", json!({}), &[])), Ended::Failed);
    }

    #[test]
    fn progress_is_read_from_each_kind() {
        let moving = json!({"phase": "moving", "planned_bytes": 10, "read_bytes": 4});
        let Progress { phase, done, total } = Progress::of(&job("running", moving, &[]));
        assert_eq!((phase.as_str(), done, total), ("moving", 4, Some(10)));
        let waiting = Progress::of(&job("queued", json!({}), &[]));
        assert_eq!((waiting.phase.as_str(), waiting.total), ("queued", None));
    }
}
