//! The engine's handle: starts and stops the host's work and gives every operation its entrance.
//!
//! Start-up order matters: catalog, key, runtime, first-party plugins, then recovery of what a dead process of this
//! host left, and only then the workers.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use serde_json::{Value, json};
use tidemark_catalog::{AuditEntry, Catalog, Job, JobFilter, NewJob, PageRequest, WorkKind};
use tidemark_model::{JobId, JobKind, JobState, UtcMillis};
use tidemark_notify::{MailSettings, Mailer};
use tidemark_qcow2::Compression;
use tokio::sync::{Semaphore, broadcast, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result, is_bad_medium};
use crate::export::MAX_EXPORTS;
use crate::mounts::Mounts;
use crate::mover::MoveTuning;
use crate::plugins::{PluginHost, PluginOptions};
use crate::queue::Wake;
use crate::requests::{Asked, Event};
use crate::secrets::SecretBox;
use crate::slots::DiskSlots;
use crate::source::SourceOptions;
use crate::step::Step;
use crate::throttle::Throttles;
use crate::{connections, flows, mounts, queue, recovery, tokens};

/// How many events a slow listener may lag behind.
const EVENTS: usize = 1024;
/// How many audit lines may wait to be written.
const AUDIT_QUEUE: usize = 4096;
/// Jobs at a time that only wait for others, such as runs of flows: they cost little while they wait, for hours where
/// a window is closed.
const WAITING_JOBS: usize = 512;
/// How long the running jobs may take to clean up when the host stops.
const STOP_LIMIT: Duration = Duration::from_secs(60);

/// How a host works.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    /// Where the embedded catalog, the key, tokens, plugins and caches live.
    pub data_dir: PathBuf,
    /// The catalog; the embedded one below the data folder where none is given.
    pub database_url: Option<String>,
    /// First-party plugins, and whom to believe of others.
    pub plugins: PluginOptions,
    /// This host's name among those that share a catalog; made and kept in the data folder where none is given.
    pub owner: Option<String>,
    /// How much at once.
    pub limits: Limits,
    /// Through which mail is sent; none sends none.
    pub mail: Option<MailSettings>,
    /// By which schedules fire and backups age.
    pub clock: Clock,
    /// For tests: the process aborts right after this step was recorded.
    pub abort_at_step: Option<String>,
}

/// How much work at once.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Jobs of this host.
    pub jobs: usize,
    /// Disks that are moved at the same time, over all jobs.
    pub disks: usize,
    /// Reads in flight a disk.
    pub reads: usize,
    /// Encoding threads a disk.
    pub encoders: usize,
    /// The zstd level of stored clusters; none stores them as they are.
    pub zstd_level: Option<i32>,
    /// How many links a chain may have.
    pub max_chain_depth: usize,
    /// What happens then.
    pub at_max_chain_depth: AtMaxDepth,
    /// How often a lost source connection is tried again.
    pub source_attempts: u32,
    /// Of each incremental, how many of a hundred clusters that the hypervisor calls unchanged are compared; 0 for none.
    pub audit_percent: f64,
    /// How long a mount is kept that nobody asks for anything.
    pub mount_idle: Duration,
    /// Where `nbdkit` is.
    pub nbdkit: Option<PathBuf>,
    /// The folder of VMware's VDDK.
    pub vddk_libdir: Option<PathBuf>,
}

/// What happens when a chain has as many links as it may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AtMaxDepth {
    /// The next backup is a full that reads the guest.
    Full,
    /// The newest backup is made a full by merging what it needs into it; the guest is not read.
    SyntheticFull,
}

impl Limits {
    /// The links of a chain from which on only a full follows. Where fulls are synthetic, the chain may grow while one
    /// waits or fails, but not without end.
    pub(crate) fn full_at_depth(&self) -> usize {
        let most = self.max_chain_depth.max(1);
        match self.at_max_chain_depth {
            AtMaxDepth::Full => most,
            AtMaxDepth::SyntheticFull => most.saturating_mul(2),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        Self {
            jobs: 4,
            disks: 4,
            reads: 16,
            encoders: cores,
            zstd_level: Some(1),
            max_chain_depth: 30,
            at_max_chain_depth: AtMaxDepth::Full,
            source_attempts: 6,
            audit_percent: 0.1,
            mount_idle: Duration::from_secs(3600),
            nbdkit: None,
            vddk_libdir: None,
        }
    }
}

/// A running host. Clones share it.
#[derive(Clone)]
pub struct Engine {
    pub(crate) shared: Arc<Shared>,
}

/// A job that runs in this process.
struct Running {
    cancel: CancellationToken,
    lease_lost: Arc<AtomicBool>,
}

/// What all of the engine's code has at hand.
pub(crate) struct Shared {
    pub(crate) catalog: Catalog,
    pub(crate) plugins: PluginHost,
    pub(crate) secrets: SecretBox,
    pub(crate) owner: String,
    /// In every snapshot's name: whose it is.
    pub(crate) installation: String,
    pub(crate) limits: Limits,
    pub(crate) mail: Option<Arc<Mailer>>,
    pub(crate) clock: Clock,
    pub(crate) disk_slots: DiskSlots,
    pub(crate) throttles: Throttles,
    pub(crate) export_slots: Arc<Semaphore>,
    pub(crate) mounts: Mounts,
    pub(crate) shutdown: CancellationToken,
    pub(crate) wake: Wake,
    abort_at_step: Option<String>,
    running: Mutex<HashMap<JobId, Running>>,
    events: broadcast::Sender<Event>,
    pub(crate) tasks: TaskTracker,
}

impl Engine {
    /// Opens everything, installs the first-party plugins, recovers what a dead process left, and starts to work.
    ///
    /// # Errors
    /// Where the data folder, the catalog or the key cannot be used; recovery itself never stops the start.
    pub fn start(options: EngineOptions) -> BoxFuture<'static, Result<Self>> {
        // Boxed here, as an `async fn` is compiled where it is awaited: all that runs in the background, in every program.
        Box::pin(Self::opened(options))
    }

    async fn opened(options: EngineOptions) -> Result<Self> {
        let EngineOptions { data_dir, database_url, plugins, owner, limits, mail, clock, abort_at_step } =
            options;
        std::fs::create_dir_all(&data_dir)
            .map_err(|e| Error::io(format!("creating {}", data_dir.display()), e))?;
        let url = match database_url {
            Some(url) => url,
            None => embedded_url(&data_dir)?,
        };
        let catalog = Catalog::open(&url).await?;
        let (audit, audit_lines) = mpsc::channel(AUDIT_QUEUE);
        let first_party = plugins.dir.clone();
        let shared = Arc::new(Shared {
            secrets: SecretBox::open(&data_dir)?,
            plugins: PluginHost::open(&data_dir, catalog.clone(), plugins, audit)?,
            installation: kept_name(&data_dir, "installation", 8)?,
            owner: match owner {
                Some(owner) => owner,
                None => kept_name(&data_dir, "host", 8).map(|name| format!("host-{name}"))?,
            },
            catalog,
            disk_slots: DiskSlots::new(limits.disks),
            throttles: Throttles::default(),
            export_slots: Arc::new(Semaphore::new(MAX_EXPORTS)),
            mounts: Mounts::default(),
            limits,
            mail: mail
                .map(Mailer::new)
                .transpose()
                .map_err(|e| Error::invalid(format!("[smtp]: {e}")))?
                .map(Arc::new),
            clock,
            abort_at_step,
            shutdown: CancellationToken::new(),
            wake: Wake::default(),
            running: Mutex::default(),
            events: broadcast::channel(EVENTS).0,
            tasks: TaskTracker::new(),
        });
        tokens::ensure_admin(&shared.catalog, &data_dir).await?;
        if let Some(dir) = first_party {
            shared.plugins.install_first_party(&dir).await?;
        }
        shared.tasks.spawn(write_audit(shared.catalog.clone(), audit_lines, shared.shutdown.clone()));
        let abandoned =
            shared.catalog.claim_abandoned(&shared.owner, queue::LEASE_MS, UtcMillis::now()).await?;
        for (job, lease) in abandoned {
            shared.tasks.spawn(recovery::recover(Arc::clone(&shared), job, lease));
        }
        shared.tasks.spawn(recovery::watch(Arc::clone(&shared)));
        shared.tasks.spawn(connections::watch_bounds(Arc::clone(&shared)));
        shared.tasks.spawn(flows::watch(Arc::clone(&shared)));
        shared.tasks.spawn(mounts::watch(Arc::clone(&shared)));
        let jobs = shared.limits.jobs.max(1);
        for (kind, at_once) in [(WorkKind::Work, jobs), (WorkKind::Waiting, WAITING_JOBS)] {
            shared.tasks.spawn(queue::work(Arc::clone(&shared), kind, at_once));
        }
        Ok(Self { shared })
    }

    /// Stops claiming, lets running jobs clean up (they end as failed and may be run again), closes the catalog.
    pub async fn shutdown(&self) {
        self.shared.shutdown.cancel();
        self.shared.wake.all();
        self.shared.tasks.close();
        if tokio::time::timeout(STOP_LIMIT, self.shared.tasks.wait()).await.is_err() {
            tracing::warn!("jobs did not end in time; the next start cleans up after them");
        }
        self.shared.catalog.close().await;
    }

    /// This moment by the clock of schedules and ages.
    #[must_use]
    pub fn now(&self) -> UtcMillis {
        self.shared.clock.now()
    }

    /// The catalog, for reading.
    #[must_use]
    pub fn catalog(&self) -> &Catalog {
        &self.shared.catalog
    }

    /// What happens from now on. A listener that lags loses the oldest events.
    #[must_use]
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.shared.events.subscribe()
    }

    /// Asks for a job's end.
    ///
    /// # Errors
    /// Not found; conflict where it has ended.
    pub async fn cancel_job(&self, actor: &str, id: JobId) -> Result<()> {
        let job = self.shared.cancel(id).await?;
        self.shared.audit(actor, "job.cancel", &id.to_string(), json!({ "kind": job.kind.as_str() })).await;
        Ok(())
    }
}

impl Shared {
    /// Asks for a job's end; one that runs here learns it at once.
    pub(crate) async fn cancel(&self, id: JobId) -> Result<Job> {
        let job = self.catalog.request_cancel(id, UtcMillis::now()).await?;
        if let Some(running) = self.running().get(&id) {
            running.cancel.cancel();
        }
        Ok(job)
    }

    /// Records a step before its effect.
    pub(crate) async fn record(&self, lease: &tidemark_catalog::Lease, step: &Step) -> Result<()> {
        self.catalog.record_step(lease, step.name(), &step.to_json()?, UtcMillis::now()).await?;
        if self.abort_at_step.as_deref() == Some(step.name()) {
            tracing::error!(step = step.name(), "aborting here, as the fail point asks");
            std::process::abort();
        }
        Ok(())
    }

    /// Queues a job and wakes a worker.
    pub(crate) async fn submit(
        &self,
        kind: JobKind,
        payload: &impl serde::Serialize,
        exclusive_key: Option<String>,
        idempotency_key: Option<String>,
    ) -> Result<Job> {
        let asked = Asked { idempotency_key, ..Asked::default() };
        self.submit_as(&asked, kind, payload, exclusive_key).await
    }

    /// The same with a priority.
    pub(crate) async fn submit_as(
        &self,
        asked: &Asked<'_>,
        kind: JobKind,
        payload: &impl serde::Serialize,
        exclusive_key: Option<String>,
    ) -> Result<Job> {
        let Asked { actor: _, priority, idempotency_key } = asked.clone();
        let payload_json =
            serde_json::to_string(payload).map_err(|e| Error::internal(format!("writing a payload: {e}")))?;
        let new = NewJob { kind, payload_json, exclusive_key, idempotency_key, priority };
        let job = self.catalog.submit_job(&new, UtcMillis::now()).await?;
        // The same request again answers with the first job, which may be far ahead.
        if job.state == JobState::Queued {
            self.emit("job-queued", &job, json!({}));
            self.wake.all();
        }
        Ok(job)
    }

    /// The jobs that wait or run, here or on another host.
    pub(crate) async fn jobs_in_progress(&self) -> Result<Vec<Job>> {
        let mut jobs = Vec::new();
        for state in [JobState::Queued, JobState::Running] {
            let filter = JobFilter { state: Some(state), kind: None };
            let mut request = PageRequest { limit: 1000, cursor: None };
            loop {
                let page = self.catalog.list_jobs(&filter, &request).await?;
                jobs.extend(page.items);
                match page.next {
                    Some(next) => request.cursor = Some(next),
                    None => break,
                }
            }
        }
        Ok(jobs)
    }

    /// A job that is not undone yet needs what it names: its VM, its repository.
    pub(crate) async fn refuse_while_used(&self, id: &str, what: &str) -> Result<()> {
        match self.jobs_in_progress().await?.iter().find(|job| job.payload_json.contains(id)) {
            Some(job) => Err(Error::new(ErrorKind::Conflict, format!("{what} is in use by job {}", job.id))),
            None => Ok(()),
        }
    }

    pub(crate) fn emit(&self, kind: &'static str, job: &Job, mut payload: Value) {
        if let Value::Object(fields) = &mut payload {
            fields.insert("job_kind".to_owned(), json!(job.kind.as_str()));
        }
        // Nobody listening is no error.
        let _ = self.events.send(Event { at: UtcMillis::now(), kind, job_id: Some(job.id), payload });
    }

    /// Writes a line of the audit trail; an unwritable trail is logged, as the deed is done.
    pub(crate) async fn audit(&self, actor: &str, action: &str, target: &str, detail: Value) {
        let entry = AuditEntry {
            at: UtcMillis::now(),
            actor: actor.to_owned(),
            action: action.to_owned(),
            target: target.to_owned(),
            outcome: "ok".to_owned(),
            detail_json: detail.to_string(),
        };
        if let Err(error) = self.catalog.append_audit(&entry).await {
            tracing::error!(action, target, error = %Error::from(error).chain(), "the audit line is lost");
        }
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.shutdown.is_cancelled()
    }

    pub(crate) fn register(&self, id: JobId, cancel: CancellationToken, lease_lost: Arc<AtomicBool>) {
        self.running().insert(id, Running { cancel, lease_lost });
    }

    /// What stops a job of this process; for one that is only undone, the host's stop.
    pub(crate) fn stop_of(&self, id: JobId) -> CancellationToken {
        let running = self.running().get(&id).map(|running| running.cancel.clone());
        running.unwrap_or_else(|| self.shutdown.child_token())
    }

    /// Cancels a job that runs in this process under a lease that it lost, and waits for its end.
    pub(crate) async fn stop_running(&self, id: JobId) {
        loop {
            match self.running().get(&id) {
                Some(running) => {
                    running.lease_lost.store(true, Ordering::Relaxed);
                    running.cancel.cancel();
                }
                None => return,
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    pub(crate) fn unregister(&self, id: JobId) {
        self.running().remove(&id);
    }

    fn running(&self) -> std::sync::MutexGuard<'_, HashMap<JobId, Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn compression(&self) -> Compression {
        self.limits.zstd_level.map_or(Compression::None, |level| Compression::Zstd { level })
    }

    pub(crate) fn tuning(&self) -> MoveTuning {
        MoveTuning { reads: self.limits.reads.max(1), encoders: self.limits.encoders.max(1) }
    }

    pub(crate) fn source_options(&self) -> SourceOptions {
        let mut options = SourceOptions::default();
        options.reconnect.attempts = self.limits.source_attempts;
        if let Some(nbdkit) = &self.limits.nbdkit {
            options.vddk.nbdkit.clone_from(nbdkit);
        }
        options.vddk.libdir.clone_from(&self.limits.vddk_libdir);
        options
    }
}

/// Writes what plugins were refused; when the host stops, what waits is still written.
async fn write_audit(catalog: Catalog, mut lines: mpsc::Receiver<AuditEntry>, shutdown: CancellationToken) {
    loop {
        let entry = tokio::select! {
            biased;
            entry = lines.recv() => entry,
            () = shutdown.cancelled(), if !lines.is_closed() => {
                lines.close();
                continue;
            }
        };
        let Some(entry) = entry else { return };
        if let Err(error) = catalog.append_audit(&entry).await {
            tracing::error!(action = entry.action, error = %Error::from(error).chain(), "the audit line is lost");
        }
    }
}

fn embedded_url(data_dir: &Path) -> Result<String> {
    let absolute = std::path::absolute(data_dir)
        .map_err(|e| Error::io(format!("the data folder {}", data_dir.display()), e))?;
    let path = absolute.join("catalog.db");
    let text = path.to_str().ok_or_else(|| Error::invalid("the data folder's name is not UTF-8"))?;
    Ok(format!("sqlite://{text}"))
}

/// A random name of `bytes` bytes in hexadecimal, made once and kept in the data folder.
fn kept_name(data_dir: &Path, what: &str, bytes: usize) -> Result<String> {
    let path = data_dir.join(format!("{what}.id"));
    match std::fs::read_to_string(&path) {
        Ok(text) if !text.trim().is_empty() => Ok(text.trim().to_owned()),
        Ok(_) => Err(Error::new(ErrorKind::Damaged, format!("{} is empty; remove it", path.display()))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let name = hex::encode(&rand::random::<[u8; 16]>()[..bytes.min(16)]);
            crate::secrets::write_private(&path, &name)?;
            Ok(name)
        }
        Err(error) => Err(Error::io(path.display(), error)),
    }
}

impl From<tidemark_catalog::Error> for Error {
    fn from(error: tidemark_catalog::Error) -> Self {
        use tidemark_catalog::ErrorKind as Catalog;
        let kind = match error.kind() {
            Catalog::NotFound => ErrorKind::NotFound,
            Catalog::Conflict => ErrorKind::Conflict,
            Catalog::LeaseLost => ErrorKind::LeaseLost,
            Catalog::Unavailable => ErrorKind::Unavailable,
            Catalog::Corrupt => ErrorKind::Damaged,
            Catalog::Invalid => ErrorKind::Invalid,
        };
        let message = error.to_string();
        match kind {
            // The message says it all; the database's words below it mean nothing to a user.
            ErrorKind::NotFound | ErrorKind::Conflict | ErrorKind::Invalid => Self::new(kind, message),
            _ => Self::wrap(kind, &message, error),
        }
    }
}

impl From<tidemark_qcow2::Error> for Error {
    fn from(error: tidemark_qcow2::Error) -> Self {
        let message = error.to_string();
        // A share that is away for a moment has damaged nothing.
        let away = error.kind() == tidemark_qcow2::ErrorKind::Io && !is_bad_medium(&error);
        let kind = if away { ErrorKind::Unavailable } else { ErrorKind::Damaged };
        Self::wrap(kind, &message, error)
    }
}
