//! Whether Windows had finished: its log (`$LogFile`) begins with two restart pages that say so.

use tidemark_plugin::Result;
use tidemark_plugin::fields::{le16, le32, le64, slice};

use crate::attribute::kind;
use crate::record::{Reference, undo_update_sequence};
use crate::stream::Stream;
use crate::table::Table;

const LOG: Reference = Reference { record: 2, sequence: 0 };
const PAGE: u32 = 4096;
/// No client is at work.
const NOBODY: u16 = 0xffff;
const IS_CLEAN: u16 = 2;

/// Whether nothing in the log still has to be done to the volume. It is not done here.
pub(crate) fn is_clean(table: &Table) -> Result<bool> {
    let file = table.file(LOG)?;
    let Some(log) = Stream::of(table, &file, kind::DATA, &[])? else { return Ok(true) };
    let first = log.read(&table.disk, 0, PAGE)?;
    // A log that was emptied, by mkntfs or by a repair.
    if first.iter().all(|byte| *byte == 0xff) || slice(&first, 0, 4)? == b"CHKD" {
        return Ok(true);
    }
    let second = log.read(&table.disk, u64::from(PAGE), PAGE)?;
    let newest = [first, second].into_iter().filter_map(|page| restart(page).ok()).max();
    Ok(newest.is_some_and(|(_, clean)| clean))
}

/// The number of the last entry by then, and whether the log was clean.
fn restart(mut page: Vec<u8>) -> Result<(u64, bool)> {
    if slice(&page, 0, 4)? != b"RSTR" || le32(&page, 16)? != PAGE {
        return Err(tidemark_plugin::Error::corrupt("no restart page"));
    }
    undo_update_sequence(&mut page)?;
    let area = usize::from(le16(&page, 24)?);
    let at = |offset: usize| area.saturating_add(offset);
    let clean = le16(&page, at(12))? == NOBODY || le16(&page, at(14))? & IS_CLEAN != 0;
    Ok((le64(&page, area)?, clean))
}
