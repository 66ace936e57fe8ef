//! The header of an image and its extensions: read from foreign bytes, written for our own images. No I/O: the
//! caller hands in the first cluster.

use bytes::Bytes;
use tidemark_model::{ByteLen, HostOffset};

use crate::encode::Compression;
use crate::error::{Error, Result};
use crate::format::{
    CLUSTER_BITS, CLUSTER_BYTES, EXTENSION_BACKING_FORMAT, EXTENSION_BITMAPS, EXTENSION_END, HEADER_LENGTH,
    INCOMPATIBLE_COMPRESSION, INCOMPATIBLE_CORRUPT, INCOMPATIBLE_DIRTY, INCOMPATIBLE_EXTENDED_L2,
    INCOMPATIBLE_EXTERNAL_DATA, MAGIC, MAX_BACKING_NAME, V2_HEADER_LENGTH, V3_HEADER_LENGTH,
};
use crate::refcounts::RefcountTable;
use crate::writer::ImageSpec;

/// qemu's own bound for an L1 table; a larger one is refused before anything is allocated for it.
const MAX_L1_BYTES: u64 = 32 << 20;
/// qemu's own bound for a refcount table.
const MAX_REFCOUNT_TABLE_BYTES: u64 = 8 << 20;

/// The file below an overlay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackingFile {
    /// Its name relative to the image, without a folder; at most 1023 bytes.
    pub name: String,
    /// `qcow2` or `raw`.
    pub format: String,
}

impl BackingFile {
    /// Refuses names that qemu would take for something else than a sibling.
    pub(crate) fn validate(&self) -> Result<()> {
        let name = &self.name;
        if name.is_empty() || name.len() > MAX_BACKING_NAME || name == "." || name == ".." {
            return Err(Error::invalid(format!("a backing name of {} bytes: '{name:.40}'", name.len())));
        }
        // A colon would make qemu read a protocol ("nbd:…", "json:…").
        if name.contains(['/', ':', '\0', '\n']) {
            return Err(Error::invalid(format!("the backing name '{name:.80}' is not a plain file name")));
        }
        if !matches!(self.format.as_str(), "qcow2" | "raw") {
            return Err(Error::invalid(format!(
                "the backing format '{:.40}' is neither qcow2 nor raw",
                self.format
            )));
        }
        Ok(())
    }
}

/// How an image's clusters are compressed, where they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CompressionType {
    /// Raw deflate: the format's default.
    Zlib,
    /// zstd frames.
    Zstd,
}

/// What an image says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// 2 or 3.
    pub version: u32,
    /// The virtual disk's size.
    pub virtual_size: ByteLen,
    /// log2 of the cluster size in bytes, 9 to 21.
    pub cluster_bits: u32,
    /// Entries of the L1 table.
    pub l1_entries: u32,
    /// Where the L1 table lies.
    pub l1_offset: HostOffset,
    /// Where the refcount table lies.
    pub refcount_table_offset: HostOffset,
    /// Clusters of the refcount table.
    pub refcount_table_clusters: u32,
    /// log2 of the width of a refcount in bits, 0 to 6.
    pub refcount_order: u32,
    /// How many internal snapshots there are.
    pub snapshots: u32,
    /// Whether the image was not closed cleanly: its refcounts may be stale, its data is not.
    pub dirty: bool,
    /// How clusters are compressed.
    pub compression: CompressionType,
    /// Whether a persistent bitmap is kept inside.
    pub bitmaps: bool,
    /// The backing file's name as it stands in the image. Never open it: compare it.
    pub backing_name: Option<String>,
    /// The backing file's format where the image says it.
    pub backing_format: Option<String>,
}

/// Big-endian fields out of foreign bytes; what lies outside is corrupt, never a panic.
fn field<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N]> {
    bytes
        .get(at..)
        .and_then(|rest| rest.first_chunk::<N>())
        .copied()
        .ok_or_else(|| Error::corrupt(format!("the header ends before byte {}", at.saturating_add(N))))
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32> {
    field(bytes, at).map(u32::from_be_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Result<u64> {
    field(bytes, at).map(u64::from_be_bytes)
}

impl Header {
    /// The cluster size in bytes.
    #[must_use]
    pub fn cluster_size(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// How many bytes from the beginning [`Header::parse`] wants to see, judged by the first 72.
    pub(crate) fn extent(start: &[u8]) -> Result<u64> {
        if start.get(..4) != Some(&MAGIC[..]) {
            return Err(Error::corrupt("not a QCOW2 image: the magic is missing"));
        }
        let cluster_bits = u32_at(start, 20)?;
        if !(9..=21).contains(&cluster_bits) {
            return Err(Error::unsupported(format!("clusters of 2^{cluster_bits} bytes")));
        }
        Ok(1 << cluster_bits)
    }

    /// The header of an image that this crate writes.
    pub(crate) fn ours(spec: &ImageSpec, l1_entries: usize, l1_offset: u64, table: &RefcountTable) -> Self {
        Self {
            version: 3,
            virtual_size: spec.virtual_size,
            cluster_bits: CLUSTER_BITS,
            l1_entries: u32::try_from(l1_entries).unwrap_or(u32::MAX),
            l1_offset: HostOffset(l1_offset),
            refcount_table_offset: HostOffset(table.offset),
            refcount_table_clusters: table.clusters,
            refcount_order: 4,
            snapshots: 0,
            dirty: false,
            compression: match spec.compression {
                Compression::None => CompressionType::Zlib,
                Compression::Zstd { .. } => CompressionType::Zstd,
            },
            bitmaps: false,
            backing_name: spec.backing.as_ref().map(|backing| backing.name.clone()),
            backing_format: spec.backing.as_ref().map(|backing| backing.format.clone()),
        }
    }

    /// Understands the first cluster of an image.
    ///
    /// # Errors
    /// `Unsupported` for encryption, external data, subclusters and unknown incompatible features; `Corrupt` where
    /// the bytes contradict the format.
    pub fn parse(first_cluster: &[u8]) -> Result<Self> {
        let cluster_bits = Self::extent(first_cluster)?.trailing_zeros();
        let version = u32_at(first_cluster, 4)?;
        if !matches!(version, 2 | 3) {
            return Err(Error::unsupported(format!("QCOW2 version {version}")));
        }
        if u32_at(first_cluster, 32)? != 0 {
            return Err(Error::unsupported("an encrypted image"));
        }
        let (mut length, mut features, mut refcount_order) = (V2_HEADER_LENGTH, 0, 4);
        let mut compression = CompressionType::Zlib;
        if version == 3 {
            features = u64_at(first_cluster, 72)?;
            refcount_order = u32_at(first_cluster, 96)?;
            length = u32_at(first_cluster, 100)?;
            if length < V3_HEADER_LENGTH || length % 8 != 0 || length as usize > first_cluster.len() {
                return Err(Error::corrupt(format!("a version 3 header of {length} bytes")));
            }
            refuse_features(features)?;
            compression = compression_type(first_cluster, length, features)?;
        }
        if refcount_order > 6 {
            return Err(Error::corrupt(format!("refcounts of 2^{refcount_order} bits")));
        }
        let mut header = Self {
            version,
            virtual_size: ByteLen(u64_at(first_cluster, 24)?),
            cluster_bits,
            l1_entries: u32_at(first_cluster, 36)?,
            l1_offset: HostOffset(u64_at(first_cluster, 40)?),
            refcount_table_offset: HostOffset(u64_at(first_cluster, 48)?),
            refcount_table_clusters: u32_at(first_cluster, 56)?,
            refcount_order,
            snapshots: u32_at(first_cluster, 60)?,
            dirty: features & INCOMPATIBLE_DIRTY != 0,
            compression,
            bitmaps: false,
            backing_name: backing_name(first_cluster)?,
            backing_format: None,
        };
        header.read_extensions(first_cluster, length as usize)?;
        header.check_tables()?;
        Ok(header)
    }

    fn read_extensions(&mut self, bytes: &[u8], mut at: usize) -> Result<()> {
        // Extensions end where the backing name begins, or at the end mark.
        let end = match u64_at(bytes, 8)? {
            0 => bytes.len(),
            name => usize::try_from(name).unwrap_or(usize::MAX).min(bytes.len()),
        };
        while at.saturating_add(8) <= end {
            let (kind, length) = (u32_at(bytes, at)?, u32_at(bytes, at + 4)? as usize);
            if kind == EXTENSION_END {
                break;
            }
            let body = bytes.get(at + 8..).and_then(|rest| rest.get(..length));
            let body =
                body.ok_or_else(|| Error::corrupt(format!("header extension {kind:#x} of {length} bytes")))?;
            match kind {
                EXTENSION_BACKING_FORMAT => self.backing_format = Some(text(body, "backing format")?),
                EXTENSION_BITMAPS => self.bitmaps = true,
                // Feature names, and what a later qemu may add compatibly.
                _ => {}
            }
            at += 8 + length.next_multiple_of(8);
        }
        Ok(())
    }

    /// Sizes and places of the tables, before anything is allocated for them.
    fn check_tables(&self) -> Result<()> {
        let cluster = self.cluster_size();
        let span = cluster * (cluster / 8);
        let needed = self.virtual_size.0.div_ceil(span);
        let l1_bytes = u64::from(self.l1_entries) * 8;
        if l1_bytes > MAX_L1_BYTES || needed * 8 > MAX_L1_BYTES {
            return Err(Error::unsupported(format!("an L1 table of {} entries", needed.max(l1_bytes / 8))));
        }
        if u64::from(self.l1_entries) < needed {
            return Err(Error::corrupt(format!(
                "an L1 table of {} entries instead of {needed}",
                self.l1_entries
            )));
        }
        if u64::from(self.refcount_table_clusters) * cluster > MAX_REFCOUNT_TABLE_BYTES {
            return Err(Error::unsupported(format!(
                "a refcount table of {} clusters",
                self.refcount_table_clusters
            )));
        }
        for (table, offset) in [("L1", self.l1_offset), ("refcount", self.refcount_table_offset)] {
            if offset.0 % cluster != 0 {
                return Err(Error::corrupt(format!("the {table} table at unaligned {offset}")));
            }
        }
        Ok(())
    }

    /// The first cluster of one of our own images. Only what the writer decides appears in it: the version, cluster
    /// size and refcount width are always the same.
    pub(crate) fn write(&self) -> Bytes {
        let features = match self.compression {
            CompressionType::Zstd => INCOMPATIBLE_COMPRESSION,
            CompressionType::Zlib => 0,
        };
        let mut extensions = Vec::new();
        if let Some(format) = &self.backing_format {
            extensions.extend_from_slice(&EXTENSION_BACKING_FORMAT.to_be_bytes());
            extensions.extend_from_slice(&u32::try_from(format.len()).unwrap_or(0).to_be_bytes());
            extensions.extend_from_slice(format.as_bytes());
            extensions.resize(extensions.len().next_multiple_of(8), 0);
        }
        extensions.extend_from_slice(&[0; 8]);
        let name = self.backing_name.as_deref().unwrap_or_default();
        let name_at = match name {
            "" => 0,
            _ => u64::from(HEADER_LENGTH) + extensions.len() as u64,
        };

        let mut out = Vec::with_capacity(CLUSTER_BYTES);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&3_u32.to_be_bytes());
        out.extend_from_slice(&name_at.to_be_bytes());
        out.extend_from_slice(&u32::try_from(name.len()).unwrap_or(0).to_be_bytes());
        out.extend_from_slice(&CLUSTER_BITS.to_be_bytes());
        out.extend_from_slice(&self.virtual_size.0.to_be_bytes());
        out.extend_from_slice(&0_u32.to_be_bytes());
        out.extend_from_slice(&self.l1_entries.to_be_bytes());
        out.extend_from_slice(&self.l1_offset.0.to_be_bytes());
        out.extend_from_slice(&self.refcount_table_offset.0.to_be_bytes());
        out.extend_from_slice(&self.refcount_table_clusters.to_be_bytes());
        // No internal snapshots: their number and place.
        out.extend_from_slice(&[0; 12]);
        out.extend_from_slice(&features.to_be_bytes());
        // No compatible and no autoclear features.
        out.extend_from_slice(&[0; 16]);
        out.extend_from_slice(&self.refcount_order.to_be_bytes());
        out.extend_from_slice(&HEADER_LENGTH.to_be_bytes());
        out.push(u8::from(self.compression == CompressionType::Zstd));
        out.resize(HEADER_LENGTH as usize, 0);
        out.extend_from_slice(&extensions);
        out.extend_from_slice(name.as_bytes());
        assert!(out.len() <= CLUSTER_BYTES, "a header of {} bytes", out.len());
        out.resize(CLUSTER_BYTES, 0);
        Bytes::from(out)
    }
}

fn refuse_features(features: u64) -> Result<()> {
    if features & INCOMPATIBLE_EXTERNAL_DATA != 0 {
        return Err(Error::unsupported("an image with an external data file"));
    }
    if features & INCOMPATIBLE_EXTENDED_L2 != 0 {
        return Err(Error::unsupported("an image with extended L2 entries (subclusters)"));
    }
    if features & INCOMPATIBLE_CORRUPT != 0 {
        return Err(Error::corrupt("the image is marked corrupt"));
    }
    let unknown = features & !(INCOMPATIBLE_DIRTY | INCOMPATIBLE_COMPRESSION);
    if unknown != 0 {
        return Err(Error::unsupported(format!("unknown incompatible features {unknown:#x}")));
    }
    Ok(())
}

fn compression_type(bytes: &[u8], header_length: u32, features: u64) -> Result<CompressionType> {
    let kind = if header_length > V3_HEADER_LENGTH { field::<1>(bytes, 104)?[0] } else { 0 };
    match (features & INCOMPATIBLE_COMPRESSION != 0, kind) {
        (false, 0) => Ok(CompressionType::Zlib),
        (true, 1) => Ok(CompressionType::Zstd),
        (flagged, kind) => Err(Error::corrupt(format!(
            "compression type {kind} with its feature bit {}",
            if flagged { "set" } else { "clear" }
        ))),
    }
}

fn backing_name(bytes: &[u8]) -> Result<Option<String>> {
    let (at, length) = (u64_at(bytes, 8)?, u32_at(bytes, 16)? as usize);
    if at == 0 {
        return Ok(None);
    }
    if length > MAX_BACKING_NAME {
        return Err(Error::corrupt(format!("a backing name of {length} bytes")));
    }
    let name = usize::try_from(at).ok().and_then(|at| bytes.get(at..)).and_then(|rest| rest.get(..length));
    let name = name.ok_or_else(|| Error::corrupt("the backing name lies outside the first cluster"))?;
    // An empty name is how some tools write "none".
    Ok(if name.is_empty() { None } else { Some(text(name, "backing name")?) })
}

fn text(bytes: &[u8], what: &str) -> Result<String> {
    String::from_utf8(bytes.to_vec()).map_err(|_| Error::unsupported(format!("a {what} that is not UTF-8")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header {
            version: 3,
            virtual_size: ByteLen(3 << 30),
            cluster_bits: CLUSTER_BITS,
            l1_entries: 6,
            l1_offset: HostOffset(5 << 16),
            refcount_table_offset: HostOffset(7 << 16),
            refcount_table_clusters: 1,
            refcount_order: 4,
            snapshots: 0,
            dirty: false,
            compression: CompressionType::Zstd,
            bitmaps: false,
            backing_name: Some("full.qcow2".to_owned()),
            backing_format: Some("qcow2".to_owned()),
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let bytes = header().write();
        assert_eq!(bytes.len(), CLUSTER_BYTES);
        assert_eq!(Header::parse(&bytes).unwrap(), header());
        let plain = Header {
            backing_name: None,
            backing_format: None,
            compression: CompressionType::Zlib,
            ..header()
        };
        assert_eq!(Header::parse(&plain.write()).unwrap(), plain);
    }

    /// The layout that every released version must be able to read.
    #[test]
    fn the_first_bytes_are_the_golden_ones() {
        let golden = concat!(
            "514649fb00000003",
            "0000000000000088",
            "0000000a00000010",
            "00000000c0000000",
            "0000000000000006",
            "0000000000050000",
            "0000000000070000",
            "0000000100000000",
            "0000000000000000",
            "0000000000000008",
            "0000000000000000",
            "0000000000000000",
            "0000000400000070",
            "0100000000000000",
            "e2792aca00000005",
            "71636f7732000000",
            "0000000000000000",
            "66756c6c2e71636f",
            "7732000000000000",
        );
        let written: String =
            header().write().iter().take(golden.len() / 2).map(|b| format!("{b:02x}")).collect();
        assert_eq!(written, golden);
    }

    #[test]
    fn an_extension_longer_than_the_cluster_is_corrupt() {
        let mut bytes = header().write().to_vec();
        bytes[116..120].copy_from_slice(&u32::MAX.to_be_bytes());
        assert_eq!(Header::parse(&bytes).unwrap_err().kind(), crate::ErrorKind::Corrupt);
    }
}
