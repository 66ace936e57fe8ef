//! Where appended bytes go in the file, and in which order they come out.
//!
//! Compressed clusters are packed back to back while everything else wants whole host clusters. So that a single
//! plain cluster or table does not end a packed run, whole clusters that come while a host cluster is partly
//! filled wait behind it, up to a bound; then the partly filled one is closed with zeros.
//!
//! ```text
//! out (handed over) │ open: packed bytes, not yet a cluster │ behind: whole clusters that wait for it
//! ```

use bytes::Bytes;

use crate::format::{CLUSTER_BYTES, CLUSTER_SIZE};

/// How many bytes may wait behind a partly filled cluster: the memory this costs, and the price of a mix of
/// compressible and incompressible data (at most one cluster is wasted in so many).
const BEHIND_LIMIT: usize = 32 * CLUSTER_BYTES;

/// The end of a growing file.
pub(crate) struct Appender {
    out: Vec<Bytes>,
    out_bytes: usize,
    open: Option<Open>,
    behind: Vec<Bytes>,
    behind_bytes: usize,
    /// Where the next whole cluster goes.
    next: u64,
}

/// A host cluster that packed bytes fill.
struct Open {
    offset: u64,
    bytes: Vec<u8>,
}

impl Appender {
    pub(crate) fn new() -> Self {
        Self { out: Vec::new(), out_bytes: 0, open: None, behind: Vec::new(), behind_bytes: 0, next: 0 }
    }

    /// Appends whole clusters and says where they lie.
    pub(crate) fn whole(&mut self, bytes: Bytes) -> u64 {
        assert!(bytes.len().is_multiple_of(CLUSTER_BYTES), "{} bytes are not whole clusters", bytes.len());
        let offset = self.next;
        self.next += bytes.len() as u64;
        if self.open.is_some() {
            self.behind_bytes += bytes.len();
            self.behind.push(bytes);
            if self.behind_bytes >= BEHIND_LIMIT {
                self.close_packed();
            }
        } else {
            self.emit(bytes);
        }
        offset
    }

    /// Appends bytes at the next free byte and says where they lie. They may reach into a second host cluster when
    /// nothing else has taken it.
    pub(crate) fn packed(&mut self, bytes: &[u8]) -> u64 {
        assert!(!bytes.is_empty() && bytes.len() < CLUSTER_BYTES, "{} packed bytes", bytes.len());
        if self.open.as_ref().is_some_and(|open| open.free() < bytes.len()) && !self.behind.is_empty() {
            self.close_packed();
        }
        let mut open = self.open.take().unwrap_or_else(|| self.fresh());
        let offset = open.offset + open.bytes.len() as u64;
        let (here, further) = bytes.split_at(bytes.len().min(open.free()));
        open.bytes.extend_from_slice(here);
        if open.free() > 0 {
            self.open = Some(open);
            return offset;
        }
        self.emit(Bytes::from(open.bytes));
        self.release_behind();
        if !further.is_empty() {
            let mut open = self.fresh();
            open.bytes.extend_from_slice(further);
            self.open = Some(open);
        }
        offset
    }

    /// Fills the partly filled cluster with zeros; packing starts afresh after it.
    pub(crate) fn close_packed(&mut self) {
        if let Some(mut open) = self.open.take() {
            open.bytes.resize(CLUSTER_BYTES, 0);
            self.emit(Bytes::from(open.bytes));
            self.release_behind();
        }
    }

    /// The bytes that are ready, in the order in which they stand in the file.
    pub(crate) fn take(&mut self) -> Vec<Bytes> {
        self.out_bytes = 0;
        std::mem::take(&mut self.out)
    }

    /// The end of the file: where the next whole cluster goes.
    pub(crate) fn end(&self) -> u64 {
        self.next
    }

    /// Nothing below this host offset changes any more.
    pub(crate) fn settled(&self) -> u64 {
        self.open.as_ref().map_or(self.next, |open| open.offset)
    }

    /// Bytes held in memory.
    pub(crate) fn pending(&self) -> usize {
        self.out_bytes + self.behind_bytes + self.open.as_ref().map_or(0, |open| open.bytes.len())
    }

    fn fresh(&mut self) -> Open {
        let offset = self.next;
        self.next += CLUSTER_SIZE;
        Open { offset, bytes: Vec::with_capacity(CLUSTER_BYTES) }
    }

    fn emit(&mut self, bytes: Bytes) {
        self.out_bytes += bytes.len();
        self.out.push(bytes);
    }

    fn release_behind(&mut self) {
        self.out_bytes += self.behind_bytes;
        self.behind_bytes = 0;
        self.out.append(&mut self.behind);
    }
}

impl Open {
    fn free(&self) -> usize {
        CLUSTER_BYTES - self.bytes.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(appender: &mut Appender) -> Vec<u8> {
        appender.close_packed();
        appender.take().concat()
    }

    fn cluster(fill: u8) -> Bytes {
        Bytes::from(vec![fill; CLUSTER_BYTES])
    }

    #[test]
    fn packed_bytes_lie_back_to_back_across_clusters() {
        let mut appender = Appender::new();
        let offsets: Vec<u64> = (1..=3).map(|fill| appender.packed(&vec![fill; 30_000])).collect();
        assert_eq!(offsets, [0, 30_000, 60_000]);
        let file = file(&mut appender);
        assert_eq!(file.len(), 2 * CLUSTER_BYTES);
        assert!(
            file[60_000..90_000].iter().all(|&byte| byte == 3)
                && file[90_000..].iter().all(|&byte| byte == 0)
        );
    }

    #[test]
    fn a_whole_cluster_does_not_end_the_packing() {
        let mut appender = Appender::new();
        assert_eq!(appender.packed(&[1; 1000]), 0);
        assert_eq!(appender.whole(cluster(9)), CLUSTER_SIZE);
        assert!(appender.take().is_empty());
        assert_eq!(appender.packed(&[2; 1000]), 1000);
        assert_eq!(appender.settled(), 0);
        // Too long for what is left, and the next host cluster is taken.
        assert_eq!(appender.packed(&[3; 65_000]), 2 * CLUSTER_SIZE);
        let file = file(&mut appender);
        assert_eq!(file.len() as u64, appender.end());
        assert_eq!((file[999], file[1000], file[2000], file[CLUSTER_BYTES]), (1, 2, 0, 9));
        assert_eq!(file[2 * CLUSTER_BYTES], 3);
    }

    #[test]
    fn what_waits_is_bounded() {
        let mut appender = Appender::new();
        appender.packed(&[1; 10]);
        for _ in 0..1000 {
            appender.whole(cluster(7));
            assert!(appender.pending() <= BEHIND_LIMIT + CLUSTER_BYTES);
            appender.take();
        }
        assert_eq!(appender.settled(), appender.end());
    }

    #[test]
    fn an_exactly_full_cluster_is_handed_over() {
        let mut appender = Appender::new();
        appender.packed(&[1; 40_000]);
        appender.packed(&[2; 25_536]);
        assert_eq!(appender.settled(), CLUSTER_SIZE);
        assert_eq!(appender.take().concat().len(), CLUSTER_BYTES);
    }

    #[test]
    fn what_waited_follows_the_cluster_it_waited_for() {
        let mut appender = Appender::new();
        appender.packed(&[1; 40_000]);
        appender.whole(cluster(9));
        appender.packed(&[2; 25_536]);
        let file = appender.take().concat();
        assert_eq!((file[0], file[40_000], file[CLUSTER_BYTES]), (1, 2, 9));
        assert_eq!(file.len() as u64, appender.settled());
    }
}
