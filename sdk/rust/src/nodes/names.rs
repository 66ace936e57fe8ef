//! The names of one directory as a reader finds them: none that a path could be built from, and no more than memory holds.

use crate::{Error, Result};

/// What the names of one directory may take, with what each of them takes beside its letters: half of a reader's memory.
const MAX_BYTES: usize = 32 << 20;
const OVERHEAD: usize = 64;

/// Names with their nodes.
#[derive(Debug, Default)]
pub struct Names {
    all: Vec<(Vec<u8>, u64)>,
    bytes: usize,
}

impl Names {
    /// Adds the name of an entry. What is no name, or would be a path elsewhere, is shown by the entry's place on the disk.
    ///
    /// # Errors
    /// Unsupported where there are more than memory holds.
    pub fn push(&mut self, name: Option<Vec<u8>>, place: u64, node: u64) -> Result<()> {
        let proper = |name: &Vec<u8>| {
            !matches!(name.as_slice(), b"" | b"." | b"..") && !name.contains(&b'/') && !name.contains(&0)
        };
        let name = name.filter(proper).unwrap_or_else(|| format!("damaged name at {place}").into_bytes());
        self.bytes += name.len() + OVERHEAD;
        if self.bytes > MAX_BYTES {
            let words = format!("a directory of more than {} names cannot be listed", self.all.len());
            return Err(Error::unsupported(words));
        }
        self.all.push((name, node));
        Ok(())
    }

    /// Adds a name that tells that others are missing, where something was damaged. Nothing can be read by its node, which is
    /// the place of the damage.
    ///
    /// # Errors
    /// As [`Self::push`].
    pub fn missing(&mut self, place: u64) -> Result<()> {
        self.push(Some(format!("damaged entries at {place}").into_bytes()), place, place)
    }

    /// All of them, as [`InodeReader::list`](super::InodeReader::list) gives them.
    #[must_use]
    pub fn into_all(self) -> Vec<(Vec<u8>, u64)> {
        self.all
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on fails by panicking")]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn what_is_no_name_is_shown_by_its_place() {
        let mut names = Names::default();
        for name in ["right", "", ".", "..", "a/b", "a\0b"] {
            names.push(Some(name.into()), 96, 97).unwrap();
        }
        names.push(None, 128, 128).unwrap();
        names.missing(160).unwrap();
        let all = names.into_all();
        let damaged = || b"damaged name at 96".to_vec();
        assert_eq!(all[..3], [(b"right".to_vec(), 97), (damaged(), 97), (damaged(), 97)]);
        assert!(all[1..6].iter().all(|(name, _)| *name == damaged()));
        assert_eq!(
            all[6..],
            [(b"damaged name at 128".to_vec(), 128), (b"damaged entries at 160".to_vec(), 160)]
        );
        let mut many = Names::default();
        let error = (0..).find_map(|node| many.push(Some(vec![b'a'; 936]), 0, node).err()).unwrap();
        assert_eq!((error.kind, many.into_all().len()), (ErrorKind::Unsupported, 33_554));
    }
}
