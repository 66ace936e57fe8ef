//! The one form of all trees: blocks of keys in order, which lead to blocks of the level below, and at level 0 to items.
//!
//! No tree leads in circles: levels fall by one from block to block, and each block's keys lie within the bounds that the blocks
//! above give it, so that a walk never comes to a block twice.

use std::rc::Rc;

use tidemark_plugin::fields::{array, byte, index, le32, le64, slice};
use tidemark_plugin::{Error, Result};

use crate::blocks::Blocks;
use crate::checksum::FIELD;
use crate::superblock::Superblock;

/// The header of a block.
const HEADER: usize = 101;
/// A key with a pointer, and a key with an item's place.
const POINTER: usize = 33;
const ITEM: usize = 25;

/// What all things go by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) object: u64,
    pub(crate) kind: u8,
    pub(crate) offset: u64,
}

impl Key {
    pub(crate) fn parse(bytes: &[u8], at: usize) -> Result<Self> {
        // Trees are searched by nothing else, so it is read in one go.
        let [a, b, c, d, e, f, g, h, kind, offset @ ..] = array::<17>(bytes, at)?;
        let object = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
        Ok(Self { object, kind, offset: u64::from_le_bytes(offset) })
    }

    /// What it shares with the keys that say more of the same.
    pub(crate) fn group(self) -> (u64, u8) {
        (self.object, self.kind)
    }
}

/// What leads to a block, with what must be in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pointer {
    pub(crate) logical: u64,
    pub(crate) generation: u64,
    pub(crate) level: u8,
}

/// A block that was checked.
#[derive(Debug)]
pub(crate) struct Node {
    bytes: Vec<u8>,
    level: u8,
    generation: u64,
    keys: Vec<Key>,
}

impl Node {
    /// Checks a block against its checksum and against what leads to it.
    pub(crate) fn parse(bytes: Vec<u8>, pointer: Pointer, superblock: &Superblock) -> Result<Self> {
        if !superblock.checksum.fits(bytes.get(FIELD..).unwrap_or_default(), &bytes) {
            return Err(Error::corrupt("it does not have its checksum"));
        }
        if slice(&bytes, 32, 16)? != superblock.metadata_uuid || le64(&bytes, 48)? != pointer.logical {
            return Err(Error::corrupt("another block lies there"));
        }
        let count = index(u64::from(le32(&bytes, 96)?))?;
        let mut node =
            Self { level: byte(&bytes, 100)?, generation: le64(&bytes, 80)?, keys: Vec::new(), bytes };
        node.expect(pointer)?;
        let step = if node.level > 0 { POINTER } else { ITEM };
        let room = node.bytes.len().saturating_sub(HEADER) / step;
        if count > room || (node.level > 0 && count == 0) {
            return Err(Error::corrupt(format!("it has {count} keys")));
        }
        node.keys.reserve_exact(count);
        for slot in 0..count {
            let key = Key::parse(&node.bytes, HEADER + slot * step)?;
            if node.keys.last().is_some_and(|last| *last >= key) {
                return Err(Error::corrupt("its keys are out of order"));
            }
            node.keys.push(key);
            if node.level == 0 {
                node.item(slot)?;
            }
        }
        Ok(node)
    }

    /// Whether it is what a pointer leads to.
    pub(crate) fn expect(&self, pointer: Pointer) -> Result<()> {
        if self.generation != pointer.generation || self.level != pointer.level {
            return Err(Error::corrupt(format!(
                "it is of generation {} and level {}, not {} and {}",
                self.generation, self.level, pointer.generation, pointer.level
            )));
        }
        Ok(())
    }

    fn key(&self, slot: usize) -> Result<Key> {
        self.keys.get(slot).copied().ok_or_else(|| Error::corrupt("a block of a tree has too few keys"))
    }

    fn item(&self, slot: usize) -> Result<&[u8]> {
        let at = HEADER + slot * ITEM + 17;
        let (start, length) = (le32(&self.bytes, at)?, le32(&self.bytes, at + 4)?);
        let start = index(u64::from(start))?.saturating_add(HEADER);
        slice(&self.bytes, start, index(u64::from(length))?)
    }

    fn child(&self, slot: usize) -> Result<Pointer> {
        let at = HEADER + slot * POINTER + 17;
        let level = self.level.checked_sub(1).ok_or_else(|| Error::corrupt("a leaf leads on"))?;
        Ok(Pointer { logical: le64(&self.bytes, at)?, generation: le64(&self.bytes, at + 8)?, level })
    }

    /// The last slot whose key is not above a key, or else the first.
    fn slot(&self, key: Key) -> usize {
        self.keys.partition_point(|known| *known <= key).saturating_sub(1)
    }

    /// Whether it keeps the bounds that the block above gives.
    fn within(&self, first: Option<Key>, below: Option<Key>) -> Result<()> {
        let begins = first.is_none_or(|first| self.keys.first() == Some(&first));
        let ends = below.is_none_or(|below| self.keys.last().is_some_and(|last| *last < below));
        if begins && ends {
            return Ok(());
        }
        Err(Error::corrupt("a block of a tree has keys that are not its own"))
    }
}

/// A place in one block on the way down, and the key that its later blocks stay below.
struct Step {
    node: Rc<Node>,
    slot: usize,
    below: Option<Key>,
}

/// A place in a tree, from which the items that follow are read.
pub(crate) struct Cursor<'a> {
    blocks: &'a Blocks,
    path: Vec<Step>,
}

impl<'a> Cursor<'a> {
    /// At the last item that is not above a key; where there is none, at the tree's first item.
    pub(crate) fn at_or_before(blocks: &'a Blocks, root: Pointer, key: Key) -> Result<Self> {
        let mut cursor = Self { blocks, path: Vec::with_capacity(4) };
        cursor.descend(root, None, None, key)?;
        Ok(cursor)
    }

    /// At the first item that is not below a key.
    pub(crate) fn at_or_after(blocks: &'a Blocks, root: Pointer, key: Key) -> Result<Self> {
        let mut cursor = Self::at_or_before(blocks, root, key)?;
        if cursor.item()?.is_some_and(|(found, _)| found < key) {
            cursor.advance()?;
        }
        Ok(cursor)
    }

    fn descend(
        &mut self,
        from: Pointer,
        mut first: Option<Key>,
        mut below: Option<Key>,
        key: Key,
    ) -> Result<()> {
        let mut pointer = from;
        loop {
            let node = self.blocks.node(pointer)?;
            node.within(first, below)?;
            let slot = node.slot(key);
            let leaf = node.level == 0;
            let mut lower = below;
            if !leaf {
                pointer = node.child(slot)?;
                first = Some(node.key(slot)?);
                lower = node.keys.get(slot + 1).copied().or(below);
            }
            self.path.push(Step { node, slot, below });
            below = lower;
            if leaf {
                return Ok(());
            }
        }
    }

    /// What is at the place; none after the last item.
    pub(crate) fn item(&self) -> Result<Option<(Key, &[u8])>> {
        let at = self.path.last().filter(|step| step.slot < step.node.keys.len());
        at.map(|Step { node, slot, .. }| Ok((node.key(*slot)?, node.item(*slot)?))).transpose()
    }

    /// On to the next item.
    pub(crate) fn advance(&mut self) -> Result<()> {
        if let Some(leaf) = self.path.last_mut() {
            leaf.slot += 1;
            if leaf.slot < leaf.node.keys.len() {
                return Ok(());
            }
        }
        self.path.pop();
        while let Some(Step { node, slot, below }) = self.path.pop() {
            let next = slot + 1;
            if next < node.keys.len() {
                let (pointer, first) = (node.child(next)?, node.key(next)?);
                let lower = node.keys.get(next + 1).copied().or(below);
                self.path.push(Step { node, slot: next, below });
                return self.descend(pointer, Some(first), lower, first);
            }
        }
        Ok(())
    }
}
