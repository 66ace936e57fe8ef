//! Numbers in structures on disk. Whatever a structure is too short for is damage, not a panic.

use crate::{Error, Result};

/// `length` bytes at a place.
///
/// # Errors
/// Corrupt where the structure ends before.
#[inline]
pub fn slice(bytes: &[u8], at: usize, length: usize) -> Result<&[u8]> {
    let found = at.checked_add(length).and_then(|end| bytes.get(at..end));
    found.ok_or_else(|| {
        Error::corrupt(format!("{length} bytes at {at} of a structure that has {}", bytes.len()))
    })
}

/// A byte.
///
/// # Errors
/// As [`slice`].
#[inline]
pub fn byte(bytes: &[u8], at: usize) -> Result<u8> {
    array::<1>(bytes, at).map(|[byte]| byte)
}

/// So many bytes as an array.
///
/// # Errors
/// As [`slice`].
#[inline]
pub fn array<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N]> {
    slice(bytes, at, N)?.try_into().map_err(|_| Error::corrupt("a structure is too short"))
}

macro_rules! number {
    ($($name:ident: $type:ty, $from:ident, $words:literal;)*) => {$(
        #[doc = $words]
        ///
        /// # Errors
        /// As [`slice`].
        #[inline]
        pub fn $name(bytes: &[u8], at: usize) -> Result<$type> {
            array(bytes, at).map(<$type>::$from)
        }
    )*};
}

number! {
    le16: u16, from_le_bytes, "A little-endian number of 16 bits.";
    le32: u32, from_le_bytes, "A little-endian number of 32 bits.";
    le64: u64, from_le_bytes, "A little-endian number of 64 bits.";
    be16: u16, from_be_bytes, "A big-endian number of 16 bits.";
    be32: u32, from_be_bytes, "A big-endian number of 32 bits.";
    be64: u64, from_be_bytes, "A big-endian number of 64 bits.";
}

/// A number of the disk as an index.
///
/// # Errors
/// Corrupt where it is larger than memory.
pub fn index(number: u64) -> Result<usize> {
    usize::try_from(number)
        .map_err(|_| Error::corrupt(format!("{number} is no length of anything in memory")))
}

/// Sixteen bytes as a UUID is written.
#[must_use]
pub fn uuid(bytes: [u8; 16]) -> String {
    let mut text = String::with_capacity(36);
    for (at, byte) in bytes.iter().enumerate() {
        if matches!(at, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

/// Text of a fixed length that ends at its first zero.
#[must_use]
pub fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()).into_owned()
}

/// UTF-16 as the contract's bytes: UTF-8, and surrogates without their other half as UTF-8 would write them (WTF-8), so that
/// no two names become one.
#[must_use]
pub fn wtf8(units: impl IntoIterator<Item = u16>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for unit in char::decode_utf16(units) {
        match unit {
            Ok(letter) => bytes.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes()),
            Err(lone) => {
                let [high, low] = lone.unpaired_surrogate().to_be_bytes();
                bytes.extend([0xe0 | high >> 4, 0x80 | (high & 0xf) << 2 | low >> 6, 0x80 | low & 0x3f]);
            }
        }
    }
    bytes
}

/// Little-endian UTF-16 units; an odd byte at the end is left out.
pub fn units_le(bytes: &[u8]) -> impl Iterator<Item = u16> + '_ {
    bytes.as_chunks::<2>().0.iter().map(|unit| u16::from_le_bytes(*unit))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_in_their_order_and_nothing_beyond_the_end() {
        let bytes = [1, 2, 3, 4, 5, 6, 7, 8];
        assert_eq!((le16(&bytes, 6).unwrap(), be16(&bytes, 6).unwrap()), (0x0807, 0x0708));
        assert_eq!(le64(&bytes, 0).unwrap(), be64(&bytes, 0).unwrap().swap_bytes());
        assert_eq!(be32(&bytes, 1).unwrap(), 0x0203_0405);
        assert!(
            le32(&bytes, 5).is_err() && byte(&bytes, 8).is_err() && slice(&bytes, usize::MAX, 2).is_err()
        );
        assert_eq!(uuid([0xab; 16]), "abababab-abab-abab-abab-abababababab");
        assert_eq!((text(b"a\0b"), text(b"ab")), ("a".to_owned(), "ab".to_owned()));
    }

    #[test]
    fn names_stay_apart_where_utf_16_is_broken() {
        assert_eq!(wtf8("grüße 🦀".encode_utf16()), "grüße 🦀".as_bytes());
        assert_eq!(wtf8([0xd83e, 0x61]), [0xed, 0xa0, 0xbe, 0x61]);
        assert_eq!(wtf8([0xdc01]), [0xed, 0xb0, 0x81]);
        assert_eq!(units_le(&[0x61, 0, 0x62]).collect::<Vec<_>>(), [0x61]);
    }
}
