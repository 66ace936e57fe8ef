//! Reads images from their first byte to their last, on several threads, window by window, and proves each guest
//! cluster on the way: one read and one hash serve the file's digest and the clusters' digests.
//!
//! ```text
//! plan (under a lock): tables + range digests ─▶ windows of host bytes, with the clusters that lie in them
//! workers:             read ─▶ hash every cluster ─▶ decode and hash what is compressed ─▶ compare
//! ```
//! The planner holds a bounded number of clusters. An image of this product has its clusters nearly in guest order;
//! one that has not is read twice in places, and proved all the same.

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tidemark_model::{ByteLen, Extent, GuestOffset, HostOffset};
use tidemark_qcow2::{CLUSTER_SIZE, ClusterDecoder, Image};
use tokio_util::sync::CancellationToken;

use super::plan::{Expected, Located, Planner, Task};
use super::ranges::DamagedRanges;
use super::reading;
use super::tree::{self, WINDOW, WindowedDigest};
use crate::digest::{LEAF_LEN, chaining_value};
use crate::error::{Error, Result};
use crate::ranges::{RangeDigest, RangeIndex};

/// An image that is to be read.
pub(super) struct Layer {
    pub(super) file: Arc<File>,
    pub(super) image: Image,
    /// The digests of its guest ranges, where there are any.
    pub(super) digests: Option<RangeIndex>,
}

/// How closely to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Depth {
    /// The file's bytes only.
    Bytes,
    /// And every cluster.
    Clusters,
}

/// What is wrong with a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Flaw {
    /// The medium does not give its bytes.
    Unreadable,
    /// Its bytes are no compressed cluster.
    Undecodable,
    /// It has another digest than the recorded one.
    Differs,
    /// A digest is recorded and the image does not store the cluster.
    Missing,
    /// The image stores the cluster and no digest is recorded.
    Unexpected,
}

/// What was found in one image.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// BLAKE3 of the file, in hexadecimal.
    pub(super) digest: Option<String>,
    windows: WindowedDigest,
    /// Where the guest's bytes are not what they were.
    pub(super) damaged: DamagedRanges,
    pub(super) flaws: BTreeMap<Flaw, u64>,
    /// What is wrong with the tables or the digests themselves.
    pub(super) problems: Vec<String>,
    /// Clusters that were compared with a recorded digest.
    pub(super) compared: u64,
    /// Clusters for which there was nothing to compare with.
    pub(super) uncompared: u64,
}

impl Found {
    pub(super) fn flaw(&mut self, guest: GuestOffset, flaw: Flaw) {
        *self.flaws.entry(flaw).or_default() += 1;
        self.damaged.add(Extent { offset: guest, length: ByteLen(CLUSTER_SIZE) });
    }
}

/// With what the work is done.
#[derive(Clone, Copy)]
pub(super) struct Work<'a> {
    pub(super) threads: usize,
    /// Counts the bytes that were read.
    pub(super) read: &'a AtomicU64,
    pub(super) cancel: &'a CancellationToken,
}

/// Reads all layers.
///
/// # Errors
/// Cancelled, and whatever is not the stored bytes' fault.
pub(super) fn scan(layers: &[Layer], depth: Depth, work: &Work<'_>) -> Result<Vec<Found>> {
    let found: Vec<Mutex<Found>> = layers.iter().map(|_| Mutex::default()).collect();
    let planner = Mutex::new(Planner::new(layers, depth));
    let shared = Shared { layers, depth, found: &found, planner: &planner, work };
    let outcomes: Vec<Result<()>> = std::thread::scope(|scope| {
        let workers: Vec<_> =
            (0..work.threads.max(1)).map(|_| scope.spawn(|| Worker::new(&shared).work())).collect();
        let joined = workers.into_iter().map(|worker| {
            worker.join().unwrap_or_else(|_| Err(Error::internal("a verifying thread panicked")))
        });
        joined.collect()
    });
    outcomes.into_iter().collect::<Result<()>>()?;
    let finished = found.into_iter().map(|found| {
        let mut found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
        let windows = std::mem::take(&mut found.windows);
        found.digest = found.digest.take().or_else(|| windows.finish());
        found
    });
    Ok(finished.collect())
}

/// What the workers share.
struct Shared<'a> {
    layers: &'a [Layer],
    depth: Depth,
    found: &'a [Mutex<Found>],
    planner: &'a Mutex<Planner<'a>>,
    work: &'a Work<'a>,
}

/// One thread with memory of its own.
struct Worker<'a> {
    shared: &'a Shared<'a>,
    buffer: Vec<u8>,
    cluster: Vec<u8>,
    decoder: ClusterDecoder,
}

impl<'a> Worker<'a> {
    fn new(shared: &'a Shared<'a>) -> Self {
        Self { shared, buffer: Vec::new(), cluster: vec![0; LEAF_LEN], decoder: ClusterDecoder::new() }
    }

    fn work(mut self) -> Result<()> {
        loop {
            if self.shared.work.cancel.is_cancelled() {
                return Err(Error::cancelled());
            }
            let task =
                self.shared.planner.lock().unwrap_or_else(PoisonError::into_inner).next(self.shared.found);
            let done = match task {
                Ok(None) => return Ok(()),
                Ok(Some(task)) => self.carry_out(&task),
                Err(error) => Err(error),
            };
            if let Err(error) = done {
                // The others have nothing more to do then.
                self.shared.planner.lock().unwrap_or_else(PoisonError::into_inner).stop();
                return Err(error);
            }
        }
    }

    fn carry_out(&mut self, task: &Task) -> Result<()> {
        match task {
            Task::Window { layer, offset, length, clusters } => {
                self.window(*layer, *offset, *length, clusters)
            }
            Task::Stragglers { layer, clusters } => {
                clusters.iter().try_for_each(|cluster| self.straggler(*layer, cluster))
            }
        }
    }

    /// Reads a window and proves what begins in it.
    fn window(&mut self, number: usize, offset: u64, length: u64, clusters: &[Located]) -> Result<()> {
        let layer = &self.shared.layers[number];
        let size = layer.image.file_size().0;
        let reach = clusters.iter().map(Located::end).max().unwrap_or(0);
        let end = reach.max(offset + length).min(size);
        let unreadable = self.fill(layer, offset, end - offset)?;
        let own = in_memory(length);
        let mut verdicts = Vec::new();
        let value = if self.shared.depth == Depth::Bytes {
            Some(chaining_value(&self.buffer[..own], HostOffset(offset)))
        } else {
            let mut leaves = Vec::with_capacity(own / LEAF_LEN + 1);
            let mut plain = clusters.iter().filter(|cluster| !cluster.compressed).peekable();
            for (leaf, at) in self.buffer[..own].chunks(LEAF_LEN).zip((offset..).step_by(LEAF_LEN)) {
                let value = chaining_value(leaf, HostOffset(at));
                leaves.push(value);
                while let Some(cluster) = plain.next_if(|cluster| cluster.host == at) {
                    // The file's last cluster may be cut off; the guest sees zeros there.
                    let digest = match leaf.len() {
                        LEAF_LEN => RangeDigest::from(value),
                        _ => RangeDigest::of(leaf, Some(HostOffset(at))),
                    };
                    verdicts.push((cluster, Ok(digest)));
                }
            }
            tree::join(&leaves)
        };
        for cluster in clusters.iter().filter(|cluster| cluster.compressed) {
            let from = in_memory(cluster.host - offset);
            let stored = &self.buffer[from..in_memory(cluster.end().min(end) - offset)];
            verdicts.push((cluster, decode(&mut self.decoder, &layer.image, stored, &mut self.cluster)));
        }
        let bad = |cluster: &Located| {
            let (start, end) = (in_memory(cluster.host - offset), in_memory(cluster.end() - offset));
            unreadable.iter().any(|&at| at < end && start < at + LEAF_LEN)
        };
        let mut found = self.shared.found[number].lock().unwrap_or_else(PoisonError::into_inner);
        if size <= WINDOW {
            found.digest = Some(blake3::hash(&self.buffer[..own]).to_hex().to_string());
        } else if let Some(value) = value {
            found.windows.add(offset / WINDOW, value);
        }
        for (cluster, digest) in verdicts {
            judge(&mut found, cluster, if bad(cluster) { Err(Flaw::Unreadable) } else { digest });
        }
        Ok(())
    }

    /// Proves one cluster whose window was read before.
    fn straggler(&mut self, number: usize, cluster: &Located) -> Result<()> {
        let layer = &self.shared.layers[number];
        let end = cluster.end().min(layer.image.file_size().0);
        let unreadable = self.fill(layer, cluster.host, end - cluster.host)?;
        let digest = match (unreadable.is_empty(), cluster.compressed) {
            (false, _) => Err(Flaw::Unreadable),
            (true, true) => decode(&mut self.decoder, &layer.image, &self.buffer, &mut self.cluster),
            (true, false) => Ok(RangeDigest::of(&self.buffer, Some(HostOffset(cluster.host)))),
        };
        let mut found = self.shared.found[number].lock().unwrap_or_else(PoisonError::into_inner);
        judge(&mut found, cluster, digest);
        Ok(())
    }

    fn fill(&mut self, layer: &Layer, offset: u64, length: u64) -> Result<Vec<usize>> {
        self.buffer.resize(in_memory(length), 0);
        let unreadable = reading::read_window(&layer.file, offset, &mut self.buffer)
            .map_err(|e| Error::io(format!("reading an object at byte {offset}"), e))?;
        self.shared.work.read.fetch_add(length, Ordering::Relaxed);
        Ok(unreadable)
    }
}

fn decode(
    decoder: &mut ClusterDecoder,
    image: &Image,
    stored: &[u8],
    cluster: &mut [u8],
) -> std::result::Result<RangeDigest, Flaw> {
    match decoder.decode(image, stored, cluster) {
        Ok(()) => Ok(RangeDigest::of(cluster, None)),
        Err(_) => Err(Flaw::Undecodable),
    }
}

fn judge(found: &mut Found, cluster: &Located, digest: std::result::Result<RangeDigest, Flaw>) {
    match (digest, &cluster.expected) {
        (Err(flaw), _) => found.flaw(cluster.guest, flaw),
        (Ok(_), Expected::Nothing) => found.uncompared += 1,
        (Ok(_), Expected::Absent) => found.flaw(cluster.guest, Flaw::Unexpected),
        (Ok(digest), Expected::Digest(expected)) => {
            found.compared += 1;
            if digest != *expected {
                found.flaw(cluster.guest, Flaw::Differs);
            }
        }
    }
}

/// A length within a window and a cluster.
fn in_memory(length: u64) -> usize {
    usize::try_from(length).unwrap_or(usize::MAX)
}
