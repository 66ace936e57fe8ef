//! The objects of a chain, one by one: manifests against the catalog, and the images of one disk with their range
//! digests, as closely as the level asks for.

use std::collections::HashMap;
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use tidemark_catalog::{Backup, BackupDisk};
use tidemark_model::{BackupId, VerifyLevel};

use super::finding::{Finding, Kind, NotCompared};
use super::inspect::{self, Inspected, Subject};
use super::ranges;
use super::scan::{self, Depth, Flaw, Found, Layer};
use crate::error::{Error, ErrorKind, Result};
use crate::queue::JobContext;
use crate::store::{self, ObjectStore};
use crate::{chain, layout, manifest};

/// A disk's image in one backup of a chain.
#[derive(Debug, Clone)]
pub(super) struct Link {
    pub(super) backup_id: BackupId,
    pub(super) disk: BackupDisk,
    /// The name that it must give its backing file.
    pub(super) backing: Option<String>,
}

/// What was found of one disk.
#[derive(Default)]
pub(super) struct CheckedDisk {
    pub(super) findings: Vec<Finding>,
    pub(super) objects: u64,
    pub(super) stored_bytes: u64,
    pub(super) compared_clusters: u64,
    pub(super) not_compared: Vec<NotCompared>,
}

/// The images of each disk that any backup of the chain has, the newest first.
pub(super) fn links_of_each_disk(ancestry: &[Backup]) -> Vec<Vec<Link>> {
    let mut disks: Vec<Vec<Link>> = Vec::new();
    let mut places: HashMap<&str, usize> = HashMap::new();
    for backup in ancestry {
        for disk in &backup.disks {
            let place = *places.entry(&disk.disk_key.0).or_insert_with(|| {
                disks.push(Vec::new());
                disks.len() - 1
            });
            let backing =
                disks[place].first().map(|below| layout::file_name(&below.disk.object_key).to_owned());
            disks[place].insert(0, Link { backup_id: backup.id, disk: disk.clone(), backing });
        }
    }
    disks
}

/// Whether the manifest says what the catalog knows.
pub(super) async fn check_manifest(store: &mut ObjectStore, backup: &Backup) -> Result<Option<Finding>> {
    let mut bytes = Err(Error::not_found("object", &backup.manifest_key));
    for key in backup.staged_manifest_key.iter().chain([&backup.manifest_key]) {
        bytes = store.read(key).await;
        if !matches!(&bytes, Err(error) if error.kind() == ErrorKind::NotFound) {
            break;
        }
    }
    let found = bytes.and_then(|bytes| manifest::read(&backup.manifest_key, &bytes, backup.repository_id));
    match found {
        Ok(found) => Ok(differs(&found.backup, backup)
            .map(|what| Finding::of_manifest(backup, format!("the manifest tells of another {what}")))),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            Ok(Some(Finding::of_manifest(backup, "the manifest is missing")))
        }
        Err(error) if error.kind() == ErrorKind::Damaged => {
            Ok(Some(Finding::of_manifest(backup, error.chain())))
        }
        Err(error) => Err(error),
    }
}

/// In what a manifest differs from the catalog.
fn differs(told: &Backup, known: &Backup) -> Option<&'static str> {
    let disks = |backup: &Backup| -> Vec<BackupDisk> {
        backup.disks.iter().map(|disk| BackupDisk { staged_key: None, ..disk.clone() }).collect()
    };
    let checks = [
        ("backup", told.id == known.id),
        ("VM", told.vm_id == known.vm_id),
        ("type", told.backup_type == known.backup_type),
        ("parent", told.parent_id == known.parent_id),
        ("snapshot", told.snapshot_at == known.snapshot_at),
        ("set of disks and objects", disks(told) == disks(known)),
    ];
    checks.iter().find(|(_, same)| !same).map(|(what, _)| *what)
}

/// Checks the images of one disk, the newest first.
pub(super) async fn check_disk(
    job: &JobContext,
    store: &mut ObjectStore,
    links: Vec<Link>,
    level: VerifyLevel,
    read: &Arc<AtomicU64>,
) -> Result<CheckedDisk> {
    let mut checked = CheckedDisk::default();
    let mut subjects = Vec::new();
    for link in links {
        checked.objects += 1 + u64::from(link.disk.ranges.is_some());
        checked.stored_bytes += link.disk.stored.0;
        let image = present(chain::open_object(store, &link.disk).await)?;
        let digests = match &link.disk.ranges {
            Some(ranges) => Some(present(store.open_object(&ranges.object_key).await)?),
            None => None,
        };
        subjects.push(Subject { link, image, digests });
    }
    let (threads, read, cancel) = (job.shared.limits.encoders, Arc::clone(read), job.cancel.clone());
    store::blocking("verifying a disk", move || {
        let work = scan::Work { threads: threads.max(MIN_THREADS), read: &read, cancel: &cancel };
        let inspected = inspect::inspect_all(subjects, level, &work)?;
        prove(inspected, level, &work, &mut checked)?;
        Ok(checked)
    })
    .await
}

/// Fewer threads would leave the disk idle while they compute.
pub(super) const MIN_THREADS: usize = 4;

/// What is not there, or no file, is a finding of its own.
fn present(opened: Result<File>) -> Result<std::result::Result<File, (Kind, String)>> {
    match opened {
        Ok(file) => Ok(Ok(file)),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            Ok(Err((Kind::Missing, "is missing".to_owned())))
        }
        Err(error) if error.kind() == ErrorKind::Damaged => Ok(Err((Kind::Structure, error.chain()))),
        Err(error) => Err(error),
    }
}

/// Reads what the inspection left to read, and turns everything into findings.
fn prove(
    inspected: Vec<Inspected>,
    level: VerifyLevel,
    work: &scan::Work<'_>,
    checked: &mut CheckedDisk,
) -> Result<()> {
    let digests: HashMap<String, Link> =
        inspected.iter().map(|one| (one.link.disk.digest.clone(), one.link.clone())).collect();
    let (mut notes, mut layers) = (Vec::new(), Vec::new());
    for one in inspected {
        let Inspected { link, layer, trouble, digests_trouble, lost } = one;
        if let Some(message) = &digests_trouble {
            let mut finding =
                Finding::of_disk(link.backup_id, &link.disk, Kind::RangeDigests, message.clone());
            if let Some(ranges) = &link.disk.ranges {
                finding.object_key.clone_from(&ranges.object_key);
            }
            checked.findings.push(finding);
        }
        match layer {
            Some(layer) if level > VerifyLevel::Quick => {
                notes.push((link, trouble, digests_trouble.is_some()));
                layers.push(layer);
            }
            _ => {
                if let Some((kind, message)) = trouble {
                    let mut finding = Finding::of_disk(link.backup_id, &link.disk, kind, message);
                    finding.ranges = lost.map(|lost| lost.list(link.disk.capacity));
                    checked.findings.push(finding);
                }
            }
        }
    }
    let depth = if level == VerifyLevel::Deep { Depth::Clusters } else { Depth::Bytes };
    let found = scan::scan(&layers, depth, work)?;
    for (((link, trouble, bad_digests), layer), mut found) in notes.into_iter().zip(layers).zip(found) {
        let good = trouble.is_none() && found.digest.as_ref() == Some(&link.disk.digest);
        if depth == Depth::Bytes && !good {
            // Only now it matters which of the guest's clusters are concerned.
            let digest = found.digest.take();
            let layers = std::slice::from_ref(&layer);
            found = scan::scan(layers, Depth::Clusters, work)?.pop().unwrap_or_default();
            found.digest = digest;
        }
        if level == VerifyLevel::Deep {
            checked.compared_clusters += found.compared;
            checked.not_compared.extend(not_compared(&link, &layer, &found, bad_digests));
        }
        checked.findings.extend(verdict(&link, trouble, &found, layer.digests.is_some(), &digests));
    }
    Ok(())
}

fn not_compared(link: &Link, layer: &Layer, found: &Found, bad_digests: bool) -> Option<NotCompared> {
    let reason = match (layer.digests.is_some(), bad_digests) {
        (true, _) => return None,
        (false, true) => "its range digests are damaged",
        (false, false) => "made by a version without range digests",
    };
    let (backup_id, disk_index) = (link.backup_id, link.disk.disk_index);
    Some(NotCompared { backup_id, disk_index, clusters: found.uncompared, reason })
}

/// What an image that was read amounts to.
fn verdict(
    link: &Link,
    trouble: Option<(Kind, String)>,
    found: &Found,
    has_digests: bool,
    digests: &HashMap<String, Link>,
) -> Option<Finding> {
    let disk = &link.disk;
    let same = found.digest.as_ref() == Some(&disk.digest);
    let other = found.digest.as_ref().filter(|_| !same).and_then(|digest| digests.get(digest));
    let swapped = other.map(|other| {
        format!("it holds the object of backup {} disk {}", other.backup_id, other.disk.disk_index)
    });
    let mut ranges = (!found.damaged.is_empty()).then(|| found.damaged.list(disk.capacity));
    let (kind, message) = match (trouble, swapped) {
        (Some((kind, message)), swapped) => {
            (kind, [Some(message), swapped].into_iter().flatten().collect::<Vec<_>>().join("; "))
        }
        (None, Some(swapped)) => {
            (Kind::Digest, format!("has another BLAKE3 digest than was recorded: {swapped}"))
        }
        (None, None) if !found.problems.is_empty() => {
            (Kind::Structure, format!("is not sound in structure: {}", found.problems.join(", ")))
        }
        (None, None) if same && found.flaws.is_empty() => return None,
        (None, None) => {
            let digest = found.digest.as_deref().unwrap_or("that cannot be computed");
            let digest = format!("has the BLAKE3 digest {digest} instead of {}", disk.digest);
            // Without range digests nobody knows which other clusters are concerned.
            match (found.flaws.is_empty(), has_digests) {
                (true, true) => {
                    (Kind::Digest, format!("{digest}; no cluster of the guest, but what describes them"))
                }
                (true, false) => {
                    (Kind::Digest, format!("{digest}; which part is not known without range digests"))
                }
                (false, true) if same => (Kind::Data, flaws_in_words(found)),
                (false, true) => (Kind::Data, format!("{digest}: {}", flaws_in_words(found))),
                (false, false) => (Kind::Digest, format!("{digest}: {}", flaws_in_words(found))),
            }
        }
    };
    let message = match &ranges {
        Some(ranges) if !ranges.is_empty() => format!("{message}, {}", ranges::in_words(ranges)),
        _ => message,
    };
    let mut finding = Finding::of_disk(link.backup_id, disk, kind, message);
    finding.ranges = ranges.take();
    Some(finding)
}

fn flaws_in_words(found: &Found) -> String {
    let told = found.flaws.iter().map(|(flaw, count)| {
        let what = match flaw {
            Flaw::Unreadable => "cannot be read from the medium",
            Flaw::Undecodable => "cannot be decoded",
            Flaw::Differs => "differ from their digest",
            Flaw::Missing => "are not stored any more",
            Flaw::Unexpected => "were never recorded",
        };
        format!("{count} clusters {what}")
    });
    told.collect::<Vec<_>>().join(", ")
}
