//! The refcounts of a growing file: counted as clusters are used, written out a block at a time as soon as no
//! cluster of the block's range can change, and at the end made to cover themselves.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::append::Appender;
use crate::format::{CLUSTER_BYTES, CLUSTER_SIZE, REFCOUNT_ENTRIES};

/// Host bytes that one refcount block describes: 2 GiB.
const BLOCK_SPAN: u64 = REFCOUNT_ENTRIES * CLUSTER_SIZE;

/// Counts of the host clusters that may still change; what is settled is already in the file.
pub(crate) struct Refcounts {
    /// Where each finished block lies.
    blocks: Vec<u64>,
    /// Counts of the ranges after the finished ones. Two at most while writing: the packed cluster that is still
    /// open lies close behind the end.
    open: VecDeque<Box<[u16]>>,
}

/// Where the refcount table came to lie.
pub(crate) struct RefcountTable {
    pub(crate) offset: u64,
    pub(crate) clusters: u32,
}

impl Refcounts {
    pub(crate) fn new() -> Self {
        Self { blocks: Vec::new(), open: VecDeque::new() }
    }

    /// Counts one more reference on every cluster that `length` bytes at host offset `offset` touch.
    pub(crate) fn add(&mut self, offset: u64, length: u64) {
        if length == 0 {
            return;
        }
        for cluster in offset / CLUSTER_SIZE..=(offset + length - 1) / CLUSTER_SIZE {
            let finished = self.blocks.len() as u64;
            let range = cluster / REFCOUNT_ENTRIES;
            assert!(range >= finished, "cluster {cluster} was used after its refcount block was written");
            while self.open.len() as u64 <= range - finished {
                self.open.push_back(vec![0; CLUSTER_BYTES / 2].into_boxed_slice());
            }
            let slot = index(range - finished);
            // Cannot overflow: compressed clusters are the only ones that share, and a frame has 4 bytes or more.
            self.open[slot][index(cluster % REFCOUNT_ENTRIES)] += 1;
        }
    }

    /// Appends the blocks whose whole range is settled.
    pub(crate) fn write_settled(&mut self, appender: &mut Appender) {
        while (self.blocks.len() as u64 + 1) * BLOCK_SPAN <= appender.settled() {
            self.write_block(appender);
        }
    }

    /// Appends the remaining blocks and the table. They are counted before they are written, so their own number
    /// is found first: the smallest that also covers themselves.
    pub(crate) fn finish(mut self, appender: &mut Appender) -> RefcountTable {
        self.write_settled(appender);
        let used = appender.end() / CLUSTER_SIZE;
        let written = self.blocks.len() as u64;
        let (blocks, table) = covering(used, written);
        self.add(used * CLUSTER_SIZE, (blocks - written + table) * CLUSTER_SIZE);
        while (self.blocks.len() as u64) < blocks {
            let offset = appender.whole(self.next_block());
            self.blocks.push(offset);
        }
        let bytes = table_bytes(self.blocks.iter().copied());
        assert_eq!(bytes.len() as u64, table * CLUSTER_SIZE, "the refcount table's size");
        let offset = appender.whole(bytes);
        RefcountTable { offset, clusters: u32::try_from(table).unwrap_or(u32::MAX) }
    }

    /// Bytes held in memory.
    pub(crate) fn pending(&self) -> usize {
        self.open.len() * CLUSTER_BYTES + self.blocks.len() * 8
    }

    fn write_block(&mut self, appender: &mut Appender) {
        let block = self.next_block();
        // A block lies beyond the range it describes, so its own count goes to a later one.
        let offset = appender.whole(block);
        self.blocks.push(offset);
        self.add(offset, CLUSTER_SIZE);
    }

    fn next_block(&mut self) -> Bytes {
        match self.open.pop_front() {
            Some(counts) => Bytes::from_iter(counts.iter().flat_map(|count| count.to_be_bytes())),
            None => Bytes::from(vec![0; CLUSTER_BYTES]),
        }
    }
}

/// How many blocks, and clusters of the table, a file of `used` clusters needs of which `written` are blocks: enough to
/// cover those that are still to be appended, too.
pub(crate) fn covering(used: u64, written: u64) -> (u64, u64) {
    let (mut blocks, mut table) = (written + 1, 1);
    loop {
        let total = used + (blocks - written) + table;
        let (more, wider) =
            (total.div_ceil(REFCOUNT_ENTRIES).max(blocks), (blocks * 8).div_ceil(CLUSTER_SIZE));
        if (more, wider) == (blocks, table) {
            return (blocks, table);
        }
        (blocks, table) = (more, wider.max(table));
    }
}

/// The refcount table's bytes in whole clusters.
pub(crate) fn table_bytes(blocks: impl Iterator<Item = u64>) -> Bytes {
    let mut bytes: Vec<u8> = blocks.flat_map(u64::to_be_bytes).collect();
    bytes.resize(bytes.len().next_multiple_of(CLUSTER_BYTES), 0);
    Bytes::from(bytes)
}

/// An index below the length of something in memory.
fn index(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::append::Appender;

    /// Uses clusters up to a number, ends the file, and reads the counts back as a reader would.
    fn counts_of_a_file_with(used: u64) -> (u64, Vec<u16>) {
        let (mut refcounts, mut appender) = (Refcounts::new(), Appender::new());
        let cluster = Bytes::from(vec![0; CLUSTER_BYTES]);
        let mut blocks = Vec::new();
        let mut place = 0;
        let mut take = |appender: &mut Appender| {
            for bytes in appender.take() {
                // Only refcount blocks and the table hold anything here.
                blocks.extend((bytes.as_ptr() != cluster.as_ptr()).then_some((place, bytes.clone())));
                place += bytes.len() as u64;
            }
        };
        while appender.end() < used * CLUSTER_SIZE {
            let offset = appender.whole(cluster.clone());
            refcounts.add(offset, CLUSTER_SIZE);
            refcounts.write_settled(&mut appender);
            assert!(refcounts.open.len() <= 2, "{} ranges are open", refcounts.open.len());
            take(&mut appender);
        }
        let table = refcounts.finish(&mut appender);
        take(&mut appender);
        assert_eq!(place, appender.end());
        let at = |wanted: u64| &blocks.iter().find(|(place, _)| *place == wanted).unwrap().1;
        let (entries, _) = at(table.offset).as_chunks::<8>();
        let entries = entries.iter().map(|entry| u64::from_be_bytes(*entry)).take_while(|entry| *entry != 0);
        let counts =
            entries.flat_map(|block| at(block).as_chunks::<2>().0.iter().map(|c| u16::from_be_bytes(*c)));
        (place / CLUSTER_SIZE, counts.collect())
    }

    #[test]
    fn refcounts_cover_themselves_at_every_border() {
        let border = REFCOUNT_ENTRIES;
        for used in
            [1, border - 3, border - 2, border - 1, border, border + 1, 2 * border - 3, 2 * border - 2]
        {
            let (clusters, counts) = counts_of_a_file_with(used);
            assert!(
                counts.len() as u64 >= clusters,
                "{used} clusters: {} counts for {clusters}",
                counts.len()
            );
            let (inside, beyond) = counts.split_at(index(clusters));
            assert!(inside.iter().all(|&count| count == 1), "{used} clusters: a cluster is not counted once");
            assert!(beyond.iter().all(|&count| count == 0), "{used} clusters: a count beyond the file");
        }
    }

    #[test]
    fn clusters_that_are_shared_count_each_user() {
        let mut refcounts = Refcounts::new();
        refcounts.add(CLUSTER_SIZE - 10, 20);
        refcounts.add(CLUSTER_SIZE + 10, 20);
        refcounts.add(CLUSTER_SIZE, 0);
        assert_eq!(refcounts.open[0][..3], [1, 2, 0]);
    }
}
