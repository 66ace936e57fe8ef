//! Proves that a backup is good: its objects are there and sound (`quick`), every stored byte has its recorded
//! digest (`full`), every guest byte can be read through the chain (`deep`). What is found damaged is marked, with
//! everything that needs it, and the next backup becomes a full.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::sync::Arc;

use serde_json::{Value, json};
use tidemark_catalog::{Backup, BackupDisk, Job, Verification};
use tidemark_model::{BackupId, BackupStatus, ByteLen, Extent, GuestOffset, JobKind, UtcMillis, VerifyLevel};
use tidemark_qcow2::Image;
use tokio_util::sync::CancellationToken;

use crate::chain;
use crate::engine::Engine;
use crate::error::{Error, ErrorKind, Result};
use crate::queue::JobContext;
use crate::requests::VerifyPayload;
use crate::store::{self, ObjectStore};

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
        self.catalog().backup(id).await?;
        let payload = VerifyPayload { backup_id: id.to_string(), level: level.as_str().to_owned() };
        let job = self.shared.submit(JobKind::Verify, &payload, None, idempotency_key).await?;
        self.shared.audit(actor, "backup.verify", &id.to_string(), json!({ "level": level.as_str() })).await;
        Ok(job)
    }
}

/// One thing that is wrong.
struct Finding {
    backup_id: BackupId,
    disk_index: u32,
    object_key: String,
    message: String,
}

/// Runs a verify job. Damage fails the job and names everything found.
pub(crate) async fn run(job: &Arc<JobContext>) -> Result<Value> {
    let VerifyPayload { backup_id, level } = job.payload()?;
    let id: BackupId = backup_id.parse().map_err(|e| Error::damaged(format!("{e}")))?;
    let level: VerifyLevel = level.parse().map_err(|e| Error::damaged(format!("{e}")))?;
    let ancestry = job.shared.catalog.ancestry(id).await?;
    let newest = ancestry.last().ok_or_else(|| Error::internal("an empty ancestry"))?;
    let repository = job.shared.catalog.repository(newest.repository_id).await?;
    let (mut store, _) = ObjectStore::open(&job.shared, &repository, &job.job, None).await?;
    let mut findings = Vec::new();
    let (mut objects, mut bytes) = (0_u64, 0_u64);
    for backup in &ancestry {
        for disk in &backup.disks {
            job.check_cancelled()?;
            let (checked, key) = (objects, disk.object_key.clone());
            job.report_with(
                move || json!({ "phase": "verifying", "objects_checked": checked, "object": key }),
            );
            if let Err(error) = verify_object(&mut store, disk, level, &job.cancel).await {
                findings.push(finding(backup, disk, damage(error)?));
            }
            objects += 1;
            bytes += disk.stored.0;
        }
    }
    if level == VerifyLevel::Deep && findings.is_empty() {
        job.phase("reading the guest view");
        for disk in &newest.disks {
            if let Err(error) = read_guest_view(&mut store, &ancestry, disk, &job.cancel).await {
                findings.push(finding(newest, disk, damage(error)?));
            }
        }
    }
    conclude(job, &ancestry, level, &findings, objects, bytes).await
}

async fn conclude(
    job: &JobContext,
    ancestry: &[Backup],
    level: VerifyLevel,
    findings: &[Finding],
    objects: u64,
    bytes: u64,
) -> Result<Value> {
    if findings.is_empty() {
        let now = UtcMillis::now();
        let whole = ancestry.iter().map(|backup| backup.id).collect();
        let verification = Verification { level, at: now, whole, damaged: Vec::new() };
        job.shared.catalog.record_verification(&verification).await?;
        return Ok(
            json!({ "level": level.as_str(), "objects": objects, "stored_bytes": bytes, "findings": [] }),
        );
    }
    let mut affected = BTreeSet::new();
    for id in findings.iter().map(|finding| finding.backup_id).collect::<BTreeSet<_>>() {
        affected.extend(job.shared.catalog.set_backup_status(id, BackupStatus::Damaged).await?);
    }
    let named: Vec<String> = findings
        .iter()
        .map(|f| format!("backup {} disk {} ({}): {}", f.backup_id, f.disk_index, f.object_key, f.message))
        .collect();
    let affected: Vec<String> = affected.iter().map(ToString::to_string).collect();
    Err(Error::damaged(format!(
        "{}; marked damaged: {}; the next backup will be a full",
        named.join("; "),
        affected.join(", ")
    )))
}

/// An error that is the stored bytes' fault; any other ends the job without a verdict.
fn damage(error: Error) -> Result<String> {
    match error.kind() {
        ErrorKind::Damaged | ErrorKind::NotFound => Ok(error.chain()),
        _ => Err(error),
    }
}

fn finding(backup: &Backup, disk: &BackupDisk, message: String) -> Finding {
    Finding {
        backup_id: backup.id,
        disk_index: disk.disk_index,
        object_key: disk.object_key.clone(),
        message,
    }
}

async fn verify_object(
    store: &mut ObjectStore,
    disk: &BackupDisk,
    level: VerifyLevel,
    cancel: &CancellationToken,
) -> Result<()> {
    let file = chain::open_object(store, disk).await?;
    let (expected, digest, cancel) = (disk.stored, disk.digest.clone(), cancel.clone());
    store::blocking("verifying an object", move || {
        let size = file.metadata().map_err(|e| Error::io("an object's size", e))?.len();
        if size != expected.0 {
            return Err(Error::damaged(format!("has {size} bytes instead of {}", expected.0)));
        }
        if level >= VerifyLevel::Full {
            let found = digest_of(&file, &cancel)?;
            if found != digest {
                return Err(Error::damaged(format!("has the BLAKE3 digest {found} instead of {digest}")));
            }
        }
        let report = tidemark_qcow2::check(&Image::open(Arc::new(file))?)?;
        if !report.is_clean() {
            return Err(Error::damaged(format!("is not sound in structure: {}", report.problems.join(", "))));
        }
        Ok(())
    })
    .await
}

fn digest_of(mut file: &std::fs::File, cancel: &CancellationToken) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        if cancel.is_cancelled() {
            return Err(Error::cancelled());
        }
        match file.read(&mut buffer).map_err(|e| Error::damaged(format!("cannot be read: {e}")))? {
            0 => return Ok(hasher.finalize().to_hex().to_string()),
            count => {
                hasher.update(&buffer[..count]);
            }
        }
    }
}

async fn read_guest_view(
    store: &mut ObjectStore,
    ancestry: &[Backup],
    disk: &BackupDisk,
    cancel: &CancellationToken,
) -> Result<()> {
    let links = chain::links(ancestry, disk.disk_index)?;
    let view = chain::open(store, &links).await?;
    let (capacity, cancel) = (disk.capacity, cancel.clone());
    store::blocking("reading a guest view", move || {
        if view.virtual_size() != capacity {
            return Err(Error::damaged(format!(
                "the chain shows a disk of {} bytes instead of {}",
                view.virtual_size().0,
                capacity.0
            )));
        }
        let mut buffer = vec![0; 1 << 20];
        let mut offset = 0;
        while offset < capacity.0 {
            if cancel.is_cancelled() {
                return Err(Error::cancelled());
            }
            let length = (1_u64 << 30).min(capacity.0 - offset);
            let window = Extent { offset: GuestOffset(offset), length: ByteLen(length) };
            for mapping in view.map(window)? {
                read_all(&view, mapping.extent, &mut buffer)?;
            }
            offset += length;
        }
        Ok(())
    })
    .await
}

fn read_all(view: &tidemark_qcow2::Chain, extent: Extent, buffer: &mut [u8]) -> Result<()> {
    let mut offset = extent.offset.0;
    while offset < extent.end().0 {
        let length = (buffer.len() as u64).min(extent.end().0 - offset);
        let part = &mut buffer[..usize::try_from(length).unwrap_or(0)];
        view.read_at(GuestOffset(offset), part)?;
        offset += length;
    }
    Ok(())
}
