//! The task that reads replies: finds each one's request by its cookie, and puts payloads into the caller's memory.
//!
//! Whatever does not fit the request it claims to answer ends the connection: after that, nothing tells where the
//! next reply begins.

use std::sync::Arc;

use bytes::{BufMut, BytesMut};
use tokio::io::{AsyncReadExt, BufReader, ReadHalf};

use super::connection::{Pending, Shared, Work};
use super::negotiate::{broken, lost};
use crate::codec::{
    self, ChunkHeader, ChunkType, Command, ContextId, ErrorChunk, MAX_ERROR_PAYLOAD, MAX_STATUS_PAYLOAD,
    ReplyStyle, SimpleReply,
};
use crate::error::{Error, ErrorKind, Result};
use crate::stream::{Stream, read_array, read_growing};

/// Which parts of a read have arrived: ranges relative to its start, ascending, apart.
#[derive(Debug, Default)]
pub(super) struct Coverage {
    parts: Vec<(usize, usize)>,
    chunks: usize,
}

impl Coverage {
    /// Notes a part; false when it overlaps another, or when there are more chunks than a read of `length` bytes
    /// can sensibly have.
    fn add(&mut self, start: usize, end: usize, length: usize) -> bool {
        self.chunks += 1;
        if self.chunks > 2 + length / 512 {
            return false;
        }
        let place = self.parts.partition_point(|part| part.0 < start);
        let next_ok = self.parts.get(place).is_none_or(|next| end <= next.0);
        let before = place.checked_sub(1).and_then(|index| self.parts.get_mut(index));
        match before {
            Some(before) if before.1 > start => return false,
            Some(before) if before.1 == start && next_ok => before.1 = end,
            _ if next_ok => self.parts.insert(place, (start, end)),
            _ => return false,
        }
        true
    }

    fn total(&self) -> usize {
        self.parts.iter().map(|(start, end)| end - start).sum()
    }
}

pub(super) struct Reader {
    pub(super) source: BufReader<ReadHalf<Stream>>,
    pub(super) shared: Arc<Shared>,
    pub(super) structured: bool,
    pub(super) contexts: Vec<ContextId>,
}

impl Reader {
    /// Reads until the connection ends; says why it did.
    pub(super) async fn run(&mut self) -> Error {
        loop {
            if let Err(error) = self.reply().await {
                return error;
            }
        }
    }

    async fn reply(&mut self) -> Result<()> {
        let magic = read_array::<{ codec::REPLY_MAGIC_LEN }>(&mut self.source).await.map_err(lost)?;
        match ReplyStyle::parse(&magic).map_err(broken)? {
            ReplyStyle::Simple => {
                let bytes =
                    read_array::<{ codec::SIMPLE_REPLY_LEN }>(&mut self.source).await.map_err(lost)?;
                let reply = SimpleReply::parse(&bytes).map_err(broken)?;
                let mut pending = self.find(reply.cookie)?;
                let outcome = self.simple(&mut pending, &reply).await;
                self.conclude(pending, outcome, true)
            }
            ReplyStyle::Structured if !self.structured => {
                Err(violation("the server sent a structured reply that was not negotiated"))
            }
            ReplyStyle::Structured => {
                let bytes =
                    read_array::<{ codec::CHUNK_HEADER_LEN }>(&mut self.source).await.map_err(lost)?;
                let header = ChunkHeader::parse(&bytes).map_err(broken)?;
                let mut pending = self.find(header.cookie)?;
                let outcome = self.chunk(&mut pending, &header).await;
                self.conclude(pending, outcome, header.done)
            }
        }
    }

    fn find(&self, cookie: codec::Cookie) -> Result<Pending> {
        let unknown =
            || violation(format!("the server answers a request that was not made ({:#x})", cookie.0));
        self.shared.take(cookie).ok_or_else(unknown)
    }

    /// Passes the outcome on; an error here is the connection's end, and the request shares it.
    fn conclude(&self, mut pending: Pending, outcome: Result<()>, done: bool) -> Result<()> {
        let outcome = outcome.and_then(|()| if done { check_complete(&pending) } else { Ok(()) });
        if let Err(error) = outcome {
            // Back into the table, so that the end of the connection fails it together with the others.
            self.shared.put_back(pending);
            return Err(error);
        }
        match (done, pending.error.take()) {
            (true, Some(error)) => pending.fail(error),
            (true, None) => pending.succeed(),
            (false, error) => {
                pending.error = error;
                self.shared.put_back(pending);
            }
        }
        Ok(())
    }

    async fn simple(&mut self, pending: &mut Pending, reply: &SimpleReply) -> Result<()> {
        if let Some(errno) = reply.error {
            pending.error = Some(remote(errno, "", None));
            return Ok(());
        }
        let length = pending.request.length as usize;
        match &mut pending.work {
            Work::Plain => Ok(()),
            Work::Status { .. } => Err(violation("the server answers block status with a simple reply")),
            Work::Read { .. } if self.structured => {
                Err(violation("the server answers a read with a simple reply where chunks were negotiated"))
            }
            Work::Read { buffer, coverage } => {
                append(&mut self.source, buffer, length).await?;
                coverage.add(0, length, length);
                Ok(())
            }
        }
    }

    async fn chunk(&mut self, pending: &mut Pending, header: &ChunkHeader) -> Result<()> {
        match header.chunk {
            ChunkType::NONE if header.done && header.length == 0 => Ok(()),
            ChunkType::OFFSET_DATA => self.data(pending, header.length).await,
            ChunkType::OFFSET_HOLE => self.hole(pending, header.length).await,
            ChunkType::BLOCK_STATUS => self.status(pending, header.length).await,
            chunk if chunk.is_error() => {
                if header.length > MAX_ERROR_PAYLOAD {
                    return Err(violation(format!("an error chunk of {} bytes", header.length)));
                }
                let payload = read_growing(&mut self.source, header.length as usize).await.map_err(lost)?;
                let error = ErrorChunk::parse(chunk, &payload).map_err(broken)?;
                pending.error.get_or_insert_with(|| remote(error.error, &error.message, error.offset));
                Ok(())
            }
            other => Err(violation(format!("a reply chunk of type {other} and {} bytes", header.length))),
        }
    }

    async fn data(&mut self, pending: &mut Pending, length: u32) -> Result<()> {
        if length <= 8 {
            return Err(violation("a data chunk without data"));
        }
        let offset = read_array::<8>(&mut self.source).await.map_err(lost)?;
        let (buffer, start, end, whole) = place(pending, u64::from_be_bytes(offset), length - 8)?;
        if start == buffer.len() {
            append(&mut self.source, buffer, end - start).await
        } else {
            let target = scattered(buffer, start, end, whole)?;
            self.source.read_exact(target).await.map_err(lost)?;
            Ok(())
        }
    }

    async fn hole(&mut self, pending: &mut Pending, length: u32) -> Result<()> {
        if length != 12 {
            return Err(violation(format!("a hole chunk of {length} bytes")));
        }
        let bytes = read_array::<12>(&mut self.source).await.map_err(lost)?;
        let mut fields = codec::Fields::new("a hole chunk", &bytes);
        let (offset, length) = (fields.u64().map_err(broken)?, fields.u32().map_err(broken)?);
        let (buffer, start, end, whole) = place(pending, offset, length)?;
        if start == buffer.len() {
            buffer.put_bytes(0, end - start);
        } else {
            scattered(buffer, start, end, whole)?.fill(0);
        }
        Ok(())
    }

    async fn status(&mut self, pending: &mut Pending, length: u32) -> Result<()> {
        let Work::Status { lists } = &mut pending.work else {
            return Err(violation(format!("a block status in answer to a {}", pending.request.command)));
        };
        if length > MAX_STATUS_PAYLOAD {
            return Err(violation(format!("a block status of {length} bytes")));
        }
        let payload = read_growing(&mut self.source, length as usize).await.map_err(lost)?;
        let (context, extents) = codec::parse_block_status(&payload).map_err(broken)?;
        if !self.contexts.contains(&context) || lists.iter().any(|(known, _)| *known == context) {
            return Err(violation(format!("a block status in an unexpected context ({})", context.0)));
        }
        lists.push((context, extents));
        Ok(())
    }
}

/// Where in the caller's buffer a chunk belongs: the buffer, its start and end there, and the whole read's length.
fn place(pending: &mut Pending, offset: u64, length: u32) -> Result<(&mut BytesMut, usize, usize, usize)> {
    let request = pending.request;
    let whole = request.length as usize;
    let Work::Read { buffer, coverage } = &mut pending.work else {
        return Err(violation(format!("data in answer to a {}", request.command)));
    };
    let outside = || violation(format!("data at {offset} of {length} bytes lies outside the read"));
    let start = offset.checked_sub(request.offset).and_then(|start| usize::try_from(start).ok());
    let start = start.ok_or_else(outside)?;
    let end = start.checked_add(length as usize).filter(|end| *end <= whole && length > 0);
    let end = end.ok_or_else(outside)?;
    if !coverage.add(start, end, whole) {
        return Err(violation(format!("data at {offset} of {length} bytes comes twice or in crumbs")));
    }
    Ok((buffer, start, end, whole))
}

/// The place of a chunk that came out of order. The buffer is zeroed first; that costs a pass over it, but only
/// servers that scatter their chunks cause it.
fn scattered(buffer: &mut BytesMut, start: usize, end: usize, whole: usize) -> Result<&mut [u8]> {
    if buffer.len() < whole {
        buffer.resize(whole, 0);
    }
    buffer.get_mut(start..end).ok_or_else(|| violation("a chunk beyond the buffer"))
}

/// Reads straight into the buffer's spare capacity.
async fn append(
    source: &mut BufReader<ReadHalf<Stream>>,
    buffer: &mut BytesMut,
    length: usize,
) -> Result<()> {
    buffer.reserve(length);
    let mut missing = length;
    while missing > 0 {
        let read = source.read_buf(&mut (&mut *buffer).limit(missing)).await.map_err(lost)?;
        if read == 0 {
            return Err(Error::new(ErrorKind::Disconnected, "the server closed the connection in a reply"));
        }
        missing -= read;
    }
    Ok(())
}

fn check_complete(pending: &Pending) -> Result<()> {
    match &pending.work {
        _ if pending.error.is_some() => Ok(()),
        Work::Read { coverage, .. } if coverage.total() != pending.request.length as usize => {
            let (read, length) = (coverage.total(), pending.request.length);
            Err(violation(format!("a read ended with {read} of {length} bytes")))
        }
        Work::Status { lists } if lists.is_empty() => Err(violation("a block status without any context")),
        Work::Read { .. } | Work::Status { .. } | Work::Plain => {
            debug_assert_ne!(pending.request.command, Command::DISC, "a goodbye has no reply");
            Ok(())
        }
    }
}

fn remote(errno: codec::Errno, message: &str, offset: Option<u64>) -> Error {
    use std::fmt::Write;
    let mut context = format!("the server reports: {errno}");
    if !message.is_empty() {
        let _ = write!(context, " ({message})");
    }
    if let Some(offset) = offset {
        let _ = write!(context, ", at {offset}");
    }
    Error::new(ErrorKind::Remote(errno), context)
}

fn violation(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::Protocol, what)
}

#[cfg(test)]
mod tests {
    use super::Coverage;

    #[test]
    fn parts_may_come_in_any_order_but_once() {
        let mut coverage = Coverage::default();
        for (start, end) in [(512, 1024), (0, 512), (2048, 4096), (1024, 2048)] {
            assert!(coverage.add(start, end, 4096));
        }
        assert_eq!(coverage.total(), 4096);
        for (start, end) in [(0, 1), (4095, 4096), (0, 4096), (100, 600)] {
            assert!(!coverage.add(start, end, 4096), "{start}..{end}");
        }
    }

    #[test]
    fn crumbs_are_refused() {
        let mut coverage = Coverage::default();
        let taken = (0..4096).take_while(|at| coverage.add(*at, at + 1, 4096)).count();
        assert_eq!(taken, 10);
    }
}
