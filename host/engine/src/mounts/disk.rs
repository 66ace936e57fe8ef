//! A backup's disk as file-system readers see it: read-only, in blocks that are kept for all readers of the chain, and, for
//! what reads on and on, fetched ahead.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{DefaultHashBuilder, OptionsBuilder, Weighter};
use tidemark_model::{ByteLen, GuestOffset};
use tidemark_plugins::{DiskRead, MappedExtent, ReadOnlyDisk};
use tidemark_qcow2::Chain;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::error::{Error, Result};

/// One block of the cache.
const BLOCK: u64 = 64 << 10;
/// Blocks that are fetched at once, before they are asked for, where somebody reads on and on, at most. With few the reader
/// would wait for each, and to wake it costs as much as a block.
const AHEAD: u64 = 16;
/// What the blocks of all disks of a backup take at most.
const CACHE_BYTES: u64 = 64 << 20;

/// A disk of a backup through its chain.
pub(super) struct ChainDisk {
    source: Arc<Source>,
    progress: Mutex<Progress>,
    /// Blocks that are fetched at once.
    ahead: u64,
}

/// The chain, and the blocks of it that are kept.
struct Source {
    chain: Chain,
    blocks: Cache<u64, Bytes, ByLength>,
}

/// How far the disk was read by whoever read last.
#[derive(Default)]
struct Progress {
    /// The block after the last that was asked for.
    read: u64,
    /// The block after the last that was fetched, from there on.
    fetched: u64,
    /// What is being fetched though nobody waits for it yet. It is over when the sender is gone.
    ahead: Option<(Range<u64>, watch::Receiver<()>)>,
}

#[derive(Clone)]
struct ByLength;

impl Weighter<u64, Bytes> for ByLength {
    fn weight(&self, _: &u64, block: &Bytes) -> u64 {
        block.len() as u64
    }
}

/// Blocks of so many bytes together.
fn cache(bytes: u64) -> Result<Cache<u64, Bytes, ByLength>> {
    // As the library comes, 3 % are for what was not read twice yet: what was fetched ahead would be gone before it is read.
    let options = OptionsBuilder::new()
        .weight_capacity(bytes)
        .estimated_items_capacity(usize::try_from(bytes / BLOCK).unwrap_or(usize::MAX))
        .hot_allocation(0.5)
        .shards(1)
        .build()
        .map_err(|error| Error::internal(format!("the cache of blocks: {error}")))?;
    Ok(Cache::with_options(options, ByLength, DefaultHashBuilder::default(), DefaultLifecycle::default()))
}

/// Blocks that are fetched at once into a cache of so many bytes: two such fetches fit beside what is kept.
fn ahead(bytes: u64) -> u64 {
    (bytes / BLOCK / 8).clamp(1, AHEAD)
}

impl Source {
    fn load(&self, number: u64) -> io::Result<Bytes> {
        let start = number * BLOCK;
        let length = BLOCK.min(self.chain.virtual_size().0.saturating_sub(start));
        let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
        self.chain.read_at(GuestOffset(start), &mut bytes).map_err(io::Error::other)?;
        Ok(Bytes::from(bytes))
    }

    /// A block that is kept from now on.
    fn block(&self, number: u64) -> io::Result<Bytes> {
        if let Some(block) = self.blocks.get(&number) {
            return Ok(block);
        }
        let block = self.load(number)?;
        self.blocks.insert(number, block.clone());
        Ok(block)
    }
}

impl ChainDisk {
    /// A disk that shares the memory for blocks with the other disks of its backup.
    ///
    /// # Errors
    /// None but a fault of ours.
    pub(super) fn new(chain: Chain, disks: usize) -> Result<Self> {
        let bytes = CACHE_BYTES / (disks.max(1) as u64);
        let source = Arc::new(Source { chain, blocks: cache(bytes)? });
        Ok(Self { source, progress: Mutex::default(), ahead: ahead(bytes) })
    }

    pub(super) fn size(&self) -> ByteLen {
        self.source.chain.virtual_size()
    }

    /// The memory that its blocks take.
    pub(super) fn memory(&self) -> ByteLen {
        ByteLen(self.source.blocks.weight())
    }

    /// The bytes of a range that lies inside the disk.
    async fn read(&self, range: Range<u64>) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(usize::try_from(range.end - range.start).unwrap_or(0));
        let numbers = range.start / BLOCK..range.end.div_ceil(BLOCK);
        self.fetch_ahead(&numbers);
        let mut fetched = VecDeque::new();
        for number in numbers.clone() {
            if fetched.is_empty()
                && let Some(block) = self.source.blocks.get(&number)
            {
                fetched.push_back(block);
            }
            if fetched.is_empty() {
                fetched = self.fetch(number..numbers.end).await?;
            }
            let block = fetched.pop_front().unwrap_or_default();
            let start = number * BLOCK;
            let from = range.start.saturating_sub(start);
            let to = (range.end - start).min(block.len() as u64);
            let part = usize::try_from(from).ok().zip(usize::try_from(to).ok());
            let part = part.and_then(|(from, to)| block.get(from..to));
            bytes.extend_from_slice(part.ok_or_else(|| io::Error::other("a block is too short"))?);
        }
        Ok(bytes)
    }

    /// Fetches blocks that are waited for, or waits for the first of them where it is being fetched; answers with one at least,
    /// as a small cache may not hold them until they are read.
    async fn fetch(&self, numbers: Range<u64>) -> io::Result<VecDeque<Bytes>> {
        let under_way =
            self.lock().ahead.clone().filter(|(numbers_ahead, _)| numbers_ahead.contains(&numbers.start));
        if let Some((_, mut end)) = under_way {
            // Nothing is ever sent: an error is the end that is waited for.
            let _ = end.changed().await;
            if let Some(block) = self.source.blocks.get(&numbers.start) {
                return Ok(VecDeque::from([block]));
            }
        }
        let source = Arc::clone(&self.source);
        let loaded =
            tokio::task::spawn_blocking(move || numbers.map(|number| source.block(number)).collect());
        loaded.await.map_err(io::Error::other)?
    }

    /// Begins to fetch the next blocks where the read before ended here, so that whoever reads on finds them there.
    fn fetch_ahead(&self, wanted: &Range<u64>) {
        let mut progress = self.lock();
        if wanted.end == progress.read {
            // Once more, or the rest of the same block.
            return;
        }
        // Reads that do not begin where a block does share one with the read before.
        let reads_on = wanted.start == progress.read || wanted.start + 1 == progress.read;
        progress.read = wanted.end;
        if !reads_on {
            progress.fetched = wanted.end;
            return;
        }
        // What was fetched last is not being read yet, or still being fetched.
        if wanted.end + self.ahead <= progress.fetched
            || progress.ahead.as_ref().is_some_and(|(_, end)| is_open(end))
        {
            return;
        }
        let from = progress.fetched.max(wanted.end);
        let numbers = from..(from + self.ahead).min(self.size().0.div_ceil(BLOCK));
        if numbers.is_empty() {
            return;
        }
        let (sender, end) = watch::channel(());
        progress.fetched = numbers.end;
        progress.ahead = Some((numbers.clone(), end));
        let source = Arc::clone(&self.source);
        tokio::task::spawn_blocking(move || {
            for number in numbers {
                // To be fetched is not to be read, so what is there is only looked at. What cannot be read is told to whoever asks.
                if !source.blocks.contains_key(&number) && source.block(number).is_err() {
                    break;
                }
            }
            drop(sender);
        });
    }

    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether somebody may still send.
fn is_open(receiver: &watch::Receiver<()>) -> bool {
    receiver.has_changed().is_ok()
}

impl ReadOnlyDisk for ChainDisk {
    fn size(&self) -> ByteLen {
        self.size()
    }

    fn read_at(&self, offset: GuestOffset, length: u32) -> DiskRead<'_> {
        Box::pin(self.read(offset.0..offset.0 + u64::from(length)))
    }
}

/// Bytes of a volume; zeros where they lie nowhere.
pub(super) struct Part {
    pub(super) at: Option<GuestOffset>,
    pub(super) length: u32,
}

/// Memory of what was read and sent, for what is read next: to the kernel fresh memory is more work than a copy into old.
#[derive(Default)]
pub(super) struct Buffers(Mutex<Vec<Vec<u8>>>);

impl Buffers {
    fn lock(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(self: &Arc<Self>, length: u32) -> Buffer {
        let mut bytes = self.lock().pop().unwrap_or_default();
        bytes.resize(length as usize, 0);
        Buffer { bytes, home: Arc::clone(self) }
    }
}

/// Memory that goes back when nobody needs it any more.
struct Buffer {
    bytes: Vec<u8>,
    home: Arc<Buffers>,
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        self.home.lock().push(bytes);
    }
}

/// Bytes that are being read past the cache, which is for what is read again.
pub(super) struct Reading {
    pub(super) length: u32,
    task: JoinHandle<tidemark_qcow2::Result<Buffer>>,
}

impl Reading {
    /// Exactly so many bytes as were asked for.
    pub(super) async fn done(self) -> Result<Bytes> {
        let read = self.task.await.map_err(|error| Error::internal(format!("a read broke down: {error}")))?;
        Ok(Bytes::from_owner(read?))
    }
}

/// A volume that lies on disks as a reader of partition tables found it.
pub(super) struct VolumeDisk {
    disks: Vec<Arc<ChainDisk>>,
    extents: Vec<MappedExtent>,
    /// Where each extent ends in the volume: there may be a million of them.
    ends: Vec<u64>,
    size: ByteLen,
}

impl VolumeDisk {
    pub(super) fn new(disks: Vec<Arc<ChainDisk>>, extents: Vec<MappedExtent>, size: ByteLen) -> Self {
        let ends = extents.iter().scan(0, |end: &mut u64, extent| {
            *end = end.saturating_add(extent.length.0);
            Some(*end)
        });
        let ends = ends.collect();
        Self { disks, extents, ends, size }
    }

    /// Begins to read parts that lie inside the volume, one behind the other.
    pub(super) fn begin(&self, parts: &[Part], buffers: &Arc<Buffers>) -> io::Result<Reading> {
        let (mut reads, mut length) = (Vec::new(), 0);
        for part in parts {
            match part.at {
                None => reads.push((None, u64::from(part.length))),
                Some(at) => {
                    for (disk, at) in self.parts(at.0, part.length)? {
                        reads.push((Some((Arc::clone(&disk.source), at.start)), at.end - at.start));
                    }
                }
            }
            length += part.length;
        }
        let mut buffer = buffers.take(length);
        let task = tokio::task::spawn_blocking(move || {
            let mut rest = buffer.bytes.as_mut_slice();
            for (place, count) in reads {
                let count = usize::try_from(count).unwrap_or(usize::MAX).min(rest.len());
                let (part, after) = rest.split_at_mut(count);
                match place {
                    Some((source, at)) => source.chain.read_at(GuestOffset(at), part)?,
                    None => part.fill(0),
                }
                rest = after;
            }
            Ok(buffer)
        });
        Ok(Reading { length, task })
    }

    async fn read(&self, offset: u64, length: u32) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        for (disk, at) in self.parts(offset, length)? {
            let mut part = disk.read(at).await?;
            // One part is the rule, and is not copied.
            if bytes.is_empty() {
                bytes = part;
            } else {
                bytes.append(&mut part);
            }
        }
        Ok(bytes)
    }

    /// Where a range lies, which has to lie inside the volume.
    fn parts(&self, mut offset: u64, length: u32) -> io::Result<Vec<(&ChainDisk, Range<u64>)>> {
        let mut left = u64::from(length);
        let mut parts = Vec::new();
        if length == 0 {
            return Ok(parts);
        }
        let first = self.ends.partition_point(|end| *end <= offset);
        offset -= first.checked_sub(1).and_then(|before| self.ends.get(before)).copied().unwrap_or(0);
        for MappedExtent { disk_index, offset: start, length } in self.extents.iter().skip(first) {
            if offset >= length.0 {
                offset -= length.0;
                continue;
            }
            let count = (length.0 - offset).min(left);
            let disk = usize::try_from(*disk_index).ok().and_then(|index| self.disks.get(index));
            let disk = disk.ok_or_else(|| io::Error::other(format!("there is no disk {disk_index}")))?;
            let at = start.0 + offset;
            parts.push((disk.as_ref(), at..at + count));
            (offset, left) = (0, left - count);
            if left == 0 {
                return Ok(parts);
            }
        }
        Err(io::Error::other("the volume ends early"))
    }
}

impl ReadOnlyDisk for VolumeDisk {
    fn size(&self) -> ByteLen {
        self.size
    }

    fn read_at(&self, offset: GuestOffset, length: u32) -> DiskRead<'_> {
        Box::pin(self.read(offset.0, length))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static BYTES: [u8; 64 << 10] = [0; 64 << 10];

    #[test]
    fn what_was_fetched_ahead_is_there_when_it_is_read() {
        for disks in [1, 4, 32, 64] {
            let bytes = CACHE_BYTES / disks;
            let blocks = cache(bytes).unwrap();
            // Full of blocks that are read again and again.
            let old = 0..2 * bytes / BLOCK;
            for number in old.clone() {
                blocks.insert(number, Bytes::from_static(&BYTES));
                for _ in 0..3 {
                    blocks.get(&number);
                }
            }
            let fetched = old.end..old.end + 2 * ahead(bytes);
            for number in fetched.clone() {
                blocks.insert(number, Bytes::from_static(&BYTES));
            }
            assert!(fetched.clone().all(|number| blocks.contains_key(&number)), "{disks} disks");
            assert!(blocks.weight() <= bytes);
        }
    }
}
