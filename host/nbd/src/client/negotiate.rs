//! Connecting and the client's side of the fixed-newstyle negotiation.
//!
//! ```text
//!   connect ─ greeting ─ flags ─┬─ STARTTLS ─┬─ STRUCTURED_REPLY ─ SET_META_CONTEXT ─┬─ GO ─▶ transmission
//!                               └────────────┘  (only when contexts are wanted)      └─ EXPORT_NAME, where GO
//!                                                                                       is unknown
//! ```

use std::io;

use tidemark_model::ByteLen;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpStream, UnixStream};

use super::options::ListedExport;
use super::tls::TlsUpgrade;
use crate::codec::{
    self, BlockSizes, CodecError, ContextId, DEFAULT_MAX_PAYLOAD, Greeting, HANDSHAKE_FIXED_NEWSTYLE,
    HANDSHAKE_NO_ZEROES, Info, InfoType, MetaContextRequest, OptionCode, OptionReplyHeader, ReplyType,
    TransmissionFlags,
};
use crate::error::{Error, ErrorKind, Result};
use crate::stream::{Stream, read_array};
use crate::uri::{NbdAddress, NbdUri};

/// The most replies to one option: a bound for a server that never ends.
const MAX_REPLIES: usize = 10_000;

/// What the two sides agreed on.
pub(super) struct Negotiated {
    pub(super) stream: Stream,
    pub(super) size: ByteLen,
    pub(super) flags: TransmissionFlags,
    pub(super) block_sizes: BlockSizes,
    pub(super) structured: bool,
    /// In the order they were asked for.
    pub(super) contexts: Vec<(ContextId, String)>,
}

/// Takes a connection to the transmission phase. With no contexts, replies stay simple.
pub(super) async fn negotiate(
    uri: &NbdUri,
    tls: Option<&TlsUpgrade>,
    contexts: &[String],
) -> Result<Negotiated> {
    let mut options = Options::open(uri, tls).await?;
    let structured = !contexts.is_empty() && options.structured_replies().await?;
    let contexts = if structured { options.set_contexts(&uri.export, contexts).await? } else { Vec::new() };
    let (size, flags, sizes) = match options.go(&uri.export).await? {
        Some(answer) => answer,
        None => options.export_name(&uri.export).await?,
    };
    if size.0 > i64::MAX.unsigned_abs() {
        return Err(Error::new(ErrorKind::Protocol, format!("the server claims a size of {size}")));
    }
    let maximum = sizes.maximum.min(DEFAULT_MAX_PAYLOAD);
    let block_sizes = BlockSizes { maximum: maximum - maximum % sizes.minimum, ..sizes };
    Ok(Negotiated { stream: options.stream, size, flags, block_sizes, structured, contexts })
}

/// Asks for the names of all exports.
pub(super) async fn list(uri: &NbdUri, tls: Option<&TlsUpgrade>) -> Result<Vec<ListedExport>> {
    let mut options = Options::open(uri, tls).await?;
    options.send(OptionCode::LIST, &[]).await?;
    let mut exports = Vec::new();
    for _ in 0..MAX_REPLIES {
        match options.reply(OptionCode::LIST).await? {
            (ReplyType::ACK, _) => {
                // A courtesy: the answer, if any, is of no interest.
                let _ = options.send(OptionCode::ABORT, &[]).await;
                return Ok(exports);
            }
            (ReplyType::SERVER, data) => {
                let (name, description) = codec::parse_listed_export(&data).map_err(broken)?;
                exports.push(ListedExport { name, description });
            }
            (other, data) => return Err(refused("the list of exports", other, &data)),
        }
    }
    Err(Error::new(ErrorKind::Protocol, format!("the server lists more than {MAX_REPLIES} exports")))
}

/// A connection in the middle of its negotiation.
struct Options {
    stream: Stream,
    no_zeroes: bool,
}

impl Options {
    async fn open(uri: &NbdUri, tls: Option<&TlsUpgrade>) -> Result<Self> {
        let mut stream = connect(&uri.address).await?;
        let greeting = read_array::<{ codec::GREETING_LEN }>(&mut stream).await.map_err(lost)?;
        let Greeting::Newstyle(flags) = Greeting::parse(&greeting).map_err(broken)? else {
            return Err(Error::new(ErrorKind::Unsupported, "the server speaks only the old style of NBD"));
        };
        if flags & HANDSHAKE_FIXED_NEWSTYLE == 0 {
            return Err(Error::new(ErrorKind::Unsupported, "the server does not speak the fixed newstyle"));
        }
        let no_zeroes = flags & HANDSHAKE_NO_ZEROES != 0;
        let answer = HANDSHAKE_FIXED_NEWSTYLE | if no_zeroes { HANDSHAKE_NO_ZEROES } else { 0 };
        stream.write_all(&u32::from(answer).to_be_bytes()).await.map_err(lost)?;
        let mut options = Self { stream, no_zeroes };
        if let Some(tls) = tls {
            options = options.start_tls(tls).await?;
        }
        Ok(options)
    }

    async fn start_tls(mut self, tls: &TlsUpgrade) -> Result<Self> {
        self.send(OptionCode::STARTTLS, &[]).await?;
        match self.reply(OptionCode::STARTTLS).await? {
            (ReplyType::ACK, _) => {}
            (other, _) => {
                let context = format!("the server does not start TLS: {other}");
                return Err(Error::new(ErrorKind::Tls, context));
            }
        }
        Ok(Self { stream: tls.upgrade(self.stream).await?, no_zeroes: self.no_zeroes })
    }

    async fn structured_replies(&mut self) -> Result<bool> {
        self.send(OptionCode::STRUCTURED_REPLY, &[]).await?;
        match self.reply(OptionCode::STRUCTURED_REPLY).await? {
            (ReplyType::ACK, _) => Ok(true),
            (ReplyType::ERR_UNSUP | ReplyType::ERR_POLICY | ReplyType::ERR_INVALID, _) => Ok(false),
            (other, data) => Err(refused("structured replies", other, &data)),
        }
    }

    async fn set_contexts(&mut self, export: &str, wanted: &[String]) -> Result<Vec<(ContextId, String)>> {
        const OPTION: OptionCode = OptionCode::SET_META_CONTEXT;
        let request = MetaContextRequest { export: export.to_owned(), queries: wanted.to_vec() };
        self.send(OPTION, &request.encode()).await?;
        let mut offered: Vec<(ContextId, String)> = Vec::new();
        for _ in 0..MAX_REPLIES {
            match self.reply(OPTION).await? {
                (ReplyType::ACK, _) => {
                    let place = |name: &String| wanted.iter().position(|wanted| wanted == name);
                    offered.sort_by_key(|(_, name)| place(name));
                    return Ok(offered);
                }
                (ReplyType::META_CONTEXT, data) => {
                    let (id, name) = codec::parse_meta_context(&data).map_err(broken)?;
                    let known = offered.iter().any(|(other, text)| *other == id || *text == name);
                    if known || !wanted.contains(&name) {
                        let context =
                            format!("the server chose the context '{name}', which it was not asked for");
                        return Err(Error::new(ErrorKind::Protocol, context));
                    }
                    offered.push((id, name));
                }
                (ReplyType::ERR_UNSUP, _) => return Ok(Vec::new()),
                (other, data) => return Err(refused("the metadata contexts", other, &data)),
            }
        }
        Err(Error::new(ErrorKind::Protocol, "the server's list of contexts does not end"))
    }

    /// Nothing when the server does not know the option.
    async fn go(&mut self, export: &str) -> Result<Option<(ByteLen, TransmissionFlags, BlockSizes)>> {
        let request = codec::GoRequest { export: export.to_owned(), wanted: vec![InfoType::BLOCK_SIZE] };
        self.send(OptionCode::GO, &request.encode()).await?;
        let (mut export_info, mut sizes) = (None, BlockSizes::default());
        for _ in 0..MAX_REPLIES {
            match self.reply(OptionCode::GO).await? {
                (ReplyType::ACK, _) => {
                    let missing =
                        || Error::new(ErrorKind::Protocol, "the server did not say the export's size");
                    let (size, flags) = export_info.ok_or_else(missing)?;
                    return Ok(Some((size, flags, sizes)));
                }
                (ReplyType::INFO, data) => match Info::parse(&data).map_err(broken)? {
                    Info::Export { size, flags } => export_info = Some((size, flags)),
                    Info::BlockSize(announced) => sizes = announced,
                    Info::Other(_) => {}
                },
                (ReplyType::ERR_UNSUP, _) => return Ok(None),
                (other, data) => return Err(refused("the export", other, &data)),
            }
        }
        Err(Error::new(ErrorKind::Protocol, "the server's information on the export does not end"))
    }

    async fn export_name(&mut self, export: &str) -> Result<(ByteLen, TransmissionFlags, BlockSizes)> {
        self.send(OptionCode::EXPORT_NAME, export.as_bytes()).await?;
        // All this old option can do about an unknown export is to hang up.
        let answer = read_array::<10>(&mut self.stream).await.map_err(|source| {
            lost(source).during("the server, which knows only EXPORT_NAME, did not open the export")
        })?;
        if !self.no_zeroes {
            read_array::<124>(&mut self.stream).await.map_err(lost)?;
        }
        let mut fields = codec::Fields::new("the answer to EXPORT_NAME", &answer);
        let size = ByteLen(fields.u64().map_err(broken)?);
        let flags = TransmissionFlags(fields.u16().map_err(broken)?);
        Ok((size, flags, BlockSizes::default()))
    }

    async fn send(&mut self, option: OptionCode, data: &[u8]) -> Result<()> {
        self.stream.write_all(&codec::encode_option(option, data)).await.map_err(lost)?;
        self.stream.flush().await.map_err(lost)
    }

    async fn reply(&mut self, option: OptionCode) -> Result<(ReplyType, Vec<u8>)> {
        let head = read_array::<{ codec::OPTION_REPLY_HEADER_LEN }>(&mut self.stream).await.map_err(lost)?;
        let head = OptionReplyHeader::parse(&head).map_err(broken)?;
        if head.option != option {
            let context = format!("the server answers {} when asked {option}", head.option);
            return Err(Error::new(ErrorKind::Protocol, context));
        }
        let data = crate::stream::read_growing(&mut self.stream, head.length as usize).await.map_err(lost)?;
        Ok((head.reply, data))
    }
}

async fn connect(address: &NbdAddress) -> Result<Stream> {
    let failed = |source| Error::caused(ErrorKind::Unreachable, "the server cannot be reached", source);
    match address {
        NbdAddress::Tcp { host, port } => {
            let stream = TcpStream::connect((host.as_str(), *port)).await.map_err(failed)?;
            stream.set_nodelay(true).map_err(failed)?;
            Ok(Box::new(stream))
        }
        NbdAddress::Unix { path } => Ok(Box::new(UnixStream::connect(path).await.map_err(failed)?)),
    }
}

/// A stream that failed. rustls reports what it does not believe as invalid data.
pub(super) fn lost(source: io::Error) -> Error {
    match source.kind() {
        io::ErrorKind::UnexpectedEof => {
            Error::new(ErrorKind::Disconnected, "the server closed the connection")
        }
        io::ErrorKind::InvalidData => Error::caused(ErrorKind::Tls, "the TLS session failed", source),
        _ => Error::caused(ErrorKind::Disconnected, "the connection failed", source),
    }
}

pub(super) fn broken(source: CodecError) -> Error {
    Error::caused(ErrorKind::Protocol, "the server broke the protocol", source)
}

fn refused(what: &str, reply: ReplyType, data: &[u8]) -> Error {
    if !reply.is_error() {
        return Error::new(ErrorKind::Protocol, format!("an unexpected answer about {what}: {reply}"));
    }
    let kind = match reply {
        ReplyType::ERR_UNKNOWN => ErrorKind::ExportGone,
        ReplyType::ERR_TLS_REQD => ErrorKind::Tls,
        ReplyType::ERR_UNSUP | ReplyType::ERR_PLATFORM => ErrorKind::Unsupported,
        ReplyType::ERR_SHUTDOWN => ErrorKind::Disconnected,
        _ => ErrorKind::Refused,
    };
    let message = codec::printable(data);
    let context = if message.is_empty() {
        format!("the server refuses {what}: {reply}")
    } else {
        format!("the server refuses {what}: {reply} ({message})")
    };
    Error::new(kind, context)
}
