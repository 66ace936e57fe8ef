//! What is in a directory, read from its beginning to its end. The index that many have lies in blocks that look empty to
//! those who do not know it (ext4 disk layout, "Directory Entries").

use tidemark_plugin::fields::{array, byte, index, le16, le32, slice};
use tidemark_plugin::{Error, Result};

use crate::checksum::crc32c;
use crate::filesystem::FileSystem;
use crate::inode::Inode;
use crate::map::Window;

/// Number, length, and length of the name with what it names.
const HEADER: usize = 8;
/// The entry at a block's end that holds its checksum.
const TAIL: usize = 12;
/// What is read of a directory: it never shrinks, so that much of it may be empty.
const MAX_BYTES: u64 = 4 << 30;
/// Names in it.
const MAX_NAMES: usize = 1 << 20;

/// Names with the inodes they name, without `.` and `..`.
pub(crate) type Names = Vec<(Vec<u8>, u64)>;

/// Reads a directory.
///
/// # Errors
/// Unsupported where its names are encrypted, or too many; corrupt for damage.
pub(crate) fn read(system: &FileSystem, inode: &Inode) -> Result<Names> {
    inode.readable()?;
    let mut names = Names::new();
    if inode.inline() {
        let held = crate::inline::read(inode)?;
        // The first four bytes are the directory above; what follows in the attribute is an area of its own.
        let (first, second) = held.split_at(held.len().min(60));
        entries(system, first.get(4..).unwrap_or_default(), &mut names)?;
        entries(system, second, &mut names)?;
        return Ok(names);
    }
    let block_bytes = system.superblock.block_bytes;
    if inode.size == 0 || !inode.size.is_multiple_of(block_bytes) {
        return Err(Error::corrupt(format!("a directory of {} bytes", inode.size)));
    }
    if inode.size > MAX_BYTES {
        return Err(Error::unsupported(format!(
            "a directory of {} bytes: too large to be listed",
            inode.size
        )));
    }
    let mut block = vec![0; index(block_bytes)?];
    let mut at = 0;
    while at < inode.size {
        let window = Window::read(system, inode, at)?;
        while at < inode.size && window.has(at) {
            if window.runs.next_data(at, inode.size) != Some(at) {
                return Err(Error::corrupt(format!("the directory {} has a hole at {at}", inode.number)));
            }
            window.runs.read(&system.disk, at, &mut block)?;
            let parsed = check(inode, &block, at == 0).and_then(|()| entries(system, &block, &mut names));
            parsed
                .map_err(|error| error.during(&format!("reading the directory {} at {at}", inode.number)))?;
            at += block_bytes;
        }
    }
    Ok(names)
}

/// Takes in the entries that fill an area.
fn entries(system: &FileSystem, area: &[u8], names: &mut Names) -> Result<()> {
    let mut at = 0;
    while at < area.len() {
        let rest = slice(area, at, area.len() - at)?;
        let (number, length) = (le32(rest, 0)?, entry_length(rest, area.len())?);
        let name_length = if system.superblock.features.file_type() {
            usize::from(byte(rest, 6)?)
        } else {
            usize::from(le16(rest, 6)?)
        };
        let fits = length >= HEADER + name_length && length.is_multiple_of(4) && length <= rest.len();
        // An area within an inode may end in fewer bytes than a name takes.
        if !fits || (length < 12 && number != 0) {
            return Err(Error::corrupt(format!("an entry of {length} bytes with a name of {name_length}")));
        }
        if number != 0 {
            let name = slice(rest, HEADER, name_length)?;
            if name.is_empty() || name.contains(&b'/') || name.contains(&0) {
                let name = String::from_utf8_lossy(name);
                return Err(Error::corrupt(format!("'{name}' cannot be a name")));
            }
            if !matches!(name, b"." | b"..") {
                names.push((name.to_vec(), u64::from(number)));
            }
            if names.len() > MAX_NAMES {
                return Err(Error::unsupported(format!("a directory of more than {MAX_NAMES} entries")));
            }
        }
        at += length;
    }
    Ok(())
}

/// The length of an entry. Blocks of 64 KiB are longer than its 16 bits tell.
fn entry_length(entry: &[u8], area: usize) -> Result<usize> {
    let length = usize::from(le16(entry, 4)?);
    Ok(match length {
        0 | 0xffff if area == 1 << 16 => area,
        _ => length,
    })
}

/// The checksum of a block, which an index has in another place.
fn check(inode: &Inode, block: &[u8], first: bool) -> Result<()> {
    let Some(seed) = inode.seed else { return Ok(()) };
    let empty = le32(block, 0)? == 0 && entry_length(block, block.len())? == block.len();
    let right = if inode.indexed() && (first || empty) {
        let counts = if empty { HEADER } else { root_counts(block)? };
        let (room, count) = (usize::from(le16(block, counts)?), usize::from(le16(block, counts + 2)?));
        let tail = counts + room * 8;
        if count > room || tail + 8 > block.len() {
            return Err(Error::corrupt(format!("an index of {count} entries in a room for {room}")));
        }
        let sum = crc32c(seed, &[slice(block, 0, counts + count * 8)?, slice(block, tail, 4)?, &[0; 4]]);
        sum == le32(block, tail + 4)?
    } else {
        let tail = block.len().saturating_sub(TAIL);
        // Nothing, 12 bytes, no name, and a kind that does not exist.
        let marked = array(block, tail)? == [0, 0, 0, 0, 12, 0, 0, 0xde];
        marked && crc32c(seed, &[slice(block, 0, tail)?]) == le32(block, tail + HEADER)?
    };
    if right { Ok(()) } else { Err(Error::corrupt("its checksum is wrong")) }
}

/// Where an index' root has its counts: behind `.`, `..` and a few fields, of which one is their length.
fn root_counts(block: &[u8]) -> Result<usize> {
    let fields = 24;
    let rest = entry_length(slice(block, 12, HEADER)?, block.len())?;
    let whole = entry_length(block, block.len())? == 12 && rest == block.len() - 12;
    if whole && le32(block, fields)? == 0 && byte(block, fields + 5)? == 8 {
        return Ok(fields + 8);
    }
    Err(Error::corrupt("the root of its index is damaged"))
}
