//! A folder's entries, 32 bytes each, in order.

use tidemark_plugin::disk::{CachedDisk, Runs};
use tidemark_plugin::fields::index;
use tidemark_plugin::{Error, Result};

/// Bytes of an entry.
pub(crate) const ENTRY: usize = 32;
/// The most that a folder of exFAT may have (specification, section 7.4); FAT allows far less.
const MAX_FOLDER: u64 = 256 << 20;
/// Small enough to stay among what a disk keeps, where what is in the folder is looked at next.
const PIECE: u64 = 16 << 10;

/// Entries after a folder's end that are looked at: more than a sector, which may be all that is damaged.
pub(crate) const AFTER_END: u32 = 2048;

/// Calls `take` with the place and the bytes of each entry, until it says that this was the last.
///
/// # Errors
/// Corrupt where the folder is larger than one can be; what the disk and `take` say.
pub(crate) fn each_entry(
    disk: &CachedDisk,
    runs: &Runs,
    mut take: impl FnMut(u64, &[u8; ENTRY]) -> Result<bool>,
) -> Result<()> {
    if runs.as_slice().iter().map(|run| run.length).sum::<u64>() > MAX_FOLDER {
        return Err(Error::corrupt(format!("a folder of more than {MAX_FOLDER} bytes")));
    }
    let mut bytes = Vec::new();
    for run in runs.as_slice() {
        let mut done = 0;
        while let Some(at) = run.at.filter(|_| done < run.length) {
            bytes.resize(index((run.length - done).min(PIECE))?, 0);
            disk.read(at + done, &mut bytes)?;
            for (entry, place) in bytes.as_chunks::<ENTRY>().0.iter().zip((at + done..).step_by(ENTRY)) {
                if !take(place, entry)? {
                    return Ok(());
                }
            }
            done += PIECE;
        }
    }
    Ok(())
}
