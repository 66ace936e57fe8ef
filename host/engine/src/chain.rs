//! Opens a backup's disk as the guest saw it: the objects of its whole chain, found through the catalog alone. The
//! backing names inside the images are compared with what the catalog expects and never followed.

use std::fs::File;
use std::sync::Arc;

use tidemark_catalog::{Backup, BackupDisk};
use tidemark_model::{BackupStatus, ByteLen};
use tidemark_qcow2::{Chain, Image, ReadAt};

use crate::engine::Shared;
use crate::error::{Error, ErrorKind, Result};
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

/// How often a chain that was merged while it was being opened is looked up again.
const ATTEMPTS: u32 = 3;

/// Opens a disk of a backup through all that it needs; it stays good whatever becomes of the objects' names. A merge may
/// change the chain meanwhile: where an object is missing or not what was expected, the catalog is asked again, and only
/// what contradicts its newest answer is damage.
///
/// # Errors
/// Not found; damaged.
pub(crate) async fn open_disk(
    shared: &Shared,
    store: &mut ObjectStore,
    id: tidemark_model::BackupId,
    disk_index: u32,
) -> Result<Chain> {
    let mut attempt = 1;
    loop {
        let ancestry = ancestry(shared, id).await?;
        match open(store, &links(&ancestry, disk_index)?).await {
            Ok(view) => return Ok(view),
            Err(error) if attempt == ATTEMPTS || !has_changed_since(shared, &error, &ancestry).await? => {
                return Err(error);
            }
            Err(_) => attempt += 1,
        }
    }
}

/// Whether an error may come from a merge that happened since `ancestry` was read.
async fn has_changed_since(shared: &Shared, error: &Error, ancestry: &[Backup]) -> Result<bool> {
    if !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Damaged) {
        return Ok(false);
    }
    let Some(newest) = ancestry.last() else { return Ok(false) };
    let now = shared.catalog.ancestry(newest.id).await?;
    let objects = |backups: &[Backup]| -> Vec<_> {
        backups.iter().map(|backup| (backup.id, backup.consolidated_at, backup.disks.clone())).collect()
    };
    Ok(objects(&now) != objects(ancestry))
}

/// A disk's object: under the name that a merge gave it first, as long as it has no other.
pub(crate) async fn open_object(store: &mut ObjectStore, disk: &BackupDisk) -> Result<File> {
    if let Some(staged) = &disk.staged_key {
        match store.open_object(staged).await {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            opened => return opened,
        }
    }
    store.open_object(&disk.object_key).await
}

/// The size of a disk's object; none where it does not exist.
pub(crate) async fn object_size(store: &mut ObjectStore, disk: &BackupDisk) -> Result<Option<ByteLen>> {
    if let Some(staged) = &disk.staged_key
        && let Some(size) = store.size(staged).await?
    {
        return Ok(Some(size));
    }
    store.size(&disk.object_key).await
}

/// The disk through its chain, as these links have it.
pub(crate) async fn open(store: &mut ObjectStore, links: &[&BackupDisk]) -> Result<Chain> {
    let files = open_files(store, links).await?;
    store::blocking("opening a chain", move || Ok(Chain::new(stack(&files, None)?)?)).await
}

/// An object that is a layer of a chain.
pub(crate) struct LayerFile {
    pub(crate) key: String,
    pub(crate) file: Arc<File>,
}

/// The objects of `links`, in their order.
pub(crate) async fn open_files(store: &mut ObjectStore, links: &[&BackupDisk]) -> Result<Vec<LayerFile>> {
    let mut files = Vec::new();
    for link in links {
        let file = Arc::new(open_object(store, link).await?);
        files.push(LayerFile { key: link.object_key.clone(), file });
    }
    Ok(files)
}

/// The images in `files`, the newest first: each must name the next as its backing file, the last one `below`. Blocks.
pub(crate) fn stack(files: &[LayerFile], below: Option<&str>) -> Result<Vec<Image>> {
    let names = files.iter().skip(1).map(|layer| Some(layout::file_name(&layer.key)));
    let mut layers = Vec::new();
    for (LayerFile { key, file }, expected) in files.iter().zip(names.chain([below.map(layout::file_name)])) {
        let source: Arc<dyn ReadAt> = Arc::<File>::clone(file);
        let image = Image::open(source).map_err(|e| Error::from(e).context(format!("object {key}")))?;
        if image.backing_name() != expected {
            return Err(Error::damaged(format!(
                "object {key} names the backing file {:?}, the catalog expects {expected:?}",
                image.backing_name()
            )));
        }
        layers.push(image);
    }
    Ok(layers)
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
            copy_of: None,
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
