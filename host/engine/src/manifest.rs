//! The manifest beside each backup's disks: all that the catalog knows of it, so that a lost catalog is rebuilt
//! from the repository alone. JSON, versioned; unknown fields are passed over, an unknown version is refused.
//! The format is described in `docs/format.md`.

use serde::{Deserialize, Serialize};
use tidemark_catalog::{Backup, BackupDisk, RangeDigests, Vm};
use tidemark_model::{BackupStatus, ByteLen, ChangeId, DiskKey, RepositoryId, UtcMillis};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::error::{Error, Result};

/// What ends a manifest from version 2 on: the BLAKE3 digest of all bytes before this.
const SEAL: (&str, &str) = (",\n  \"blake3\": \"", "\"\n}");
/// The first version that is sealed.
const SEALED_SINCE: u32 = 2;
/// The word in the field `format`.
const FORMAT: &str = "tidemark-manifest";
/// The newest version that this host reads and the one it writes.
const VERSION: u32 = 2;

#[derive(Debug, Serialize, Deserialize)]
struct Document {
    format: String,
    version: u32,
    vm: VmPart,
    backup: BackupPart,
    disks: Vec<DiskPart>,
}

#[derive(Debug, Serialize, Deserialize)]
struct VmPart {
    id: String,
    key: String,
    name: String,
    inventory: serde_json::Value,
}

#[derive(Debug, Serialize, Deserialize)]
struct BackupPart {
    id: String,
    #[serde(rename = "type")]
    backup_type: String,
    parent_id: Option<String>,
    reason_code: String,
    reason: String,
    started_at: String,
    snapshot_at: String,
    completed_at: String,
    /// Since version 2.
    #[serde(default)]
    consolidated_at: Option<String>,
    /// Of copies only: the backup of another repository.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    copy_of: Option<String>,
    plugins: serde_json::Value,
    warnings: serde_json::Value,
}

#[derive(Debug, Serialize, Deserialize)]
struct DiskPart {
    index: u32,
    key: String,
    label: String,
    capacity_bytes: u64,
    change_id: Option<String>,
    object: String,
    stored_bytes: u64,
    read_bytes: u64,
    skipped_bytes: u64,
    moved_ms: u64,
    blake3: String,
    /// Since version 2.
    #[serde(default)]
    ranges: Option<RangesPart>,
}

#[derive(Debug, Serialize, Deserialize)]
struct RangesPart {
    object: String,
    stored_bytes: u64,
    blake3: String,
}

/// What a manifest says, without the repository it was found in.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) vm: Vm,
    pub(crate) backup: Backup,
}

/// The manifest's bytes.
pub(crate) fn write(vm: &Vm, backup: &Backup) -> Result<Vec<u8>> {
    let document = Document {
        format: FORMAT.to_owned(),
        version: VERSION,
        vm: VmPart {
            id: vm.id.to_string(),
            key: vm.key.clone(),
            name: backup.vm_name.clone(),
            inventory: parse_json(&vm.inventory_json)?,
        },
        backup: BackupPart {
            id: backup.id.to_string(),
            backup_type: backup.backup_type.as_str().to_owned(),
            parent_id: backup.parent_id.map(|id| id.to_string()),
            reason_code: backup.reason_code.clone(),
            reason: backup.reason.clone(),
            started_at: rfc3339(backup.started_at)?,
            snapshot_at: rfc3339(backup.snapshot_at)?,
            completed_at: rfc3339(backup.completed_at)?,
            consolidated_at: backup.consolidated_at.map(rfc3339).transpose()?,
            copy_of: backup.copy_of.map(|id| id.to_string()),
            plugins: parse_json(&backup.plugins_json)?,
            warnings: parse_json(&backup.warnings_json)?,
        },
        disks: backup.disks.iter().map(disk_part).collect(),
    };
    let mut bytes = serde_json::to_vec_pretty(&document)
        .map_err(|e| Error::internal(format!("writing a manifest: {e}")))?;
    seal(&mut bytes);
    Ok(bytes)
}

/// Puts the digest of the document in its own last field.
fn seal(bytes: &mut Vec<u8>) {
    bytes.truncate(
        bytes.trim_ascii_end().strip_suffix(b"}").map_or(bytes.len(), |open| open.trim_ascii_end().len()),
    );
    let digest = blake3::hash(bytes).to_hex();
    let (before, after) = SEAL;
    bytes.extend([before, digest.as_str(), after].concat().bytes());
}

/// Whether the document's last field is the digest of all before it.
fn is_sealed(bytes: &[u8]) -> bool {
    let (before, after) = SEAL;
    let Some(rest) = bytes.strip_suffix(after.as_bytes()) else { return false };
    let Some((rest, digest)) = rest.split_last_chunk::<64>() else { return false };
    rest.strip_suffix(before.as_bytes())
        .is_some_and(|sealed| blake3::hash(sealed).to_hex().as_bytes() == digest)
}

/// Reads what [`write`] made.
///
/// # Errors
/// Damaged where it is no manifest of a known version or contradicts itself.
pub(crate) fn read(key: &str, bytes: &[u8], repository_id: RepositoryId) -> Result<Found> {
    let damaged = |why: String| Error::damaged(format!("manifest {key}: {why}"));
    let document: Document = serde_json::from_slice(bytes).map_err(|e| damaged(e.to_string()))?;
    let Document { format, version, vm, backup, disks } = document;
    if format != FORMAT || version == 0 || version > VERSION {
        return Err(damaged(format!("format '{format}' version {version} is not known; update tidemark")));
    }
    if version >= SEALED_SINCE && !is_sealed(bytes) {
        return Err(damaged("its bytes do not have the digest that it ends with".to_owned()));
    }
    if disks.iter().zip(0..).any(|(disk, index)| disk.index != index) {
        return Err(damaged("its disks are not numbered 0, 1, …".to_owned()));
    }
    let VmPart { id: vm_id, key: vm_key, name: vm_name, inventory } = vm;
    let vm_id = vm_id.parse().map_err(|e| damaged(format!("{e}")))?;
    let started_at = millis(&backup.started_at).map_err(damaged)?;
    let record = Backup {
        id: backup.id.parse().map_err(|e| damaged(format!("{e}")))?,
        vm_id,
        vm_name: vm_name.clone(),
        repository_id,
        backup_type: backup.backup_type.parse().map_err(|e| damaged(format!("{e}")))?,
        parent_id: match backup.parent_id {
            Some(text) => Some(text.parse().map_err(|e| damaged(format!("{e}")))?),
            None => None,
        },
        status: BackupStatus::Completed,
        reason_code: backup.reason_code,
        reason: backup.reason,
        started_at,
        snapshot_at: millis(&backup.snapshot_at).map_err(damaged)?,
        completed_at: millis(&backup.completed_at).map_err(damaged)?,
        manifest_key: key.to_owned(),
        pinned: false,
        plugins_json: backup.plugins.to_string(),
        warnings_json: backup.warnings.to_string(),
        job_id: None,
        verified_at: None,
        verified_level: None,
        consolidated_at: match backup.consolidated_at.as_deref() {
            Some(text) => Some(millis(text).map_err(damaged)?),
            None => None,
        },
        copy_of: match backup.copy_of {
            Some(text) => Some(text.parse().map_err(|e| damaged(format!("{e}")))?),
            None => None,
        },
        staged_manifest_key: None,
        disks: disks.into_iter().map(backup_disk).collect(),
    };
    let vm = Vm {
        id: vm_id,
        connector_id: None,
        key: vm_key,
        name: vm_name,
        inventory_json: inventory.to_string(),
        created_at: started_at,
    };
    Ok(Found { vm, backup: record })
}

fn disk_part(disk: &BackupDisk) -> DiskPart {
    let BackupDisk {
        disk_index,
        disk_key,
        label,
        capacity,
        change_id,
        object_key,
        stored,
        read,
        skipped,
        moved_ms,
        digest,
        staged_key: _,
        ranges,
    } = disk;
    DiskPart {
        index: *disk_index,
        key: disk_key.0.clone(),
        label: label.clone(),
        capacity_bytes: capacity.0,
        change_id: change_id.as_ref().map(|id| id.0.clone()),
        object: object_key.clone(),
        stored_bytes: stored.0,
        read_bytes: read.0,
        skipped_bytes: skipped.0,
        moved_ms: *moved_ms,
        blake3: digest.clone(),
        ranges: ranges.as_ref().map(|RangeDigests { object_key, stored, digest }| RangesPart {
            object: object_key.clone(),
            stored_bytes: stored.0,
            blake3: digest.clone(),
        }),
    }
}

fn backup_disk(part: DiskPart) -> BackupDisk {
    let DiskPart {
        index,
        key,
        label,
        capacity_bytes,
        change_id,
        object,
        stored_bytes,
        read_bytes,
        skipped_bytes,
        moved_ms,
        blake3,
        ranges,
    } = part;
    BackupDisk {
        disk_index: index,
        disk_key: DiskKey(key),
        label,
        capacity: ByteLen(capacity_bytes),
        change_id: change_id.map(ChangeId),
        object_key: object,
        stored: ByteLen(stored_bytes),
        read: ByteLen(read_bytes),
        skipped: ByteLen(skipped_bytes),
        moved_ms,
        digest: blake3,
        staged_key: None,
        ranges: ranges.map(|RangesPart { object, stored_bytes, blake3 }| RangeDigests {
            object_key: object,
            stored: ByteLen(stored_bytes),
            digest: blake3,
        }),
    }
}

fn parse_json(text: &str) -> Result<serde_json::Value> {
    serde_json::from_str(text).map_err(|e| Error::internal(format!("a JSON column of the catalog: {e}")))
}

fn rfc3339(at: UtcMillis) -> Result<String> {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(at.0) * 1_000_000)
        .map_err(|e| Error::internal(e.to_string()))?
        .format(&Rfc3339)
        .map_err(|e| Error::internal(e.to_string()))
}

fn millis(text: &str) -> std::result::Result<UtcMillis, String> {
    let moment =
        OffsetDateTime::parse(text, &Rfc3339).map_err(|e| format!("'{text}' is no RFC 3339 time: {e}"))?;
    i64::try_from(moment.unix_timestamp_nanos() / 1_000_000)
        .map(UtcMillis)
        .map_err(|_| format!("'{text}' is out of range"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidemark_model::{BackupId, BackupType, VmId};

    fn sample() -> (Vm, Backup) {
        let vm = Vm {
            id: VmId::random(),
            connector_id: None,
            key: "vm-10".to_owned(),
            name: "web01".to_owned(),
            inventory_json: r#"{"guest_os":"linux"}"#.to_owned(),
            created_at: UtcMillis(1_767_323_045_123),
        };
        let backup = Backup {
            id: BackupId::random(),
            vm_id: vm.id,
            vm_name: vm.name.clone(),
            repository_id: RepositoryId::random(),
            backup_type: BackupType::Incremental,
            parent_id: Some(BackupId::random()),
            status: BackupStatus::Completed,
            reason_code: "incremental".to_owned(),
            reason: "changes since the parent are known".to_owned(),
            started_at: UtcMillis(1_767_323_045_123),
            snapshot_at: UtcMillis(1_767_323_046_000),
            completed_at: UtcMillis(1_767_323_047_999),
            manifest_key: "web01-x/y.json".to_owned(),
            pinned: false,
            plugins_json: r#"{"vcenter":"0.1.0"}"#.to_owned(),
            warnings_json: r#"["not quiesced"]"#.to_owned(),
            job_id: None,
            verified_at: None,
            verified_level: None,
            consolidated_at: Some(UtcMillis(1_767_400_000_000)),
            copy_of: None,
            staged_manifest_key: None,
            disks: vec![BackupDisk {
                disk_index: 0,
                disk_key: DiskKey("2000".to_owned()),
                label: "Hard disk 1".to_owned(),
                capacity: ByteLen(1 << 30),
                change_id: Some(ChangeId("52 de/7".to_owned())),
                object_key: "web01-x/disk-0/y-incr.qcow2".to_owned(),
                stored: ByteLen(4096),
                read: ByteLen(8192),
                skipped: ByteLen((1 << 30) - 8192),
                moved_ms: 12,
                digest: "ab".repeat(32),
                staged_key: None,
                ranges: Some(RangeDigests {
                    object_key: "web01-x/disk-0/y-incr.digests".to_owned(),
                    stored: ByteLen(96),
                    digest: "cd".repeat(32),
                }),
            }],
        };
        (vm, backup)
    }

    #[test]
    fn a_manifest_says_all_that_the_catalog_knew() {
        let (vm, backup) = sample();
        let bytes = write(&vm, &backup).unwrap();
        let found = read(&backup.manifest_key, &bytes, backup.repository_id).unwrap();
        assert_eq!(found.backup, backup);
        assert_eq!(found.vm, Vm { created_at: backup.started_at, ..vm });
    }

    #[test]
    fn the_first_version_is_read_for_ever() {
        let golden = include_bytes!("../../../tests/golden/manifest-v1.json");
        let Found { vm, backup } = read("web01/k.json", golden, RepositoryId::random()).unwrap();
        assert_eq!((vm.key.as_str(), vm.name.as_str()), ("vm-10", "web01"));
        assert_eq!(backup.parent_id.unwrap().short(), "1c9a4be0");
        assert_eq!((backup.started_at.0, backup.completed_at.0), (1_767_323_045_123, 1_767_323_047_999));
        let disk = &backup.disks[0];
        assert_eq!(disk.change_id.as_ref().unwrap().0, "52 de c0 d9 b9 43 9d 10-61 d5 4c 1b e9 7b 65 63/7");
        assert_eq!((disk.stored.0, disk.read.0, disk.skipped.0), (4096, 8192, 1_073_733_632));
        assert_eq!(backup.warnings_json, r#"["the guest could not be quiesced"]"#);
    }

    #[test]
    fn the_second_version_is_read_for_ever() {
        let golden = include_bytes!("../../../tests/golden/manifest-v2.json");
        let Found { backup, .. } = read("web01/k.json", golden, RepositoryId::random()).unwrap();
        assert_eq!(backup.consolidated_at, Some(UtcMillis(1_770_091_506_000)));
        let ranges = backup.disks[0].ranges.as_ref().unwrap();
        assert!(ranges.object_key.ends_with("-incr.digests") && ranges.stored == ByteLen(96));
        assert!(ranges.digest.starts_with("0f3e"));
    }

    #[test]
    fn a_newer_version_or_half_a_manifest_is_refused() {
        let (vm, backup) = sample();
        let bytes = write(&vm, &backup).unwrap();
        let newer = String::from_utf8(bytes.clone()).unwrap().replace("\"version\": 2", "\"version\": 3");
        let error = read("k", newer.as_bytes(), backup.repository_id).unwrap_err();
        assert!(error.to_string().contains("update tidemark"), "{error}");
        assert!(read("k", &bytes[..bytes.len() / 2], backup.repository_id).is_err());
    }

    #[test]
    fn every_flipped_bit_is_found() {
        let (vm, backup) = sample();
        let good = write(&vm, &backup).unwrap();
        for position in 0..good.len() {
            let mut bytes = good.clone();
            bytes[position] ^= 1 << (position % 8);
            assert!(read("k", &bytes, backup.repository_id).is_err(), "byte {position}");
        }
    }
}
