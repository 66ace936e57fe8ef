//! The disk as the replayed journal would have left it: what was changed lies over it in memory, and nothing is written.

use std::collections::BTreeMap;
use std::sync::Arc;

use tidemark_plugin::disk::CachedDisk;
use tidemark_plugin::fields::index;
use tidemark_plugin::{Error, Result};

/// What is changed is changed in pieces of this many bytes, as in the journal.
const PIECE: usize = 128;
const STEP: u64 = PIECE as u64;
/// Pieces that are kept: 16 MiB, and what it takes to find them.
const MAX_PIECES: usize = 128 << 10;
const MAX_FRESH: usize = 100_000;

/// A disk with changes.
#[derive(Debug)]
pub(crate) struct Overlay {
    disk: Arc<CachedDisk>,
    pieces: BTreeMap<u64, [u8; PIECE]>,
    /// Where inodes were made: zeros lie there, up to these ends, and the pieces.
    fresh: BTreeMap<u64, u64>,
}

impl Overlay {
    pub(crate) fn new(disk: CachedDisk) -> Self {
        Self { disk: Arc::new(disk), pieces: BTreeMap::new(), fresh: BTreeMap::new() }
    }

    /// The disk as it is.
    pub(crate) fn base(&self) -> Arc<CachedDisk> {
        Arc::clone(&self.disk)
    }

    /// Whether inodes were made where this lies.
    pub(crate) fn is_fresh(&self, at: u64) -> bool {
        self.fresh.range(..=at).next_back().is_some_and(|(_, end)| at < *end)
    }

    pub(crate) fn read(&self, at: u64, length: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        self.disk.read(at, &mut bytes)?;
        let end = at + length as u64;
        let before = self.fresh.range(..at).next_back();
        for (from, to) in before.into_iter().chain(self.fresh.range(at..end)) {
            lay(&mut bytes, at, (*from).max(at), index(to.saturating_sub((*from).max(at)))?, None);
        }
        for (number, piece) in self.pieces.range(at / STEP..end.div_ceil(STEP)) {
            lay(&mut bytes, at, number * STEP, PIECE, Some(piece));
        }
        Ok(bytes)
    }

    /// Lays what is different over what was read at a place, which is one of whole pieces.
    pub(crate) fn change(&mut self, at: u64, before: &[u8], after: &[u8]) -> Result<()> {
        let pieces = before.chunks_exact(PIECE).zip(after.as_chunks().0);
        for ((before, after), number) in pieces.zip(at / STEP..) {
            if before != after {
                self.pieces.insert(number, *after);
            }
        }
        if self.pieces.len() > MAX_PIECES {
            return Err(Error::unsupported("more was changed than a reader can hold"));
        }
        Ok(())
    }

    /// Lays zeros over what a place had.
    pub(crate) fn clear(&mut self, at: u64, length: u64) -> Result<()> {
        let end = at.saturating_add(length);
        while let Some((number, _)) = self.pieces.range(at / STEP..end.div_ceil(STEP)).next() {
            let number = *number;
            self.pieces.remove(&number);
        }
        let known = self.fresh.entry(at).or_insert(end);
        *known = end.max(*known);
        if self.fresh.len() > MAX_FRESH {
            return Err(Error::unsupported("more inodes were made than a reader can hold"));
        }
        Ok(())
    }

    /// The disk as it is, for reading.
    pub(crate) fn into_base(self) -> CachedDisk {
        let size = self.disk.size();
        Arc::try_unwrap(self.disk).unwrap_or_else(|disk| {
            CachedDisk::over(size, move |at, length| {
                let mut bytes = vec![0; index(length.into())?];
                disk.read(at, &mut bytes).map(|()| bytes)
            })
        })
    }

    /// The disk as it became, for reading.
    pub(crate) fn into_disk(self) -> CachedDisk {
        CachedDisk::over(self.disk.size(), move |at, length| self.read(at, index(length.into())?))
    }
}

/// Lays a piece, or so many zeros, over bytes that were read at a place; what lies beside them is left out.
fn lay(bytes: &mut [u8], at: u64, from: u64, length: usize, piece: Option<&[u8; PIECE]>) {
    let place = |offset: u64| usize::try_from(offset).unwrap_or(usize::MAX);
    let (into, skipped) = (place(from.saturating_sub(at)), place(at.saturating_sub(from)));
    let Some(target) = bytes.get_mut(into..) else { return };
    let count = target.len().min(length.saturating_sub(skipped));
    let Some(target) = target.get_mut(..count) else { return };
    match piece.and_then(|piece| piece.get(skipped..skipped + count)) {
        Some(source) => target.copy_from_slice(source),
        None => target.fill(0),
    }
}
