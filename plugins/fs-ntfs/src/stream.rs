//! The bytes of an attribute: of a file's data or a named stream of it, of an index, of a bitmap.

use std::cell::RefCell;

use tidemark_plugin::disk::{CachedDisk, Runs};
use tidemark_plugin::fields::index;
use tidemark_plugin::placement::Run;
use tidemark_plugin::{Error, Result};

use crate::attribute::{COMPRESSED, ENCRYPTED, Extent, Form};
use crate::table::{File, Table};
use crate::{lznt1, mapping};

/// Compression units of 16 clusters of at most 4 KiB are the largest.
const MAX_UNIT: u64 = 64 << 10;

/// The bytes of an attribute.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) size: u64,
    /// What lies beyond reads as zeros.
    initialized: u64,
    flags: u16,
    body: Body,
}

#[derive(Debug)]
enum Body {
    Resident(Vec<u8>),
    Runs(Runs),
    Compressed {
        runs: Runs,
        unit: u64,
        /// The unit that was read last, as its rest is likely to be asked for next.
        last: RefCell<(u64, Vec<u8>)>,
    },
}

impl Stream {
    /// The attribute of a file; none where the file has no such.
    pub(crate) fn of(table: &Table, file: &File, kind: u32, name: &[u8]) -> Result<Option<Self>> {
        let mut pieces: Vec<Extent<'_>> = Vec::new();
        let mut flags = 0;
        for attribute in file.attributes() {
            let attribute = attribute?;
            if !attribute.is(kind, name) {
                continue;
            }
            flags |= attribute.flags;
            match attribute.form {
                Form::Resident(value) => {
                    let size = value.len() as u64;
                    let body = Body::Resident(value.to_vec());
                    return Ok(Some(Self { size, initialized: size, flags, body }));
                }
                Form::Elsewhere(extent) => pieces.push(extent),
            }
        }
        if pieces.is_empty() {
            return Ok(None);
        }
        Self::joined(table, pieces, flags).map(Some)
    }

    /// Puts the pieces together, of which none may miss.
    fn joined(table: &Table, mut pieces: Vec<Extent<'_>>, flags: u16) -> Result<Self> {
        pieces.sort_by_key(|piece| piece.first);
        let (mut runs, mut end) = (Vec::new(), 0);
        for piece in &pieces {
            if piece.first != end {
                return Err(Error::corrupt("a piece of a file's map is missing, or is there twice"));
            }
            mapping::decode(piece, table.cluster_bytes, &mut runs)?;
            end = piece.end;
        }
        let first = pieces.first().ok_or_else(|| Error::corrupt("a file without a map"))?;
        let size = first.size;
        if end.checked_mul(table.cluster_bytes).is_none_or(|covered| covered < size) {
            return Err(Error::corrupt(format!("the map of a file of {size} bytes ends early")));
        }
        let runs = table.checked(runs)?;
        let body = match flags & COMPRESSED {
            0 => Body::Runs(runs),
            1 => {
                let unit = 1_u64.checked_shl(u32::from(first.unit)).unwrap_or(0);
                let unit = unit.saturating_mul(table.cluster_bytes);
                if first.unit == 0 || unit > MAX_UNIT {
                    return Err(Error::corrupt(format!("compressed in units of {unit} bytes")));
                }
                Body::Compressed { runs, unit, last: RefCell::new((u64::MAX, Vec::new())) }
            }
            other => return Err(Error::unsupported(format!("compressed by an unknown method ({other})"))),
        };
        Ok(Self { size, initialized: first.initialized.min(size), flags, body })
    }

    /// At most so many bytes; fewer only at the end.
    pub(crate) fn read(&self, disk: &CachedDisk, offset: u64, length: u32) -> Result<Vec<u8>> {
        self.readable()?;
        let length = self.size.saturating_sub(offset).min(u64::from(length));
        let mut bytes = vec![0; index(length)?];
        let written = self.initialized.saturating_sub(offset).min(length);
        let into = bytes.get_mut(..index(written)?).unwrap_or_default();
        match &self.body {
            Body::Resident(value) => {
                let from = value.get(index(offset)?..).unwrap_or_default();
                into.copy_from_slice(from.get(..into.len()).unwrap_or_default());
            }
            Body::Runs(runs) => runs.read(disk, offset, into)?,
            Body::Compressed { runs, unit, last } => {
                let mut filled = 0;
                while filled < into.len() {
                    let at = offset + filled as u64;
                    let mut last = last.borrow_mut();
                    if last.0 != at / unit {
                        // What is there stays until the next is whole.
                        *last = (at / unit, decompressed(disk, runs, at / unit * unit, *unit)?);
                    }
                    let from = last.1.get(index(at % unit)?..).unwrap_or_default();
                    let part = into.get_mut(filled..).unwrap_or_default();
                    let count = from.len().min(part.len());
                    for (to, from) in part.iter_mut().zip(from) {
                        *to = *from;
                    }
                    filled += count.max(1);
                }
            }
        }
        Ok(bytes)
    }

    /// All of it, where it is not larger than `most`.
    pub(crate) fn all(&self, disk: &CachedDisk, most: u32) -> Result<Vec<u8>> {
        if self.size > u64::from(most) {
            return Err(Error::corrupt(format!("{} bytes where at most {most} are possible", self.size)));
        }
        self.read(disk, 0, most)
    }

    /// Whether it has a size and not one cluster.
    pub(crate) fn is_hole(&self) -> bool {
        match &self.body {
            Body::Resident(_) => false,
            Body::Runs(runs) | Body::Compressed { runs, .. } => {
                self.size > 0 && runs.next_data(0, u64::MAX).is_none()
            }
        }
    }

    /// Where the bytes from `offset` on lie; none where they are not there as they are.
    pub(crate) fn placed(&self, offset: u64) -> Result<Option<Vec<Run>>> {
        self.readable()?;
        Ok(match &self.body {
            Body::Runs(runs) => Some(runs.placed(offset, self.initialized, self.size)),
            _ => None,
        })
    }

    fn readable(&self) -> Result<()> {
        if self.flags & ENCRYPTED == 0 {
            return Ok(());
        }
        Err(Error::unsupported("the file is encrypted (EFS): only the guest has the key"))
    }

    /// The first offset at or after `offset` that is not in a hole.
    pub(crate) fn next_data(&self, offset: u64) -> Option<u64> {
        match &self.body {
            Body::Resident(_) => Some(offset).filter(|offset| *offset < self.size),
            Body::Runs(runs) => runs.next_data(offset, self.initialized),
            // A unit has data in all of it where it has any.
            Body::Compressed { runs, unit, .. } => {
                let found = runs.next_data(offset - offset % unit, self.initialized)?.max(offset);
                Some(found).filter(|found| *found < self.initialized)
            }
        }
    }
}

/// One compression unit: as it is where all of its clusters are there, compressed where some are, zeros where none is.
fn decompressed(disk: &CachedDisk, runs: &Runs, start: u64, unit: u64) -> Result<Vec<u8>> {
    let there = runs.allocated(start..start.saturating_add(unit));
    let mut bytes = vec![0; index(if there == 0 { unit } else { there })?];
    if there == 0 {
        return Ok(bytes);
    }
    if runs.allocated(start..start + there) != there {
        return Err(Error::corrupt("a compression unit has a hole where its data should be"));
    }
    runs.read(disk, start, &mut bytes)?;
    if there == unit { Ok(bytes) } else { lznt1::decompress(&bytes, index(unit)?) }
}
