//! A folder's records. None of them crosses a sector; what is left of a sector is zeros.

use tidemark_plugin::Result;
use tidemark_plugin::disk::CachedDisk;
use tidemark_plugin::fields::{index, slice};

use crate::record::{identifier, more_at};

/// Bytes of a sector.
pub(crate) const SECTOR: u64 = 2048;
const HEAD: usize = 33;

/// What is found at a place in a folder.
pub(crate) enum Found<'a> {
    /// The bytes of one record.
    Record(&'a [u8]),
    /// Something that is none: what else is in this sector is lost.
    Damage,
}

/// Calls `take` for each record of the folder that lies at a place, with the record's own place.
///
/// # Errors
/// Corrupt where the folder leads beyond the disk; what `take` says.
pub(crate) fn each_record(
    disk: &CachedDisk,
    at: u64,
    length: u64,
    mut take: impl FnMut(u64, Found<'_>) -> Result<()>,
) -> Result<()> {
    // Sectors of zeros are no damage, but for those that others follow.
    let mut empty = None;
    for start in (0..length).step_by(index(SECTOR)?) {
        let mut sector = vec![0; index(SECTOR.min(length - start))?];
        let place = at.saturating_add(start);
        disk.read(place, &mut sector)?;
        if sector.iter().all(|byte| *byte == 0) {
            empty.get_or_insert(place);
            continue;
        }
        if let Some(empty) = empty.take() {
            take(empty, Found::Damage)?;
        }
        let mut within = 0;
        while let Some(length) = sector.get(within).copied().filter(|length| *length > 0) {
            let Some(record) = whole(&sector, within, usize::from(length)) else { break };
            take(place + within as u64, Found::Record(record))?;
            within += record.len();
        }
        if sector.get(within..).unwrap_or_default().iter().any(|byte| *byte != 0) {
            take(place + within as u64, Found::Damage)?;
        }
    }
    Ok(())
}

/// A record of which the lengths fit.
fn whole(sector: &[u8], within: usize, length: usize) -> Option<&[u8]> {
    let record = slice(sector, within, length).ok()?;
    let fits = length > HEAD && identifier(record).is_ok_and(|name| !name.is_empty());
    // The byte that makes its length even may be left out.
    (fits && more_at(record).is_ok_and(|at| at <= length + 1)).then_some(record)
}

/// The record at a place, and where the next one of its folder would be.
///
/// # Errors
/// Corrupt where there is none.
pub(crate) fn record_at(disk: &CachedDisk, place: u64) -> Result<(Vec<u8>, u64)> {
    let mut length = [0];
    disk.read(place, &mut length)?;
    let none = || tidemark_plugin::Error::corrupt(format!("there is no record at {place}"));
    let left = SECTOR - place % SECTOR;
    let mut bytes = vec![0; usize::from(length[0])];
    if bytes.len() as u64 > left {
        return Err(none());
    }
    disk.read(place, &mut bytes)?;
    let record = whole(&bytes, 0, bytes.len()).ok_or_else(none)?;
    Ok((record.to_vec(), place + bytes.len() as u64))
}
