//! Transactions, put together from the operations of the journal's records, in which those of several go on by turns.

use std::collections::HashMap;

use tidemark_plugin::fields::{be32, byte, le16, le32, slice};
use tidemark_plugin::{Error, Result};

use super::place::Record;

const CLIENTS: [u8; 2] = [0x69, 0xaa];
/// Flags of operations.
const START: u8 = 0x1;
const COMMIT: u8 = 0x2;
const CONTINUE: u8 = 0x4;
const CONTINUED: u8 = 0x8;
const END: u8 = 0x10;
const UNMOUNT: u8 = 0x20;
const OPERATION: usize = 12;
/// A transaction's header and the number it begins with.
const HEADER: usize = 16;
const MAGIC: u32 = 0x5452_414e;
/// What the transactions that are not yet complete may have, in bytes.
const MAX_BYTES: usize = 14 << 20;
/// Regions that one item has at the most, and pieces of memory that all have.
const MAX_REGIONS: usize = 10_000;
const MAX_PIECES: usize = 100_000;

/// Something that was changed: a region that says what, and regions of what it became.
#[derive(Debug, Default)]
pub(crate) struct Item {
    regions: Vec<Vec<u8>>,
    total: usize,
    /// Whether what follows the first region is wanted.
    kept: bool,
}

/// What was changed together.
#[derive(Debug, Default)]
pub(crate) struct Transaction {
    /// The number of the record in which it begins.
    pub(crate) number: u64,
    pub(crate) items: Vec<Item>,
    header: Vec<u8>,
    bytes: usize,
    pieces: usize,
}

/// The transactions under way. `wanted` tells, from an item's first region, whether the others are to be kept.
pub(crate) struct Transactions<F> {
    wanted: F,
    open: HashMap<u32, Transaction>,
}

impl Item {
    /// The region that says what was changed.
    pub(crate) fn format(&self) -> &[u8] {
        self.region(0).unwrap_or_default()
    }

    pub(crate) fn region(&self, number: usize) -> Option<&[u8]> {
        self.regions.get(number).map(Vec::as_slice)
    }

    /// Its kind.
    pub(crate) fn kind(&self) -> Result<u16> {
        le16(self.format(), 0)
    }

    /// Whether all its regions came.
    pub(crate) fn is_whole(&self) -> bool {
        self.total > 0 && self.regions.len() == self.total
    }
}

impl<F: Fn(&[u8]) -> Result<bool>> Transactions<F> {
    pub(crate) fn new(wanted: F) -> Self {
        Self { wanted, open: HashMap::new() }
    }

    /// Takes in a record, and gives each transaction that is complete to `done`.
    pub(crate) fn record(
        &mut self,
        record: &Record,
        content: &[u8],
        mut done: impl FnMut(&Transaction) -> Result<()>,
    ) -> Result<()> {
        let mut rest = content;
        for _ in 0..record.operations {
            if rest.is_empty() {
                break;
            }
            let (number, length) = (be32(rest, 0)?, be32(rest, 4)?);
            let (client, flags) = (byte(rest, 8)?, byte(rest, 9)?);
            let length = tidemark_plugin::fields::index(length.into())?;
            let bytes = slice(rest, OPERATION, length)?;
            rest = rest.get(OPERATION + length..).unwrap_or_default();
            if !CLIENTS.contains(&client) {
                return Err(Error::corrupt(format!("the journal has an operation of client {client:#x}")));
            }
            self.operation(record, number, flags, bytes, &mut done)?;
        }
        let (bytes, pieces) = self.open.values().fold((0, 0), |(bytes, pieces), transaction| {
            (bytes + transaction.bytes, pieces + transaction.pieces)
        });
        if bytes > MAX_BYTES || pieces > MAX_PIECES || self.open.len() > MAX_PIECES {
            return Err(Error::unsupported("more was changed at once than a reader can hold"));
        }
        Ok(())
    }

    fn operation(
        &mut self,
        record: &Record,
        number: u32,
        flags: u8,
        bytes: &[u8],
        done: &mut impl FnMut(&Transaction) -> Result<()>,
    ) -> Result<()> {
        let Some(transaction) = self.open.get_mut(&number) else {
            // What belongs to no transaction is the rest of one that is over.
            if flags & START != 0 {
                let new = Transaction { number: record.number, ..Transaction::default() };
                self.open.insert(number, new);
            }
            return Ok(());
        };
        let mut flags = flags & !END;
        if flags & CONTINUED != 0 {
            flags &= !CONTINUE;
        }
        match flags {
            0 | CONTINUE => transaction.add(bytes, &self.wanted),
            CONTINUED => transaction.go_on(bytes),
            COMMIT => {
                if transaction.items.iter().any(|item| !item.is_whole()) {
                    return Err(Error::corrupt("a transaction of the journal lacks a part"));
                }
                let complete = self.open.remove(&number).unwrap_or_default();
                done(&complete)
            }
            UNMOUNT => {
                self.open.remove(&number);
                Ok(())
            }
            _ => Err(Error::corrupt(format!("the journal has an operation with flags {flags:#x}"))),
        }
    }
}

impl Transaction {
    fn add(&mut self, bytes: &[u8], wanted: &impl Fn(&[u8]) -> Result<bool>) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        if self.header.len() < HEADER {
            return self.head(bytes);
        }
        if self.items.last().is_none_or(Item::is_whole) {
            self.items.push(Item::default());
        }
        let Some(item) = self.items.last_mut() else { return Ok(()) };
        match item.regions.len() {
            0 => {
                item.total = le16(bytes, 2)?.into();
                if !(1..=MAX_REGIONS).contains(&item.total) {
                    return Err(Error::corrupt(format!("the journal has an item of {} regions", item.total)));
                }
                item.kept = true;
            }
            // The first region, which may have come in two pieces, is whole now.
            1 => item.kept = wanted(item.format())?,
            _ => {}
        }
        let region = if item.kept { bytes.to_vec() } else { Vec::new() };
        self.bytes += region.len();
        self.pieces += 1;
        item.regions.push(region);
        Ok(())
    }

    /// More of the region that came last.
    fn go_on(&mut self, bytes: &[u8]) -> Result<()> {
        if self.header.len() < HEADER {
            return self.head(bytes);
        }
        let item = self.items.last_mut();
        let Some((kept, region)) = item.and_then(|item| Some((item.kept, item.regions.last_mut()?))) else {
            return Err(Error::corrupt("the journal goes on with nothing"));
        };
        if kept {
            region.extend_from_slice(bytes);
            self.bytes += bytes.len();
        }
        Ok(())
    }

    fn head(&mut self, bytes: &[u8]) -> Result<()> {
        self.header.extend_from_slice(bytes);
        if self.header.len() > HEADER || le32(&self.header, 0)? != MAGIC {
            return Err(Error::corrupt("a transaction of the journal does not begin as one"));
        }
        Ok(())
    }
}
