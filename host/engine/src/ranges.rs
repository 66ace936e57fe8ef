//! Digests of the guest's ranges: one for each cluster that an image stores, in an object of its own beside the
//! image (`docs/format.md`). They let a reader prove the guest's view cluster by cluster, and let an incremental ask
//! whether what the hypervisor calls unchanged still is what was stored.
//!
//! ```text
//! header: magic (16) │ version u32 │ cluster size u32 │ 8 zeros        then, by ascending guest cluster:
//! record: guest cluster u64 │ first 24 bytes of the BLAKE3 chaining value        all numbers big-endian
//! ```
//! The chaining value is taken at the cluster's host offset where the image stores it plain, so that the file's own
//! digest needs no second pass, and at offset 0 where it is stored compressed.

use std::collections::VecDeque;
use std::fs::File;
use std::os::unix::fs::FileExt as _;

use blake3::hazmat::ChainingValue;
use tidemark_model::{GuestOffset, HostOffset};
use tidemark_qcow2::CLUSTER_SIZE;

use crate::digest::{LEAF_LEN, chaining_value};
use crate::error::{Error, Result};

const MAGIC: &[u8; 16] = b"tidemark-ranges\0";
const VERSION: u32 = 1;
const HEADER_LEN: usize = 32;
const RECORD_LEN: usize = 32;
const DIGEST_LEN: usize = 24;
/// Records that a reader holds at a time.
const WINDOW: usize = 2048;

/// The digest of one cluster of the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RangeDigest([u8; DIGEST_LEN]);

impl RangeDigest {
    /// Of a cluster's guest bytes (zeros are added up to a whole cluster). `stored_at` is where the image has it as
    /// it is; none where it is compressed.
    pub(crate) fn of(cluster: &[u8], stored_at: Option<HostOffset>) -> Self {
        let offset = stored_at.unwrap_or(HostOffset(0));
        if cluster.len() == LEAF_LEN {
            return Self::from(chaining_value(cluster, offset));
        }
        let mut whole = cluster.to_vec();
        whole.resize(LEAF_LEN, 0);
        Self::from(chaining_value(&whole, offset))
    }
}

impl RangeDigest {
    /// As it was stored.
    pub(crate) fn from_stored(digest: [u8; DIGEST_LEN]) -> Self {
        Self(digest)
    }
}

impl From<ChainingValue> for RangeDigest {
    fn from(value: ChainingValue) -> Self {
        let mut digest = [0; DIGEST_LEN];
        digest.copy_from_slice(&value[..DIGEST_LEN]);
        Self(digest)
    }
}

/// Brings digests into guest order while an image is written: compressed clusters have theirs at once, plain ones
/// when the file's digest passes over them. Memory is bounded by what waits inside the image's writer.
#[derive(Debug)]
pub(crate) struct RangeRecorder {
    waiting: VecDeque<(u64, Option<RangeDigest>)>,
    /// Plain clusters without a digest yet, by host offset: how many were recorded before each.
    unhashed: VecDeque<(HostOffset, u64)>,
    /// How many left `waiting`.
    written: u64,
    output: Vec<u8>,
}

impl RangeRecorder {
    pub(crate) fn new() -> Self {
        let mut output = Vec::with_capacity(HEADER_LEN);
        output.extend_from_slice(MAGIC);
        output.extend_from_slice(&VERSION.to_be_bytes());
        output.extend_from_slice(&u32::try_from(CLUSTER_SIZE).unwrap_or(0).to_be_bytes());
        output.resize(HEADER_LEN, 0);
        Self { waiting: VecDeque::new(), unhashed: VecDeque::new(), written: 0, output }
    }

    /// A cluster whose digest is known. Guest offsets ascend over all calls.
    pub(crate) fn known(&mut self, guest: GuestOffset, digest: RangeDigest) {
        self.waiting.push_back((guest.0 / CLUSTER_SIZE, Some(digest)));
        self.write_known();
    }

    /// A cluster that will be hashed where it lies in the file.
    pub(crate) fn plain(&mut self, guest: GuestOffset, host: HostOffset) {
        self.unhashed.push_back((host, self.written + self.waiting.len() as u64));
        self.waiting.push_back((guest.0 / CLUSTER_SIZE, None));
    }

    /// The file's digest passed over the cluster at `host`, of whatever kind it is. Host offsets ascend.
    pub(crate) fn hashed(&mut self, host: HostOffset, value: ChainingValue) {
        let Some((_, number)) = self.unhashed.pop_front_if(|(awaited, _)| *awaited == host) else { return };
        let place = usize::try_from(number - self.written).unwrap_or(usize::MAX);
        if let Some((_, digest)) = self.waiting.get_mut(place) {
            *digest = Some(RangeDigest::from(value));
        }
        self.write_known();
    }

    /// Bytes to append to the object now.
    pub(crate) fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.output)
    }

    /// Bytes that wait to be taken.
    pub(crate) fn pending(&self) -> usize {
        self.output.len()
    }

    /// The last bytes.
    ///
    /// # Errors
    /// Internal where a plain cluster was never hashed.
    pub(crate) fn finish(self) -> Result<Vec<u8>> {
        match self.waiting.front() {
            None => Ok(self.output),
            Some((cluster, _)) => Err(Error::internal(format!("guest cluster {cluster} has no digest"))),
        }
    }

    fn write_known(&mut self) {
        while let Some((cluster, Some(digest))) = self.waiting.front() {
            self.output.extend_from_slice(&cluster.to_be_bytes());
            self.output.extend_from_slice(&digest.0);
            self.waiting.pop_front();
            self.written += 1;
        }
    }
}

/// A range-digest object that is read.
#[derive(Debug)]
pub(crate) struct RangeIndex {
    file: File,
    records: u64,
}

impl RangeIndex {
    /// Looks at the header.
    ///
    /// # Errors
    /// Damaged where it is no such object or of a later version.
    pub(crate) fn open(file: File) -> Result<Self> {
        let size = file.metadata().map_err(|e| Error::io("range digests", e))?.len();
        let mut header = [0; HEADER_LEN];
        file.read_exact_at(&mut header, 0)
            .map_err(|e| Error::reading("range digests without a header", "reading range digests", e))?;
        let version = u32::from_be_bytes([header[16], header[17], header[18], header[19]]);
        let cluster = u32::from_be_bytes([header[20], header[21], header[22], header[23]]);
        if &header[..16] != MAGIC || version != VERSION || u64::from(cluster) != CLUSTER_SIZE {
            return Err(Error::damaged("these are no range digests of a known version; update tidemark"));
        }
        let body = size - HEADER_LEN as u64;
        if !body.is_multiple_of(RECORD_LEN as u64) {
            return Err(Error::damaged("range digests that end inside a record"));
        }
        Ok(Self { file, records: body / RECORD_LEN as u64 })
    }

    /// How many clusters have a digest.
    pub(crate) fn records(&self) -> u64 {
        self.records
    }

    /// The cluster of the record with this number, counted from 0.
    ///
    /// # Errors
    /// As [`find`](Self::find), and damaged for a number that no record has.
    pub(crate) fn cluster(&self, number: u64) -> Result<GuestOffset> {
        let found =
            self.window(number, 1)?.first().and_then(|(cluster, _)| cluster.checked_mul(CLUSTER_SIZE));
        found.map(GuestOffset).ok_or_else(|| Error::damaged(format!("no range digest has number {number}")))
    }

    /// The digest of one cluster; none where the image does not store it.
    ///
    /// # Errors
    /// Damaged and I/O errors from the object.
    pub(crate) fn find(&self, guest: GuestOffset) -> Result<Option<RangeDigest>> {
        let wanted = guest.0 / CLUSTER_SIZE;
        let at = self.first_from(wanted)?;
        Ok(self.window(at, 1)?.first().filter(|(cluster, _)| *cluster == wanted).map(|(_, digest)| *digest))
    }

    /// The digests from a cluster on, by ascending guest offset.
    ///
    /// # Errors
    /// As [`find`](Self::find).
    pub(crate) fn scan(&self, from: GuestOffset) -> Result<RangeScan<'_>> {
        Ok(RangeScan { index: self, next: self.first_from(from.0 / CLUSTER_SIZE)?, window: VecDeque::new() })
    }

    /// The number of the first record whose cluster is not below `wanted`.
    fn first_from(&self, wanted: u64) -> Result<u64> {
        let (mut low, mut high) = (0, self.records);
        while low < high {
            let middle = low + (high - low) / 2;
            match self.window(middle, 1)?.first() {
                Some((cluster, _)) if *cluster < wanted => low = middle + 1,
                _ => high = middle,
            }
        }
        Ok(low)
    }

    fn window(&self, first: u64, count: usize) -> Result<Vec<(u64, RangeDigest)>> {
        let count = usize::try_from(self.records.saturating_sub(first)).unwrap_or(usize::MAX).min(count);
        let mut bytes = vec![0; count * RECORD_LEN];
        let at = HEADER_LEN as u64 + first * RECORD_LEN as u64;
        self.file
            .read_exact_at(&mut bytes, at)
            .map_err(|e| Error::reading("range digests that cannot be read", "reading range digests", e))?;
        let (records, _) = bytes.as_chunks::<RECORD_LEN>();
        Ok(records.iter().map(parse).collect())
    }
}

/// Goes through an object's records.
#[derive(Debug)]
pub(crate) struct RangeScan<'a> {
    index: &'a RangeIndex,
    next: u64,
    window: VecDeque<(u64, RangeDigest)>,
}

impl RangeScan<'_> {
    /// The next record: the cluster's guest offset and its digest.
    ///
    /// # Errors
    /// Damaged where records are not in ascending order or cannot be read.
    pub(crate) fn next(&mut self) -> Result<Option<(GuestOffset, RangeDigest)>> {
        if self.window.is_empty() {
            let window = self.index.window(self.next, WINDOW)?;
            if !window.is_sorted_by(|before, after| before.0 < after.0) {
                return Err(Error::damaged("range digests that are not in order"));
            }
            self.next += window.len() as u64;
            self.window = window.into();
        }
        let Some((cluster, digest)) = self.window.pop_front() else { return Ok(None) };
        let guest = cluster
            .checked_mul(CLUSTER_SIZE)
            .ok_or_else(|| Error::damaged(format!("a range digest of cluster {cluster}")))?;
        Ok(Some((GuestOffset(guest), digest)))
    }
}

fn parse(record: &[u8; RECORD_LEN]) -> (u64, RangeDigest) {
    let (cluster, digest) = record.split_at(8);
    let cluster = cluster.iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
    let mut value = [0; DIGEST_LEN];
    value.copy_from_slice(digest);
    (cluster, RangeDigest(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(cluster: u64) -> GuestOffset {
        GuestOffset(cluster * CLUSTER_SIZE)
    }

    fn digest(seed: u8) -> RangeDigest {
        RangeDigest::of(&[seed; 100], None)
    }

    fn stored(bytes: &[u8]) -> RangeIndex {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(bytes, 0).unwrap();
        RangeIndex::open(file).unwrap()
    }

    #[test]
    fn plain_clusters_wait_for_their_hash_and_all_come_out_in_guest_order() {
        let mut recorder = RangeRecorder::new();
        let value = |seed: u8, host| chaining_value(&vec![seed; LEAF_LEN], HostOffset(host));
        recorder.known(at(1), digest(1));
        recorder.plain(at(2), HostOffset(65536));
        recorder.known(at(5), digest(5));
        recorder.plain(at(7), HostOffset(4 * 65536));
        let mut bytes = recorder.take_output();
        assert_eq!(bytes.len(), HEADER_LEN + RECORD_LEN);
        recorder.hashed(HostOffset(65536), value(2, 65536));
        recorder.hashed(HostOffset(2 * 65536), value(9, 2 * 65536));
        recorder.hashed(HostOffset(4 * 65536), value(7, 4 * 65536));
        bytes.extend(recorder.finish().unwrap());
        let index = stored(&bytes);
        assert_eq!(index.find(at(1)).unwrap(), Some(digest(1)));
        let plain = RangeDigest::of(&vec![7; LEAF_LEN], Some(HostOffset(4 * 65536)));
        assert_eq!(index.find(at(7)).unwrap(), Some(plain));
        assert_eq!((index.find(at(3)).unwrap(), index.find(at(8)).unwrap()), (None, None));
        assert_eq!((index.records(), index.cluster(2).unwrap()), (4, at(5)));
        assert!(index.cluster(4).is_err());
        let mut scan = index.scan(at(2)).unwrap();
        let mut seen = Vec::new();
        while let Some((guest, _)) = scan.next().unwrap() {
            seen.push(guest.0 / CLUSTER_SIZE);
        }
        assert_eq!(seen, [2, 5, 7]);
    }

    #[test]
    fn a_cluster_that_was_never_hashed_is_a_bug_that_shows() {
        let mut recorder = RangeRecorder::new();
        recorder.plain(at(2), HostOffset(65536));
        assert!(recorder.finish().is_err());
    }

    #[test]
    fn what_is_no_such_object_is_refused() {
        let file = |bytes: &[u8]| {
            let file = tempfile::tempfile().unwrap();
            file.write_all_at(bytes, 0).unwrap();
            file
        };
        let good = RangeRecorder::new().finish().unwrap();
        assert!(RangeIndex::open(file(&good)).is_ok());
        assert!(RangeIndex::open(file(&good[..31])).is_err());
        assert!(RangeIndex::open(file(&[&good[..], &[0; 31]].concat())).is_err());
        let mut later = good;
        later[19] = 2;
        assert!(RangeIndex::open(file(&later)).unwrap_err().to_string().contains("update tidemark"));
    }
}
