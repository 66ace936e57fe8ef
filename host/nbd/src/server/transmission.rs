//! The transmission phase of one client: requests are read in order, carried out side by side, and answered as
//! they finish.
//!
//! Three bounds: so many requests at a time, so many bytes of replies in memory, and no read beyond the largest
//! payload. A client that does not read its replies fills the bounds and then waits.

use std::io;
use std::sync::Arc;

use bytes::Buf;
use tidemark_model::{ByteLen, Extent, GuestOffset};
use tokio::io::{AsyncWriteExt, BufReader, ReadHalf, WriteHalf};
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::answer::{self, Answer};
use super::export::{Export, Fault, Request, ServerOptions};
use super::negotiate::{Session, broken, discard, lost};
use crate::codec::{
    self, Command, DEFAULT_MAX_PAYLOAD, Errno, REQUEST_DF, REQUEST_REQ_ONE, RequestHeader, TransmissionFlags,
};
use crate::error::{Error, ErrorKind, Result};
use crate::stream::{Stream, read_array};

/// The most bytes of replies in memory for one connection, in units of a kibibyte.
const REPLY_KIB: u32 = 64 << 10;

/// What exports of this server can do.
pub(super) fn flags(options: &ServerOptions, structured: bool) -> TransmissionFlags {
    let mut flags =
        TransmissionFlags::HAS_FLAGS.with(TransmissionFlags::READ_ONLY).with(TransmissionFlags::SEND_FLUSH);
    if structured {
        flags = flags.with(TransmissionFlags::SEND_DF);
    }
    if options.multi_conn {
        flags = flags.with(TransmissionFlags::CAN_MULTI_CONN);
    }
    flags
}

/// What all requests of a connection share.
struct Client {
    export: Arc<dyn Export>,
    name: String,
    structured: bool,
    allocation: bool,
    options: ServerOptions,
    sink: Mutex<WriteHalf<Stream>>,
    ended: CancellationToken,
}

/// Serves until the client leaves, breaks the protocol, or a fault ends the connection.
pub(super) async fn serve(session: Session, options: ServerOptions) -> Result<()> {
    let Session { stream, export, name, structured, allocation } = session;
    let (source, sink) = tokio::io::split(stream);
    let mut source = BufReader::with_capacity(4 << 10, source);
    let slots = Arc::new(Semaphore::new(options.max_in_flight.max(1)));
    let memory = Arc::new(Semaphore::new(REPLY_KIB as usize));
    let ended = CancellationToken::new();
    let client = Arc::new(Client {
        export,
        name,
        structured,
        allocation,
        options,
        sink: Mutex::new(sink),
        ended: ended.clone(),
    });
    // Dropped with everything in it when the connection ends.
    let mut requests = JoinSet::new();
    let read_all = async {
        while let Some(request) = next_request(&mut source).await? {
            let slot = Arc::clone(&slots).acquire_owned().await.map_err(|_| gone())?;
            let bytes = if request.command == Command::READ { request.length } else { 0 };
            let kib = bytes.min(DEFAULT_MAX_PAYLOAD).div_ceil(1024);
            let room = Arc::clone(&memory).acquire_many_owned(kib).await.map_err(|_| gone())?;
            while requests.try_join_next().is_some() {}
            requests.spawn(carry_out(Arc::clone(&client), request, slot, room));
        }
        // The client has said goodbye after its last request; what it still waits for is answered.
        while requests.join_next().await.is_some() {}
        Ok(())
    };
    let outcome = tokio::select! {
        outcome = read_all => outcome,
        () = ended.cancelled() => Ok(()),
    };
    requests.shutdown().await;
    // For TLS: a closing word, if the client still listens.
    let _ = client.sink.lock().await.shutdown().await;
    outcome
}

fn gone() -> Error {
    Error::new(ErrorKind::Closed, "the server was shut down")
}

/// The next request that wants an answer; nothing when the client leaves. A write's data is read over: it is
/// refused, but the next request stands behind it.
async fn next_request(source: &mut BufReader<ReadHalf<Stream>>) -> Result<Option<RequestHeader>> {
    let bytes = match read_array::<{ codec::REQUEST_LEN }>(source).await {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(lost(error)),
    };
    let request = RequestHeader::parse(&bytes).map_err(broken)?;
    match request.command {
        Command::DISC => Ok(None),
        Command::WRITE if request.length > DEFAULT_MAX_PAYLOAD => {
            Err(Error::new(ErrorKind::Protocol, format!("a write of {} bytes", request.length)))
        }
        Command::WRITE => {
            discard(source, ByteLen(u64::from(request.length))).await.map_err(lost)?;
            Ok(Some(request))
        }
        _ => Ok(Some(request)),
    }
}

async fn carry_out(
    client: Arc<Client>,
    request: RequestHeader,
    _slot: OwnedSemaphorePermit,
    _room: OwnedSemaphorePermit,
) {
    let extent = Extent { offset: GuestOffset(request.offset), length: ByteLen(u64::from(request.length)) };
    let fault = client.options.fault_hook.as_ref().map_or(Fault::None, |hook| {
        hook(&Request { export: client.name.clone(), command: request.command, extent })
    });
    let answer = match fault {
        Fault::Disconnect => {
            client.ended.cancel();
            return;
        }
        Fault::Fail(errno) => {
            answer::failed(request.cookie, client.structured, errno, "a fault was asked for")
        }
        Fault::Delay(pause) => {
            tokio::time::sleep(pause).await;
            client.answer(request, extent).await
        }
        Fault::None => client.answer(request, extent).await,
    };
    if let Err(error) = client.send(answer).await {
        tracing::debug!(export = %client.name, %error, "a reply could not be sent");
        client.ended.cancel();
    }
}

impl Client {
    async fn answer(self: &Arc<Self>, request: RequestHeader, extent: Extent) -> Answer {
        let (cookie, structured) = (request.cookie, self.structured);
        if let Err((errno, message)) = self.check(request, extent) {
            return answer::failed(cookie, structured, errno, message);
        }
        if request.command == Command::FLUSH {
            return answer::done(cookie);
        }
        let export = Arc::clone(&self.export);
        let work = move || match request.command {
            Command::BLOCK_STATUS => {
                answer::status(&*export, extent, cookie, request.flags & REQUEST_REQ_ONE != 0)
            }
            _ if structured => {
                answer::read_structured(&*export, extent, cookie, request.flags & REQUEST_DF != 0)
            }
            _ => answer::read_simple(&*export, extent, cookie),
        };
        let outcome =
            tokio::task::spawn_blocking(work).await.unwrap_or_else(|panic| Err(io::Error::other(panic)));
        outcome.unwrap_or_else(|error| {
            tracing::debug!(export = %self.name, %extent.offset, %error, "the export failed");
            answer::failed(cookie, structured, Errno::IO, &error.to_string())
        })
    }

    /// Whether the request makes sense on a read-only disk of this size.
    fn check(
        &self,
        request: RequestHeader,
        extent: Extent,
    ) -> std::result::Result<(), (Errno, &'static str)> {
        let end = extent.offset.0.checked_add(extent.length.0);
        let inside = extent.length.0 > 0 && end.is_some_and(|end| end <= self.export.size().0);
        match request.command {
            Command::FLUSH => Ok(()),
            Command::WRITE | Command::TRIM | Command::WRITE_ZEROES => {
                Err((Errno::PERMISSION, "the export is read-only"))
            }
            Command::READ | Command::BLOCK_STATUS if !inside => {
                Err((Errno::INVALID, "the range is empty or beyond the end"))
            }
            Command::READ if request.length > DEFAULT_MAX_PAYLOAD => {
                Err((Errno::OVERFLOW, "the read is larger than the largest payload"))
            }
            Command::BLOCK_STATUS if !self.allocation => Err((Errno::INVALID, "no context was negotiated")),
            Command::READ | Command::BLOCK_STATUS => Ok(()),
            _ => Err((Errno::INVALID, "the command is unknown")),
        }
    }

    async fn send(&self, answer: Answer) -> io::Result<()> {
        let mut sink = self.sink.lock().await;
        let mut pieces = answer.into_iter();
        // A head and its data leave in one system call.
        while let Some(head) = pieces.next() {
            let mut pair = head.chain(pieces.next().unwrap_or_default());
            while pair.has_remaining() {
                sink.write_buf(&mut pair).await?;
            }
        }
        sink.flush().await
    }
}
