//! Opens a backup's disk as the guest saw it: the objects of its whole chain, found through the catalog alone. The
//! backing names inside the images are compared with what the catalog expects and never followed.

use std::sync::Arc;

use tidemark_catalog::{Backup, BackupDisk};
use tidemark_model::BackupStatus;
use tidemark_qcow2::{Chain, Image, ReadAt};

use crate::engine::Shared;
use crate::error::{Error, Result};
use crate::layout;
use crate::store::{self, ObjectStore};

/// The objects that make up a disk, the newest first.
pub(crate) fn links(ancestry: &[Backup], disk_index: u32) -> Result<Vec<&BackupDisk>> {
    let newest = ancestry.last().ok_or_else(|| Error::internal("a backup without itself in its ancestry"))?;
    let disk = newest
        .disks
        .iter()
        .find(|disk| disk.disk_index == disk_index)
        .ok_or_else(|| Error::not_found("disk", &format!("{disk_index} in backup {}", newest.id)))?;
    let mut links = Vec::new();
    for backup in ancestry.iter().rev() {
        let link = backup.disks.iter().find(|old| old.disk_key == disk.disk_key).ok_or_else(|| {
            Error::damaged(format!(
                "backup {} has no disk {}, which {} needs",
                backup.id, disk.disk_key, newest.id
            ))
        })?;
        links.push(link);
    }
    Ok(links)
}

/// A backup with all it needs, the full first; refused while it is marked damaged. One that it needs may be: its
/// own view does not show that damage then.
pub(crate) async fn ancestry(shared: &Shared, id: tidemark_model::BackupId) -> Result<Vec<Backup>> {
    let ancestry = shared.catalog.ancestry(id).await?;
    if let Some(bad) = ancestry.last().filter(|backup| backup.status == BackupStatus::Damaged) {
        return Err(Error::damaged(format!("backup {} is marked damaged; choose an older one", bad.id)));
    }
    Ok(ancestry)
}

/// The disk through its chain.
pub(crate) async fn open(store: &mut ObjectStore, links: &[&BackupDisk]) -> Result<Chain> {
    let mut sources: Vec<(String, Arc<dyn ReadAt>)> = Vec::new();
    for link in links {
        let file = store.open_object(&link.object_key).await?;
        sources.push((link.object_key.clone(), Arc::new(file)));
    }
    store::blocking("opening a chain", move || {
        let below =
            sources.iter().skip(1).map(|(key, _)| Some(layout::file_name(key).to_owned())).chain([None]);
        let mut layers = Vec::new();
        for ((key, source), expected) in sources.iter().zip(below) {
            let image = Image::open(Arc::clone(source))
                .map_err(|e| Error::from(e).context(format!("object {key}")))?;
            if image.backing_name() != expected.as_deref() {
                return Err(Error::damaged(format!(
                    "object {key} names the backing file {:?}, the catalog expects {expected:?}",
                    image.backing_name()
                )));
            }
            layers.push(image);
        }
        Ok(Chain::new(layers)?)
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidemark_model::{BackupId, BackupType, ByteLen, DiskKey, RepositoryId, UtcMillis, VmId};

    fn backup(disks: &[(u32, &str)]) -> Backup {
        let disks = disks.iter().map(|(index, key)| BackupDisk {
            disk_index: *index,
            disk_key: DiskKey((*key).to_owned()),
            label: String::new(),
            capacity: ByteLen(0),
            change_id: None,
            object_key: format!("o-{index}"),
            stored: ByteLen(0),
            read: ByteLen(0),
            skipped: ByteLen(0),
            moved_ms: 0,
            digest: String::new(),
            staged_key: None,
            ranges: None,
        });
        Backup {
            id: BackupId::random(),
            vm_id: VmId::random(),
            vm_name: "v".to_owned(),
            repository_id: RepositoryId::random(),
            backup_type: BackupType::Full,
            parent_id: None,
            status: BackupStatus::Completed,
            reason_code: String::new(),
            reason: String::new(),
            started_at: UtcMillis(0),
            snapshot_at: UtcMillis(0),
            completed_at: UtcMillis(0),
            manifest_key: String::new(),
            pinned: false,
            plugins_json: "{}".to_owned(),
            warnings_json: "[]".to_owned(),
            job_id: None,
            verified_at: None,
            verified_level: None,
            consolidated_at: None,
            staged_manifest_key: None,
            disks: disks.collect(),
        }
    }

    #[test]
    fn links_follow_the_disk_and_name_what_is_missing() {
        let chain = [backup(&[(0, "2000"), (1, "2001")]), backup(&[(0, "2001")])];
        let found: Vec<_> = links(&chain, 0).unwrap().iter().map(|link| link.object_key.as_str()).collect();
        assert_eq!(found, ["o-0", "o-1"]);
        assert!(links(&chain, 7).is_err());
        assert!(links(&[backup(&[]), backup(&[(0, "2001")])], 0).unwrap_err().to_string().contains("2001"));
    }
}
