//! The packed layout: clusters go through the streaming writer in guest order. A batch of them is planned first, then
//! read with as few requests as their places in the layers allow, then pushed.

use bytes::Bytes;
use tidemark_model::{ByteLen, Extent, GuestOffset, HostOffset};
use zstd::zstd_safe::find_frame_compressed_size;

use crate::encode::EncodedCluster;
use crate::error::{Error, Result};
use crate::format::{CLUSTER_BYTES, CLUSTER_SIZE, L2_SPAN, SECTOR_BYTES};
use crate::image::{Image, in_memory};
use crate::merge::plan::{Planner, Run, Take};
use crate::merge::rebuild::Rebuilder;
use crate::merge::{MergedCluster, Piece};
use crate::writer::{FinishedImage, ImageSpec, ImageWriter};

/// Bytes of the layers in one batch, those between the wanted ones not counted.
const BATCH_BYTES: u64 = 4 << 20;
/// Runs in one batch: frames may be tiny.
const BATCH_RUNS: usize = 4096;
/// The longest read.
const READ_BYTES: u64 = 1 << 20;
/// Unwanted bytes that are read along rather than sought over.
const READ_GAP: u64 = 32 << 10;

pub(super) struct Packed {
    layers: Vec<Image>,
    planner: Planner,
    rebuilder: Rebuilder,
    writer: ImageWriter,
    mapped: Vec<MergedCluster>,
    done: bool,
}

impl Packed {
    pub(super) fn new(layers: &[Image], rebuilder: Rebuilder, spec: ImageSpec) -> Result<Self> {
        Ok(Self {
            layers: layers.to_vec(),
            planner: Planner::new(layers, rebuilder.below_size()),
            rebuilder,
            writer: ImageWriter::new(spec)?,
            mapped: Vec::new(),
            done: false,
        })
    }

    pub(super) fn next(&mut self) -> Result<Option<Vec<Piece>>> {
        if self.done {
            return Ok(None);
        }
        let batch = self.plan()?;
        self.done = batch.is_empty();
        let sources = read_all(&self.layers, &batch)?;
        for (run, source) in batch.iter().zip(sources) {
            self.push(run, source)?;
        }
        Ok(Some(self.writer.take_output().into_iter().map(Piece::Bytes).collect()))
    }

    pub(super) fn take_mapped(&mut self) -> Vec<MergedCluster> {
        std::mem::take(&mut self.mapped)
    }

    pub(super) fn position(&self) -> GuestOffset {
        GuestOffset(self.planner.at())
    }

    pub(super) fn finish(self) -> Result<FinishedImage> {
        if !self.done {
            return Err(Error::invalid("a merge was ended before it was done"));
        }
        self.writer.finish()
    }

    /// Runs whose bytes fit in a batch; none at the disk's end.
    fn plan(&mut self) -> Result<Vec<Run>> {
        let mut batch = Vec::new();
        let mut bytes = 0;
        while bytes < BATCH_BYTES && batch.len() < BATCH_RUNS {
            let from = self.planner.at();
            let limit = (BATCH_BYTES - bytes).div_ceil(CLUSTER_SIZE);
            let Some(run) = self.planner.next(limit)? else { break };
            match run.take {
                Take::Plain { .. } => {
                    bytes += run.count * CLUSTER_SIZE;
                    batch.extend(cut(run));
                }
                Take::Frame { length, .. } => {
                    bytes += length;
                    batch.push(run);
                }
                Take::Rebuild { .. } => {
                    bytes += CLUSTER_SIZE;
                    batch.push(run);
                }
                Take::Zero | Take::Below => batch.push(run),
            }
            // The tables that this may complete; a wide zero range is nothing else.
            bytes += (self.planner.at() / L2_SPAN - from / L2_SPAN) * CLUSTER_SIZE;
        }
        Ok(batch)
    }

    fn push(&mut self, run: &Run, source: Option<Bytes>) -> Result<()> {
        let guest = GuestOffset(run.first * CLUSTER_SIZE);
        match (run.take, source) {
            (Take::Plain { layer, .. }, Some(bytes)) => (0..run.count).try_for_each(|index| {
                let from = in_memory(index * CLUSTER_SIZE);
                let guest = GuestOffset(guest.0 + index * CLUSTER_SIZE);
                self.push_plain(guest, layer, bytes.slice(from..from + CLUSTER_BYTES))
            }),
            (Take::Frame { layer, host, .. }, Some(bytes)) => self.push_frame(run.first, layer, host, &bytes),
            (Take::Rebuild { layer, below }, _) => self.rebuild(run.first, layer, below),
            (Take::Zero, _) => self.zero(run.first, run.count),
            _ => Ok(()),
        }
    }

    fn push_plain(&mut self, guest: GuestOffset, layer: usize, bytes: Bytes) -> Result<()> {
        let host = self.writer.push(guest, EncodedCluster::Plain(bytes))?.unwrap_or(HostOffset(0));
        self.mapped.push(MergedCluster::Plain { guest, layer, host });
        Ok(())
    }

    /// What the table says of a frame's length is rounded up to the sector; its own headers know it to the byte.
    fn push_frame(&mut self, index: u64, layer: usize, host: u64, bytes: &Bytes) -> Result<()> {
        let length = find_frame_compressed_size(bytes).map_err(|_| {
            let guest = index * CLUSTER_SIZE;
            Error::corrupt(format!("no whole frame at host offset {host} for guest offset {guest}"))
                .within(format_args!("layer {layer}"))
        })?;
        // Our writer takes no frame that saves less than a sector; qemu's does.
        if length + SECTOR_BYTES > CLUSTER_BYTES {
            return self.rebuild(index, layer, false);
        }
        let guest = GuestOffset(index * CLUSTER_SIZE);
        self.writer.push(guest, EncodedCluster::Compressed(bytes.slice(..length)))?;
        self.mapped.push(MergedCluster::Compressed { guest, layer });
        Ok(())
    }

    fn rebuild(&mut self, index: u64, layer: usize, below: bool) -> Result<()> {
        match self.rebuilder.cluster(index, below)? {
            Some(bytes) => self.push_plain(GuestOffset(index * CLUSTER_SIZE), layer, bytes),
            None => self.zero(index, 1),
        }
    }

    fn zero(&mut self, first: u64, count: u64) -> Result<()> {
        let (start, end) = (first * CLUSTER_SIZE, (first + count) * CLUSTER_SIZE);
        let length = end.min(self.planner.size()) - start;
        self.writer.zero(Extent { offset: GuestOffset(start), length: ByteLen(length) })
    }
}

/// A plain run in pieces of at most one read.
fn cut(run: Run) -> impl Iterator<Item = Run> {
    const STEP: u64 = READ_BYTES / CLUSTER_SIZE;
    (0..run.count).step_by(in_memory(STEP)).map(move |from| {
        let take = match run.take {
            Take::Plain { layer, host } => Take::Plain { layer, host: host + from * CLUSTER_SIZE },
            take => take,
        };
        Run { first: run.first + from, count: STEP.min(run.count - from), take }
    })
}

/// A wanted range of a layer's file and the run it is for.
struct Wanted {
    layer: usize,
    host: u64,
    length: u64,
    run: usize,
}

/// The bytes that each run takes from its layer's file, neighbours read together.
fn read_all(layers: &[Image], batch: &[Run]) -> Result<Vec<Option<Bytes>>> {
    let mut wanted: Vec<Wanted> = batch
        .iter()
        .enumerate()
        .filter_map(|(run, planned)| match planned.take {
            Take::Plain { layer, host } => {
                Some(Wanted { layer, host, length: planned.count * CLUSTER_SIZE, run })
            }
            Take::Frame { layer, host, length } => Some(Wanted { layer, host, length, run }),
            _ => None,
        })
        .collect();
    wanted.sort_unstable_by_key(|wanted| (wanted.layer, wanted.host));
    let mut sources = vec![None; batch.len()];
    let mut rest = &wanted[..];
    while let Some(first) = rest.first() {
        let mut end = first.host + first.length;
        let mut taken = 1;
        for next in &rest[1..] {
            let reach = end.max(next.host + next.length);
            if next.layer != first.layer || next.host > end + READ_GAP || reach - first.host > READ_BYTES {
                break;
            }
            end = reach;
            taken += 1;
        }
        let mut bytes = vec![0; in_memory(end - first.host)];
        layers[first.layer]
            .read_host(first.host, &mut bytes)
            .map_err(|error| error.within(format_args!("layer {}", first.layer)))?;
        let bytes = Bytes::from(bytes);
        for wanted in &rest[..taken] {
            let from = in_memory(wanted.host - first.host);
            sources[wanted.run] = Some(bytes.slice(from..from + in_memory(wanted.length)));
        }
        rest = &rest[taken..];
    }
    Ok(sources)
}
