//! What retention looks at and what it is about to delete.
//!
//! ```text
//!   marked ──(approved)──(grace period over, the policy still lets it go)──▶ deleted by a job
//!      └── the policy keeps it again ──▶ unmarked
//! ```

use tidemark_model::{BackupId, ByteLen, RepositoryId, UtcMillis, VmId};

use crate::Catalog;
use crate::error::Result;
use crate::flow_records::{KeptBackup, RetentionMark, VmStanding};
use crate::statement::{Row, Statement};

/// Below SQLite's bound of values in one statement, with room to spare.
const IDS_A_STATEMENT: usize = 1000;

impl Catalog {
    /// A VM's backups in a repository, the oldest first, without their disks.
    ///
    /// # Errors
    /// Only those of the database.
    pub async fn kept_backups(&self, vm: VmId, repository: RepositoryId) -> Result<Vec<KeptBackup>> {
        let query = Statement::new(
            "SELECT backups.id, snapshot_at, backup_type, parent_id, status, verified_at, pinned,
                 CAST(COALESCE(SUM(stored_bytes), 0) AS BIGINT) AS stored,
                 CAST(COALESCE(SUM(read_bytes), 0) AS BIGINT) AS read_total
             FROM backups LEFT JOIN backup_disks ON backup_disks.backup_id = backups.id
             WHERE backups.vm_id = $1 AND backups.repository_id = $2
             GROUP BY backups.id ORDER BY snapshot_at, backups.id",
        );
        self.database.fetch_all(query.bind(vm).bind(repository)).await?.iter().map(kept_of).collect()
    }

    /// The VMs that have backups in a repository, at most `limit` after `after`, by id.
    ///
    /// # Errors
    /// Only those of the database.
    pub async fn vms_in_repository(
        &self,
        repository: RepositoryId,
        after: Option<VmId>,
        limit: u32,
    ) -> Result<Vec<VmId>> {
        let query =
            Statement::new("SELECT DISTINCT vm_id FROM backups WHERE repository_id = $1").bind(repository);
        let query = query.and_if(" AND vm_id > {}", after).and(" ORDER BY vm_id LIMIT {}", i64::from(limit));
        self.database.fetch_all(query).await?.iter().map(|row| row.parsed("vm_id")).collect()
    }

    /// Brings the marks of a VM's backups in a repository to what a policy says now: those of `marks` are set where
    /// there is none yet (an older mark keeps its time, and what a person approved), all others are taken away.
    ///
    /// # Errors
    /// Only those of the database.
    pub async fn set_marks(&self, vm: VmId, repository: RepositoryId, marks: &[RetentionMark]) -> Result<()> {
        let mut transaction = self.database.begin().await?;
        let standing = "SELECT backup_id FROM retention_marks WHERE vm_id = $1 AND repository_id = $2";
        let standing = transaction.fetch_all(Statement::new(standing).bind(vm).bind(repository)).await?;
        let mut stale: Vec<BackupId> = Vec::new();
        for row in &standing {
            let id = row.parsed("backup_id")?;
            if marks.iter().all(|mark| mark.backup_id != id) {
                stale.push(id);
            }
        }
        for ids in stale.chunks(IDS_A_STATEMENT) {
            let clear = Statement::new("DELETE FROM retention_marks WHERE backup_id IN ");
            transaction.execute(clear.in_list(ids.iter().copied())).await?;
        }
        for mark in marks {
            let RetentionMark {
                backup_id,
                vm_id,
                repository_id,
                policy,
                marked_at,
                due_at,
                approved,
                approved_by,
            } = mark;
            let insert = Statement::new(
                "INSERT INTO retention_marks (backup_id, vm_id, repository_id, policy, marked_at, due_at, approved,
                     approved_by)
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
                 ON CONFLICT (backup_id) DO UPDATE SET policy = excluded.policy,
                     approved = CASE WHEN retention_marks.approved_by IS NULL THEN excluded.approved
                         ELSE retention_marks.approved END",
            );
            let insert = insert.bind(*backup_id).bind(*vm_id).bind(*repository_id).bind(policy);
            let insert = insert.bind(*marked_at).bind(*due_at).bind(*approved).bind(approved_by.as_deref());
            transaction.execute(insert).await?;
        }
        transaction.commit().await
    }

    /// The marks in a repository, or of one VM there, the oldest first.
    ///
    /// # Errors
    /// Only those of the database.
    pub async fn marks(&self, repository: RepositoryId, vm: Option<VmId>) -> Result<Vec<RetentionMark>> {
        let query = Statement::new("SELECT * FROM retention_marks WHERE repository_id = $1").bind(repository);
        let query = query.and_if(" AND vm_id = {}", vm).then(" ORDER BY marked_at, backup_id");
        self.database.fetch_all(query).await?.iter().map(mark_of).collect()
    }

    /// Lets marked backups go when their grace period is over. Answers with how many were waiting for that.
    ///
    /// # Errors
    /// Only those of the database.
    pub async fn approve_marks(
        &self,
        repository: RepositoryId,
        vm: Option<VmId>,
        actor: &str,
    ) -> Result<u64> {
        let update = Statement::new(
            "UPDATE retention_marks SET approved = 1, approved_by = $1 WHERE approved = 0 AND repository_id = $2",
        );
        self.database.write(update.bind(actor).bind(repository).and_if(" AND vm_id = {}", vm)).await
    }

    /// When retention last looked at a VM's backups in a repository.
    ///
    /// # Errors
    /// Only those of the database.
    pub async fn last_look(&self, vm: VmId, repository: RepositoryId) -> Result<Option<UtcMillis>> {
        let query =
            Statement::new("SELECT looked_at FROM retention_looks WHERE vm_id = $1 AND repository_id = $2");
        let row = self.database.fetch_optional(query.bind(vm).bind(repository)).await?;
        row.map(|row| row.time("looked_at")).transpose()
    }

    /// Records that retention looked.
    ///
    /// # Errors
    /// Only those of the database.
    pub async fn record_look(&self, vm: VmId, repository: RepositoryId, now: UtcMillis) -> Result<()> {
        let record = Statement::new(
            "INSERT INTO retention_looks (vm_id, repository_id, looked_at) VALUES ($1, $2, $3)
             ON CONFLICT (vm_id, repository_id) DO UPDATE SET looked_at = excluded.looked_at",
        );
        self.database.write(record.bind(vm).bind(repository).bind(now)).await.map(drop)
    }

    /// How each VM under protection stands, by name.
    ///
    /// # Errors
    /// Only those of the database.
    pub async fn vm_standings(&self) -> Result<Vec<VmStanding>> {
        let query = Statement::new(
            "SELECT vms.id, vms.name,
                 (SELECT MAX(snapshot_at) FROM backups
                     WHERE backups.vm_id = vms.id AND status = 'completed') AS last_good,
                 (SELECT MAX(snapshot_at) FROM backups
                     WHERE backups.vm_id = vms.id AND status = 'completed' AND verified_at IS NOT NULL)
                     AS last_verified
             FROM vms WHERE connector_id IS NOT NULL ORDER BY vms.name, vms.id",
        );
        let standing = |row: &Row| {
            Ok(VmStanding {
                vm_id: row.parsed("id")?,
                name: row.text("name")?,
                last_good: row.opt_time("last_good")?,
                last_verified: row.opt_time("last_verified")?,
            })
        };
        self.database.fetch_all(query).await?.iter().map(standing).collect()
    }

    /// How many jobs of a kind failed since a moment, by the kind of their error.
    ///
    /// # Errors
    /// Only those of the database.
    pub async fn failures_since(&self, since: UtcMillis) -> Result<Vec<(String, String, u64)>> {
        let query =
            Statement::new("SELECT kind, error_json FROM jobs WHERE state = 'failed' AND ended_at >= $1");
        let rows = self.database.fetch_all(query.bind(since)).await?;
        let mut counts = std::collections::BTreeMap::new();
        for row in &rows {
            let error: serde_json::Value =
                serde_json::from_str(&row.opt_text("error_json")?.unwrap_or_default()).unwrap_or_default();
            let reason = error.get("kind").and_then(|kind| kind.as_str()).unwrap_or("unknown").to_owned();
            *counts.entry((row.text("kind")?, reason)).or_insert(0_u64) += 1;
        }
        Ok(counts.into_iter().map(|((kind, reason), count)| (kind, reason, count)).collect())
    }

    /// What a repository stored in backups made since a moment.
    ///
    /// # Errors
    /// Only those of the database.
    pub async fn stored_since(&self, repository: RepositoryId, since: UtcMillis) -> Result<ByteLen> {
        let query = Statement::new(
            "SELECT CAST(COALESCE(SUM(stored_bytes), 0) AS BIGINT) AS stored FROM backup_disks
             JOIN backups ON backups.id = backup_disks.backup_id
             WHERE backups.repository_id = $1 AND backups.completed_at >= $2",
        );
        let row = self.database.fetch_optional(query.bind(repository).bind(since)).await?;
        row.map_or(Ok(ByteLen(0)), |row| row.unsigned("stored").map(ByteLen))
    }
}

fn kept_of(row: &Row) -> Result<KeptBackup> {
    Ok(KeptBackup {
        id: row.parsed("id")?,
        snapshot_at: row.time("snapshot_at")?,
        backup_type: row.parsed("backup_type")?,
        parent_id: row.opt_parsed("parent_id")?,
        status: row.parsed("status")?,
        verified: row.opt_time("verified_at")?.is_some(),
        pinned: row.flag("pinned")?,
        stored: ByteLen(row.unsigned("stored")?),
        read: ByteLen(row.unsigned("read_total")?),
    })
}

fn mark_of(row: &Row) -> Result<RetentionMark> {
    Ok(RetentionMark {
        backup_id: row.parsed("backup_id")?,
        vm_id: row.parsed("vm_id")?,
        repository_id: row.parsed("repository_id")?,
        policy: row.text("policy")?,
        marked_at: row.time("marked_at")?,
        due_at: row.time("due_at")?,
        approved: row.flag("approved")?,
        approved_by: row.opt_text("approved_by")?,
    })
}

impl Catalog {
    /// The good copies of a VM's backups in a repository: which backup each is of, and its own id.
    ///
    /// # Errors
    /// Only those of the database.
    pub async fn copies(&self, vm: VmId, repository: RepositoryId) -> Result<Vec<(BackupId, BackupId)>> {
        let query = Statement::new(
            "SELECT copy_of, id FROM backups WHERE vm_id = $1 AND repository_id = $2 AND copy_of IS NOT NULL AND status = 'completed'
             ORDER BY snapshot_at",
        );
        let rows = self.database.fetch_all(query.bind(vm).bind(repository)).await?;
        rows.iter().map(|row| Ok((row.parsed("copy_of")?, row.parsed("id")?))).collect()
    }

    /// The good copy of a backup that a repository has.
    ///
    /// # Errors
    /// Only those of the database.
    pub async fn copy_of(&self, origin: BackupId, repository: RepositoryId) -> Result<Option<BackupId>> {
        let query = Statement::new(
            "SELECT id FROM backups WHERE copy_of = $1 AND repository_id = $2 AND status = 'completed'",
        );
        let row = self.database.fetch_optional(query.bind(origin).bind(repository)).await?;
        row.map(|row| row.parsed("id")).transpose()
    }
}
