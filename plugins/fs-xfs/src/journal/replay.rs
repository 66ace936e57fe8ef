//! The second pass: each transaction's changes, in the order in which the kernel makes them.

use std::collections::{HashMap, HashSet};

use tidemark_plugin::fields::{index, le32, le64};
use tidemark_plugin::{Error, Result};

use super::overlay::Overlay;
use super::transactions::{Item, Transaction};
use super::{Freed, Journal, State, buffers, inodes};
use crate::superblock::Superblock;

/// Changes of files' maps that are made in several transactions: what is to be done, and that it was done; likewise exchanges
/// between two files.
const MAP: u16 = 0x1244;
const MAP_DONE: u16 = 0x1245;
const EXCHANGE: u16 = 0x1248;
const EXCHANGE_DONE: u16 = 0x1249;
/// Of free space, of quotas, of owners of blocks, of attributes, and the like: nothing that is read here.
const FIRST: u16 = 0x1236;
const LAST: u16 = 0x124f;
const MAX_UNFINISHED: usize = 100_000;

/// What is being replayed.
pub(crate) struct Replay<'a> {
    overlay: &'a mut Overlay,
    superblock: &'a Superblock,
    freed: Freed,
    journal: Journal,
    /// Files by the number of what is to be done to them.
    unfinished: HashMap<u64, Vec<u64>>,
}

/// Whether the contents of an item are read, by its first region.
pub(crate) fn is_read(format: &[u8]) -> Result<bool> {
    match tidemark_plugin::fields::le16(format, 0)? {
        buffers::KIND => buffers::Changed::parse(format).map(|changed| changed.is_read()),
        inodes::KIND => Ok(true),
        _ => Ok(false),
    }
}

impl<'a> Replay<'a> {
    pub(crate) fn new(overlay: &'a mut Overlay, superblock: &'a Superblock, freed: Freed) -> Self {
        Self { overlay, superblock, freed, journal: Journal::default(), unfinished: HashMap::new() }
    }

    pub(crate) fn finish(mut self) -> Journal {
        self.journal.unfinished = self.unfinished.into_values().flatten().collect::<HashSet<_>>();
        if !self.journal.unfinished.is_empty() {
            self.journal.state = State::Replayed;
        }
        self.journal
    }

    /// Buffers come first, as inodes may lie in them; that something was freed counts after all else.
    pub(crate) fn transaction(&mut self, transaction: &Transaction) -> Result<()> {
        let mut later = Vec::new();
        for item in &transaction.items {
            match item.kind()? {
                buffers::KIND => self.buffer(item, transaction.number)?,
                inodes::MADE => self.made(item)?,
                FIRST..=LAST => later.push(item),
                kind => return Err(Error::unsupported(format!("the journal has changes of kind {kind:#x}"))),
            }
        }
        for item in later {
            let format = item.format();
            match item.kind()? {
                inodes::KIND => self.inode(item, transaction.number)?,
                MAP => {
                    let count = index(le32(format, 4)?.into())?;
                    let file = |number: usize| le64(format, number.saturating_mul(32).saturating_add(16));
                    let files = (0..count).map(file).collect::<Result<_>>()?;
                    self.unfinished.insert(le64(format, 8)?, files);
                }
                EXCHANGE => {
                    let files = vec![le64(format, 16)?, le64(format, 24)?];
                    self.unfinished.insert(le64(format, 8)?, files);
                }
                MAP_DONE | EXCHANGE_DONE => drop(self.unfinished.remove(&le64(format, 8)?)),
                _ => {}
            }
        }
        if self.unfinished.len() > MAX_UNFINISHED {
            return Err(Error::unsupported("more was unfinished than a reader can hold"));
        }
        self.free(transaction)
    }

    /// From here on, what was freed so often is what it is used for next.
    fn free(&mut self, transaction: &Transaction) -> Result<()> {
        let mut freed = Freed::new();
        buffers::freed(transaction, &mut freed)?;
        for (buffer, times) in freed {
            match self.freed.get_mut(&buffer) {
                Some(left) if *left > times => *left -= times,
                _ => drop(self.freed.remove(&buffer)),
            }
        }
        Ok(())
    }

    fn buffer(&mut self, item: &Item, transaction: u64) -> Result<()> {
        let changed = buffers::Changed::parse(item.format())?;
        if !changed.is_read() || self.freed.contains_key(&(changed.sector, changed.sectors)) {
            return Ok(());
        }
        let (at, length) = changed.place()?;
        let before = self.overlay.read(at, length)?;
        if buffers::is_newer(self.superblock, &before, transaction) {
            return Ok(());
        }
        let mut after = before.clone();
        let whole = changed.apply(item, &mut after)?;
        if changed.is_foreign(&after) {
            return Ok(());
        }
        if self.superblock.checked && !changed.seal(self.superblock, &before, &mut after, whole) {
            self.journal.unsummed.insert(at);
        }
        // The superblock is written when a file system is frozen; all that changes in it are counters.
        if !changed.is_superblock() {
            self.journal.state = State::Replayed;
        }
        self.overlay.change(at, &before, &after)
    }

    fn made(&mut self, item: &Item) -> Result<()> {
        let inodes::Made { group, block, blocks } = inodes::Made::parse(item.format())?;
        let at = self.superblock.group_blocks_at(group, block, blocks.into())?;
        let length = u64::from(blocks) * self.superblock.block_bytes;
        let (first, last) = (at / 512, (at + length) / 512);
        if self.freed.range((first, 0)..(last, 0)).next().is_some() {
            return Ok(());
        }
        self.journal.state = State::Replayed;
        self.overlay.clear(at, length)
    }

    fn inode(&mut self, item: &Item, transaction: u64) -> Result<()> {
        let changed = inodes::Changed::parse(item.format())?;
        if self.freed.contains_key(&(changed.sector, changed.sectors)) {
            return Ok(());
        }
        if changed.at != self.superblock.inode_at(changed.inode)? {
            return Err(Error::corrupt(format!(
                "the journal has inode {} where it does not lie",
                changed.inode
            )));
        }
        let before = self.overlay.read(changed.at, index(self.superblock.inode_bytes)?)?;
        let fresh = self.overlay.is_fresh(changed.at);
        let Some(after) = changed.apply(self.superblock, item, &before, fresh, transaction)? else {
            return Ok(());
        };
        self.journal.state = State::Replayed;
        self.overlay.change(changed.at, &before, &after)
    }
}
