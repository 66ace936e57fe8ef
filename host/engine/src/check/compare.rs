//! What a check decides, without touching anything: which manifests differ from the catalog, and which of the
//! objects that the catalog does not know belong to backups that could be imported.

use std::collections::{HashMap, HashSet};

use serde_json::Value;
use tidemark_catalog::{Backup, BackupDisk};
use tidemark_model::{BackupId, ByteLen};

use crate::layout;
use crate::manifest::Found;

/// In what a manifest says something else than the catalog; empty where in nothing that a restore depends on.
pub(super) fn differences(row: &Backup, said: &Backup) -> Vec<&'static str> {
    let mut different = Vec::new();
    let mut hold = |same: bool, what| {
        if !same && !different.contains(&what) {
            different.push(what);
        }
    };
    hold(row.id == said.id, "id");
    hold(row.vm_id == said.vm_id, "VM");
    hold(row.backup_type == said.backup_type, "type");
    hold(row.parent_id == said.parent_id, "parent");
    hold(row.snapshot_at == said.snapshot_at, "time of the snapshot");
    hold(row.disks.len() == said.disks.len(), "number of disks");
    for (disk, other) in row.disks.iter().zip(&said.disks) {
        let BackupDisk {
            disk_index, disk_key, capacity, change_id, object_key, stored, digest, ranges, ..
        } = disk;
        hold((disk_index, disk_key) == (&other.disk_index, &other.disk_key), "disks");
        hold(*capacity == other.capacity, "capacity");
        hold(*change_id == other.change_id, "change id");
        hold(*object_key == other.object_key, "object");
        hold(*stored == other.stored, "size");
        hold(*digest == other.digest, "digest");
        hold(*ranges == other.ranges, "range digests");
    }
    different
}

/// A backup with all that needs it, directly or not.
pub(super) fn needing(backups: &[Backup], id: BackupId) -> Vec<BackupId> {
    let mut needing = vec![id];
    let mut next = 0;
    while let Some(parent) = needing.get(next).copied() {
        let children = backups.iter().filter(|backup| backup.parent_id == Some(parent));
        needing.extend(children.map(|child| child.id));
        next += 1;
    }
    needing
}

/// Every object that the steps of a job name, whatever sort of step it is: members `key`.
pub(super) fn keys_in(step: &Value, keys: &mut HashSet<String>) {
    match step {
        Value::Object(fields) => {
            for (name, value) in fields {
                match value.as_str() {
                    Some(key) if name == "key" => {
                        keys.insert(key.to_owned());
                    }
                    _ => keys_in(value, keys),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| keys_in(item, keys)),
        _ => {}
    }
}

/// A manifest of a backup that the catalog does not know in this repository.
pub(super) struct Stranger {
    pub(super) found: Found,
    /// All of its objects are there.
    pub(super) whole: bool,
}

/// Whether every image that a manifest names is there with its size, be it under the name that an interrupted merge
/// gave it.
pub(super) fn is_whole(found: &Found, sizes: &HashMap<String, ByteLen>) -> bool {
    found.backup.disks.iter().all(|disk| {
        let BackupDisk { object_key, stored, .. } = disk;
        let merged = |(key, size): (&String, &ByteLen)| {
            size == stored && layout::unmerged_key(key).is_some_and(|(final_key, _)| final_key == *object_key)
        };
        sizes.get(object_key) == Some(stored) || sizes.iter().any(merged)
    })
}

/// The objects of those strangers that are whole, and of those that these need: they are nobody's garbage.
pub(super) fn kept(strangers: &[Stranger]) -> HashSet<&str> {
    let by_id: HashMap<BackupId, &Stranger> =
        strangers.iter().map(|one| (one.found.backup.id, one)).collect();
    let mut kept = HashSet::new();
    let mut seen = HashSet::new();
    for stranger in strangers.iter().filter(|stranger| stranger.whole) {
        let mut next = Some(stranger.found.backup.id);
        while let Some(one) = next.filter(|id| seen.insert(*id)).and_then(|id| by_id.get(&id)) {
            kept.extend(keys_of(&one.found.backup));
            next = one.found.backup.parent_id;
        }
    }
    kept
}

/// Every object of a backup, under whatever key it may be now.
pub(super) fn keys_of(backup: &Backup) -> impl Iterator<Item = &str> {
    let Backup { manifest_key, staged_manifest_key, disks, .. } = backup;
    let disks = disks.iter().flat_map(|disk| {
        let ranges = disk.ranges.as_ref().map(|ranges| ranges.object_key.as_str());
        [Some(disk.object_key.as_str()), disk.staged_key.as_deref(), ranges]
    });
    [Some(manifest_key.as_str()), staged_manifest_key.as_deref()].into_iter().chain(disks).flatten()
}

/// What the names of one backup's objects have in common, whatever a merge added to them: folder and stem.
pub(super) fn origin(key: &str) -> Option<(&str, &str)> {
    Some((key.split('/').next()?, layout::file_name(key).get(..layout::STEM_LEN)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn keys_are_found_in_any_step() {
        let step = json!({ "step": "anything", "objects": [{ "key": "a", "token": "t" }, { "key": "b" }],
                           "deeper": { "change": [{ "key": "c" }] }, "vm_key": "vm-1" });
        let mut keys = HashSet::new();
        keys_in(&step, &mut keys);
        assert_eq!(keys, ["a", "b", "c"].map(str::to_owned).into());
    }

    #[test]
    fn objects_of_one_backup_are_told_by_their_names() {
        let manifest = "web-01-0a1b2c3d/20260102T030405Z-11223344.json";
        let same = |key: &str| origin(key).is_some() && origin(key) == origin(manifest);
        assert!(same("web-01-0a1b2c3d/disk-0/20260102T030405Z-11223344-full.qcow2"));
        assert!(same("web-01-0a1b2c3d/disk-0/20260102T030405Z-11223344-full.merged-55667788.qcow2"));
        assert!(!same("web-01-0a1b2c3d/disk-0/20260102T030405Z-11223345-full.qcow2"));
        assert!(!same("web-02-0a1b2c3d/disk-0/20260102T030405Z-11223344-full.qcow2"));
        assert!(!same("web-01-0a1b2c3d/x"));
    }
}
