//! The messages of the transmission phase: requests, simple replies, chunks of structured replies.

use bytes::{BufMut, BytesMut};

use super::handshake::{ContextId, printable};
use super::wire::{
    ChunkType, CodecError, Command, Errno, Fields, REQUEST_MAGIC, SIMPLE_REPLY_MAGIC, STRUCTURED_REPLY_MAGIC,
};

/// The length of a request before its data, in bytes.
pub const REQUEST_LEN: usize = 28;
/// The length of a reply's magic number, which says which kind of reply follows.
pub const REPLY_MAGIC_LEN: usize = 4;
/// The length of a simple reply after its magic number, in bytes.
pub const SIMPLE_REPLY_LEN: usize = 12;
/// The length of a chunk's head after its magic number, in bytes.
pub const CHUNK_HEADER_LEN: usize = 16;
/// The longest block status a client here takes in one chunk, in bytes: two million extents; nbdkit sends up to one.
pub const MAX_STATUS_PAYLOAD: u32 = 16 << 20;
/// The longest error chunk, in bytes.
pub const MAX_ERROR_PAYLOAD: u32 = 8 << 10;

/// Flag of a request: durable before the answer.
pub const REQUEST_FUA: u16 = 1;
/// Flag of a write-zeroes request: do not punch a hole.
pub const REQUEST_NO_HOLE: u16 = 1 << 1;
/// Flag of a read request: answer in one piece.
pub const REQUEST_DF: u16 = 1 << 2;
/// Flag of a block-status request: one extent a context is enough.
pub const REQUEST_REQ_ONE: u16 = 1 << 3;

/// What ties a reply to its request; the server returns it as it came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Cookie(pub u64);

/// A request as it goes over the wire; a write's data follows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestHeader {
    /// `REQUEST_*` bits.
    pub flags: u16,
    /// What is asked for.
    pub command: Command,
    /// What the reply will carry.
    pub cookie: Cookie,
    /// The first byte.
    pub offset: u64,
    /// How many bytes.
    pub length: u32,
}

impl RequestHeader {
    /// Parses [`REQUEST_LEN`] bytes.
    ///
    /// # Errors
    /// On a wrong magic number.
    pub fn parse(bytes: &[u8]) -> Result<Self, CodecError> {
        let mut fields = Fields::new("a request", bytes);
        let magic = fields.u32()?;
        if magic != REQUEST_MAGIC {
            return Err(CodecError::Magic { what: "a request", found: u64::from(magic) });
        }
        Ok(Self {
            flags: fields.u16()?,
            command: Command(fields.u16()?),
            cookie: Cookie(fields.u64()?),
            offset: fields.u64()?,
            length: fields.u32()?,
        })
    }

    /// Appends the request to `out`.
    pub fn encode(&self, out: &mut BytesMut) {
        out.put_u32(REQUEST_MAGIC);
        out.put_u16(self.flags);
        out.put_u16(self.command.0);
        out.put_u64(self.cookie.0);
        out.put_u64(self.offset);
        out.put_u32(self.length);
    }
}

/// Which kind of reply begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplyStyle {
    /// A simple reply.
    Simple,
    /// A chunk of a structured reply.
    Structured,
}

impl ReplyStyle {
    /// Parses [`REPLY_MAGIC_LEN`] bytes.
    ///
    /// # Errors
    /// On a magic number that is neither's.
    pub fn parse(bytes: &[u8]) -> Result<Self, CodecError> {
        match Fields::new("a reply", bytes).u32()? {
            SIMPLE_REPLY_MAGIC => Ok(Self::Simple),
            STRUCTURED_REPLY_MAGIC => Ok(Self::Structured),
            found => Err(CodecError::Magic { what: "a reply", found: u64::from(found) }),
        }
    }
}

/// A simple reply; the data of a read that succeeded follows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SimpleReply {
    /// The error, if the request failed.
    pub error: Option<Errno>,
    /// The request's cookie.
    pub cookie: Cookie,
}

impl SimpleReply {
    /// Parses [`SIMPLE_REPLY_LEN`] bytes, those after the magic number.
    ///
    /// # Errors
    /// When bytes are missing.
    pub fn parse(bytes: &[u8]) -> Result<Self, CodecError> {
        let mut fields = Fields::new("a simple reply", bytes);
        let error = fields.u32()?;
        Ok(Self { error: (error != 0).then_some(Errno(error)), cookie: Cookie(fields.u64()?) })
    }

    /// Appends the reply, magic number included.
    pub fn encode(&self, out: &mut BytesMut) {
        out.put_u32(SIMPLE_REPLY_MAGIC);
        out.put_u32(self.error.map_or(0, |error| error.0));
        out.put_u64(self.cookie.0);
    }
}

/// The head of a chunk of a structured reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkHeader {
    /// Whether it is the reply's last.
    pub done: bool,
    /// What it carries.
    pub chunk: ChunkType,
    /// The request's cookie.
    pub cookie: Cookie,
    /// How many bytes follow. Not checked here: the limit depends on the request.
    pub length: u32,
}

impl ChunkHeader {
    /// Parses [`CHUNK_HEADER_LEN`] bytes, those after the magic number.
    ///
    /// # Errors
    /// When bytes are missing, or on an unknown flag or a content-free chunk that is not the last.
    pub fn parse(bytes: &[u8]) -> Result<Self, CodecError> {
        let mut fields = Fields::new("a reply chunk", bytes);
        let flags = fields.u16()?;
        if flags > 1 {
            return Err(CodecError::OutOfRange {
                what: "a reply chunk's flags",
                found: u64::from(flags),
                limit: "DONE only".to_owned(),
            });
        }
        Ok(Self {
            done: flags == 1,
            chunk: ChunkType(fields.u16()?),
            cookie: Cookie(fields.u64()?),
            length: fields.u32()?,
        })
    }

    /// Appends the head, magic number included.
    pub fn encode(&self, out: &mut BytesMut) {
        out.put_u32(STRUCTURED_REPLY_MAGIC);
        out.put_u16(u16::from(self.done));
        out.put_u16(self.chunk.0);
        out.put_u64(self.cookie.0);
        out.put_u32(self.length);
    }
}

/// The content of an error chunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErrorChunk {
    /// The error; [`Errno::INVALID`] when the server sent the impossible zero.
    pub error: Errno,
    /// The server's words, made printable.
    pub message: String,
    /// Where it happened, when the server says so.
    pub offset: Option<u64>,
}

impl ErrorChunk {
    /// Parses the payload of an error chunk of this type.
    ///
    /// # Errors
    /// When lengths do not fit.
    pub fn parse(chunk: ChunkType, payload: &[u8]) -> Result<Self, CodecError> {
        let mut fields = Fields::new("an error chunk", payload);
        let error = match fields.u32()? {
            0 => Errno::INVALID,
            number => Errno(number),
        };
        let count = usize::from(fields.u16()?);
        let message = printable(fields.take(count)?);
        // The protocol lets a client treat an unknown error type like ERROR and skip what follows.
        let offset = if chunk == ChunkType::ERROR_OFFSET { Some(fields.u64()?) } else { None };
        if matches!(chunk, ChunkType::ERROR | ChunkType::ERROR_OFFSET) {
            fields.finish()?;
        }
        Ok(Self { error, message, offset })
    }

    /// The payload of an `ERROR` chunk.
    #[must_use]
    pub fn encode(error: Errno, message: &str) -> BytesMut {
        let text = message.as_bytes();
        let count = u16::try_from(text.len()).unwrap_or(0);
        let mut out = BytesMut::with_capacity(6 + text.len());
        out.put_u32(error.0);
        out.put_u16(count);
        out.put_slice(text.get(..usize::from(count)).unwrap_or_default());
        out
    }
}

/// One extent of a block status, as it goes over the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WireExtent {
    /// Its length in bytes, never zero.
    pub length: u32,
    /// The context's flags.
    pub flags: u32,
}

/// Parses the payload of a `BLOCK_STATUS` chunk.
///
/// # Errors
/// When it holds no extent, a piece of one, or one of no bytes.
pub fn parse_block_status(payload: &[u8]) -> Result<(ContextId, Vec<WireExtent>), CodecError> {
    const WHAT: &str = "a block status";
    let mut fields = Fields::new(WHAT, payload);
    let context = ContextId(fields.u32()?);
    if fields.remaining() == 0 {
        return Err(CodecError::Truncated { what: WHAT });
    }
    let mut extents = Vec::with_capacity(fields.remaining() / 8);
    while fields.remaining() > 0 {
        let extent = WireExtent { length: fields.u32()?, flags: fields.u32()? };
        if extent.length == 0 {
            return Err(CodecError::OutOfRange {
                what: "a status extent's length",
                found: 0,
                limit: "at least one byte".to_owned(),
            });
        }
        extents.push(extent);
    }
    Ok((context, extents))
}

/// The payload of a `BLOCK_STATUS` chunk.
#[must_use]
pub fn encode_block_status(context: ContextId, extents: &[WireExtent]) -> BytesMut {
    let mut out = BytesMut::with_capacity(4 + 8 * extents.len());
    out.put_u32(context.0);
    for extent in extents {
        out.put_u32(extent.length);
        out.put_u32(extent.flags);
    }
    out
}
