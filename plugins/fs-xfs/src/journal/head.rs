//! Where the journal ends: the block before which the newest record lies.
//!
//! ```text
//! | cycle 8, 8, 8, 8 | 7, 7, 7, 7, 7 |      the ring was written over up to its head
//!                    ^ head
//! ```
//! Records are written several at a time and come to the disk in any order, so that before the head there may be a block of the
//! cycle before: what comes after it does not count.

use tidemark_plugin::Result;
use tidemark_plugin::fields::byte;

use super::place::{BLOCK, Place, Record, cycle_of, is_header};

/// Blocks that may be on their way at once: eight records of 256 KiB with their headers.
const MOST_UNDER_WAY: u64 = 8 * (512 + 8);
/// Blocks that are looked at at once.
const AT_ONCE: usize = 64;
/// Of an operation's flags: the file system was unmounted.
const UNMOUNT: u8 = 0x20;

/// What the end of the journal says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Head {
    /// All that it had was written to its place.
    Clean,
    /// The newest record, and the block after it.
    Dirty(Record, u64),
    /// No record was found where one has to be.
    Damaged,
}

/// Finds it.
pub(crate) fn find(place: &Place<'_>) -> Result<Head> {
    let (first, last) = (place.cycle(0)?, place.cycle(place.blocks - 1)?);
    if first == 0 {
        // It was never written to.
        return Ok(if last == 0 { Head::Clean } else { Head::Damaged });
    }
    let (mut head, stop) = match first == last {
        true => (place.blocks, last.wrapping_sub(1)),
        false => (first_of(place, last)?, last),
    };
    // The records under way had the size of those before them.
    let largest = headers(place, head, place.blocks).next().transpose()?;
    let largest = match largest {
        Some(at) => place.record(at)?,
        None => None,
    };
    let window = largest.map_or(MOST_UNDER_WAY, |record| under_way(&record)).min(place.blocks);
    if head < window && first != last {
        // Over the ring's end, where the cycle before is one less.
        let (start, count) = (place.blocks - (window - head), window - head);
        match hole(place, start, count, stop.wrapping_sub(1))? {
            Some(found) => head = found,
            None => head = hole(place, 0, head, stop)?.unwrap_or(head),
        }
    } else {
        let start = head.saturating_sub(window);
        head = hole(place, start, head - start, stop)?.unwrap_or(head);
    }
    newest(place, head)
}

/// The first block that was written in the older cycle, which the ring ends with.
fn first_of(place: &Place<'_>, older: u32) -> Result<u64> {
    let (mut newer, mut found) = (0, place.blocks - 1);
    while found - newer > 1 {
        let middle = newer + (found - newer) / 2;
        if place.cycle(middle)? == older { found = middle } else { newer = middle }
    }
    Ok(found)
}

/// The first of `count` blocks that is of a cycle.
fn hole(place: &Place<'_>, start: u64, count: u64, cycle: u32) -> Result<Option<u64>> {
    let bytes = place.read(start, count)?;
    let is_hole = |block: &[u8]| cycle_of(block) == Ok(cycle);
    Ok(bytes.chunks_exact(512).zip(start..).find(|(block, _)| is_hole(block)).map(|(_, at)| at))
}

/// The newest whole record before the head; one that does not end there is in pieces.
fn newest(place: &Place<'_>, head: u64) -> Result<Head> {
    let mut end = head;
    for before in headers(place, head, MOST_UNDER_WAY.min(place.blocks)) {
        let before = before?;
        let length = (end + place.blocks - before) % place.blocks;
        let Some(record) = place.record(before)?.filter(|record| record.blocks() == length) else {
            end = before;
            continue;
        };
        let operation = place.read(before + record.header_blocks(), 1)?;
        let unmounted = record.operations == 1 && byte(&operation, 9)? & UNMOUNT != 0;
        return Ok(if unmounted { Head::Clean } else { Head::Dirty(record, end % place.blocks) });
    }
    Ok(Head::Damaged)
}

/// The blocks that begin records, from before a head on backwards, of so many blocks.
fn headers<'a>(place: &'a Place<'_>, head: u64, most: u64) -> impl Iterator<Item = Result<u64>> + 'a {
    let starts = (0..most).step_by(AT_ONCE).map(move |back| (back, (most - back).min(AT_ONCE as u64)));
    starts.flat_map(move |(back, count)| {
        let start = head + place.blocks - back - count;
        let found = place.read(start, count).map(|bytes| {
            let blocks = bytes.chunks_exact(512).zip(start..).filter(|(block, _)| is_header(block));
            blocks.map(|(_, at)| at % place.blocks).collect::<Vec<_>>()
        });
        match found {
            Ok(found) => found.into_iter().rev().map(Ok).collect(),
            Err(error) => vec![Err(error)],
        }
    })
}

/// How far apart the places of records under way can be.
pub(crate) fn under_way(record: &Record) -> u64 {
    8 * (u64::from(record.largest).div_ceil(BLOCK) + record.header_blocks())
}
