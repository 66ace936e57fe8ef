//! Changed buffers: a map of which 128 bytes of each were changed, and what they became.

use tidemark_plugin::fields::{array, be32, be64, index, le16, le32, le64};
use tidemark_plugin::{Error, Result};

use super::Freed;
use super::transactions::{Item, Transaction};
use crate::checksum;
use crate::superblock::{CRC_AT, Superblock};
use crate::{extents, symlink};

pub(crate) const KIND: u16 = 0x123c;
/// Flags: it only tells which inodes of it are unlinked; it was freed.
const UNLINKED: u16 = 0x1;
const FREED: u16 = 0x2;
/// What the flags' upper bits tell of the contents.
const TYPE_SHIFT: u32 = 11;
const UNKNOWN: u16 = 0;
const TREE: u16 = 4;
const INODES: u16 = 8;
const LINK: u16 = 9;
const DIRECTORY: [u16; 2] = [10, 11];
const SUPERBLOCK: u16 = 18;
/// What is changed at once.
const CHUNK: usize = 128;
/// The largest buffer that is read here, in sectors.
const MAX_SECTORS: u16 = 128;
const MAX_WORDS: u32 = 32;

/// What the first region of a buffer's change says.
#[derive(Debug, Clone)]
pub(crate) struct Changed {
    flags: u16,
    pub(crate) sectors: u16,
    pub(crate) sector: u64,
    map: Vec<u32>,
}

/// Where structures with a checksum have it, and the number of the record that changed them last, and their file system's UUID.
struct Sealed {
    sum: usize,
    number: usize,
    uuid: usize,
}

impl Changed {
    pub(crate) fn parse(format: &[u8]) -> Result<Self> {
        let words = le32(format, 16)?;
        if words > MAX_WORDS {
            return Err(Error::corrupt("the journal has a buffer with an impossible map"));
        }
        let map = (0..index(words.into())?).map(|word| le32(format, 20 + word * 4)).collect::<Result<_>>()?;
        Ok(Self { flags: le16(format, 4)?, sectors: le16(format, 6)?, sector: le64(format, 8)?, map })
    }

    pub(crate) fn is_freed(&self) -> bool {
        self.flags & FREED != 0
    }

    fn contents(&self) -> u16 {
        self.flags >> TYPE_SHIFT
    }

    /// Whether it is anything that is read here.
    pub(crate) fn is_read(&self) -> bool {
        let known = [UNKNOWN, TREE, INODES, LINK, DIRECTORY[0], DIRECTORY[1]].contains(&self.contents());
        let superblock = self.contents() == SUPERBLOCK && self.sector == 0;
        self.flags & (UNLINKED | FREED) == 0 && (known || superblock)
    }

    pub(crate) fn is_superblock(&self) -> bool {
        self.contents() == SUPERBLOCK
    }

    /// Its place and length in bytes.
    pub(crate) fn place(&self) -> Result<(u64, usize)> {
        let at = self.sector.checked_mul(512).filter(|_| (1..=MAX_SECTORS).contains(&self.sectors));
        let at = at.ok_or_else(|| Error::corrupt("the journal has an impossible buffer"))?;
        Ok((at, usize::from(self.sectors) * 512))
    }

    /// Lays the changes over a buffer. Tells whether all of it was changed.
    pub(crate) fn apply(&self, item: &Item, buffer: &mut [u8]) -> Result<bool> {
        let damaged = || Error::corrupt("the journal has a buffer whose map and contents differ");
        let changed =
            |chunk: usize| self.map.get(chunk / 32).is_some_and(|word| word >> (chunk % 32) & 1 == 1);
        let (mut chunk, mut region, mut count) = (0, 1, 0);
        while chunk < self.map.len() * 32 {
            if !changed(chunk) {
                chunk += 1;
                continue;
            }
            // What lies together may come in several regions.
            let bytes = item.region(region).ok_or_else(damaged)?;
            let most = bytes.len() / CHUNK;
            let together = (chunk..).take(most).take_while(|chunk| changed(*chunk)).count();
            let target = buffer.get_mut(chunk * CHUNK..(chunk + together) * CHUNK);
            let source = bytes.get(..together * CHUNK).filter(|_| together > 0);
            target.ok_or_else(damaged)?.copy_from_slice(source.ok_or_else(damaged)?);
            chunk += together;
            count += together;
            region += 1;
        }
        Ok(count * CHUNK == buffer.len())
    }

    /// Whether what became of it is nothing that is read here: most trees map free space or inodes.
    pub(crate) fn is_foreign(&self, after: &[u8]) -> bool {
        let maps = [extents::TREE_MAGIC, extents::CHECKED_TREE_MAGIC];
        self.contents() == TREE && !be32(after, 0).is_ok_and(|magic| maps.contains(&magic))
    }

    /// Gives it the checksum that its contents now have. False where that cannot be told: a part of a directory's block.
    ///
    /// What was damaged before, and was not changed as a whole, keeps its wrong one.
    pub(crate) fn seal(&self, superblock: &Superblock, before: &[u8], after: &mut [u8], whole: bool) -> bool {
        let directory = DIRECTORY.contains(&self.contents());
        if directory && after.len() as u64 != superblock.directory_block_bytes {
            return false;
        }
        let Some(sealed) = Sealed::of(after) else { return !directory };
        let was_damaged =
            Sealed::of_this(before, superblock).is_some_and(|sealed| !checksum::holds(before, sealed.sum));
        if whole || !was_damaged {
            checksum::set(after, sealed.sum);
        }
        true
    }
}

impl Sealed {
    fn of(bytes: &[u8]) -> Option<Self> {
        let found = |sum, number, uuid| Some(Self { sum, number, uuid });
        match be32(bytes, 0).ok()? {
            extents::CHECKED_TREE_MAGIC => found(extents::TREE_CRC_AT, 32, 40),
            symlink::MAGIC => found(symlink::CRC_AT, 48, 16),
            magic => match &magic.to_be_bytes() {
                b"XFSB" => found(CRC_AT, 240, 32),
                b"XDB3" | b"XDD3" => found(4, 16, 24),
                _ => None,
            },
        }
    }

    /// Likewise, of something that is this file system's.
    fn of_this(bytes: &[u8], superblock: &Superblock) -> Option<Self> {
        let uuids = [superblock.uuid, superblock.metadata_uuid];
        Self::of(bytes).filter(|sealed| array(bytes, sealed.uuid).is_ok_and(|uuid| uuids.contains(&uuid)))
    }
}

/// Whether a buffer on the disk has what a transaction made of it, or later changes.
pub(crate) fn is_newer(superblock: &Superblock, bytes: &[u8], transaction: u64) -> bool {
    let sealed = Sealed::of_this(bytes, superblock).filter(|_| superblock.checked);
    let number = sealed.and_then(|sealed| be64(bytes, sealed.number).ok());
    number.is_some_and(|number| !matches!(number, 0 | u64::MAX) && number >= transaction)
}

/// Counts what a transaction freed.
pub(crate) fn freed(transaction: &Transaction, freed: &mut Freed) -> Result<()> {
    for item in &transaction.items {
        if item.kind()? != KIND {
            continue;
        }
        let changed = Changed::parse(item.format())?;
        if changed.is_freed() {
            *freed.entry((changed.sector, changed.sectors)).or_default() += 1;
        }
    }
    if freed.len() > MAX_FREED {
        return Err(Error::unsupported("more was freed than a reader can hold"));
    }
    Ok(())
}

/// Buffers that were freed and are remembered.
const MAX_FREED: usize = 200_000;
