//! What a request is answered with: read and status of an export as reply bytes. Runs on blocking threads.

use std::io;

use bytes::{Bytes, BytesMut};
use tidemark_model::{ByteLen, Extent, GuestOffset};

use super::export::{AllocationExtent, Export};
use super::negotiate::ALLOCATION_CONTEXT;
use crate::codec::{
    self, ChunkHeader, ChunkType, Cookie, Errno, ErrorChunk, STATE_HOLE, STATE_ZERO, SimpleReply, WireExtent,
};

/// The most extents in one block status.
const MAX_STATUS_EXTENTS: usize = 128 << 10;

/// A reply's bytes, in pieces that go out one after the other.
pub(super) type Answer = Vec<Bytes>;

/// The reply to a request that carries nothing back.
pub(super) fn done(cookie: Cookie) -> Answer {
    let mut out = BytesMut::new();
    SimpleReply { error: None, cookie }.encode(&mut out);
    vec![out.freeze()]
}

/// The reply to a request that failed. A simple reply would not do for a structured read.
pub(super) fn failed(cookie: Cookie, structured: bool, error: Errno, message: &str) -> Answer {
    let mut out = BytesMut::new();
    if structured {
        let payload = ErrorChunk::encode(error, message);
        chunk_header(&mut out, cookie, ChunkType::ERROR, payload.len(), true);
        out.extend_from_slice(&payload);
    } else {
        SimpleReply { error: Some(error), cookie }.encode(&mut out);
    }
    vec![out.freeze()]
}

/// Data in a simple reply.
pub(super) fn read_simple(export: &dyn Export, extent: Extent, cookie: Cookie) -> io::Result<Answer> {
    let data = read(export, extent)?;
    let mut out = BytesMut::new();
    SimpleReply { error: None, cookie }.encode(&mut out);
    Ok(vec![out.freeze(), data])
}

/// Data in chunks: holes as holes, unless the client wants it in one piece.
pub(super) fn read_structured(
    export: &dyn Export,
    extent: Extent,
    cookie: Cookie,
    one_piece: bool,
) -> io::Result<Answer> {
    let pieces = if one_piece { vec![(extent, false)] } else { pieces(export, extent)? };
    let mut answer = Vec::with_capacity(2 * pieces.len());
    let count = pieces.len();
    for (index, (piece, zero)) in pieces.into_iter().enumerate() {
        let last = index + 1 == count;
        let mut out = BytesMut::new();
        if zero {
            chunk_header(&mut out, cookie, ChunkType::OFFSET_HOLE, 12, last);
            out.extend_from_slice(&piece.offset.0.to_be_bytes());
            out.extend_from_slice(&u32::try_from(piece.length.0).unwrap_or(u32::MAX).to_be_bytes());
            answer.push(out.freeze());
        } else {
            let data = read(export, piece)?;
            chunk_header(&mut out, cookie, ChunkType::OFFSET_DATA, 8 + data.len(), last);
            out.extend_from_slice(&piece.offset.0.to_be_bytes());
            answer.extend([out.freeze(), data]);
        }
    }
    Ok(answer)
}

/// The extents of `base:allocation`.
pub(super) fn status(
    export: &dyn Export,
    extent: Extent,
    cookie: Cookie,
    only_one: bool,
) -> io::Result<Answer> {
    let limit = if only_one { 1 } else { MAX_STATUS_EXTENTS };
    let extents: Vec<WireExtent> = described(export, extent)?
        .into_iter()
        .take(limit)
        .map(|run| WireExtent {
            // Clipped to the request before, whose length has 32 bits.
            length: u32::try_from(run.length.0).unwrap_or(u32::MAX),
            flags: if run.hole { STATE_HOLE } else { 0 } | if run.zero { STATE_ZERO } else { 0 },
        })
        .collect();
    let payload = codec::encode_block_status(ALLOCATION_CONTEXT, &extents);
    let mut out = BytesMut::new();
    chunk_header(&mut out, cookie, ChunkType::BLOCK_STATUS, payload.len(), true);
    out.extend_from_slice(&payload);
    Ok(vec![out.freeze()])
}

fn chunk_header(out: &mut BytesMut, cookie: Cookie, chunk: ChunkType, length: usize, done: bool) {
    let length = u32::try_from(length).unwrap_or(u32::MAX);
    ChunkHeader { done, chunk, cookie, length }.encode(out);
}

fn read(export: &dyn Export, extent: Extent) -> io::Result<Bytes> {
    let length = usize::try_from(extent.length.0).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut data = vec![0; length];
    export.read_at(extent.offset, &mut data)?;
    Ok(data.into())
}

/// The export's word on the beginning of `extent`: clipped to it, neighbours joined, at least one run.
fn described(export: &dyn Export, extent: Extent) -> io::Result<Vec<AllocationExtent>> {
    let mut runs: Vec<AllocationExtent> = Vec::new();
    let mut room = extent.length.0;
    for run in export.allocation(extent)? {
        let length = ByteLen(run.length.0.min(room));
        room -= length.0;
        match runs.last_mut() {
            _ if length.0 == 0 => {}
            Some(last) if (last.hole, last.zero) == (run.hole, run.zero) => last.length.0 += length.0,
            _ => runs.push(AllocationExtent { length, ..run }),
        }
    }
    if runs.is_empty() {
        return Err(io::Error::other("the export describes none of the range"));
    }
    Ok(runs)
}

/// The whole of `extent` in runs that are zero or data. What is too short to be worth a chunk is data.
fn pieces(export: &dyn Export, extent: Extent) -> io::Result<Vec<(Extent, bool)>> {
    const SHORTEST_HOLE: u64 = 4096;
    let mut pieces: Vec<(Extent, bool)> = Vec::new();
    let (mut offset, end) = (extent.offset.0, extent.end().0);
    while offset < end {
        let rest = Extent { offset: GuestOffset(offset), length: ByteLen(end - offset) };
        for run in described(export, rest)? {
            let zero = run.zero && run.length.0 >= SHORTEST_HOLE;
            match pieces.last_mut() {
                Some((last, same)) if *same == zero => last.length.0 += run.length.0,
                _ => pieces.push((Extent { offset: GuestOffset(offset), length: run.length }, zero)),
            }
            offset += run.length.0;
        }
    }
    Ok(pieces)
}
