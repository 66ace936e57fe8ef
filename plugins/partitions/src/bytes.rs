//! Bytes by their place, wherever they come from, and numbers out of them.

use tidemark_plugin::{Error, Result};

/// Something that is read like a disk.
pub(crate) trait Bytes {
    /// How many there are.
    fn size(&self) -> u64;
    /// Exactly `length` bytes; the range has to lie inside.
    fn read(&self, offset: u64, length: u32) -> Result<Vec<u8>>;

    /// The same, or none where the range leads beyond the end.
    fn read_inside(&self, offset: u64, length: u32) -> Result<Option<Vec<u8>>> {
        let end = offset.checked_add(u64::from(length));
        if end.is_none_or(|end| end > self.size()) {
            return Ok(None);
        }
        let bytes = self.read(offset, length)?;
        if u32::try_from(bytes.len()) == Ok(length) {
            return Ok(Some(bytes));
        }
        Err(Error::corrupt(format!("the disk gave {} bytes for {length} at {offset}", bytes.len())))
    }
}

/// A little-endian number; 0 beyond the end.
pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |chunk| u16::from_le_bytes(*chunk))
}

/// A little-endian number; 0 beyond the end.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |chunk| u32::from_le_bytes(*chunk))
}

/// A little-endian number; 0 beyond the end.
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |chunk| u64::from_le_bytes(*chunk))
}

/// Whether `word` stands at a place.
pub(crate) fn says(bytes: &[u8], at: usize, word: &[u8]) -> bool {
    bytes.get(at..).is_some_and(|rest| rest.starts_with(word))
}

/// Bytes in memory, for tests.
#[cfg(test)]
impl Bytes for Vec<u8> {
    fn size(&self) -> u64 {
        self.len() as u64
    }

    fn read(&self, offset: u64, length: u32) -> Result<Vec<u8>> {
        let start = usize::try_from(offset).unwrap();
        Ok(self[start..start + length as usize].to_vec())
    }
}
