//! Proves that a backup is good, at one of three levels, each of which does all that the one before does:
//!
//! ```text
//! quick   objects and manifest are there, have their size, are sound in structure and name the right backing file
//! full    every stored byte: images, range digests and manifests are what the catalog says they are
//! deep    every cluster of the guest in every object of the chain can be read and has its range digest
//! ```
//! What is damaged is named by disk and guest range. A backup is marked damaged where its own view shows the damage,
//! or where an object that it needs cannot be relied on at all; what an incremental overwrote does not count against
//! it. The next backup is a full as long as any link of the chain is marked.

mod blame;
mod chain_files;
mod finding;
mod inspect;
mod objects;
mod plan;
mod ranges;
mod reading;
mod scan;
#[cfg(test)]
mod tests;
mod tree;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};
use tidemark_catalog::{Backup, Job, StatusChanges, Verification};
use tidemark_model::{BackupId, JobKind, UtcMillis, VerifyLevel};

use crate::engine::{Engine, Shared};
use crate::error::{Error, Result};
use crate::queue::JobContext;
use crate::requests::{Asked, VerifyPayload};
use crate::store::ObjectStore;

pub use chain_files::{VerifyChainOptions, VerifyChainReport, verify_chain};

use finding::{Finding, NotCompared};

/// How often a chain that was merged while it was read is looked at again.
const ATTEMPTS: u32 = 3;
/// Findings told in one sentence; all of them are in the result.
const TOLD: usize = 8;

impl Engine {
    /// Queues the verification of a backup and of all it needs.
    ///
    /// # Errors
    /// Not found.
    pub async fn submit_verify(
        &self,
        actor: &str,
        id: BackupId,
        level: VerifyLevel,
        idempotency_key: Option<String>,
    ) -> Result<Job> {
        let asked = Asked { actor, idempotency_key, ..Asked::default() };
        self.shared.submit_verify(asked, id, level).await
    }
}

impl Shared {
    /// See [`Engine::submit_verify`].
    pub(crate) async fn submit_verify(
        &self,
        asked: Asked<'_>,
        id: BackupId,
        level: VerifyLevel,
    ) -> Result<Job> {
        self.catalog.backup(id).await?;
        let level = level.as_str();
        let payload = VerifyPayload { backup_id: id.to_string(), level: level.to_owned() };
        let job = self.submit_as(&asked, JobKind::Verify, &payload, None).await?;
        self.audit(asked.actor, "backup.verify", &id.to_string(), json!({ "level": level })).await;
        Ok(job)
    }
}

/// What was read, and what came of it.
#[derive(Default)]
struct Examined {
    findings: Vec<Finding>,
    objects: u64,
    stored_bytes: u64,
    compared_clusters: u64,
    not_compared: Vec<NotCompared>,
}

/// Runs a verify job. Damage fails the job and names everything found.
pub(crate) async fn run(job: &Arc<JobContext>) -> Result<Value> {
    let VerifyPayload { backup_id, level } = job.payload()?;
    let id: BackupId = backup_id.parse().map_err(|e| Error::damaged(format!("{e}")))?;
    let level: VerifyLevel = level.parse().map_err(|e| Error::damaged(format!("{e}")))?;
    for _ in 0..ATTEMPTS {
        let ancestry = job.shared.catalog.ancestry(id).await?;
        let newest = ancestry.last().ok_or_else(|| Error::internal("an empty ancestry"))?;
        let repository = job.shared.catalog.repository(newest.repository_id).await?;
        let (mut store, _) = ObjectStore::open(&job.shared, &repository, &job.job, None).await?;
        let mut examined = examine(job, &mut store, &ancestry, level).await?;
        if !examined.findings.is_empty() {
            job.phase("finding out whom it concerns");
            blame::find_affected(&job.shared, &mut store, &mut examined.findings).await?;
            // What a merge moved away meanwhile is no damage.
            if !same_objects(&job.shared.catalog.ancestry(id).await?, &ancestry) {
                tracing::info!("the chain was changed while it was verified; it is read again");
                continue;
            }
        }
        return conclude(job, id, &ancestry, level, &examined).await;
    }
    Err(Error::new(
        crate::ErrorKind::Conflict,
        "the chain was changed again and again while it was verified; verify it later",
    ))
}

async fn examine(
    job: &Arc<JobContext>,
    store: &mut ObjectStore,
    ancestry: &[Backup],
    level: VerifyLevel,
) -> Result<Examined> {
    let mut examined = Examined::default();
    let read = Arc::new(AtomicU64::new(0));
    show_progress(job, ancestry, level, &read);
    for backup in ancestry {
        job.check_cancelled()?;
        examined.objects += 1;
        examined.findings.extend(objects::check_manifest(store, backup).await?);
    }
    for links in objects::links_of_each_disk(ancestry) {
        job.check_cancelled()?;
        let one = objects::check_disk(job, store, links, level, &read).await?;
        examined.objects += one.objects;
        examined.stored_bytes += one.stored_bytes;
        examined.compared_clusters += one.compared_clusters;
        examined.not_compared.extend(one.not_compared);
        examined.findings.extend(one.findings);
    }
    Ok(examined)
}

fn show_progress(job: &JobContext, ancestry: &[Backup], level: VerifyLevel, read: &Arc<AtomicU64>) {
    if level == VerifyLevel::Quick {
        return job.phase("verifying");
    }
    let disks = ancestry.iter().flat_map(|backup| &backup.disks);
    let planned: u64 =
        disks.map(|disk| disk.stored.0 + disk.ranges.as_ref().map_or(0, |ranges| ranges.stored.0)).sum();
    let read = Arc::clone(read);
    job.report_with(move || {
        let read = read.load(Ordering::Relaxed);
        // A damaged image is read once more to see where; that is no part of the plan.
        json!({ "phase": "verifying", "planned_bytes": planned.max(read), "read_bytes": read })
    });
}

async fn conclude(
    job: &JobContext,
    id: BackupId,
    ancestry: &[Backup],
    level: VerifyLevel,
    examined: &Examined,
) -> Result<Value> {
    let damaged: BTreeSet<BackupId> =
        examined.findings.iter().flat_map(|finding| finding.affected.iter().copied()).collect();
    let whole: Vec<BackupId> =
        ancestry.iter().map(|backup| backup.id).filter(|id| !damaged.contains(id)).collect();
    let damaged: Vec<BackupId> = damaged.into_iter().collect();
    let read = ancestry.iter().map(|backup| (backup.id, backup.consolidated_at)).collect();
    let verification =
        Verification { level, at: UtcMillis::now(), whole: whole.clone(), damaged: damaged.clone(), read };
    let changes = job.shared.catalog.record_verification(&verification).await?;
    tell(job, level, &changes).await;
    let document = json!({
        "backup_id": id.to_string(),
        "level": level.as_str(),
        "objects": examined.objects,
        "stored_bytes": examined.stored_bytes,
        "compared_clusters": examined.compared_clusters,
        "not_compared": examined.not_compared.iter().map(NotCompared::document).collect::<Value>(),
        "findings": examined.findings.iter().map(Finding::document).collect::<Value>(),
        "whole_backups": words(&whole),
        "damaged_backups": words(&damaged),
        "cleared_backups": words(&changes.cleared),
    });
    if examined.findings.is_empty() {
        return Ok(document);
    }
    Err(Error::damaged(sentence(&examined.findings, &damaged)).with_detail(document))
}

/// What changed goes to the audit trail, and damage to whoever listens.
async fn tell(job: &JobContext, level: VerifyLevel, changes: &StatusChanges) {
    let detail = || json!({ "job_id": job.job.id.to_string(), "level": level.as_str() });
    for id in &changes.marked {
        job.shared.audit("host", "backup.damaged", &id.to_string(), detail()).await;
    }
    for id in &changes.cleared {
        job.shared.audit("host", "backup.whole-again", &id.to_string(), detail()).await;
    }
    if !changes.marked.is_empty() {
        let alert = json!({ "kind": "damage-found", "backups": words(&changes.marked) });
        job.shared.emit("alert", &job.job, alert);
    }
}

fn sentence(findings: &[Finding], damaged: &[BackupId]) -> String {
    let mut named: Vec<String> = findings.iter().take(TOLD).map(ToString::to_string).collect();
    if findings.len() > TOLD {
        named.push(format!("and {} more findings", findings.len() - TOLD));
    }
    let outcome = match damaged {
        [] => "what the guest had is whole in every backup".to_owned(),
        damaged => format!("marked damaged: {}; the next backup will be a full", words(damaged).join(", ")),
    };
    format!("{}; {outcome}", named.join("; "))
}

fn words(ids: &[BackupId]) -> Vec<String> {
    ids.iter().map(ToString::to_string).collect()
}

/// Whether two readings of an ancestry speak of the same objects.
fn same_objects(now: &[Backup], then: &[Backup]) -> bool {
    let objects = |backup: &Backup| {
        let Backup { id, parent_id, manifest_key, staged_manifest_key, disks, .. } = backup.clone();
        (id, parent_id, manifest_key, staged_manifest_key, disks)
    };
    now.len() == then.len() && now.iter().zip(then).all(|(now, then)| objects(now) == objects(then))
}
