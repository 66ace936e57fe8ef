//! What is to become of each guest cluster: the walk over the merged layers, cut along the 64 KiB grid.

use crate::chain::{Chain, Segment, Walker};
use crate::error::Result;
use crate::format::{CLUSTER_BITS, CLUSTER_SIZE};
use crate::header::CompressionType;
use crate::image::{Image, Stored};

/// L2 tables kept beside each layer's current one: the walk goes forward and comes back to none.
const TABLE_CACHE_BYTES: usize = 4 << 20;

/// Clusters of zeros, or of nothing, in one run: 32 GiB, 64 tables.
pub(super) const ZERO_RUN: u64 = 1 << 19;

/// Where a guest cluster of the result comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Take {
    /// From below: no merged layer has it.
    Below,
    /// It reads as zero, whatever lies below.
    Zero,
    /// 64 KiB of a layer's file from `host` on; in a run, each cluster's follow the one before.
    Plain { layer: usize, host: u64 },
    /// A zstd frame within `length` bytes from `host` on.
    Frame { layer: usize, host: u64, length: u64 },
    /// From several places, or from one that cannot be copied. `layer` is the topmost of them; `below` says whether
    /// the images below the merged ones are among them.
    Rebuild { layer: usize, below: bool },
}

/// Guest clusters that are dealt with alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    /// The first one's index.
    pub(super) first: u64,
    /// How many; one for frames and rebuilt ones.
    pub(super) count: u64,
    pub(super) take: Take,
}

/// Goes through the whole disk once.
pub(super) struct Planner {
    chain: Chain,
    walker: Walker,
    /// The segment that is not used up, from `at` on.
    rest: Option<Segment>,
    at: u64,
    size: u64,
    /// Where the disk below ends, when that is known.
    below_size: Option<u64>,
}

impl Planner {
    pub(super) fn new(layers: &[Image], below_size: Option<u64>) -> Self {
        let chain = Chain::stacked(layers.to_vec(), TABLE_CACHE_BYTES);
        let size = chain.virtual_size().0;
        let walker = Walker::new(&chain, 0, size);
        Self { chain, walker, rest: None, at: 0, size, below_size }
    }

    /// Guest bytes below this offset are planned.
    pub(super) fn at(&self) -> u64 {
        self.at
    }

    /// How large the disk is.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// The next run, of at most `limit` clusters where they hold data; none at the disk's end.
    pub(super) fn next(&mut self, limit: u64) -> Result<Option<Run>> {
        let Some(segment) = self.segment()? else { return Ok(None) };
        let first = self.at / CLUSTER_SIZE;
        let whole = segment.length / CLUSTER_SIZE;
        if whole == 0 && self.at + segment.length < self.size {
            return self.mixed().map(Some);
        }
        let take = self.take(&segment);
        let count = match take {
            Take::Frame { .. } | Take::Rebuild { .. } => 1,
            Take::Plain { .. } => whole.clamp(1, limit.max(1)),
            Take::Zero | Take::Below => whole.clamp(1, ZERO_RUN),
        };
        self.advance((count * CLUSTER_SIZE).min(segment.length));
        Ok(Some(Run { first, count, take }))
    }

    /// What lies at the current offset, with everything known to follow.
    fn segment(&mut self) -> Result<Option<Segment>> {
        if self.rest.is_none() {
            self.rest = self.walker.next(&self.chain).transpose()?;
        }
        Ok(self.rest)
    }

    fn advance(&mut self, length: u64) {
        self.at += length;
        self.rest = self.rest.filter(|rest| rest.length > length).map(|rest| Segment {
            stored: rest.stored.after(length),
            length: rest.length - length,
            ..rest
        });
    }

    /// For a segment that holds all of a cluster that the disk has.
    fn take(&self, segment: &Segment) -> Take {
        let &Segment { layer, stored, length } = segment;
        let Some(image) = self.chain.layers().get(layer) else { return Take::Below };
        // Beyond the disk's end a plain cluster may hold anything (qemu copies from the backing file there), a frame
        // only in a layer that is longer than the disk.
        let partial = length < CLUSTER_SIZE;
        let overhangs = partial && image.virtual_size().0 > self.size;
        let header = image.header();
        let zstd = header.compression == CompressionType::Zstd && header.cluster_bits == CLUSTER_BITS;
        match stored {
            Stored::Nothing | Stored::Zero => Take::Zero,
            Stored::Plain { host } if !partial => Take::Plain { layer, host },
            Stored::Compressed { host, length, within: 0 } if zstd && !overhangs => {
                Take::Frame { layer, host, length }
            }
            _ => Take::Rebuild { layer, below: false },
        }
    }

    /// For a cluster of several segments.
    fn mixed(&mut self) -> Result<Run> {
        let first = self.at / CLUSTER_SIZE;
        let end = (self.at + CLUSTER_SIZE).min(self.size);
        let layers = self.chain.layers().len();
        let mut topmost = layers;
        let (mut data, mut below, mut zero_from) = (false, false, None);
        while self.at < end {
            let Some(segment) = self.segment()? else { break };
            match segment.stored {
                Stored::Nothing | Stored::Zero if segment.layer == layers => below = true,
                Stored::Nothing | Stored::Zero => zero_from = zero_from.or(Some(self.at)),
                Stored::Plain { .. } | Stored::Compressed { .. } => data = true,
            }
            topmost = topmost.min(segment.layer);
            self.advance(segment.length.min(end - self.at));
        }
        // Zeros that a shorter layer makes of what the disk below does not have either need no mark.
        let ends_below = self.below_size.is_some_and(|size| zero_from.is_none_or(|zero| size <= zero));
        let take = match (data, below, zero_from) {
            (false, true, None) => Take::Below,
            (false, true, _) if ends_below => Take::Below,
            (false, false, _) => Take::Zero,
            _ => Take::Rebuild { layer: topmost, below },
        };
        Ok(Run { first, count: 1, take })
    }
}
