//! The guest's side of an image being written: L1, and the one L2 table that is being filled. Tables come by ascending
//! guest offset and are handed over when their range is finished; where they come to lie, the caller says.

use bytes::Bytes;

use crate::format::{CLUSTER_BYTES, COPIED, L2_ENTRIES, L2_SPAN, ZERO};

/// The tables of one image.
pub(crate) struct GuestTables {
    l1: Vec<u64>,
    /// The L2 table being filled, and its index in L1.
    l2: Option<(usize, Box<[u64]>)>,
    /// The table of a range that is all zero, made once and shared: a wide zero range costs no memory.
    zero_table: Option<Bytes>,
}

impl GuestTables {
    pub(crate) fn new(virtual_size: u64) -> Self {
        // Even a disk of no bytes gets an entry: a table of none has a cluster that nothing refers to.
        let l1 = vec![0; slot(virtual_size.div_ceil(L2_SPAN).max(1))];
        Self { l1, l2: None, zero_table: None }
    }

    /// Sets a guest cluster's entry. `append` takes a finished table and answers with its host offset.
    pub(crate) fn set(&mut self, cluster: u64, entry: u64, append: &mut impl FnMut(Bytes) -> u64) {
        let l1_index = slot(cluster / L2_ENTRIES as u64);
        if self.l2.as_ref().is_some_and(|(current, _)| *current != l1_index) {
            self.close(append);
        }
        let (_, table) = self.l2.get_or_insert_with(|| (l1_index, vec![0; L2_ENTRIES].into_boxed_slice()));
        table[slot(cluster % L2_ENTRIES as u64)] = entry;
    }

    /// Marks the guest clusters `[first, last)` as zero.
    pub(crate) fn zero(&mut self, first: u64, last: u64, append: &mut impl FnMut(Bytes) -> u64) {
        let per_table = L2_ENTRIES as u64;
        let mut index = first;
        while index < last {
            let table_end = (index / per_table + 1) * per_table;
            if index.is_multiple_of(per_table) && table_end <= last {
                self.zero_table(index / per_table, append);
                index = table_end;
                continue;
            }
            for cluster in index..table_end.min(last) {
                self.set(cluster, ZERO, append);
            }
            index = table_end;
        }
    }

    /// Hands over the current L2 table: its guest range is finished.
    pub(crate) fn close(&mut self, append: &mut impl FnMut(Bytes) -> u64) {
        if let Some((index, table)) = self.l2.take() {
            let host = append(Bytes::from_iter(table.iter().flat_map(|entry| entry.to_be_bytes())));
            self.l1[index] = COPIED | host;
        }
    }

    /// L1 in whole clusters, once the last L2 table is handed over.
    pub(crate) fn l1(&self) -> Bytes {
        let mut l1: Vec<u8> = self.l1.iter().flat_map(|entry| entry.to_be_bytes()).collect();
        l1.resize(l1.len().next_multiple_of(CLUSTER_BYTES), 0);
        Bytes::from(l1)
    }

    /// How many entries L1 has.
    pub(crate) fn l1_entries(&self) -> usize {
        self.l1.len()
    }

    /// Bytes held in memory.
    pub(crate) fn pending(&self) -> usize {
        self.l2.as_ref().map_or(0, |_| CLUSTER_BYTES) + self.l1.len() * 8
    }

    /// A whole table of zero marks, without building it each time.
    fn zero_table(&mut self, l1_index: u64, append: &mut impl FnMut(Bytes) -> u64) {
        self.close(append);
        let table =
            self.zero_table.get_or_insert_with(|| Bytes::from(ZERO.to_be_bytes().repeat(L2_ENTRIES))).clone();
        self.l1[slot(l1_index)] = COPIED | append(table);
    }
}

/// An index that is bounded by a table already in memory.
fn slot(index: u64) -> usize {
    usize::try_from(index).unwrap_or(usize::MAX)
}
