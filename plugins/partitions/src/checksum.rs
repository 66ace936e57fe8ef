//! Cyclic redundancy checks, each as its format wants it begun and ended.

/// CRC-32 (ISO 3309), as the GUID partition table has it.
pub(crate) fn iso(bytes: &[u8]) -> u32 {
    !run(&ISO, !0, bytes)
}

/// The same polynomial as LVM2 uses it: begun with a number of its own, and not inverted.
pub(crate) fn lvm(bytes: &[u8]) -> u32 {
    run(&ISO, 0xf597_a6cf, bytes)
}

/// CRC-32C (Castagnoli), not inverted at the end, as the device mapper's metadata has it.
pub(crate) fn castagnoli(bytes: &[u8]) -> u32 {
    run(&CASTAGNOLI, !0, bytes)
}

const ISO: [u32; 256] = table(0xedb8_8320);
const CASTAGNOLI: [u32; 256] = table(0x82f6_3b78);

#[allow(clippy::cast_possible_truncation, reason = "`try_from` is not const; the index is below 256")]
const fn table(polynomial: u32) -> [u32; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let (mut crc, mut bit) = (byte as u32, 0);
        while bit < 8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ polynomial } else { crc >> 1 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
}

fn run(table: &[u32; 256], start: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(start, |crc, byte| {
        let [low, ..] = crc.to_le_bytes();
        table.get(usize::from(low ^ byte)).copied().unwrap_or(0) ^ (crc >> 8)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksums_are_the_published_ones() {
        assert_eq!(iso(b"123456789"), 0xcbf4_3926);
        assert_eq!(!castagnoli(b"123456789"), 0xe306_9283);
        assert_eq!(lvm(b""), 0xf597_a6cf);
    }
}
