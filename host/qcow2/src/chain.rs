//! A whole chain as one virtual disk: where each byte comes from, and the bytes. Top layer first. Usable from many
//! threads at once: nothing but two bounded caches and a pool of decoders is shared.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use tidemark_model::{ByteLen, Extent, GuestOffset, HostOffset};

use crate::cache::Cache;
use crate::decode::Decoder;
use crate::error::{Error, Result};
use crate::image::{Image, Stored};

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
    decoders: Mutex<Vec<Decoder>>,
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
        Ok(Self {
            layers,
            tables: Cache::new(TABLE_CACHE_BYTES),
            clusters: Cache::new(CLUSTER_CACHE_BYTES),
            decoders: Mutex::new(Vec::new()),
        })
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
        let mut decoder = self.lock_decoders().pop().unwrap_or_else(Decoder::new);
        let result = crate::read::fill(self, walk, buffer, &mut decoder);
        self.lock_decoders().push(decoder);
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
        let tables = vec![None; self.layers.len()];
        Ok(Walk { chain: self, at: offset, end: offset + length, tables })
    }

    fn lock_decoders(&self) -> std::sync::MutexGuard<'_, Vec<Decoder>> {
        self.decoders.lock().unwrap_or_else(PoisonError::into_inner)
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
    at: u64,
    end: u64,
    /// Each layer's L2 table in use, by its host offset: neighbours need the same one, without the cache's lock.
    tables: Vec<Option<(u64, Arc<[u64]>)>>,
}

impl Walk<'_> {
    fn locate(&mut self) -> Result<Segment> {
        let mut length = self.end - self.at;
        for (layer, image) in self.chain.layers.iter().enumerate() {
            let size = image.virtual_size().0;
            // Beyond a layer's end there are zeros, whatever lies further down.
            if self.at >= size {
                return Ok(Segment { layer, stored: Stored::Zero, length });
            }
            let limit = length.min(size - self.at);
            let (stored, run) = match image.l2_offset(self.at)? {
                None => (Stored::Nothing, image.run_without_l2(self.at, limit)),
                Some(offset) => {
                    let table = self.table(layer, offset)?;
                    image.lookup(&table, self.at, limit)?
                }
            };
            length = run;
            if stored != Stored::Nothing {
                return Ok(Segment { layer, stored, length });
            }
        }
        Ok(Segment { layer: self.chain.layers.len(), stored: Stored::Zero, length })
    }

    fn table(&mut self, layer: usize, offset: u64) -> Result<Arc<[u64]>> {
        if let Some((known, table)) = &self.tables[layer]
            && *known == offset
        {
            return Ok(Arc::clone(table));
        }
        let table = match self.chain.tables.get((layer, offset)) {
            Some(table) => table,
            None => {
                let table = self.chain.layers[layer].read_l2(offset).map_err(|error| {
                    error.within(format_args!("layer {layer} at guest offset {}", self.at))
                })?;
                self.chain.tables.insert((layer, offset), Arc::clone(&table));
                table
            }
        };
        self.tables[layer] = Some((offset, Arc::clone(&table)));
        Ok(table)
    }
}

impl Iterator for Walk<'_> {
    type Item = Result<Segment>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.end {
            return None;
        }
        let segment = self.locate();
        match &segment {
            Ok(found) => self.at += found.length,
            Err(_) => self.at = self.end,
        }
        Some(segment)
    }
}

impl fmt::Debug for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chain").field("layers", &self.layers).finish_non_exhaustive()
    }
}
