//! Writes a growing file past the page cache, on threads of its own.
//!
//! An image is written once and not read soon: in the page cache it would cost a second copy of every page and
//! leave all the waiting to the last sync. What lies in memory as direct writes want it goes out from where it is;
//! everything else is copied into aligned memory first.
//!
//! ```text
//! append ─▶ batch being gathered ─full─▶ bounded queue ─▶ two threads: direct writes at known offsets
//! ```
//! The file's space is allocated ahead, so that two writes may go on at the same time. Where a file system refuses
//! direct writes, the threads write through the page cache instead.

use std::fmt;
use std::fs::File;
use std::io::{self, IoSlice};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use bytes::{Buf as _, Bytes, BytesMut};
use rustix::fs::FallocateFlags;

/// What every known file system accepts as a direct write's alignment, in memory and in the file.
pub(super) const ALIGNMENT: usize = 4096;
/// Bytes of one direct write, about.
const BATCH: usize = 1 << 20;
/// Batches that wait while others are written.
const QUEUE: usize = 1;
const THREADS: usize = 2;
/// How far ahead space is allocated.
const AHEAD: u64 = 64 << 20;

/// Memory that direct writes take as it is: empty, of at least `capacity` bytes from an aligned address on.
pub(crate) fn aligned_memory(capacity: usize) -> BytesMut {
    let mut memory = BytesMut::with_capacity(capacity + ALIGNMENT);
    let before = memory.as_ptr().align_offset(ALIGNMENT);
    memory.resize(before, 0);
    memory.advance(before);
    memory
}

/// Aligned memory that was written and may be filled again.
type Idle = Arc<Mutex<Vec<BytesMut>>>;

/// Consecutive bytes of the file, gathered until they are worth a write. All but the last piece are aligned.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pieces: Vec<Piece>,
    length: usize,
    idle: Idle,
}

#[derive(Debug)]
enum Piece {
    /// As it came.
    Given(Bytes),
    /// Copied, because it was not aligned.
    Copied(BytesMut),
}

impl Piece {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Given(bytes) => bytes,
            Self::Copied(bytes) => bytes,
        }
    }
}

impl Batch {
    /// Takes some of `bytes`, as they are where they are aligned.
    pub(super) fn take(&mut self, bytes: &mut Bytes) {
        let whole = bytes.len() / ALIGNMENT * ALIGNMENT;
        let aligned = bytes.as_ptr().align_offset(ALIGNMENT) == 0 && whole > 0;
        if aligned && self.length.is_multiple_of(ALIGNMENT) {
            self.length += whole;
            self.pieces.push(Piece::Given(bytes.split_to(whole)));
            return;
        }
        let room = match self.pieces.last() {
            Some(Piece::Copied(copied)) => BATCH - copied.len(),
            _ => 0,
        };
        if room == 0 {
            let used = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            self.pieces.push(Piece::Copied(used.unwrap_or_else(|| aligned_memory(BATCH))));
        }
        if let Some(Piece::Copied(copied)) = self.pieces.last_mut() {
            let part = bytes.split_to(bytes.len().min(BATCH - copied.len()));
            copied.extend_from_slice(&part);
            self.length += part.len();
        }
    }

    /// An empty one for what follows; memory goes round between them.
    pub(super) fn next(&mut self) -> Self {
        let next = Self { idle: Arc::clone(&self.idle), ..Self::default() };
        std::mem::replace(self, next)
    }

    pub(super) fn is_full(&self) -> bool {
        self.length >= BATCH && self.length.is_multiple_of(ALIGNMENT)
    }

    pub(super) fn len(&self) -> usize {
        self.length
    }

    /// The bytes in order.
    pub(super) fn slices(&self) -> impl Iterator<Item = &[u8]> {
        self.pieces.iter().map(Piece::bytes)
    }

    /// Gives the copies' memory back.
    fn written(self) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        for piece in self.pieces {
            if let Piece::Copied(mut memory) = piece {
                memory.clear();
                idle.push(memory);
            }
        }
    }
}

/// A batch and where it goes.
struct Write {
    offset: u64,
    batch: Batch,
}

/// The threads and their queue. Dropping it waits for what is being written.
pub(super) struct DirectWriter {
    file: Arc<File>,
    queue: Option<SyncSender<Write>>,
    threads: Vec<JoinHandle<io::Result<()>>>,
    /// Up to where space was allocated; none once that was refused.
    allocated: Option<u64>,
}

impl DirectWriter {
    /// Writes through `direct`, or through `cached` once that is refused.
    pub(super) fn start(direct: File, cached: File) -> io::Result<Self> {
        let (queue, waiting) = sync_channel(QUEUE);
        let target = Arc::new(Target {
            direct,
            refused: AtomicBool::new(false),
            failed: AtomicBool::new(false),
            cached: Arc::new(cached),
        });
        let waiting = Arc::new(Mutex::new(waiting));
        let mut threads = Vec::new();
        for _ in 0..THREADS {
            let (target, waiting) = (Arc::clone(&target), Arc::clone(&waiting));
            let thread = std::thread::Builder::new().name("direct-writer".to_owned());
            threads.push(thread.spawn(move || write_all(&target, &waiting))?);
        }
        Ok(Self { file: Arc::clone(&target.cached), queue: Some(queue), threads, allocated: Some(0) })
    }

    /// Has a batch written at `offset`; waits while too many are under way.
    pub(super) fn write(&mut self, offset: u64, batch: Batch) -> io::Result<()> {
        self.allocate(offset + batch.len() as u64);
        let write = Write { offset, batch };
        match &self.queue {
            Some(queue) if queue.send(write).is_ok() => Ok(()),
            _ => Err(self.finish().err().unwrap_or_else(|| io::Error::other("the writing threads ended"))),
        }
    }

    /// Waits until all is written. The file may be longer than what was written: the caller cuts it.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        drop(self.queue.take());
        let mut outcome = Ok(());
        for thread in self.threads.drain(..) {
            let written =
                thread.join().unwrap_or_else(|_| Err(io::Error::other("a writing thread panicked")));
            outcome = outcome.and(written);
        }
        outcome
    }

    fn allocate(&mut self, end: u64) {
        let Some(allocated) = self.allocated.filter(|&allocated| end > allocated) else { return };
        let length = (end - allocated).next_multiple_of(AHEAD);
        // Refused where the file system cannot, or has no room so far ahead: the writes themselves will tell.
        self.allocated = rustix::fs::fallocate(&*self.file, FallocateFlags::empty(), allocated, length)
            .ok()
            .map(|()| allocated + length);
    }
}

impl Drop for DirectWriter {
    fn drop(&mut self) {
        // Whoever drops it has no more interest in the file.
        let _ = self.finish();
    }
}

impl fmt::Debug for DirectWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DirectWriter").field("allocated", &self.allocated).finish_non_exhaustive()
    }
}

struct Target {
    direct: File,
    refused: AtomicBool,
    failed: AtomicBool,
    cached: Arc<File>,
}

/// One thread: writes what waits until nothing more comes, or until one of them fails; the queue ends with them.
fn write_all(target: &Target, waiting: &Mutex<Receiver<Write>>) -> io::Result<()> {
    while !target.failed.load(Ordering::Relaxed) {
        let next = waiting.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(write) = next else { return Ok(()) };
        if let Err(error) = write_one(target, &write) {
            target.failed.store(true, Ordering::Relaxed);
            return Err(error);
        }
        write.batch.written();
    }
    Ok(())
}

fn write_one(target: &Target, write: &Write) -> io::Result<()> {
    if !target.refused.load(Ordering::Relaxed) {
        match write_vectored(&target.direct, write) {
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                target.refused.store(true, Ordering::Relaxed);
            }
            written => return written,
        }
    }
    write_vectored(&target.cached, write)
}

fn write_vectored(file: &File, write: &Write) -> io::Result<()> {
    let mut offset = write.offset;
    let mut slices: Vec<IoSlice<'_>> = write.batch.slices().map(IoSlice::new).collect();
    let mut rest = slices.as_mut_slice();
    while !rest.is_empty() {
        match rustix::io::pwritev(file, rest, offset).map_err(io::Error::from) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                offset += written as u64;
                IoSlice::advance_slices(&mut rest, written);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn aligned(byte: u8, length: usize) -> Bytes {
        let mut memory = aligned_memory(length);
        memory.resize(length, byte);
        memory.freeze()
    }

    fn gather(parts: &[Bytes]) -> Vec<Batch> {
        let (mut batches, mut batch) = (Vec::new(), Batch::default());
        for part in parts {
            let mut rest = part.clone();
            while !rest.is_empty() {
                batch.take(&mut rest);
                if batch.is_full() {
                    batches.push(batch.next());
                }
            }
        }
        batches.push(batch);
        batches
    }

    #[test]
    fn aligned_pieces_are_not_copied_and_others_are() {
        let parts = [aligned(1, 65536), Bytes::from(vec![2; 65536]), aligned(3, 65536), aligned(4, 100)];
        let batches = gather(&parts);
        let pieces: Vec<&[u8]> = batches.iter().flat_map(Batch::slices).collect();
        assert_eq!(pieces.concat(), parts.concat());
        assert_eq!(pieces[0].as_ptr(), parts[0].as_ptr());
        assert_eq!(pieces[2].as_ptr(), parts[2].as_ptr());
        let misaligned = pieces.iter().filter(|piece| piece.as_ptr().align_offset(ALIGNMENT) != 0);
        assert_eq!(misaligned.count(), 0);
    }

    #[test]
    fn batches_arrive_where_they_belong() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut writer = DirectWriter::start(file.reopen().unwrap(), file.reopen().unwrap()).unwrap();
        let parts: Vec<Bytes> = (0..40).map(|byte| aligned(byte, 200 << 10)).collect();
        let mut offset = 0;
        for batch in gather(&parts) {
            let length = batch.len() as u64;
            writer.write(offset, batch).unwrap();
            offset += length;
        }
        writer.finish().unwrap();
        file.as_file().set_len(offset).unwrap();
        assert!(std::fs::read(file.path()).unwrap() == parts.concat());
    }

    #[test]
    fn a_failed_write_reaches_whoever_appends() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let reader = || File::open(file.path()).unwrap();
        let mut writer = DirectWriter::start(reader(), reader()).unwrap();
        let batch = || gather(&[aligned(1, BATCH)]).remove(0);
        let failed = (0..10).find_map(|round| writer.write(round * BATCH as u64, batch()).err());
        assert!(failed.is_some() || writer.finish().is_err());
    }
}
