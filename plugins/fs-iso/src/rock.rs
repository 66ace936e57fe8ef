//! Rock Ridge (IEEE P1282 "Rock Ridge Interchange Protocol", over P1281 "System Use Sharing Protocol"): entries behind a
//! record's name, with a word of two letters, a length and a version each. They may go on elsewhere on the disc.

use tidemark_plugin::disk::CachedDisk;
use tidemark_plugin::fields::{array, byte, index, slice};
use tidemark_plugin::{Error, Result};

use crate::record::both32;
use crate::times::{long, short};

/// Places where the entries of one record may go on, and their bytes in all.
const MAX_AREAS: u32 = 64;
const MAX_BYTES: u32 = 64 << 10;
/// Discs for the CD-ROM XA have so many bytes of their own before the first entry.
const XA: usize = 14;
/// What the entry that names Rock Ridge may call it.
const NAMES: [&[u8]; 3] = [b"RRIP_1991A", b"IEEE_P1282", b"IEEE_1282"];
/// Bits of names and of parts of links.
const CONTINUED: u8 = 1;
const CURRENT: u8 = 2;
const PARENT: u8 = 4;
const ROOT: u8 = 8;

/// What Rock Ridge says of a file.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Rock {
    pub(crate) name: Option<Vec<u8>>,
    pub(crate) target: Option<Vec<u8>>,
    /// Kind and permissions, links, owner and group.
    pub(crate) posix: Option<[u32; 4]>,
    pub(crate) created_ns: Option<i64>,
    pub(crate) modified_ns: Option<i64>,
    pub(crate) accessed_ns: Option<i64>,
    /// The block of a folder that lies elsewhere, for it is too deep.
    pub(crate) child: Option<u32>,
    /// This is such a folder, which is shown elsewhere.
    pub(crate) relocated: bool,
    /// Bytes of a file that is compressed (zisofs).
    pub(crate) unpacked: Option<u32>,
    pub(crate) sparse: bool,
    /// Rock Ridge is named here, as it is once on a disc.
    named: bool,
    /// A name, a part of a link or a link goes on.
    open_name: bool,
    open_part: bool,
}

/// Where the entries of a disc are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Area {
    /// Bytes to leave out before the first entry.
    pub(crate) skipped: usize,
    pub(crate) block_bytes: u64,
}

impl Area {
    /// The area of a disc, by what its root has added to the record for itself; none without Rock Ridge.
    pub(crate) fn of(disk: &CachedDisk, more: &[u8], block_bytes: u64) -> Option<Self> {
        let begins =
            |at: usize| more.get(at..at + 7).filter(|entry| entry.starts_with(b"SP\x07\x01\xbe\xef"));
        let (at, entry) = [0, XA].into_iter().find_map(|at| Some((at, begins(at)?)))?;
        let skipped = usize::from(*entry.get(6)?);
        let (rock, _) = Rock::read(disk, more, Self { skipped: at, block_bytes });
        (rock.named || rock.posix.is_some()).then_some(Self { skipped, block_bytes })
    }
}

impl Rock {
    /// Reads what is added to a record; with an error where that is damaged, and what was read until there.
    pub(crate) fn read(disk: &CachedDisk, more: &[u8], area: Area) -> (Self, Result<()>) {
        let mut rock = Self::default();
        let read = rock.areas(disk, more.get(area.skipped..).unwrap_or_default().to_vec(), area.block_bytes);
        (rock, read)
    }

    fn areas(&mut self, disk: &CachedDisk, mut bytes: Vec<u8>, block_bytes: u64) -> Result<()> {
        let mut left = MAX_BYTES;
        for _ in 0..MAX_AREAS {
            let Some([block, offset, length]) = self.entries(&bytes)? else {
                let open = self.open_name || self.open_part;
                return if open { Err(Error::corrupt("a name of Rock Ridge has no end")) } else { Ok(()) };
            };
            left = left.checked_sub(length).ok_or_else(endless)?;
            bytes = vec![0; index(u64::from(length))?];
            disk.read(u64::from(block) * block_bytes + u64::from(offset), &mut bytes)?;
        }
        Err(endless())
    }

    /// Takes the entries of one place, and says where they go on.
    fn entries(&mut self, mut bytes: &[u8]) -> Result<Option<[u32; 3]>> {
        let mut next = None;
        // What is too short for an entry fills up, and so do zeros.
        while let [first, second, length, _, ..] = *bytes {
            if [first, second, length] == [0; 3] {
                break;
            }
            let (entry, rest) = bytes
                .split_at_checked(usize::from(length))
                .filter(|(entry, _)| entry.len() >= 4)
                .ok_or_else(|| Error::corrupt("an entry of Rock Ridge has a length that cannot be"))?;
            match &[first, second] {
                b"CE" => next = Some([both32(entry, 4)?, both32(entry, 12)?, both32(entry, 20)?]),
                b"ST" => break,
                word => self.take(word, entry)?,
            }
            bytes = rest;
        }
        Ok(next)
    }

    fn take(&mut self, word: &[u8; 2], entry: &[u8]) -> Result<()> {
        match word {
            b"ER" => {
                let name = slice(entry, 8, usize::from(byte(entry, 4)?))?;
                self.named |= NAMES.contains(&name);
            }
            b"PX" => {
                self.posix =
                    Some([both32(entry, 4)?, both32(entry, 12)?, both32(entry, 20)?, both32(entry, 28)?]);
            }
            b"NM" => self.name(byte(entry, 4)?, entry.get(5..).unwrap_or_default()),
            b"SL" => self.link(entry.get(5..).unwrap_or_default())?,
            b"TF" => self.times(byte(entry, 4)?, entry.get(5..).unwrap_or_default())?,
            b"CL" => self.child = Some(both32(entry, 4)?),
            b"RE" => self.relocated = true,
            b"ZF" => self.unpacked = Some(both32(entry, 8)?),
            b"SF" => self.sparse = true,
            _ => {}
        }
        Ok(())
    }

    fn name(&mut self, flags: u8, part: &[u8]) {
        let name = self.name.get_or_insert_default();
        match flags & (CURRENT | PARENT) {
            0 => name.extend_from_slice(part),
            CURRENT => name.push(b'.'),
            _ => name.extend_from_slice(b".."),
        }
        self.open_name = flags & CONTINUED != 0;
    }

    /// Parts of where a link leads, with a flag and a length each.
    fn link(&mut self, mut parts: &[u8]) -> Result<()> {
        let target = self.target.get_or_insert_default();
        while let [flags, length, rest @ ..] = parts {
            let (part, after) = rest
                .split_at_checked(usize::from(*length))
                .ok_or_else(|| Error::corrupt("a part of a symbolic link is too long"))?;
            if !self.open_part && !matches!(target.last(), None | Some(b'/')) {
                target.push(b'/');
            }
            match flags & (CURRENT | PARENT | ROOT) {
                0 => target.extend_from_slice(part),
                CURRENT => target.push(b'.'),
                PARENT => target.extend_from_slice(b".."),
                _ => target.push(b'/'),
            }
            self.open_part = flags & CONTINUED != 0;
            parts = after;
        }
        Ok(())
    }

    /// Dates in the order of their bits; the eighth bit tells which form they have.
    fn times(&mut self, flags: u8, bytes: &[u8]) -> Result<()> {
        let wide = flags & 0x80 != 0;
        let mut at = 0;
        for (number, time) in
            [&mut self.created_ns, &mut self.modified_ns, &mut self.accessed_ns].into_iter().enumerate()
        {
            if flags & (1 << number) != 0 {
                *time = if wide { long(slice(bytes, at, 17)?) } else { short(array(bytes, at)?) };
                at += if wide { 17 } else { 7 };
            }
        }
        Ok(())
    }
}

fn endless() -> Error {
    Error::corrupt("what Rock Ridge adds to a record has no end")
}
