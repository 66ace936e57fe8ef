//! What verifications leave in the catalog: which backups are good, how thoroughly that was proved, and which are
//! damaged. Unlike [`Catalog::set_backup_status`] nothing spreads: whoever verified knows whose view is damaged.

use std::collections::HashMap;

use tidemark_model::{BackupId, BackupStatus, UtcMillis, VerifyLevel};

use crate::Catalog;
use crate::database::Transaction;
use crate::error::Result;
use crate::records::{StatusChanges, Verification};
use crate::statement::Statement;

/// Below SQLite's bound of values in one statement, with room to spare.
const IDS_A_STATEMENT: usize = 1000;

/// A damage of which nobody wrote down at which level it was found may be any but a deep one.
const UNKNOWN_LEVEL: VerifyLevel = VerifyLevel::Full;

impl Catalog {
    /// Records a verification in one transaction. A whole backup that was marked damaged is completed again where this
    /// verification is as thorough as the one that found the damage; a damaged one is marked. The time and the level
    /// of the last good result are kept from [`VerifyLevel::Full`] on, as the quick one reads no data. Backups that are
    /// gone, or were rewritten by a merge, meanwhile are passed over.
    ///
    /// # Errors
    /// Only those of the database.
    pub async fn record_verification(&self, verification: &Verification) -> Result<StatusChanges> {
        let Verification { level, at, whole, damaged, read } = verification;
        let mut transaction = self.database.begin().await?;
        let mut changes = StatusChanges::default();
        for some in damaged.chunks(IDS_A_STATEMENT) {
            let before = standing(&mut transaction, some, read).await?;
            // What a deeper verification found must not be taken away by a shallower one.
            let known =
                |id: &&BackupId| before.get(id).is_none_or(|found| found.is_some_and(|at| at >= *level));
            let marked: Vec<BackupId> = some.iter().filter(|id| !known(id)).copied().collect();
            if !marked.is_empty() {
                let mark =
                    Statement::new("UPDATE backups SET status = 'damaged', damaged_level = $1 WHERE id IN ");
                transaction.execute(mark.bind(*level).in_list(marked)).await?;
            }
            let completed = some.iter().filter(|id| matches!(before.get(id), Some(None)));
            changes.marked.extend(completed);
        }
        for some in whole.chunks(IDS_A_STATEMENT) {
            let before = standing(&mut transaction, some, read).await?;
            let provable =
                |id: &&BackupId| before.get(id).is_some_and(|found| found.is_some_and(|at| *level >= at));
            let cleared: Vec<BackupId> = some.iter().filter(provable).copied().collect();
            if !cleared.is_empty() {
                let clear = "UPDATE backups SET status = 'completed', damaged_level = NULL WHERE id IN ";
                transaction.execute(Statement::new(clear).in_list(cleared.iter().copied())).await?;
            }
            changes.cleared.extend(cleared);
            let seen: Vec<BackupId> = some.iter().filter(|id| before.contains_key(id)).copied().collect();
            if *level >= VerifyLevel::Full && !seen.is_empty() {
                let verified = "UPDATE backups SET verified_at = $1, verified_level = $2
                     WHERE status = 'completed' AND id IN ";
                let verified = Statement::new(verified).bind(*at).bind(*level).in_list(seen);
                transaction.execute(verified).await?;
            }
        }
        transaction.commit().await?;
        Ok(changes)
    }
}

/// Of each backup that is there, and is what was read, the level at which it was found damaged; none where it is
/// completed. The rows stay as they are until the transaction ends.
async fn standing(
    transaction: &mut Transaction,
    ids: &[BackupId],
    read: &HashMap<BackupId, Option<UtcMillis>>,
) -> Result<HashMap<BackupId, Option<VerifyLevel>>> {
    let lock = Statement::new("UPDATE backups SET status = status WHERE id IN ").in_list(ids.iter().copied());
    let mut found = HashMap::new();
    for row in
        transaction.fetch_all(lock.then(" RETURNING id, status, damaged_level, consolidated_at")).await?
    {
        let id = row.parsed("id")?;
        let rewritten = row.opt_time("consolidated_at")?;
        if read.get(&id).is_some_and(|then| *then != rewritten) {
            continue;
        }
        let level: Option<VerifyLevel> = row.opt_parsed("damaged_level")?;
        let damaged = row.parsed::<BackupStatus>("status")? == BackupStatus::Damaged;
        found.insert(id, damaged.then(|| level.unwrap_or(UNKNOWN_LEVEL)));
    }
    Ok(found)
}
