//! Where the blocks of a file lie: a list in its inode, or a tree that begins there (XFS Algorithms & Data Structures,
//! chapter "Data Extents").

use tidemark_plugin::disk::{CachedDisk, Run};
use tidemark_plugin::fields::{array, be16, be32, be64, index, slice};
use tidemark_plugin::{Error, Result};

use crate::checksum;
use crate::inode::{Format, Inode};
use crate::superblock::Superblock;

pub(crate) const TREE_MAGIC: u32 = u32::from_be_bytes(*b"BMAP");
pub(crate) const CHECKED_TREE_MAGIC: u32 = u32::from_be_bytes(*b"BMA3");
pub(crate) const TREE_CRC_AT: usize = 64;
const RECORD: usize = 16;
/// A number, as a key or a pointer.
const NUMBER: usize = 8;
/// What a tree can have at the most.
const MAX_LEVEL: u16 = 9;
/// More would not fit into a reader's memory.
const MAX_EXTENTS: u64 = 500_000;

/// Where a tree's blocks begin with their records.
pub(crate) fn tree_header(superblock: &Superblock) -> usize {
    if superblock.checked { 72 } else { 24 }
}

/// The extents of an inode as runs, in the file's order, as they are recorded.
///
/// # Errors
/// Corrupt where they are not what the inode says; unsupported for more than a reader can hold.
pub(crate) fn runs(disk: &CachedDisk, superblock: &Superblock, inode: &Inode) -> Result<Vec<Run>> {
    let Inode { number, extents, .. } = *inode;
    if extents > MAX_EXTENTS {
        return Err(Error::unsupported(format!(
            "file {number} is in {extents} pieces, and no more than {MAX_EXTENTS} are read: restore the whole disk"
        )));
    }
    let mut walk =
        Walk { disk, superblock, number, runs: Vec::with_capacity(index(extents)?), most: extents };
    match inode.format {
        Format::Extents => walk.records(inode.fork(), extents)?,
        Format::Tree => walk.root(inode.fork())?,
        Format::Local | Format::None => return Err(Error::corrupt(format!("inode {number} has no extents"))),
    }
    if walk.runs.len() as u64 != extents {
        return Err(walk.damaged(&format!("{} extents, of {extents}", walk.runs.len())));
    }
    Ok(walk.runs)
}

struct Walk<'a> {
    disk: &'a CachedDisk,
    superblock: &'a Superblock,
    number: u64,
    runs: Vec<Run>,
    most: u64,
}

impl Walk<'_> {
    fn damaged(&self, what: &str) -> Error {
        Error::corrupt(format!("inode {}: the map of its blocks is damaged: {what}", self.number))
    }

    /// The tree's root, which has neither a magic number nor neighbours.
    fn root(&mut self, fork: &[u8]) -> Result<()> {
        let (level, count) = (be16(fork, 0)?, be16(fork, 2)?);
        if !(1..=MAX_LEVEL).contains(&level) {
            return Err(self.damaged(&format!("a tree of {level} levels")));
        }
        self.node(fork, 4, level, count)
    }

    /// What is under a node whose keys begin at `header`. The keys have room for all that fit, and the pointers follow.
    fn node(&mut self, bytes: &[u8], header: usize, level: u16, count: u16) -> Result<()> {
        let room = bytes.len().saturating_sub(header) / (2 * NUMBER);
        let count = usize::from(count);
        if count == 0 || count > room {
            return Err(self.damaged(&format!("{count} pointers in a node for {room}")));
        }
        for pointer in slice(bytes, header + room * NUMBER, count * NUMBER)?.chunks_exact(NUMBER) {
            self.block(be64(pointer, 0)?, level - 1)?;
        }
        Ok(())
    }

    fn block(&mut self, number: u64, level: u16) -> Result<()> {
        let at = self.superblock.blocks_at(number, 1)?;
        let mut bytes = vec![0; index(self.superblock.block_bytes)?];
        self.disk.read(at, &mut bytes)?;
        let magic = if self.superblock.checked { CHECKED_TREE_MAGIC } else { TREE_MAGIC };
        if be32(&bytes, 0)? != magic || be16(&bytes, 4)? != level {
            return Err(self.damaged(&format!("block {number} is none of level {level}")));
        }
        if self.superblock.checked {
            let right = be64(&bytes, 24)? == at / 512
                && be64(&bytes, 56)? == self.number
                && array(&bytes, 40)? == self.superblock.metadata_uuid;
            if !checksum::holds(&bytes, TREE_CRC_AT) || !right {
                return Err(self.damaged(&format!("block {number} has a wrong checksum, or is another's")));
            }
        }
        let (header, count) = (tree_header(self.superblock), be16(&bytes, 6)?);
        match level {
            // Without one the number of leaves would have no bound.
            0 if count == 0 => Err(self.damaged("an empty leaf")),
            0 => self.records(bytes.get(header..).unwrap_or_default(), count.into()),
            _ => self.node(&bytes, header, level, count),
        }
    }

    fn records(&mut self, bytes: &[u8], count: u64) -> Result<()> {
        if count.saturating_add(self.runs.len() as u64) > self.most {
            return Err(self.damaged(&format!("more than {} extents", self.most)));
        }
        for record in slice(bytes, 0, index(count)?.saturating_mul(RECORD))?.chunks_exact(RECORD) {
            let run = self.run(u128::from_be_bytes(array(record, 0)?))?;
            let end = self.runs.last().map_or(0, |last| last.start + last.length);
            if run.length == 0 || run.start < end {
                return Err(self.damaged("extents that are empty or out of order"));
            }
            self.runs.push(run);
        }
        Ok(())
    }

    /// A record: whether it was never written, 54 bits of the file's block, 52 of the file system's, and 21 of their count.
    fn run(&self, record: u128) -> Result<Run> {
        let bits = |from: u32, count: u32| {
            u64::try_from(record >> from & ((1_u128 << count) - 1)).unwrap_or(u64::MAX)
        };
        let (count, block, start) = (bits(0, 21), bits(21, 52), bits(73, 54));
        let at = self.superblock.blocks_at(block, count)?;
        let bytes = |blocks: u64| blocks.checked_mul(self.superblock.block_bytes);
        let start = bytes(start).filter(|start| i64::try_from(*start).is_ok());
        let start = start.ok_or_else(|| self.damaged("an extent beyond all bounds"))?;
        Ok(Run {
            start,
            length: count * self.superblock.block_bytes,
            at: Some(at).filter(|_| bits(127, 1) == 0),
        })
    }
}
