//! Backups and their disks as rows: writing them, and reading a list of backups together with all their disks.

use std::collections::HashMap;

use tidemark_model::{BackupId, ByteLen, ChangeId, DiskKey, VerifyLevel};

use crate::database::Transaction;
use crate::error::{Error, ErrorKind, Result};
use crate::records::{Backup, BackupDisk, RangeDigests};
use crate::statement::{Row, Statement};

/// Below SQLite's bound of values in one statement, with room to spare.
const IDS_A_QUERY: usize = 1000;

/// The rows of a backup and its disks. Constraints of the schema are the last word on what fits.
pub(crate) async fn insert(transaction: &mut Transaction, backup: &Backup) -> Result<()> {
    let Backup {
        id,
        vm_id,
        vm_name,
        repository_id,
        backup_type,
        parent_id,
        status,
        reason_code,
        reason,
        started_at,
        snapshot_at,
        completed_at,
        manifest_key,
        pinned,
        plugins_json,
        warnings_json,
        job_id,
        copy_of,
        verified_at,
        verified_level,
        consolidated_at,
        staged_manifest_key,
        disks,
    } = backup;
    let statement = Statement::new(
        "INSERT INTO backups (id, vm_id, vm_name, repository_id, backup_type, parent_id, status, reason_code,
             reason, started_at, snapshot_at, completed_at, manifest_key, pinned, plugins_json, warnings_json,
             job_id, copy_of, verified_at, verified_level, consolidated_at, staged_manifest_key)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20,
             $21, $22)",
    );
    let statement = statement.bind(*id).bind(*vm_id).bind(vm_name).bind(*repository_id).bind(*backup_type);
    let statement = statement.bind(*parent_id).bind(*status).bind(reason_code).bind(reason).bind(*started_at);
    let statement = statement.bind(*snapshot_at).bind(*completed_at).bind(manifest_key).bind(*pinned);
    let statement =
        statement.bind(plugins_json).bind(warnings_json).bind(*job_id).bind(*copy_of).bind(*verified_at);
    let statement = statement.bind(verified_level.map(VerifyLevel::as_str));
    let statement = statement.bind(*consolidated_at).bind(staged_manifest_key.as_deref());
    transaction.execute(statement).await.map_err(|error| {
        error.meaning(
            ErrorKind::Conflict,
            format!("backup {id} or its manifest '{manifest_key}' exists already, or its VM or repository does not"),
        )
    })?;
    for disk in disks {
        insert_disk(transaction, backup, disk).await?;
    }
    Ok(())
}

async fn insert_disk(transaction: &mut Transaction, backup: &Backup, disk: &BackupDisk) -> Result<()> {
    let BackupDisk {
        disk_index,
        disk_key,
        label,
        capacity,
        change_id,
        object_key,
        stored,
        read,
        skipped,
        moved_ms,
        digest,
        staged_key,
        ranges,
    } = disk;
    let statement = Statement::new(
        "INSERT INTO backup_disks (backup_id, repository_id, disk_index, disk_key, label, capacity_bytes, change_id,
             object_key, stored_bytes, read_bytes, skipped_bytes, moved_ms, digest, staged_key,
             ranges_key, ranges_stored_bytes, ranges_digest)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)",
    );
    let statement = statement.bind(backup.id).bind(backup.repository_id).bind(i64::from(*disk_index));
    let statement = statement.bind(&disk_key.0).bind(label).bind(number("capacity", capacity.0)?);
    let statement = statement.bind(change_id.as_ref().map(|id| id.0.as_str())).bind(object_key);
    let statement = statement.bind(number("stored size", stored.0)?).bind(number("read size", read.0)?);
    let statement = statement.bind(number("skipped size", skipped.0)?).bind(number("duration", *moved_ms)?);
    let ranges_stored = match ranges {
        Some(ranges) => Some(number("size of range digests", ranges.stored.0)?),
        None => None,
    };
    let statement = statement.bind(digest).bind(staged_key.as_deref());
    let statement =
        statement.bind(ranges.as_ref().map(|ranges| ranges.object_key.as_str())).bind(ranges_stored);
    let statement = statement.bind(ranges.as_ref().map(|ranges| ranges.digest.as_str()));
    transaction.execute(statement).await.map_err(|error| {
        error.meaning(
            ErrorKind::Conflict,
            format!("disk {disk_index}: its index, its key or its object '{object_key}' is already taken"),
        )
    })?;
    Ok(())
}

/// Writes what a merge changes of a backup and its disks: its place in the chain and its objects.
pub(crate) async fn replace(transaction: &mut Transaction, backup: &Backup) -> Result<()> {
    let statement = Statement::new(
        "UPDATE backups SET backup_type = $1, parent_id = $2, reason_code = $3, reason = $4, consolidated_at = $5,
             staged_manifest_key = $6, verified_at = NULL, verified_level = NULL
         WHERE id = $7",
    );
    let statement = statement.bind(backup.backup_type).bind(backup.parent_id).bind(&backup.reason_code);
    let statement = statement.bind(&backup.reason).bind(backup.consolidated_at);
    let statement = statement.bind(backup.staged_manifest_key.as_deref()).bind(backup.id);
    transaction.execute(statement).await.map_err(|error| {
        let words =
            format!("the parent of backup {} is not there, or of another VM or repository", backup.id);
        error.meaning(ErrorKind::Conflict, words)
    })?;
    for disk in &backup.disks {
        let ranges = disk.ranges.as_ref();
        let ranges_stored = match ranges {
            Some(ranges) => Some(number("size of range digests", ranges.stored.0)?),
            None => None,
        };
        let statement = Statement::new(
            "UPDATE backup_disks SET stored_bytes = $1, digest = $2, staged_key = $3, ranges_key = $4,
                 ranges_stored_bytes = $5, ranges_digest = $6
             WHERE backup_id = $7 AND disk_index = $8",
        );
        let statement = statement.bind(number("stored size", disk.stored.0)?).bind(&disk.digest);
        let statement = statement.bind(disk.staged_key.as_deref());
        let statement = statement.bind(ranges.map(|ranges| ranges.object_key.as_str())).bind(ranges_stored);
        let statement = statement.bind(ranges.map(|ranges| ranges.digest.as_str()));
        transaction.execute(statement.bind(backup.id).bind(i64::from(disk.disk_index))).await?;
    }
    Ok(())
}

fn number(what: &str, value: u64) -> Result<i64> {
    i64::try_from(value).map_err(|_| Error::invalid(format!("a disk's {what} of {value} is out of range")))
}

/// Runs a query for rows of `backups` and adds each one's disks, in the query's order.
pub(crate) async fn fetch(transaction: &mut Transaction, query: Statement) -> Result<Vec<Backup>> {
    let rows = transaction.fetch_all(query).await?;
    let mut backups = rows.iter().map(backup_of).collect::<Result<Vec<Backup>>>()?;
    let ids: Vec<BackupId> = backups.iter().map(|backup| backup.id).collect();
    let mut disks: HashMap<BackupId, Vec<BackupDisk>> = HashMap::new();
    for some in ids.chunks(IDS_A_QUERY) {
        let query = Statement::new("SELECT * FROM backup_disks WHERE backup_id IN ");
        let query = query.in_list(some.iter().copied()).then(" ORDER BY disk_index");
        for row in transaction.fetch_all(query).await? {
            disks.entry(row.parsed("backup_id")?).or_default().push(disk_of(&row)?);
        }
    }
    for backup in &mut backups {
        backup.disks = disks.remove(&backup.id).unwrap_or_default();
    }
    Ok(backups)
}

/// As [`fetch`] for at most one.
pub(crate) async fn fetch_one(transaction: &mut Transaction, query: Statement) -> Result<Option<Backup>> {
    Ok(fetch(transaction, query).await?.into_iter().next())
}

fn backup_of(row: &Row) -> Result<Backup> {
    Ok(Backup {
        id: row.parsed("id")?,
        vm_id: row.parsed("vm_id")?,
        vm_name: row.text("vm_name")?,
        repository_id: row.parsed("repository_id")?,
        backup_type: row.parsed("backup_type")?,
        parent_id: row.opt_parsed("parent_id")?,
        status: row.parsed("status")?,
        reason_code: row.text("reason_code")?,
        reason: row.text("reason")?,
        started_at: row.time("started_at")?,
        snapshot_at: row.time("snapshot_at")?,
        completed_at: row.time("completed_at")?,
        manifest_key: row.text("manifest_key")?,
        pinned: row.flag("pinned")?,
        plugins_json: row.text("plugins_json")?,
        warnings_json: row.text("warnings_json")?,
        job_id: row.opt_parsed("job_id")?,
        copy_of: row.opt_parsed("copy_of")?,
        verified_at: row.opt_time("verified_at")?,
        verified_level: row.opt_parsed("verified_level")?,
        consolidated_at: row.opt_time("consolidated_at")?,
        staged_manifest_key: row.opt_text("staged_manifest_key")?,
        disks: Vec::new(),
    })
}

fn disk_of(row: &Row) -> Result<BackupDisk> {
    Ok(BackupDisk {
        disk_index: row.unsigned("disk_index")?,
        disk_key: DiskKey(row.text("disk_key")?),
        label: row.text("label")?,
        capacity: ByteLen(row.unsigned("capacity_bytes")?),
        change_id: row.opt_text("change_id")?.map(ChangeId),
        object_key: row.text("object_key")?,
        stored: ByteLen(row.unsigned("stored_bytes")?),
        read: ByteLen(row.unsigned("read_bytes")?),
        skipped: ByteLen(row.unsigned("skipped_bytes")?),
        moved_ms: row.unsigned("moved_ms")?,
        digest: row.text("digest")?,
        staged_key: row.opt_text("staged_key")?,
        ranges: ranges_of(row)?,
    })
}

fn ranges_of(row: &Row) -> Result<Option<RangeDigests>> {
    let Some(object_key) = row.opt_text("ranges_key")? else { return Ok(None) };
    Ok(Some(RangeDigests {
        object_key,
        stored: ByteLen(row.unsigned("ranges_stored_bytes")?),
        digest: row.text("ranges_digest")?,
    }))
}
