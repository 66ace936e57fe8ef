//! Indexes: trees of sorted entries, of which the root lies in the file's record and the rest in blocks.

use tidemark_plugin::fields::{byte, index, le16, le32, le64, slice, units_le, wtf8};
use tidemark_plugin::nodes::Names;
use tidemark_plugin::{Error, Result};

use crate::attribute::{kind, utf16};
use crate::record::{Reference, undo_update_sequence};
use crate::stream::Stream;
use crate::table::{File, Table};

/// What blocks are counted in where they are smaller than a cluster.
const SECTOR: u64 = 512;
const MAX_BLOCK: u64 = 64 << 10;
/// A directory of the most entries that are shown takes less.
const MAX_BITMAP: u32 = 1 << 20;

/// Names that only DOS programs see beside the true ones.
const DOS_NAME: u8 = 2;
const HAS_CHILD: u16 = 1;
const IS_LAST: u16 = 2;

/// A tree that was walked.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Walked {
    /// Blocks that are in use though nothing leads to them: what they name is not shown.
    pub(crate) lost_blocks: u64,
}

/// The names in a directory and the nodes of what they name, but for files that `is_own` of the file system.
pub(crate) fn names(
    table: &Table,
    directory: &File,
    is_own: impl Fn(Reference) -> bool,
) -> Result<(Names, Walked)> {
    let mut names = Names::default();
    let walked = walk(table, directory, "$I30", |entry| {
        let key = slice(entry, 16, usize::from(le16(entry, 10)?))?;
        let reference = Reference::from_disk(le64(entry, 0)?);
        if !is_shown(key)? || is_own(reference) {
            return Ok(());
        }
        if Reference::from_disk(le64(key, 0)?).record != directory.reference.record {
            return Err(Error::corrupt("the index of a folder has a name of another folder"));
        }
        let name = wtf8(units_le(slice(key, 66, 2 * usize::from(byte(key, 64)?))?));
        names.push(Some(name), reference.record, reference.node())
    })?;
    Ok((names, walked))
}

/// Whether a file's name is one that people see.
pub(crate) fn is_shown(name: &[u8]) -> Result<bool> {
    Ok(byte(name, 65)? != DOS_NAME)
}

/// Visits every entry of an index of a file, in no order that means anything.
pub(crate) fn walk(
    table: &Table,
    file: &File,
    name: &str,
    mut visit: impl FnMut(&[u8]) -> Result<()>,
) -> Result<Walked> {
    let name = utf16(name);
    let root = file.resident(kind::INDEX_ROOT, &name)?;
    let root = root.ok_or_else(|| Error::corrupt("a folder without an index"))?;
    let block_bytes = u64::from(le32(root, 8)?);
    if !block_bytes.is_power_of_two() || !(SECTOR..=MAX_BLOCK).contains(&block_bytes) {
        return Err(Error::corrupt(format!("an index with blocks of {block_bytes} bytes")));
    }
    let mut waiting = Vec::new();
    entries(slice(root, 16, root.len().saturating_sub(16))?, &mut waiting, &mut visit)?;
    let Some(blocks) = Stream::of(table, file, kind::INDEX_ALLOCATION, &name)? else {
        if waiting.is_empty() {
            return Ok(Walked { lost_blocks: 0 });
        }
        return Err(Error::corrupt("an index without its blocks"));
    };
    let count = blocks.size / block_bytes;
    if count > 8 * u64::from(MAX_BITMAP) {
        return Err(Error::unsupported(format!("an index of {count} blocks")));
    }
    let unit = if block_bytes >= table.cluster_bytes { table.cluster_bytes } else { SECTOR };
    let mut seen = vec![false; index(count)?];
    while let Some(place) = waiting.pop() {
        let at = place.checked_mul(unit).filter(|at| at % block_bytes == 0);
        let number = at.and_then(|at| usize::try_from(at / block_bytes).ok());
        let known = number.and_then(|number| seen.get_mut(number));
        let known = known.ok_or_else(|| Error::corrupt("an index leads beyond its blocks"))?;
        if std::mem::replace(known, true) {
            return Err(Error::corrupt("an index leads to one of its blocks twice"));
        }
        let length = u32::try_from(block_bytes).unwrap_or(0);
        let mut block = blocks.read(&table.disk, place * unit, length)?;
        if slice(&block, 0, 4)? != b"INDX" || le64(&block, 16)? != place {
            return Err(Error::corrupt(format!("block {place} of an index is none")));
        }
        undo_update_sequence(&mut block)
            .map_err(|error| error.during(&format!("reading block {place} of an index")))?;
        entries(slice(&block, 24, block.len().saturating_sub(24))?, &mut waiting, &mut visit)?;
        if waiting.len() as u64 > count {
            return Err(Error::corrupt("an index leads to more blocks than it has"));
        }
    }
    let bitmap = match Stream::of(table, file, kind::BITMAP, &name)? {
        Some(bitmap) => bitmap.all(&table.disk, MAX_BITMAP)?,
        None => Vec::new(),
    };
    let in_use = |number: usize| bitmap.get(number / 8).is_some_and(|byte| byte >> (number % 8) & 1 == 1);
    let lost = seen.iter().enumerate().filter(|(number, seen)| !**seen && in_use(*number)).count();
    Ok(Walked { lost_blocks: lost as u64 })
}

/// Visits the entries of one node, from its header on, and adds the blocks that it leads to.
fn entries(node: &[u8], waiting: &mut Vec<u64>, visit: &mut impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let mut at = usize::try_from(le32(node, 0)?).unwrap_or(usize::MAX);
    let used = slice(node, 0, usize::try_from(le32(node, 4)?).unwrap_or(usize::MAX))?;
    loop {
        let length = usize::from(le16(used, at.saturating_add(8))?);
        let flags = le16(used, at.saturating_add(12))?;
        let children = if flags & HAS_CHILD == 0 { 0 } else { 8 };
        if length < 16 + children || length % 8 != 0 {
            return Err(Error::corrupt(format!("an entry of {length} bytes in an index")));
        }
        let entry = slice(used, at, length)?;
        if children > 0 {
            waiting.push(le64(entry, length - 8)?);
        }
        if flags & IS_LAST != 0 {
            return Ok(());
        }
        visit(slice(entry, 0, length - children)?)?;
        at += length;
    }
}
