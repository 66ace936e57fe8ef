//! One virtual disk: its live content, the frozen contents of its snapshots, and changed block tracking.
//!
//! The live disk and every frozen one are maps from block to slot over a shared pool. Freezing copies the map and
//! counts its blocks; from then on a write to a counted block goes to a fresh slot. A frozen disk reads without
//! the live disk's lock, because its slots cannot change while it is alive; releasing it marks it dead *before* its
//! slots are freed, and a reader asks once more after it has read.

mod frozen;
mod pool;
mod source;
mod tracking;

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tidemark_model::{ByteLen, Extent, ExtentError, ExtentList};

pub use frozen::{ChangedSince, Frozen};
pub use pool::BLOCK_BYTES;
pub use tracking::CbtId;

use pool::{Pool, Slot, read_slot};
use tracking::Tracker;

/// Why a disk refused an operation.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// A range outside the disk.
    #[error("the range does not fit the disk")]
    Range(#[from] ExtentError),
    /// The state file could not be read or written.
    #[error("the disk's state file failed")]
    Io(#[from] io::Error),
    /// The snapshot whose disk this was is gone.
    #[error("the snapshot was removed")]
    Released,
    /// A change id of another tracker, or change tracking was off.
    #[error("the change id does not belong to this disk")]
    ForeignChangeId,
    /// A disk cannot shrink.
    #[error("a disk of {capacity} bytes cannot become {wanted} bytes")]
    Shrink {
        /// What it has now, in bytes.
        capacity: u64,
        /// What was asked for, in bytes.
        wanted: u64,
    },
}

/// A virtual disk.
#[derive(Debug)]
pub struct Disk {
    live: Mutex<Live>,
    initial: Arc<Frozen>,
}

#[derive(Debug)]
struct Live {
    capacity: u64,
    map: Vec<Slot>,
    pool: Pool,
    tracker: Option<Tracker>,
}

impl Disk {
    /// Takes a raw image over into `target`, which then holds the disk's state.
    ///
    /// # Errors
    /// The image cannot be read, is empty or no whole number of sectors; the state file cannot be written.
    pub fn open(source: &Path, target: &Path) -> Result<Self, DiskError> {
        let copied = source::copy(source, target)?;
        let mut map = Vec::with_capacity(copied.allocated.len());
        for (index, allocated) in copied.allocated.iter().enumerate() {
            map.push(if *allocated { Slot::of_source(index)? } else { Slot::NONE });
        }
        let mut pool = Pool::new(copied.file, map.len());
        pool.keep(&map);
        let mut live = Live { capacity: copied.capacity, map, pool, tracker: None };
        let initial = live.freeze(false);
        Ok(Self { live: Mutex::new(live), initial })
    }

    fn lock(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The live disk's size in bytes.
    #[must_use]
    pub fn capacity(&self) -> u64 {
        self.lock().capacity
    }

    /// How many bytes of the live disk are allocated.
    #[must_use]
    pub fn allocated_bytes(&self) -> u64 {
        let blocks = self.lock().map.iter().filter(|slot| slot.is_allocated()).count();
        blocks as u64 * BLOCK_BYTES
    }

    /// The id that the running VM's configuration shows; `None` while tracking is off.
    #[must_use]
    pub fn change_id(&self) -> Option<CbtId> {
        self.lock().tracker.as_ref().map(|tracker| tracker.now().id().clone())
    }

    /// Turns tracking on or off at a stun; one that runs already goes on with its ids.
    pub fn track(&self, on: bool) {
        let mut live = self.lock();
        if !on {
            live.tracker = None;
        } else if live.tracker.is_none() {
            live.tracker = Some(Tracker::start(live.map.len()));
        }
    }

    /// Forgets the change history: earlier ids are foreign from now on.
    pub fn reset_tracking(&self) {
        let mut live = self.lock();
        if live.tracker.is_some() {
            live.tracker = Some(Tracker::start(live.map.len()));
        }
    }

    /// What the guest writes.
    ///
    /// # Errors
    /// The range leaves the disk, or the state file fails.
    pub fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), DiskError> {
        let mut live = self.lock();
        live.check(offset, bytes.len() as u64)?;
        for piece in pieces(offset, bytes.len() as u64) {
            live.write_piece(&piece, &bytes[piece.at..piece.at + piece.length])?;
        }
        Ok(())
    }

    /// What the guest trims: it reads as zeroes afterwards and counts as changed.
    ///
    /// # Errors
    /// The range leaves the disk, or the state file fails.
    pub fn trim(&self, offset: u64, length: u64) -> Result<(), DiskError> {
        let mut live = self.lock();
        live.check(offset, length)?;
        for piece in pieces(offset, length) {
            live.trim_piece(&piece)?;
        }
        Ok(())
    }

    /// Reads the live disk.
    ///
    /// # Errors
    /// The range leaves the disk, or the state file fails.
    pub fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), DiskError> {
        let live = self.lock();
        live.check(offset, into.len() as u64)?;
        read_map(&live.pool.file(), &live.map, offset, into)?;
        Ok(())
    }

    /// Freezes the content and starts a new change epoch.
    #[must_use]
    pub fn freeze(&self) -> Arc<Frozen> {
        self.lock().freeze(true)
    }

    /// A view of this moment for a query that names no snapshot; it starts no epoch. Must be released too.
    #[must_use]
    pub fn view(&self) -> Arc<Frozen> {
        self.lock().freeze(false)
    }

    /// Gives a frozen content up: its readers fail from now on and its blocks may be used again.
    pub fn release(&self, frozen: &Frozen) {
        let mut live = self.lock();
        if frozen.end() {
            for &slot in frozen.map() {
                live.pool.release(slot);
            }
        }
    }

    /// Takes the content back to a frozen one; the change history ends, as it does on vSphere.
    ///
    /// # Errors
    /// [`DiskError::Released`] when that content is gone.
    pub fn revert(&self, to: &Frozen) -> Result<(), DiskError> {
        let mut live = self.lock();
        if !to.is_alive() {
            return Err(DiskError::Released);
        }
        live.pool.keep(to.map());
        let old = std::mem::replace(&mut live.map, to.map().to_vec());
        for slot in old {
            live.pool.release(slot);
        }
        live.capacity = to.capacity();
        if live.tracker.is_some() {
            live.tracker = Some(Tracker::start(live.map.len()));
        }
        Ok(())
    }

    /// Takes the content back to what the disk held at the start.
    ///
    /// # Errors
    /// Never in practice: the initial content is kept for the disk's whole life.
    pub fn revert_to_initial(&self) -> Result<(), DiskError> {
        self.revert(&self.initial)
    }

    /// Makes the disk larger; the new bytes are zeroes.
    ///
    /// # Errors
    /// [`DiskError::Shrink`] for a smaller size; a size that is no whole number of sectors.
    pub fn resize(&self, wanted: u64) -> Result<(), DiskError> {
        let mut live = self.lock();
        if wanted < live.capacity || !wanted.is_multiple_of(512) {
            return Err(DiskError::Shrink { capacity: live.capacity, wanted });
        }
        let blocks = usize::try_from(wanted.div_ceil(BLOCK_BYTES)).map_err(io::Error::other)?;
        live.capacity = wanted;
        live.map.resize(blocks, Slot::NONE);
        if let Some(tracker) = &mut live.tracker {
            tracker.grow(blocks);
        }
        Ok(())
    }
}

impl Live {
    fn check(&self, offset: u64, length: u64) -> Result<(), ExtentError> {
        if length == 0 {
            return Ok(());
        }
        ExtentList::checked(vec![Extent::new(offset, length)?], ByteLen(self.capacity)).map(drop)
    }

    fn freeze(&mut self, new_epoch: bool) -> Arc<Frozen> {
        self.pool.keep(&self.map);
        let stamps = self.tracker.as_mut().map(|t| if new_epoch { t.freeze() } else { t.now() });
        Arc::new(Frozen::new(self.pool.file(), self.map.clone(), self.capacity, stamps))
    }

    fn write_piece(&mut self, piece: &Piece, bytes: &[u8]) -> io::Result<()> {
        let slot = self.map[piece.block];
        if self.pool.is_private(slot) {
            self.pool.change(slot, piece.within, bytes)?;
        } else {
            let mut block = vec![0; usize::try_from(BLOCK_BYTES).map_err(io::Error::other)?];
            read_slot(&self.pool.file(), slot, 0, &mut block)?;
            let within = usize::try_from(piece.within).map_err(io::Error::other)?;
            block[within..within + bytes.len()].copy_from_slice(bytes);
            self.map[piece.block] = self.pool.add(&block)?;
            self.pool.release(slot);
        }
        self.touch(piece.block);
        Ok(())
    }

    fn trim_piece(&mut self, piece: &Piece) -> io::Result<()> {
        let block_start = piece.block as u64 * BLOCK_BYTES;
        let block_length = BLOCK_BYTES.min(self.capacity - block_start);
        if piece.within == 0 && piece.length as u64 == block_length {
            let slot = std::mem::replace(&mut self.map[piece.block], Slot::NONE);
            self.pool.release(slot);
            self.touch(piece.block);
            return Ok(());
        }
        self.write_piece(piece, &vec![0; piece.length])
    }

    fn touch(&mut self, block: usize) {
        if let Some(tracker) = &mut self.tracker {
            tracker.touch(block);
        }
    }
}

/// The part of a range that falls into one block.
struct Piece {
    /// Where it begins in the range, in bytes.
    at: usize,
    block: usize,
    /// Where it begins in the block, in bytes.
    within: u64,
    /// In bytes.
    length: usize,
}

/// Cuts a range of an existing disk at block borders.
#[expect(
    clippy::cast_possible_truncation,
    reason = "block numbers are bounded by the map, lengths by a block"
)]
fn pieces(offset: u64, length: u64) -> impl Iterator<Item = Piece> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let position = offset + at;
        let within = position % BLOCK_BYTES;
        let count = (BLOCK_BYTES - within).min(length - at);
        let piece = Piece {
            at: at as usize,
            block: (position / BLOCK_BYTES) as usize,
            within,
            length: count as usize,
        };
        at += count;
        (count > 0).then_some(piece)
    })
}

fn read_map(file: &File, map: &[Slot], offset: u64, into: &mut [u8]) -> io::Result<()> {
    for piece in pieces(offset, into.len() as u64) {
        read_slot(file, map[piece.block], piece.within, &mut into[piece.at..piece.at + piece.length])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
