//! Zeros on the disks, for what a thin volume never wrote: the contract knows runs on disks only, so a stretch that was read
//! and holds nothing but zeros stands for its holes.

use std::cell::Cell;

use tidemark_plugin::Result;
use tidemark_plugin::guest_filesystem::Mapped;

use super::budget::Budget;
use crate::bytes::Bytes;
use crate::extents::Map;

/// What is read at once.
const PIECE: u64 = 1 << 20;
/// The longest stretch that is looked for: with it, a hole of 1 TB is 16,384 runs.
const LONGEST: u64 = 64 << 20;
/// Places in a pool's data that are looked at.
const SAMPLES: u64 = 16;

/// Where zeros are looked for, and the longest stretch so far.
pub(crate) struct Zeros {
    /// The extents of each physical volume: their ends are often free.
    spots: Vec<Mapped>,
    best: Cell<Option<Mapped>>,
}

impl Zeros {
    pub(crate) fn new(spots: Vec<Mapped>) -> Self {
        Self { spots, best: Cell::new(None) }
    }

    /// A long stretch of zeros; none where all that was looked at is in use.
    pub(crate) fn find(&self, disks: &[impl Bytes], data: &Map, budget: &Budget) -> Result<Option<Mapped>> {
        if self.best.get().is_some() {
            return Ok(self.best.get());
        }
        let part = data.length() / SAMPLES;
        let samples =
            (0..SAMPLES).rev().filter_map(|number| data.cut(number.checked_mul(part)?, part).ok()?.last());
        for spot in samples.chain(self.spots.iter().copied()) {
            if self.best.get().is_some_and(|best| best.length >= LONGEST) {
                break;
            }
            let found = stretch(disks, spot, budget)?;
            if found.length > self.best.get().map_or(0, |best| best.length) {
                self.best.set(Some(found));
            }
        }
        Ok(self.best.get())
    }
}

/// The zeros at the end of a run.
fn stretch(disks: &[impl Bytes], run: Mapped, budget: &Budget) -> Result<Mapped> {
    let disk = usize::try_from(run.disk_index).ok().and_then(|index| disks.get(index));
    let mut found = Mapped { offset: run.offset.saturating_add(run.length), length: 0, ..run };
    while found.length < LONGEST && found.length.saturating_add(PIECE) <= run.length {
        budget.take_read()?;
        let at = found.offset.saturating_sub(PIECE);
        let piece = match (disk, u32::try_from(PIECE)) {
            (Some(disk), Ok(piece)) => disk.read_inside(at, piece)?,
            _ => None,
        };
        if piece.is_none_or(|piece| piece.iter().any(|byte| *byte != 0)) {
            break;
        }
        found = Mapped { offset: at, length: found.length + PIECE, ..found };
    }
    Ok(found)
}
