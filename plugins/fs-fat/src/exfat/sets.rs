//! Sets of entries. The first entry says how many follow it, and holds a checksum over all of them.
//!
//! A folder's entries are gone through once:
//!
//! ```text
//! first entry ─▶ pending ─▶ as many as it says ─▶ a file
//!                   └─▶ anything else ─▶ damaged: shown by what is left of its name, and not read
//! ```
//! Entries that belong to no set are the remains of damage too, and so is a whole file after the folder's end: names are
//! missing there, which must not pass without a word.

use tidemark_plugin::fields::{byte, le16, le32, le64, slice, units_le, wtf8};
use tidemark_plugin::guest_filesystem::NodeKind;
use tidemark_plugin::nodes::FileStat;
use tidemark_plugin::{Error, Result};

use crate::clusters::Place;
use crate::folder::{AFTER_END, ENTRY};
use crate::stamps::zoned;
use crate::volume::Item;

/// Bits of an entry's type: not deleted, following another one, and not needed to understand the folder.
pub(super) const IN_USE: u8 = 0x80;
const SECONDARY: u8 = 0x40;
const BENIGN: u8 = 0x20;
/// Types of entries.
pub(super) const FILE: u8 = 0x85;
const STREAM: u8 = 0xc0;
const NAME: u8 = 0xc1;
/// The volume's bitmap, its table of capital letters and its label: nothing that is listed.
const OF_VOLUME: [u8; 3] = [0x81, 0x82, 0x83];
/// Bit of the attributes, and of the second entry's flags: what it has lies in clusters one after another.
const FOLDER: u16 = 0x10;
const TOGETHER: u8 = 2;
/// The most that a set has: its first entry, and 255 that follow.
const MAX_SET: usize = 255 * ENTRY;
/// Units of a name in one entry.
const UNITS: usize = 15;

/// A set, or the beginning of one.
#[derive(Debug, Default)]
pub(super) struct Set {
    bytes: Vec<u8>,
}

impl Set {
    pub(super) fn begin(entry: &[u8; ENTRY]) -> Self {
        Self { bytes: entry.to_vec() }
    }

    pub(super) fn push(&mut self, entries: &[u8]) {
        self.bytes.extend_from_slice(entries);
    }

    /// How many entries are still to come; none of what is no file.
    pub(super) fn missing(&self) -> usize {
        match self.bytes.as_slice() {
            [FILE, following, ..] => (usize::from(*following) + 1).saturating_sub(self.bytes.len() / ENTRY),
            _ => 0,
        }
    }

    /// Whether all is there, and the checksum right.
    fn check(&self) -> Result<()> {
        let bytes = &self.bytes;
        let is = |number: usize, kind: u8| bytes.get(number * ENTRY) == Some(&kind);
        let parts = usize::from(byte(bytes, ENTRY + 3).unwrap_or(0)).div_ceil(UNITS);
        let whole = is(0, FILE) && self.missing() == 0 && is(1, STREAM) && parts > 0;
        if !whole || !(2..2 + parts).all(|number| is(number, NAME)) {
            return Err(Error::corrupt("the entries of a file are not complete"));
        }
        // All but the sum itself.
        let checked = slice(bytes, 0, 2)?.iter().chain(bytes.get(4..).unwrap_or_default());
        let sum = checked.fold(0_u16, |sum, byte| sum.rotate_right(1).wrapping_add(u16::from(*byte)));
        if sum == le16(bytes, 2)? {
            Ok(())
        } else {
            Err(Error::corrupt("the checksum of a file's entries is wrong"))
        }
    }

    /// The name; of a damaged set what is left of it, if anything.
    fn name(&self) -> Option<Vec<u8>> {
        let entries = self.bytes.as_chunks::<ENTRY>().0;
        let stream = entries.iter().find(|entry| entry[0] == STREAM);
        let length = stream.map_or(usize::from(u8::MAX), |entry| usize::from(entry[3]));
        let parts = entries.iter().filter(|entry| entry[0] == NAME);
        let units = parts.flat_map(|entry| units_le(entry.get(2..).unwrap_or_default())).take(length);
        let units: Vec<u16> = match stream {
            Some(_) => units.collect(),
            None => units.take_while(|unit| *unit != 0).collect(),
        };
        Some(wtf8(units)).filter(|name| !name.is_empty())
    }

    /// What the file is and where it lies.
    pub(super) fn item(&self) -> Result<Item> {
        self.check()?;
        let bytes = &self.bytes;
        let marks = le16(bytes, 4)?;
        let folder = marks & FOLDER != 0;
        let stream = slice(bytes, ENTRY, ENTRY)?;
        let (written, size, first) = (le64(stream, 8)?, le64(stream, 24)?, le32(stream, 20)?);
        if written > size {
            return Err(Error::corrupt(format!("{written} bytes were written of a file that has {size}")));
        }
        let place = match byte(stream, 1)? & TOGETHER {
            _ if size == 0 => Place::Nothing,
            0 => Place::Chain(first, Some(size)),
            _ => Place::Together(first, size),
        };
        let time = |at: usize, hundredths: Option<usize>, zone: usize| {
            let hundredths = hundredths.map_or(Ok(0), |at| byte(bytes, at))?;
            Ok(zoned(le32(bytes, at)?, hundredths, byte(bytes, zone)?))
        };
        let kind = if folder { NodeKind::Directory } else { NodeKind::File };
        let stat = FileStat {
            size_bytes: if folder { 0 } else { size },
            created_ns: time(8, Some(20), 22)?,
            modified_ns: time(12, Some(21), 23)?,
            accessed_ns: time(16, None, 24)?,
            links: 1,
            ..FileStat::of(kind)
        };
        Ok(Item { stat, place, written: if folder { size } else { written }, marks })
    }
}

/// Goes through a folder's entries, and calls `found` with the place and the name of each file, and of what is left of one;
/// without a name where that is all that is known.
pub(super) struct Sets<F> {
    found: F,
    /// A set that is not complete yet, by its place.
    pending: Option<(u64, Set)>,
    /// Entries that follow one which is no file's.
    skipped: u8,
    /// Where the folder ended, and how many entries were seen since.
    end: Option<(u64, u32)>,
}

impl<F: FnMut(u64, Option<Vec<u8>>) -> Result<()>> Sets<F> {
    pub(super) fn new(found: F) -> Self {
        Self { found, pending: None, skipped: 0, end: None }
    }

    /// Takes the next entry, and says whether there may be more.
    pub(super) fn take(&mut self, place: u64, entry: &[u8; ENTRY]) -> Result<bool> {
        let [kind, following, ..] = *entry;
        if kind & IN_USE == 0 || kind & SECONDARY == 0 {
            self.flush()?;
        }
        if kind == 0 {
            self.end.get_or_insert((place, 0));
        } else if kind & (IN_USE | SECONDARY) == IN_USE {
            self.first(place, kind, following, entry)?;
        } else if kind & IN_USE != 0 && self.skipped > 0 {
            self.skipped -= 1;
        } else if kind & IN_USE != 0 {
            let (_, set) = self.pending.get_or_insert_with(|| (place, Set::default()));
            set.push(entry);
            if set.missing() == 0 && (set.bytes.first() == Some(&FILE) || set.bytes.len() > MAX_SET) {
                self.flush()?;
            }
        }
        let after = self.end.as_mut().map_or(0, |(_, after)| {
            *after += 1;
            *after
        });
        Ok(after <= AFTER_END)
    }

    /// The folder has no more entries.
    pub(super) fn end(mut self) -> Result<()> {
        self.flush()
    }

    fn first(&mut self, place: u64, kind: u8, following: u8, entry: &[u8; ENTRY]) -> Result<()> {
        if kind == FILE {
            self.pending = Some((place, Set::begin(entry)));
        } else if kind & BENIGN != 0 {
            self.skipped = following;
        } else if !OF_VOLUME.contains(&kind) && self.end.is_none() {
            (self.found)(place, None)?;
        }
        Ok(())
    }

    /// Shows what is pending: a file, or what is left of it, which is looked at and found damaged afterwards.
    fn flush(&mut self) -> Result<()> {
        self.skipped = 0;
        let Some((place, set)) = self.pending.take() else { return Ok(()) };
        // What lies after the end is anything, but for a file whose checksum is right.
        match self.end {
            Some(_) if set.check().is_err() => return Ok(()),
            Some((end, _)) => (self.found)(end, None)?,
            None => {}
        }
        self.end = None;
        (self.found)(place, set.name())
    }
}
