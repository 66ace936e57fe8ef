//! CRC32C, by which version 5 guards its metadata: over a whole structure, in which the checksum's own four bytes count as
//! zeros. It is the only number on the disk that is little-endian.

use crc::{CRC_32_ISCSI, Crc, Table};
use tidemark_plugin::fields::le32;

static CRC32C: Crc<u32, Table<16>> = Crc::<u32, Table<16>>::new(&CRC_32_ISCSI);

/// The checksum of a structure that lies in several pieces; the one in the first piece, at `at`, counts as zeros.
pub(crate) fn of(pieces: &[&[u8]], at: usize) -> u32 {
    let mut digest = CRC32C.digest();
    let Some((first, rest)) = pieces.split_first() else { return 0 };
    let (before, after) = first.split_at_checked(at).unwrap_or((first, &[]));
    digest.update(before);
    digest.update(&[0; 4]);
    digest.update(after.get(4..).unwrap_or_default());
    for piece in rest {
        digest.update(piece);
    }
    digest.finalize()
}

/// Whether the checksum at a place of a structure is right.
pub(crate) fn holds(bytes: &[u8], at: usize) -> bool {
    le32(bytes, at).is_ok_and(|told| told == of(&[bytes], at))
}

/// Writes the right checksum.
pub(crate) fn set(bytes: &mut [u8], at: usize) {
    let sum = of(&[bytes], at).to_le_bytes();
    if let Some(place) = bytes.get_mut(at..).and_then(|rest| rest.first_chunk_mut()) {
        *place = sum;
    }
}
