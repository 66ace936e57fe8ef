//! Looking up backups: one, a list, and the chains they form.
//!
//! ```text
//!   full ◀── incremental ◀── incremental        an arrow points to what a backup needs
//!   └──────────── ancestry ───────────┘
//! ```

use tidemark_model::{BackupId, ByteLen, RepositoryId, VmId};

use crate::Catalog;
use crate::backup_rows::{fetch, fetch_one};
use crate::error::{Error, Result};
use crate::pages::{number_and_id_cursor, page, rows_wanted};
use crate::records::{Backup, BackupFilter, Page, PageRequest};
use crate::statement::Statement;

impl Catalog {
    /// The backup with this id.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn backup(&self, id: BackupId) -> Result<Backup> {
        let query = Statement::new("SELECT * FROM backups WHERE id = $1").bind(id);
        self.one_backup(query).await?.ok_or_else(|| Error::not_found("backup", id))
    }

    /// The wanted backups, the newest snapshot first.
    ///
    /// # Errors
    /// `Invalid` for a wrong limit or cursor.
    pub async fn list_backups(&self, filter: &BackupFilter, request: &PageRequest) -> Result<Page<Backup>> {
        let BackupFilter { vm_id, repository_id, status } = filter;
        let query = Statement::new("SELECT * FROM backups WHERE 1 = 1");
        let query = query.and_if(" AND vm_id = {}", *vm_id).and_if(" AND repository_id = {}", *repository_id);
        let mut query = query.and_if(" AND status = {}", *status);
        if let Some((before, id)) = number_and_id_cursor::<BackupId>(request)? {
            query = query.and(" AND (snapshot_at < {}", before).and(" OR (snapshot_at = {}", before);
            query = query.and(" AND id < {}))", id);
        }
        let query = query.and(" ORDER BY snapshot_at DESC, id DESC LIMIT {}", rows_wanted(request)?);
        let backups = self.backups(query).await?;
        Ok(page(backups, request, |backup| format!("{}.{}", backup.snapshot_at.0, backup.id)))
    }

    /// The newest full of the VM (in that repository, or in any) and the incrementals that need it, in order of
    /// their snapshots; empty where there is no full.
    ///
    /// # Errors
    /// Only those of the database.
    pub async fn chain(&self, vm_id: VmId, repository_id: Option<RepositoryId>) -> Result<Vec<Backup>> {
        let query = Statement::new(
            "WITH RECURSIVE chain (id) AS (
                 SELECT newest.id FROM (
                     SELECT id FROM backups WHERE backup_type = 'full' AND vm_id = $1",
        );
        let query = query.bind(vm_id).and_if(" AND repository_id = {}", repository_id).then(
            " ORDER BY snapshot_at DESC, id DESC LIMIT 1) AS newest
                 UNION
                 SELECT child.id FROM backups child JOIN chain ON child.parent_id = chain.id
             )
             SELECT backups.* FROM backups JOIN chain ON chain.id = backups.id
             ORDER BY backups.snapshot_at, backups.completed_at, backups.id",
        );
        self.backups(query).await
    }

    /// What restoring this backup needs: its full first, then each incremental up to itself.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn ancestry(&self, id: BackupId) -> Result<Vec<Backup>> {
        let query = Statement::new(
            "WITH RECURSIVE ancestry (id, parent_id, distance) AS (
                 SELECT id, parent_id, 0 FROM backups WHERE id = $1
                 UNION ALL
                 SELECT parent.id, parent.parent_id, ancestry.distance + 1
                 FROM backups parent JOIN ancestry ON parent.id = ancestry.parent_id
             )
             SELECT backups.* FROM backups JOIN ancestry ON ancestry.id = backups.id
             ORDER BY ancestry.distance DESC",
        );
        let ancestry = self.backups(query.bind(id)).await?;
        if ancestry.is_empty() { Err(Error::not_found("backup", id)) } else { Ok(ancestry) }
    }

    /// The VM's newest backup in the repository, whatever its status: the only one whose change ids an incremental
    /// may count from.
    ///
    /// # Errors
    /// Only those of the database.
    pub async fn latest_backup(&self, vm_id: VmId, repository_id: RepositoryId) -> Result<Option<Backup>> {
        let query = Statement::new(
            "SELECT * FROM backups WHERE vm_id = $1 AND repository_id = $2
             ORDER BY snapshot_at DESC, completed_at DESC, id DESC LIMIT 1",
        );
        self.one_backup(query.bind(vm_id).bind(repository_id)).await
    }

    /// The backups that need this one directly, the oldest first.
    ///
    /// # Errors
    /// Only those of the database.
    pub async fn children(&self, id: BackupId) -> Result<Vec<Backup>> {
        let query = Statement::new("SELECT * FROM backups WHERE parent_id = $1 ORDER BY snapshot_at, id");
        self.backups(query.bind(id)).await
    }

    /// The sum of the sizes of all images and range digests in a repository.
    ///
    /// # Errors
    /// Only those of the database.
    pub async fn stored_bytes(&self, repository_id: RepositoryId) -> Result<ByteLen> {
        let query = Statement::new(
            "SELECT CAST(COALESCE(SUM(stored_bytes + COALESCE(ranges_stored_bytes, 0)), 0) AS BIGINT) AS total
             FROM backup_disks WHERE repository_id = $1",
        );
        match self.database.fetch_optional(query.bind(repository_id)).await? {
            Some(row) => row.unsigned("total").map(ByteLen),
            None => Ok(ByteLen(0)),
        }
    }

    async fn backups(&self, query: Statement) -> Result<Vec<Backup>> {
        // Backups and disks are two queries: only one moment for both never shows a backup without its disks.
        let mut transaction = self.database.begin_read().await?;
        let backups = fetch(&mut transaction, query).await?;
        transaction.commit().await?;
        Ok(backups)
    }

    async fn one_backup(&self, query: Statement) -> Result<Option<Backup>> {
        let mut transaction = self.database.begin_read().await?;
        let backup = fetch_one(&mut transaction, query).await?;
        transaction.commit().await?;
        Ok(backup)
    }
}
