//! The protocol's magic numbers, flags and codes, and the reader that takes fields off a slice.

use std::fmt;

/// Opens every server's greeting: `NBDMAGIC`.
pub const INIT_MAGIC: u64 = 0x4e42_444d_4147_4943;
/// Follows it in newstyle negotiation, and opens every option request: `IHAVEOPT`.
pub const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
/// Follows [`INIT_MAGIC`] in the old style, which has no negotiation and is not spoken here.
pub const OLDSTYLE_MAGIC: u64 = 0x0000_4202_8186_1253;
/// Opens every option reply.
pub const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// Opens every request of the transmission phase.
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
/// Opens a simple reply.
pub const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// Opens a chunk of a structured reply.
pub const STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;

/// The longest text (export name, context, description, message) the protocol allows, in bytes.
pub const MAX_STRING: usize = 4096;
/// The largest payload every server takes when it announces no block sizes, in bytes.
pub const DEFAULT_MAX_PAYLOAD: u32 = 32 << 20;

/// The bit in a server's and a client's handshake flags for the fixed newstyle.
pub const HANDSHAKE_FIXED_NEWSTYLE: u16 = 1;
/// The bit in both handshake flags that leaves out 124 zero bytes after `EXPORT_NAME`.
pub const HANDSHAKE_NO_ZEROES: u16 = 2;

/// The context every server with block status offers.
pub const BASE_ALLOCATION: &str = "base:allocation";
/// In `base:allocation`: nothing is allocated there.
pub const STATE_HOLE: u32 = 1;
/// In `base:allocation`: the range reads as zeroes.
pub const STATE_ZERO: u32 = 2;

macro_rules! codes {
    ($(#[$doc:meta])* $name:ident($repr:ty) { $($(#[$item:meta])* $constant:ident = $value:expr, $text:literal;)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash)]
        pub struct $name(pub $repr);

        impl $name {
            $($(#[$item])* pub const $constant: Self = Self($value);)*
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match *self {
                    $(Self::$constant => f.write_str($text),)*
                    Self(other) => write!(f, "{} {other}", stringify!($name)),
                }
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.0)
            }
        }
    };
}

codes! {
    /// An option of the negotiation (`NBD_OPT_*`).
    OptionCode(u32) {
        /// Choose an export and begin, in the old manner.
        EXPORT_NAME = 1, "EXPORT_NAME";
        /// End the session.
        ABORT = 2, "ABORT";
        /// Name the exports.
        LIST = 3, "LIST";
        /// Go on in TLS.
        STARTTLS = 5, "STARTTLS";
        /// Describe an export.
        INFO = 6, "INFO";
        /// Describe an export and begin.
        GO = 7, "GO";
        /// Answer in chunks.
        STRUCTURED_REPLY = 8, "STRUCTURED_REPLY";
        /// Name the metadata contexts that match.
        LIST_META_CONTEXT = 9, "LIST_META_CONTEXT";
        /// Choose metadata contexts.
        SET_META_CONTEXT = 10, "SET_META_CONTEXT";
    }
}

codes! {
    /// The type of an option reply (`NBD_REP_*`); the top bit marks errors.
    ReplyType(u32) {
        /// Done.
        ACK = 1, "ACK";
        /// One export.
        SERVER = 2, "SERVER";
        /// One piece of information on an export.
        INFO = 3, "INFO";
        /// One metadata context.
        META_CONTEXT = 4, "META_CONTEXT";
        /// The option is unknown to the server.
        ERR_UNSUP = 0x8000_0001, "the option is not supported";
        /// The server's policy forbids it.
        ERR_POLICY = 0x8000_0002, "the server's policy forbids it";
        /// The request made no sense to the server.
        ERR_INVALID = 0x8000_0003, "the option's data is invalid";
        /// Not on this platform.
        ERR_PLATFORM = 0x8000_0004, "not supported on the server's platform";
        /// TLS first.
        ERR_TLS_REQD = 0x8000_0005, "the server requires TLS";
        /// No such export.
        ERR_UNKNOWN = 0x8000_0006, "the export is unknown to the server";
        /// The server is going down.
        ERR_SHUTDOWN = 0x8000_0007, "the server is shutting down";
        /// The client must ask for block sizes first.
        ERR_BLOCK_SIZE_REQD = 0x8000_0008, "the server requires that block sizes are asked for";
        /// The request is too large.
        ERR_TOO_BIG = 0x8000_0009, "the option's data is too large";
    }
}

impl ReplyType {
    /// Whether it reports an error.
    #[must_use]
    pub fn is_error(self) -> bool {
        self.0 & 0x8000_0000 != 0
    }
}

codes! {
    /// A piece of information that `GO` and `INFO` carry (`NBD_INFO_*`).
    InfoType(u16) {
        /// Size and flags.
        EXPORT = 0, "EXPORT";
        /// The canonical name.
        NAME = 1, "NAME";
        /// A text for people.
        DESCRIPTION = 2, "DESCRIPTION";
        /// Smallest, preferred and largest block.
        BLOCK_SIZE = 3, "BLOCK_SIZE";
    }
}

codes! {
    /// A command of the transmission phase (`NBD_CMD_*`).
    Command(u16) {
        /// Read.
        READ = 0, "read";
        /// Write.
        WRITE = 1, "write";
        /// Disconnect.
        DISC = 2, "disconnect";
        /// Make earlier writes durable.
        FLUSH = 3, "flush";
        /// Forget a range's content.
        TRIM = 4, "trim";
        /// Read ahead.
        CACHE = 5, "cache";
        /// Make a range zero.
        WRITE_ZEROES = 6, "write-zeroes";
        /// Ask for a range's status in the chosen contexts.
        BLOCK_STATUS = 7, "block-status";
    }
}

codes! {
    /// A chunk type of a structured reply (`NBD_REPLY_TYPE_*`); the top bit marks errors.
    ChunkType(u16) {
        /// Nothing, only the end.
        NONE = 0, "NONE";
        /// Data at an offset.
        OFFSET_DATA = 1, "OFFSET_DATA";
        /// Zeroes at an offset.
        OFFSET_HOLE = 2, "OFFSET_HOLE";
        /// The extents of one metadata context.
        BLOCK_STATUS = 5, "BLOCK_STATUS";
        /// An error.
        ERROR = 0x8001, "ERROR";
        /// An error at an offset.
        ERROR_OFFSET = 0x8002, "ERROR_OFFSET";
    }
}

impl ChunkType {
    /// Whether it reports an error.
    #[must_use]
    pub fn is_error(self) -> bool {
        self.0 & 0x8000 != 0
    }
}

codes! {
    /// An error number of a reply, as the protocol defines them.
    Errno(u32) {
        /// Not permitted, as a write to a read-only export.
        PERMISSION = 1, "operation not permitted";
        /// Input or output failed.
        IO = 5, "input/output error";
        /// Out of memory.
        NO_MEMORY = 12, "out of memory";
        /// The request makes no sense.
        INVALID = 22, "invalid argument";
        /// No space is left.
        NO_SPACE = 28, "no space left";
        /// Too large for one reply.
        OVERFLOW = 75, "value too large";
        /// Not supported.
        NOT_SUPPORTED = 95, "operation not supported";
        /// The server is going down.
        SHUTDOWN = 108, "the server is shutting down";
    }
}

/// Bytes that are not what the protocol allows there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// A message ends before its fields do.
    #[error("{what} is cut short")]
    Truncated {
        /// Which message.
        what: &'static str,
    },
    /// A message goes on after its fields.
    #[error("{what} has {extra} bytes too many")]
    Trailing {
        /// Which message.
        what: &'static str,
        /// How many bytes remain.
        extra: usize,
    },
    /// A magic number is another one.
    #[error("{what} does not begin with its magic number but with {found:#x}")]
    Magic {
        /// Which message.
        what: &'static str,
        /// What stands there.
        found: u64,
    },
    /// A length or number is outside its limits.
    #[error("{what} is {found}, but {limit} is allowed")]
    OutOfRange {
        /// Which field.
        what: &'static str,
        /// Its value.
        found: u64,
        /// The limit, in words.
        limit: String,
    },
    /// A text is not UTF-8.
    #[error("{what} is not UTF-8")]
    NotUtf8 {
        /// Which text.
        what: &'static str,
    },
}

/// Takes big-endian fields off a slice; every step is checked.
#[derive(Debug)]
pub struct Fields<'a> {
    what: &'static str,
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    /// Reads the message named `what` from `bytes`.
    #[must_use]
    pub fn new(what: &'static str, bytes: &'a [u8]) -> Self {
        Self { what, rest: bytes }
    }

    /// The next `count` bytes.
    ///
    /// # Errors
    /// [`CodecError::Truncated`] when fewer are left; so for the other fields.
    pub fn take(&mut self, count: usize) -> Result<&'a [u8], CodecError> {
        let (head, rest) =
            self.rest.split_at_checked(count).ok_or(CodecError::Truncated { what: self.what })?;
        self.rest = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], CodecError> {
        let (head, rest) =
            self.rest.split_first_chunk::<N>().ok_or(CodecError::Truncated { what: self.what })?;
        self.rest = rest;
        Ok(*head)
    }

    /// A 16-bit number.
    ///
    /// # Errors
    /// As [`take`](Self::take).
    pub fn u16(&mut self) -> Result<u16, CodecError> {
        self.array().map(u16::from_be_bytes)
    }

    /// A 32-bit number.
    ///
    /// # Errors
    /// As [`take`](Self::take).
    pub fn u32(&mut self) -> Result<u32, CodecError> {
        self.array().map(u32::from_be_bytes)
    }

    /// A 64-bit number.
    ///
    /// # Errors
    /// As [`take`](Self::take).
    pub fn u64(&mut self) -> Result<u64, CodecError> {
        self.array().map(u64::from_be_bytes)
    }

    /// A text of `count` bytes, within the protocol's limit for texts.
    ///
    /// # Errors
    /// As [`take`](Self::take); also when it is too long or not UTF-8.
    pub fn text(&mut self, what: &'static str, count: usize) -> Result<&'a str, CodecError> {
        if count > MAX_STRING {
            return Err(CodecError::OutOfRange {
                what,
                found: count as u64,
                limit: format!("at most {MAX_STRING} bytes"),
            });
        }
        std::str::from_utf8(self.take(count)?).map_err(|_| CodecError::NotUtf8 { what })
    }

    /// A text with its 32-bit length before it.
    ///
    /// # Errors
    /// As [`text`](Self::text).
    pub fn counted_text(&mut self, what: &'static str) -> Result<&'a str, CodecError> {
        let count = self.u32()? as usize;
        self.text(what, count)
    }

    /// How many bytes are left.
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// Ends the message.
    ///
    /// # Errors
    /// [`CodecError::Trailing`] when bytes are left.
    pub fn finish(self) -> Result<(), CodecError> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(CodecError::Trailing { what: self.what, extra: self.rest.len() })
        }
    }
}
