//! Thin pools: which chunks of the pool's data make up a device (Linux' `drivers/md/dm-thin-metadata.c` and
//! `drivers/md/persistent-data`). The metadata is blocks of 4 KiB, each with a checksum and its own number; a tree over the
//! devices leads to a tree over each one's chunks. What was committed last is read.

use tidemark_plugin::guest_filesystem::Mapped;
use tidemark_plugin::{Error, Result, fields};

use super::budget::Budget;
use crate::bytes::Bytes;
use crate::checksum;
use crate::extents::Map;

const BLOCK: u64 = 4096;
const BLOCK_BYTES: u32 = 4096;
const SECTOR: u64 = 512;
const MAGIC: u64 = 27_022_010;
/// What the checksums of superblock and nodes are mixed with.
const SUPERBLOCK_SALT: u32 = 160_774;
const NODE_SALT: u32 = 121_107;
const NODE_HEADER: usize = 32;
const INTERNAL: u32 = 1;
const LEAF: u32 = 2;
/// A tree of 4 KiB nodes over all 64-bit keys has nine levels.
const MAX_DEPTH: u32 = 10;
/// The lowest bits of a mapping say when it was made.
const TIME_BITS: u32 = 24;

/// A device of a pool.
pub(super) struct Device<'a, B> {
    /// The volume of the pool's metadata.
    pub(super) pool: &'a B,
    /// Where the pool's data lies.
    pub(super) data: &'a Map,
    /// Bytes of a chunk.
    pub(super) chunk: u64,
    /// Its number in the pool.
    pub(super) device: u64,
    /// Zeros, for what it never wrote.
    pub(super) holes: Option<Mapped>,
    pub(super) budget: &'a Budget,
}

/// A node whose checksum is right.
struct Node {
    leaf: bool,
    entries: Vec<(u64, u64)>,
}

/// What is about to be added: chunks of the device that lie behind each other in the pool's data too.
#[derive(Default)]
struct Pending {
    chunk: u64,
    data: u64,
    count: u64,
}

impl<B: Bytes> Device<'_, B> {
    /// Adds the device's runs, so many bytes of it.
    ///
    /// # Errors
    /// Corrupt for damage; unsupported where the pool is of a kind that is not known, or there are no zeros for its holes.
    pub(super) fn map(&self, length: u64, map: &mut Map) -> Result<()> {
        let root = self.superblock()?;
        let Some(root) = self.lookup(root)? else {
            return Err(Error::unsupported("its pool has not made it yet"));
        };
        let end =
            map.length().checked_add(length).ok_or_else(|| Error::corrupt("a volume without an end"))?;
        let (start, mut pending, mut next) = (map.length(), Pending::default(), 0);
        self.walk(root, 0, &mut |chunk, mapping| {
            if chunk < next {
                return Err(Error::corrupt("chunks that are not in their order"));
            }
            next = chunk.checked_add(1).ok_or_else(|| Error::corrupt("a chunk beyond all"))?;
            let data = mapping >> TIME_BITS;
            let follows = pending.count > 0
                && (pending.chunk + pending.count, pending.data + pending.count) == (chunk, data);
            if follows {
                pending.count += 1;
                return Ok(());
            }
            let done = std::mem::replace(&mut pending, Pending { chunk, data, count: 1 });
            self.flush(&done, start, end, map)
        })?;
        self.flush(&pending, start, end, map)?;
        self.hole(end - map.length(), map)
    }

    /// Adds what lies before some chunks as a hole, and the chunks; nothing beyond the end, which may be within a chunk.
    fn flush(&self, chunks: &Pending, start: u64, end: u64, map: &mut Map) -> Result<()> {
        let bytes = |chunks: u64| {
            chunks.checked_mul(self.chunk).ok_or_else(|| Error::corrupt(format!("chunk {chunks}")))
        };
        let from = start.saturating_add(bytes(chunks.chunk)?).min(end);
        if chunks.count == 0 || from == end {
            return Ok(());
        }
        self.hole(from.saturating_sub(map.length()), map)?;
        let count = bytes(chunks.count)?.min(end - from);
        for run in self.data.cut(bytes(chunks.data)?, count)? {
            self.push(run, map)?;
        }
        Ok(())
    }

    fn hole(&self, length: u64, map: &mut Map) -> Result<()> {
        if length == 0 {
            return Ok(());
        }
        let zeros = self.holes.filter(|zeros| zeros.length > 0).ok_or_else(|| {
            let message =
                "it has parts that were never written, and no stretch of zeros was found to stand for them";
            Error::unsupported(message)
        })?;
        self.budget.has_runs(length / zeros.length)?;
        let mut left = length;
        while left > 0 {
            let count = left.min(zeros.length);
            self.push(Mapped { length: count, ..zeros }, map)?;
            left -= count;
        }
        Ok(())
    }

    fn push(&self, run: Mapped, map: &mut Map) -> Result<()> {
        let before = map.count();
        map.push(run)?;
        self.budget.take_runs(map.count() - before)
    }

    /// The root of the tree over devices.
    fn superblock(&self) -> Result<u64> {
        let block = self.block(0, SUPERBLOCK_SALT, 8)?;
        if fields::le64(&block, 32)? != MAGIC {
            return Err(Error::corrupt("its pool's metadata is none"));
        }
        let (version, features) = (fields::le32(&block, 40)?, fields::le32(&block, 360)?);
        if !matches!(version, 1 | 2) || features != 0 {
            let message =
                format!("its pool is of version {version} with features {features:#x}, not known here");
            return Err(Error::unsupported(message));
        }
        let chunk = u64::from(fields::le32(&block, 336)?) * SECTOR;
        if chunk != self.chunk || chunk == 0 || u64::from(fields::le32(&block, 340)?) * SECTOR != BLOCK {
            return Err(Error::corrupt("its pool's metadata is of other sizes than the group's"));
        }
        fields::le64(&block, 320)
    }

    /// The root of the device's own tree.
    fn lookup(&self, root: u64) -> Result<Option<u64>> {
        let mut at = root;
        for _ in 0..MAX_DEPTH {
            let node = self.node(at)?;
            let place = node.entries.partition_point(|(key, _)| *key <= self.device);
            let found = place.checked_sub(1).and_then(|place| node.entries.get(place));
            let Some((key, value)) = found else { return Ok(None) };
            if node.leaf {
                return Ok((*key == self.device).then_some(*value));
            }
            at = *value;
        }
        Err(Error::corrupt("a tree without an end"))
    }

    /// Visits all of a tree in the order of its keys.
    fn walk(&self, at: u64, depth: u32, visit: &mut dyn FnMut(u64, u64) -> Result<()>) -> Result<()> {
        if depth >= MAX_DEPTH {
            return Err(Error::corrupt("a tree without an end"));
        }
        let node = self.node(at)?;
        for (key, value) in node.entries {
            if node.leaf {
                visit(key, value)?;
            } else {
                self.walk(value, depth + 1, visit)?;
            }
        }
        Ok(())
    }

    fn node(&self, at: u64) -> Result<Node> {
        let wrong = |what: &str| Error::corrupt(format!("block {at} of its pool's metadata: {what}"));
        let block = self.block(at, NODE_SALT, 8)?;
        let kind = fields::le32(&block, 4)?;
        let (count, most) = (fields::le32(&block, 16)?, fields::le32(&block, 20)?);
        let (count, most) = (fields::index(u64::from(count))?, fields::index(u64::from(most))?);
        let room = (block.len() - NODE_HEADER) / 16;
        if !matches!(kind, INTERNAL | LEAF) || fields::le32(&block, 24)? != 8 || count > most || most > room {
            return Err(wrong("its header is none"));
        }
        let mut entries = Vec::with_capacity(count);
        for place in 0..count {
            let key = fields::le64(&block, NODE_HEADER + place * 8)?;
            if entries.last().is_some_and(|(last, _)| *last >= key) {
                return Err(wrong("its keys are not in their order"));
            }
            entries.push((key, fields::le64(&block, NODE_HEADER + (most + place) * 8)?));
        }
        Ok(Node { leaf: kind == LEAF, entries })
    }

    /// A block whose checksum and number are right; the number stands at `own`.
    fn block(&self, number: u64, salt: u32, own: usize) -> Result<Vec<u8>> {
        self.budget.take_node()?;
        self.budget.take_read()?;
        let at = number.checked_mul(BLOCK);
        let block = at.map(|at| self.pool.read_inside(at, BLOCK_BYTES)).transpose()?.flatten();
        let wrong = |what: &str| Error::corrupt(format!("block {number} of its pool's metadata {what}"));
        let block = block.ok_or_else(|| wrong("lies beyond its end"))?;
        let checked = block.get(4..).unwrap_or_default();
        if checksum::castagnoli(checked) ^ salt != fields::le32(&block, 0)?
            || fields::le64(&block, own)? != number
        {
            return Err(wrong("is damaged"));
        }
        Ok(block)
    }
}
