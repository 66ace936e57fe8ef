//! What a merge reads: every object is compared with its recorded digest before anything is made of it, so that a merge
//! never turns damage into something that looks good.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tidemark_catalog::{Backup, BackupDisk};
use tidemark_model::{BackupId, BackupStatus, ByteLen};
use tidemark_policy::Merge;
use tidemark_qcow2::Image;
use tokio_util::sync::CancellationToken;

use super::Progress;
use crate::chain::{self, LayerFile};
use crate::engine::Shared;
use crate::error::{Error, Result};
use crate::store::{self, ObjectStore};

/// One disk of a merge, open from top to bottom.
pub(super) struct DiskSources {
    pub(super) files: Vec<LayerFile>,
    pub(super) images: Vec<Image>,
    /// The layers' range digests; none where one of them has none.
    pub(super) ranges: Option<Vec<Arc<File>>>,
    /// The object that stays below; none where the result stands alone.
    pub(super) below: Option<String>,
}

/// Something that was read and is not what was recorded.
struct Finding {
    backup_id: BackupId,
    key: String,
    message: String,
}

/// An object to be compared with what was recorded of it.
struct Recorded {
    backup_id: BackupId,
    key: String,
    file: Arc<File>,
    stored: ByteLen,
    digest: String,
}

/// Opens all that a plan's merges read and reads it once. What is found damaged is marked, with all that needs it.
///
/// # Errors
/// Damaged, with everything found; cancelled.
pub(super) async fn open(
    shared: &Shared,
    store: &mut ObjectStore,
    backups: &BTreeMap<BackupId, Backup>,
    merges: &[Merge],
    progress: &Arc<Progress>,
    cancel: &CancellationToken,
) -> Result<Vec<Vec<DiskSources>>> {
    let (mut recorded, mut findings, mut opened) = (BTreeMap::new(), Vec::new(), Vec::new());
    for merge in merges {
        let mut disks = Vec::new();
        let ids: Vec<BackupId> = merge.run.iter().rev().chain([&merge.into]).copied().collect();
        let chain: Vec<Backup> = ids.iter().map(|id| backups[id].clone()).collect();
        for disk in &backups[&merge.into].disks {
            let links = chain::links(&chain, disk.disk_index)?;
            let below = merge.new_parent.map(|id| below(&backups[&id], disk)).transpose()?;
            match open_disk(store, &ids, &links, below, &mut recorded, &mut findings).await? {
                Some(sources) => disks.push(sources),
                None => continue,
            }
        }
        opened.push(disks);
    }
    if findings.is_empty() {
        let (threads, progress, cancel) =
            (shared.limits.encoders.max(1), Arc::clone(progress), cancel.clone());
        let recorded: Vec<Recorded> = recorded.into_values().collect();
        progress.sources.store(recorded.iter().map(|object| object.stored.0).sum(), Ordering::Relaxed);
        findings = store::blocking("checking the sources of a merge", move || {
            compare_all(&recorded, threads, &progress, &cancel)
        })
        .await?;
    }
    if findings.is_empty() { Ok(opened) } else { Err(mark(shared, &findings).await?) }
}

fn below(parent: &Backup, disk: &BackupDisk) -> Result<String> {
    let found = parent.disks.iter().find(|below| below.disk_key == disk.disk_key);
    let key = found.map(|below| below.object_key.clone());
    key.ok_or_else(|| Error::damaged(format!("backup {} has no disk {}", parent.id, disk.disk_key)))
}

/// The layers of one disk; none where one of them is missing or no image, which is then among the findings.
async fn open_disk(
    store: &mut ObjectStore,
    ids: &[BackupId],
    links: &[&BackupDisk],
    below: Option<String>,
    recorded: &mut BTreeMap<String, Recorded>,
    findings: &mut Vec<Finding>,
) -> Result<Option<DiskSources>> {
    let mut ranges = Some(Vec::new());
    let (mut files, before) = (Vec::new(), findings.len());
    for (link, &backup_id) in links.iter().zip(ids.iter().rev()) {
        let mut add = |key: &str, file: Result<File>, stored, digest: &str| -> Result<Option<Arc<File>>> {
            let finding = |message| Finding { backup_id, key: key.to_owned(), message };
            match file.map(Arc::new) {
                Ok(file) => {
                    let object = Recorded {
                        backup_id,
                        key: key.to_owned(),
                        file: Arc::clone(&file),
                        stored,
                        digest: digest.to_owned(),
                    };
                    recorded.insert(key.to_owned(), object);
                    Ok(Some(file))
                }
                Err(error) => {
                    findings.push(finding(error.into_damage()?));
                    Ok(None)
                }
            }
        };
        let image = chain::open_object(store, link).await;
        if let Some(file) = add(&link.object_key, image, link.stored, &link.digest)? {
            files.push(LayerFile { key: link.object_key.clone(), file });
        }
        match (&link.ranges, &mut ranges) {
            (Some(of_layer), Some(known)) => {
                let file = store.open_object(&of_layer.object_key).await;
                known.extend(add(&of_layer.object_key, file, of_layer.stored, &of_layer.digest)?);
            }
            _ => ranges = None,
        }
    }
    if findings.len() > before {
        return Ok(None);
    }
    let (files, images, below) = store::blocking("opening the sources of a merge", move || {
        let images = chain::stack(&files, below.as_deref());
        Ok((files, images, below))
    })
    .await?;
    match images {
        Ok(images) => Ok(Some(DiskSources { files, images, ranges, below })),
        Err(error) => {
            // Which layer it was is in the words; the kept backup is what cannot be made.
            let (backup_id, key) = (ids[ids.len() - 1], links[0].object_key.clone());
            findings.push(Finding { backup_id, key, message: error.into_damage()? });
            Ok(None)
        }
    }
}

/// Reads all objects with several threads, the largest first.
fn compare_all(
    recorded: &[Recorded],
    threads: usize,
    progress: &Progress,
    cancel: &CancellationToken,
) -> Result<Vec<Finding>> {
    let mut order: Vec<&Recorded> = recorded.iter().collect();
    order.sort_by_key(|object| std::cmp::Reverse(object.stored));
    let next = AtomicUsize::new(0);
    let work = || -> Result<Vec<Finding>> {
        let mut findings = Vec::new();
        while let Some(object) = order.get(next.fetch_add(1, Ordering::Relaxed)) {
            if let Err(error) = compare(object, progress, cancel) {
                let message = error.into_damage()?;
                findings.push(Finding { backup_id: object.backup_id, key: object.key.clone(), message });
            }
        }
        Ok(findings)
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads.min(order.len())).map(|_| scope.spawn(work)).collect();
        let mut findings = Vec::new();
        for worker in workers {
            findings.extend(worker.join().map_err(|_| Error::internal("a reading thread panicked"))??);
        }
        Ok(findings)
    })
}

fn compare(object: &Recorded, progress: &Progress, cancel: &CancellationToken) -> Result<()> {
    let size = object.file.metadata().map_err(|e| Error::io("an object's size", e))?.len();
    if size != object.stored.0 {
        return Err(Error::damaged(format!("has {size} bytes instead of {}", object.stored.0)));
    }
    let found = digest_of(&object.file, &progress.checked, cancel)?;
    if found != object.digest {
        return Err(Error::damaged(format!("has the BLAKE3 digest {found} instead of {}", object.digest)));
    }
    Ok(())
}

/// BLAKE3 of a file's bytes, in hexadecimal.
pub(super) fn digest_of(
    file: &File,
    read: &std::sync::atomic::AtomicU64,
    cancel: &CancellationToken,
) -> Result<String> {
    crate::digest::of_file(file, read, cancel)
        .map_err(|e| Error::reading("cannot be read", "reading a source of a merge", e))?
        .ok_or_else(Error::cancelled)
}

async fn mark(shared: &Shared, findings: &[Finding]) -> Result<Error> {
    let mut affected = BTreeSet::new();
    for id in findings.iter().map(|finding| finding.backup_id).collect::<BTreeSet<_>>() {
        affected.extend(shared.catalog.set_backup_status(id, BackupStatus::Damaged).await?);
    }
    let named = findings.iter().map(|f| format!("backup {} ({}): {}", f.backup_id, f.key, f.message));
    let affected: Vec<String> = affected.iter().map(ToString::to_string).collect();
    Ok(Error::damaged(format!(
        "{}; nothing was merged or deleted; marked damaged: {}; the next backup will be a full",
        named.collect::<Vec<_>>().join("; "),
        affected.join(", ")
    )))
}
