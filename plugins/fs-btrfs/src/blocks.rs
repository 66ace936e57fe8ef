//! The device by logical addresses, and the blocks of metadata on it, each checked when it is read.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use tidemark_plugin::disk::CachedDisk;
use tidemark_plugin::{Error, ErrorKind, Result, info};

use crate::chunks::{CHUNK_ITEM, CHUNKS, Chunks};
use crate::superblock::Superblock;
use crate::tree::{Cursor, Key, Node, Pointer};

/// Bytes of the blocks that are kept: two halves, of which the older one is dropped when the newer one is full. Their keys take
/// as much again at most.
const KEPT: usize = 6 << 20;

/// The device of a file system.
pub(crate) struct Blocks {
    pub(crate) disk: CachedDisk,
    pub(crate) superblock: Superblock,
    chunks: Chunks,
    kept: RefCell<Kept>,
    /// That a second copy had to be read was said.
    said: Cell<bool>,
}

#[derive(Default)]
struct Kept {
    newer: HashMap<u64, Rc<Node>>,
    older: HashMap<u64, Rc<Node>>,
}

impl Blocks {
    /// Reads all chunks, first those that the chunk tree lies in.
    pub(crate) fn open(disk: CachedDisk, superblock: Superblock) -> Result<Self> {
        let chunks = Chunks::system(&superblock.system_chunks, superblock.device)?;
        let mut blocks = Self { disk, superblock, chunks, kept: RefCell::default(), said: Cell::new(false) };
        let mut chunks = Chunks::default();
        let start = Key { object: CHUNKS, kind: CHUNK_ITEM, offset: 0 };
        let mut cursor = Cursor::at_or_after(&blocks, blocks.superblock.chunk_root, start)?;
        while let Some((key, item)) =
            cursor.item()?.filter(|(key, _)| (key.object, key.kind) == start.group())
        {
            chunks.add(key, item, blocks.superblock.device)?;
            cursor.advance()?;
        }
        drop(cursor);
        blocks.chunks = chunks.sorted()?;
        Ok(blocks)
    }

    /// Where a range lies: its first copy, and the second where there is one.
    pub(crate) fn places(&self, logical: u64, length: usize) -> Result<(u64, Option<u64>)> {
        self.chunks.places(logical, length as u64)
    }

    /// The block that a pointer leads to.
    pub(crate) fn node(&self, pointer: Pointer) -> Result<Rc<Node>> {
        if let Some(node) = self.kept.borrow_mut().find(pointer.logical) {
            node.expect(pointer)?;
            return Ok(node);
        }
        let node = Rc::new(self.read(pointer)?);
        let most = KEPT / 2 / self.superblock.node_bytes;
        self.kept.borrow_mut().keep(pointer.logical, &node, most);
        Ok(node)
    }

    fn read(&self, pointer: Pointer) -> Result<Node> {
        let (first, second) = self.places(pointer.logical, self.superblock.node_bytes)?;
        let copy = |place| {
            let mut bytes = vec![0; self.superblock.node_bytes];
            self.disk.read(place, &mut bytes)?;
            Node::parse(bytes, pointer, &self.superblock)
        };
        let damage = match (copy(first), second) {
            (Err(error), Some(second)) if error.kind == ErrorKind::Corrupt => match copy(second) {
                Ok(node) => {
                    self.say(pointer.logical);
                    return Ok(node);
                }
                Err(_) => error,
            },
            (Err(error), _) => error,
            (Ok(node), _) => return Ok(node),
        };
        Err(damage.during(&format!("the block of metadata at {}", pointer.logical)))
    }

    /// Says once that a first copy is damaged.
    pub(crate) fn say(&self, logical: u64) {
        if !self.said.replace(true) {
            info!("the first copy at {logical} is damaged, and maybe others: their second copies are read");
        }
    }

    /// The length of a sector.
    pub(crate) fn sector(&self) -> u64 {
        self.superblock.sector_bytes as u64
    }
}

impl Kept {
    fn find(&mut self, logical: u64) -> Option<Rc<Node>> {
        if let Some(node) = self.newer.get(&logical) {
            return Some(Rc::clone(node));
        }
        let node = self.older.remove(&logical)?;
        self.newer.insert(logical, Rc::clone(&node));
        Some(node)
    }

    fn keep(&mut self, logical: u64, node: &Rc<Node>, most: usize) {
        if self.newer.len() >= most {
            self.older = std::mem::take(&mut self.newer);
        }
        self.newer.insert(logical, Rc::clone(node));
    }
}

/// Damage of something that was looked for.
pub(crate) fn missing(what: impl std::fmt::Display) -> Error {
    Error::corrupt(format!("{what} is missing"))
}
