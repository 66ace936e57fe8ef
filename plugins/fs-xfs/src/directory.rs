//! Directories of version 2 (XFS Algorithms & Data Structures, chapter "Directories"). Names lie in the inode or in blocks of
//! data; the indexes by hash, which lie beyond 32 GiB of the directory, are not needed for listing.

use std::collections::HashSet;

use tidemark_plugin::disk::{CachedDisk, Runs};
use tidemark_plugin::fields::{array, be16, be32, be64, byte, index, slice};
use tidemark_plugin::{Error, Result};

use crate::checksum;
use crate::extents;
use crate::inode::{Format, Inode};
use crate::superblock::Superblock;

/// Where the indexes begin.
const INDEXES: u64 = 32 << 30;
/// The whole of a small directory, and blocks of large ones; without checksums and with them.
const WHOLE: [u32; 2] = [u32::from_be_bytes(*b"XD2B"), u32::from_be_bytes(*b"XDB3")];
const PART: [u32; 2] = [u32::from_be_bytes(*b"XD2D"), u32::from_be_bytes(*b"XDD3")];
/// What stands where an entry has the first bytes of its inode's number.
const UNUSED: u16 = 0xffff;
/// What the contract can list.
const MAX_ENTRIES: usize = 1 << 20;

type Named = (Vec<u8>, u64);

/// What a directory has, without `.` and `..`. Blocks in `unsummed` were changed by a journal that did not tell their checksums.
///
/// # Errors
/// Corrupt where it is damaged.
pub(crate) fn list(
    disk: &CachedDisk,
    superblock: &Superblock,
    inode: &Inode,
    unsummed: &HashSet<u64>,
) -> Result<Vec<Named>> {
    let mut list = List { superblock, number: inode.number, found: Vec::new() };
    if inode.format == Format::Local {
        list.short(slice(inode.fork(), 0, index(inode.stat.size_bytes)?)?)?;
        return Ok(list.found);
    }
    let runs = Runs::new(extents::runs(disk, superblock, inode)?)?;
    let length = superblock.directory_block_bytes;
    let mut bytes = vec![0; index(length)?];
    let mut next = runs.next_data(0, INDEXES);
    while let Some(offset) = next {
        let offset = offset - offset % length;
        let places = places(&runs, offset, length);
        let first = places.first().copied().ok_or_else(|| list.damaged("a block of it is missing"))?;
        runs.read(disk, offset, &mut bytes)?;
        let summed = !places.iter().any(|place| unsummed.contains(place));
        list.block(&bytes, first, offset == 0, summed)?;
        next = runs.next_data(offset + length, INDEXES);
    }
    Ok(list.found)
}

/// Where the pieces of a block lie; nothing where one is missing.
fn places(runs: &Runs, offset: u64, length: u64) -> Vec<u64> {
    let mut places = Vec::new();
    let mut at = offset;
    while at < offset + length {
        let found = runs.as_slice().partition_point(|run| run.start + run.length <= at);
        let run = runs.as_slice().get(found).filter(|run| run.start <= at);
        let Some((run, place)) = run.and_then(|run| Some((run, run.at?))) else { return Vec::new() };
        places.push(place + (at - run.start));
        at = run.start + run.length;
    }
    places
}

struct List<'a> {
    superblock: &'a Superblock,
    number: u64,
    found: Vec<Named>,
}

impl List<'_> {
    fn damaged(&self, what: &str) -> Error {
        Error::corrupt(format!("the directory {} is damaged: {what}", self.number))
    }

    /// The names of a directory that is in its inode.
    fn short(&mut self, bytes: &[u8]) -> Result<()> {
        let (small, large) = (byte(bytes, 0)?, byte(bytes, 1)?);
        // One number that needs eight bytes gives eight to all.
        let width = if large == 0 { 4 } else { 8 };
        let mut at = 2 + width;
        for _ in 0..small {
            let length = usize::from(byte(bytes, at)?);
            let name = slice(bytes, at + 3, length)?;
            let inode_at = at + 3 + length + usize::from(self.superblock.file_types);
            let inode = if large == 0 { be32(bytes, inode_at)?.into() } else { be64(bytes, inode_at)? };
            self.add(name, inode)?;
            at = inode_at + width;
        }
        if at == bytes.len() { Ok(()) } else { Err(self.damaged("it is longer than its names")) }
    }

    fn block(&mut self, bytes: &[u8], place: u64, first: bool, summed: bool) -> Result<()> {
        let checked = self.superblock.checked;
        let magic = be32(bytes, 0)?;
        let is = |[plain, summed]: [u32; 2]| magic == if checked { summed } else { plain };
        let allowed = is(PART) || first && is(WHOLE);
        if !allowed {
            return Err(self.damaged(&format!("at {place} is no block of names")));
        }
        if checked {
            let right = be64(bytes, 8)? == place / 512
                && be64(bytes, 40)? == self.number
                && array(bytes, 24)? == self.superblock.metadata_uuid;
            if (summed && !checksum::holds(bytes, 4)) || !right {
                return Err(
                    self.damaged(&format!("the block at {place} has a wrong checksum, or is another's"))
                );
            }
        }
        let header = if checked { 64 } else { 16 };
        let end = if is(WHOLE) { self.names_end(bytes, header)? } else { bytes.len() };
        self.entries(bytes.get(..end).unwrap_or_default(), header)
    }

    /// Where the index begins that ends a small directory: eight bytes for each entry, and eight for their count.
    fn names_end(&self, bytes: &[u8], header: usize) -> Result<usize> {
        let tail = bytes.len().saturating_sub(8);
        let count = index(be32(bytes, tail)?.into())?;
        let end = count.checked_mul(8).and_then(|index| tail.checked_sub(index));
        end.filter(|end| *end >= header).ok_or_else(|| self.damaged(&format!("an index of {count} names")))
    }

    /// Names and unused parts, one after the other, up to the end.
    fn entries(&mut self, bytes: &[u8], header: usize) -> Result<()> {
        let mut at = header;
        while at < bytes.len() {
            let unused = be16(bytes, at)? == UNUSED;
            let length = match unused {
                true => usize::from(be16(bytes, at + 2)?),
                false => {
                    let name = usize::from(byte(bytes, at + 8)?);
                    (9 + name + usize::from(self.superblock.file_types) + 2).next_multiple_of(8)
                }
            };
            let entry = slice(bytes, at, length)?;
            // Each ends with its own place.
            if length < 8 || length % 8 != 0 || usize::from(be16(entry, length - 2)?) != at {
                return Err(self.damaged(&format!("an entry of {length} bytes")));
            }
            if !unused {
                self.add(slice(entry, 9, byte(entry, 8)?.into())?, be64(entry, 0)?)?;
            }
            at += length;
        }
        Ok(())
    }

    fn add(&mut self, name: &[u8], inode: u64) -> Result<()> {
        if name.is_empty() || name.iter().any(|byte| matches!(byte, 0 | b'/')) {
            return Err(self.damaged("it has an impossible name"));
        }
        if self.found.len() > MAX_ENTRIES {
            return Err(Error::unsupported(format!("a directory of more than {MAX_ENTRIES} entries")));
        }
        if !matches!(name, b"." | b"..") {
            self.found.push((name.to_vec(), inode));
        }
        Ok(())
    }
}
