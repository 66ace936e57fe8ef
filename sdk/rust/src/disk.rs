//! One read-only disk, checked against its bounds by the host.

mod runs;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use crate::{Error, Result};

pub use crate::bindings::tidemark::plugin::disk::{read_ahead, read_at, size};
pub use runs::{Run, Runs};

const PIECE: u64 = 64 << 10;
/// Pieces that are kept: 4 MiB.
const KEPT: usize = 64;
/// Reads of this size and more are of data, and go past what is kept.
const LARGE: usize = 32 << 10;
/// The most that the host gives at once.
const MOST: usize = 1 << 20;

type ReadAt = Box<dyn Fn(u64, u32) -> Result<Vec<u8>> + Send + Sync>;

/// A disk in pieces of 64 KiB, of which the last ones used are kept: file systems read their metadata a few bytes at a time,
/// and each question to the host costs more than a copy.
pub struct CachedDisk {
    size: u64,
    read: ReadAt,
    kept: Mutex<VecDeque<(u64, Arc<Vec<u8>>)>>,
}

impl std::fmt::Debug for CachedDisk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CachedDisk({} bytes)", self.size)
    }
}

impl CachedDisk {
    /// A disk of the session.
    ///
    /// # Errors
    /// Not found where the session has no such disk.
    pub fn open(index: u32) -> Result<Self> {
        Ok(Self::over(size(index)?, move |offset, length| read_at(index, offset, length)))
    }

    /// Anything that is read like a disk, for tests.
    pub fn over(size: u64, read: impl Fn(u64, u32) -> Result<Vec<u8>> + Send + Sync + 'static) -> Self {
        Self { size, read: Box::new(read), kept: Mutex::new(VecDeque::new()) }
    }

    /// How many bytes it has.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Fills `into` with what lies at `offset`.
    ///
    /// # Errors
    /// Corrupt where the range leads beyond the end: only a damaged file system asks for that.
    pub fn read(&self, offset: u64, into: &mut [u8]) -> Result<()> {
        if offset.checked_add(into.len() as u64).is_none_or(|end| end > self.size) {
            let message = format!("{} bytes at {offset} lie beyond the volume's end", into.len());
            return Err(Error::corrupt(message));
        }
        if into.len() >= LARGE {
            for (part, at) in into.chunks_mut(MOST).zip((offset..).step_by(MOST)) {
                let bytes = self.ask(at, part.len() as u64)?;
                part.copy_from_slice(&bytes);
            }
            return Ok(());
        }
        let mut filled = 0;
        while filled < into.len() {
            let at = offset + filled as u64;
            let piece = self.piece(at / PIECE)?;
            let rest =
                usize::try_from(at % PIECE).ok().and_then(|within| piece.get(within..)).unwrap_or_default();
            let part = into.get_mut(filled..).unwrap_or_default();
            let count = rest.len().min(part.len());
            let (Some(to), Some(from)) = (part.get_mut(..count), rest.get(..count).filter(|_| count > 0))
            else {
                return Err(Error::corrupt("the volume ends early"));
            };
            to.copy_from_slice(from);
            filled += count;
        }
        Ok(())
    }

    fn piece(&self, number: u64) -> Result<Arc<Vec<u8>>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = kept.iter().rposition(|(known, _)| *known == number)
            && let Some(found) = kept.remove(at)
        {
            let piece = Arc::clone(&found.1);
            kept.push_back(found);
            return Ok(piece);
        }
        let start = number * PIECE;
        let piece = Arc::new(self.ask(start, self.size.saturating_sub(start).min(PIECE))?);
        if kept.len() >= KEPT {
            kept.pop_front();
        }
        kept.push_back((number, Arc::clone(&piece)));
        Ok(piece)
    }

    fn ask(&self, start: u64, length: u64) -> Result<Vec<u8>> {
        let asked = u32::try_from(length).map_err(|_| Error::corrupt(format!("{length} bytes at once")))?;
        let bytes = (self.read)(start, asked)?;
        if bytes.len() as u64 == length {
            return Ok(bytes);
        }
        Err(Error::corrupt(format!("the disk gave {} bytes for {length}", bytes.len())))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on fails by panicking")]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn every_range_is_what_lies_there_and_small_ones_are_asked_for_once() {
        let content: Vec<u8> = (0..300_000_u32).map(|at| (at % 251) as u8).collect();
        let asked = Arc::new(AtomicU32::new(0));
        let (bytes, count) = (content.clone(), Arc::clone(&asked));
        let disk = CachedDisk::over(300_000, move |offset, length| {
            count.fetch_add(1, Ordering::Relaxed);
            let start = usize::try_from(offset).unwrap();
            Ok(bytes[start..start + length as usize].to_vec())
        });
        for (offset, length) in [(0, 1), (65_530, 20), (131_000, 200), (299_990, 10), (10, 290_000)] {
            let mut into = vec![0; length];
            disk.read(offset, &mut into).unwrap();
            let start = usize::try_from(offset).unwrap();
            assert_eq!(into, content[start..start + length], "{offset}");
        }
        let before = asked.load(Ordering::Relaxed);
        disk.read(65_000, &mut [0; 1000]).unwrap();
        assert_eq!(asked.load(Ordering::Relaxed), before);
        assert!(disk.read(299_999, &mut [0; 2]).is_err() && disk.read(u64::MAX, &mut [0; 2]).is_err());
    }
}
