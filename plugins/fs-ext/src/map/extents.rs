//! Extent trees (ext4 disk layout, "Extent Tree").

use tidemark_plugin::fields::{le16, le32, slice};
use tidemark_plugin::{Error, Result};

use super::Found;
use crate::checksum::crc32c;

const MAGIC: u16 = 0xf30a;
/// Header, entry and index entry.
const ENTRY: usize = 12;
const MAX_DEPTH: u16 = 5;
/// Longer ones are reserved, and not written yet: that much shorter.
const MAX_WRITTEN: u16 = 1 << 15;
/// Blocks of a file have 32 bits.
const MAX_BLOCKS: u64 = 1 << 32;

/// Takes in what the file's tree tells.
pub(super) fn walk(found: &mut Found<'_>) -> Result<()> {
    let root = found.inode.map()?.to_vec();
    let depth = le16(&root, 6)?;
    if depth > MAX_DEPTH {
        return Err(Error::corrupt(format!("the extent tree is {depth} levels deep")));
    }
    node(found, &root, depth, 0, MAX_BLOCKS)
}

/// A node of which the entries must be for blocks of the file from `low` to before `high`. As each level has its part of the
/// blocks, no node is met twice.
fn node(found: &mut Found<'_>, bytes: &[u8], depth: u16, low: u64, high: u64) -> Result<()> {
    let (count, room) = (usize::from(le16(bytes, 2)?), usize::from(le16(bytes, 4)?));
    let fits = count <= room && ENTRY * (room + 1) <= bytes.len() && (depth == 0 || count > 0);
    if le16(bytes, 0)? != MAGIC || le16(bytes, 6)? != depth || !fits {
        return Err(Error::corrupt(format!(
            "a node of the extent tree says {count} of {room} at level {depth}"
        )));
    }
    let entry = |number: usize| slice(bytes, ENTRY * (number + 1), ENTRY);
    let mut low = low;
    for number in 0..count {
        let this = entry(number)?;
        let start = u64::from(le32(this, 0)?);
        let end = if depth == 0 {
            let (length, on_disk) = extent(this)?;
            let end = start + length;
            if start >= low && end <= high && found.wants(start, end) {
                found.push(start, length, on_disk)?;
            }
            end
        } else {
            let next = if number + 1 < count { u64::from(le32(entry(number + 1)?, 0)?) } else { high };
            if start >= low && start < next && next <= high && found.wants(start, next) {
                let block = (u64::from(le16(this, 8)?) << 32) | u64::from(le32(this, 4)?);
                let below = child(found, block)?;
                node(found, &below, depth - 1, start, next)?;
            }
            next
        };
        if start < low || end <= start || end > high {
            return Err(Error::corrupt(format!(
                "an extent from block {start} to {end}, not in {low} to {high}"
            )));
        }
        low = end;
    }
    Ok(())
}

/// Length and place of an extent; no place where it was never written.
fn extent(entry: &[u8]) -> Result<(u64, Option<u64>)> {
    let length = le16(entry, 4)?;
    let on_disk = (u64::from(le16(entry, 6)?) << 32) | u64::from(le32(entry, 8)?);
    match length.checked_sub(MAX_WRITTEN) {
        Some(reserved) if reserved > 0 => Ok((u64::from(reserved), None)),
        _ => Ok((u64::from(length), Some(on_disk))),
    }
}

fn child(found: &mut Found<'_>, number: u64) -> Result<Vec<u8>> {
    let bytes = found.block(number)?;
    let Some(seed) = found.inode.seed else { return Ok(bytes) };
    let end = ENTRY * (usize::from(le16(&bytes, 4)?) + 1);
    if crc32c(seed, &[slice(&bytes, 0, end)?]) != le32(&bytes, end)? {
        return Err(Error::corrupt(format!("the checksum of block {number} of the extent tree is wrong")));
    }
    Ok(bytes)
}
