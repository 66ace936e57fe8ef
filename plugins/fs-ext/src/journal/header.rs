//! The journal's own superblock: where its log begins and ends, and how it is written.

use tidemark_plugin::fields::{be32, byte, slice};
use tidemark_plugin::{Error, Result};

use crate::checksum::{START, crc32c};

pub(super) const MAGIC: u32 = 0xc03b_3998;
/// Kinds of blocks: the superblock of the first version, and of the second, which has features.
const FIRST_VERSION: u32 = 3;
const SECOND_VERSION: u32 = 4;
// Features.
const SUMS: u32 = 0x1;
const WIDE: u32 = 0x2;
const ASYNC: u32 = 0x4;
const SUMS_2: u32 = 0x8;
const SUMS_3: u32 = 0x10;
const FAST_COMMITS: u32 = 0x20;
const READ: u32 = 0x1 | WIDE | ASYNC | SUMS_2 | SUMS_3 | FAST_COMMITS;
/// Blocks for fast commits where the journal does not say, and blocks that must be left without them.
const DEFAULT_FAST: u32 = 256;
const MIN_LOG: u32 = 1024;
/// The only kind of checksum.
const CRC32C: u8 = 4;

/// How transactions are protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sums {
    None,
    /// The blocks of a transaction together, in its commit block.
    Whole,
    /// Each block, 16 bits of it.
    Short,
    /// Each block.
    Long,
}

/// What the superblock says.
#[derive(Debug, Clone)]
pub(super) struct Header {
    /// The log's first block, and the one after its last. It goes round between them.
    pub(super) first: u32,
    pub(super) last: u32,
    /// Where the oldest transaction begins; 0 where all is in its place.
    pub(super) start: u32,
    /// Its number.
    pub(super) sequence: u32,
    /// Block numbers have 64 bits.
    pub(super) wide: bool,
    /// A commit block may be written before the rest.
    pub(super) asynchronous: bool,
    pub(super) sums: Sums,
    /// What the checksums begin with.
    pub(super) seed: u32,
    /// The first block for fast commits.
    pub(super) fast: Option<u32>,
}

impl Header {
    /// Of a journal of so many blocks.
    pub(super) fn parse(bytes: &[u8], blocks: u64) -> Result<Self> {
        let kind = be32(bytes, 4)?;
        if be32(bytes, 0)? != MAGIC || !matches!(kind, FIRST_VERSION | SECOND_VERSION) {
            return Err(Error::corrupt("it has no superblock"));
        }
        let feature = |at| if kind == SECOND_VERSION { be32(bytes, at) } else { Ok(0) };
        let (compatible, incompatible, read_only) = (feature(0x24)?, feature(0x28)?, feature(0x2c)?);
        if incompatible & !READ != 0 || read_only != 0 {
            let unknown = (incompatible & !READ, read_only);
            return Err(Error::unsupported(format!(
                "it has unknown features {:#x} and {:#x}",
                unknown.0, unknown.1
            )));
        }
        let sums = match (compatible & SUMS, incompatible & SUMS_2, incompatible & SUMS_3) {
            (0, 0, 0) => Sums::None,
            (_, 0, 0) => Sums::Whole,
            (0, _, 0) => Sums::Short,
            (0, 0, _) => Sums::Long,
            _ => return Err(Error::corrupt("it has checksums of two kinds")),
        };
        if matches!(sums, Sums::Short | Sums::Long) {
            let sum = crc32c(START, &[slice(bytes, 0, 0xfc)?, &[0; 4], slice(bytes, 0x100, 0x300)?]);
            if byte(bytes, 0x50)? != CRC32C || sum != be32(bytes, 0xfc)? {
                return Err(Error::corrupt("the checksum of its superblock is wrong"));
            }
        }
        let count = be32(bytes, 0x10)?;
        let (mut last, mut fast) = (count, None);
        if incompatible & FAST_COMMITS != 0 {
            let wanted = match be32(bytes, 0x54)? {
                0 => DEFAULT_FAST,
                wanted => wanted,
            };
            last = count.checked_sub(wanted).filter(|left| *left >= MIN_LOG).unwrap_or(count);
            fast = last.checked_add(1).filter(|first| *first < count);
        }
        let found = Self {
            first: be32(bytes, 0x14)?,
            last,
            start: be32(bytes, 0x1c)?,
            sequence: be32(bytes, 0x18)?,
            wide: incompatible & WIDE != 0,
            asynchronous: incompatible & ASYNC != 0,
            sums,
            seed: crc32c(START, &[slice(bytes, 0x30, 16)?]),
            fast,
        };
        let whole = be32(bytes, 12)? == u32::try_from(bytes.len()).unwrap_or(0)
            && u64::from(count) <= blocks
            && found.first >= 1
            && found.first < found.last
            && (found.start == 0 || (found.first..found.last).contains(&found.start));
        if whole { Ok(found) } else { Err(Error::corrupt("its superblock has impossible numbers")) }
    }

    /// Bytes at the end of descriptors and revocations that hold their checksum.
    pub(super) fn tail(&self) -> usize {
        if self.sums_blocks() { 4 } else { 0 }
    }

    pub(super) fn sums_blocks(&self) -> bool {
        matches!(self.sums, Sums::Short | Sums::Long)
    }

    /// The size of a descriptor's entry, without the UUID that may follow.
    pub(super) fn tag_bytes(&self) -> usize {
        let wide = if self.wide { 12 } else { 8 };
        match self.sums {
            Sums::Long => 16,
            // Two more than the fields take, as the kernel has it.
            Sums::Short => wide + 2,
            Sums::None | Sums::Whole => wide,
        }
    }
}
