//! Ids of backups that do not exist: of test cases and simulations.

use std::str::FromStr as _;

use tidemark_model::BackupId;

/// The same id for the same number, each time.
pub(crate) fn numbered_id(number: usize) -> BackupId {
    let text = format!("00000000-0000-4000-8000-{:012}", number % 1_000_000_000_000);
    BackupId::from_str(&text).unwrap_or_else(|_| BackupId::random())
}
