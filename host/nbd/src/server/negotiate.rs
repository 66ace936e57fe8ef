//! The server's side of the fixed-newstyle negotiation.
//!
//! With TLS configured, everything before the upgrade but STARTTLS and ABORT is refused, and the upgrade forgets
//! what was said before it.

use std::io;
use std::sync::Arc;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsAcceptor;

use super::export::{Export, ExportSource, ServerOptions};
use super::transmission::flags;
use crate::codec::{
    self, BASE_ALLOCATION, BlockSizes, CodecError, ContextId, GoRequest, Greeting, HANDSHAKE_FIXED_NEWSTYLE,
    HANDSHAKE_NO_ZEROES, Info, InfoType, MAX_OPTION_DATA, MetaContextRequest, OptionCode, OptionHeader,
    ReplyType,
};
use crate::error::{Error, ErrorKind, Result};
use crate::stream::{Stream, read_array, read_growing};
use tidemark_model::ByteLen;

/// The most options in one negotiation.
const MAX_OPTIONS: usize = 1000;
/// The number under which replies speak of `base:allocation`.
pub(super) const ALLOCATION_CONTEXT: ContextId = ContextId(1);

/// What the two sides agreed on.
pub(super) struct Session {
    pub(super) stream: Stream,
    pub(super) export: Arc<dyn Export>,
    pub(super) name: String,
    pub(super) structured: bool,
    pub(super) allocation: bool,
}

/// Negotiates until the client enters the transmission phase, or leaves (nothing).
pub(super) async fn negotiate(
    mut stream: Stream,
    exports: &dyn ExportSource,
    options: &ServerOptions,
) -> Result<Option<Session>> {
    stream.write_all(&Greeting::encode(HANDSHAKE_NO_ZEROES)).await.map_err(lost)?;
    let answer = u32::from_be_bytes(read_array(&mut stream).await.map_err(lost)?);
    let known = u32::from(HANDSHAKE_FIXED_NEWSTYLE | HANDSHAKE_NO_ZEROES);
    if answer & !known != 0 {
        return Err(Error::new(ErrorKind::Protocol, format!("unknown handshake flags {answer:#x}")));
    }
    let negotiation = Negotiation {
        stream,
        exports,
        options,
        no_zeroes: answer & u32::from(HANDSHAKE_NO_ZEROES) != 0,
        secure: false,
        structured: false,
        context_of: None,
    };
    negotiation.run().await
}

struct Negotiation<'a> {
    stream: Stream,
    exports: &'a dyn ExportSource,
    options: &'a ServerOptions,
    no_zeroes: bool,
    secure: bool,
    structured: bool,
    /// The export for which `base:allocation` was chosen.
    context_of: Option<String>,
}

impl Negotiation<'_> {
    async fn run(mut self) -> Result<Option<Session>> {
        for _ in 0..MAX_OPTIONS {
            let head = read_array::<{ codec::OPTION_HEADER_LEN }>(&mut self.stream).await.map_err(lost)?;
            let OptionHeader { option, length } = OptionHeader::parse(&head).map_err(broken)?;
            if length > MAX_OPTION_DATA {
                return Err(Error::new(ErrorKind::Protocol, format!("option {option} of {length} bytes")));
            }
            let data = read_growing(&mut self.stream, length as usize).await.map_err(lost)?;
            let plain = self.options.tls.is_some() && !self.secure;
            match option {
                OptionCode::ABORT => {
                    // The client may be gone already.
                    let _ = self.reply(option, ReplyType::ACK, &[]).await;
                    return Ok(None);
                }
                OptionCode::STARTTLS => self = self.start_tls(&data).await?,
                OptionCode::EXPORT_NAME if plain => {
                    return Err(Error::new(ErrorKind::Tls, "EXPORT_NAME without TLS, which has no refusal"));
                }
                _ if plain => self.reply(option, ReplyType::ERR_TLS_REQD, b"TLS is required").await?,
                OptionCode::EXPORT_NAME => return self.export_name(&data).await.map(Some),
                OptionCode::GO => {
                    if let Some((name, export)) = self.describe(option, &data).await? {
                        return Ok(Some(self.session(name, export)));
                    }
                }
                OptionCode::INFO => {
                    self.describe(option, &data).await?;
                }
                OptionCode::LIST => self.list(&data).await?,
                OptionCode::STRUCTURED_REPLY if data.is_empty() => {
                    self.structured = true;
                    self.reply(option, ReplyType::ACK, &[]).await?;
                }
                OptionCode::STRUCTURED_REPLY => self.reply(option, ReplyType::ERR_INVALID, &[]).await?,
                OptionCode::SET_META_CONTEXT | OptionCode::LIST_META_CONTEXT => {
                    self.meta_context(option, &data).await?;
                }
                _ => self.reply(option, ReplyType::ERR_UNSUP, &[]).await?,
            }
        }
        Err(Error::new(ErrorKind::Protocol, "a negotiation without an end"))
    }

    async fn start_tls(mut self, data: &[u8]) -> Result<Self> {
        let option = OptionCode::STARTTLS;
        let Some(config) = self.options.tls.clone() else {
            self.reply(option, ReplyType::ERR_POLICY, b"TLS is not configured").await?;
            return Ok(self);
        };
        if self.secure || !data.is_empty() {
            self.reply(option, ReplyType::ERR_INVALID, &[]).await?;
            return Ok(self);
        }
        self.reply(option, ReplyType::ACK, &[]).await?;
        let stream = TlsAcceptor::from(config)
            .accept(self.stream)
            .await
            .map_err(|source| Error::caused(ErrorKind::Tls, "the TLS handshake failed", source))?;
        Ok(Self { stream: Box::new(stream), secure: true, structured: false, context_of: None, ..self })
    }

    async fn export_name(mut self, data: &[u8]) -> Result<Session> {
        let name = std::str::from_utf8(data).unwrap_or_default().to_owned();
        let Some(export) = self.exports.find(&name) else {
            return Err(Error::new(ErrorKind::ExportGone, format!("there is no export '{name}'")));
        };
        let mut out = BytesMut::from(export.size().0.to_be_bytes().as_slice());
        out.extend_from_slice(&flags(self.options, self.structured).0.to_be_bytes());
        if !self.no_zeroes {
            out.resize(out.len() + 124, 0);
        }
        self.stream.write_all(&out).await.map_err(lost)?;
        self.stream.flush().await.map_err(lost)?;
        Ok(self.session(name, export))
    }

    /// Answers `GO` and `INFO`; gives the export when the answer was good.
    async fn describe(
        &mut self,
        option: OptionCode,
        data: &[u8],
    ) -> Result<Option<(String, Arc<dyn Export>)>> {
        let Ok(request) = GoRequest::parse(data) else {
            self.reply(option, ReplyType::ERR_INVALID, &[]).await?;
            return Ok(None);
        };
        let Some(export) = self.exports.find(&request.export) else {
            self.reply(option, ReplyType::ERR_UNKNOWN, b"no such export").await?;
            return Ok(None);
        };
        let info = Info::Export { size: export.size(), flags: flags(self.options, self.structured) };
        self.reply(option, ReplyType::INFO, &info.encode()).await?;
        if request.wanted.contains(&InfoType::BLOCK_SIZE) {
            let sizes = BlockSizes { preferred: 64 << 10, ..BlockSizes::default() };
            self.reply(option, ReplyType::INFO, &Info::BlockSize(sizes).encode()).await?;
        }
        self.reply(option, ReplyType::ACK, &[]).await?;
        Ok(Some((request.export, export)))
    }

    fn session(self, name: String, export: Arc<dyn Export>) -> Session {
        // A context that was chosen for another export does not count.
        let allocation = self.structured && self.context_of.as_deref() == Some(name.as_str());
        Session { stream: self.stream, export, name, structured: self.structured, allocation }
    }

    async fn list(&mut self, data: &[u8]) -> Result<()> {
        let option = OptionCode::LIST;
        if !data.is_empty() {
            return self.reply(option, ReplyType::ERR_INVALID, &[]).await;
        }
        for name in self.exports.names() {
            self.reply(option, ReplyType::SERVER, &codec::encode_listed_export(&name)).await?;
        }
        self.reply(option, ReplyType::ACK, &[]).await
    }

    async fn meta_context(&mut self, option: OptionCode, data: &[u8]) -> Result<()> {
        let setting = option == OptionCode::SET_META_CONTEXT;
        if setting {
            self.context_of = None;
        }
        let request = match MetaContextRequest::parse(data) {
            Ok(request) if self.structured || !setting => request,
            _ => return self.reply(option, ReplyType::ERR_INVALID, &[]).await,
        };
        if self.exports.find(&request.export).is_none() {
            return self.reply(option, ReplyType::ERR_UNKNOWN, b"no such export").await;
        }
        let lists_all = !setting && request.queries.is_empty();
        let matches = |query: &String| query == BASE_ALLOCATION || (!setting && query == "base:");
        if lists_all || request.queries.iter().any(matches) {
            // In a list, the number has no meaning and is zero.
            let id = if setting { ALLOCATION_CONTEXT } else { ContextId(0) };
            let data = codec::encode_meta_context(id, BASE_ALLOCATION);
            self.reply(option, ReplyType::META_CONTEXT, &data).await?;
            if setting {
                self.context_of = Some(request.export);
            }
        }
        self.reply(option, ReplyType::ACK, &[]).await
    }

    async fn reply(&mut self, option: OptionCode, reply: ReplyType, data: &[u8]) -> Result<()> {
        self.stream.write_all(&codec::encode_option_reply(option, reply, data)).await.map_err(lost)?;
        self.stream.flush().await.map_err(lost)
    }
}

pub(super) fn lost(source: io::Error) -> Error {
    Error::caused(ErrorKind::Disconnected, "the client's connection ended", source)
}

pub(super) fn broken(source: CodecError) -> Error {
    Error::caused(ErrorKind::Protocol, "the client broke the protocol", source)
}

/// Reads and forgets `length` bytes.
pub(super) async fn discard(
    source: &mut (impl tokio::io::AsyncRead + Unpin),
    length: ByteLen,
) -> io::Result<()> {
    let skipped = tokio::io::copy(&mut source.take(length.0), &mut tokio::io::sink()).await?;
    if skipped == length.0 { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}
