//! A record of the MFT.

use tidemark_plugin::fields::{array, le16, le32, le64, slice};
use tidemark_plugin::{Error, Result};

use crate::attribute::Attribute;

/// The last two bytes of every 512 are replaced by a number that changes with each write.
const STRIDE: usize = 512;
const IN_USE: u16 = 1;
const DIRECTORY: u16 = 2;
/// Ends the attributes of a record.
const END: u32 = u32::MAX;

/// Where a file's record is, as the file system refers to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Reference {
    pub(crate) record: u64,
    pub(crate) sequence: u16,
}

impl Reference {
    /// From the eight bytes on disk.
    pub(crate) fn from_disk(number: u64) -> Self {
        let sequence = u16::try_from(number >> 48).unwrap_or(u16::MAX);
        Self { record: number & 0xffff_ffff_ffff, sequence }
    }

    /// From a node's number: the record comes first, so that neighbours in the table are neighbours in order.
    pub(crate) fn from_node(node: u64) -> Self {
        Self { record: node >> 16, sequence: u16::try_from(node & 0xffff).unwrap_or(u16::MAX) }
    }

    /// The node's number.
    pub(crate) fn node(self) -> u64 {
        self.record << 16 | u64::from(self.sequence)
    }
}

/// A record in use, with its update sequence undone.
#[derive(Debug)]
pub(crate) struct Record {
    bytes: Vec<u8>,
    first: usize,
    end: usize,
    pub(crate) sequence: u16,
    pub(crate) is_directory: bool,
    /// The record that this one continues; none for one that stands by itself.
    pub(crate) base: Option<Reference>,
}

impl Record {
    /// The record in these bytes.
    pub(crate) fn parse(mut bytes: Vec<u8>, number: u64) -> Result<Self> {
        let wrong = |why: &str| Error::corrupt(format!("record {number} of the MFT {why}"));
        match slice(&bytes, 0, 4)? {
            b"FILE" => {}
            b"BAAD" => return Err(wrong("was found damaged by Windows")),
            _ => return Err(wrong("is no record")),
        }
        undo_update_sequence(&mut bytes).map_err(|error| wrong(&format!("is torn: {}", error.message)))?;
        let flags = le16(&bytes, 22)?;
        if flags & IN_USE == 0 {
            return Err(wrong("is not in use"));
        }
        let first = usize::from(le16(&bytes, 20)?);
        let end = usize::try_from(le32(&bytes, 24)?).unwrap_or(usize::MAX);
        if first < 42 || first > end || end > bytes.len() {
            return Err(wrong("has impossible lengths"));
        }
        // NTFS 3.1 tells each record which one it is.
        let is_told = le16(&bytes, 4)? >= 48;
        if is_told && u64::from(le32(&bytes, 44)?) != number & u64::from(u32::MAX) {
            return Err(wrong("lies where another belongs"));
        }
        let sequence = le16(&bytes, 16)?;
        let base = Some(le64(&bytes, 32)?).filter(|base| *base != 0).map(Reference::from_disk);
        Ok(Self { first, end, sequence, is_directory: flags & DIRECTORY != 0, base, bytes })
    }

    /// Its attributes, in their order, which is that of their types.
    pub(crate) fn attributes(&self) -> impl Iterator<Item = Result<Attribute<'_>>> {
        let (mut at, mut last) = (Some(self.first), 0);
        std::iter::from_fn(move || {
            let start = at?;
            let next = self.attribute(start).and_then(|found| match &found {
                Some((attribute, _)) if attribute.kind < last => {
                    Err(Error::corrupt("the attributes of a record of the MFT are in disorder"))
                }
                _ => Ok(found),
            });
            last = next.as_ref().ok().and_then(Option::as_ref).map_or(last, |(attribute, _)| attribute.kind);
            at = match &next {
                Ok(Some((_, end))) => Some(*end),
                _ => None,
            };
            next.map(|found| found.map(|(attribute, _)| attribute)).transpose()
        })
    }

    fn attribute(&self, at: usize) -> Result<Option<(Attribute<'_>, usize)>> {
        let used = self.bytes.get(..self.end).unwrap_or_default();
        if le32(used, at)? == END {
            return Ok(None);
        }
        let length = usize::try_from(le32(used, at.saturating_add(4))?).unwrap_or(usize::MAX);
        if length < 24 || length % 8 != 0 {
            return Err(Error::corrupt(format!("an attribute of {length} bytes in a record of the MFT")));
        }
        let attribute = Attribute::parse(slice(used, at, length)?)?;
        Ok(Some((attribute, at + length)))
    }
}

/// Checks the update sequence of a record or an index block, and puts back what it replaced.
pub(crate) fn undo_update_sequence(bytes: &mut [u8]) -> Result<()> {
    let at = usize::from(le16(bytes, 4)?);
    let count = usize::from(le16(bytes, 6)?);
    if count != bytes.len() / STRIDE + 1 || at % 2 != 0 || at + 2 * count > STRIDE - 2 {
        return Err(Error::corrupt("its update sequence is impossible"));
    }
    let expected: [u8; 2] = array(bytes, at)?;
    for number in 0..count - 1 {
        // Within the first sector, before its end.
        let original: [u8; 2] = array(bytes, at + 2 + 2 * number)?;
        let place = (number + 1) * STRIDE - 2;
        let end = bytes.get_mut(place..place + 2).ok_or_else(|| Error::corrupt("it ends early"))?;
        if end != expected {
            return Err(Error::corrupt(format!("sector {number} of it was not written with the others")));
        }
        end.copy_from_slice(&original);
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on fails by panicking")]
mod tests {
    use super::*;
    use crate::attribute::kind;

    /// Record 7 with empty attributes of these types.
    fn record(kinds: &[u32]) -> Record {
        let mut bytes = b"FILE\x30\0\x03\0".to_vec();
        bytes.resize(2 * STRIDE, 0);
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        put(16, &[1, 0, 1, 0, 56, 0, 1, 0]);
        put(44, &[7]);
        // The number that ends both sectors, and what it replaces there.
        put(48, &[9, 0]);
        put(STRIDE - 2, &[9, 0]);
        put(2 * STRIDE - 2, &[9, 0]);
        let mut at = 56;
        for kind in kinds {
            put(at, &[&kind.to_le_bytes()[..], &24_u32.to_le_bytes()].concat());
            put(at + 20, &[24]);
            at += 24;
        }
        put(at, &END.to_le_bytes());
        put(24, &u32::try_from(at + 8).unwrap().to_le_bytes());
        Record::parse(bytes, 7).unwrap()
    }

    #[test]
    fn attributes_lie_in_the_order_of_their_types() {
        let kinds = [kind::STANDARD_INFORMATION, kind::FILE_NAME, kind::FILE_NAME, kind::DATA];
        let found: Result<Vec<u32>> = record(&kinds).attributes().map(|one| Ok(one?.kind)).collect();
        assert_eq!(found.unwrap(), kinds);
        // Behind what comes later a list would not be looked for.
        let record = record(&[kind::STANDARD_INFORMATION, kind::DATA, kind::ATTRIBUTE_LIST]);
        let found: Vec<bool> = record.attributes().map(|one| one.is_ok()).collect();
        assert_eq!(found, [true, true, false]);
    }
}
