//! Blocks of which the journal has a newer copy.

use tidemark_plugin::disk::CachedDisk;
use tidemark_plugin::fields::index;
use tidemark_plugin::{Error, Result};

use super::header::MAGIC;

/// A block, and where its copy lies, in bytes. A copy that begins like a block of the journal itself was escaped.
#[derive(Debug, Clone, Copy)]
pub(super) struct Copied {
    pub(super) block: u64,
    pub(super) place: u64,
    pub(super) escaped: bool,
}

/// All of them, in the order of the blocks.
#[derive(Debug)]
pub(super) struct Overlay {
    block_bytes: u64,
    copies: Vec<Copied>,
}

impl Overlay {
    /// Each block at most once.
    pub(super) fn new(block_bytes: u64, mut copies: Vec<Copied>) -> Self {
        copies.sort_unstable_by_key(|copy| copy.block);
        Self { block_bytes, copies }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.copies.is_empty()
    }

    /// The disk with the copies in their places.
    pub(super) fn over(self, disk: CachedDisk) -> CachedDisk {
        CachedDisk::over(disk.size(), move |offset, length| {
            let mut bytes = vec![0; index(u64::from(length))?];
            disk.read(offset, &mut bytes)?;
            self.apply(&disk, offset, &mut bytes)?;
            Ok(bytes)
        })
    }

    /// Puts what is newer over what lies at `offset`.
    fn apply(&self, disk: &CachedDisk, offset: u64, bytes: &mut [u8]) -> Result<()> {
        let end = offset + bytes.len() as u64;
        let first = self.copies.partition_point(|copy| copy.block < offset / self.block_bytes);
        for copy in self.copies.get(first..).unwrap_or_default() {
            let start = copy.block * self.block_bytes;
            if start >= end {
                break;
            }
            let mut newer = vec![0; index(self.block_bytes)?];
            disk.read(copy.place, &mut newer)?;
            if copy.escaped
                && let Some(begin) = newer.first_chunk_mut()
            {
                *begin = MAGIC.to_be_bytes();
            }
            let (from, to) = (start.max(offset), (start + self.block_bytes).min(end));
            let part = newer.get(index(from - start)?..index(to - start)?);
            let into = bytes.get_mut(index(from - offset)?..index(to - offset)?);
            match (into, part) {
                (Some(into), Some(part)) => into.copy_from_slice(part),
                _ => return Err(Error::corrupt("a block of the journal beyond all bounds")),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_asked_for_has_the_copies_in_it() {
        let content: Vec<u8> = (0..40 * 1024_u32).map(|at| (at / 7 % 251) as u8).collect();
        let copies = [(3, 20, false), (9, 21, true), (4, 30, false)];
        let mut expected = content.clone();
        for (block, place, escaped) in copies {
            expected.copy_within(place * 1024..(place + 1) * 1024, block * 1024);
            if escaped {
                expected[block * 1024..block * 1024 + 4].copy_from_slice(&MAGIC.to_be_bytes());
            }
        }
        let copied = copies.map(|(block, place, escaped)| Copied {
            block: block as u64,
            place: place as u64 * 1024,
            escaped,
        });
        let disk = CachedDisk::over(content.len() as u64, move |offset, length| {
            let start = usize::try_from(offset).unwrap();
            Ok(content[start..start + length as usize].to_vec())
        });
        let disk = Overlay::new(1024, copied.to_vec()).over(disk);
        for start in (0..expected.len()).step_by(509) {
            for length in [1, 3, 1024, 5000, 39_000] {
                let end = (start + length).min(expected.len());
                let mut bytes = vec![0; end - start];
                disk.read(start as u64, &mut bytes).unwrap();
                assert!(bytes == expected[start..end], "{start} {length}");
            }
        }
    }
}
