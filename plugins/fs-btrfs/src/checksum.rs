//! The four checksums of the format (the superblock's field `csum_type`).

use blake2::Blake2b;
use blake2::digest::consts::U32;
use sha2::{Digest, Sha256};
use tidemark_plugin::{Error, Result};

/// What the format keeps for a checksum where its place has a fixed length.
pub(crate) const FIELD: usize = 32;

/// How metadata and data are checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Checksum {
    Crc32c,
    XxHash64,
    Sha256,
    Blake2b,
}

impl Checksum {
    /// By its number on disk.
    pub(crate) fn numbered(number: u16) -> Result<Self> {
        match number {
            0 => Ok(Self::Crc32c),
            1 => Ok(Self::XxHash64),
            2 => Ok(Self::Sha256),
            3 => Ok(Self::Blake2b),
            _ => Err(Error::unsupported(format!("checksums of the unknown kind {number} are not read"))),
        }
    }

    /// How many bytes one has.
    pub(crate) const fn length(self) -> usize {
        match self {
            Self::Crc32c => 4,
            Self::XxHash64 => 8,
            Self::Sha256 | Self::Blake2b => 32,
        }
    }

    /// Whether `stored`, which may be longer, is the checksum of these bytes.
    pub(crate) fn fits(self, bytes: &[u8], stored: &[u8]) -> bool {
        stored.get(..self.length()).is_some_and(|stored| match self {
            Self::Crc32c => crc32c::crc32c(bytes).to_le_bytes() == stored,
            Self::XxHash64 => twox_hash::XxHash64::oneshot(0, bytes).to_le_bytes() == stored,
            Self::Sha256 => Sha256::digest(bytes).as_slice() == stored,
            Self::Blake2b => Blake2b::<U32>::digest(bytes).as_slice() == stored,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Published values for "abc".
    #[test]
    fn each_is_the_published_one() {
        let hex = |text: &str| -> Vec<u8> {
            (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
        };
        for (number, value) in [
            (0, "b73f4b36"),
            (1, "990977adf52cbc44"),
            (2, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
            (3, "bddd813c634239723171ef3fee98579b94964e3bb1cb3e427262c8c068d52319"),
        ] {
            let checksum = Checksum::numbered(number).unwrap();
            let value = hex(value);
            assert_eq!(value.len(), checksum.length());
            assert!(checksum.fits(b"abc", &value), "{checksum:?}");
            assert!(!checksum.fits(b"abd", &value) && !checksum.fits(b"abc", &value[1..]), "{checksum:?}");
        }
        assert!(Checksum::numbered(4).is_err());
    }
}
