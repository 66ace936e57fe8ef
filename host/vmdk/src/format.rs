//! The numbers of the format and the bytes of its header and markers. All fields are little-endian and packed.
//! Source: VMware, "Virtual Disk Format 5.0": "Hosted Sparse Extents" for the header and the tables,
//! "Stream-Optimized Compressed Sparse Extents" for grains and markers.

use tidemark_model::ByteLen;

/// The size of a grain, the unit of storage, in bytes: 128 sectors, the format's default.
pub const GRAIN_SIZE: u64 = 65536;

/// [`GRAIN_SIZE`] as a length of memory.
pub(crate) const GRAIN_BYTES: usize = 65536;
/// The unit of every offset in the file, in bytes.
pub(crate) const SECTOR: u64 = 512;
/// [`SECTOR`] as a length of memory.
pub(crate) const SECTOR_BYTES: usize = 512;
/// Entries of a grain table; the format knows no other number.
pub(crate) const TABLE_ENTRIES: usize = 512;
/// Sectors of a grain table.
pub(crate) const TABLE_SECTORS: u64 = 4;
/// Guest bytes that one grain table describes: 32 MiB.
pub(crate) const TABLE_SPAN: u64 = GRAIN_SIZE * 512;
/// Where the descriptor lies, in sectors.
pub(crate) const DESCRIPTOR_SECTOR: u64 = 1;
/// Sectors kept for the descriptor.
pub(crate) const DESCRIPTOR_SECTORS: u64 = 20;
/// [`DESCRIPTOR_SECTORS`] as a length of memory.
pub(crate) const DESCRIPTOR_BYTES: usize = 20 * SECTOR_BYTES;
/// Sectors before the first grain: header and descriptor, filled up to a grain.
pub(crate) const OVERHEAD: u64 = 128;
/// The bytes of a grain marker before its data: the first sector (8) and the length of the data (4).
pub(crate) const GRAIN_MARKER: usize = 12;

const MAGIC: u32 = 0x564d_444b;
/// The version of compressed extents.
const VERSION: u32 = 3;
/// The four bytes after `uncleanShutdown` tell a transfer that changed line ends.
const FLAG_NEWLINE_TEST: u32 = 1;
const FLAG_COMPRESSED: u32 = 1 << 16;
const FLAG_MARKERS: u32 = 1 << 17;
const COMPRESSION_DEFLATE: u16 = 1;

/// What a header says of the grain directory's place when only the footer knows it.
pub(crate) const DIRECTORY_AT_END: u64 = u64::MAX;

/// What follows a marker that is none of a grain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Marker {
    /// Nothing: the file's last sector.
    EndOfStream,
    /// One grain table.
    Table,
    /// The grain directory.
    Directory,
    /// The header once more, with the directory's place.
    Footer,
}

impl Marker {
    /// The marker's sector: how many sectors of metadata follow, a size of 0 that tells it from a grain, its type.
    pub(crate) fn sector(self, follows: u64) -> [u8; SECTOR_BYTES] {
        let kind: u32 = match self {
            Self::EndOfStream => 0,
            Self::Table => 1,
            Self::Directory => 2,
            Self::Footer => 3,
        };
        let mut sector = [0; SECTOR_BYTES];
        sector[..8].copy_from_slice(&follows.to_le_bytes());
        sector[12..16].copy_from_slice(&kind.to_le_bytes());
        sector
    }
}

/// The `SparseExtentHeader`: at the file's start with [`DIRECTORY_AT_END`], in the footer with the real place.
pub(crate) fn header(capacity: ByteLen, directory: u64) -> [u8; SECTOR_BYTES] {
    let mut out = Vec::with_capacity(SECTOR_BYTES);
    out.extend_from_slice(&MAGIC.to_le_bytes());
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&(FLAG_NEWLINE_TEST | FLAG_COMPRESSED | FLAG_MARKERS).to_le_bytes());
    out.extend_from_slice(&(capacity.0 / SECTOR).to_le_bytes());
    out.extend_from_slice(&(GRAIN_SIZE / SECTOR).to_le_bytes());
    out.extend_from_slice(&DESCRIPTOR_SECTOR.to_le_bytes());
    out.extend_from_slice(&DESCRIPTOR_SECTORS.to_le_bytes());
    // numGTEsPerGT
    out.extend_from_slice(&512_u32.to_le_bytes());
    // rgdOffset: a stream has no redundant directory.
    out.extend_from_slice(&0_u64.to_le_bytes());
    out.extend_from_slice(&directory.to_le_bytes());
    out.extend_from_slice(&OVERHEAD.to_le_bytes());
    // uncleanShutdown, then the newline test.
    out.extend_from_slice(b"\0\n \r\n");
    out.extend_from_slice(&COMPRESSION_DEFLATE.to_le_bytes());
    let mut sector = [0; SECTOR_BYTES];
    sector[..out.len()].copy_from_slice(&out);
    sector
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_is_the_note_s_struct() {
        let header = header(ByteLen(3 * 512), 77);
        assert_eq!(&header[..4], b"KDMV");
        assert_eq!(header[4..12], [3, 0, 0, 0, 1, 0, 3, 0], "version and flags");
        assert_eq!(header[12], 3, "capacity in sectors");
        assert_eq!(header[20], 128, "grain size in sectors");
        assert_eq!((header[28], header[36]), (1, 20), "the descriptor's place and size");
        assert_eq!(header[44..48], [0, 2, 0, 0], "512 entries a table");
        assert_eq!((header[48], header[56], header[64]), (0, 77, 128), "directories and overhead");
        assert_eq!(header[72..79], [0, b'\n', b' ', b'\r', b'\n', 1, 0]);
        assert!(header[79..].iter().all(|&byte| byte == 0));
    }

    #[test]
    fn a_marker_has_a_size_of_zero() {
        let marker = Marker::Footer.sector(1);
        assert_eq!(marker[..16], [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0]);
        assert_eq!(Marker::EndOfStream.sector(0), [0; 512]);
    }
}
