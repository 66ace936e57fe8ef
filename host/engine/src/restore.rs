//! Restores one disk of a backup to a file on this host: raw (sparse), one standalone QCOW2 image, or a VMDK. The file
//! appears under its name only when all of it is durable.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};
use tidemark_model::{ByteLen, Extent, ExtentList, GuestOffset, JobKind};
use tidemark_qcow2::{CLUSTER_SIZE, Chain, ImageSpec};

use crate::chain;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::export;
use crate::mover::{self, MovePlan, MoveProgress, MoveTarget};
use crate::queue::JobContext;
use crate::raw;
use crate::requests::{ImageFormat, RestorePayload, RestoreRequest};
use crate::source::Source;
use crate::step::Step;
use crate::store::{self, Location, ObjectStore, PendingObject};

/// Mappings are asked for in pieces of this size, so that a large disk's map is never in memory as a whole.
const MAP_WINDOW: u64 = 1 << 30;

impl Engine {
    /// Queues the restore of one disk.
    ///
    /// # Errors
    /// Not found for an unknown backup or disk; conflict where the target exists; invalid for a relative target.
    pub async fn submit_restore_disk(
        &self,
        actor: &str,
        request: RestoreRequest,
    ) -> Result<tidemark_catalog::Job> {
        let RestoreRequest { backup_id, disk_index, to, format, idempotency_key } = request;
        let ancestry = chain::ancestry(&self.shared, backup_id).await?;
        chain::links(&ancestry, disk_index)?;
        Location::of(&to)?;
        if to.exists() && idempotency_key.is_none() {
            return Err(exists(&to));
        }
        let detail = json!({ "disk_index": disk_index, "to": to });
        let payload = RestorePayload { backup_id: backup_id.to_string(), disk_index, to, format };
        let job = self.shared.submit(JobKind::RestoreDisk, &payload, None, idempotency_key).await?;
        self.shared.audit(actor, "backup.restore", &backup_id.to_string(), detail).await;
        Ok(job)
    }
}

/// Runs a restore job.
pub(crate) async fn run(job: &Arc<JobContext>) -> Result<Value> {
    let payload: RestorePayload = job.payload()?;
    let id = payload.backup_id.parse().map_err(|e| Error::damaged(format!("{e}")))?;
    let backup = job.shared.catalog.backup(id).await?;
    let repository = job.shared.catalog.repository(backup.repository_id).await?;
    let (mut store, _) = ObjectStore::open(&job.shared, &repository, &job.job, None).await?;
    job.phase("opening the chain");
    let disk = Arc::new(chain::open_disk(&job.shared, &mut store, id, payload.disk_index).await?);

    let target = Location::of(&payload.to)?;
    if payload.to.exists() {
        return Err(exists(&payload.to));
    }
    let partial = Location {
        folder: target.folder.clone(),
        path: format!("{}.{}.partial", target.path, job.job.id.short()),
    };
    let step = Step::TargetBegun { path: partial.folder.join(&partial.path) };
    job.shared.record(&job.lease, &step).await?;
    let written = match payload.format {
        ImageFormat::Raw => write_raw(job, &disk, &partial).await,
        ImageFormat::Qcow2 => write_qcow2(job, &disk, &partial).await,
        ImageFormat::Vmdk => export::write_vmdk(job, &disk, id, payload.disk_index, &target, &partial).await,
    };
    let published = match written {
        Ok(bytes) => store::publish_local(partial.clone(), target.path.clone()).await.map(|()| bytes),
        Err(error) => Err(error),
    };
    match published {
        Ok(data) => Ok(json!({
            "backup_id": payload.backup_id,
            "disk_index": payload.disk_index,
            "to": payload.to,
            "capacity_bytes": disk.virtual_size().0,
            "data_bytes": data.0,
        })),
        Err(error) => {
            store::remove_local(partial).await?;
            Err(error)
        }
    }
}

fn exists(path: &Path) -> Error {
    Error::new(crate::ErrorKind::Conflict, format!("{} exists already; choose another file", path.display()))
}

/// Writes the data ranges into a file of the disk's size; all else stays a hole.
async fn write_raw(job: &Arc<JobContext>, disk: &Arc<Chain>, partial: &Location) -> Result<ByteLen> {
    let (disk, place, cancel) = (Arc::clone(disk), partial.clone(), job.cancel.clone());
    let done = Arc::new(AtomicU64::new(0));
    let (shown, capacity) = (Arc::clone(&done), disk.virtual_size().0);
    job.report_with(move || {
        json!({ "phase": "restoring", "written_bytes": shown.load(Ordering::Relaxed), "capacity_bytes": capacity })
    });
    let computing = job.shared.limits.encoders;
    store::blocking("restoring a disk", move || {
        raw::write(&disk, &place, computing, &cancel, &done)?;
        Ok(ByteLen(done.load(Ordering::Relaxed)))
    })
    .await
}

async fn write_qcow2(job: &Arc<JobContext>, disk: &Arc<Chain>, partial: &Location) -> Result<ByteLen> {
    let capacity = disk.virtual_size();
    let (reader, place) = (Arc::clone(disk), partial.clone());
    let (read, object) = store::blocking("planning a restore", move || {
        let mut ranges = Vec::new();
        let mut window = 0;
        while window < capacity.0 {
            let length = MAP_WINDOW.min(capacity.0 - window);
            ranges.extend(raw::data_ranges(
                &reader,
                Extent { offset: GuestOffset(window), length: ByteLen(length) },
            )?);
            window += length;
        }
        let ranges = ExtentList::checked(ranges, capacity).map_err(|e| Error::damaged(e.to_string()))?;
        Ok((ranges.aligned(CLUSTER_SIZE, capacity), PendingObject::local(place)?))
    })
    .await?;
    let progress: Arc<MoveProgress> = Arc::default();
    let shown = Arc::clone(&progress);
    job.report_with(move || {
        json!({
            "phase": "restoring",
            "read_bytes": shown.read.load(Ordering::Relaxed),
            "planned_bytes": shown.planned.load(Ordering::Relaxed),
            "stored_bytes": shown.stored.load(Ordering::Relaxed),
        })
    });
    let plan = MovePlan { read, zero: ExtentList::empty() };
    let spec = ImageSpec { virtual_size: capacity, compression: job.shared.compression(), backing: None };
    let source = Source::over_chain(Arc::clone(disk));
    let target = MoveTarget { image: object, ranges: None };
    let moved =
        mover::move_disk(&source, &plan, spec, target, job.shared.tuning(), &progress, &job.cancel).await?;
    Ok(moved.read)
}
