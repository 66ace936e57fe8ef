//! Changed inodes. The journal has their fields in the byte order of the machine that wrote it, the disk has them big-endian.

use tidemark_plugin::fields::{array, be16, be64, byte, le16, le32, le64, slice};
use tidemark_plugin::{Error, Result};

use super::transactions::Item;
use crate::inode::{CRC_AT, LARGE_COUNTS, LARGE_TIMES, MAGIC, core_bytes, fork_bytes};
use crate::superblock::Superblock;
use crate::{checksum, extents};

pub(crate) const KIND: u16 = 0x123b;
pub(crate) const MADE: u16 = 0x123f;
/// Which part of an inode was changed: contents in it, its list of extents, its tree's root.
const LOCAL: u32 = 0x2;
const EXTENTS: u32 = 0x4;
const ROOT: u32 = 0x8;
/// Fields as offset and length: of both versions, and of version 3 alone.
const FIELDS: [(usize, usize); 18] = [
    (0, 2),
    (2, 2),
    (4, 1),
    (5, 1),
    (8, 4),
    (12, 4),
    (16, 4),
    (20, 2),
    (22, 2),
    (56, 8),
    (64, 8),
    (72, 4),
    (76, 4),
    (80, 2),
    (82, 1),
    (83, 1),
    (90, 2),
    (92, 4),
];
const FIELDS_3: [(usize, usize); 4] = [(104, 8), (120, 8), (128, 4), (152, 8)];
/// The number of the record that changed it last, and where version 2 counts how often it was written.
const CHANGED_AT: usize = 112;
const WRITES_AT: usize = 30;
const MAX_WRITES: u16 = 0xffff;

/// What the first region of an inode's change says.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Changed {
    fields: u32,
    pub(crate) inode: u64,
    /// The buffer of inodes that it lies in, in sectors.
    pub(crate) sector: u64,
    pub(crate) sectors: u16,
    /// Where it lies, in bytes.
    pub(crate) at: u64,
}

/// Inodes that were made: blocks of a group.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Made {
    pub(crate) group: u32,
    pub(crate) block: u32,
    pub(crate) blocks: u32,
}

impl Changed {
    pub(crate) fn parse(format: &[u8]) -> Result<Self> {
        // Machines with 32 bits leave no gap before the inode's number.
        let gap = if format.len() < 56 { 0 } else { 4 };
        let (sector, offset) = (le64(format, 36 + gap)?, le32(format, 48 + gap)?);
        let at = sector.checked_mul(512).and_then(|at| at.checked_add(offset.into()));
        Ok(Self {
            fields: le32(format, 4)?,
            inode: le64(format, 12 + gap)?,
            sector,
            sectors: u16::try_from(le32(format, 44 + gap)?).unwrap_or_default(),
            at: at.ok_or_else(|| Error::corrupt("the journal has an impossible inode"))?,
        })
    }

    /// What an inode becomes; none where it is newer than the transaction. `fresh` ones were made by the journal itself.
    pub(crate) fn apply(
        &self,
        superblock: &Superblock,
        item: &Item,
        before: &[u8],
        fresh: bool,
        transaction: u64,
    ) -> Result<Option<Vec<u8>>> {
        let core = item.region(1).unwrap_or_default();
        let damaged = |what: &str| Error::corrupt(format!("the journal has inode {} {what}", self.inode));
        let made = fresh && be16(before, 0)? == 0;
        if !made {
            if be16(before, 0)? != MAGIC {
                return Err(damaged("where none is"));
            }
            let was_damaged = superblock.checked && !checksum::holds(before, CRC_AT);
            if was_damaged || is_newer(superblock, before, core, transaction)? {
                return Ok(None);
            }
        }
        if le16(core, 0)? != MAGIC || (byte(core, 4)? == 3) != superblock.checked {
            return Err(damaged("with impossible fields"));
        }
        let mut after = before.to_vec();
        translate(core, &mut after, superblock.checked, transaction)?;
        let (start, length) = (core_bytes(superblock), fork_bytes(superblock, &after)?);
        let fork = after.get_mut(start..start + length).unwrap_or_default();
        match (self.fields & (LOCAL | EXTENTS | ROOT), item.region(2)) {
            (0, _) => {}
            (LOCAL | EXTENTS, Some(bytes)) => {
                let target = fork.get_mut(..bytes.len()).ok_or_else(|| damaged("that is too long"))?;
                target.copy_from_slice(bytes);
            }
            (ROOT, Some(bytes)) => root(superblock, bytes, fork)?,
            _ => return Err(damaged("that lacks a part")),
        }
        if superblock.checked {
            checksum::set(&mut after, CRC_AT);
        }
        Ok(Some(after))
    }
}

impl Made {
    pub(crate) fn parse(format: &[u8]) -> Result<Self> {
        // Unlike all others it is big-endian.
        let field = |at| array(format, at).map(u32::from_be_bytes);
        Ok(Self { group: field(4)?, block: field(8)?, blocks: field(20)? })
    }
}

fn is_newer(superblock: &Superblock, before: &[u8], core: &[u8], transaction: u64) -> Result<bool> {
    if superblock.checked {
        let number = be64(before, CHANGED_AT)?;
        return Ok(!matches!(number, 0 | u64::MAX) && number > transaction);
    }
    let (told, known) = (le16(core, WRITES_AT)?, be16(before, WRITES_AT)?);
    // The count begins again after its largest.
    Ok(told < known && !(known == MAX_WRITES && told < MAX_WRITES >> 1))
}

/// The journal's fields as the disk has them.
fn translate(core: &[u8], inode: &mut [u8], checked: bool, transaction: u64) -> Result<()> {
    let mut put = |at: usize, length: usize| -> Result<()> {
        let source = slice(core, at, length)?;
        let target = inode.get_mut(at..at + length).unwrap_or_default();
        for (to, from) in target.iter_mut().zip(source.iter().rev()) {
            *to = *from;
        }
        Ok(())
    };
    let flags = if checked { le64(core, 120)? } else { 0 };
    for (at, length) in FIELDS.into_iter().chain(FIELDS_3.into_iter().filter(|_| checked)) {
        put(at, length)?;
    }
    for at in [32, 40, 48, 144].into_iter().filter(|at| checked || *at < 100) {
        if flags & LARGE_TIMES != 0 {
            put(at, 8)?;
        } else {
            put(at, 4)?;
            put(at + 4, 4)?;
        }
    }
    let mut fill = |at: usize, bytes: &[u8]| {
        if let Some(target) = inode.get_mut(at..at + bytes.len()) {
            target.copy_from_slice(bytes);
        }
    };
    let large = if flags & LARGE_COUNTS == 0 { 0 } else { le64(core, 24)? };
    fill(24, &large.to_be_bytes());
    fill(6, &[0; 2]);
    if checked {
        fill(CHANGED_AT, &transaction.to_be_bytes());
        fill(160, slice(core, 160, 16)?);
    }
    Ok(())
}

/// A tree's root: in the journal it has the header of a block, and room for as many keys as it is long.
fn root(superblock: &Superblock, bytes: &[u8], fork: &mut [u8]) -> Result<()> {
    let header = extents::tree_header(superblock);
    let (level, count) = (array::<2>(bytes, 4)?, be16(bytes, 6)?);
    let (from_room, room) = (bytes.len().saturating_sub(header) / 16, fork.len().saturating_sub(4) / 16);
    let length = usize::from(count) * 8;
    let keys = slice(bytes, header, length)?;
    let pointers = slice(bytes, header + from_room * 8, length)?;
    if usize::from(count) > room {
        return Err(Error::corrupt("the journal has a tree whose root is too large"));
    }
    let parts: [(usize, &[u8]); 4] =
        [(0, &level), (2, &count.to_be_bytes()), (4, keys), (4 + room * 8, pointers)];
    for (at, part) in parts {
        if let Some(target) = fork.get_mut(at..at + part.len()) {
            target.copy_from_slice(part);
        }
    }
    Ok(())
}
