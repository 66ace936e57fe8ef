//! Which window of which image is read next, and which guest clusters lie in it: the image's tables and its range
//! digests are gone through together, in guest order, a bounded way ahead of the windows.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::{Mutex, PoisonError};

use tidemark_model::{ByteLen, Extent, GuestOffset};
use tidemark_qcow2::{CLUSTER_SIZE, StoredClusters, StoredKind};

use super::scan::{Depth, Flaw, Found, Layer};
use super::tree::WINDOW;
use crate::error::{Error, Result};
use crate::ranges::{RangeDigest, RangeScan};

/// Clusters known ahead of the windows: 4 GiB of the guest; few in tests, so that images there are out of order too.
const LOOKAHEAD: usize = if cfg!(test) { 32 } else { 65_536 };
/// Clusters behind their window that are read as one task.
const STRAGGLERS: usize = 64;
/// Problems of one image that are told.
const TOLD: usize = 16;

/// What a cluster is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expected {
    /// The image has no range digests.
    Nothing,
    /// The image has range digests, and none for this cluster.
    Absent,
    /// This one.
    Digest(RangeDigest),
}

/// A guest cluster and where its bytes are in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Located {
    pub(super) host: u64,
    pub(super) length: u64,
    pub(super) compressed: bool,
    pub(super) guest: GuestOffset,
    pub(super) expected: Expected,
}

impl Located {
    pub(super) fn end(&self) -> u64 {
        self.host.saturating_add(self.length)
    }
}

impl Ord for Located {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.host, self.guest).cmp(&(other.host, other.guest))
    }
}

impl PartialOrd for Located {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// Something to read.
pub(super) enum Task {
    /// The next bytes of a file, and the clusters that begin there, by ascending host offset.
    Window { layer: usize, offset: u64, length: u64, clusters: Vec<Located> },
    /// Clusters whose window was given out before they were known.
    Stragglers { layer: usize, clusters: Vec<Located> },
}

/// Gives out tasks, image by image.
pub(super) struct Planner<'a> {
    layers: &'a [Layer],
    depth: Depth,
    next: usize,
    current: Option<LayerPlan<'a>>,
}

impl<'a> Planner<'a> {
    pub(super) fn new(layers: &'a [Layer], depth: Depth) -> Self {
        Self { layers, depth, next: 0, current: None }
    }

    /// Gives out nothing more.
    pub(super) fn stop(&mut self) {
        self.current = None;
        self.next = self.layers.len();
    }

    /// The next task; none when everything was given out. What the tables themselves show goes to `found`.
    pub(super) fn next(&mut self, found: &[Mutex<Found>]) -> Result<Option<Task>> {
        loop {
            if let Some(plan) = &mut self.current {
                let mut found = found[plan.layer].lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(task) = plan.next(&mut found)? {
                    return Ok(Some(task));
                }
                self.current = None;
            }
            let Some(layer) = self.layers.get(self.next) else { return Ok(None) };
            self.current = Some(LayerPlan::new(self.next, layer, self.depth)?);
            self.next += 1;
        }
    }
}

/// One image.
struct LayerPlan<'a> {
    layer: usize,
    clusters: Option<StoredClusters<'a>>,
    digests: Option<Digests<'a>>,
    waiting: BinaryHeap<Reverse<Located>>,
    stragglers: Vec<Located>,
    position: u64,
    size: u64,
}

/// Range digests with the next one at hand.
struct Digests<'a> {
    scan: RangeScan<'a>,
    next: Option<(GuestOffset, RangeDigest)>,
}

impl<'a> LayerPlan<'a> {
    fn new(number: usize, layer: &'a Layer, depth: Depth) -> Result<Self> {
        let whole = Extent { offset: GuestOffset(0), length: layer.image.virtual_size() };
        let digests = match (&layer.digests, depth) {
            (Some(index), Depth::Clusters) => Some(index.scan(GuestOffset(0))?),
            _ => None,
        };
        let digests = match digests {
            Some(mut scan) => Some(Digests { next: scan.next()?, scan }),
            None => None,
        };
        Ok(Self {
            layer: number,
            clusters: (depth == Depth::Clusters).then(|| layer.image.stored_clusters(whole)),
            digests,
            waiting: BinaryHeap::new(),
            stragglers: Vec::new(),
            position: 0,
            size: layer.image.file_size().0,
        })
    }

    fn next(&mut self, found: &mut Found) -> Result<Option<Task>> {
        loop {
            while self.clusters.is_some() && self.waiting.len() < LOOKAHEAD {
                self.look_ahead(found)?;
            }
            if self.stragglers.len() >= STRAGGLERS {
                return Ok(self.take_stragglers());
            }
            if self.position < self.size {
                return Ok(Some(self.window()));
            }
            // Only what lies behind the last window is left.
            while let Some(Reverse(late)) = self.waiting.pop() {
                self.stragglers.push(late);
            }
            if self.clusters.is_none() {
                return Ok(self.take_stragglers());
            }
        }
    }

    fn take_stragglers(&mut self) -> Option<Task> {
        let clusters = std::mem::take(&mut self.stragglers);
        (!clusters.is_empty()).then_some(Task::Stragglers { layer: self.layer, clusters })
    }

    fn window(&mut self) -> Task {
        let (offset, length) = (self.position, WINDOW.min(self.size - self.position));
        self.position += length;
        let mut clusters = Vec::new();
        while let Some(Reverse(next)) = self.waiting.pop_if_before(self.position) {
            if next.host < offset { self.stragglers.push(next) } else { clusters.push(next) }
        }
        Task::Window { layer: self.layer, offset, length, clusters }
    }

    /// Takes the next cluster from the tables and the digests up to it.
    fn look_ahead(&mut self, found: &mut Found) -> Result<()> {
        let Some(clusters) = &mut self.clusters else { return Ok(()) };
        let cluster = match clusters.next() {
            Some(Ok(cluster)) => cluster,
            Some(Err(error)) => {
                let words = Error::from(error).into_damage()?;
                if found.problems.len() < TOLD {
                    found.problems.push(words);
                }
                return Ok(());
            }
            None => {
                self.clusters = None;
                return self.expected(GuestOffset(u64::MAX), found).map(drop);
            }
        };
        let expected = self.expected(cluster.guest, found)?;
        let (host, length, compressed) = match cluster.kind {
            StoredKind::Zero => {
                if let Expected::Digest(_) = expected {
                    found.flaw(cluster.guest, Flaw::Missing);
                }
                return Ok(());
            }
            StoredKind::Plain { host } => (host, ByteLen(CLUSTER_SIZE), false),
            StoredKind::Compressed { host, length } => (host, length, true),
        };
        let located = Located { host: host.0, length: length.0, compressed, guest: cluster.guest, expected };
        self.waiting.push(Reverse(located));
        Ok(())
    }

    /// The digest of this cluster. Those before it are of clusters that the image does not store.
    fn expected(&mut self, guest: GuestOffset, found: &mut Found) -> Result<Expected> {
        let Some(digests) = &mut self.digests else { return Ok(Expected::Nothing) };
        while let Some((listed, digest)) = digests.next.filter(|(listed, _)| *listed <= guest) {
            digests.next = digests.scan.next()?;
            if listed == guest {
                return Ok(Expected::Digest(digest));
            }
            found.flaw(listed, Flaw::Missing);
        }
        Ok(Expected::Absent)
    }
}

/// A heap's least cluster, as long as it begins before an offset.
trait PopBefore {
    fn pop_if_before(&mut self, end: u64) -> Option<Reverse<Located>>;
}

impl PopBefore for BinaryHeap<Reverse<Located>> {
    fn pop_if_before(&mut self, end: u64) -> Option<Reverse<Located>> {
        if self.peek().is_some_and(|Reverse(next)| next.host < end) { self.pop() } else { None }
    }
}
