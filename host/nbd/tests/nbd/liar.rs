//! A server written by hand that negotiates well and then says what a test wants.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use bytes::BytesMut;
use tidemark_model::ByteLen;
use tidemark_nbd::codec::{
    self, ChunkHeader, ChunkType, ContextId, Cookie, Greeting, HANDSHAKE_NO_ZEROES, Info, OptionCode,
    OptionHeader, ReplyType, RequestHeader, SimpleReply,
};
use tidemark_nbd::{BlockSizes, Command, NbdUri, TransmissionFlags};

/// How the server behaves.
#[derive(Clone)]
pub(crate) struct Manners {
    /// Whether it agrees to structured replies and `base:allocation`.
    pub(crate) structured: bool,
    pub(crate) size: u64,
    pub(crate) flags: TransmissionFlags,
}

impl Default for Manners {
    fn default() -> Self {
        Self { structured: true, size: 1 << 30, flags: TransmissionFlags::HAS_FLAGS }
    }
}

/// A listening liar; its thread ends when nobody connects any more and the socket is closed with the process.
pub(crate) struct Liar {
    _folder: tempfile::TempDir,
    path: PathBuf,
}

impl Liar {
    /// Answers each request by `answer(connection, request)`, until that gives nothing.
    pub(crate) fn answering(
        manners: impl Fn(usize) -> Manners + Send + 'static,
        answer: impl Fn(usize, RequestHeader) -> Option<Vec<u8>> + Send + Sync + 'static,
    ) -> Self {
        let answer = std::sync::Arc::new(answer);
        Self::scripted(move |number, mut stream| {
            let (manners, answer) = (manners(number), answer.clone());
            // The client may hang up at any point.
            std::thread::spawn(move || converse(&mut stream, &manners, |request| answer(number, request)));
        })
    }

    /// Gives each connection to `script`, with its number.
    pub(crate) fn scripted(script: impl Fn(usize, UnixStream) + Send + 'static) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        std::thread::spawn(move || {
            for (number, stream) in listener.incoming().enumerate() {
                script(number, stream.unwrap());
            }
        });
        Self { _folder: folder, path }
    }

    pub(crate) fn uri(&self) -> NbdUri {
        NbdUri::unix(Path::new(&self.path), "x")
    }
}

fn converse(
    stream: &mut UnixStream,
    manners: &Manners,
    answer: impl Fn(RequestHeader) -> Option<Vec<u8>>,
) -> std::io::Result<()> {
    negotiate(stream, manners)?;
    loop {
        let mut bytes = [0; codec::REQUEST_LEN];
        stream.read_exact(&mut bytes)?;
        let request = RequestHeader::parse(&bytes).unwrap();
        if request.command == Command::DISC {
            return Ok(());
        }
        let Some(reply) = answer(request) else { return Ok(()) };
        stream.write_all(&reply)?;
    }
}

fn negotiate(stream: &mut UnixStream, manners: &Manners) -> std::io::Result<()> {
    stream.write_all(&Greeting::encode(HANDSHAKE_NO_ZEROES))?;
    stream.read_exact(&mut [0; 4])?;
    loop {
        let mut head = [0; codec::OPTION_HEADER_LEN];
        stream.read_exact(&mut head)?;
        let OptionHeader { option, length } = OptionHeader::parse(&head).unwrap();
        let mut data = vec![0; length as usize];
        stream.read_exact(&mut data)?;
        let mut reply = |kind, data: &[u8]| stream.write_all(&codec::encode_option_reply(option, kind, data));
        match option {
            OptionCode::STRUCTURED_REPLY if manners.structured => reply(ReplyType::ACK, &[])?,
            OptionCode::SET_META_CONTEXT if manners.structured => {
                let context = codec::encode_meta_context(ContextId(7), codec::BASE_ALLOCATION);
                reply(ReplyType::META_CONTEXT, &context)?;
                reply(ReplyType::ACK, &[])?;
            }
            OptionCode::GO => {
                let info = Info::Export { size: ByteLen(manners.size), flags: manners.flags };
                reply(ReplyType::INFO, &info.encode())?;
                reply(ReplyType::INFO, &Info::BlockSize(BlockSizes::default()).encode())?;
                reply(ReplyType::ACK, &[])?;
                return Ok(());
            }
            _ => reply(ReplyType::ERR_UNSUP, &[])?,
        }
    }
}

/// A chunk of a structured reply.
pub(crate) fn chunk(cookie: Cookie, chunk: ChunkType, done: bool, payload: &[u8]) -> Vec<u8> {
    let mut out = BytesMut::new();
    ChunkHeader { done, chunk, cookie, length: u32::try_from(payload.len()).unwrap() }.encode(&mut out);
    out.extend_from_slice(payload);
    out.to_vec()
}

/// A data chunk.
pub(crate) fn data(cookie: Cookie, done: bool, offset: u64, bytes: &[u8]) -> Vec<u8> {
    chunk(cookie, ChunkType::OFFSET_DATA, done, &[&offset.to_be_bytes(), bytes].concat())
}

/// A simple reply.
pub(crate) fn simple(cookie: Cookie, bytes: &[u8]) -> Vec<u8> {
    let mut out = BytesMut::new();
    SimpleReply { error: None, cookie }.encode(&mut out);
    out.extend_from_slice(bytes);
    out.to_vec()
}
