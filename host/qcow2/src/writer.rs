//! The streaming, append-only writer. No I/O: encoded clusters go in by ascending guest offset, host bytes come
//! out in ascending order, and the header, without which the file is no image, comes last.
//!
//! Memory is a window: one L2 table, at most two refcount blocks, a few clusters that wait to be packed, and the
//! L1 table (8 bytes for every 512 MiB of the virtual disk).
//!
//! ```text
//! host order: blank cluster 0 │ data, L2 tables and refcount blocks as they become complete │ L1 │
//!             last refcount blocks │ refcount table          … then the header over cluster 0
//! ```

use bytes::Bytes;
use tidemark_model::{ByteLen, Extent, GuestOffset, HostOffset};

use crate::append::Appender;
use crate::encode::{ClusterEncoder, Compression, EncodedCluster};
use crate::error::{Error, Result};
use crate::format::{
    CLUSTER_BYTES, CLUSTER_SIZE, COPIED, L2_SPAN, SECTOR_BYTES, SECTOR_SIZE, compressed_entry,
};
use crate::header::{BackingFile, Header};
use crate::refcounts::Refcounts;
use crate::tables::GuestTables;

/// qemu opens L1 tables of up to 32 MiB: 2 EiB of virtual disk.
const MAX_VIRTUAL_SIZE: u64 = (32 << 20) / 8 * L2_SPAN;

/// A zstd frame's magic alone; shorter ones could overflow the refcount of the cluster they share.
const SHORTEST_FRAME: usize = 4;

/// What image is to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageSpec {
    /// The virtual disk's size, a multiple of 512 bytes: qemu counts in sectors.
    pub virtual_size: ByteLen,
    /// Whether and how clusters are compressed.
    pub compression: Compression,
    /// The file below, for an overlay.
    pub backing: Option<BackingFile>,
}

/// What remains to be written once the last cluster is in.
#[derive(Debug, Clone)]
pub struct FinishedImage {
    /// Bytes to append, in order.
    pub tail: Vec<Bytes>,
    /// The first cluster: goes to host offset 0 when all else is durable.
    pub header: Bytes,
    /// How long the file is.
    pub file_size: ByteLen,
    /// Guest clusters stored as they are.
    pub plain_clusters: u64,
    /// Guest clusters stored compressed.
    pub compressed_clusters: u64,
    /// Guest clusters marked as zero over a backing file.
    pub zero_clusters: u64,
}

/// Makes one image.
pub struct ImageWriter {
    spec: ImageSpec,
    appender: Appender,
    refcounts: Refcounts,
    tables: GuestTables,
    /// Guest clusters below this one are decided.
    frontier: u64,
    plain_clusters: u64,
    compressed_clusters: u64,
    zero_clusters: u64,
}

impl ImageWriter {
    /// Begins an image.
    ///
    /// # Errors
    /// `Invalid` for a size that is no multiple of 512 bytes or too large, a compression level that zstd does not
    /// have, and a backing name that is more than a plain file name.
    pub fn new(spec: ImageSpec) -> Result<Self> {
        validate(&spec)?;
        let size = spec.virtual_size.0;
        let mut writer = Self {
            spec,
            appender: Appender::new(),
            refcounts: Refcounts::new(),
            tables: GuestTables::new(size),
            frontier: 0,
            plain_clusters: 0,
            compressed_clusters: 0,
            zero_clusters: 0,
        };
        // Zeros where the header will be: a file that was never finished is no image.
        writer.append_whole(Bytes::from(vec![0; CLUSTER_BYTES]));
        Ok(writer)
    }

    /// An encoder for this image's clusters; clone it for each thread.
    #[must_use]
    pub fn encoder(&self) -> ClusterEncoder {
        ClusterEncoder::new(self.spec.compression)
    }

    /// Stores one guest cluster. A cluster that is never pushed shows the backing file, or zeros without one. Answers
    /// where a plain cluster lies in the file.
    ///
    /// # Errors
    /// `Invalid` when `guest` is off the cluster grid, beyond the disk or below what is already decided, or when the
    /// cluster has a length that [`ClusterEncoder::encode`] does not produce.
    pub fn push(&mut self, guest: GuestOffset, cluster: EncodedCluster) -> Result<Option<HostOffset>> {
        if guest.0 >= self.spec.virtual_size.0 {
            return Err(Error::invalid(format!("a cluster at {guest}, beyond {}", self.spec.virtual_size)));
        }
        let index = self.ascending(guest)?;
        let host = match cluster {
            EncodedCluster::Zero => {
                self.zero_clusters(index, index + 1);
                None
            }
            EncodedCluster::Plain(bytes) => {
                if bytes.len() != CLUSTER_BYTES {
                    return Err(Error::invalid(format!(
                        "a plain cluster of {} bytes at {guest}",
                        bytes.len()
                    )));
                }
                let host = self.append_whole(bytes);
                self.set(index, COPIED | host);
                self.plain_clusters += 1;
                Some(HostOffset(host))
            }
            EncodedCluster::Compressed(frame) => {
                self.check_frame(guest, frame.len())?;
                let host = self.appender.packed(&frame);
                self.refcounts.add(host, frame.len() as u64);
                self.set(index, compressed_entry(host, frame.len() as u64));
                self.compressed_clusters += 1;
                None
            }
        };
        self.frontier = index + 1;
        self.refcounts.write_settled(&mut self.appender);
        Ok(host)
    }

    fn check_frame(&self, guest: GuestOffset, length: usize) -> Result<()> {
        if self.spec.compression == Compression::None {
            let message = format!("a compressed cluster at {guest} in an uncompressed image");
            return Err(Error::invalid(message));
        }
        if length < SHORTEST_FRAME || length + SECTOR_BYTES > CLUSTER_BYTES {
            return Err(Error::invalid(format!("a compressed cluster of {length} bytes at {guest}")));
        }
        Ok(())
    }

    /// Makes a range read as zero: marks that mask the backing file, nothing where there is none.
    ///
    /// # Errors
    /// `Invalid` when the range does not begin on the cluster grid, ends neither on it nor at the end of the disk, or
    /// lies below what is already decided.
    pub fn zero(&mut self, extent: Extent) -> Result<()> {
        let size = self.spec.virtual_size.0;
        let end = extent.offset.0.checked_add(extent.length.0).filter(|&end| end <= size);
        let end = end.ok_or_else(|| {
            Error::invalid(format!("a zero range at {} beyond {size} bytes", extent.offset))
        })?;
        if end % CLUSTER_SIZE != 0 && end != size {
            return Err(Error::invalid(format!("a zero range that ends inside a cluster, at byte {end}")));
        }
        let first = self.ascending(extent.offset)?;
        if extent.length.0 == 0 {
            return Ok(());
        }
        let last = end.div_ceil(CLUSTER_SIZE);
        self.zero_clusters(first, last);
        self.frontier = last;
        self.refcounts.write_settled(&mut self.appender);
        Ok(())
    }

    /// The bytes to append now, in order; the first ones are the blank cluster 0.
    pub fn take_output(&mut self) -> Vec<Bytes> {
        self.appender.take()
    }

    /// Bytes held in memory: output that was not taken, tables that are not complete, and L1. Tables of a wide zero
    /// range count in full although they share one allocation; take the output after such a call.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.appender.pending() + self.refcounts.pending() + self.tables.pending()
    }

    /// How long the file is so far, taken or not.
    #[must_use]
    pub fn stored(&self) -> ByteLen {
        ByteLen(self.appender.end())
    }

    /// Ends the image.
    ///
    /// # Errors
    /// None today; kept so that a bound found later need not change callers.
    pub fn finish(mut self) -> Result<FinishedImage> {
        let Self { tables, appender, refcounts, .. } = &mut self;
        tables.close(&mut |bytes| append(appender, refcounts, bytes));
        self.appender.close_packed();
        self.refcounts.write_settled(&mut self.appender);
        let l1_offset = self.append_whole(self.tables.l1());
        let table = self.refcounts.finish(&mut self.appender);
        // The feature bit is set only when it is needed: an image without compressed clusters opens everywhere.
        if self.compressed_clusters == 0 {
            self.spec.compression = Compression::None;
        }
        let header = Header::ours(&self.spec, self.tables.l1_entries(), l1_offset, &table);
        Ok(FinishedImage {
            header: header.write(),
            file_size: ByteLen(self.appender.end()),
            tail: self.appender.take(),
            plain_clusters: self.plain_clusters,
            compressed_clusters: self.compressed_clusters,
            zero_clusters: self.zero_clusters,
        })
    }

    /// The cluster index of `guest`, which may not lie below the frontier.
    fn ascending(&self, guest: GuestOffset) -> Result<u64> {
        if !guest.0.is_multiple_of(CLUSTER_SIZE) {
            return Err(Error::invalid(format!("{guest} is not on the cluster grid")));
        }
        let index = guest.0 / CLUSTER_SIZE;
        if index < self.frontier {
            let frontier = self.frontier * CLUSTER_SIZE;
            return Err(Error::invalid(format!("{guest} after the disk was written up to byte {frontier}")));
        }
        Ok(index)
    }

    fn zero_clusters(&mut self, first: u64, last: u64) {
        if self.spec.backing.is_none() {
            return;
        }
        self.zero_clusters += last - first;
        let Self { tables, appender, refcounts, .. } = self;
        tables.zero(first, last, &mut |bytes| {
            let host = append(appender, refcounts, bytes);
            refcounts.write_settled(appender);
            host
        });
    }

    fn set(&mut self, cluster: u64, entry: u64) {
        let Self { tables, appender, refcounts, .. } = self;
        tables.set(cluster, entry, &mut |bytes| append(appender, refcounts, bytes));
    }

    fn append_whole(&mut self, bytes: Bytes) -> u64 {
        append(&mut self.appender, &mut self.refcounts, bytes)
    }
}

/// Refuses what cannot be an image.
pub(crate) fn validate(spec: &ImageSpec) -> Result<()> {
    let size = spec.virtual_size.0;
    if !size.is_multiple_of(SECTOR_SIZE) || size > MAX_VIRTUAL_SIZE {
        return Err(Error::invalid(format!(
            "a virtual disk of {size} bytes (not whole sectors, or too large)"
        )));
    }
    if let Compression::Zstd { level } = spec.compression
        && !(1..=22).contains(&level)
    {
        return Err(Error::invalid(format!("zstd has no level {level} (1 to 22)")));
    }
    if let Some(backing) = &spec.backing {
        backing.validate()?;
    }
    Ok(())
}

/// Appends whole clusters that have one user.
fn append(appender: &mut Appender, refcounts: &mut Refcounts, bytes: Bytes) -> u64 {
    let length = bytes.len() as u64;
    let host = appender.whole(bytes);
    refcounts.add(host, length);
    host
}
