//! Which host clusters of a layer's file are still needed, how often, and where they go. Memory grows with what is
//! needed, never with what a file claims to be: pages of 64 MiB, made when a cluster of theirs is marked.

use std::collections::BTreeMap;

use crate::error::{Error, Result};
use crate::format::CLUSTER_SIZE;
use crate::image::in_memory;

/// Host clusters in a page.
const PAGE: u64 = 1024;
const WORDS: usize = 16;

/// The needed host clusters of one layer.
#[derive(Default)]
pub(super) struct HostMap {
    pages: BTreeMap<u64, Page>,
    /// The new file's cluster that the first needed one becomes.
    base: u64,
}

struct Page {
    needed: [u64; WORDS],
    /// How many compressed clusters touch each host cluster; zero for one that a plain cluster has to itself.
    frames: Option<Box<[u16]>>,
    /// Needed clusters in the pages before this one.
    before: u64,
}

/// Where a pass over the needed clusters of a layer stands.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Cursor {
    next: u64,
}

impl HostMap {
    /// Marks whole host clusters that a guest cluster each has to itself.
    pub(super) fn plain(&mut self, host: u64, count: u64) -> Result<()> {
        for cluster in host / CLUSTER_SIZE..host / CLUSTER_SIZE + count {
            let (page, slot) = self.page(cluster);
            if page.is_needed(slot) {
                return Err(twice(cluster));
            }
            page.need(slot);
        }
        Ok(())
    }

    /// Marks the host clusters that a frame touches.
    pub(super) fn frame(&mut self, host: u64, length: u64) -> Result<()> {
        for cluster in host / CLUSTER_SIZE..=(host + length - 1) / CLUSTER_SIZE {
            let (page, slot) = self.page(cluster);
            let taken = page.is_needed(slot);
            page.need(slot);
            let frames = page.frames.get_or_insert_with(|| vec![0; in_memory(PAGE)].into_boxed_slice());
            if taken && frames[slot] == 0 {
                return Err(twice(cluster));
            }
            frames[slot] = frames[slot].checked_add(1).ok_or_else(|| twice(cluster))?;
        }
        Ok(())
    }

    /// Gives every needed cluster its place, the first one at `base`; answers with the first free one after them.
    pub(super) fn settle(&mut self, base: u64) -> u64 {
        self.base = base;
        let mut before = 0;
        for page in self.pages.values_mut() {
            page.before = before;
            before += page.count();
        }
        base + before
    }

    /// How many clusters are needed, once they are settled.
    pub(super) fn len(&self) -> u64 {
        let last = self.pages.values().next_back();
        last.map_or(0, |page| page.before + page.count())
    }

    /// Where a byte of a needed host cluster goes.
    pub(super) fn place(&self, host: u64) -> Result<u64> {
        let cluster = host / CLUSTER_SIZE;
        let slot = in_memory(cluster % PAGE);
        let page = self.pages.get(&(cluster / PAGE)).filter(|page| page.is_needed(slot));
        // Both passes read the same tables; they differ only when the file changed in between.
        let page = page.ok_or_else(|| Error::corrupt(format!("host offset {host} was not needed before")))?;
        Ok((self.base + page.before + page.needed_below(slot)) * CLUSTER_SIZE + host % CLUSTER_SIZE)
    }

    /// The next run of needed host clusters, at most `limit` of them: the first one and their number.
    pub(super) fn run(&self, cursor: &mut Cursor, limit: u64) -> Option<(u64, u64)> {
        let (first, _) = self.next(cursor)?;
        let mut count = 1;
        while count < limit {
            let mut further = *cursor;
            match self.next(&mut further) {
                Some((cluster, _)) if cluster == first + count => *cursor = further,
                _ => break,
            }
            count += 1;
        }
        Some((first, count))
    }

    /// The next needed host cluster and its refcount.
    pub(super) fn next(&self, cursor: &mut Cursor) -> Option<(u64, u16)> {
        for (number, page) in self.pages.range(cursor.next / PAGE..) {
            let from = cursor.next.max(number * PAGE) - number * PAGE;
            if let Some(slot) = page.first_from(in_memory(from)) {
                let cluster = number * PAGE + slot as u64;
                cursor.next = cluster + 1;
                let count = page.frames.as_ref().map_or(1, |frames| frames[slot].max(1));
                return Some((cluster, count));
            }
        }
        None
    }

    fn page(&mut self, cluster: u64) -> (&mut Page, usize) {
        let fresh = || Page { needed: [0; WORDS], frames: None, before: 0 };
        (self.pages.entry(cluster / PAGE).or_insert_with(fresh), in_memory(cluster % PAGE))
    }
}

impl Page {
    fn is_needed(&self, slot: usize) -> bool {
        self.needed[slot / 64] & (1 << (slot % 64)) != 0
    }

    fn need(&mut self, slot: usize) {
        self.needed[slot / 64] |= 1 << (slot % 64);
    }

    fn count(&self) -> u64 {
        self.needed.iter().map(|word| u64::from(word.count_ones())).sum()
    }

    fn needed_below(&self, slot: usize) -> u64 {
        let whole: u64 = self.needed[..slot / 64].iter().map(|word| u64::from(word.count_ones())).sum();
        whole + u64::from((self.needed[slot / 64] & ((1 << (slot % 64)) - 1)).count_ones())
    }

    fn first_from(&self, slot: usize) -> Option<usize> {
        let mut word = slot / 64;
        let mut bits = *self.needed.get(word)? & (u64::MAX << (slot % 64));
        while bits == 0 {
            word += 1;
            bits = *self.needed.get(word)?;
        }
        Some(word * 64 + in_memory(u64::from(bits.trailing_zeros())))
    }
}

fn twice(cluster: u64) -> Error {
    Error::corrupt(format!("the cluster at host offset {} is used more than once", cluster * CLUSTER_SIZE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn needed_clusters_close_up_in_order() {
        let mut map = HostMap::default();
        map.plain(5 * CLUSTER_SIZE, 2).unwrap();
        map.plain(1023 * CLUSTER_SIZE, 2).unwrap();
        map.frame(7 * CLUSTER_SIZE + 100, CLUSTER_SIZE).unwrap();
        map.frame(8 * CLUSTER_SIZE + 100, 50).unwrap();
        map.plain(5000 * CLUSTER_SIZE, 1).unwrap();
        assert_eq!(map.settle(10), 17);
        for (host, place) in [(5, 10), (6, 11), (7, 12), (8, 13), (1023, 14), (1024, 15), (5000, 16)] {
            assert_eq!(map.place(host * CLUSTER_SIZE + 7).unwrap(), place * CLUSTER_SIZE + 7);
        }
        assert!(map.place(4 * CLUSTER_SIZE).is_err());
        let mut cursor = Cursor::default();
        let runs: Vec<_> = std::iter::from_fn(|| map.run(&mut cursor, 3)).collect();
        assert_eq!(runs, [(5, 3), (8, 1), (1023, 2), (5000, 1)]);
        let mut cursor = Cursor::default();
        let counts: Vec<_> = std::iter::from_fn(|| map.next(&mut cursor)).map(|(_, count)| count).collect();
        assert_eq!(counts, [1, 1, 1, 2, 1, 1, 1]);
    }

    #[test]
    fn a_cluster_with_two_owners_is_corrupt() {
        let mut map = HostMap::default();
        map.plain(CLUSTER_SIZE, 1).unwrap();
        assert!(map.plain(CLUSTER_SIZE, 1).is_err());
        assert!(map.frame(CLUSTER_SIZE + 5, 10).is_err());
        map.frame(3 * CLUSTER_SIZE, 10).unwrap();
        assert!(map.plain(3 * CLUSTER_SIZE, 1).is_err());
    }
}
