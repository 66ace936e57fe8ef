//! The journal as a ring of blocks of 512 bytes, and the records in it (XFS Algorithms & Data Structures, chapter "Journaling
//! Log").

use tidemark_plugin::disk::CachedDisk;
use tidemark_plugin::fields::{array, be32, be64, index, slice};
use tidemark_plugin::{Error, Result};

use crate::checksum;

pub(crate) const BLOCK: u64 = 512;
const MAGIC: u32 = 0xfeed_babe;
/// What a record's header, and each further block of it, says the first words of: 32 KiB.
const WORDS: usize = 64;
/// The largest record.
const MAX_RECORD: u32 = 256 << 10;
const CRC_AT: usize = 32;
/// How much of a header is summed: its length with the padding of the machine that wrote it.
const HEADERS: [usize; 2] = [328, 324];
/// How much of its further blocks.
const MORE_HEADER: usize = 260;
/// Written by a machine whose numbers are little-endian.
const LITTLE_ENDIAN: u32 = 1;

/// Where the journal lies.
pub(crate) struct Place<'a> {
    pub(crate) disk: &'a CachedDisk,
    pub(crate) at: u64,
    pub(crate) blocks: u64,
}

/// A record's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Record {
    /// Its first block.
    pub(crate) block: u64,
    /// How often the ring had been written when it was.
    pub(crate) cycle: u32,
    /// Of what follows the header, in bytes.
    pub(crate) length: u32,
    /// The most that a record of its time has.
    pub(crate) largest: u32,
    /// Its own number: cycle and block.
    pub(crate) number: u64,
    /// The number of the record from which on the journal is needed.
    pub(crate) tail: u64,
    pub(crate) operations: u32,
    pub(crate) uuid: [u8; 16],
    pub(crate) little_endian: bool,
}

impl Place<'_> {
    /// Blocks from one on, over the ring's end.
    pub(crate) fn read(&self, block: u64, count: u64) -> Result<Vec<u8>> {
        let mut bytes = vec![0; index(count * BLOCK)?];
        let first = block % self.blocks;
        let until_end = (self.blocks - first).min(count);
        let (before, after) = bytes.split_at_mut(index(until_end * BLOCK)?);
        self.disk.read(self.at + first * BLOCK, before)?;
        self.disk.read(self.at, after)?;
        Ok(bytes)
    }

    /// In which cycle a block was written last.
    pub(crate) fn cycle(&self, block: u64) -> Result<u32> {
        let mut bytes = [0; 8];
        self.disk.read(self.at + block % self.blocks * BLOCK, &mut bytes)?;
        cycle_of(&bytes)
    }

    /// The record that begins at a block; none where none does.
    pub(crate) fn record(&self, block: u64) -> Result<Option<Record>> {
        let bytes = self.read(block, 1)?;
        let (version, told) = (be32(&bytes, 8)?, be32(&bytes, 320)?);
        // Version 1 has one size, and does not tell it.
        let largest = if version == 2 { told } else { 32 << 10 };
        let record = Record {
            block,
            cycle: be32(&bytes, 4)?,
            length: be32(&bytes, 12)?,
            largest,
            number: be64(&bytes, 16)?,
            tail: be64(&bytes, 24)?,
            operations: be32(&bytes, 40)?,
            uuid: array(&bytes, 304)?,
            little_endian: be32(&bytes, 300)? == LITTLE_ENDIAN,
        };
        let right = be32(&bytes, 0)? == MAGIC
            && matches!(version, 1 | 2)
            && (1..=MAX_RECORD).contains(&largest)
            && (1..=MAX_RECORD).contains(&record.length)
            && record.number == u64::from(record.cycle) << 32 | block;
        Ok(Some(record).filter(|_| right))
    }

    /// What a record holds, with the words that the blocks' cycles took the places of. `must` it have a right checksum?
    ///
    /// # Errors
    /// Corrupt where its checksum is wrong.
    pub(crate) fn content(&self, record: &Record, must: bool) -> Result<Vec<u8>> {
        let headers = self.read(record.block, record.header_blocks())?;
        let mut content = self.read(record.block + record.header_blocks(), record.content_blocks())?;
        content.truncate(index(record.length.into())?);
        let told = array(&headers, CRC_AT).map(u32::from_le_bytes)?;
        let more = content.len().div_ceil(WORDS * 512).saturating_sub(1);
        let sum = |header: usize| -> Result<u32> {
            let mut pieces = vec![slice(&headers, 0, header)?];
            for block in headers.chunks_exact(512).skip(1).take(more) {
                pieces.push(slice(block, 0, MORE_HEADER)?);
            }
            pieces.push(&content);
            Ok(checksum::of(&pieces, CRC_AT))
        };
        let right = sum(HEADERS[0])? == told || sum(HEADERS[1])? == told;
        if !right && (must || told != 0) {
            return Err(Error::corrupt(format!(
                "the journal's record at {} has a wrong checksum",
                record.block
            )));
        }
        for (number, block) in content.chunks_mut(512).enumerate() {
            let (header, word) = (number / WORDS, number % WORDS);
            let at = header * 512 + if header == 0 { 44 } else { 4 } + word * 4;
            let word = slice(&headers, at, 4)?;
            if let Some(place) = block.get_mut(..4) {
                place.copy_from_slice(word);
            }
        }
        Ok(content)
    }
}

impl Record {
    pub(crate) fn header_blocks(&self) -> u64 {
        u64::from(self.largest).div_ceil(WORDS as u64 * BLOCK).max(1)
    }

    fn content_blocks(&self) -> u64 {
        u64::from(self.length).div_ceil(BLOCK)
    }

    /// All its blocks.
    pub(crate) fn blocks(&self) -> u64 {
        self.header_blocks() + self.content_blocks()
    }
}

/// In which cycle a block was written: its first word, or a header's second.
pub(crate) fn cycle_of(block: &[u8]) -> Result<u32> {
    match be32(block, 0)? {
        MAGIC => be32(block, 4),
        cycle => Ok(cycle),
    }
}

/// Whether a block begins a record.
pub(crate) fn is_header(block: &[u8]) -> bool {
    be32(block, 0) == Ok(MAGIC)
}
