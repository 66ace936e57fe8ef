//! The numbers of the QCOW2 format and the packing of its table entries, for the cluster size the writer uses and
//! for any that a reader meets. Source: qemu, `docs/interop/qcow2.txt`.

/// The cluster size of every image this crate writes, in bytes: the granularity of changed block tracking.
pub const CLUSTER_SIZE: u64 = 65536;

/// [`CLUSTER_SIZE`] as a length of memory.
pub(crate) const CLUSTER_BYTES: usize = 65536;
/// log2 of [`CLUSTER_SIZE`].
pub(crate) const CLUSTER_BITS: u32 = 16;
/// The unit in which the length of compressed data is counted.
pub(crate) const SECTOR_BYTES: usize = 512;
pub(crate) const SECTOR_SIZE: u64 = 512;
/// Entries of one of our L2 tables.
pub(crate) const L2_ENTRIES: usize = CLUSTER_BYTES / 8;
/// Guest bytes that one of our L2 tables describes: 512 MiB.
pub(crate) const L2_SPAN: u64 = CLUSTER_SIZE * (CLUSTER_SIZE / 8);
/// Host clusters that one of our refcount blocks (16-bit counts) describes.
pub(crate) const REFCOUNT_ENTRIES: u64 = CLUSTER_SIZE / 2;

pub(crate) const MAGIC: [u8; 4] = *b"QFI\xfb";
pub(crate) const V2_HEADER_LENGTH: u32 = 72;
pub(crate) const V3_HEADER_LENGTH: u32 = 104;
pub(crate) const HEADER_LENGTH: u32 = 112;
pub(crate) const MAX_BACKING_NAME: usize = 1023;

pub(crate) const INCOMPATIBLE_DIRTY: u64 = 1;
pub(crate) const INCOMPATIBLE_CORRUPT: u64 = 1 << 1;
pub(crate) const INCOMPATIBLE_EXTERNAL_DATA: u64 = 1 << 2;
pub(crate) const INCOMPATIBLE_COMPRESSION: u64 = 1 << 3;
pub(crate) const INCOMPATIBLE_EXTENDED_L2: u64 = 1 << 4;

pub(crate) const EXTENSION_END: u32 = 0;
pub(crate) const EXTENSION_BACKING_FORMAT: u32 = 0xe279_2aca;
pub(crate) const EXTENSION_BITMAPS: u32 = 0x2385_2875;

/// Entry flag: the cluster's refcount is exactly one.
pub(crate) const COPIED: u64 = 1 << 63;
/// L2 entry flag: a compressed cluster descriptor.
pub(crate) const COMPRESSED: u64 = 1 << 62;
/// L2 entry flag of version 3: reads as zero.
pub(crate) const ZERO: u64 = 1;
/// The bits of an L1 or a plain L2 entry that hold a host offset.
pub(crate) const OFFSET_MASK: u64 = 0x00ff_ffff_ffff_fe00;

/// An L2 entry, understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum L2Entry {
    /// Nothing here; the backing file shows through.
    Unallocated,
    /// Reads as zero, whether or not a host cluster is kept for it.
    Zero { host: Option<u64> },
    /// One host cluster.
    Plain { host: u64 },
    /// Compressed data: `length` bytes from `host` up to the end of the last sector.
    Compressed { host: u64, length: u64 },
}

/// Reads an L2 entry of an image with clusters of `1 << cluster_bits` bytes.
pub(crate) fn parse_l2(entry: u64, cluster_bits: u32, version: u32) -> L2Entry {
    if entry & COMPRESSED != 0 {
        let offset_bits = 62 - (cluster_bits - 8);
        let host = entry & ((1 << offset_bits) - 1);
        let further = (entry >> offset_bits) & ((1 << (cluster_bits - 8)) - 1);
        return L2Entry::Compressed { host, length: (further + 1) * SECTOR_SIZE - host % SECTOR_SIZE };
    }
    let host = entry & OFFSET_MASK;
    match (entry & ZERO != 0 && version >= 3, host) {
        (true, 0) => L2Entry::Zero { host: None },
        (true, host) => L2Entry::Zero { host: Some(host) },
        (false, 0) => L2Entry::Unallocated,
        (false, host) => L2Entry::Plain { host },
    }
}

/// The descriptor of `length` compressed bytes at `host` in one of our images. Never carries [`COPIED`]: several
/// compressed clusters share a host cluster.
pub(crate) fn compressed_entry(host: u64, length: u64) -> u64 {
    const OFFSET_BITS: u32 = 62 - (CLUSTER_BITS - 8);
    assert!(host < 1 << OFFSET_BITS && length > 0, "{length} compressed bytes at {host}");
    let further = (host + length - 1) / SECTOR_SIZE - host / SECTOR_SIZE;
    COMPRESSED | further << OFFSET_BITS | host
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_compressed_descriptor_covers_its_bytes_up_to_the_sector() {
        for (host, length) in [(65536, 1), (65536 + 511, 2), (131_000, 65024), (1 << 50, 512), (70_001, 511)]
        {
            let entry = compressed_entry(host, length);
            assert_eq!(entry & COPIED, 0);
            let L2Entry::Compressed { host: at, length: covered } = parse_l2(entry, CLUSTER_BITS, 3) else {
                panic!("{entry:x} is not compressed")
            };
            assert_eq!(at, host);
            assert!(covered >= length && covered < length + 512, "{length} bytes covered by {covered}");
            assert_eq!((at + covered) % 512, 0);
        }
    }

    #[test]
    fn the_zero_flag_is_known_from_version_3_on() {
        assert_eq!(parse_l2(1, 16, 3), L2Entry::Zero { host: None });
        assert_eq!(parse_l2(0x10001, 16, 3), L2Entry::Zero { host: Some(0x10000) });
        assert_eq!(parse_l2(COPIED | 0x20001, 16, 2), L2Entry::Plain { host: 0x20000 });
        assert_eq!(parse_l2(0, 16, 3), L2Entry::Unallocated);
    }
}
