//! The messages of the fixed-newstyle negotiation.

use std::fmt;

use bytes::{BufMut, BytesMut};
use tidemark_model::ByteLen;

use super::wire::{
    CodecError, DEFAULT_MAX_PAYLOAD, Fields, HANDSHAKE_FIXED_NEWSTYLE, INIT_MAGIC, InfoType, MAX_STRING,
    OLDSTYLE_MAGIC, OPTION_MAGIC, OPTION_REPLY_MAGIC, OptionCode, ReplyType,
};

/// The length of a server's greeting, in bytes.
pub const GREETING_LEN: usize = 18;
/// The length of an option request before its data, in bytes.
pub const OPTION_HEADER_LEN: usize = 16;
/// The length of an option reply before its data, in bytes.
pub const OPTION_REPLY_HEADER_LEN: usize = 20;
/// The longest option data a server here takes, in bytes: two texts and a few numbers fit many times over.
pub const MAX_OPTION_DATA: u32 = 64 << 10;
/// The longest option reply a client here takes, in bytes.
pub const MAX_OPTION_REPLY: u32 = 64 << 10;
/// The most metadata context queries in one request.
pub const MAX_QUERIES: u32 = 128;

/// What an export can do (`NBD_FLAG_*` of the transmission phase).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct TransmissionFlags(pub u16);

impl TransmissionFlags {
    /// The flags are set at all.
    pub const HAS_FLAGS: Self = Self(1);
    /// Writes are refused.
    pub const READ_ONLY: Self = Self(1 << 1);
    /// Flush is understood.
    pub const SEND_FLUSH: Self = Self(1 << 2);
    /// Trim is understood.
    pub const SEND_TRIM: Self = Self(1 << 5);
    /// Write-zeroes is understood.
    pub const SEND_WRITE_ZEROES: Self = Self(1 << 6);
    /// A read can be asked for in one piece.
    pub const SEND_DF: Self = Self(1 << 7);
    /// Several connections see the same disk.
    pub const CAN_MULTI_CONN: Self = Self(1 << 8);

    /// Whether all of `other`'s bits are set.
    #[must_use]
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Both together.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl fmt::Display for TransmissionFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#06x}", self.0)
    }
}

/// The sizes that requests must respect, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BlockSizes {
    /// Offsets and lengths are multiples of it; a power of two.
    pub minimum: u32,
    /// The size that works best; a power of two.
    pub preferred: u32,
    /// The largest payload.
    pub maximum: u32,
}

impl Default for BlockSizes {
    /// What the protocol lets a client assume of a server that announces none.
    fn default() -> Self {
        Self { minimum: 1, preferred: 4096, maximum: DEFAULT_MAX_PAYLOAD }
    }
}

/// The server's opening words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Greeting {
    /// The newstyle, with the server's handshake flags.
    Newstyle(u16),
    /// The old style, which has no negotiation.
    Oldstyle,
}

impl Greeting {
    /// Parses [`GREETING_LEN`] bytes.
    ///
    /// # Errors
    /// When it is no NBD server's greeting.
    pub fn parse(bytes: &[u8]) -> Result<Self, CodecError> {
        let mut fields = Fields::new("the greeting", bytes);
        let magic = fields.u64()?;
        if magic != INIT_MAGIC {
            return Err(CodecError::Magic { what: "the greeting", found: magic });
        }
        match fields.u64()? {
            OPTION_MAGIC => Ok(Self::Newstyle(fields.u16()?)),
            OLDSTYLE_MAGIC => Ok(Self::Oldstyle),
            found => Err(CodecError::Magic { what: "the greeting's second part", found }),
        }
    }

    /// The bytes of a newstyle greeting.
    #[must_use]
    pub fn encode(flags: u16) -> BytesMut {
        let mut out = BytesMut::with_capacity(GREETING_LEN);
        out.put_u64(INIT_MAGIC);
        out.put_u64(OPTION_MAGIC);
        out.put_u16(flags | HANDSHAKE_FIXED_NEWSTYLE);
        out
    }
}

/// The head of an option request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OptionHeader {
    /// Which option.
    pub option: OptionCode,
    /// How many bytes of data follow.
    pub length: u32,
}

impl OptionHeader {
    /// Parses [`OPTION_HEADER_LEN`] bytes.
    ///
    /// # Errors
    /// On a wrong magic number.
    pub fn parse(bytes: &[u8]) -> Result<Self, CodecError> {
        let mut fields = Fields::new("an option", bytes);
        let magic = fields.u64()?;
        if magic != OPTION_MAGIC {
            return Err(CodecError::Magic { what: "an option", found: magic });
        }
        Ok(Self { option: OptionCode(fields.u32()?), length: fields.u32()? })
    }
}

/// A whole option request.
#[must_use]
pub fn encode_option(option: OptionCode, data: &[u8]) -> BytesMut {
    let mut out = BytesMut::with_capacity(OPTION_HEADER_LEN + data.len());
    out.put_u64(OPTION_MAGIC);
    out.put_u32(option.0);
    out.put_u32(length_u32(data.len()));
    out.put_slice(data);
    out
}

/// The head of an option reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OptionReplyHeader {
    /// Which option it answers.
    pub option: OptionCode,
    /// What it is.
    pub reply: ReplyType,
    /// How many bytes of data follow; at most [`MAX_OPTION_REPLY`].
    pub length: u32,
}

impl OptionReplyHeader {
    /// Parses [`OPTION_REPLY_HEADER_LEN`] bytes.
    ///
    /// # Errors
    /// On a wrong magic number or a length beyond the limit.
    pub fn parse(bytes: &[u8]) -> Result<Self, CodecError> {
        let mut fields = Fields::new("an option reply", bytes);
        let magic = fields.u64()?;
        if magic != OPTION_REPLY_MAGIC {
            return Err(CodecError::Magic { what: "an option reply", found: magic });
        }
        let header = Self {
            option: OptionCode(fields.u32()?),
            reply: ReplyType(fields.u32()?),
            length: fields.u32()?,
        };
        if header.length > MAX_OPTION_REPLY {
            return Err(CodecError::OutOfRange {
                what: "an option reply's length",
                found: u64::from(header.length),
                limit: format!("at most {MAX_OPTION_REPLY} bytes"),
            });
        }
        Ok(header)
    }
}

/// A whole option reply.
#[must_use]
pub fn encode_option_reply(option: OptionCode, reply: ReplyType, data: &[u8]) -> BytesMut {
    let mut out = BytesMut::with_capacity(OPTION_REPLY_HEADER_LEN + data.len());
    out.put_u64(OPTION_REPLY_MAGIC);
    out.put_u32(option.0);
    out.put_u32(reply.0);
    out.put_u32(length_u32(data.len()));
    out.put_slice(data);
    out
}

/// The data of `GO` and `INFO`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GoRequest {
    /// The export's name.
    pub export: String,
    /// What the client wants to know beside size and flags.
    pub wanted: Vec<InfoType>,
}

impl GoRequest {
    /// Parses an option's data.
    ///
    /// # Errors
    /// On lengths that do not fit, or a name that is no text.
    pub fn parse(data: &[u8]) -> Result<Self, CodecError> {
        let mut fields = Fields::new("a GO option", data);
        let export = fields.counted_text("an export name")?.to_owned();
        let count = fields.u16()?;
        let wanted = (0..count).map(|_| fields.u16().map(InfoType)).collect::<Result<_, _>>()?;
        fields.finish()?;
        Ok(Self { export, wanted })
    }

    /// The option's data.
    #[must_use]
    pub fn encode(&self) -> BytesMut {
        let mut out = BytesMut::new();
        put_text(&mut out, &self.export);
        out.put_u16(u16::try_from(self.wanted.len()).unwrap_or(u16::MAX));
        for info in &self.wanted {
            out.put_u16(info.0);
        }
        out
    }
}

/// One piece of information on an export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Info {
    /// Size and flags.
    Export {
        /// The size.
        size: ByteLen,
        /// What it can do.
        flags: TransmissionFlags,
    },
    /// The sizes requests must respect.
    BlockSize(BlockSizes),
    /// One that is of no use here.
    Other(InfoType),
}

impl Info {
    /// Parses the data of an `INFO` reply.
    ///
    /// # Errors
    /// On lengths that do not fit or block sizes the protocol forbids.
    pub fn parse(data: &[u8]) -> Result<Self, CodecError> {
        let mut fields = Fields::new("an INFO reply", data);
        let info = match InfoType(fields.u16()?) {
            InfoType::EXPORT => {
                Self::Export { size: ByteLen(fields.u64()?), flags: TransmissionFlags(fields.u16()?) }
            }
            InfoType::BLOCK_SIZE => {
                let (minimum, preferred, maximum) = (fields.u32()?, fields.u32()?, fields.u32()?);
                Self::BlockSize(check_block_sizes(minimum, preferred, maximum)?)
            }
            other => return Ok(Self::Other(other)),
        };
        fields.finish()?;
        Ok(info)
    }

    /// The data of an `INFO` reply.
    #[must_use]
    pub fn encode(&self) -> BytesMut {
        let mut out = BytesMut::new();
        match self {
            Self::Export { size, flags } => {
                out.put_u16(InfoType::EXPORT.0);
                out.put_u64(size.0);
                out.put_u16(flags.0);
            }
            Self::BlockSize(sizes) => {
                out.put_u16(InfoType::BLOCK_SIZE.0);
                out.put_u32(sizes.minimum);
                out.put_u32(sizes.preferred);
                out.put_u32(sizes.maximum);
            }
            Self::Other(info) => out.put_u16(info.0),
        }
        out
    }
}

fn check_block_sizes(minimum: u32, preferred: u32, maximum: u32) -> Result<BlockSizes, CodecError> {
    let refuse = |what, found: u32, limit: &str| {
        Err(CodecError::OutOfRange { what, found: u64::from(found), limit: limit.to_owned() })
    };
    if !minimum.is_power_of_two() || minimum > 64 << 10 {
        return refuse("the smallest block size", minimum, "a power of two up to 65536");
    }
    if !preferred.is_power_of_two() || preferred < minimum {
        return refuse("the preferred block size", preferred, "a power of two not below the smallest");
    }
    if maximum < minimum || (maximum != u32::MAX && !maximum.is_multiple_of(minimum)) {
        return refuse("the largest block size", maximum, "a multiple of the smallest");
    }
    Ok(BlockSizes { minimum, preferred, maximum })
}

/// The data of `SET_META_CONTEXT` and `LIST_META_CONTEXT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetaContextRequest {
    /// The export's name.
    pub export: String,
    /// The contexts asked for.
    pub queries: Vec<String>,
}

impl MetaContextRequest {
    /// Parses an option's data.
    ///
    /// # Errors
    /// On lengths that do not fit, too many queries, or texts that are none.
    pub fn parse(data: &[u8]) -> Result<Self, CodecError> {
        let mut fields = Fields::new("a meta context option", data);
        let export = fields.counted_text("an export name")?.to_owned();
        let count = fields.u32()?;
        if count > MAX_QUERIES {
            return Err(CodecError::OutOfRange {
                what: "the number of context queries",
                found: u64::from(count),
                limit: format!("at most {MAX_QUERIES}"),
            });
        }
        let queries = (0..count)
            .map(|_| fields.counted_text("a context query").map(str::to_owned))
            .collect::<Result<_, _>>()?;
        fields.finish()?;
        Ok(Self { export, queries })
    }

    /// The option's data.
    #[must_use]
    pub fn encode(&self) -> BytesMut {
        let mut out = BytesMut::new();
        put_text(&mut out, &self.export);
        out.put_u32(length_u32(self.queries.len()));
        for query in &self.queries {
            put_text(&mut out, query);
        }
        out
    }
}

/// The number by which replies refer to a chosen context.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ContextId(pub u32);

/// Parses the data of a `META_CONTEXT` reply.
///
/// # Errors
/// When it is too short or the name is no text.
pub fn parse_meta_context(data: &[u8]) -> Result<(ContextId, String), CodecError> {
    let mut fields = Fields::new("a META_CONTEXT reply", data);
    let id = ContextId(fields.u32()?);
    let count = fields.remaining();
    let name = fields.text("a context name", count)?;
    Ok((id, name.to_owned()))
}

/// The data of a `META_CONTEXT` reply.
#[must_use]
pub fn encode_meta_context(id: ContextId, name: &str) -> BytesMut {
    let mut out = BytesMut::with_capacity(4 + name.len());
    out.put_u32(id.0);
    out.put_slice(name.as_bytes());
    out
}

/// Parses the data of a `SERVER` reply: an export's name and description.
///
/// # Errors
/// When lengths do not fit or the texts are none.
pub fn parse_listed_export(data: &[u8]) -> Result<(String, String), CodecError> {
    let mut fields = Fields::new("a SERVER reply", data);
    let name = fields.counted_text("an export name")?.to_owned();
    let count = fields.remaining();
    let description = fields.text("an export description", count)?.to_owned();
    Ok((name, description))
}

/// The data of a `SERVER` reply.
#[must_use]
pub fn encode_listed_export(name: &str) -> BytesMut {
    let mut out = BytesMut::with_capacity(4 + name.len());
    put_text(&mut out, name);
    out
}

/// A peer's message for people: what of it is text, shortened to the protocol's limit, without control characters.
#[must_use]
pub fn printable(message: &[u8]) -> String {
    let end = message.len().min(MAX_STRING);
    let text = String::from_utf8_lossy(message.get(..end).unwrap_or_default());
    text.chars().map(|ch| if ch.is_control() { ' ' } else { ch }).collect::<String>().trim().to_owned()
}

fn put_text(out: &mut BytesMut, text: &str) {
    out.put_u32(length_u32(text.len()));
    out.put_slice(text.as_bytes());
}

/// What we send ourselves is far below four gigabytes; a longer one would be our own bug, and is not hidden.
fn length_u32(length: usize) -> u32 {
    let converted = u32::try_from(length);
    assert!(converted.is_ok(), "a message of {length} bytes");
    converted.unwrap_or(u32::MAX)
}
