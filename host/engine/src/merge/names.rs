//! Gives merged objects the names that the images above them carry. May be done at any time, by any host, several times
//! and by several at once: what has its name already is passed over.

use tidemark_catalog::{Backup, ErrorKind as CatalogError};
use tidemark_model::RepositoryId;

use crate::chain;
use crate::engine::Shared;
use crate::error::{Error, Result};
use crate::store::ObjectStore;

/// Finishes the names of every merge in a repository whose transaction stands.
pub(crate) async fn settle(shared: &Shared, store: &mut ObjectStore, id: RepositoryId) -> Result<usize> {
    let staged = shared.catalog.staged_backups(id).await?;
    let mut outcome = Ok(staged.len());
    for backup in &staged {
        // One that cannot be settled does not keep the others waiting, but whoever would delete after this must not.
        if let Err(error) = settle_one(shared, store, backup).await {
            outcome = outcome.and(Err(error));
        }
    }
    outcome
}

/// Images first, then the manifest: an import that finds a manifest under its final name finds its images so, too.
async fn settle_one(shared: &Shared, store: &mut ObjectStore, backup: &Backup) -> Result<()> {
    for disk in &backup.disks {
        let Some(staged) = &disk.staged_key else { continue };
        if store.replace(staged, &disk.object_key).await? {
            continue;
        }
        // Somebody else was quicker, or the merged object is not to be seen now. Its name is not forgotten then: it may
        // come back, and nothing it replaces is deleted before.
        let found = chain::object_size(store, disk).await?;
        if found != Some(disk.stored) && is_current(shared, backup).await? {
            return Err(Error::damaged(format!(
                "the merged object {} of backup {} is under neither of its names ({staged})",
                disk.object_key, backup.id
            )));
        }
    }
    if let Some(staged) = &backup.staged_manifest_key {
        store.replace(staged, &backup.manifest_key).await?;
    }
    shared.catalog.unstage(backup).await?;
    Ok(())
}

/// Whether the backup still waits for these names.
async fn is_current(shared: &Shared, backup: &Backup) -> Result<bool> {
    match shared.catalog.backup(backup.id).await {
        Ok(now) => Ok(now.disks == backup.disks),
        Err(error) if error.kind() == CatalogError::NotFound => Ok(false),
        Err(error) => Err(error.into()),
    }
}
