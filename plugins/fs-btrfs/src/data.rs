//! Bytes at logical addresses, each sector held against its checksum in the checksum tree.

use tidemark_plugin::fields::{index, slice};
use tidemark_plugin::{Error, ErrorKind, Result};

use crate::blocks::{Blocks, missing};
use crate::tree::{Cursor, Key, Pointer};

/// The object and kind of the keys of checksums.
const SUMS: (u64, u8) = (10_u64.wrapping_neg(), 128);

/// Fills `into` with what lies at an address, whose checksums are in the tree `sums`; without one, nothing is checked.
pub(crate) fn read(blocks: &Blocks, sums: Option<Pointer>, logical: u64, into: &mut [u8]) -> Result<()> {
    let Some(sums) = sums else {
        let (place, _) = blocks.places(logical, into.len())?;
        return blocks.disk.read(place, into);
    };
    let sector = blocks.sector();
    let before = index(logical % sector)?;
    if before == 0 && into.len().is_multiple_of(blocks.superblock.sector_bytes) {
        return checked(blocks, sums, logical, into);
    }
    let mut whole = vec![0; (before + into.len()).next_multiple_of(blocks.superblock.sector_bytes)];
    checked(blocks, sums, logical - before as u64, &mut whole)?;
    into.copy_from_slice(slice(&whole, before, into.len())?);
    Ok(())
}

/// Fills whole sectors.
fn checked(blocks: &Blocks, sums: Pointer, logical: u64, into: &mut [u8]) -> Result<()> {
    let (first, second) = blocks.places(logical, into.len())?;
    let unread = match blocks.disk.read(first, into) {
        Err(error) if error.kind == ErrorKind::Corrupt && second.is_some() => true,
        outcome => {
            outcome?;
            false
        }
    };
    let checksum = blocks.superblock.checksum;
    let mut sectors = into
        .chunks_exact_mut(blocks.superblock.sector_bytes)
        .zip((logical..).step_by(blocks.superblock.sector_bytes));
    let start = Key { object: SUMS.0, kind: SUMS.1, offset: logical };
    let mut cursor = Cursor::at_or_before(blocks, sums, start)?;
    let mut next = sectors.next();
    while let Some((_, at)) = &next {
        let item = cursor.item()?.filter(|(key, _)| key.group() == SUMS && key.offset <= *at);
        let (key, stored) = item.ok_or_else(|| missing(format!("the checksum of the data at {at}")))?;
        let skipped = (at - key.offset) / blocks.sector();
        let stored =
            stored.chunks_exact(checksum.length()).skip(usize::try_from(skipped).unwrap_or(usize::MAX));
        for sum in stored {
            let Some((sector, at)) = next else { return Ok(()) };
            if unread || !checksum.fits(sector, sum) {
                let second = second.map(|second| second + (at - logical));
                second_copy(blocks, sum, at, second, sector)?;
            }
            next = sectors.next();
        }
        cursor.advance()?;
    }
    Ok(())
}

/// Fills a sector whose first copy is damaged from its second one.
fn second_copy(
    blocks: &Blocks,
    sum: &[u8],
    logical: u64,
    second: Option<u64>,
    sector: &mut [u8],
) -> Result<()> {
    let damaged = || Error::corrupt(format!("the data at {logical} do not have their checksum"));
    blocks.disk.read(second.ok_or_else(damaged)?, sector)?;
    if !blocks.superblock.checksum.fits(sector, sum) {
        return Err(damaged());
    }
    blocks.say(logical);
    Ok(())
}
