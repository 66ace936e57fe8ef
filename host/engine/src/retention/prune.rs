//! The job that lets retention decide for every VM of one repository. VMs are looked at a page at a time, so that a
//! million backups need no more memory than one VM's.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::{StreamExt as _, stream};
use serde_json::{Value, json};
use tidemark_catalog::{Job, Repository};
use tidemark_model::{JobKind, RepositoryId, VmId};

use super::cover::Covers;
use super::{VmRetention, decide, enforce};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::queue::JobContext;
use crate::requests::{Asked, PrunePayload};

/// VMs looked up at a time.
const PAGE: u32 = 200;
/// VMs decided about at a time: one is read from the catalog while a policy is asked about another.
const AT_ONCE: usize = 4;
/// Alerts in the result.
const TOLD: usize = 500;
/// Backups told one by one in the result, about: the sums are of all, and a million would not fit.
const TOLD_BACKUPS: usize = 5_000;

impl Engine {
    /// Queues retention in a repository. A dry run only tells what would become of each backup.
    ///
    /// # Errors
    /// Not found.
    pub async fn submit_prune(
        &self,
        actor: &str,
        repository: &str,
        dry_run: bool,
        idempotency_key: Option<String>,
    ) -> Result<Job> {
        let repository = self.repository(repository).await?;
        let payload =
            PrunePayload { repository_id: repository.id.to_string(), dry_run, actor: actor.to_owned() };
        let exclusive = (!dry_run).then(|| format!("prune:{}", repository.id));
        let job = self.shared.submit(JobKind::Prune, &payload, exclusive, idempotency_key).await?;
        let detail = json!({ "dry_run": dry_run, "job_id": job.id.to_string() });
        self.shared.audit(actor, "prune.run", &repository.name, detail).await;
        Ok(job)
    }

    /// Lets marked backups go that wait for an administrator. Answers with how many that were.
    ///
    /// # Errors
    /// Not found.
    pub async fn approve_marks(&self, actor: &str, repository: &str, vm: Option<&str>) -> Result<u64> {
        let repository = self.repository(repository).await?;
        let vm = match vm {
            Some(vm) => Some(self.vm(vm).await?),
            None => None,
        };
        let vm_id = vm.as_ref().map(|vm| vm.id);
        let approved = self.catalog().approve_marks(repository.id, vm_id, actor).await?;
        let detail = json!({ "backups": approved, "vm": vm.map(|vm| vm.name) });
        self.shared.audit(actor, "prune.approve", &repository.name, detail).await;
        Ok(approved)
    }
}

/// Sums over all VMs.
#[derive(Default)]
struct Tally {
    vms: u64,
    kept: u64,
    may_go: u64,
    queued: u64,
    alerts: Vec<String>,
    told: Vec<Value>,
    told_backups: usize,
    jobs: Vec<String>,
}

impl Tally {
    fn add(&mut self, decided: &VmRetention, job: Option<&Job>) {
        self.vms += 1;
        self.kept += decided.kept.len() as u64;
        self.may_go += decided.dropped.len() as u64;
        self.queued += decided.due.len() as u64;
        let room = TOLD.saturating_sub(self.alerts.len());
        let alerts = decided.alerts.iter().map(|alert| format!("{}: {alert}", decided.vm_name));
        self.alerts.extend(alerts.take(room));
        if self.told_backups < TOLD_BACKUPS {
            self.told_backups += decided.kept.len() + decided.dropped.len();
            self.told.push(decided.to_json());
        }
        self.jobs.extend(job.map(|job| job.id.to_string()));
    }

    fn to_json(&self, dry_run: bool) -> Value {
        json!({
            "dry_run": dry_run,
            "vms": self.vms,
            "kept": self.kept,
            "may_go": self.may_go,
            "queued_for_deletion": self.queued,
            "deletion_jobs": self.jobs,
            "decisions": self.told,
            "warnings": self.alerts,
        })
    }
}

/// Runs a prune job.
pub(crate) async fn run(job: &Arc<JobContext>) -> Result<Value> {
    let PrunePayload { repository_id, dry_run, actor } = job.payload()?;
    let id: RepositoryId = repository_id.parse().map_err(|e| Error::damaged(format!("{e}")))?;
    let shared = &job.shared;
    let repository = shared.catalog.repository(id).await?;
    let covers = Covers::of(shared, &repository).await?;
    let mut tally = Tally::default();
    let mut after = None;
    job.phase("deciding");
    loop {
        let page = shared.catalog.vms_in_repository(id, after, PAGE).await?;
        let Some(last) = page.last().copied() else { break };
        let stop = &AtomicBool::new(false);
        let looks =
            stream::iter(page).map(|vm_id| one(job, &repository, &covers, &actor, vm_id, dry_run, stop));
        let mut looks = looks.buffered(AT_ONCE);
        let mut failed = None;
        // Those that are under way are never broken off in the middle of what they carry out.
        while let Some(looked) = looks.next().await {
            match looked {
                Ok((decided, deletion)) => tally.add(&decided, deletion.as_ref()),
                Err(error) => {
                    stop.store(true, Ordering::Relaxed);
                    failed.get_or_insert(error);
                }
            }
        }
        if let Some(error) = failed {
            return Err(error);
        }
        after = Some(last);
    }
    Ok(tally.to_json(dry_run))
}

async fn one(
    job: &Arc<JobContext>,
    repository: &Repository,
    covers: &Covers,
    actor: &str,
    vm_id: VmId,
    dry_run: bool,
    stop: &AtomicBool,
) -> Result<(VmRetention, Option<Job>)> {
    job.check_cancelled()?;
    if stop.load(Ordering::Relaxed) {
        return Err(Error::cancelled());
    }
    let shared = &job.shared;
    let vm = shared.catalog.vm(vm_id).await?;
    let cover = covers.of_vm(&vm);
    if !dry_run && cover.rules.is_empty() {
        // Nobody lets anything go any more: a later policy begins anew.
        shared.catalog.set_marks(vm.id, repository.id, &[]).await?;
    }
    if dry_run || cover.rules.is_empty() {
        let decided = decide(shared, &vm, repository, &cover, shared.clock.now()).await?;
        return Ok((decided, None));
    }
    let key = Some(format!("retention/{}", job.job.id));
    let asked = Asked { actor, idempotency_key: key, ..Asked::default() };
    enforce(shared, asked, &vm, repository, &cover).await
}
