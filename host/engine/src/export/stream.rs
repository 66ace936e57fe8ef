//! The bytes of a disk in order, in each format. Blocks are read, decoded and deflated on blocking threads, as many at
//! once as there are encoders, and handed on in their order. Nothing runs ahead of the receiver by more than that: a
//! stream that is not polled starts no further block, a dropped one leaves only the blocks under way to end.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, TryStreamExt as _, stream};
use tidemark_model::{BackupId, ByteLen, Extent, ExtentList, GuestOffset};
use tidemark_qcow2::{CLUSTER_SIZE, Chain, Mapping, MappingKind, StreamLayout};
use tidemark_vmdk::{EncodedGrain, GRAIN_SIZE, GrainEncoder, StreamWriter};
use tokio::sync::OwnedSemaphorePermit;

use super::ExportStream;
use crate::error::{Error, Result};
use crate::store::blocking;

/// What one thread does at a time; blocks lie on multiples of it.
const BLOCK: u64 = 1 << 20;
/// [`BLOCK`] of zeros.
static ZEROS: [u8; 1 << 20] = [0; 1 << 20];
/// The map of a disk is asked for in pieces of this size, so that it is never in memory as a whole.
const MAP_WINDOW: u64 = 1 << 30;

/// A disk, and how many blocks of it are read at once. Clones share it.
#[derive(Clone)]
pub(super) struct DiskReader {
    disk: Arc<Chain>,
    ahead: usize,
    done: Arc<AtomicU64>,
}

/// A part of the disk, at most a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Block {
    extent: Extent,
    /// No layer stores anything here.
    zero: bool,
}

impl DiskReader {
    pub(super) fn new(disk: Arc<Chain>, ahead: usize) -> Self {
        Self { disk, ahead: ahead.max(1), done: Arc::default() }
    }

    pub(super) fn capacity(&self) -> ByteLen {
        self.disk.virtual_size()
    }

    pub(super) fn whole(&self) -> Extent {
        Extent { offset: GuestOffset(0), length: self.capacity() }
    }

    /// How many bytes of data were read so far.
    pub(super) fn done(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.done)
    }

    /// Where everything will lie in a QCOW2 of this disk.
    pub(super) async fn layout(&self) -> Result<Arc<StreamLayout>> {
        let capacity = self.capacity();
        let mut windows = Box::pin(self.windows(self.whole()));
        let mut data = Vec::new();
        while let Some(window) = windows.try_next().await? {
            for mapping in window.into_iter().filter(|mapping| mapping.kind != MappingKind::Zero) {
                append(&mut data, mapping.extent);
            }
        }
        let data = ExtentList::checked(data, capacity).map_err(|e| Error::damaged(e.to_string()))?;
        Ok(Arc::new(StreamLayout::new(capacity, &data)?))
    }

    /// The bytes of a range as they are.
    pub(super) fn raw(&self, range: Extent) -> ExportStream {
        let reader = self.clone();
        self.blocks(range)
            .map_ok(move |block| {
                let reader = reader.clone();
                async move { reader.read(block, ByteLen(0)).await }
            })
            .try_buffered(self.ahead)
            .boxed()
    }

    /// A standalone image, plain, with its tables first.
    pub(super) fn qcow2(&self, layout: Arc<StreamLayout>) -> ExportStream {
        let reader = self.clone();
        let head = stream::iter(StreamLayout::head(Arc::clone(&layout)).map(Ok));
        let data = stream::iter(data_blocks(layout).map(Ok::<_, Error>))
            .map_ok(move |(block, padding)| {
                let reader = reader.clone();
                async move { reader.read(block, padding).await }
            })
            .try_buffered(self.ahead);
        head.chain(data).boxed()
    }

    /// A stream-optimised VMDK.
    pub(super) fn vmdk(&self, writer: StreamWriter) -> ExportStream {
        let (reader, pool) = (self.clone(), GrainPool::new(writer.encoder()));
        // Where nothing is stored there are no grains either.
        let grains = self
            .blocks(self.whole())
            .try_filter(|block| std::future::ready(!block.zero))
            .map_ok(move |block| {
                let (reader, pool) = (reader.clone(), pool.clone());
                async move { reader.grains(block, pool).await }
            })
            .try_buffered(self.ahead)
            .boxed();
        stream::try_unfold((Some(writer), grains), |(writer, mut grains)| async move {
            let Some(mut writer) = writer else { return Ok(None) };
            loop {
                let output = writer.take_output();
                if !output.is_empty() {
                    return Ok(Some((Bytes::from(output.concat()), (Some(writer), grains))));
                }
                let Some(encoded) = grains.try_next().await? else {
                    let tail = writer.finish()?.concat();
                    return Ok(Some((Bytes::from(tail), (None, grains))));
                };
                for grain in encoded {
                    writer.push(grain)?;
                }
            }
        })
        .boxed()
    }

    /// The range's blocks, each of them either known to be zero or to be read.
    fn blocks(&self, range: Extent) -> impl Stream<Item = Result<Block>> + Send + use<> {
        self.windows(range)
            .map_ok(|window| stream::iter(blocks_of(&window).into_iter().map(Ok)))
            .try_flatten()
    }

    /// The map of a range, a window at a time.
    fn windows(&self, range: Extent) -> impl Stream<Item = Result<Vec<Mapping>>> + Send + use<> {
        let disk = Arc::clone(&self.disk);
        let end = range.end().0;
        stream::try_unfold(range.offset.0, move |at| {
            let disk = Arc::clone(&disk);
            async move {
                if at >= end {
                    return Ok(None);
                }
                let next = ((at / MAP_WINDOW + 1) * MAP_WINDOW).min(end);
                let window = Extent { offset: GuestOffset(at), length: ByteLen(next - at) };
                let mapped = blocking("mapping a disk", move || Ok(disk.map(window)?)).await?;
                Ok(Some((mapped, next)))
            }
        })
    }

    /// A block's bytes with `padding` zeros after them.
    async fn read(self, block: Block, padding: ByteLen) -> Result<Bytes> {
        let length = memory(block.extent.length);
        if block.zero && padding.0 == 0 {
            return Ok(Bytes::from_static(&ZEROS[..length]));
        }
        let bytes = blocking("reading a disk", move || {
            let mut bytes = vec![0; length + memory(padding)];
            self.fill(block, &mut bytes[..length])?;
            Ok(bytes)
        });
        bytes.await.map(Bytes::from)
    }

    async fn grains(self, block: Block, pool: GrainPool) -> Result<Vec<EncodedGrain>> {
        blocking("deflating a disk", move || {
            let mut bytes = vec![0; memory(block.extent.length)];
            self.fill(block, &mut bytes)?;
            Ok(pool.encode(block.extent.offset, &bytes))
        })
        .await
    }

    fn fill(&self, block: Block, bytes: &mut [u8]) -> Result<()> {
        self.disk.read_at(block.extent.offset, bytes)?;
        self.done.fetch_add(block.extent.length.0, Ordering::Relaxed);
        Ok(())
    }
}

/// Cuts a window's map, which has no gaps, at multiples of [`BLOCK`]. A block is zero only where all of it is.
fn blocks_of(window: &[Mapping]) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    for mapping in window {
        let zero = mapping.kind == MappingKind::Zero;
        for extent in cut(mapping.extent) {
            match blocks.last_mut() {
                // The rest of a block that the mapping before began.
                Some(last) if !extent.offset.0.is_multiple_of(BLOCK) => {
                    last.extent.length.0 += extent.length.0;
                    last.zero &= zero;
                }
                _ => blocks.push(Block { extent, zero }),
            }
        }
    }
    blocks
}

/// The blocks of the layout's data; zeros after the very last one fill its cluster.
fn data_blocks(layout: Arc<StreamLayout>) -> impl Iterator<Item = (Block, ByteLen)> + Send {
    let last = layout.data().iter().last().map_or(GuestOffset(0), |range| range.end());
    let mut index = 0;
    let ranges = std::iter::from_fn(move || {
        index += 1;
        let range = layout.data().iter().nth(index - 1)?;
        Some((range, layout.padding()))
    });
    ranges.flat_map(move |(range, padding)| {
        cut(range).map(move |extent| {
            let padding = if extent.end() == last { padding } else { ByteLen(0) };
            (Block { extent, zero: false }, padding)
        })
    })
}

fn cut(range: Extent) -> impl Iterator<Item = Extent> + Send {
    let end = range.end().0;
    let mut at = range.offset.0;
    std::iter::from_fn(move || {
        let offset = at;
        at = ((offset / BLOCK + 1) * BLOCK).min(end);
        (offset < end).then(|| Extent { offset: GuestOffset(offset), length: ByteLen(at - offset) })
    })
}

/// Appends a range, joined to the one before it where they touch.
fn append(ranges: &mut Vec<Extent>, range: Extent) {
    match ranges.last_mut() {
        Some(last) if last.end().0.next_multiple_of(CLUSTER_SIZE) >= range.offset.0 => {
            last.length = ByteLen(range.end().0 - last.offset.0);
        }
        _ => ranges.push(range),
    }
}

/// A length of at most a block and a cluster.
fn memory(length: ByteLen) -> usize {
    usize::try_from(length.0).unwrap_or(usize::MAX)
}

/// Encoders with warm contexts, one for each thread that happens to encode.
#[derive(Clone)]
struct GrainPool {
    template: Arc<GrainEncoder>,
    idle: Arc<Mutex<Vec<GrainEncoder>>>,
}

impl GrainPool {
    fn new(template: GrainEncoder) -> Self {
        Self { template: Arc::new(template), idle: Arc::default() }
    }

    fn encode(&self, offset: GuestOffset, bytes: &[u8]) -> Vec<EncodedGrain> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut encoder = idle.unwrap_or_else(|| GrainEncoder::clone(&self.template));
        let mut guest = offset;
        let mut grains = Vec::with_capacity(bytes.len().div_ceil(memory(ByteLen(GRAIN_SIZE))));
        for grain in bytes.chunks(memory(ByteLen(GRAIN_SIZE))) {
            grains.push(encoder.encode(guest, grain));
            guest.0 += GRAIN_SIZE;
        }
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(encoder);
        grains
    }
}

/// Accompanies a stream to its end: holds its slot, and says once how it ended where it did not end well.
pub(super) struct Sending {
    backup: BackupId,
    disk_index: u32,
    sent: u64,
    state: SendingState,
    _slot: OwnedSemaphorePermit,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SendingState {
    /// Nobody has asked for a byte.
    Idle,
    Running,
    Ended,
}

impl Sending {
    pub(super) fn new(backup: BackupId, disk_index: u32, slot: OwnedSemaphorePermit) -> Self {
        Self { backup, disk_index, sent: 0, state: SendingState::Idle, _slot: slot }
    }

    /// The same stream, ended by its first error.
    pub(super) fn watch(self, bytes: ExportStream) -> ExportStream {
        stream::unfold((self, bytes), |(mut sending, mut bytes)| async move {
            if sending.state == SendingState::Ended {
                return None;
            }
            sending.state = SendingState::Running;
            let next = bytes.next().await;
            match &next {
                Some(Ok(piece)) => sending.sent += piece.len() as u64,
                Some(Err(error)) => sending.failed(error),
                None => sending.state = SendingState::Ended,
            }
            next.map(|item| (item, (sending, bytes)))
        })
        .boxed()
    }

    fn failed(&mut self, error: &Error) {
        self.state = SendingState::Ended;
        let Self { backup, disk_index, sent, .. } = self;
        tracing::error!(%backup, disk_index, sent, error = error.chain(), "an export broke off");
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        if self.state == SendingState::Running {
            let Self { backup, disk_index, sent, .. } = self;
            tracing::info!(%backup, disk_index, sent, "an export's receiver went away");
        }
    }
}

#[cfg(test)]
mod tests;
