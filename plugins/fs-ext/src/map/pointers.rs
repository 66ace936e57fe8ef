//! The maps of ext2 and ext3: pointers to blocks, to blocks of pointers, and so on (ext4 disk layout, "Direct/Indirect Block
//! Addressing").

use tidemark_plugin::Result;
use tidemark_plugin::fields::le32;

use super::Found;

/// Pointers in the inode to blocks of the file; then come one each to one, two and three levels of pointers.
const DIRECT: usize = 12;
const ALL: usize = 15;
const POINTER: u64 = 4;

/// Takes in what the file's pointers tell.
pub(super) fn walk(found: &mut Found<'_>) -> Result<()> {
    let per_block = found.system.superblock.block_bytes / POINTER;
    let map = found.inode.map()?.to_vec();
    let mut start = 0;
    for number in 0..ALL {
        let level = u32::try_from((number + 1).saturating_sub(DIRECT)).unwrap_or(0);
        pointer(found, u64::from(le32(&map, number * 4)?), level, start)?;
        // At most 2^42, as a block has at most 2^14 pointers.
        start += per_block.pow(level);
    }
    Ok(())
}

/// What a pointer leads to, for the blocks of the file from `start` on. 0 is a hole, of whatever size.
fn pointer(found: &mut Found<'_>, on_disk: u64, level: u32, start: u64) -> Result<()> {
    let per_block = found.system.superblock.block_bytes / POINTER;
    if on_disk == 0 || !found.wants(start, start + per_block.pow(level)) {
        return Ok(());
    }
    if level == 0 {
        return found.push(start, 1, Some(on_disk));
    }
    let block = found.block(on_disk)?;
    let span = per_block.pow(level - 1);
    // What lies before is passed by without a look.
    let first = found.from.saturating_sub(start) / span;
    for (number, place) in (first..per_block).zip((0..).skip(usize::try_from(first).unwrap_or(usize::MAX))) {
        if found.stopped.is_some() {
            break;
        }
        pointer(found, u64::from(le32(&block, place * 4)?), level - 1, start + number * span)?;
    }
    Ok(())
}
