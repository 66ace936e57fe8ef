//! How backups come into the catalog, change and leave it.
//!
//! Rows are locked in one order everywhere: the job, then the parent or the backup itself. A lock is an UPDATE that
//! changes nothing, since that is the one way to lock a row which both engines know.

use tidemark_model::{BackupId, BackupStatus, BackupType, RepositoryId, UtcMillis};

use crate::Catalog;
use crate::backup_rows::{fetch_one, insert};
use crate::database::Transaction;
use crate::error::{Error, Result};
use crate::leases::hold;
use crate::records::{Backup, DoomedObject, Lease};
use crate::statement::{Row, Statement};

impl Catalog {
    /// Makes a backup known, with all of its disks and change ids or not at all. Its objects must be durable.
    ///
    /// # Errors
    /// `LeaseLost`; `Invalid` for a backup that is incomplete in itself or names another job; `Conflict` when the
    /// parent is absent, damaged or of another VM or repository, or when an object's key is taken or doomed. After
    /// `Unavailable` only [`Catalog::backup`] tells whether the commit reached the database.
    pub async fn commit_backup(&self, lease: &Lease, backup: &Backup) -> Result<()> {
        check(backup)?;
        if backup.job_id.is_some_and(|job_id| job_id != lease.job_id) {
            return Err(Error::invalid(format!("backup {} was made by another job", backup.id)));
        }
        let mut transaction = self.database.begin().await?;
        hold(&mut transaction, lease).await?;
        check_parent(&mut transaction, backup).await?;
        insert(&mut transaction, backup).await?;
        refuse_doomed_keys(&mut transaction, backup).await?;
        transaction.commit().await
    }

    /// Makes a backup known that a repository's manifest describes; its parent is imported before it. Answers
    /// `false` and changes nothing when its id is known already. The job that made it is not kept, as that is a job
    /// of another catalog. On a damaged parent it is itself recorded as damaged.
    ///
    /// # Errors
    /// As [`Catalog::commit_backup`], without the lease.
    pub async fn import_backup(&self, backup: &Backup) -> Result<bool> {
        check(backup)?;
        let mut transaction = self.database.begin().await?;
        let known = Statement::new("SELECT id FROM backups WHERE id = $1").bind(backup.id);
        if transaction.fetch_optional(known).await?.is_some() {
            return Ok(false);
        }
        let mut imported = Backup { job_id: None, ..backup.clone() };
        if lock_parent(&mut transaction, backup).await? == Some(BackupStatus::Damaged) {
            imported.status = BackupStatus::Damaged;
        }
        insert(&mut transaction, &imported).await?;
        refuse_doomed_keys(&mut transaction, &imported).await?;
        transaction.commit().await?;
        Ok(true)
    }

    /// Sets the status. Damage spreads to every backup that needs this one; being found whole again does not.
    /// Answers with all backups whose status changed.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` when it is to be `Completed` on a damaged parent.
    pub async fn set_backup_status(&self, id: BackupId, status: BackupStatus) -> Result<Vec<BackupId>> {
        let mut transaction = self.database.begin().await?;
        let backup = lock_backup(&mut transaction, id).await?;
        let changed = match status {
            BackupStatus::Damaged => Statement::new(
                "WITH RECURSIVE needing (id) AS (
                     SELECT id FROM backups WHERE id = $1
                     UNION
                     SELECT child.id FROM backups child JOIN needing ON child.parent_id = needing.id
                 )
                 UPDATE backups SET status = 'damaged'
                 WHERE status <> 'damaged' AND id IN (SELECT id FROM needing) RETURNING id",
            )
            .bind(id),
            BackupStatus::Completed => {
                if lock_parent(&mut transaction, &backup).await? == Some(BackupStatus::Damaged) {
                    return Err(Error::conflict(format!("backup {id} needs a backup that is damaged")));
                }
                let whole = "UPDATE backups SET status = 'completed' WHERE id = $1 AND status <> 'completed' \
                             RETURNING id";
                Statement::new(whole).bind(id)
            }
        };
        let rows = transaction.fetch_all(changed).await?;
        transaction.commit().await?;
        rows.iter().map(|row| row.parsed("id")).collect()
    }

    /// Pins it, or lets it go again.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn set_pinned(&self, id: BackupId, pinned: bool) -> Result<()> {
        let statement = Statement::new("UPDATE backups SET pinned = $1 WHERE id = $2").bind(pinned).bind(id);
        changed_backup(id, self.database.write(statement).await?)
    }

    /// Takes a backup out of the catalog and, in the same transaction, writes down which objects it leaves behind.
    /// Answers with what was removed; delete its objects, then [`Catalog::forget_doomed`] each.
    ///
    /// # Errors
    /// `LeaseLost`; `NotFound`; `Conflict` while it is pinned or another backup needs it.
    pub async fn remove_backup(&self, lease: &Lease, id: BackupId, now: UtcMillis) -> Result<Backup> {
        let mut transaction = self.database.begin().await?;
        hold(&mut transaction, lease).await?;
        let backup = lock_backup(&mut transaction, id).await?;
        if backup.pinned {
            return Err(Error::conflict(format!("backup {id} is pinned")));
        }
        let child = Statement::new("SELECT id FROM backups WHERE parent_id = $1 LIMIT 1").bind(id);
        if let Some(row) = transaction.fetch_optional(child).await? {
            return Err(Error::conflict(format!("backup {id} is needed by backup {}", row.text("id")?)));
        }
        for key in object_keys(&backup) {
            doom(&mut transaction, &backup, key, now).await?;
        }
        transaction.execute(Statement::new("DELETE FROM backups WHERE id = $1").bind(id)).await?;
        transaction.commit().await?;
        Ok(backup)
    }

    /// The objects still to be deleted from a repository, the longest doomed first. Manifests come before disks, so
    /// that a repository never describes a backup whose disks are gone.
    ///
    /// # Errors
    /// Only those of the database.
    pub async fn doomed_objects(&self, repository_id: RepositoryId) -> Result<Vec<DoomedObject>> {
        let query = Statement::new(
            "SELECT * FROM doomed_objects WHERE repository_id = $1
             ORDER BY doomed_at, backup_id, CASE WHEN object_key LIKE '%.json' THEN 0 ELSE 1 END, object_key",
        );
        let rows = self.database.fetch_all(query.bind(repository_id)).await?;
        rows.iter().map(doomed_of).collect()
    }

    /// The object is deleted; forgetting it twice is no error.
    ///
    /// # Errors
    /// Only those of the database.
    pub async fn forget_doomed(&self, repository_id: RepositoryId, object_key: &str) -> Result<()> {
        let statement =
            Statement::new("DELETE FROM doomed_objects WHERE repository_id = $1 AND object_key = $2");
        self.database.write(statement.bind(repository_id).bind(object_key)).await?;
        Ok(())
    }
}

/// What the schema cannot say: a backup has disks, counted from 0.
pub(crate) fn check(backup: &Backup) -> Result<()> {
    if backup.disks.is_empty() {
        return Err(Error::invalid(format!("backup {} has no disks", backup.id)));
    }
    if (backup.backup_type == BackupType::Full) != backup.parent_id.is_none() {
        return Err(Error::invalid(format!(
            "backup {}: an incremental, and only that, has a parent",
            backup.id
        )));
    }
    let ascending = backup.disks.windows(2).all(|pair| pair[0].disk_index < pair[1].disk_index);
    let doubled = backup.disks.iter().any(|disk| disk.object_key == backup.manifest_key);
    if !ascending || doubled {
        return Err(Error::invalid(format!(
            "backup {}: its disks are not in order or share an object",
            backup.id
        )));
    }
    Ok(())
}

async fn check_parent(transaction: &mut Transaction, backup: &Backup) -> Result<()> {
    match lock_parent(transaction, backup).await? {
        Some(BackupStatus::Damaged) => {
            Err(Error::conflict(format!("the parent of backup {} is damaged", backup.id)))
        }
        Some(BackupStatus::Completed) | None => Ok(()),
    }
}

/// The parent's status, which stays as it is until the transaction ends; none for a full.
async fn lock_parent(transaction: &mut Transaction, backup: &Backup) -> Result<Option<BackupStatus>> {
    let Some(parent_id) = backup.parent_id else {
        return Ok(None);
    };
    let lock = Statement::new(
        "UPDATE backups SET status = status WHERE id = $1 AND vm_id = $2 AND repository_id = $3 RETURNING status",
    );
    let lock = lock.bind(parent_id).bind(backup.vm_id).bind(backup.repository_id);
    match transaction.fetch_optional(lock).await? {
        Some(row) => row.parsed("status").map(Some),
        None => Err(Error::conflict(format!(
            "the parent {parent_id} of backup {} is not there, or of another VM or repository",
            backup.id
        ))),
    }
}

/// The backup, which stays as it is, without further children, until the transaction ends.
pub(crate) async fn lock_backup(transaction: &mut Transaction, id: BackupId) -> Result<Backup> {
    let lock = Statement::new("UPDATE backups SET status = status WHERE id = $1 RETURNING *").bind(id);
    fetch_one(transaction, lock).await?.ok_or_else(|| Error::not_found("backup", id))
}

/// An object that is about to be deleted must not become a live backup's.
pub(crate) async fn refuse_doomed_keys(transaction: &mut Transaction, backup: &Backup) -> Result<()> {
    let query =
        Statement::new("SELECT object_key FROM doomed_objects WHERE repository_id = $1 AND object_key IN ");
    let query = query.bind(backup.repository_id).in_list(object_keys(backup));
    match transaction.fetch_optional(query).await? {
        None => Ok(()),
        Some(row) => {
            Err(Error::conflict(format!("the object '{}' is about to be deleted", row.text("object_key")?)))
        }
    }
}

/// Writes down that an object of this backup is to be deleted.
pub(crate) async fn doom(
    transaction: &mut Transaction,
    backup: &Backup,
    key: &str,
    now: UtcMillis,
) -> Result<()> {
    let doom = Statement::new(
        "INSERT INTO doomed_objects (repository_id, object_key, backup_id, doomed_at) VALUES ($1, $2, $3, $4)",
    );
    transaction.execute(doom.bind(backup.repository_id).bind(key).bind(backup.id).bind(now)).await?;
    Ok(())
}

/// Every object that a backup may have in its repository: the manifest, the images and their range digests, under
/// the names of a merge too.
pub(crate) fn object_keys(backup: &Backup) -> impl Iterator<Item = &str> {
    let disks = backup.disks.iter().flat_map(|disk| {
        let ranges = disk.ranges.as_ref().map(|ranges| ranges.object_key.as_str());
        [Some(disk.object_key.as_str()), disk.staged_key.as_deref(), ranges].into_iter().flatten()
    });
    std::iter::once(backup.manifest_key.as_str()).chain(backup.staged_manifest_key.as_deref()).chain(disks)
}

fn changed_backup(id: BackupId, rows: u64) -> Result<()> {
    if rows == 0 { Err(Error::not_found("backup", id)) } else { Ok(()) }
}

fn doomed_of(row: &Row) -> Result<DoomedObject> {
    Ok(DoomedObject {
        repository_id: row.parsed("repository_id")?,
        object_key: row.text("object_key")?,
        backup_id: row.parsed("backup_id")?,
        doomed_at: row.time("doomed_at")?,
    })
}
