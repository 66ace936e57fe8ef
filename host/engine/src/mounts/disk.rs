//! A backup's disk as file-system readers see it: read-only, in blocks that are kept for all readers of the chain, and, for
//! what reads on and on, fetched ahead.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use tidemark_model::{ByteLen, GuestOffset};
use tidemark_plugins::{DiskRead, MappedExtent, ReadOnlyDisk};
use tidemark_qcow2::Chain;
use tokio::task::JoinHandle;

use crate::error::{Error, Result};

/// One block of the cache.
const BLOCK: u64 = 64 << 10;
/// Blocks that are fetched at once where the last fetch ended here.
const AHEAD: u64 = 16;
/// What the blocks of all disks of a backup take at most.
const CACHE_BYTES: u64 = 64 << 20;

/// A disk of a backup through its chain.
pub(super) struct ChainDisk {
    chain: Arc<Chain>,
    blocks: Cache<u64, Bytes, ByLength>,
    /// The block after the last that was fetched.
    fetched: AtomicU64,
}

#[derive(Clone)]
struct ByLength;

impl Weighter<u64, Bytes> for ByLength {
    fn weight(&self, _: &u64, block: &Bytes) -> u64 {
        block.len() as u64
    }
}

impl ChainDisk {
    /// A disk that shares the memory for blocks with the other disks of its backup.
    pub(super) fn new(chain: Chain, disks: usize) -> Self {
        let bytes = CACHE_BYTES / (disks.max(1) as u64);
        let entries = usize::try_from(bytes / BLOCK).unwrap_or(usize::MAX);
        let blocks = Cache::with_weighter(entries, bytes, ByLength);
        Self { chain: Arc::new(chain), blocks, fetched: AtomicU64::new(u64::MAX) }
    }

    pub(super) fn size(&self) -> ByteLen {
        self.chain.virtual_size()
    }

    /// The memory that its blocks take.
    pub(super) fn memory(&self) -> ByteLen {
        ByteLen(self.blocks.weight())
    }

    /// The bytes of a range that lies inside the disk.
    async fn read(&self, range: Range<u64>) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(usize::try_from(range.end - range.start).unwrap_or(0));
        let mut number = range.start / BLOCK;
        while number * BLOCK < range.end {
            let block = match self.blocks.get(&number) {
                Some(block) => block,
                None => self.fetch(number, range.end.div_ceil(BLOCK)).await?,
            };
            let start = number * BLOCK;
            let from = range.start.saturating_sub(start);
            let to = (range.end - start).min(block.len() as u64);
            let part = usize::try_from(from).ok().zip(usize::try_from(to).ok());
            let part = part.and_then(|(from, to)| block.get(from..to));
            bytes.extend_from_slice(part.ok_or_else(|| io::Error::other("a block is too short"))?);
            number += 1;
        }
        Ok(bytes)
    }

    /// Fetches a block and what is wanted or likely to be wanted after it; answers with the first.
    async fn fetch(&self, first: u64, wanted_end: u64) -> io::Result<Bytes> {
        let last_end = self.size().0.div_ceil(BLOCK);
        let reads_on = self.fetched.load(Ordering::Relaxed) == first;
        let end = if reads_on { wanted_end.max(first + AHEAD) } else { wanted_end };
        let end = end.min(first + AHEAD).min(last_end).max(first + 1);
        let (start, stop) = (first * BLOCK, (end * BLOCK).min(self.size().0));
        let chain = Arc::clone(&self.chain);
        let fetched = tokio::task::spawn_blocking(move || {
            let mut bytes = vec![0; usize::try_from(stop - start).map_err(io::Error::other)?];
            chain.read_at(GuestOffset(start), &mut bytes).map_err(io::Error::other)?;
            Ok::<_, io::Error>(Bytes::from(bytes))
        });
        let fetched = fetched.await.map_err(io::Error::other)??;
        self.fetched.store(end, Ordering::Relaxed);
        let block = usize::try_from(BLOCK).map_err(io::Error::other)?;
        for (number, from) in (first..end).zip((0..fetched.len()).step_by(block)) {
            // A part of a larger piece would keep all of it in memory.
            let one = fetched.get(from..(from + block).min(fetched.len())).unwrap_or_default();
            self.blocks.insert(number, Bytes::copy_from_slice(one));
        }
        Ok(fetched.slice(..block.min(fetched.len())))
    }
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

/// Bytes that are being read past the cache, which is for what is read again.
pub(super) struct Reading {
    pub(super) length: u32,
    task: JoinHandle<tidemark_qcow2::Result<Vec<u8>>>,
}

impl Reading {
    /// Exactly so many bytes as were asked for.
    pub(super) async fn done(self) -> Result<Vec<u8>> {
        Ok(self.task.await.map_err(|error| Error::internal(format!("a read broke down: {error}")))??)
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
    pub(super) fn begin(&self, parts: &[Part]) -> io::Result<Reading> {
        let (mut reads, mut length) = (Vec::new(), 0);
        for part in parts {
            match part.at {
                None => reads.push((None, u64::from(part.length))),
                Some(at) => {
                    for (disk, at) in self.parts(at.0, part.length)? {
                        reads.push((Some((Arc::clone(&disk.chain), at.start)), at.end - at.start));
                    }
                }
            }
            length += part.length;
        }
        let task = tokio::task::spawn_blocking(move || {
            let mut bytes = vec![0; length as usize];
            let mut rest = bytes.as_mut_slice();
            for (place, count) in reads {
                let count = usize::try_from(count).unwrap_or(usize::MAX).min(rest.len());
                let (part, after) = rest.split_at_mut(count);
                if let Some((chain, at)) = place {
                    chain.read_at(GuestOffset(at), part)?;
                }
                rest = after;
            }
            Ok(bytes)
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
