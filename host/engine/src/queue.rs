//! What this host works on: it claims jobs, keeps their leases alive, runs them and records how
//! they ended.
//!
//! A job whose cleaning up failed is not ended: its lease runs out, and [`crate::recovery`] tries again.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tidemark_catalog::{CancelRequested, Job, JobOutcome, Lease, WorkKind};
use tidemark_model::{JobKind, UtcMillis};
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument as _;

use crate::engine::Shared;
use crate::error::{Error, ErrorKind, Result};
use crate::{backup, check, delete, flows, import, merge, recovery, restore, retention, synthesize, verify};

/// How long a lease lasts without a heartbeat.
pub(crate) const LEASE_MS: i64 = 30_000;
const HEARTBEAT: Duration = Duration::from_secs(1);
const IDLE: Duration = Duration::from_secs(2);

/// One running job, as its code sees it.
pub(crate) struct JobContext {
    pub(crate) shared: Arc<Shared>,
    pub(crate) job: Job,
    pub(crate) lease: Lease,
    /// Fires when the job is to stop: on request, when the host stops, or when the lease is lost.
    pub(crate) cancel: CancellationToken,
    /// Whether that is because the lease is lost: then undoing is for whoever has it now.
    pub(crate) lease_lost: Arc<AtomicBool>,
    progress: Mutex<Box<dyn Fn() -> Value + Send + Sync>>,
}

impl JobContext {
    pub(crate) fn new(shared: Arc<Shared>, job: Job, lease: Lease) -> Self {
        let cancel = shared.shutdown.child_token();
        Self {
            shared,
            job,
            lease,
            cancel,
            lease_lost: Arc::default(),
            progress: Mutex::new(Box::new(|| json!({"phase": "starting"}))),
        }
    }

    /// How to find out how far the job is; asked once a second.
    pub(crate) fn report_with(&self, progress: impl Fn() -> Value + Send + Sync + 'static) {
        *self.progress.lock().unwrap_or_else(PoisonError::into_inner) = Box::new(progress);
    }

    /// Shows a phase without figures.
    pub(crate) fn phase(&self, phase: &'static str) {
        self.report_with(move || json!({ "phase": phase }));
    }

    pub(crate) fn progress(&self) -> Value {
        (self.progress.lock().unwrap_or_else(PoisonError::into_inner))()
    }

    pub(crate) fn payload<T: serde::de::DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_str(&self.job.payload_json)
            .map_err(|e| Error::damaged(format!("the payload of job {}: {e}", self.job.id)))
    }

    /// Whether it is to stop although nobody asked for its end: another host, or this one after its next start, goes on
    /// with it.
    pub(crate) fn is_interrupted(&self) -> bool {
        self.cancel.is_cancelled() && (self.shared.is_stopping() || self.lease_lost.load(Ordering::Relaxed))
    }

    /// An error where the job is to stop.
    pub(crate) fn check_cancelled(&self) -> Result<()> {
        if self.cancel.is_cancelled() { Err(Error::cancelled()) } else { Ok(()) }
    }
}

/// How a job's code ended.
pub(crate) struct Failure {
    pub(crate) error: Error,
    /// Whether everything it had begun is undone; if not, its recovery goes on later.
    pub(crate) clean: bool,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self { error, clean: true }
    }
}

/// Wakes those who claim jobs. A call while nobody waits is kept for the next who does.
#[derive(Default)]
pub(crate) struct Wake {
    work: Notify,
    waiting: Notify,
}

impl Wake {
    /// There may be a job to claim.
    pub(crate) fn all(&self) {
        self.work.notify_one();
        self.waiting.notify_one();
    }

    async fn wait(&self, kind: WorkKind) {
        match kind {
            WorkKind::Work => self.work.notified().await,
            WorkKind::Waiting => self.waiting.notified().await,
        }
    }
}

/// Claims jobs of a kind until the host stops, and runs so many of them at once, each in a task of its own.
pub(crate) async fn work(shared: Arc<Shared>, kind: WorkKind, at_once: usize) {
    let places = Arc::new(Semaphore::new(at_once));
    loop {
        let place = tokio::select! {
            place = Arc::clone(&places).acquire_owned() => place,
            () = shared.shutdown.cancelled() => return,
        };
        // Nobody closes the semaphore.
        let Ok(place) = place else { return };
        if shared.is_stopping() {
            return;
        }
        match shared.catalog.claim_job(kind, &shared.owner, LEASE_MS, UtcMillis::now()).await {
            Ok(Some((job, lease))) => {
                let running = run(Arc::clone(&shared), job, lease);
                shared.tasks.spawn(async move {
                    running.await;
                    drop(place);
                });
            }
            Ok(None) => wait_for_work(&shared, kind).await,
            Err(error) => {
                tracing::error!(error = %Error::from(error).chain(), "claiming a job failed");
                wait_for_work(&shared, kind).await;
            }
        }
    }
}

async fn wait_for_work(shared: &Shared, kind: WorkKind) {
    tokio::select! {
        () = shared.wake.wait(kind) => {}
        () = shared.shutdown.cancelled() => {}
        () = tokio::time::sleep(IDLE) => {}
    }
}

async fn run(shared: Arc<Shared>, job: Job, lease: Lease) {
    let span = tracing::info_span!("job", job_id = %job.id, kind = job.kind.as_str());
    let context = Arc::new(JobContext::new(shared, job, lease));
    context.shared.register(context.job.id, context.cancel.clone(), Arc::clone(&context.lease_lost));
    // A task of its own: a panic there ends this job, not the worker.
    let ended = match tokio::spawn(drive(Arc::clone(&context)).instrument(span.clone())).await {
        Ok(ended) => ended,
        Err(panic) => {
            Err(Failure { error: Error::internal(format!("the job's code panicked: {panic}")), clean: false })
        }
    };
    context.shared.unregister(context.job.id);
    span.in_scope(|| match &ended {
        Ok(_) => tracing::info!("job succeeded"),
        Err(failure) if failure.error.kind() == ErrorKind::Cancelled => tracing::info!("job cancelled"),
        Err(failure) => tracing::warn!(error = %failure.error.chain(), "job failed"),
    });
    finish(&context, ended).instrument(span).await;
    // Another job of the same VM may have waited for this one.
    context.shared.wake.all();
}

async fn drive(context: Arc<JobContext>) -> std::result::Result<Value, Failure> {
    context.shared.emit("job-started", &context.job, json!({}));
    let _beats = AbortOnDropHandle::new(tokio::spawn(heartbeat(Arc::clone(&context))));
    match context.job.kind {
        JobKind::Backup => backup::run(&context).await,
        JobKind::RestoreDisk => restore::run(&context).await.map_err(Failure::from),
        JobKind::Verify => verify::run(&context).await.map_err(Failure::from),
        JobKind::ImportRepository => import::run(&context).await.map_err(Failure::from),
        JobKind::DeleteBackup => delete::run(&context).await,
        JobKind::SynthesizeFull => synthesize::run(&context).await,
        JobKind::CheckRepository => check::run(&context).await.map_err(Failure::from),
        JobKind::CopyBackup => merge::run_copy(&context).await,
        JobKind::Prune => retention::run(&context).await.map_err(Failure::from),
        JobKind::RunFlow => flows::run(&context).await.map_err(Failure::from),
    }
}

/// Keeps the lease and carries progress out and the wish to cancel in.
async fn heartbeat(context: Arc<JobContext>) {
    let mut misses = 0;
    loop {
        tokio::time::sleep(HEARTBEAT).await;
        let progress = context.progress();
        let beat = context
            .shared
            .catalog
            .heartbeat(&context.lease, LEASE_MS, &progress.to_string(), UtcMillis::now())
            .await;
        match beat {
            Ok(CancelRequested(cancel)) => {
                misses = 0;
                if cancel {
                    context.cancel.cancel();
                }
                context.shared.emit("job-progress", &context.job, progress);
            }
            Err(error) => {
                misses += 1;
                let lost = Error::from(error);
                // A catalog that is away for a moment costs nothing; a lost lease ends the work at once.
                if lost.kind() == ErrorKind::LeaseLost || misses >= LEASE_MS / 1000 {
                    tracing::error!(error = %lost.chain(), "the job's lease is lost");
                    context.lease_lost.store(true, Ordering::Relaxed);
                    context.cancel.cancel();
                    return;
                }
            }
        }
    }
}

async fn finish(context: &JobContext, ended: std::result::Result<Value, Failure>) {
    if ended.is_err() && context.job.kind.waits_for_others() && context.shared.is_stopping() {
        return recovery::requeue(&context.shared, &context.job, &context.lease).await;
    }
    let outcome = match ended {
        Ok(result) => JobOutcome::Succeeded { result_json: result.to_string() },
        Err(Failure { clean: false, error }) => {
            tracing::warn!(error = %error.chain(), "the job's traces could not all be removed; recovery goes on");
            return;
        }
        Err(Failure { error, .. })
            if error.kind() == ErrorKind::Cancelled && !context.shared.is_stopping() =>
        {
            JobOutcome::Cancelled
        }
        Err(Failure { error, .. }) => JobOutcome::Failed { error_json: error_json(&error).to_string() },
    };
    // The last figures, which no heartbeat has carried yet; the job's end does not depend on them.
    let (progress, now) = (context.progress().to_string(), UtcMillis::now());
    if let Err(error) = context.shared.catalog.heartbeat(&context.lease, LEASE_MS, &progress, now).await {
        tracing::debug!(error = %error, "the last progress could not be recorded");
    }
    recovery::record_end(&context.shared, &context.job, &context.lease, outcome).await;
}

/// The error as a job carries it.
pub(crate) fn error_json(error: &Error) -> Value {
    let mut document = json!({ "kind": error.kind().as_str(), "message": error.chain() });
    if let (Some(detail), Some(fields)) = (error.detail(), document.as_object_mut()) {
        fields.insert("detail".to_owned(), detail.clone());
    }
    document
}
