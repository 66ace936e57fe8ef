//! The blocks of one virtual disk in one sparse file, each counted by how many block maps refer to it.
//!
//! Slot `b` below the disk's first capacity begins as block `b` of the source; further slots are appended. A slot
//! that nothing refers to is used again. The pool knows nothing of snapshots: a map that wants to keep a block
//! counts it, and a writer may change a block in place only while its count is one.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// The granularity of copy-on-write, of allocation and of change tracking, in bytes.
pub const BLOCK_BYTES: u64 = 64 * 1024;

/// Where a block lives in the pool; [`Slot::NONE`] is a block that was never written or was trimmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Slot(u32);

impl Slot {
    pub(super) const NONE: Self = Self(u32::MAX);

    pub(super) fn is_allocated(self) -> bool {
        self != Self::NONE
    }

    /// The block of the source at `index`, or an error for a disk of 256 TiB and more.
    pub(super) fn of_source(index: usize) -> io::Result<Self> {
        u32::try_from(index)
            .ok()
            .filter(|&slot| slot != u32::MAX)
            .map(Self)
            .ok_or_else(|| io::Error::other("the disk has more blocks than the pool can number"))
    }

    fn offset(self) -> u64 {
        u64::from(self.0) * BLOCK_BYTES
    }

    fn index(self) -> usize {
        self.0 as usize
    }
}

/// The slots of one disk and their counts.
#[derive(Debug)]
pub(super) struct Pool {
    file: Arc<File>,
    references: Vec<u32>,
    free: Vec<Slot>,
}

impl Pool {
    /// A pool over a file whose first `blocks` slots hold the source; none of them is counted yet.
    pub(super) fn new(file: File, blocks: usize) -> Self {
        Self { file: Arc::new(file), references: vec![0; blocks], free: Vec::new() }
    }

    /// The file, for readers that hold counted slots.
    pub(super) fn file(&self) -> Arc<File> {
        Arc::clone(&self.file)
    }

    /// Counts every allocated slot of a map once more.
    pub(super) fn keep(&mut self, map: &[Slot]) {
        for slot in map.iter().filter(|slot| slot.is_allocated()) {
            self.references[slot.index()] += 1;
        }
    }

    /// Takes one reference back; the last one frees the slot.
    pub(super) fn release(&mut self, slot: Slot) {
        if !slot.is_allocated() {
            return;
        }
        let count = &mut self.references[slot.index()];
        assert!(*count > 0, "a block was released more often than kept");
        *count -= 1;
        if *count == 0 {
            self.free.push(slot);
        }
    }

    /// Whether only one map refers to the slot.
    pub(super) fn is_private(&self, slot: Slot) -> bool {
        slot.is_allocated() && self.references[slot.index()] == 1
    }

    /// Stores a whole block in a fresh slot that is counted once.
    pub(super) fn add(&mut self, block: &[u8]) -> io::Result<Slot> {
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None => {
                let slot = Slot::of_source(self.references.len())?;
                self.references.push(0);
                slot
            }
        };
        self.references[slot.index()] = 1;
        self.file.write_all_at(block, slot.offset())?;
        Ok(slot)
    }

    /// Changes part of a private block in place.
    pub(super) fn change(&self, slot: Slot, within: u64, bytes: &[u8]) -> io::Result<()> {
        assert!(self.is_private(slot), "a shared block was about to be changed in place");
        self.file.write_all_at(bytes, slot.offset() + within)
    }
}

/// Reads `into` from `within` a slot; the end of the pool's file reads as zeroes, as its holes do.
pub(super) fn read_slot(file: &File, slot: Slot, within: u64, into: &mut [u8]) -> io::Result<()> {
    let mut done = 0;
    while slot.is_allocated() && done < into.len() {
        match file.read_at(&mut into[done..], slot.offset() + within + done as u64)? {
            0 => break,
            count => done += count,
        }
    }
    into[done..].fill(0);
    Ok(())
}
