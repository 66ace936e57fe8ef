//! Symbolic links (XFS Algorithms & Data Structures, chapter "Symbolic Links"): in the inode, or in blocks, each extent of
//! which has a header in version 5.

use tidemark_plugin::disk::CachedDisk;
use tidemark_plugin::fields::{array, be32, be64, index, slice};
use tidemark_plugin::{Error, Result};

use crate::checksum;
use crate::extents;
use crate::inode::{Format, Inode};
use crate::superblock::Superblock;

pub(crate) const MAGIC: u32 = u32::from_be_bytes(*b"XSLM");
pub(crate) const CRC_AT: usize = 12;
const HEADER: usize = 56;
/// What a link can have at the most.
const MAX_TARGET: u64 = 1024;
/// Its blocks, with their headers, at the most.
const MAX_BLOCKS: u64 = 64 << 10;

/// Where a link leads.
///
/// # Errors
/// Corrupt where it is damaged.
pub(crate) fn target(disk: &CachedDisk, superblock: &Superblock, inode: &Inode) -> Result<Vec<u8>> {
    let damaged = |what: &str| Error::corrupt(format!("the link {} is damaged: {what}", inode.number));
    let size = inode.stat.size_bytes;
    if !(1..=MAX_TARGET).contains(&size) {
        return Err(damaged(&format!("a target of {size} bytes")));
    }
    let size = index(size)?;
    if inode.format == Format::Local {
        return Ok(slice(inode.fork(), 0, size)?.to_vec());
    }
    let mut target = Vec::with_capacity(size);
    for run in extents::runs(disk, superblock, inode)? {
        let left = size - target.len();
        let at =
            run.at.filter(|_| run.length <= MAX_BLOCKS).ok_or_else(|| damaged("it has impossible blocks"))?;
        let mut bytes = vec![0; index(run.length)?];
        disk.read(at, &mut bytes)?;
        if !superblock.checked {
            target.extend_from_slice(slice(&bytes, 0, left.min(bytes.len()))?);
            continue;
        }
        let length = index(be32(&bytes, 8)?.into())?;
        let right = be32(&bytes, 0)? == MAGIC
            && index(be32(&bytes, 4)?.into())? == target.len()
            && length <= left
            && array(&bytes, 16)? == superblock.metadata_uuid
            && be64(&bytes, 32)? == inode.number
            && be64(&bytes, 40)? == at / 512;
        if !right || !checksum::holds(&bytes, CRC_AT) {
            return Err(damaged(&format!("the block at {at} has a wrong checksum, or is another's")));
        }
        target.extend_from_slice(slice(&bytes, HEADER, length)?);
    }
    if target.len() == size { Ok(target) } else { Err(damaged("its target is shorter than it says")) }
}
