//! The names of objects in a repository (on-disk contract):
//!
//! ```text
//! <vm-slug>-<vm-id8>/disk-<n>/<UTC yyyymmddThhmmssZ>-<backup-id8>-{full,incr}.qcow2
//! <vm-slug>-<vm-id8>/disk-<n>/<UTC yyyymmddThhmmssZ>-<backup-id8>-{full,incr}.digests
//! <vm-slug>-<vm-id8>/<UTC yyyymmddThhmmssZ>-<backup-id8>.json
//! ```
//! What a merge makes bears `.merged-<job-id8>` before its suffix. Images and manifests lose it when they take the place
//! of what they replace; range digests, which nothing names from outside the catalog, keep it.

use tidemark_model::{BackupId, BackupType, JobId, UtcMillis, VmId, slug};
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

/// What marks an object that a merge made, until it takes the name of the one it replaces.
const MERGED: &str = ".merged-";

/// The key under which a merge publishes what will replace `key`.
pub(crate) fn merged_key(key: &str, job: JobId) -> String {
    let (stem, suffix) = key.rsplit_once('.').unwrap_or((key, ""));
    format!("{stem}{MERGED}{}.{suffix}", job.short())
}

/// The key that a merged object will have, and what its merge added to it; none for any other key.
pub(crate) fn unmerged_key(key: &str) -> Option<(String, &str)> {
    let (stem, suffix) = key.rsplit_once('.')?;
    let (stem, mark) = stem.split_at(stem.rfind(MERGED)?);
    let id = &mark[MERGED.len()..];
    let plausible = id.len() == 8 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    plausible.then(|| (format!("{stem}.{suffix}"), mark))
}

/// The key under which the merge that added `mark` to one of a backup's objects published another one.
pub(crate) fn marked_key(key: &str, mark: &str) -> String {
    let (stem, suffix) = key.rsplit_once('.').unwrap_or((key, ""));
    format!("{stem}{mark}.{suffix}")
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

/// What an object is, as far as its name tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ObjectSort {
    Image,
    Ranges,
    Manifest,
}

/// The length of what the names of one backup's objects have in common: `yyyymmddThhmmssZ-<backup-id8>`.
pub(crate) const STEM_LEN: usize = 16 + 1 + 8;

/// What an object is; none where the name is none of ours, whatever is in it.
pub(crate) fn sort_of(key: &str) -> Option<ObjectSort> {
    let parts: Vec<&str> = key.split('/').collect();
    let (folder, disk, name) = match parts.as_slice() {
        [folder, name] => (*folder, None, *name),
        [folder, disk, name] => (*folder, Some(*disk), *name),
        _ => return None,
    };
    let of_vm = folder.rsplit_once('-').is_some_and(|(slug, id)| !slug.is_empty() && is_id8(id));
    let (stem, rest) = name.split_at_checked(STEM_LEN)?;
    let (at, id) = stem.split_once('-')?;
    let dated = at.len() == 16
        && at.bytes().enumerate().all(|(index, byte)| match index {
            8 => byte == b'T',
            15 => byte == b'Z',
            _ => byte.is_ascii_digit(),
        });
    if !of_vm || !dated || !is_id8(id) {
        return None;
    }
    let (middle, suffix) = rest.rsplit_once('.')?;
    let number = disk.map(|disk| disk.strip_prefix("disk-").is_some_and(|n| n.parse::<u32>().is_ok()));
    let merged = |rest: &str| rest.is_empty() || rest.strip_prefix(".merged-").is_some_and(is_id8);
    let of_disk = ["-full", "-incr"].iter().any(|sort| middle.strip_prefix(sort).is_some_and(merged));
    match (number, suffix) {
        (None, "json") if merged(middle) => Some(ObjectSort::Manifest),
        (Some(true), "qcow2") if of_disk => Some(ObjectSort::Image),
        (Some(true), "digests") if of_disk => Some(ObjectSort::Ranges),
        _ => None,
    }
}

fn is_id8(text: &str) -> bool {
    text.len() == 8 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
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

    #[test]
    fn what_a_merge_makes_is_told_apart() {
        let job = JobId::random();
        let merged = merged_key("web-01/disk-0/a-incr.qcow2", job);
        assert_eq!(merged, format!("web-01/disk-0/a-incr.merged-{}.qcow2", job.short()));
        let (key, mark) = unmerged_key(&merged).unwrap();
        assert_eq!(key, "web-01/disk-0/a-incr.qcow2");
        assert_eq!(marked_key(&key, mark), merged);
        for other in ["web-01/a.json", "x", "a.merged-.json", "a.merged-12345678", "a.merged-1234567z.json"] {
            assert_eq!(unmerged_key(other), None, "{other}");
        }
    }

    #[test]
    fn our_names_are_told_from_others() {
        let stem = "web-01-0a1b2c3d/disk-1/20260102T030405Z-11223344";
        let manifest = "web-01-0a1b2c3d/20260102T030405Z-11223344";
        for (key, sort) in [
            (format!("{stem}-full.qcow2"), Some(ObjectSort::Image)),
            (format!("{stem}-incr.merged-55667788.qcow2"), Some(ObjectSort::Image)),
            (format!("{stem}-incr.digests"), Some(ObjectSort::Ranges)),
            (format!("{manifest}.json"), Some(ObjectSort::Manifest)),
            (format!("{manifest}.merged-55667788.json"), Some(ObjectSort::Manifest)),
            (format!("{stem}-full.qcow2.bak"), None),
            (format!("{stem}-copy.qcow2"), None),
            (format!("{stem}.json"), None),
            (format!("{manifest}-full.qcow2"), None),
            (format!("deeper/{stem}-full.qcow2"), None),
            ("web-01-0a1b2c3d/disk-x/20260102T030405Z-11223344-full.qcow2".to_owned(), None),
            ("web-01-0a1b2c3d/disk-1/20260102T0304056-11223344-full.qcow2".to_owned(), None),
            ("notes.json".to_owned(), None),
            (".tidemark-repository".to_owned(), None),
            ("a-0a1b2c3d/ünïcödé-and-more-of-it-here.json".to_owned(), None),
        ] {
            assert_eq!(sort_of(&key), sort, "{key}");
        }
    }
}
