//! How a chain changes when backups leave it and what they held goes into those that stay: all at once or not at all,
//! and the names of merged objects until they are final.
//!
//! ```text
//!   A ◀── b ◀── c ◀── D        remove b and c, merge them into D:        A ◀── D'
//! ```
//! Rows are locked one by one in the order of their ids, after the job: two changes that meet wait, they do not
//! deadlock.

use std::collections::{BTreeMap, BTreeSet};

use tidemark_model::{BackupId, BackupStatus, RepositoryId, UtcMillis};

use crate::Catalog;
use crate::backup_changes::{check, doom, lock_backup, object_keys, refuse_doomed_keys};
use crate::backup_rows::{fetch, replace};
use crate::database::Transaction;
use crate::error::{Error, ErrorKind, Result};
use crate::leases::hold;
use crate::records::{Backup, ChainChange, Lease};
use crate::statement::Statement;

impl Catalog {
    /// Replaces the rows of merged backups and takes the removed ones out, in one transaction that also writes down
    /// every object that neither of them needs any more. The merged objects must be durable under their staged keys.
    /// Afterwards give them their names, [`Catalog::unstage`] each backup, and delete what is doomed.
    ///
    /// Status, pin and the time of the last verification are no part of the change: the first two stay as they are,
    /// the last is cleared, as the new objects were never read back.
    ///
    /// # Errors
    /// `LeaseLost`; `NotFound` for a removed or merged backup that is not there; `Conflict` while a removed one is
    /// pinned or needed by a backup outside the change, while a source is damaged or not as it was, while an earlier
    /// merge still waits for its names, and where a new parent is gone or a key is doomed; `Invalid` for a change that
    /// contradicts itself. After `Unavailable` only [`Catalog::backup`] tells whether the commit reached the database.
    pub async fn commit_chain_change(
        &self,
        lease: &Lease,
        change: &ChainChange,
        now: UtcMillis,
    ) -> Result<()> {
        check_change(change)?;
        let mut transaction = self.database.begin().await?;
        hold(&mut transaction, lease).await?;
        let rows = lock_all(&mut transaction, change).await?;
        check_sources(change, &rows)?;
        refuse_needed(&mut transaction, change, &rows).await?;
        for merged in &change.merged {
            let old = &rows[&merged.id];
            refuse_another_backup(merged, &rows)?;
            refuse_doomed_keys(&mut transaction, merged).await?;
            replace(&mut transaction, merged).await?;
            let kept: BTreeSet<&str> = object_keys(merged).collect();
            for key in object_keys(old).filter(|key| !kept.contains(key)) {
                doom(&mut transaction, old, key, now).await?;
            }
        }
        for id in &change.removed {
            for key in object_keys(&rows[id]) {
                doom(&mut transaction, &rows[id], key, now).await?;
            }
        }
        if !change.removed.is_empty() {
            // One statement: they may need each other.
            let remove = Statement::new("DELETE FROM backups WHERE id IN ");
            transaction.execute(remove.in_list(change.removed.iter().copied())).await?;
        }
        transaction.commit().await
    }

    /// The backups of a repository whose merged objects still wait for their names.
    ///
    /// # Errors
    /// Only those of the database.
    pub async fn staged_backups(&self, repository_id: RepositoryId) -> Result<Vec<Backup>> {
        let query = Statement::new(
            "SELECT * FROM backups WHERE repository_id = $1 AND (staged_manifest_key IS NOT NULL OR id IN
                 (SELECT backup_id FROM backup_disks WHERE repository_id = $1 AND staged_key IS NOT NULL))
             ORDER BY snapshot_at, id",
        );
        let mut transaction = self.database.begin_read().await?;
        let backups = fetch(&mut transaction, query.bind(repository_id)).await?;
        transaction.commit().await?;
        Ok(backups)
    }

    /// Every object of the backup has its name: its staged keys are forgotten. A backup that was merged again
    /// meanwhile, or is gone, is left alone; doing it twice is no error.
    ///
    /// # Errors
    /// Only those of the database.
    pub async fn unstage(&self, backup: &Backup) -> Result<()> {
        let mut transaction = self.database.begin().await?;
        match lock_backup(&mut transaction, backup.id).await {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        }
        let staged = backup.disks.iter().filter_map(|disk| disk.staged_key.as_deref());
        for key in staged {
            let clear = "UPDATE backup_disks SET staged_key = NULL WHERE backup_id = $1 AND staged_key = $2";
            transaction.execute(Statement::new(clear).bind(backup.id).bind(key)).await?;
        }
        if let Some(key) = backup.staged_manifest_key.as_deref() {
            let clear =
                "UPDATE backups SET staged_manifest_key = NULL WHERE id = $1 AND staged_manifest_key = $2";
            transaction.execute(Statement::new(clear).bind(backup.id).bind(key)).await?;
        }
        transaction.commit().await
    }
}

fn check_change(change: &ChainChange) -> Result<()> {
    let ChainChange { sources, merged, removed } = change;
    let gone: BTreeSet<BackupId> = removed.iter().copied().collect();
    let changed: BTreeSet<BackupId> = merged.iter().map(|backup| backup.id).collect();
    if gone.len() != removed.len() || changed.len() != merged.len() || !gone.is_disjoint(&changed) {
        return Err(Error::invalid("a chain change names a backup twice"));
    }
    for backup in merged {
        check(backup)?;
        if !sources.iter().any(|source| source.id == backup.id) {
            return Err(Error::invalid(format!("backup {} is no source of its own merge", backup.id)));
        }
    }
    Ok(())
}

/// Every row that the change reads or writes, in the order of ids.
async fn lock_all(transaction: &mut Transaction, change: &ChainChange) -> Result<BTreeMap<BackupId, Backup>> {
    let sources = change.sources.iter().map(|backup| backup.id);
    let parents = change.merged.iter().filter_map(|backup| backup.parent_id);
    let wanted: BTreeSet<BackupId> = sources.chain(parents).chain(change.removed.iter().copied()).collect();
    let mut rows = BTreeMap::new();
    for id in wanted {
        let found = lock_backup(transaction, id).await;
        let found = found.map_err(|error| {
            if change.removed.contains(&id) {
                return error;
            }
            let words = format!("backup {id}, which the change builds on, is not there any more");
            if error.kind() == ErrorKind::NotFound { Error::conflict(words) } else { error }
        })?;
        rows.insert(id, found);
    }
    Ok(rows)
}

/// What was read for a merge must be what is known now, and good.
fn check_sources(change: &ChainChange, rows: &BTreeMap<BackupId, Backup>) -> Result<()> {
    for source in &change.sources {
        let now = &rows[&source.id];
        if now.status == BackupStatus::Damaged {
            return Err(Error::conflict(format!("backup {} is damaged", now.id)));
        }
        if is_staged(now) {
            return Err(Error::conflict(format!("an earlier merge of backup {} is not finished", now.id)));
        }
        if (now.backup_type, now.parent_id, now.consolidated_at, &now.disks)
            != (source.backup_type, source.parent_id, source.consolidated_at, &source.disks)
        {
            return Err(Error::conflict(format!("backup {} was changed meanwhile", now.id)));
        }
    }
    Ok(())
}

fn is_staged(backup: &Backup) -> bool {
    backup.staged_manifest_key.is_some() || backup.disks.iter().any(|disk| disk.staged_key.is_some())
}

/// A removed backup must not be pinned, and whatever needs it goes with it or gets another parent.
async fn refuse_needed(
    transaction: &mut Transaction,
    change: &ChainChange,
    rows: &BTreeMap<BackupId, Backup>,
) -> Result<()> {
    for id in &change.removed {
        if rows[id].pinned {
            return Err(Error::conflict(format!("backup {id} is pinned")));
        }
        let children = Statement::new("SELECT id FROM backups WHERE parent_id = $1 ORDER BY id").bind(*id);
        for row in transaction.fetch_all(children).await? {
            let child: BackupId = row.parsed("id")?;
            let leaves = change.removed.contains(&child);
            let moves =
                change.merged.iter().any(|merged| merged.id == child && merged.parent_id != Some(*id));
            if !leaves && !moves {
                return Err(Error::conflict(format!("backup {id} is needed by backup {child}")));
            }
        }
        if let Some(merged) = change.merged.iter().find(|merged| merged.parent_id == Some(*id)) {
            return Err(Error::invalid(format!("backup {} would need {id}, which is removed", merged.id)));
        }
    }
    Ok(())
}

/// The row may change its place in the chain, not what it is a backup of.
fn refuse_another_backup(merged: &Backup, rows: &BTreeMap<BackupId, Backup>) -> Result<()> {
    let old = &rows[&merged.id];
    let disks = |backup: &Backup| -> Vec<_> {
        let disk =
            |disk: &crate::BackupDisk| (disk.disk_index, disk.disk_key.clone(), disk.object_key.clone());
        backup.disks.iter().map(disk).collect()
    };
    if (old.vm_id, old.repository_id, &old.manifest_key)
        != (merged.vm_id, merged.repository_id, &merged.manifest_key)
        || disks(old) != disks(merged)
    {
        return Err(Error::invalid(format!("a merge makes another backup of {}", merged.id)));
    }
    Ok(())
}
