//! Moves all disks of a snapshot at the same time, within the host's limit, and keeps the hypervisor's session
//! alive meanwhile. The first disk that fails stops the others.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use serde_json::{Value, json};
use tidemark_catalog::BackupDisk;
use tidemark_model::{ExtentList, UtcMillis};
use tidemark_plugins::{DiskLease, Since, Snapshot, Transport};
use tidemark_qcow2::{BackingFile, CLUSTER_SIZE, ImageSpec};
use tokio_util::sync::CancellationToken;

use super::Attempt;
use super::plan::{Chosen, ChosenDisk};
use crate::error::{Error, Result};
use crate::layout;
use crate::mover::{self, MovePlan, MoveProgress};
use crate::source::Source;
use crate::step::{ObjectRef, Step};
use crate::store::{PlannedObject, SealedObject};

/// How often the hypervisor's session is kept alive; sessions end after 30 minutes without a call.
const KEEP_ALIVE: Duration = Duration::from_secs(300);

/// All disks, durable but not published.
pub(super) struct MovedDisks {
    pub(super) disks: Vec<(BackupDisk, SealedObject)>,
}

/// One disk that is ready to be moved.
struct Ready<'c> {
    chosen: &'c ChosenDisk,
    source: Source,
    /// What is allocated, where the source itself cannot tell.
    allocated: Option<ExtentList>,
    object: PlannedObject,
    progress: Arc<MoveProgress>,
}

pub(super) async fn move_all(
    attempt: &mut Attempt<'_>,
    snapshot: &Snapshot,
    chosen: &Chosen,
    snapshot_at: UtcMillis,
) -> Result<MovedDisks> {
    let objects = plan_objects(attempt, chosen, snapshot_at).await?;
    attempt.job.phase("opening the disks");
    let mut leases = Vec::new();
    let moved = match open_all(attempt, snapshot, chosen, objects, &mut leases).await {
        Ok(ready) => move_ready(attempt, ready).await,
        Err(error) => Err(error),
    };
    for lease in &leases {
        if let Err(error) = attempt.connector.close_disk(&lease.token).await {
            tracing::debug!(error = %error, "closing a disk failed");
        }
    }
    moved
}

/// Names every object and records them all before the first one is made.
async fn plan_objects(
    attempt: &mut Attempt<'_>,
    chosen: &Chosen,
    snapshot_at: UtcMillis,
) -> Result<Vec<PlannedObject>> {
    let mut objects = Vec::new();
    for disk in &chosen.disks {
        let key = chosen.folder.disk_key(disk.index, snapshot_at, attempt.id, chosen.backup_type());
        let size_hint = disk.changed.as_ref().map_or(disk.capacity, ExtentList::total);
        objects.push(attempt.store.begin(&key, size_hint.0).await?);
    }
    let references = objects
        .iter()
        .map(|object| ObjectRef { key: object.key().to_owned(), token: object.token().to_owned() })
        .collect();
    attempt.record(Step::ObjectsBegun { objects: references }).await?;
    Ok(objects)
}

async fn open_all<'c>(
    attempt: &mut Attempt<'_>,
    snapshot: &Snapshot,
    chosen: &'c Chosen,
    objects: Vec<PlannedObject>,
    leases: &mut Vec<DiskLease>,
) -> Result<Vec<Ready<'c>>> {
    let shared = Arc::clone(&attempt.job.shared);
    let secrets =
        shared.secrets.open_all(&attempt.subject.connector.name, &attempt.subject.connector.secrets_json)?;
    let vm_key = attempt.subject.vm.key.clone();
    let mut ready = Vec::new();
    for (disk, object) in chosen.disks.iter().zip(objects) {
        attempt.job.check_cancelled()?;
        let lease = attempt.connector.open_disk(&vm_key, &snapshot.token, &disk.key, false).await?;
        let transport = lease.transport.clone();
        leases.push(lease);
        let secret = |name: &str| secrets.get(name).cloned();
        let source = Source::open(&transport, secret, &shared.source_options())
            .await
            .map_err(|e| e.context(format!("opening disk {} ({})", disk.key, disk.label)))?;
        if source.size() != disk.capacity {
            return Err(Error::damaged(format!(
                "disk {}: the source has {} bytes, the snapshot says {}",
                disk.key,
                source.size().0,
                disk.capacity.0
            )));
        }
        let allocated = match (&transport, &disk.changed) {
            (Transport::HttpRange(_), None) => allocated_by_connector(attempt, snapshot, disk).await,
            _ => None,
        };
        ready.push(Ready { chosen: disk, source, allocated, object, progress: Arc::default() });
    }
    Ok(ready)
}

/// What the hypervisor says is allocated; a refusal only costs time, as everything is read then.
async fn allocated_by_connector(
    attempt: &mut Attempt<'_>,
    snapshot: &Snapshot,
    disk: &ChosenDisk,
) -> Option<ExtentList> {
    let vm_key = attempt.subject.vm.key.clone();
    let answer = attempt
        .connector
        .changed_areas(&vm_key, &snapshot.token, &disk.key, &Since::Allocated, disk.capacity)
        .await;
    answer
        .map_err(|e| tracing::info!(error = %e, "allocated areas are not known; reading the whole disk"))
        .ok()
}

async fn move_ready(attempt: &mut Attempt<'_>, ready: Vec<Ready<'_>>) -> Result<MovedDisks> {
    let job = Arc::clone(attempt.job);
    let counters: Vec<_> = ready
        .iter()
        .map(|disk| (disk.chosen.index, disk.chosen.capacity.0, Arc::clone(&disk.progress)))
        .collect();
    job.report_with(move || progress_json(&counters));
    let stop = job.cancel.child_token();
    let mut moves: FuturesUnordered<_> = ready
        .into_iter()
        .map(|disk| {
            let (job, stop) = (Arc::clone(&job), stop.clone());
            async move { move_one(&job, disk, &stop).await }
        })
        .collect();
    let mut disks = Vec::new();
    let mut failed: Option<Error> = None;
    let mut keep_alive = tokio::time::interval(KEEP_ALIVE);
    keep_alive.tick().await;
    loop {
        tokio::select! {
            moved = moves.next() => match moved {
                None => break,
                Some(Ok(disk)) => disks.push(disk),
                Some(Err(error)) => {
                    // The others are stopped; what they say of that is not the reason.
                    stop.cancel();
                    failed.get_or_insert(error);
                }
            },
            _ = keep_alive.tick() => {
                if let Err(error) = attempt.connector.keep_alive().await {
                    tracing::warn!(error = %error, "keeping the hypervisor's session alive failed");
                }
            }
        }
    }
    match failed {
        Some(error) => Err(error),
        None => Ok(MovedDisks { disks }),
    }
}

async fn move_one(
    job: &Arc<crate::queue::JobContext>,
    disk: Ready<'_>,
    stop: &CancellationToken,
) -> Result<(BackupDisk, SealedObject)> {
    let Ready { chosen, source, allocated, object, progress } = disk;
    let _slot = tokio::select! {
        slot = job.shared.disk_slots.acquire() => slot.map_err(|_| Error::cancelled())?,
        () = stop.cancelled() => return Err(Error::cancelled()),
    };
    let context = |e: Error| e.context(format!("moving disk {} ({})", chosen.key, chosen.label));
    let allocated = source.allocated().await.map_err(context)?.or(allocated);
    let plan = move_plan(chosen, allocated);
    let spec = ImageSpec {
        virtual_size: chosen.capacity,
        compression: job.shared.compression(),
        backing: chosen.parent_object.as_ref().map(|parent| BackingFile {
            name: layout::file_name(parent).to_owned(),
            format: "qcow2".to_owned(),
        }),
    };
    let object = object.create(plan.read.total()).await.map_err(context)?;
    let moved = mover::move_disk(&source, &plan, spec, object, job.shared.tuning(), &progress, stop)
        .await
        .map_err(context)?;
    source.close().await;
    let record = BackupDisk {
        disk_index: chosen.index,
        disk_key: chosen.key.clone(),
        label: chosen.label.clone(),
        capacity: chosen.capacity,
        change_id: chosen.change_id.clone(),
        object_key: moved.object.key().to_owned(),
        stored: moved.stored,
        read: moved.read,
        skipped: moved.skipped,
        moved_ms: moved.moved_ms,
        digest: moved.digest,
        staged_key: None,
        ranges: None,
    };
    Ok((record, moved.object))
}

/// Full: what is allocated. Incremental: what changed; of that, what is not allocated any more is zero now.
fn move_plan(disk: &ChosenDisk, allocated: Option<ExtentList>) -> MovePlan {
    let allocated =
        allocated.unwrap_or_else(|| ExtentList::whole(disk.capacity)).aligned(CLUSTER_SIZE, disk.capacity);
    match &disk.changed {
        None => MovePlan { read: allocated, zero: ExtentList::empty() },
        Some(changed) => {
            let changed = changed.aligned(CLUSTER_SIZE, disk.capacity);
            MovePlan { read: changed.intersection(&allocated), zero: changed.difference(&allocated) }
        }
    }
}

fn progress_json(counters: &[(u32, u64, Arc<MoveProgress>)]) -> Value {
    let disks: Vec<Value> = counters
        .iter()
        .map(|(index, capacity, progress)| {
            json!({
                "disk_index": index,
                "capacity_bytes": capacity,
                "planned_bytes": progress.planned.load(Ordering::Relaxed),
                "read_bytes": progress.read.load(Ordering::Relaxed),
                "zero_bytes": progress.zero.load(Ordering::Relaxed),
                "stored_bytes": progress.stored.load(Ordering::Relaxed),
            })
        })
        .collect();
    let sum = |counter: fn(&MoveProgress) -> u64| {
        counters.iter().map(|(_, _, progress)| counter(progress)).sum::<u64>()
    };
    json!({
        "phase": "moving",
        "planned_bytes": sum(|p| p.planned.load(Ordering::Relaxed)),
        "read_bytes": sum(|p| p.read.load(Ordering::Relaxed)),
        "stored_bytes": sum(|p| p.stored.load(Ordering::Relaxed)),
        "disks": disks,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidemark_model::{ByteLen, DiskKey, Extent};

    fn list(ranges: &[(u64, u64)]) -> ExtentList {
        let ranges = ranges.iter().map(|&(o, l)| Extent::new(o * 65536, l * 65536).unwrap()).collect();
        ExtentList::checked(ranges, ByteLen(100 * 65536)).unwrap()
    }

    fn disk(changed: Option<ExtentList>) -> ChosenDisk {
        ChosenDisk {
            index: 0,
            key: DiskKey("2000".to_owned()),
            label: String::new(),
            capacity: ByteLen(100 * 65536),
            change_id: None,
            changed,
            parent_object: None,
        }
    }

    #[test]
    fn a_full_reads_what_is_allocated_and_all_where_nobody_knows() {
        assert_eq!(move_plan(&disk(None), Some(list(&[(3, 2)]))).read, list(&[(3, 2)]));
        assert_eq!(move_plan(&disk(None), None).read, list(&[(0, 100)]));
    }

    #[test]
    fn an_incremental_masks_what_was_freed() {
        let plan = move_plan(&disk(Some(list(&[(0, 4), (10, 4)]))), Some(list(&[(2, 10)])));
        assert_eq!(plan.read, list(&[(2, 2), (10, 2)]));
        assert_eq!(plan.zero, list(&[(0, 2), (12, 2)]));
    }
}
