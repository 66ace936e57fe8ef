//! The shared layout. Two passes over the tables: the first marks the host clusters that are still needed, the second
//! makes the new tables once it is known where those go.
//!
//! ```text
//! blank │ needed host clusters of layer 0, 1, … ascending │ L2 tables, rebuilt clusters between them │ L1 │
//!       │ marked in the first pass                        │ made in the second
//!       │ refcount blocks │ refcount table
//! ```

use bytes::Bytes;
use tidemark_model::{ByteLen, GuestOffset, HostOffset};

use crate::encode::Compression;
use crate::error::{Error, Result};
use crate::format::{CLUSTER_BYTES, CLUSTER_SIZE, COPIED, REFCOUNT_ENTRIES, compressed_entry};
use crate::header::Header;
use crate::image::Image;
use crate::merge::hosts::{Cursor, HostMap};
use crate::merge::plan::{Planner, Run, Take};
use crate::merge::rebuild::Rebuilder;
use crate::merge::{MergedCluster, Piece};
use crate::refcounts::{RefcountTable, covering, table_bytes};
use crate::tables::GuestTables;
use crate::writer::{FinishedImage, ImageSpec};

/// Runs dealt with in one step; at most as many guest clusters with data, and 8 MiB of tables.
const STEP_RUNS: usize = 4096;
/// Guest clusters in one plain run.
const PLAIN_RUN: u64 = 4096;
/// Output of one step, without what its last run adds: 8 MiB.
const STEP_BYTES: usize = 4 << 20;
/// Host clusters in one copied run: 256 MiB.
const COPY_RUN: u64 = 4096;
/// Pieces in one step.
const STEP_PIECES: usize = 256;

pub(super) struct Shared {
    layers: Vec<Image>,
    hosts: Vec<HostMap>,
    planner: Planner,
    rebuilder: Rebuilder,
    spec: ImageSpec,
    phase: Phase,
    tables: GuestTables,
    /// Bytes to hand out, and where the next ones go in the file.
    out: Vec<Bytes>,
    end: u64,
    mapped: Vec<MergedCluster>,
    finished: FinishedImage,
}

#[derive(Debug, Clone, Copy)]
enum Phase {
    Marking,
    Copying {
        layer: usize,
        cursor: Cursor,
    },
    Tables,
    /// Refcount blocks: `next` of `blocks`; the counts of host clusters go on in `layer` at `cursor`.
    Counting {
        next: u64,
        layer: usize,
        cursor: Cursor,
        counts: Counts,
    },
    Done,
}

/// What the refcounts have to cover.
#[derive(Debug, Clone, Copy)]
struct Counts {
    /// The first host cluster after the copied ones.
    copied: u64,
    /// Clusters of the file before the refcount blocks.
    used: u64,
    blocks: u64,
    table_clusters: u64,
    l1_offset: u64,
}

impl Shared {
    pub(super) fn new(layers: &[Image], rebuilder: Rebuilder, spec: ImageSpec) -> Result<Self> {
        crate::writer::validate(&spec)?;
        Ok(Self {
            layers: layers.to_vec(),
            hosts: layers.iter().map(|_| HostMap::default()).collect(),
            planner: Planner::new(layers, rebuilder.below_size()),
            tables: GuestTables::new(spec.virtual_size.0),
            rebuilder,
            spec,
            phase: Phase::Marking,
            out: Vec::new(),
            end: CLUSTER_SIZE,
            mapped: Vec::new(),
            finished: FinishedImage {
                tail: Vec::new(),
                header: Bytes::new(),
                file_size: ByteLen(0),
                plain_clusters: 0,
                compressed_clusters: 0,
                zero_clusters: 0,
            },
        })
    }

    pub(super) fn next(&mut self) -> Result<Option<Vec<Piece>>> {
        match self.phase {
            Phase::Marking => self.mark().map(Some),
            Phase::Copying { layer, cursor } => self.copy(layer, cursor).map(Some),
            Phase::Tables => self.make_tables().map(Some),
            Phase::Counting { next, layer, cursor, counts } => {
                Ok(Some(self.count(next, layer, cursor, counts)))
            }
            Phase::Done => Ok(None),
        }
    }

    pub(super) fn take_mapped(&mut self) -> Vec<MergedCluster> {
        std::mem::take(&mut self.mapped)
    }

    pub(super) fn position(&self) -> GuestOffset {
        GuestOffset(self.planner.at())
    }

    pub(super) fn finish(self) -> Result<FinishedImage> {
        match self.phase {
            Phase::Done => Ok(self.finished),
            _ => Err(Error::invalid("a merge was ended before it was done")),
        }
    }

    /// A step of the first pass.
    fn mark(&mut self) -> Result<Vec<Piece>> {
        for _ in 0..STEP_RUNS {
            let Some(run) = self.planner.next(PLAIN_RUN)? else {
                let mut next = 1;
                for hosts in &mut self.hosts {
                    next = hosts.settle(next);
                }
                self.end = next * CLUSTER_SIZE;
                self.planner = Planner::new(&self.layers, self.rebuilder.below_size());
                self.phase = Phase::Copying { layer: 0, cursor: Cursor::default() };
                return Ok(vec![Piece::Bytes(Bytes::from(vec![0; CLUSTER_BYTES]))]);
            };
            match copied(run.take) {
                Take::Plain { layer, host } => {
                    self.hosts[layer].plain(host, run.count).map_err(|error| in_layer(error, layer))?;
                }
                Take::Frame { layer, host, length } => {
                    self.hosts[layer].frame(host, length).map_err(|error| in_layer(error, layer))?;
                }
                _ => {}
            }
        }
        Ok(Vec::new())
    }

    /// Some of the needed host clusters, in long runs.
    fn copy(&mut self, mut layer: usize, mut cursor: Cursor) -> Result<Vec<Piece>> {
        let mut pieces = Vec::new();
        while pieces.len() < STEP_PIECES {
            let (Some(image), Some(hosts)) = (self.layers.get(layer), self.hosts.get(layer)) else {
                self.phase = Phase::Tables;
                return Ok(pieces);
            };
            let Some((first, count)) = hosts.run(&mut cursor, COPY_RUN) else {
                (layer, cursor) = (layer + 1, Cursor::default());
                continue;
            };
            let start = first * CLUSTER_SIZE;
            let inside = (image.file_size().0 / CLUSTER_SIZE).saturating_sub(first).min(count);
            if inside > 0 {
                let (host, length) = (HostOffset(start), ByteLen(inside * CLUSTER_SIZE));
                pieces.push(Piece::Copy { layer, host, length });
            }
            // The last cluster of a file may be cut short: qemu leaves zeros out.
            for cluster in first + inside..first + count {
                let mut bytes = vec![0; CLUSTER_BYTES];
                let host = cluster * CLUSTER_SIZE;
                read_padded(image, host, &mut bytes).map_err(|error| in_layer(error, layer))?;
                pieces.push(Piece::Bytes(Bytes::from(bytes)));
            }
        }
        self.phase = Phase::Copying { layer, cursor };
        Ok(pieces)
    }

    /// A step of the second pass.
    fn make_tables(&mut self) -> Result<Vec<Piece>> {
        for _ in 0..STEP_RUNS {
            if self.mapped.len() >= STEP_RUNS || self.out.len() * CLUSTER_BYTES >= STEP_BYTES {
                break;
            }
            let Some(run) = self.planner.next(PLAIN_RUN)? else {
                self.end_tables();
                break;
            };
            self.enter(run)?;
        }
        Ok(self.take_out())
    }

    fn enter(&mut self, run: Run) -> Result<()> {
        let Run { first, count, take } = run;
        match copied(take) {
            Take::Below => {}
            Take::Zero => self.zero(first, count),
            Take::Plain { layer, host } => {
                for index in 0..count {
                    let place = self.hosts[layer].place(host + index * CLUSTER_SIZE);
                    let place = place.map_err(|error| in_layer(error, layer))?;
                    self.plain(first + index, layer, place);
                }
            }
            Take::Frame { layer, host, length } => {
                let place = self.hosts[layer].place(host).map_err(|error| in_layer(error, layer))?;
                self.set(first, compressed_entry(place, length));
                self.finished.compressed_clusters += 1;
                let guest = GuestOffset(first * CLUSTER_SIZE);
                self.mapped.push(MergedCluster::Compressed { guest, layer });
            }
            Take::Rebuild { layer, below } => {
                for index in first..first + count {
                    match self.rebuilder.cluster(index, below)? {
                        None => self.zero(index, 1),
                        Some(bytes) => {
                            let place = append(&mut self.out, &mut self.end, bytes);
                            self.plain(index, layer, place);
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn plain(&mut self, cluster: u64, layer: usize, place: u64) {
        self.set(cluster, COPIED | place);
        self.finished.plain_clusters += 1;
        let guest = GuestOffset(cluster * CLUSTER_SIZE);
        self.mapped.push(MergedCluster::Plain { guest, layer, host: HostOffset(place) });
    }

    fn zero(&mut self, first: u64, count: u64) {
        if self.spec.backing.is_none() {
            return;
        }
        let Self { tables, out, end, .. } = self;
        tables.zero(first, first + count, &mut |bytes| append(out, end, bytes));
        self.finished.zero_clusters += count;
    }

    fn set(&mut self, cluster: u64, entry: u64) {
        let Self { tables, out, end, .. } = self;
        tables.set(cluster, entry, &mut |bytes| append(out, end, bytes));
    }

    /// L1; what the refcounts have to cover is known with it.
    fn end_tables(&mut self) {
        let Self { tables, out, end, .. } = self;
        tables.close(&mut |bytes| append(out, end, bytes));
        let l1_offset = append(out, end, tables.l1());
        let copied = 1 + self.hosts.iter().map(HostMap::len).sum::<u64>();
        let used = self.end / CLUSTER_SIZE;
        let (blocks, table_clusters) = covering(used, 0);
        let counts = Counts { copied, used, blocks, table_clusters, l1_offset };
        self.phase = Phase::Counting { next: 0, layer: 0, cursor: Cursor::default(), counts };
    }

    /// Some refcount blocks, and at the end the table and the header.
    fn count(&mut self, mut next: u64, mut layer: usize, mut cursor: Cursor, counts: Counts) -> Vec<Piece> {
        let total = counts.used + counts.blocks + counts.table_clusters;
        while next < counts.blocks && self.out.len() * CLUSTER_BYTES < STEP_BYTES {
            let mut block = Vec::with_capacity(CLUSTER_BYTES);
            for cluster in next * REFCOUNT_ENTRIES..(next + 1) * REFCOUNT_ENTRIES {
                let count = match cluster {
                    0 => 1,
                    copied if copied < counts.copied => self.next_count(&mut layer, &mut cursor),
                    used => u16::from(used < total),
                };
                block.extend_from_slice(&count.to_be_bytes());
            }
            append(&mut self.out, &mut self.end, Bytes::from(block));
            next += 1;
        }
        self.phase = Phase::Counting { next, layer, cursor, counts };
        if next == counts.blocks {
            self.end_counts(counts);
        }
        self.take_out()
    }

    fn next_count(&self, layer: &mut usize, cursor: &mut Cursor) -> u16 {
        while let Some(hosts) = self.hosts.get(*layer) {
            if let Some((_, count)) = hosts.next(cursor) {
                return count;
            }
            (*layer, *cursor) = (*layer + 1, Cursor::default());
        }
        0
    }

    fn end_counts(&mut self, counts: Counts) {
        let first = counts.used * CLUSTER_SIZE;
        let bytes = table_bytes((0..counts.blocks).map(|block| first + block * CLUSTER_SIZE));
        assert_eq!(bytes.len() as u64, counts.table_clusters * CLUSTER_SIZE, "the refcount table's size");
        let offset = append(&mut self.out, &mut self.end, bytes);
        let clusters = u32::try_from(counts.table_clusters).unwrap_or(u32::MAX);
        if self.finished.compressed_clusters == 0 {
            self.spec.compression = Compression::None;
        }
        let table = RefcountTable { offset, clusters };
        let header = Header::ours(&self.spec, self.tables.l1_entries(), counts.l1_offset, &table);
        self.finished.header = header.write();
        self.finished.file_size = ByteLen(self.end);
        self.phase = Phase::Done;
    }

    fn take_out(&mut self) -> Vec<Piece> {
        std::mem::take(&mut self.out).into_iter().map(Piece::Bytes).collect()
    }
}

/// What is copied with its host cluster; plain bytes off the grid, as small foreign clusters leave them, are not.
fn copied(take: Take) -> Take {
    match take {
        Take::Plain { layer, host } if !host.is_multiple_of(CLUSTER_SIZE) => {
            Take::Rebuild { layer, below: false }
        }
        take => take,
    }
}

fn append(out: &mut Vec<Bytes>, end: &mut u64, bytes: Bytes) -> u64 {
    let host = *end;
    *end += bytes.len() as u64;
    out.push(bytes);
    host
}

/// A host cluster that the file ends in; the rest of it reads as zero, whatever the image's own cluster size is.
fn read_padded(image: &Image, host: u64, bytes: &mut [u8]) -> Result<()> {
    let present = image.file_size().0.saturating_sub(host).min(CLUSTER_SIZE);
    image.read_host(host, &mut bytes[..crate::image::in_memory(present)])
}

fn in_layer(error: Error, layer: usize) -> Error {
    error.within(format_args!("layer {layer}"))
}
