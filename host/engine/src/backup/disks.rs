//! Moves all disks of a snapshot, as many at the same time as there are slots, and keeps the hypervisor's session
//! alive meanwhile. The first disk that fails stops the others.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tidemark_catalog::{BackupDisk, RangeDigests};
use tidemark_model::{ByteLen, ExtentList, UtcMillis};
use tidemark_plugins::{Connector, DiskLease, Since, Snapshot, Transport};
use tidemark_qcow2::{BackingFile, ImageSpec};
use tokio_util::sync::CancellationToken;

use super::plan::{Chosen, ChosenDisk};
use super::{Attempt, schedule};
use crate::error::{Error, Result};
use crate::image_file::StoredImage;
use crate::layout;
use crate::mover::{self, MovePlan, MoveProgress, MoveTarget};
use crate::source::Source;
use crate::step::{ObjectRef, Step};
use crate::store::{PlannedObject, SealedObject};
use crate::throttle::Bucket;

/// How often the hypervisor's session is kept alive.
const KEEP_ALIVE: Duration = Duration::from_secs(300);

/// All disks, durable but not published.
pub(super) struct MovedDisks {
    pub(super) disks: Vec<BackupDisk>,
    /// Their images and range digests.
    pub(super) objects: Vec<SealedObject>,
}

/// A disk that can be read.
pub(super) struct OpenDisk {
    pub(super) source: Source,
    /// Whether the source itself cannot tell what is allocated, and the hypervisor may.
    asks_hypervisor: bool,
}

/// All disks of a snapshot, in the plan's order. The leases are to be closed in the end.
pub(super) struct OpenDisks {
    pub(super) disks: Vec<OpenDisk>,
    pub(super) leases: Vec<DiskLease>,
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
    state: Arc<Stated>,
}

/// Where a disk stands, shared with whoever reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum DiskState {
    Waiting,
    Moving,
    Done,
}

#[derive(Debug)]
struct Stated(Mutex<DiskState>);

impl Stated {
    fn set(&self, state: DiskState) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }

    fn words(&self) -> &'static str {
        match *self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            DiskState::Waiting => "waiting for a slot",
            DiskState::Moving => "moving",
            DiskState::Done => "done",
        }
    }
}

/// What is reported of one disk.
struct Counters {
    index: u32,
    capacity: u64,
    progress: Arc<MoveProgress>,
    state: Arc<Stated>,
}

impl Counters {
    fn of(disk: &Ready<'_>) -> Self {
        let (progress, state) = (Arc::clone(&disk.progress), Arc::clone(&disk.state));
        Self { index: disk.chosen.index, capacity: disk.chosen.capacity.0, progress, state }
    }
}

/// Opens every disk of the snapshot.
pub(super) async fn open_all(
    attempt: &mut Attempt<'_>,
    snapshot: &Snapshot,
    chosen: &Chosen,
) -> Result<OpenDisks> {
    attempt.job.phase("opening the disks");
    let mut open = OpenDisks { disks: Vec::new(), leases: Vec::new() };
    match open_each(attempt, snapshot, chosen, &mut open).await {
        Ok(()) => Ok(open),
        Err(error) => {
            close_all(attempt, &open.leases).await;
            Err(error)
        }
    }
}

pub(super) async fn close_all(attempt: &mut Attempt<'_>, leases: &[DiskLease]) {
    for lease in leases {
        if let Err(error) = attempt.connector.close_disk(&lease.token).await {
            tracing::debug!(error = %error, "closing a disk failed");
        }
    }
}

/// Moves every disk to objects of its own.
pub(super) async fn move_all(
    attempt: &mut Attempt<'_>,
    snapshot: &Snapshot,
    chosen: &Chosen,
    disks: Vec<OpenDisk>,
    snapshot_at: UtcMillis,
) -> Result<MovedDisks> {
    let targets = plan_targets(attempt, chosen, snapshot_at).await?;
    let mut ready = Vec::new();
    for ((disk, open), target) in chosen.disks.iter().zip(disks).zip(targets) {
        let OpenDisk { source, asks_hypervisor } = open;
        let allocated = match disk.changed {
            None if asks_hypervisor => allocated_by_connector(attempt, snapshot, disk).await,
            _ => None,
        };
        let state = Arc::new(Stated(Mutex::new(DiskState::Waiting)));
        ready.push(Ready { chosen: disk, source, allocated, target, progress: Arc::default(), state });
    }
    move_ready(attempt, ready).await
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

async fn open_each(
    attempt: &mut Attempt<'_>,
    snapshot: &Snapshot,
    chosen: &Chosen,
    open: &mut OpenDisks,
) -> Result<()> {
    let shared = Arc::clone(&attempt.job.shared);
    let secrets =
        shared.secrets.open_all(&attempt.subject.connector.name, &attempt.subject.connector.secrets_json)?;
    let vm_key = attempt.subject.vm.key.clone();
    for disk in &chosen.disks {
        attempt.job.check_cancelled()?;
        let lease = attempt.connector.open_disk(&vm_key, &snapshot.token, &disk.key, false).await?;
        let transport = lease.transport.clone();
        open.leases.push(lease);
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
        let asks_hypervisor = matches!(&transport, Transport::HttpRange(_));
        open.disks.push(OpenDisk { source, asks_hypervisor });
    }
    Ok(())
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
    let counters: Vec<_> = ready.iter().map(Counters::of).collect();
    job.report_with(move || progress_json(&counters));
    let first = attempt.slot.take().ok_or_else(|| Error::internal("disks are moved without a slot"))?;
    let (stop, bandwidth) = (job.cancel.child_token(), attempt.bandwidth.clone());
    let lanes = attempt.subject.lanes();
    let queue = || job.shared.disk_slots.queue(lanes);
    let start = |disk| move_one(&job, disk, bandwidth.as_ref(), &stop);
    let moves = schedule::move_all(queue, first, ready, &stop, start);
    let connector = &mut attempt.connector;
    let moved = schedule::beside(moves, |over| keep_alive(connector, over)).await?;
    let (disks, objects): (Vec<_>, Vec<_>) = moved.into_iter().unzip();
    Ok(MovedDisks { disks, objects: objects.into_iter().flatten().collect() })
}

/// Sessions end after 30 minutes without a call.
async fn keep_alive(connector: &mut Connector, over: CancellationToken) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(KEEP_ALIVE) => {}
            () = over.cancelled() => return,
        }
        if let Err(error) = connector.keep_alive().await {
            tracing::warn!(error = %error, "keeping the hypervisor's session alive failed");
        }
    }
}

async fn move_one(
    job: &Arc<crate::queue::JobContext>,
    disk: Ready<'_>,
    bandwidth: Option<&Arc<Bucket>>,
    stop: &CancellationToken,
) -> Result<(BackupDisk, Vec<SealedObject>)> {
    let Ready { chosen, source, allocated, target, progress, state } = disk;
    state.set(DiskState::Moving);
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
    let PlannedTarget { image, ranges } = target;
    let image = image.bounded(bandwidth, stop.clone());
    let ranges = ranges.bounded(bandwidth, stop.clone());
    let target = MoveTarget {
        image: image.create(plan.read.total()).await.map_err(context)?,
        ranges: Some(ranges.create(ByteLen(0)).await.map_err(context)?),
    };
    let moved = mover::move_disk(&source, &plan, spec, target, job.shared.tuning(), &progress, stop)
        .await
        .map_err(context)?;
    source.close().await;
    state.set(DiskState::Done);
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

fn progress_json(counters: &[Counters]) -> Value {
    let disks: Vec<Value> = counters
        .iter()
        .map(|Counters { index, capacity, progress, state }| {
            json!({
                "disk_index": index,
                "state": state.words(),
                "capacity_bytes": capacity,
                "planned_bytes": progress.planned.load(Ordering::Relaxed),
                "read_bytes": progress.read.load(Ordering::Relaxed),
                "zero_bytes": progress.zero.load(Ordering::Relaxed),
                "stored_bytes": progress.stored.load(Ordering::Relaxed),
            })
        })
        .collect();
    let sum = |counter: fn(&MoveProgress) -> u64| {
        counters.iter().map(|counters| counter(&counters.progress)).sum::<u64>()
    };
    json!({
        "phase": "moving",
        "planned_bytes": sum(|p| p.planned.load(Ordering::Relaxed)),
        "read_bytes": sum(|p| p.read.load(Ordering::Relaxed)),
        "stored_bytes": sum(|p| p.stored.load(Ordering::Relaxed)),
        "disks": disks,
    })
}
