//! The content of a disk at one moment, with the change map that belongs to it.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tidemark_model::{ByteLen, Extent, ExtentList};

use super::pool::{BLOCK_BYTES, Slot};
use super::tracking::{CbtId, Stamps};
use super::{DiskError, read_map};

/// From when on changes are asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChangedSince {
    /// The beginning: everything that is allocated (`*` on the wire).
    Creation,
    /// An earlier change id.
    Id(CbtId),
}

/// A frozen content. It must be given back with [`super::Disk::release`].
#[derive(Debug)]
pub struct Frozen {
    file: Arc<File>,
    map: Vec<Slot>,
    capacity: u64,
    stamps: Option<Stamps>,
    alive: AtomicBool,
}

impl Frozen {
    pub(super) fn new(file: Arc<File>, map: Vec<Slot>, capacity: u64, stamps: Option<Stamps>) -> Self {
        Self { file, map, capacity, stamps, alive: AtomicBool::new(true) }
    }

    pub(super) fn map(&self) -> &[Slot] {
        &self.map
    }

    /// Marks it dead; false when it was dead already.
    pub(super) fn end(&self) -> bool {
        self.alive.swap(false, Ordering::SeqCst)
    }

    /// Whether its snapshot still exists.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.alive.load(Ordering::SeqCst)
    }

    /// Its size in bytes.
    #[must_use]
    pub fn capacity(&self) -> u64 {
        self.capacity
    }

    /// The change id of this moment; `None` when tracking was off.
    #[must_use]
    pub fn change_id(&self) -> Option<&CbtId> {
        self.stamps.as_ref().map(Stamps::id)
    }

    /// Reads `into` from `offset`.
    ///
    /// # Errors
    /// [`DiskError::Released`] when the snapshot is gone, a range outside the disk, a failing state file.
    pub fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), DiskError> {
        let range = Extent::new(offset, into.len() as u64)?;
        if !into.is_empty() {
            ExtentList::checked(vec![range], ByteLen(self.capacity))?;
        }
        read_map(&self.file, &self.map, offset, into)?;
        // Asked last: the slots may have been used again while they were being read.
        if self.is_alive() { Ok(()) } else { Err(DiskError::Released) }
    }

    /// What is allocated, in whole blocks clipped to the capacity.
    #[must_use]
    pub fn allocated(&self) -> ExtentList {
        self.blocks(self.map.iter().map(|slot| slot.is_allocated()))
    }

    /// What a range inside the disk consists of: lengths in bytes, and whether each run is allocated.
    #[must_use]
    pub fn runs(&self, range: Extent) -> Vec<(ByteLen, bool)> {
        let mut runs: Vec<(ByteLen, bool)> = Vec::new();
        let mut position = range.offset.0;
        while position < range.end().0 {
            let index = usize::try_from(position / BLOCK_BYTES).unwrap_or(usize::MAX);
            let allocated = self.map.get(index).is_some_and(|slot| slot.is_allocated());
            let end = ((position / BLOCK_BYTES + 1) * BLOCK_BYTES).min(range.end().0);
            match runs.last_mut() {
                Some((length, last)) if *last == allocated => length.0 += end - position,
                _ => runs.push((ByteLen(end - position), allocated)),
            }
            position = end;
        }
        runs
    }

    /// What changed since an earlier moment, in whole blocks clipped to the capacity.
    ///
    /// # Errors
    /// [`DiskError::ForeignChangeId`] when tracking was off, or the id is another tracker's or of the future.
    pub fn changed(&self, since: &ChangedSince) -> Result<ExtentList, DiskError> {
        let stamps = self.stamps.as_ref().ok_or(DiskError::ForeignChangeId)?;
        match since {
            ChangedSince::Creation => Ok(self.allocated()),
            ChangedSince::Id(id) => {
                Ok(self.blocks(stamps.changed_since(id).ok_or(DiskError::ForeignChangeId)?))
            }
        }
    }

    fn blocks(&self, chosen: impl Iterator<Item = bool>) -> ExtentList {
        let mut runs: Vec<Extent> = Vec::new();
        for (block, _) in chosen.enumerate().filter(|(_, chosen)| *chosen) {
            let start = block as u64 * BLOCK_BYTES;
            let length = BLOCK_BYTES.min(self.capacity - start);
            match runs.last_mut() {
                Some(last) if last.end().0 == start => last.length = ByteLen(last.length.0 + length),
                _ => {
                    runs.push(Extent { offset: tidemark_model::GuestOffset(start), length: ByteLen(length) })
                }
            }
        }
        // The runs are ascending and inside the disk by construction.
        ExtentList::checked(runs, ByteLen(self.capacity)).unwrap_or_default()
    }
}
