//! Where the blocks of a file lie.
//!
//! A file may have more runs than there is memory for, so that its map is read a window at a time: from a block on, as many
//! runs as are worth keeping. A window's end is where the next one begins.

mod extents;
mod pointers;

use tidemark_plugin::disk::{Run, Runs};
use tidemark_plugin::{Error, Result};

use crate::filesystem::FileSystem;
use crate::inode::Inode;

/// Runs of a window: half a megabyte of memory.
const MAX_RUNS: usize = 1 << 14;
/// Blocks of the map that are read for a window which has something in it already.
const MAX_READ: u32 = 256;
/// Blocks of the map, one after another, in which there is nothing: no file system leaves as many behind.
const MAX_EMPTY: u32 = 1 << 16;

/// Part of a file's map.
#[derive(Debug)]
pub(crate) struct Window {
    pub(crate) runs: Runs,
    /// Bytes of the file: what lies between and has no run is a hole.
    pub(crate) from: u64,
    pub(crate) to: u64,
}

impl Window {
    /// The map of a file that has one, from a byte on.
    ///
    /// # Errors
    /// Corrupt for damage.
    pub(crate) fn read(system: &FileSystem, inode: &Inode, byte: u64) -> Result<Self> {
        let block_bytes = system.superblock.block_bytes;
        let from = byte / block_bytes;
        let mut found = Found {
            system,
            inode,
            from,
            end: inode.size.div_ceil(block_bytes),
            runs: Vec::new(),
            stopped: None,
            read: 0,
            empty: 0,
        };
        let walked = if inode.extents() { extents::walk(&mut found) } else { pointers::walk(&mut found) };
        walked.map_err(|error| error.during(&format!("reading the map of inode {}", inode.number)))?;
        let to = found.stopped.map_or(Some(u64::MAX), |block| block.checked_mul(block_bytes));
        Ok(Self {
            runs: Runs::new(found.runs)?,
            from: from * block_bytes,
            to: to.ok_or_else(|| Error::corrupt("a file that ends beyond all bounds"))?,
        })
    }

    pub(crate) fn has(&self, byte: u64) -> bool {
        (self.from..self.to).contains(&byte)
    }
}

/// What was found of a map so far.
struct Found<'a> {
    system: &'a FileSystem,
    inode: &'a Inode,
    /// Blocks of the file: those before it, and those from the file's end on, are of no interest.
    from: u64,
    end: u64,
    runs: Vec<Run>,
    /// The block of the file that was not looked at any more.
    stopped: Option<u64>,
    read: u32,
    empty: u32,
}

impl Found<'_> {
    /// Blocks of the file that lie together, or were never written.
    fn push(&mut self, block: u64, count: u64, on_disk: Option<u64>) -> Result<()> {
        let block_bytes = self.system.superblock.block_bytes;
        let at = on_disk.map(|on_disk| self.system.place(on_disk, count)).transpose()?;
        self.empty = 0;
        let beyond = || Error::corrupt("a file that ends beyond all bounds");
        let start = block.checked_mul(block_bytes).ok_or_else(beyond)?;
        let length = count.checked_mul(block_bytes).ok_or_else(beyond)?;
        let ended = match self.runs.last_mut() {
            Some(last)
                if last.start + last.length == start
                    && last.at.is_some_and(|last_at| Some(last_at + last.length) == at) =>
            {
                last.length += length;
                false
            }
            _ => {
                self.runs.push(Run { start, length, at });
                self.runs.len() >= MAX_RUNS
            }
        };
        if ended || self.read >= MAX_READ {
            self.stopped = Some(block + count);
        }
        Ok(())
    }

    /// A block of the map itself.
    fn block(&mut self, number: u64) -> Result<Vec<u8>> {
        self.read = self.read.saturating_add(1);
        self.empty += 1;
        if self.empty > MAX_EMPTY {
            return Err(Error::corrupt(format!("{MAX_EMPTY} blocks of the map lead nowhere")));
        }
        self.system.block(number)
    }

    /// Whether blocks of the file are of interest.
    fn wants(&self, start: u64, end: u64) -> bool {
        self.stopped.is_none() && start < self.end && end > self.from
    }
}
