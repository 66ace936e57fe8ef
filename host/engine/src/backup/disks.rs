//! Moves all disks of a snapshot at the same time, within the host's limit, and keeps the hypervisor's session
//! alive meanwhile. The first disk that fails stops the others.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use serde_json::{Value, json};
use tidemark_catalog::{BackupDisk, RangeDigests};
use tidemark_model::{ByteLen, ExtentList, UtcMillis};
use tidemark_plugins::{DiskLease, Since, Snapshot, Transport};
use tidemark_qcow2::{BackingFile, ImageSpec};
use tokio_util::sync::CancellationToken;

use super::Attempt;
use super::plan::{Chosen, ChosenDisk};
use crate::error::{Error, Result};
use crate::image_file::StoredImage;
use crate::layout;
use crate::mover::{self, MovePlan, MoveProgress, MoveTarget};
use crate::source::Source;
use crate::step::{ObjectRef, Step};
use crate::store::{PlannedObject, SealedObject};

/// How often the hypervisor's session is kept alive; sessions end after 30 minutes without a call.
const KEEP_ALIVE: Duration = Duration::from_secs(300);

/// All disks, durable but not published.
pub(super) struct MovedDisks {
    pub(super) disks: Vec<BackupDisk>,
    /// Their images and range digests.
    pub(super) objects: Vec<SealedObject>,
}

/// Where one disk goes; nothing exists yet.
struct PlannedTarget {
    image: PlannedObject,
    ranges: PlannedObject,
}

/// One disk that is ready to be moved.
struct Ready<'c> {
    chosen: &'c ChosenDisk,
    source: Source,
    /// What is allocated, where the source itself cannot tell.
    allocated: Option<ExtentList>,
    target: PlannedTarget,
    progress: Arc<MoveProgress>,
}

pub(super) async fn move_all(
    attempt: &mut Attempt<'_>,
    snapshot: &Snapshot,
    chosen: &Chosen,
    snapshot_at: UtcMillis,
) -> Result<MovedDisks> {
    let targets = plan_targets(attempt, chosen, snapshot_at).await?;
    attempt.job.phase("opening the disks");
    let mut leases = Vec::new();
    let moved = match open_all(attempt, snapshot, chosen, targets, &mut leases).await {
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
async fn plan_targets(
    attempt: &mut Attempt<'_>,
    chosen: &Chosen,
    snapshot_at: UtcMillis,
) -> Result<Vec<PlannedTarget>> {
    let mut targets = Vec::new();
    for disk in &chosen.disks {
        let key = chosen.folder.disk_key(disk.index, snapshot_at, attempt.id, chosen.backup_type());
        let size_hint = disk.changed.as_ref().map_or(disk.capacity, ExtentList::total);
        let image = attempt.store.begin(&key, size_hint.0).await?;
        let ranges = attempt.store.begin(&layout::ranges_key(&key), 0).await?;
        targets.push(PlannedTarget { image, ranges });
    }
    let references = targets
        .iter()
        .flat_map(|target| [&target.image, &target.ranges])
        .map(|object| ObjectRef { key: object.key().to_owned(), token: object.token().to_owned() })
        .collect();
    attempt.record(Step::ObjectsBegun { objects: references }).await?;
    Ok(targets)
}

async fn open_all<'c>(
    attempt: &mut Attempt<'_>,
    snapshot: &Snapshot,
    chosen: &'c Chosen,
    targets: Vec<PlannedTarget>,
    leases: &mut Vec<DiskLease>,
) -> Result<Vec<Ready<'c>>> {
    let shared = Arc::clone(&attempt.job.shared);
    let secrets =
        shared.secrets.open_all(&attempt.subject.connector.name, &attempt.subject.connector.secrets_json)?;
    let vm_key = attempt.subject.vm.key.clone();
    let mut ready = Vec::new();
    for (disk, target) in chosen.disks.iter().zip(targets) {
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
        ready.push(Ready { chosen: disk, source, allocated, target, progress: Arc::default() });
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
    let (mut disks, mut objects) = (Vec::new(), Vec::new());
    let mut failed: Option<Error> = None;
    let mut keep_alive = tokio::time::interval(KEEP_ALIVE);
    keep_alive.tick().await;
    loop {
        tokio::select! {
            moved = moves.next() => match moved {
                None => break,
                Some(Ok((disk, stored))) => {
                    disks.push(disk);
                    objects.extend(stored);
                }
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
        None => Ok(MovedDisks { disks, objects }),
    }
}

async fn move_one(
    job: &Arc<crate::queue::JobContext>,
    disk: Ready<'_>,
    stop: &CancellationToken,
) -> Result<(BackupDisk, Vec<SealedObject>)> {
    let Ready { chosen, source, allocated, target, progress } = disk;
    let _slot = tokio::select! {
        slot = job.shared.disk_slots.acquire() => slot.map_err(|_| Error::cancelled())?,
        () = stop.cancelled() => return Err(Error::cancelled()),
    };
    let context = |e: Error| e.context(format!("moving disk {} ({})", chosen.key, chosen.label));
    let allocated = source.allocated().await.map_err(context)?.or(allocated);
    let plan = MovePlan::new(chosen.capacity, chosen.changed.as_ref(), allocated);
    let spec = ImageSpec {
        virtual_size: chosen.capacity,
        compression: job.shared.compression(),
        backing: chosen.parent_object.as_ref().map(|parent| BackingFile {
            name: layout::file_name(parent).to_owned(),
            format: "qcow2".to_owned(),
        }),
    };
    let target = MoveTarget {
        image: target.image.create(plan.read.total()).await.map_err(context)?,
        ranges: Some(target.ranges.create(ByteLen(0)).await.map_err(context)?),
    };
    let moved = mover::move_disk(&source, &plan, spec, target, job.shared.tuning(), &progress, stop)
        .await
        .map_err(context)?;
    source.close().await;
    let StoredImage { object, digest, ranges } = moved.image;
    let record = BackupDisk {
        disk_index: chosen.index,
        disk_key: chosen.key.clone(),
        label: chosen.label.clone(),
        capacity: chosen.capacity,
        change_id: chosen.change_id.clone(),
        object_key: object.key().to_owned(),
        stored: object.size(),
        read: moved.read,
        skipped: moved.skipped,
        moved_ms: moved.moved_ms,
        digest,
        staged_key: None,
        ranges: ranges.as_ref().map(|ranges| RangeDigests {
            object_key: ranges.object.key().to_owned(),
            stored: ranges.object.size(),
            digest: ranges.digest.clone(),
        }),
    };
    let objects = std::iter::once(object).chain(ranges.map(|ranges| ranges.object));
    Ok((record, objects.collect()))
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
