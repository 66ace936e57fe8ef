//! The journal: what was changed last, and may not have come to its place. The kernel replays it at the next mount; here it is
//! replayed into memory, by the same rules.
//!
//! ```text
//! place ─▶ head ─▶ walk, twice ─▶ transactions ─┬─▶ buffers ─┬─▶ overlay ─▶ the disk as it is read
//!                  (freed, changed)             └─▶ inodes ──┘
//! ```
//! Of the changes only those are kept that are read later: inodes, maps of files, directories, links and the superblock.

mod buffers;
mod head;
mod inodes;
mod overlay;
mod place;
mod replay;
mod transactions;

use std::collections::{BTreeMap, HashSet};

use tidemark_plugin::disk::CachedDisk;
use tidemark_plugin::{Error, ErrorKind, Result};

use self::head::Head;
use self::overlay::Overlay;
use self::place::{Place, Record};
use self::replay::Replay;
use self::transactions::Transactions;
use crate::superblock::Superblock;

/// How often the journal's end may turn out to be earlier: as often as records may be under way.
const MAX_TORN: usize = 8;

/// What became of the journal.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) enum State {
    /// All that it had was in its place.
    #[default]
    Clean,
    /// It was replayed.
    Replayed,
    /// It could not be, for this reason.
    NotReplayed(String),
    /// It lies on another device.
    Elsewhere,
}

/// What is to be known for reading what was replayed.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Journal {
    pub(crate) state: State,
    /// Blocks of directories of which the journal changed a part: their checksums are not known.
    pub(crate) unsummed: HashSet<u64>,
    /// Files whose maps were in the midst of a change.
    pub(crate) unfinished: HashSet<u64>,
}

/// How often buffers were freed, by their place and length in sectors.
type Freed = BTreeMap<(u64, u16), u32>;

/// The disk as it is after the journal was replayed.
///
/// # Errors
/// What the disk says. Damage of the journal is none: it is told in the state, and the disk is read as it is.
pub(crate) fn replayed(disk: CachedDisk, superblock: &Superblock) -> Result<(CachedDisk, Journal)> {
    let told = |state| Journal { state, ..Journal::default() };
    if superblock.journal.0 == 0 {
        return Ok((disk, told(State::Elsewhere)));
    }
    let mut overlay = Overlay::new(disk);
    match replay(&mut overlay, superblock) {
        Ok(Journal { state: State::Clean, .. }) => Ok((overlay.into_base(), told(State::Clean))),
        Ok(journal) => Ok((overlay.into_disk(), journal)),
        Err(error) if matches!(error.kind, ErrorKind::Corrupt | ErrorKind::Unsupported) => {
            Ok((overlay.into_base(), told(State::NotReplayed(error.message))))
        }
        Err(error) => Err(error),
    }
}

fn replay(overlay: &mut Overlay, superblock: &Superblock) -> Result<Journal> {
    let (first, blocks) = superblock.journal;
    let at = superblock.blocks_at(first, blocks)?;
    let sectors = blocks * superblock.block_bytes / place::BLOCK;
    if sectors < 2 {
        return Err(Error::corrupt("the journal has no room"));
    }
    let place = Place { disk: &overlay.base(), at, blocks: sectors };
    let (newest, head) = match head::find(&place)? {
        Head::Clean => return Ok(Journal::default()),
        Head::Damaged => return Err(Error::corrupt("the journal's end was not found")),
        Head::Dirty(record, head) => (record, head),
    };
    let (walk, freed) = first_pass(&place, superblock, newest, head)?;
    let mut replay = Replay::new(overlay, superblock, freed);
    let mut transactions = Transactions::new(replay::is_read);
    walk.each(&mut |record, content| {
        transactions.record(record, content, |transaction| replay.transaction(transaction))
    })?;
    Ok(replay.finish())
}

/// Finds what was freed, and how far the journal is whole: of the records that were under way last, one may be torn.
fn first_pass<'a>(
    place: &'a Place<'a>,
    superblock: &'a Superblock,
    newest: Record,
    head: u64,
) -> Result<(Walk<'a>, Freed)> {
    let mut walk = Walk { place, superblock, tail: newest.tail, head };
    let mut distance = head::under_way(&newest);
    for _ in 0..=MAX_TORN {
        let mut freed = Freed::new();
        let mut transactions = Transactions::new(|_: &[u8]| Ok(false));
        let end = walk.each(&mut |record, content| {
            transactions.record(record, content, |transaction| buffers::freed(transaction, &mut freed))
        })?;
        let End::Torn(at, before) = end else { return Ok((walk, freed)) };
        let lost = (walk.head + place.blocks - at) % place.blocks;
        let before = before.filter(|_| lost <= distance);
        let before =
            before.ok_or_else(|| Error::corrupt(format!("the journal is damaged at its block {at}")))?;
        distance -= lost;
        walk = Walk { tail: before.tail, head: at, ..walk };
    }
    Err(Error::corrupt("the journal's end is damaged"))
}

/// The records from a tail up to a head.
struct Walk<'a> {
    place: &'a Place<'a>,
    superblock: &'a Superblock,
    tail: u64,
    head: u64,
}

/// How a walk ended.
enum End {
    /// At the head.
    Head,
    /// At a block where no whole record begins, after this one.
    Torn(u64, Option<Record>),
}

impl Walk<'_> {
    fn each(&self, visit: &mut impl FnMut(&Record, &[u8]) -> Result<()>) -> Result<End> {
        let blocks = self.place.blocks;
        let (mut cycle, mut at) = (self.tail >> 32, self.tail & u64::from(u32::MAX));
        let mut before = None;
        if at >= blocks {
            return Err(Error::corrupt("the journal begins beyond its end"));
        }
        while at != self.head {
            let room = (self.head + blocks - at) % blocks;
            let record = self.place.record(at)?;
            let record = record.filter(|record| u64::from(record.cycle) == cycle && record.blocks() <= room);
            let Some(record) = record else { return Ok(End::Torn(at, before)) };
            if record.uuid != self.superblock.uuid {
                return Err(Error::corrupt("the journal is another file system's"));
            }
            if !record.little_endian {
                return Err(Error::unsupported("the journal is of a big-endian machine"));
            }
            let Ok(content) = self.place.content(&record, self.superblock.checked) else {
                return Ok(End::Torn(at, before));
            };
            visit(&record, &content)?;
            before = Some(record);
            at += record.blocks();
            if at >= blocks {
                at -= blocks;
                cycle += 1;
            }
        }
        Ok(End::Head)
    }
}
