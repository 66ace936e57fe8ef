//! The layout of a standalone image for a stream that cannot seek: everything that a reader looks up comes first,
//! then the data clusters, plain and in guest order. It needs to know beforehand which clusters hold data; in return
//! the file's size and every offset are known before the first byte is read.
//!
//! ```text
//! header │ refcount table │ refcount blocks │ L1 │ L2 tables │ data clusters in guest order
//! └────────────────────── Head, made cluster by cluster ─────┘ └ the caller's, filled up with zeros
//! ```
//! Every host cluster is used exactly once, so that all refcounts are 1, and nothing is written twice. Memory: the
//! list of data ranges and one cluster at a time.

use std::sync::Arc;

use bytes::Bytes;
use tidemark_model::{ByteLen, Extent, ExtentList, HostOffset};

use crate::error::{Error, Result};
use crate::format::{
    CLUSTER_BITS, CLUSTER_BYTES, CLUSTER_SIZE, COPIED, L2_ENTRIES, L2_SPAN, REFCOUNT_ENTRIES, SECTOR_SIZE,
};
use crate::header::{CompressionType, Header};

/// qemu's own bound for an L1 table, as in the writer.
const MAX_VIRTUAL_SIZE: u64 = (32 << 20) / 8 * L2_SPAN;
/// qemu's own bound for a refcount table.
const MAX_REFCOUNT_TABLE_CLUSTERS: u64 = (8 << 20) / CLUSTER_SIZE;
/// Entries of eight bytes in one cluster.
const CLUSTER_ENTRIES: u64 = CLUSTER_SIZE / 8;

/// Where everything lies in an image that is yet to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamLayout {
    virtual_size: ByteLen,
    /// On the cluster grid; only the disk's end may cut the last cluster short.
    data: ExtentList,
    l1_entries: u64,
    // Lengths of the sections after the header, in clusters, in their order.
    refcount_table: u64,
    refcount_blocks: u64,
    l1: u64,
    l2: u64,
    clusters: u64,
}

impl StreamLayout {
    /// Lays out an image of a disk whose bytes outside `data` are zero. The ranges are widened to whole clusters.
    ///
    /// # Errors
    /// `Invalid` for a size that is no multiple of 512 bytes or too large, ranges beyond it, and data that no refcount
    /// table of qemu's could describe.
    pub fn new(virtual_size: ByteLen, data: &ExtentList) -> Result<Self> {
        let size = virtual_size.0;
        if !size.is_multiple_of(SECTOR_SIZE) || size > MAX_VIRTUAL_SIZE {
            return Err(Error::invalid(format!(
                "a virtual disk of {size} bytes (not whole sectors, or too large)"
            )));
        }
        if let Some(beyond) = data.iter().last().filter(|last| last.end().0 > size) {
            return Err(Error::invalid(format!(
                "data up to {}, beyond a disk of {size} bytes",
                beyond.end()
            )));
        }
        let data = data.aligned(CLUSTER_SIZE, virtual_size);
        let l1_entries = size.div_ceil(L2_SPAN).max(1);
        let l1 = l1_entries.div_ceil(CLUSTER_ENTRIES);
        let (l2, data_clusters) = count(&data);
        let fixed = 1 + l1 + l2 + data_clusters;
        // The counts cover themselves: the smallest number of blocks and table clusters that is enough.
        let (mut blocks, mut table) = (1, 1);
        loop {
            let total = fixed + blocks + table;
            let more = (total.div_ceil(REFCOUNT_ENTRIES), blocks.div_ceil(CLUSTER_ENTRIES));
            if more.0 <= blocks && more.1 <= table {
                break;
            }
            (blocks, table) = (blocks.max(more.0), table.max(more.1));
        }
        if table > MAX_REFCOUNT_TABLE_CLUSTERS {
            return Err(Error::invalid(format!(
                "{data_clusters} data clusters need too large a refcount table"
            )));
        }
        let clusters = fixed + blocks + table;
        Ok(Self {
            virtual_size,
            data,
            l1_entries,
            refcount_table: table,
            refcount_blocks: blocks,
            l1,
            l2,
            clusters,
        })
    }

    /// How long the whole file is.
    #[must_use]
    pub fn file_size(&self) -> ByteLen {
        ByteLen(self.clusters * CLUSTER_SIZE)
    }

    /// The guest ranges that follow the head, on the cluster grid. Where the disk's end cuts the last cluster short,
    /// it is sent filled up with zeros ([`padding`](Self::padding)).
    #[must_use]
    pub fn data(&self) -> &ExtentList {
        &self.data
    }

    /// How many zeros follow the last data range, so that the file ends with a whole cluster.
    #[must_use]
    pub fn padding(&self) -> ByteLen {
        let end = self.data.iter().last().map_or(0, |last| last.end().0);
        ByteLen(end.next_multiple_of(CLUSTER_SIZE) - end)
    }

    /// All that stands before the data, a cluster at a time.
    #[must_use]
    pub fn head(layout: Arc<Self>) -> Head {
        Head { layout, next: 0, l1: Cursor::default(), l2: Cursor::default() }
    }

    // Where each section begins, in clusters.
    fn blocks_start(&self) -> u64 {
        1 + self.refcount_table
    }

    fn l1_start(&self) -> u64 {
        self.blocks_start() + self.refcount_blocks
    }

    fn l2_start(&self) -> u64 {
        self.l1_start() + self.l1
    }

    fn data_start(&self) -> u64 {
        self.l2_start() + self.l2
    }

    fn header(&self) -> Bytes {
        let header = Header {
            version: 3,
            virtual_size: self.virtual_size,
            cluster_bits: CLUSTER_BITS,
            l1_entries: u32::try_from(self.l1_entries).unwrap_or(u32::MAX),
            l1_offset: HostOffset(self.l1_start() * CLUSTER_SIZE),
            refcount_table_offset: HostOffset(CLUSTER_SIZE),
            refcount_table_clusters: u32::try_from(self.refcount_table).unwrap_or(u32::MAX),
            refcount_order: 4,
            snapshots: 0,
            dirty: false,
            compression: CompressionType::Zlib,
            bitmaps: false,
            backing_name: None,
            backing_format: None,
        };
        header.write()
    }

    /// A cluster of the refcount table: the blocks lie one after the other.
    fn table_cluster(&self, index: u64) -> Bytes {
        let first = index * CLUSTER_ENTRIES;
        let last = self.refcount_blocks.min(first + CLUSTER_ENTRIES);
        entries((first..last).map(|block| (self.blocks_start() + block) * CLUSTER_SIZE))
    }

    /// One count for each cluster of the file, nothing beyond it.
    fn block_cluster(&self, index: u64) -> Bytes {
        let used = self.clusters.saturating_sub(index * REFCOUNT_ENTRIES).min(REFCOUNT_ENTRIES);
        let mut block = 1_u16.to_be_bytes().repeat(usize::try_from(used).unwrap_or(0));
        block.resize(CLUSTER_BYTES, 0);
        Bytes::from(block)
    }

    /// The next cluster of L1: an entry for each 512 MiB with data, in which the L2 tables have their order.
    fn l1_cluster(&self, index: u64, cursor: &mut Cursor) -> Bytes {
        let mut table = vec![0_u64; L2_ENTRIES];
        let (first, end) = (index * CLUSTER_ENTRIES, (index + 1) * CLUSTER_ENTRIES);
        while let Some(span) = cursor.next_span(&self.data, end) {
            table[slot(span - first)] = COPIED | ((self.l2_start() + cursor.ordinal) * CLUSTER_SIZE);
            cursor.ordinal += 1;
        }
        entries(table)
    }

    /// The next L2 table: of the first span with data that has none yet.
    fn l2_cluster(&self, cursor: &mut Cursor) -> Bytes {
        let mut table = vec![0_u64; L2_ENTRIES];
        let Some(span) = cursor.next_span(&self.data, u64::MAX) else { return entries(table) };
        let (first, end) = (span * L2_SPAN, (span + 1) * L2_SPAN);
        for range in self.data.iter().skip(cursor.range).take_while(|range| range.offset.0 < end) {
            let (from, to) = (range.offset.0.max(first), range.end().0.min(end));
            for cluster in from / CLUSTER_SIZE..to.div_ceil(CLUSTER_SIZE) {
                let host = (self.data_start() + cursor.ordinal) * CLUSTER_SIZE;
                table[slot(cluster % L2_ENTRIES as u64)] = COPIED | host;
                cursor.ordinal += 1;
            }
        }
        entries(table)
    }
}

/// The clusters before the data.
#[derive(Debug)]
pub struct Head {
    layout: Arc<StreamLayout>,
    next: u64,
    l1: Cursor,
    l2: Cursor,
}

impl Iterator for Head {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        let (layout, at) = (&self.layout, self.next);
        self.next += 1;
        let cluster = if at == 0 {
            layout.header()
        } else if at < layout.blocks_start() {
            layout.table_cluster(at - 1)
        } else if at < layout.l1_start() {
            layout.block_cluster(at - layout.blocks_start())
        } else if at < layout.l2_start() {
            layout.l1_cluster(at - layout.l1_start(), &mut self.l1)
        } else if at < layout.data_start() {
            layout.l2_cluster(&mut self.l2)
        } else {
            return None;
        };
        Some(cluster)
    }
}

/// How far the data ranges were turned into entries.
#[derive(Debug, Default)]
struct Cursor {
    /// The first range that reaches into `span`, or beyond it.
    range: usize,
    /// Spans below this one are done.
    span: u64,
    /// How many entries were made.
    ordinal: u64,
}

impl Cursor {
    /// The next span of 512 MiB that holds data, below `end`.
    fn next_span(&mut self, data: &ExtentList, end: u64) -> Option<u64> {
        let done = self.span * L2_SPAN;
        while let Some(range) = data.iter().nth(self.range) {
            if range.end().0 > done {
                let span = self.span.max(range.offset.0 / L2_SPAN);
                if span >= end {
                    return None;
                }
                self.span = span + 1;
                return Some(span);
            }
            self.range += 1;
        }
        None
    }
}

/// How many L2 tables and how many clusters the ranges need.
fn count(data: &ExtentList) -> (u64, u64) {
    let (mut tables, mut clusters, mut counted) = (0, 0, 0);
    for Extent { offset, length } in data.iter() {
        let end = offset.0 + length.0;
        let first = (offset.0 / L2_SPAN).max(counted);
        let last = end.div_ceil(L2_SPAN);
        tables += last.saturating_sub(first);
        counted = counted.max(last);
        clusters += end.div_ceil(CLUSTER_SIZE) - offset.0 / CLUSTER_SIZE;
    }
    (tables, clusters)
}

fn entries(values: impl IntoIterator<Item = u64>) -> Bytes {
    let mut bytes: Vec<u8> = Vec::with_capacity(CLUSTER_BYTES);
    bytes.extend(values.into_iter().flat_map(u64::to_be_bytes));
    bytes.resize(CLUSTER_BYTES, 0);
    Bytes::from(bytes)
}

/// An index that is bounded by a table already in memory.
fn slot(index: u64) -> usize {
    usize::try_from(index).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(size: u64, ranges: &[(u64, u64)]) -> StreamLayout {
        let ranges = ranges.iter().map(|&(offset, length)| Extent::new(offset, length).unwrap()).collect();
        StreamLayout::new(ByteLen(size), &ExtentList::checked(ranges, ByteLen(size)).unwrap()).unwrap()
    }

    #[test]
    fn tables_are_counted_once() {
        // Two ranges in one span, one over a border, one far away.
        let layout = layout(
            1 << 40,
            &[(0, 1), (L2_SPAN / 2, CLUSTER_SIZE), (2 * L2_SPAN - 1, 2), (1 << 39, 3 * L2_SPAN)],
        );
        assert_eq!(layout.l2, 1 + 2 + 3);
        assert_eq!(layout.clusters, 1 + 1 + 1 + 1 + 6 + (1 + 1 + 2 + 3 * 8192));
        let head: Vec<_> = StreamLayout::head(Arc::new(layout)).collect();
        assert_eq!(head.len(), 10);
    }

    #[test]
    fn refcounts_cover_themselves_at_the_border() {
        for clusters in REFCOUNT_ENTRIES - 40..REFCOUNT_ENTRIES + 2 {
            let size = clusters * CLUSTER_SIZE;
            let layout = layout(size, &[(0, size)]);
            let covered = layout.refcount_blocks * REFCOUNT_ENTRIES;
            assert!(layout.clusters <= covered && layout.clusters + REFCOUNT_ENTRIES > covered - 1);
            let counted: u64 = (0..layout.refcount_blocks)
                .map(|block| layout.block_cluster(block).iter().map(|&byte| u64::from(byte)).sum::<u64>())
                .sum();
            assert_eq!(counted, layout.clusters);
        }
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let none = ExtentList::empty();
        assert!(StreamLayout::new(ByteLen(513), &none).is_err());
        assert!(StreamLayout::new(ByteLen(MAX_VIRTUAL_SIZE + 512), &none).is_err());
        assert!(StreamLayout::new(ByteLen(512), &ExtentList::whole(ByteLen(1024))).is_err());
    }
}
