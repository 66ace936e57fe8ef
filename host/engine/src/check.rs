//! Compares a repository with the catalog, both ways, and reports; deletes only what nobody can need, and only when
//! an administrator said so.
//!
//! ```text
//! list the repository ▶ steps of running jobs ▶ rows of the catalog ▶ rows against objects ▶ objects against rows
//!                                                                                           ▶ (delete garbage)
//! ```
//! The order is what makes it right beside running jobs: whoever made an object that is listed had recorded it
//! before, and is either still running (its steps name it) or has committed it by the time the rows are read.
//! An import of the same repository never runs at the same time.

mod compare;
mod garbage;
mod rows;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tidemark_catalog::{Backup, BackupFilter, Job, PageRequest, Repository};
use tidemark_model::{BackupId, ByteLen, JobKind};

use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::queue::JobContext;
use crate::requests::CheckPayload;
use crate::store::ObjectStore;

/// Findings in a job's result; the rest is only counted.
const SHOWN: usize = 1000;

impl Engine {
    /// Queues the check of a repository. Garbage that is older than `grace_hours` is deleted where `delete` says so.
    ///
    /// # Errors
    /// Not found.
    pub async fn submit_check(
        &self,
        actor: &str,
        repository: &str,
        delete: bool,
        grace_hours: u32,
        idempotency_key: Option<String>,
    ) -> Result<Job> {
        let repository = self.repository(repository).await?;
        let payload = CheckPayload { repository_id: repository.id.to_string(), delete, grace_hours };
        // The same key as an import's, which may make backups of what is garbage until then.
        let exclusive = Some(format!("import:{}", repository.id));
        let job = self.shared.submit(JobKind::CheckRepository, &payload, exclusive, idempotency_key).await?;
        let detail = json!({ "delete": delete, "grace_hours": grace_hours });
        self.shared.audit(actor, "repository.check", &repository.name, detail).await;
        Ok(job)
    }
}

/// What is wrong with one object.
#[derive(Debug)]
struct Finding {
    /// A stable word.
    kind: &'static str,
    object_key: String,
    size: Option<ByteLen>,
    /// Whose object it is, where the catalog or a manifest says so.
    backup: Option<BackupId>,
    disk_index: Option<u32>,
    /// Backups that cannot be restored because of it.
    affected: Vec<BackupId>,
    message: String,
    deleted: bool,
}

impl Finding {
    fn new(kind: &'static str, object_key: &str, message: impl Into<String>) -> Self {
        Self {
            kind,
            object_key: object_key.to_owned(),
            size: None,
            backup: None,
            disk_index: None,
            affected: Vec::new(),
            message: message.into(),
            deleted: false,
        }
    }
}

/// Everything that is compared.
struct Check<'a> {
    job: &'a Arc<JobContext>,
    repository: Repository,
    store: ObjectStore,
    delete: bool,
    grace: Duration,
    sizes: HashMap<String, ByteLen>,
    unfinished: Vec<String>,
    /// Objects that steps of running jobs name.
    busy: HashSet<String>,
    rows: Vec<Backup>,
    doomed: HashSet<String>,
    findings: Vec<Finding>,
    /// Files of others, which are nobody's business.
    others: u64,
}

/// Runs a check.
pub(crate) async fn run(job: &Arc<JobContext>) -> Result<Value> {
    let payload: CheckPayload = job.payload()?;
    let mut check = Check::open(job, &payload).await?;
    check.refuse_wrong_place()?;
    check.compare_rows().await?;
    check.compare_objects().await?;
    Ok(check.result())
}

impl<'a> Check<'a> {
    async fn open(job: &'a Arc<JobContext>, payload: &CheckPayload) -> Result<Self> {
        let CheckPayload { repository_id, delete, grace_hours } = payload;
        let id = repository_id.parse().map_err(|e| Error::damaged(format!("{e}")))?;
        let repository = job.shared.catalog.repository(id).await?;
        let (mut store, _) = ObjectStore::open(&job.shared, &repository, &job.job, None).await?;
        job.phase("listing the repository");
        let survey = store.survey().await?;
        let busy = busy(job).await?;
        job.phase("reading the catalog");
        let rows = rows(job, &repository).await?;
        let doomed = job.shared.catalog.doomed_objects(repository.id).await?;
        Ok(Self {
            job,
            repository,
            store,
            delete: *delete,
            grace: Duration::from_secs(u64::from(*grace_hours) * 3600),
            sizes: survey.objects.into_iter().collect(),
            unfinished: survey.unfinished,
            busy,
            rows,
            doomed: doomed.into_iter().map(|object| object.object_key).collect(),
            findings: Vec::new(),
            others: 0,
        })
    }

    /// A folder that holds nothing of what is known is another one: nobody is judged by it.
    fn refuse_wrong_place(&self) -> Result<()> {
        let here = |backup: &Backup| compare::keys_of(backup).any(|key| self.sizes.contains_key(key));
        if self.rows.is_empty() || self.rows.iter().any(here) {
            return Ok(());
        }
        Err(Error::damaged(format!(
            "not one object of the {} backups in repository '{}' is there; is it the right place?",
            self.rows.len(),
            self.repository.name
        )))
    }

    fn result(self) -> Value {
        let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
        for finding in &self.findings {
            *counts.entry(finding.kind).or_default() += 1;
        }
        let words: Vec<String> = counts.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
        let warnings: Vec<String> = match words.is_empty() {
            true => Vec::new(),
            false => vec![format!("repository '{}': {}", self.repository.name, words.join(", "))],
        };
        let deleted = self.findings.iter().filter(|finding| finding.deleted);
        let freed: u64 = deleted.clone().filter_map(|finding| finding.size).map(|size| size.0).sum();
        let staged = self.rows.iter().filter(|backup| is_staged(backup)).count();
        json!({
            "repository": self.repository.name,
            "backups": self.rows.len(),
            "objects": self.sizes.len(),
            "stored_bytes": self.sizes.values().map(|size| size.0).sum::<u64>(),
            "other_files": self.others,
            "doomed_objects": self.doomed.len(),
            "staged_backups": staged,
            "counts": counts,
            "findings_total": self.findings.len(),
            "deleted_objects": deleted.count(),
            "freed_bytes": freed,
            "findings": self.findings.iter().take(SHOWN).map(finding_json).collect::<Vec<_>>(),
            "warnings": warnings,
        })
    }
}

fn finding_json(finding: &Finding) -> Value {
    let Finding { kind, object_key, size, backup, disk_index, affected, message, deleted } = finding;
    json!({
        "kind": kind,
        "object_key": object_key,
        "size_bytes": size.map(|size| size.0),
        "backup_id": backup.map(|id| id.to_string()),
        "disk_index": disk_index,
        "affected_backups": affected.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "message": message,
        "deleted": deleted,
    })
}

fn is_staged(backup: &Backup) -> bool {
    backup.staged_manifest_key.is_some() || backup.disks.iter().any(|disk| disk.staged_key.is_some())
}

/// What jobs of any host that are not ended may have made, or are about to.
async fn busy(job: &JobContext) -> Result<HashSet<String>> {
    let mut busy = HashSet::new();
    for other in job.shared.jobs_in_progress().await? {
        for step in job.shared.catalog.steps(other.id).await? {
            let detail = serde_json::from_str(&step.detail_json)
                .map_err(|e| Error::damaged(format!("a step of job {} cannot be read: {e}", other.id)))?;
            compare::keys_in(&detail, &mut busy);
        }
    }
    Ok(busy)
}

async fn rows(job: &JobContext, repository: &Repository) -> Result<Vec<Backup>> {
    let filter = BackupFilter { repository_id: Some(repository.id), ..BackupFilter::default() };
    let mut request = PageRequest { limit: 1000, cursor: None };
    let mut rows = Vec::new();
    loop {
        let page = job.shared.catalog.list_backups(&filter, &request).await?;
        rows.extend(page.items);
        match page.next {
            Some(next) => request.cursor = Some(next),
            None => return Ok(rows),
        }
    }
}
