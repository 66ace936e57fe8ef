//! The checksums of ext4 and its journal (ext4 disk layout, "Checksums"; JBD2, "Commit Block").

use crc::{Algorithm, Crc, Table};

/// CRC-32C as both use it: the sum of what came before goes in, nothing is inverted.
const CASTAGNOLI: Algorithm<u32> = Algorithm {
    width: 32,
    poly: 0x1edc_6f41,
    init: 0,
    refin: true,
    refout: true,
    xorout: 0,
    check: 0x58e3_fa20,
    residue: 0,
};
/// CRC-32 of old journals: the highest bit first.
const HIGH_FIRST: Algorithm<u32> = Algorithm {
    width: 32,
    poly: 0x04c1_1db7,
    init: 0,
    refin: false,
    refout: false,
    xorout: 0,
    check: 0x89a1_897f,
    residue: 0,
};
/// CRC-16 of the group descriptors of file systems without `metadata_csum`.
const GROUPS: Algorithm<u16> = Algorithm {
    width: 16,
    poly: 0x8005,
    init: 0xffff,
    refin: true,
    refout: true,
    xorout: 0,
    check: 0x4b37,
    residue: 0,
};

static CRC32C: Crc<u32, Table<16>> = Crc::<u32, Table<16>>::new(&CASTAGNOLI);
static CRC32_HIGH: Crc<u32, Table<16>> = Crc::<u32, Table<16>>::new(&HIGH_FIRST);
static CRC16: Crc<u16> = Crc::<u16>::new(&GROUPS);

/// The sum of nothing.
pub(crate) const START: u32 = u32::MAX;

/// CRC-32C of these parts after what `sum` is of.
pub(crate) fn crc32c(sum: u32, parts: &[&[u8]]) -> u32 {
    let mut digest = CRC32C.digest_with_initial(sum.reverse_bits());
    parts.iter().for_each(|part| digest.update(part));
    digest.finalize()
}

/// CRC-32, the highest bit first, of a block after what `sum` is of.
pub(crate) fn crc32_high(sum: u32, bytes: &[u8]) -> u32 {
    let mut digest = CRC32_HIGH.digest_with_initial(sum);
    digest.update(bytes);
    digest.finalize()
}

/// CRC-16 of these parts.
pub(crate) fn crc16(parts: &[&[u8]]) -> u16 {
    let mut digest = CRC16.digest();
    parts.iter().for_each(|part| digest.update(part));
    digest.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_those_of_the_catalogue_of_algorithms_and_go_on() {
        // Those of "123456789" in the catalogue: CRC-32/ISCSI, CRC-32/BZIP2 and CRC-16/MODBUS.
        assert_eq!(!crc32c(START, &[b"1234", b"", b"56789"]), 0xe306_9283);
        assert_eq!(crc32c(crc32c(START, &[b"12"]), &[b"3456789"]), !0xe306_9283);
        assert_eq!(!crc32_high(crc32_high(START, b"123"), b"456789"), 0xfc89_1918);
        assert_eq!(crc16(&[b"1234", b"56789"]), 0x4b37);
    }
}
