//! Filling a buffer from a chain's segments: plain runs by one read each, compressed clusters that lie close
//! together in a file by one read for all, decoded straight into the buffer where it wants the whole cluster.

use std::sync::Arc;

use crate::chain::{Chain, Walk};
use crate::decode::Decoder;
use crate::error::Result;
use crate::image::{Image, Stored, in_memory};

/// The most compressed bytes read at once: the memory of a reading thread beside its buffer.
const GROUP_BYTES: u64 = 1 << 20;
/// Unwanted bytes between two compressed clusters that are read along rather than sought over.
const GROUP_GAP: u64 = 64 << 10;

/// A compressed cluster that is wanted, and the part of the buffer it goes to.
struct Wanted<'b> {
    host: u64,
    length: u64,
    within: u64,
    target: &'b mut [u8],
}

/// Compressed clusters of one layer whose bytes lie in `[start, end)`.
struct Group<'b> {
    layer: usize,
    start: u64,
    end: u64,
    clusters: Vec<Wanted<'b>>,
}

/// What a reading thread uses again: contexts, and the memory that compressed bytes are read into.
pub(crate) struct Scratch {
    decoder: Decoder,
    packed: Vec<u8>,
}

impl Scratch {
    pub(crate) fn new() -> Self {
        Self { decoder: Decoder::new(), packed: Vec::new() }
    }

    /// So much memory; what is in it does not matter, so that it is not cleared.
    fn packed(&mut self, length: usize) -> (&mut [u8], &mut Decoder) {
        if self.packed.len() < length {
            self.packed.resize(length, 0);
        }
        (&mut self.packed[..length], &mut self.decoder)
    }
}

pub(crate) fn fill(chain: &Chain, walk: Walk<'_>, buffer: &mut [u8], scratch: &mut Scratch) -> Result<()> {
    let mut rest = buffer;
    let mut group: Option<Group<'_>> = None;
    for segment in walk {
        let segment = segment?;
        let (target, after) = rest.split_at_mut(in_memory(segment.length));
        rest = after;
        match segment.stored {
            Stored::Nothing | Stored::Zero => target.fill(0),
            Stored::Plain { host } => chain.layers()[segment.layer]
                .read_host(host, target)
                .map_err(|error| error.within(format_args!("layer {}", segment.layer)))?,
            Stored::Compressed { host, length, within } => {
                let wanted = Wanted { host, length, within, target };
                group = match group.take() {
                    Some(mut open) if open.takes(segment.layer, &wanted) => {
                        open.push(wanted);
                        Some(open)
                    }
                    full => {
                        read_group(chain, full, scratch)?;
                        Some(Group::begin(segment.layer, wanted))
                    }
                };
            }
        }
    }
    read_group(chain, group, scratch)
}

impl<'b> Group<'b> {
    fn begin(layer: usize, first: Wanted<'b>) -> Self {
        Self { layer, start: first.host, end: first.host + first.length, clusters: vec![first] }
    }

    fn takes(&self, layer: usize, next: &Wanted<'b>) -> bool {
        layer == self.layer
            && next.host >= self.start
            && next.host <= self.end.saturating_add(GROUP_GAP)
            && next.host + next.length - self.start <= GROUP_BYTES
    }

    fn push(&mut self, next: Wanted<'b>) {
        self.end = self.end.max(next.host + next.length);
        self.clusters.push(next);
    }
}

fn read_group(chain: &Chain, group: Option<Group<'_>>, scratch: &mut Scratch) -> Result<()> {
    let Some(mut group) = group else { return Ok(()) };
    let image = &chain.layers()[group.layer];
    let cluster_bytes = in_memory(image.header().cluster_size());
    // A small read of a cluster that an earlier small read decoded needs no I/O.
    group.clusters.retain_mut(|wanted| {
        let cached =
            (wanted.target.len() < cluster_bytes).then(|| chain.clusters.get((group.layer, wanted.host)));
        let Some(cluster) = cached.flatten() else { return true };
        copy_part(&cluster, wanted);
        false
    });
    if group.clusters.is_empty() {
        return Ok(());
    }
    let (packed, decoder) = scratch.packed(in_memory(group.end - group.start));
    let outer = |error: crate::Error| error.within(format_args!("layer {}", group.layer));
    image.read_host(group.start, packed).map_err(outer)?;
    for wanted in &mut group.clusters {
        let from = in_memory(wanted.host - group.start);
        let input = &packed[from..from + in_memory(wanted.length)];
        decode_one(chain, group.layer, image, input, wanted, decoder)
            .map_err(|error| outer(error.within(format_args!("host offset {}", wanted.host))))?;
    }
    Ok(())
}

fn decode_one(
    chain: &Chain,
    layer: usize,
    image: &Image,
    input: &[u8],
    wanted: &mut Wanted<'_>,
    decoder: &mut Decoder,
) -> Result<()> {
    let header = image.header();
    let cluster_bytes = in_memory(header.cluster_size());
    if wanted.target.len() == cluster_bytes {
        return decoder.decode(header.compression, input, wanted.target);
    }
    let mut cluster = vec![0; cluster_bytes];
    decoder.decode(header.compression, input, &mut cluster)?;
    copy_part(&cluster, wanted);
    chain.clusters.insert((layer, wanted.host), Arc::from(cluster));
    Ok(())
}

fn copy_part(cluster: &[u8], wanted: &mut Wanted<'_>) {
    let from = in_memory(wanted.within);
    wanted.target.copy_from_slice(&cluster[from..from + wanted.target.len()]);
}
