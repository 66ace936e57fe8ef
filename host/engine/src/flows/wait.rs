//! Waiting for jobs that a run queued, and for its window.

use std::sync::Arc;
use std::time::Duration;

use tidemark_catalog::Job;
use tidemark_model::{JobId, JobState};
use tidemark_policy::{Window, Zone};

use crate::error::{Error, Result};
use crate::queue::JobContext;

/// The pauses between looks at a job: short at first, as small backups take less than a second.
const FIRST_LOOK: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// The job once it has ended. Where the run is to stop, the job is asked to as well.
pub(super) async fn for_job(run: &Arc<JobContext>, id: JobId) -> Result<Job> {
    let catalog = &run.shared.catalog;
    let mut pause = FIRST_LOOK;
    let mut asked = false;
    loop {
        let job = catalog.job(id).await?;
        if job.state.is_final() {
            return Ok(job);
        }
        if run.cancel.is_cancelled() {
            if run.is_interrupted() {
                // The job is looked for again when the run goes on, here or elsewhere.
                return Err(Error::cancelled());
            }
            if !asked {
                run.shared.cancel(id).await?;
                asked = true;
            }
        }
        let_pass(run, pause, asked).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

async fn let_pass(run: &JobContext, pause: Duration, asked: bool) {
    tokio::select! {
        () = tokio::time::sleep(pause) => {}
        () = run.cancel.cancelled(), if !asked => {}
    }
}

/// Waits for so long, by real time.
pub(super) async fn pause(run: &JobContext, pause: Duration) -> Result<()> {
    tokio::select! {
        () = tokio::time::sleep(pause) => Ok(()),
        () = run.cancel.cancelled() => Err(Error::cancelled()),
    }
}

/// Waits until the window is open, by the clock of schedules.
pub(super) async fn for_window(run: &JobContext, window: Option<Window>, zone: Zone) -> Result<()> {
    let Some(window) = window else { return Ok(()) };
    while !window.contains(run.shared.clock.now(), zone) {
        run.phase("waiting for the window to open");
        pause(run, LONGEST_PAUSE).await?;
    }
    Ok(())
}

/// Whether a job ended well; else why not.
pub(super) fn verdict(job: &Job) -> std::result::Result<(), (bool, String)> {
    match job.state {
        JobState::Succeeded => Ok(()),
        JobState::Cancelled => Err((false, "cancelled on request".to_owned())),
        _ => {
            let error: serde_json::Value = job
                .error_json
                .as_deref()
                .and_then(|text| serde_json::from_str(text).ok())
                .unwrap_or_default();
            let word = |name: &str| error.get(name).and_then(|word| word.as_str()).unwrap_or_default();
            // What is wrong with the request or the account does not become right by itself.
            let hopeless = ["invalid", "not-found", "auth", "denied"].contains(&word("kind"));
            Err((!hopeless, format!("{} ({})", word("message"), word("kind"))))
        }
    }
}
