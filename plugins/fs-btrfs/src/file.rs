//! What is in a file, by its extents, which are looked up in the tree at each read.

use std::cell::RefCell;
use std::rc::Rc;

use tidemark_plugin::fields::index;
use tidemark_plugin::{Error, Result};

use crate::blocks::Blocks;
use crate::compression::MOST;
use crate::data;
use crate::items::{Content, EXTENT_DATA, Extent, Packed};
use crate::tree::{Cursor, Key, Pointer};

/// What was unpacked last.
pub(crate) type Unpacked = RefCell<Option<(Packed, Rc<Vec<u8>>)>>;

/// An open file.
pub(crate) struct File<'a> {
    pub(crate) blocks: &'a Blocks,
    /// The tree of its subvolume.
    pub(crate) tree: Pointer,
    pub(crate) inode: u64,
    /// The tree of its data's checksums, where they have some.
    pub(crate) sums: Option<Pointer>,
    pub(crate) unpacked: &'a Unpacked,
}

impl File<'_> {
    /// Fills `into`, which holds zeros, with what the file has at `offset`.
    pub(crate) fn read(&self, offset: u64, into: &mut [u8]) -> Result<()> {
        let end = offset.checked_add(into.len() as u64);
        let end = end.ok_or_else(|| Error::corrupt("a range beyond all bounds"))?;
        self.extents(offset, |extent| {
            if extent.start >= end {
                return Ok(true);
            }
            let (from, to) = (extent.start.max(offset), extent.end().min(end));
            if from < to {
                let part = into.get_mut(index(from - offset)?..index(to - offset)?).unwrap_or_default();
                self.fill(extent, from - extent.start, part)?;
            }
            Ok(false)
        })
    }

    /// The first offset at or after `offset` that is not in a hole, in a file of `size` bytes.
    pub(crate) fn next_data(&self, offset: u64, size: u64) -> Result<Option<u64>> {
        let mut found = None;
        self.extents(offset, |extent| {
            if extent.content != Content::Zeros && extent.end() > offset {
                found = Some(extent.start.max(offset));
            }
            Ok(found.is_some() || extent.start >= size)
        })?;
        Ok(found.filter(|found| *found < size))
    }

    /// Shows the extents from the one that has `offset` on, until there are no more or enough.
    fn extents(&self, offset: u64, mut each: impl FnMut(&Extent<'_>) -> Result<bool>) -> Result<()> {
        let start = Key { object: self.inode, kind: EXTENT_DATA, offset };
        let mut cursor = Cursor::at_or_before(self.blocks, self.tree, start)?;
        let mut end = 0;
        while let Some((key, item)) = cursor.item()? {
            if key.group() == start.group() {
                let extent = Extent::parse(key.offset, item)?;
                if extent.start < end {
                    return Err(Error::corrupt(format!(
                        "byte {} of a file lies in two places",
                        extent.start
                    )));
                }
                end = extent.end();
                if each(&extent)? {
                    break;
                }
            } else if key.group() > start.group() {
                break;
            }
            cursor.advance()?;
        }
        Ok(())
    }

    /// Fills `into` with what an extent has from `skip` on.
    fn fill(&self, extent: &Extent<'_>, skip: u64, into: &mut [u8]) -> Result<()> {
        let sector = self.blocks.superblock.sector_bytes;
        match extent.content {
            Content::Zeros => Ok(()),
            Content::Plain { logical } => {
                data::read(self.blocks, self.sums, logical.saturating_add(skip), into)
            }
            Content::Inline { bytes, compression: None } => copy(bytes, skip, into),
            Content::Inline { bytes, compression: Some(compression) } => {
                copy(&compression.unpack(bytes, extent.length, sector)?, skip, into)
            }
            Content::Compressed { packed, offset } => {
                copy(&self.unpacked(packed)?, offset.saturating_add(skip), into)
            }
        }
    }

    /// What comes out of compressed bytes.
    fn unpacked(&self, packed: Packed) -> Result<Rc<Vec<u8>>> {
        if let Some((known, bytes)) = &*self.unpacked.borrow()
            && *known == packed
        {
            return Ok(Rc::clone(bytes));
        }
        let Packed { logical, length, unpacked, compression } = packed;
        if length > MOST {
            return Err(Error::corrupt(format!("{length} compressed bytes together")));
        }
        let mut bytes = vec![0; index(length)?];
        data::read(self.blocks, self.sums, logical, &mut bytes)?;
        let bytes = compression.unpack(&bytes, unpacked, self.blocks.superblock.sector_bytes)?;
        let bytes = Rc::new(bytes);
        *self.unpacked.borrow_mut() = Some((packed, Rc::clone(&bytes)));
        Ok(bytes)
    }
}

fn copy(from: &[u8], skip: u64, into: &mut [u8]) -> Result<()> {
    let from = from.get(index(skip)?..).and_then(|rest| rest.get(..into.len()));
    let from = from.ok_or_else(|| Error::corrupt("a part of a file is shorter than it says"))?;
    into.copy_from_slice(from);
    Ok(())
}
