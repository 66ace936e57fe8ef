//! Writes the disk that a chain shows into a raw file: data where any layer stores some, holes everywhere else.
//!
//! ```text
//! map a window ─▶ data ranges, space allocated ─▶ blocks ─▶ threads: read through the chain, decode, write directly
//! ```
//! A thread waits for its own write, so there are a few more of them than cores: some decode while others wait. Space
//! is allocated before it is written, because a direct write into a hole has the file to itself on some file systems.
//! Writes go past the page cache where they can; a restored disk is not read soon, and writing it back would be left
//! to the last sync.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use rustix::fs::FallocateFlags;
use tidemark_model::{ByteLen, Extent, GuestOffset};
use tidemark_qcow2::{Chain, MappingKind};
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Result};
use crate::store::{self, Location};

/// Bytes of one read and one write, on a grid of this size.
const BLOCK: u64 = 1 << 20;
/// The map is asked for in pieces of this size, so that a large disk's map is never in memory as a whole.
const MAP_WINDOW: u64 = 256 << 20;
/// A shorter range is not worth a call to allocate it.
const ALLOCATE_FROM: u64 = 1 << 20;
/// What direct writes want of offsets and lengths.
const ALIGNMENT: u64 = 4096;
/// Threads beside those that compute: writes in flight.
const WRITES: usize = 4;
/// The most threads, each with up to 2 MiB.
const MAX_THREADS: usize = 16;

/// Makes the file at `place`, of the disk's size, and writes all data; durable when this returns. `written` counts
/// along. Blocks.
///
/// # Errors
/// From a layer or the file; cancelled between two blocks. The file is left for the caller to remove.
pub(crate) fn write(
    disk: &Chain,
    place: &Location,
    computing: usize,
    cancel: &CancellationToken,
    written: &AtomicU64,
) -> Result<()> {
    let failed = |e| Error::io(format!("writing {}", place.display()), e);
    let cached = store::create_file(place)?;
    cached.set_len(disk.virtual_size().0).map_err(failed)?;
    let target = Target { direct: store::open_direct(&cached), refused: AtomicBool::new(false), cached };
    let blocks = Mutex::new(Blocks { mapped: 0, waiting: VecDeque::new() });
    let copy = || -> Result<()> {
        let mut memory = store::aligned_memory(in_memory(BLOCK));
        memory.resize(in_memory(BLOCK), 0);
        loop {
            let next = blocks.lock().unwrap_or_else(PoisonError::into_inner).next(disk, &target.cached)?;
            let Some(block) = next else { return Ok(()) };
            if cancel.is_cancelled() {
                return Err(Error::cancelled());
            }
            let bytes = &mut memory[..in_memory(block.length.0)];
            disk.read_at(block.offset, bytes)?;
            target.write(block.offset, bytes).map_err(failed)?;
            written.fetch_add(block.length.0, Ordering::Relaxed);
        }
    };
    let stopping = || {
        copy()
            .inspect_err(|_| blocks.lock().unwrap_or_else(PoisonError::into_inner).stop(disk.virtual_size()))
    };
    std::thread::scope(|scope| {
        let threads = (computing.max(1) + WRITES).min(MAX_THREADS);
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(stopping)).collect();
        workers.into_iter().try_for_each(|worker| {
            worker.join().map_err(|_| Error::internal("a restoring thread panicked"))?
        })
    })?;
    target.cached.sync_all().map_err(failed)
}

/// The ranges of a window that any layer stores, ascending and joined.
pub(crate) fn data_ranges(disk: &Chain, window: Extent) -> Result<Vec<Extent>> {
    let mut ranges: Vec<Extent> = Vec::new();
    for mapping in disk.map(window)?.into_iter().filter(|mapping| mapping.kind != MappingKind::Zero) {
        match ranges.last_mut() {
            Some(last) if last.end() == mapping.extent.offset => last.length.0 += mapping.extent.length.0,
            _ => ranges.push(mapping.extent),
        }
    }
    Ok(ranges)
}

/// What is still to be copied: planned a window at a time by whichever thread finds nothing left.
struct Blocks {
    mapped: u64,
    waiting: VecDeque<Extent>,
}

impl Blocks {
    fn next(&mut self, disk: &Chain, file: &File) -> Result<Option<Extent>> {
        let size = disk.virtual_size().0;
        loop {
            if let Some(block) = self.waiting.pop_front() {
                return Ok(Some(block));
            }
            if self.mapped >= size {
                return Ok(None);
            }
            let length = ByteLen(MAP_WINDOW.min(size - self.mapped));
            let window = Extent { offset: GuestOffset(self.mapped), length };
            self.mapped += length.0;
            for range in data_ranges(disk, window)? {
                if range.length.0 >= ALLOCATE_FROM {
                    // Refused where the file system cannot, or is full: then the writes will tell.
                    let flags = FallocateFlags::empty();
                    let _ = rustix::fs::fallocate(file, flags, range.offset.0, range.length.0);
                }
                self.waiting.extend(cut(range));
            }
        }
    }

    /// One thread failed: the others find nothing more to do.
    fn stop(&mut self, size: ByteLen) {
        self.waiting.clear();
        self.mapped = size.0;
    }
}

/// A range in pieces along the grid of blocks.
fn cut(range: Extent) -> impl Iterator<Item = Extent> {
    let (mut at, end) = (range.offset.0, range.end().0);
    std::iter::from_fn(move || {
        let next = ((at / BLOCK + 1) * BLOCK).min(end);
        let block = Extent { offset: GuestOffset(at), length: ByteLen(next.saturating_sub(at)) };
        at = next;
        (block.length.0 > 0).then_some(block)
    })
}

/// The file, with and without the page cache between.
struct Target {
    direct: Option<File>,
    refused: AtomicBool,
    cached: File,
}

impl Target {
    /// What is aligned goes directly; the disk's last sectors, and all that lies off the grid, through the cache.
    fn write(&self, offset: GuestOffset, bytes: &[u8]) -> io::Result<()> {
        let whole = match offset.0.is_multiple_of(ALIGNMENT) {
            true => bytes.len() / in_memory(ALIGNMENT) * in_memory(ALIGNMENT),
            false => 0,
        };
        let (aligned, rest) = bytes.split_at(whole);
        self.write_aligned(offset.0, aligned)?;
        self.cached.write_all_at(rest, offset.0 + whole as u64)
    }

    fn write_aligned(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        if let Some(direct) = self.direct.as_ref().filter(|_| !self.refused.load(Ordering::Relaxed)) {
            match direct.write_all_at(bytes, offset) {
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                    self.refused.store(true, Ordering::Relaxed);
                }
                written => return written,
            }
        }
        self.cached.write_all_at(bytes, offset)
    }
}

/// A length of at most a block.
fn in_memory(length: u64) -> usize {
    usize::try_from(length).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;
    use std::sync::Arc;

    use bytes::Bytes;
    use tidemark_qcow2::{BackingFile, CLUSTER_SIZE, Compression, Image, ImageSpec, ImageWriter};

    use super::*;

    /// An image in memory with the given clusters, each full of one byte and a number.
    fn image(size: u64, below: bool, clusters: &[(u64, u8)]) -> Image {
        let backing = below.then(|| BackingFile { name: "0".to_owned(), format: "qcow2".to_owned() });
        let compression = Compression::Zstd { level: 1 };
        let mut writer =
            ImageWriter::new(ImageSpec { virtual_size: ByteLen(size), compression, backing }).unwrap();
        let mut encoder = writer.encoder();
        for &(cluster, byte) in clusters {
            let encoded = encoder.encode(Bytes::from(content(cluster, byte)));
            writer.push(GuestOffset(cluster * CLUSTER_SIZE), encoded).unwrap();
        }
        let mut file = writer.take_output().concat();
        let finished = writer.finish().unwrap();
        file.extend(finished.tail.concat());
        file[..finished.header.len()].copy_from_slice(&finished.header);
        Image::open(Arc::new(file)).unwrap()
    }

    fn content(cluster: u64, byte: u8) -> Vec<u8> {
        let mut bytes = vec![byte; in_memory(CLUSTER_SIZE)];
        bytes[..8].copy_from_slice(&cluster.to_be_bytes());
        bytes
    }

    fn restored(disk: &Chain, computing: usize) -> (Vec<u8>, u64, u64) {
        let folder = tempfile::tempdir().unwrap();
        let place = Location { folder: folder.path().to_owned(), path: "disk.raw".to_owned() };
        let written = AtomicU64::new(0);
        write(disk, &place, computing, &CancellationToken::new(), &written).unwrap();
        let path = folder.path().join("disk.raw");
        let stored = std::fs::metadata(&path).unwrap().blocks() * 512;
        (std::fs::read(path).unwrap(), written.into_inner(), stored)
    }

    #[test]
    fn data_arrives_and_holes_stay_holes() {
        // An odd end, a wide hole, runs across blocks and layers.
        let size = 600 * CLUSTER_SIZE + 512;
        let base: Vec<(u64, u8)> = (0..40).chain([300, 599, 600]).map(|cluster| (cluster, 1)).collect();
        let top: Vec<(u64, u8)> = (30..60).step_by(3).map(|cluster| (cluster, 2)).collect();
        let disk = Chain::new(vec![image(size, true, &top), image(size, false, &base)]).unwrap();
        let mut expected = vec![0; in_memory(size)];
        for (cluster, byte) in base.iter().chain(&top) {
            let at = in_memory(cluster * CLUSTER_SIZE);
            let bytes = content(*cluster, *byte);
            let length = bytes.len().min(expected.len() - at);
            expected[at..at + length].copy_from_slice(&bytes[..length]);
        }
        for computing in [0, 1, 8] {
            let (bytes, written, stored) = restored(&disk, computing);
            assert!(bytes == expected, "{computing} threads");
            assert!(written < 60 * CLUSTER_SIZE && stored < 80 * CLUSTER_SIZE, "{written}, {stored}");
        }
    }

    #[test]
    fn a_cancelled_restore_ends() {
        let disk = Chain::new(vec![image(CLUSTER_SIZE, false, &[(0, 1)])]).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let place = Location { folder: folder.path().to_owned(), path: "disk.raw".to_owned() };
        let cancel = CancellationToken::new();
        cancel.cancel();
        let error = write(&disk, &place, 2, &cancel, &AtomicU64::new(0)).unwrap_err();
        assert_eq!(error.kind(), crate::ErrorKind::Cancelled);
    }

    #[test]
    fn blocks_lie_on_the_grid() {
        let blocks: Vec<(u64, u64)> =
            cut(Extent::new(BLOCK - 4096, BLOCK + 8192).unwrap()).map(|b| (b.offset.0, b.length.0)).collect();
        assert_eq!(blocks, [(BLOCK - 4096, 4096), (BLOCK, BLOCK), (2 * BLOCK, 4096)]);
    }
}
