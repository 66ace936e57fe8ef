//! The transactions of a journal, from its oldest to the first that is not whole.
//!
//! ```text
//! descriptor, the blocks it names … │ revocations … │ commit │ the next one, whose number is one more
//! ```
//! A block that was revoked is not to be replayed from its transaction or any before: it was freed, and may be another file's.

use std::collections::BTreeMap;

use tidemark_plugin::fields::{be16, be32, be64, byte, slice};
use tidemark_plugin::{Error, Result};

use super::header::{MAGIC, Sums};
use super::log::Log;
use super::overlay::{Copied, Overlay};
use crate::checksum::{START, crc32_high, crc32c};
use crate::filesystem::FileSystem;

// Kinds of blocks.
const DESCRIPTOR: u32 = 1;
const COMMIT: u32 = 2;
const REVOCATIONS: u32 = 5;
/// The header of each of them, and of a commit block with all its fields.
const HEADER: usize = 12;
const COMMIT_BYTES: usize = 60;
// Flags of a descriptor's entries.
const ESCAPED: u16 = 1;
const SAME_UUID: u16 = 2;
const LAST: u16 = 8;
/// Blocks with a newer copy, and blocks revoked in one transaction, for which there is memory: 2 GiB where blocks have 4 KiB.
const MAX_COPIES: usize = 1 << 19;

/// What there is to be replayed.
pub(super) struct Found {
    pub(super) overlay: Overlay,
    /// Fast commits follow.
    pub(super) fast_commits: bool,
}

/// A block in the journal.
#[derive(Debug, Clone, Copy)]
struct Logged {
    at: u32,
    sequence: u32,
    sum: u32,
    escaped: bool,
}

/// A transaction of which the end was not seen yet.
struct Open {
    logged: Vec<(u64, Logged)>,
    revoked: Vec<u64>,
    /// Of all its blocks, where the commit block tells that.
    sum: u32,
    /// A descriptor or revocation is not what was written. It may be what an older journal left here.
    doubtful: bool,
}

impl Default for Open {
    fn default() -> Self {
        Self { logged: Vec::new(), revoked: Vec::new(), sum: START, doubtful: false }
    }
}

/// Reads the journal.
///
/// # Errors
/// Corrupt for damage of what was committed; unsupported for what is not known.
pub(super) fn read(system: &FileSystem) -> Result<Found> {
    let mut log = Log::open(system)?;
    let mut copies = BTreeMap::new();
    let mut sequence = log.header.sequence;
    let (mut open, mut last_commit) = (Open::default(), 0);
    while log.header.start != 0 {
        let block = log.next()?;
        if be32(&block, 0)? != MAGIC || be32(&block, 8)? != sequence {
            break;
        }
        match be32(&block, 4)? {
            DESCRIPTOR => descriptor(&mut log, &block, sequence, &mut open)?,
            REVOCATIONS => revocations(&log, &block, &mut open)?,
            COMMIT => {
                let time = be64(&block, 48)?;
                let doubtful = open.doubtful || !commit_is_right(&log, &block, &open)?;
                if doubtful && (time < last_commit || log.header.asynchronous && !open.doubtful) {
                    break;
                }
                if doubtful {
                    return Err(Error::corrupt(format!("transaction {sequence} is damaged")));
                }
                last_commit = time;
                commit(std::mem::take(&mut open), &mut copies)?;
                sequence = sequence.wrapping_add(1);
            }
            _ => break,
        }
    }
    let fast_commits = has_fast_commit(&mut log, sequence)?;
    Ok(Found { overlay: overlay(&mut log, copies)?, fast_commits })
}

/// Takes in a descriptor, and passes by the blocks it names.
fn descriptor(log: &mut Log<'_>, block: &[u8], sequence: u32, open: &mut Open) -> Result<()> {
    open.doubtful |= !tail_is_right(log, block)?;
    let (size, whole) = (log.header.tag_bytes(), log.header.sums == Sums::Whole);
    if whole {
        open.sum = crc32_high(open.sum, block);
    }
    let end = block.len() - log.header.tail();
    let mut at = HEADER;
    while at + size <= end {
        let tag = slice(block, at, size)?;
        let flags = be16(tag, 6)?;
        let (sum, high_at) = match log.header.sums {
            Sums::Long => (be32(tag, 12)?, 8),
            _ => (u32::from(be16(tag, 4)?), 8),
        };
        let high = if log.header.wide { be32(tag, high_at)? } else { 0 };
        let number = (u64::from(high) << 32) | u64::from(be32(tag, 0)?);
        let place = log.pass()?;
        if whole {
            open.sum = crc32_high(open.sum, &log.block(place)?);
        }
        open.logged.push((number, Logged { at: place, sequence, sum, escaped: flags & ESCAPED != 0 }));
        if flags & LAST != 0 {
            break;
        }
        at += size + if flags & SAME_UUID == 0 { 16 } else { 0 };
    }
    room(open.logged.len())
}

fn revocations(log: &Log<'_>, block: &[u8], open: &mut Open) -> Result<()> {
    open.doubtful |= !tail_is_right(log, block)?;
    let used = usize::try_from(be32(block, HEADER)?).unwrap_or(usize::MAX);
    if used > block.len() - log.header.tail() {
        open.doubtful = true;
        return Ok(());
    }
    let size = if log.header.wide { 8 } else { 4 };
    for record in block.get(HEADER + 4..used).unwrap_or_default().chunks_exact(size) {
        open.revoked.push(if log.header.wide { be64(record, 0)? } else { u64::from(be32(record, 0)?) });
    }
    room(open.revoked.len())
}

fn commit(open: Open, copies: &mut BTreeMap<u64, Logged>) -> Result<()> {
    copies.extend(open.logged);
    for block in open.revoked {
        copies.remove(&block);
    }
    room(copies.len())
}

fn room(count: usize) -> Result<()> {
    if count <= MAX_COPIES {
        return Ok(());
    }
    Err(Error::unsupported(format!("it has more than {MAX_COPIES} blocks")))
}

/// The checksum at the end of descriptors and revocations.
fn tail_is_right(log: &Log<'_>, block: &[u8]) -> Result<bool> {
    if !log.header.sums_blocks() {
        return Ok(true);
    }
    let end = block.len() - log.header.tail();
    Ok(crc32c(log.header.seed, &[slice(block, 0, end)?, &[0; 4]]) == be32(block, end)?)
}

fn commit_is_right(log: &Log<'_>, block: &[u8], open: &Open) -> Result<bool> {
    let found = be32(block, 16)?;
    match log.header.sums {
        Sums::None => Ok(true),
        Sums::Whole => {
            let kind = (byte(block, 12)?, byte(block, 13)?);
            Ok((kind == (1, 4) && found == open.sum) || (kind == (0, 0) && found == 0))
        }
        Sums::Short | Sums::Long => {
            let fields = crc32c(
                log.header.seed,
                &[slice(block, 0, 16)?, &[0; 4], slice(block, 20, COMMIT_BYTES - 20)?],
            );
            let rest = block.get(COMMIT_BYTES..).unwrap_or_default();
            // Some kernels had the sum made before what was left in the block's memory got into it.
            let (all, cleared) = (crc32c(fields, &[rest]), crc32c(fields, &[&vec![0; rest.len()]]));
            Ok(found == all || found == cleared)
        }
    }
}

/// The newest copies of all blocks, each of which is checked: what is read from them later is right.
fn overlay(log: &mut Log<'_>, copies: BTreeMap<u64, Logged>) -> Result<Overlay> {
    let block_bytes = log.system.superblock.block_bytes;
    let mut copies: Vec<(u64, Logged)> = copies.into_iter().collect();
    // In the order in which they lie.
    copies.sort_unstable_by_key(|(_, logged)| logged.at);
    let mut found = Vec::with_capacity(copies.len());
    for (block, logged) in copies {
        let end = block.checked_add(1).and_then(|end| end.checked_mul(block_bytes));
        if end.is_none_or(|end| end > log.system.disk.size()) {
            return Err(Error::corrupt(format!("it has block {block}, which lies beyond the volume's end")));
        }
        if log.header.sums_blocks() {
            let sequence = logged.sequence.to_be_bytes();
            let sum = crc32c(log.header.seed, &[&sequence, &log.block(logged.at)?]);
            let right =
                if log.header.sums == Sums::Long { sum == logged.sum } else { sum & 0xffff == logged.sum };
            if !right {
                return Err(Error::corrupt(format!("its copy of block {block} is damaged")));
            }
        }
        found.push(Copied { block, place: log.place(logged.at)?, escaped: logged.escaped });
    }
    Ok(Overlay::new(block_bytes, found))
}

/// Whether fast commits follow the last transaction: they begin with a tag 9 of 8 bytes, features and a transaction's number.
fn has_fast_commit(log: &mut Log<'_>, sequence: u32) -> Result<bool> {
    let Some(first) = log.header.fast else { return Ok(false) };
    let block = log.block(first)?;
    Ok(slice(&block, 0, 4)? == [9, 0, 8, 0] && slice(&block, 8, 4)? == sequence.to_le_bytes())
}
