//! Appends to a file past the page cache, on a thread of its own.
//!
//! An image is written once and not read soon: in the page cache it would cost a second copy of every page and
//! leave all the waiting to the last sync. Whoever appends fills one buffer while the thread writes another.
//!
//! ```text
//! append ─▶ buffer being filled ─full─▶ thread: direct write ─empty─▶ back to append
//! ```
//! Only whole buffers are written directly. The rest of a file, and all of a small one, is left to the caller. Where
//! a file system refuses direct writes, the thread writes through the page cache instead.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread::JoinHandle;

/// What every known file system accepts as a direct write's alignment, in memory and in the file.
const ALIGNMENT: usize = 4096;
/// Bytes of one direct write.
const CHUNK: usize = 1 << 20;
/// Buffers that go round: one is filled, one is written, one waits.
const BUFFERS: usize = 3;

/// Memory on the alignment that direct writes need.
pub(super) struct Chunk {
    memory: Vec<u8>,
    start: usize,
    filled: usize,
}

impl Chunk {
    pub(super) fn new() -> Self {
        let memory = vec![0; CHUNK + ALIGNMENT];
        let start = memory.as_ptr().align_offset(ALIGNMENT);
        Self { memory, start, filled: 0 }
    }

    /// Takes as many of `bytes` as there is room for, and answers how many.
    pub(super) fn fill(&mut self, bytes: &[u8]) -> usize {
        let taken = bytes.len().min(CHUNK - self.filled);
        let from = self.start + self.filled;
        self.memory[from..from + taken].copy_from_slice(&bytes[..taken]);
        self.filled += taken;
        taken
    }

    pub(super) fn is_full(&self) -> bool {
        self.filled == CHUNK
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.filled]
    }

    fn emptied(mut self) -> Self {
        self.filled = 0;
        self
    }
}

impl fmt::Debug for Chunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chunk").field("filled", &self.filled).finish_non_exhaustive()
    }
}

/// The thread and its buffers. Dropping it waits for what is being written.
#[derive(Debug)]
pub(super) struct DirectWriter {
    full: Option<SyncSender<Chunk>>,
    empty: Receiver<Chunk>,
    made: usize,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl DirectWriter {
    /// Writes from the file's start: through `direct`, or through `cached` once that is refused.
    pub(super) fn start(direct: File, cached: File) -> io::Result<Self> {
        let (full, waiting) = sync_channel(BUFFERS);
        let (giver, empty) = sync_channel(BUFFERS);
        let thread = std::thread::Builder::new()
            .name("direct-writer".to_owned())
            .spawn(move || write(&direct, &cached, &waiting, &giver))?;
        // The one that the caller has filled already.
        Ok(Self { full: Some(full), empty, made: 1, thread: Some(thread) })
    }

    /// Has a full buffer written after all earlier ones, and gives an empty one for it.
    pub(super) fn exchange(&mut self, full: Chunk) -> io::Result<Chunk> {
        if self.full.as_ref().is_none_or(|sender| sender.send(full).is_err()) {
            return Err(self.failure());
        }
        match self.empty.try_recv() {
            Ok(chunk) => Ok(chunk),
            Err(TryRecvError::Empty) if self.made < BUFFERS => {
                self.made += 1;
                Ok(Chunk::new())
            }
            Err(_) => self.empty.recv().map_err(|_| self.failure()),
        }
    }

    /// Waits until all is written.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        drop(self.full.take());
        match self.thread.take().map(JoinHandle::join) {
            None => Ok(()),
            Some(Ok(written)) => written,
            Some(Err(_)) => Err(io::Error::other("the writing thread panicked")),
        }
    }

    fn failure(&mut self) -> io::Error {
        self.finish().err().unwrap_or_else(|| io::Error::other("the writing thread has ended before"))
    }
}

impl Drop for DirectWriter {
    fn drop(&mut self) {
        // Whoever drops it has no more interest in the file.
        let _ = self.finish();
    }
}

fn write(direct: &File, cached: &File, full: &Receiver<Chunk>, empty: &SyncSender<Chunk>) -> io::Result<()> {
    let mut refused = false;
    let mut offset = 0;
    for chunk in full {
        if !refused {
            match direct.write_all_at(chunk.bytes(), offset) {
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => refused = true,
                written => written?,
            }
        }
        if refused {
            cached.write_all_at(chunk.bytes(), offset)?;
        }
        offset += chunk.bytes().len() as u64;
        // There is room for every buffer; nobody takes it any more at the end.
        let _ = empty.try_send(chunk.emptied());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full_of(byte: u8) -> Chunk {
        let mut chunk = Chunk::new();
        assert_eq!(chunk.fill(&vec![byte; CHUNK + 5]), CHUNK);
        assert!(chunk.is_full() && chunk.bytes().as_ptr().align_offset(ALIGNMENT) == 0);
        chunk
    }

    #[test]
    fn chunks_arrive_in_order_and_buffers_go_round() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut writer = DirectWriter::start(file.reopen().unwrap(), file.reopen().unwrap()).unwrap();
        for round in 0..10 {
            let empty = writer.exchange(full_of(round)).unwrap();
            assert!(empty.bytes().is_empty());
        }
        assert!(writer.made <= BUFFERS);
        writer.finish().unwrap();
        let written = std::fs::read(file.path()).unwrap();
        assert_eq!(written.len(), 10 * CHUNK);
        for (round, chunk) in (0_u8..).zip(written.chunks(CHUNK)) {
            assert!(chunk.iter().all(|&byte| byte == round));
        }
    }

    #[test]
    fn a_failed_write_reaches_whoever_appends() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let reader = || File::open(file.path()).unwrap();
        let mut writer = DirectWriter::start(reader(), reader()).unwrap();
        let failed = (0..10).find_map(|round| writer.exchange(full_of(round)).err());
        assert!(failed.is_some() || writer.finish().is_err());
    }
}
