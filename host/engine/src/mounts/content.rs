//! The bytes of one file in their order. Where the reader knows where they lie, the host reads them by itself, ahead of who takes
//! them; else they come from the reader piece by piece. Every byte that the size promises comes, or an error does.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use tidemark_model::ByteLen;
use tidemark_plugins::PlacedRun;

use super::Mount;
use super::disk::{Buffers, Part, Reading};
use super::volume::{Node, Volume};
use crate::engine::Shared;
use crate::error::{Error, Result};

/// What is read and given at once: smaller pieces would spend the time on waking those who wait for them.
const PIECE: u32 = 1 << 20;
/// Pieces that the host reads ahead of who takes them.
const PIECES_AHEAD: usize = 4;
/// Where a smaller file lies is not worth the question, and smaller holes are read with what lies around them.
const SMALL: u64 = 128 << 10;
static ZEROS: [u8; PIECE as usize] = [0; PIECE as usize];

/// A part of a file that is being read.
pub(super) struct Content<'a> {
    shared: &'a Shared,
    mount: &'a Mount,
    volume: &'a Volume,
    node: Node,
    left: Range<u64>,
    /// Whether the host may read by itself what no run tells yet.
    is_placed: bool,
    /// Runs from the end of what is being read on.
    runs: VecDeque<PlacedRun>,
    /// What is being read, from the beginning of what is left on.
    reads: VecDeque<Read>,
    buffers: Arc<Buffers>,
}

enum Read {
    Zeros(usize),
    Disk(Reading),
}

impl Mount {
    /// A part of a file, which has to lie inside it.
    pub(super) fn content<'a>(
        &'a self,
        shared: &'a Shared,
        volume: &'a Volume,
        node: Node,
        part: Range<u64>,
    ) -> Content<'a> {
        let is_placed = part.end.saturating_sub(part.start) > SMALL;
        let (runs, reads) = (VecDeque::new(), VecDeque::new());
        let buffers = Arc::default();
        Content { shared, mount: self, volume, node, left: part, is_placed, runs, reads, buffers }
    }
}

impl Content<'_> {
    /// The next bytes; none at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>> {
        // Ended by an administrator, by its backup's end, or with the host.
        self.shared.mounts.get(&self.mount.id)?;
        self.mount.touch(self.shared.clock.now());
        self.read_ahead().await?;
        let bytes = match self.reads.pop_front() {
            Some(Read::Zeros(length)) => Bytes::from_static(ZEROS.get(..length).unwrap_or_default()),
            Some(Read::Disk(reading)) => reading.done().await?,
            None if self.left.is_empty() => return Ok(None),
            None => {
                let length = u32::try_from(self.left.end - self.left.start).unwrap_or(PIECE).min(PIECE);
                Bytes::from(self.volume.exactly(self.shared, self.node, self.left.start, length).await?)
            }
        };
        self.left.start += bytes.len() as u64;
        Ok(Some(bytes))
    }

    /// Begins to read what lies in known places, as far as that is wanted.
    async fn read_ahead(&mut self) -> Result<()> {
        let under_way: u64 = self.reads.iter().map(Read::length).sum();
        let mut at = self.left.start + under_way;
        while self.is_placed && self.reads.len() < PIECES_AHEAD && at < self.left.end {
            let Some(run) = self.runs.front() else {
                match self.volume.placed(self.shared, self.node, at).await? {
                    None => self.is_placed = false,
                    Some(runs) if runs.is_empty() => {
                        let message = format!("nothing tells where byte {at} lies: the file is not whole");
                        return Err(Error::damaged(message));
                    }
                    Some(runs) => self.runs = runs.into(),
                }
                continue;
            };
            let hole = run.offset.is_none().then(|| run.length.0.min(self.left.end - at));
            let read = match hole {
                Some(length) if length >= SMALL => {
                    let length = u32::try_from(length).unwrap_or(PIECE).min(PIECE);
                    self.take(length);
                    Read::Zeros(length as usize)
                }
                _ => {
                    let parts = self.gathered(at);
                    Read::Disk(self.volume.begin_read(&parts, &self.buffers)?)
                }
            };
            at += read.length();
            self.reads.push_back(read);
        }
        Ok(())
    }

    /// Runs from `at` on, cut where a piece ends: small ones are read at once.
    fn gathered(&mut self, at: u64) -> Vec<Part> {
        let mut parts = Vec::new();
        let mut room = u32::try_from(self.left.end - at).unwrap_or(PIECE).min(PIECE);
        while let Some(PlacedRun { length, offset }) = self.runs.front().copied().filter(|_| room > 0) {
            let length = u32::try_from(length.0).unwrap_or(room).min(room);
            parts.push(Part { at: offset, length });
            self.take(length);
            room -= length;
        }
        parts
    }

    /// The next bytes of the runs are being read.
    fn take(&mut self, length: u32) {
        let Some(run) = self.runs.front_mut() else { return };
        run.length = ByteLen(run.length.0 - u64::from(length));
        if let Some(offset) = &mut run.offset {
            offset.0 += u64::from(length);
        }
        if run.length.0 == 0 {
            self.runs.pop_front();
        }
    }
}

impl Read {
    fn length(&self) -> u64 {
        match self {
            Self::Zeros(length) => *length as u64,
            Self::Disk(reading) => u64::from(reading.length),
        }
    }
}
