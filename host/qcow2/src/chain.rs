//! A whole chain as one virtual disk: where each byte comes from, and the bytes. Top layer first. Usable from many
//! threads at once: nothing but two bounded caches and a pool of decoding contexts is shared.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use tidemark_model::{ByteLen, Extent, GuestOffset, HostOffset};

use crate::cache::Cache;
use crate::error::{Error, Result};
use crate::image::{Image, Stored};
use crate::read::Scratch;

/// L2 tables kept in memory for a chain: 256 GiB of guest space at 64 KiB clusters.
const TABLE_CACHE_BYTES: usize = 32 << 20;
/// Decoded clusters kept for reads that want a part of one.
const CLUSTER_CACHE_BYTES: usize = 16 << 20;
/// More layers than any retention leaves; a longer chain is refused rather than walked for each byte.
const MAX_LAYERS: usize = 1024;

/// Images stacked on each other, the newest on top.
pub struct Chain {
    layers: Vec<Image>,
    tables: Cache<(usize, u64), u64>,
    pub(crate) clusters: Cache<(usize, u64), u8>,
    scratch: Mutex<Vec<Scratch>>,
}

/// A run of the virtual disk and where its bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mapping {
    /// Which guest bytes.
    pub extent: Extent,
    /// Where they are.
    pub kind: MappingKind,
}

/// Where guest bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MappingKind {
    /// Nowhere: they read as zero.
    Zero,
    /// As they are in a layer's file, contiguous.
    Data {
        /// 0 is the top.
        layer: usize,
        /// Where the run begins in the file.
        host: HostOffset,
    },
    /// Compressed in a layer's file.
    Compressed {
        /// 0 is the top.
        layer: usize,
    },
}

/// What [`Walk`] yields: like a mapping, but each compressed cluster by itself.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Segment {
    pub(crate) layer: usize,
    pub(crate) stored: Stored,
    pub(crate) length: u64,
}

impl Chain {
    /// Stacks images, the top first. The caller has compared each [`Image::backing_name`] with the file it chose.
    ///
    /// # Errors
    /// `Invalid` for no layers or far too many, and when a layer with a backing file is last or one without is not.
    pub fn new(layers: Vec<Image>) -> Result<Self> {
        if layers.is_empty() || layers.len() > MAX_LAYERS {
            return Err(Error::invalid(format!("a chain of {} images", layers.len())));
        }
        for (index, image) in layers.iter().enumerate() {
            let last = index + 1 == layers.len();
            if last && let Some(name) = image.backing_name() {
                return Err(Error::invalid(format!("layer {index} needs its backing file '{name}'")));
            }
            if !last && image.backing_name().is_none() {
                return Err(Error::invalid(format!("layer {index} has no backing file but is not the last")));
            }
        }
        Ok(Self::stacked(layers, TABLE_CACHE_BYTES))
    }

    /// Stacks images, at least one, whatever they say about their backing files: below the last there is nothing.
    pub(crate) fn stacked(layers: Vec<Image>, table_bytes: usize) -> Self {
        Self {
            layers,
            tables: Cache::new(table_bytes),
            clusters: Cache::new(CLUSTER_CACHE_BYTES),
            scratch: Mutex::new(Vec::new()),
        }
    }

    /// The size of the disk: that of the top layer.
    #[must_use]
    pub fn virtual_size(&self) -> ByteLen {
        self.layers[0].virtual_size()
    }

    /// The images, the top first.
    #[must_use]
    pub fn layers(&self) -> &[Image] {
        &self.layers
    }

    /// Where the bytes of a range are, in ascending runs that cover it, neighbours of one kind joined.
    ///
    /// # Errors
    /// `Invalid` for a range beyond the disk; `Corrupt` and `Io` from the tables.
    pub fn map(&self, extent: Extent) -> Result<Vec<Mapping>> {
        let mut mappings: Vec<Mapping> = Vec::new();
        let mut at = extent.offset.0;
        for segment in self.walk(extent.offset.0, extent.length.0)? {
            let Segment { layer, stored, length } = segment?;
            let kind = match stored {
                Stored::Nothing | Stored::Zero => MappingKind::Zero,
                Stored::Plain { host } => MappingKind::Data { layer, host: HostOffset(host) },
                Stored::Compressed { .. } => MappingKind::Compressed { layer },
            };
            match mappings.last_mut() {
                Some(last) if last.continues_with(kind) => last.extent.length.0 += length,
                _ => mappings.push(Mapping {
                    extent: Extent { offset: GuestOffset(at), length: ByteLen(length) },
                    kind,
                }),
            }
            at += length;
        }
        Ok(mappings)
    }

    /// Fills a buffer with guest bytes.
    ///
    /// # Errors
    /// `Invalid` for a range beyond the disk; `Corrupt` and `Io` from the layer that holds the bytes.
    pub fn read_at(&self, offset: GuestOffset, buffer: &mut [u8]) -> Result<()> {
        let walk = self.walk(offset.0, buffer.len() as u64)?;
        let mut scratch = self.lock_scratch().pop().unwrap_or_else(Scratch::new);
        let result = crate::read::fill(self, walk, buffer, &mut scratch);
        self.lock_scratch().push(scratch);
        result
    }

    /// The segments of a range, read as they are asked for.
    pub(crate) fn walk(&self, offset: u64, length: u64) -> Result<Walk<'_>> {
        let size = self.virtual_size();
        if offset.checked_add(length).is_none_or(|end| end > size.0) {
            return Err(Error::invalid(format!(
                "{length} bytes at guest offset {offset} of a disk of {size}"
            )));
        }
        Ok(Walk { chain: self, walker: Walker::new(self, offset, offset + length) })
    }

    fn lock_scratch(&self) -> std::sync::MutexGuard<'_, Vec<Scratch>> {
        self.scratch.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Mapping {
    fn continues_with(&self, kind: MappingKind) -> bool {
        match (self.kind, kind) {
            (MappingKind::Data { layer, host }, MappingKind::Data { layer: next_layer, host: next }) => {
                layer == next_layer && host.0 + self.extent.length.0 == next.0
            }
            (kind, next) => kind == next,
        }
    }
}

/// Goes through a range of the disk, asking each layer from the top.
pub(crate) struct Walk<'a> {
    chain: &'a Chain,
    walker: Walker,
}

/// The state of a walk. Each layer's last answer is kept for as long as its run goes on: a walk looks at every table
/// entry of every layer once, however the runs of the layers cut each other.
pub(crate) struct Walker {
    at: u64,
    end: u64,
    layers: Vec<LayerCursor>,
}

/// Where a walk stands in one layer.
#[derive(Clone, Default)]
struct LayerCursor {
    /// The L2 table in use, by its host offset: neighbours need the same one, without the cache's lock.
    table: Option<(u64, Arc<[u64]>)>,
    /// The last answer and the guest range it holds for.
    run: Option<(u64, u64, Stored)>,
}

impl Walker {
    /// Over `[at, end)`, which lies inside the disk.
    pub(crate) fn new(chain: &Chain, at: u64, end: u64) -> Self {
        Self { at, end, layers: vec![LayerCursor::default(); chain.layers.len()] }
    }

    /// The next segment of the range; none at its end. After an error the walk is over. A segment of a layer that
    /// does not exist is one that no layer of the chain has anything for.
    pub(crate) fn next(&mut self, chain: &Chain) -> Option<Result<Segment>> {
        if self.at >= self.end {
            return None;
        }
        let segment = self.locate(chain);
        match &segment {
            Ok(found) => self.at += found.length,
            Err(_) => self.at = self.end,
        }
        Some(segment)
    }

    fn locate(&mut self, chain: &Chain) -> Result<Segment> {
        let mut length = self.end - self.at;
        for (layer, image) in chain.layers.iter().enumerate() {
            // Beyond a layer's end there are zeros, whatever lies further down.
            if self.at >= image.virtual_size().0 {
                return Ok(Segment { layer, stored: Stored::Zero, length });
            }
            let (stored, run) = self
                .stored(chain, layer)
                .map_err(|error| error.within(format_args!("layer {layer} at guest offset {}", self.at)))?;
            length = length.min(run);
            if stored != Stored::Nothing {
                return Ok(Segment { layer, stored, length });
            }
        }
        Ok(Segment { layer: chain.layers.len(), stored: Stored::Zero, length })
    }

    /// What a layer has here, and for how many bytes.
    fn stored(&mut self, chain: &Chain, layer: usize) -> Result<(Stored, u64)> {
        let at = self.at;
        let cursor = &mut self.layers[layer];
        if let Some((start, end, stored)) = cursor.run
            && (start..end).contains(&at)
        {
            return Ok((stored.after(at - start), end - at));
        }
        let image = &chain.layers[layer];
        let limit = self.end.min(image.virtual_size().0) - at;
        let (stored, run) = match image.l2_offset(at)? {
            None => (Stored::Nothing, image.run_without_l2(at, limit)),
            Some(offset) => {
                let table = cursor.table(chain, layer, offset)?;
                image.lookup(&table, at, limit)?
            }
        };
        cursor.run = Some((at, at + run, stored));
        Ok((stored, run))
    }
}

impl LayerCursor {
    fn table(&mut self, chain: &Chain, layer: usize, offset: u64) -> Result<Arc<[u64]>> {
        if let Some((known, table)) = &self.table
            && *known == offset
        {
            return Ok(Arc::clone(table));
        }
        let table = match chain.tables.get((layer, offset)) {
            Some(table) => table,
            None => {
                let table = chain.layers[layer].read_l2(offset)?;
                chain.tables.insert((layer, offset), Arc::clone(&table));
                table
            }
        };
        self.table = Some((offset, Arc::clone(&table)));
        Ok(table)
    }
}

impl Iterator for Walk<'_> {
    type Item = Result<Segment>;

    fn next(&mut self) -> Option<Self::Item> {
        self.walker.next(self.chain)
    }
}

impl fmt::Debug for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chain").field("layers", &self.layers).finish_non_exhaustive()
    }
}
