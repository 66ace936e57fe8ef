//! The journal of a file system that was in use: what was committed to it, and is not in its place yet (JBD2, as described
//! with the ext4 disk layout, "Journal").
//!
//! ```text
//! log: blocks in a circle ─▶ transactions: whole ones, in order ─▶ overlay: block ─▶ place in the journal
//! ```
//! Nothing is written: whoever reads a block of the overlay gets the journal's copy of it.

mod header;
mod log;
mod overlay;
mod transactions;

use tidemark_plugin::disk::CachedDisk;
use tidemark_plugin::{Error, Result};

use crate::filesystem::FileSystem;
use crate::superblock::Superblock;

/// A disk as it is after the journal was replayed.
pub(crate) struct Replayed {
    pub(crate) disk: CachedDisk,
    /// There was something to be replayed.
    pub(crate) replayed: bool,
    /// The journal ends with changes that are not read.
    pub(crate) fast_commits: bool,
}

/// Replays the journal of a file system that has it within.
///
/// # Errors
/// Corrupt for a journal that is damaged in its midst: what is in the places then is neither the old nor the new.
pub(crate) fn replay(disk: CachedDisk, superblock: Superblock) -> Result<Replayed> {
    let system = FileSystem::new(disk, superblock);
    let found = transactions::read(&system).map_err(|error| {
        let words = format!(
            "the file system was in use, and its journal cannot be replayed: {}; restore the disk and run e2fsck on it",
            error.message
        );
        Error::new(error.kind, words)
    })?;
    let fast_commits = found.fast_commits;
    let replayed = !found.overlay.is_empty();
    let disk = if replayed { found.overlay.over(system.disk) } else { system.disk };
    Ok(Replayed { disk, replayed, fast_commits })
}
