//! The names of objects in a repository (on-disk contract):
//!
//! ```text
//! <vm-slug>-<vm-id8>/disk-<n>/<UTC yyyymmddThhmmssZ>-<backup-id8>-{full,incr}.qcow2
//! <vm-slug>-<vm-id8>/disk-<n>/<UTC yyyymmddThhmmssZ>-<backup-id8>-{full,incr}.digests
//! <vm-slug>-<vm-id8>/<UTC yyyymmddThhmmssZ>-<backup-id8>.json
//! ```

use tidemark_model::{BackupId, BackupType, UtcMillis, VmId, slug};
use time::OffsetDateTime;
use time::macros::format_description;

/// The key of one disk's image.
pub(crate) fn disk_key(
    vm_folder: &str,
    disk_index: u32,
    at: UtcMillis,
    backup: BackupId,
    backup_type: BackupType,
) -> String {
    let suffix = match backup_type {
        BackupType::Full => "full",
        BackupType::Incremental => "incr",
    };
    format!("{vm_folder}/disk-{disk_index}/{}-{}-{suffix}.qcow2", stamp(at), backup.short())
}

/// The key of the digests of an image's guest ranges: beside the image.
pub(crate) fn ranges_key(disk_key: &str) -> String {
    format!("{}.digests", disk_key.strip_suffix(".qcow2").unwrap_or(disk_key))
}

/// The key of a backup's manifest.
pub(crate) fn manifest_key(vm_folder: &str, at: UtcMillis, backup: BackupId) -> String {
    format!("{vm_folder}/{}-{}.json", stamp(at), backup.short())
}

/// The last part of a key: what a sibling's backing file name is.
pub(crate) fn file_name(key: &str) -> &str {
    key.rsplit('/').next().unwrap_or(key)
}

/// The folder of a VM's first backup; later ones follow their chain's.
pub(crate) fn vm_folder(name: &str, id: VmId) -> String {
    format!("{}-{}", slug(name), id.short())
}

/// The folder that a manifest lies in.
pub(crate) fn folder_of(manifest_key: &str) -> &str {
    manifest_key.rsplit_once('/').map_or("", |(folder, _)| folder)
}

/// `yyyymmddThhmmssZ`.
pub(crate) fn stamp(at: UtcMillis) -> String {
    let moment =
        OffsetDateTime::from_unix_timestamp(at.0.div_euclid(1000)).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let format = format_description!("[year][month][day]T[hour][minute][second]Z");
    moment.format(format).unwrap_or_else(|_| "19700101T000000Z".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_follow_the_contract() {
        let (vm, backup) = (VmId::random(), BackupId::random());
        let at = UtcMillis(1_767_323_045_123);
        let key = disk_key(&vm_folder("Web 01", vm), 1, at, backup, BackupType::Incremental);
        let expected = format!("web-01-{}/disk-1/20260102T030405Z-{}-incr.qcow2", vm.short(), backup.short());
        assert_eq!(key, expected);
        assert_eq!(file_name(&key), expected.rsplit('/').next().unwrap());
        let manifest = manifest_key(&vm_folder("Web 01", vm), at, backup);
        assert_eq!(manifest, format!("web-01-{}/20260102T030405Z-{}.json", vm.short(), backup.short()));
    }
}
