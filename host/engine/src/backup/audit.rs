//! The audit of changed block tracking: hypervisors have been known to answer with a map that lacks changes, without
//! any error. So each incremental reads a sample of what is called unchanged from the snapshot and compares it with
//! what the parent's chain says of it. One cluster that differs ends the trust in the whole map: the same run
//! becomes a full.
//!
//! It never passes in silence: where there is nothing to compare with, the backup carries a warning. It cannot prove a
//! map right, only catch a wrong one, the sooner the larger the share is.

mod sample;

use std::sync::Arc;

use bytes::BytesMut;
use futures_util::{StreamExt as _, stream};
use serde_json::json;
use tidemark_catalog::Backup;
use tidemark_model::{BackupId, BackupType, ByteLen, Extent, ExtentList, FullReason, GuestOffset};
use tidemark_qcow2::{CLUSTER_SIZE, Chain, is_zero};

use super::Attempt;
use super::disks::OpenDisk;
use super::plan::{Chosen, ChosenDisk};
use crate::chain;
use crate::error::{Error, ErrorKind, Result};
use crate::ranges::{RangeDigest, RangeIndex};
use crate::source::Source;
use crate::store;

use sample::{Content, Sample, Sampled};

/// The longest read, in bytes.
const REQUEST: u64 = 1 << 20;
/// Reads under way: the sample is small, and the guest waits for nothing.
const READS: usize = 8;

/// A disk as the parent's chain has it, and the digests of each layer.
pub(super) struct Parent {
    view: Chain,
    digests: Vec<Option<RangeIndex>>,
}

/// What the audit of one disk came to.
#[derive(Default)]
struct Outcome {
    compared: u64,
    /// Clusters that differ although nobody said so.
    changed: Vec<Extent>,
    /// Clusters whose recorded digest is not that of the stored bytes.
    doubtful: u64,
}

/// Compares a sample of every disk. Answers why the backup must be a full, where it must.
pub(super) async fn audit(
    attempt: &mut Attempt<'_>,
    chosen: &Chosen,
    disks: &[OpenDisk],
) -> Result<Option<FullReason>> {
    let percent = attempt.job.shared.limits.audit_percent;
    let Some(parent_id) = chosen.parent_id().filter(|_| percent > 0.0) else { return Ok(None) };
    attempt.job.phase("auditing change tracking");
    let ancestry = attempt.job.shared.catalog.ancestry(parent_id).await?;
    let (mut compared, mut reason) = (0, None);
    for (disk, open) in chosen.disks.iter().zip(disks) {
        attempt.job.check_cancelled()?;
        let context = |e: Error| e.context(format!("auditing disk {} ({})", disk.key, disk.label));
        let (parent, sample) = match prepare(attempt, &ancestry, disk, percent).await {
            Ok(prepared) => prepared,
            Err(error) if matches!(error.kind(), ErrorKind::Damaged | ErrorKind::NotFound) => {
                not_compared(attempt, disk, &error.chain());
                continue;
            }
            Err(error) => return Err(context(error)),
        };
        if sample.without_digests {
            not_compared(attempt, disk, "the parent was made by a version that recorded no range digests");
        }
        let outcome = compare(&open.source, &parent, &sample.clusters).await.map_err(context)?;
        compared += outcome.compared;
        if outcome.doubtful > 0 {
            let why =
                format!("{} clusters do not have their recorded digest; verify the parent", outcome.doubtful);
            not_compared(attempt, disk, &why);
        }
        if !outcome.changed.is_empty() && reason.is_none() {
            reason = Some(mismatch(disk, &outcome));
        }
    }
    attempt.audited = Some(json!({ "seed": attempt.id.to_string(), "compared_clusters": compared }));
    if let Some(reason) = &reason {
        alarm(attempt, reason, &ancestry).await;
    }
    Ok(reason)
}

fn not_compared(attempt: &mut Attempt<'_>, disk: &ChosenDisk, why: &str) {
    tracing::info!(disk = %disk.key, why, "the audit of change tracking could not compare");
    attempt.warnings.push(format!(
        "the audit of change tracking could not compare disk {} ({}): {why}",
        disk.key, disk.label
    ));
}

fn mismatch(disk: &ChosenDisk, outcome: &Outcome) -> FullReason {
    let changed = ExtentList::checked(outcome.changed.clone(), disk.capacity).unwrap_or_default();
    let first = changed.iter().next();
    let place = first.map_or_else(String::new, |range| format!("{}..{}", range.offset.0, range.end().0));
    let detail = format!(
        "guest bytes {place} changed and the hypervisor called them unchanged ({} of {} sampled clusters)",
        outcome.changed.len(),
        outcome.compared
    );
    FullReason::AuditMismatch { disk: disk.key.to_string(), detail }
}

/// Everybody is told: whoever listens, the audit trail, the log, and the backup itself.
async fn alarm(attempt: &mut Attempt<'_>, reason: &FullReason, ancestry: &[Backup]) {
    let reason = reason.to_string();
    let doubtful: Vec<String> = ancestry
        .iter()
        .filter(|backup| backup.backup_type == BackupType::Incremental)
        .map(|backup| backup.id.to_string())
        .collect();
    tracing::warn!(reason, "the map of changed blocks is wrong; the backup becomes a full");
    let mut warning = reason.clone();
    if !doubtful.is_empty() {
        warning.push_str("; earlier incrementals of this chain may miss changes too: ");
        warning.push_str(&doubtful.join(", "));
    }
    attempt.warnings.push(warning);
    let (vm, shared) = (&attempt.subject.vm, &attempt.job.shared);
    let detail = json!({
        "kind": "cbt-audit-mismatch",
        "vm_id": vm.id.to_string(),
        "vm_name": vm.name,
        "backup_id": attempt.id.to_string(),
        "message": reason,
        "doubtful_backups": doubtful,
    });
    shared.audit("host", "backup.cbt-audit-mismatch", &vm.name, detail.clone()).await;
    shared.emit("alert", &attempt.job.job, detail);
}

/// Opens the disk as the parent's chain has it, and draws the sample.
async fn prepare(
    attempt: &mut Attempt<'_>,
    ancestry: &[Backup],
    disk: &ChosenDisk,
    percent: f64,
) -> Result<(Arc<Parent>, Sample)> {
    let newest = ancestry.last().ok_or_else(|| Error::internal("an empty ancestry"))?;
    let index = newest.disks.iter().find(|old| old.disk_key == disk.key).map(|old| old.disk_index);
    let index = index.ok_or_else(|| Error::not_found("disk", &disk.key.to_string()))?;
    let links = chain::links(ancestry, index)?;
    let view = chain::open(&mut attempt.store, &links).await?;
    let mut files = Vec::new();
    for link in links {
        files.push(match &link.ranges {
            Some(ranges) => Some(attempt.store.open_object(&ranges.object_key).await?),
            None => None,
        });
    }
    let seed = seed(attempt.id, disk);
    let changed = disk.changed.clone().unwrap_or_default().aligned(CLUSTER_SIZE, disk.capacity);
    store::blocking("drawing a sample", move || {
        let digests = files.into_iter().map(|file| file.map(RangeIndex::open).transpose());
        let parent = Parent { view, digests: digests.collect::<Result<_>>()? };
        let sample = sample::draw(&parent, &changed, percent, &seed)?;
        Ok((Arc::new(parent), sample))
    })
    .await
}

/// The same backup draws the same sample again.
fn seed(id: BackupId, disk: &ChosenDisk) -> String {
    format!("{id}/{}", disk.key)
}

/// Reads the sampled clusters from the source and compares each.
async fn compare(source: &Source, parent: &Arc<Parent>, clusters: &[Sampled]) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    let requests = requests(clusters, source.size());
    let mut reads = stream::iter(requests)
        .map(|(extent, clusters)| async move {
            source.read(extent, BytesMut::new()).await.map(|bytes| (clusters, bytes))
        })
        .buffer_unordered(READS);
    while let Some(read) = reads.next().await {
        let (clusters, bytes) = read?;
        for (cluster, bytes) in clusters.iter().zip(bytes.chunks(CLUSTER_BYTES)) {
            outcome.compared += 1;
            let same = match cluster.content {
                Content::Zero => is_zero(bytes),
                Content::Data { digest, stored_at } => RangeDigest::of(bytes, stored_at) == digest,
            };
            if same {
                continue;
            }
            // A damaged digest must raise no alarm about the hypervisor.
            if same_as_stored(parent, cluster.guest, bytes).await? {
                outcome.doubtful += 1;
            } else {
                let length = ByteLen(bytes.len() as u64);
                outcome.changed.push(Extent { offset: cluster.guest, length });
            }
        }
    }
    outcome.changed.sort_unstable();
    Ok(outcome)
}

const CLUSTER_BYTES: usize = 65_536;

async fn same_as_stored(parent: &Arc<Parent>, guest: GuestOffset, bytes: &[u8]) -> Result<bool> {
    let (parent, bytes) = (Arc::clone(parent), bytes.to_vec());
    store::blocking("reading a chain", move || {
        let mut stored = vec![0; bytes.len()];
        // What cannot be read from the chain is no witness.
        Ok(parent.view.read_at(guest, &mut stored).is_ok() && stored == bytes)
    })
    .await
}

/// Neighbouring clusters, by ascending offset, as one read each.
fn requests(clusters: &[Sampled], capacity: ByteLen) -> Vec<(Extent, Vec<Sampled>)> {
    let mut requests: Vec<(Extent, Vec<Sampled>)> = Vec::new();
    for cluster in clusters {
        let length = CLUSTER_SIZE.min(capacity.0.saturating_sub(cluster.guest.0));
        match requests.last_mut() {
            Some((extent, gathered))
                if extent.end() == cluster.guest && extent.length.0 + length <= REQUEST =>
            {
                extent.length.0 += length;
                gathered.push(*cluster);
            }
            _ => requests.push((Extent { offset: cluster.guest, length: ByteLen(length) }, vec![*cluster])),
        }
    }
    requests
}
