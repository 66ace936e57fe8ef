//! One connection in the transmission phase: a task that writes requests, a task that reads replies, and the
//! table of requests under way between them.
//!
//! A request enters the table before it is written and leaves it when its reply is complete, when the connection
//! dies, or in the hands of the reader while its payload arrives. The table's lock is never held over an await.
//! Writing in a task of its own keeps a dropped caller from leaving half a request on the wire.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tidemark_model::ByteLen;
use tokio::io::{AsyncWriteExt, BufReader, WriteHalf};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::negotiate::{Negotiated, lost};
use super::reply::{Coverage, Reader};
use crate::codec::{BlockSizes, Command, ContextId, Cookie, RequestHeader, TransmissionFlags, WireExtent};
use crate::error::{Error, ErrorKind, Result};
use crate::stream::Stream;

/// Small: it is for reply heads; payloads larger than it go straight to the caller's memory.
const READ_BUFFER: usize = 4 << 10;
/// How long a goodbye may take.
const GOODBYE: Duration = Duration::from_secs(2);

/// What a request waits for.
pub(super) enum Work {
    /// Data.
    Read { buffer: BytesMut, coverage: Coverage },
    /// A status in each context.
    Status { lists: Vec<(ContextId, Vec<WireExtent>)> },
    /// Only the word that it is done.
    Plain,
}

/// A request that failed, with the caller's buffer where it was saved.
pub(super) struct Failure {
    pub(super) error: Error,
    pub(super) buffer: Option<BytesMut>,
}

/// A request under way.
pub(super) struct Pending {
    pub(super) request: RequestHeader,
    pub(super) work: Work,
    /// The first error chunk; reported when the reply is complete.
    pub(super) error: Option<Error>,
    answer: oneshot::Sender<std::result::Result<Work, Failure>>,
    _slot: OwnedSemaphorePermit,
}

impl Pending {
    pub(super) fn succeed(self) {
        // Whoever asked may be gone.
        let _ = self.answer.send(Ok(self.work));
    }

    pub(super) fn fail(self, error: Error) {
        let buffer = match self.work {
            Work::Read { buffer, .. } => Some(buffer),
            Work::Status { .. } | Work::Plain => None,
        };
        let _ = self.answer.send(Err(Failure { error, buffer }));
    }
}

/// What both tasks and all callers share.
pub(super) struct Shared {
    table: Mutex<Table>,
    ended: CancellationToken,
}

#[derive(Default)]
struct Table {
    pending: HashMap<u64, Pending>,
    next_cookie: u64,
    dead: Option<Error>,
}

impl Shared {
    fn table(&self) -> std::sync::MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a request out while its reply is read.
    pub(super) fn take(&self, cookie: Cookie) -> Option<Pending> {
        self.table().pending.remove(&cookie.0)
    }

    /// Puts it back until the next chunk.
    pub(super) fn put_back(&self, pending: Pending) {
        let mut table = self.table();
        match table.dead.clone() {
            None => {
                table.pending.insert(pending.request.cookie.0, pending);
            }
            Some(error) => {
                drop(table);
                pending.fail(error);
            }
        }
    }

    /// Ends the connection; the first reason counts, for every request under way.
    pub(super) fn end(&self, error: Error) {
        let (error, orphans) = {
            let mut table = self.table();
            let error = table.dead.get_or_insert(error).clone();
            (error, std::mem::take(&mut table.pending))
        };
        self.ended.cancel();
        for pending in orphans.into_values() {
            pending.fail(error.clone());
        }
    }

    fn reason(&self) -> Option<Error> {
        self.table().dead.clone()
    }
}

struct Outgoing {
    header: RequestHeader,
    data: Bytes,
}

/// A connection that carries requests until it ends; it never comes back.
pub(super) struct Connection {
    shared: Arc<Shared>,
    outgoing: mpsc::Sender<Outgoing>,
    pub(super) size: ByteLen,
    pub(super) flags: TransmissionFlags,
    pub(super) block_sizes: BlockSizes,
    pub(super) structured: bool,
    pub(super) contexts: Vec<(ContextId, String)>,
}

impl Connection {
    /// Starts the two tasks.
    pub(super) fn start(negotiated: Negotiated, in_flight: usize) -> Self {
        let Negotiated { stream, size, flags, block_sizes, structured, contexts } = negotiated;
        let shared =
            Arc::new(Shared { table: Mutex::new(Table::default()), ended: CancellationToken::new() });
        let (outgoing, requests) = mpsc::channel(in_flight.max(1));
        let (source, sink) = tokio::io::split(stream);
        let mut reader = Reader {
            source: BufReader::with_capacity(READ_BUFFER, source),
            shared: Arc::clone(&shared),
            structured,
            contexts: contexts.iter().map(|(id, _)| *id).collect(),
        };
        let of_reader = Arc::clone(&shared);
        tokio::spawn(async move {
            let ended = of_reader.ended.clone();
            tokio::select! {
                error = reader.run() => of_reader.end(error),
                () = ended.cancelled() => {}
            }
        });
        tokio::spawn(write(sink, requests, Arc::clone(&shared)));
        Self { shared, outgoing, size, flags, block_sizes, structured, contexts }
    }

    pub(super) fn is_alive(&self) -> bool {
        self.shared.reason().is_none()
    }

    /// Sends a request and waits for its whole reply. Dropping the future leaves the connection sound.
    pub(super) async fn submit(
        &self,
        mut header: RequestHeader,
        data: Bytes,
        work: Work,
        slot: OwnedSemaphorePermit,
        timeout: Duration,
    ) -> std::result::Result<Work, Failure> {
        let (answer, mut receiver) = oneshot::channel();
        {
            let mut table = self.shared.table();
            header.cookie = Cookie(table.next_cookie);
            let pending = Pending { request: header, work, error: None, answer, _slot: slot };
            if let Some(error) = table.dead.clone() {
                drop(table);
                pending.fail(error);
            } else {
                table.next_cookie = table.next_cookie.wrapping_add(1);
                table.pending.insert(header.cookie.0, pending);
            }
        }
        let exchange = async {
            // When the writer is gone the connection is dead, and the answer says so.
            let _ = self.outgoing.send(Outgoing { header, data }).await;
            (&mut receiver).await
        };
        let answer = match tokio::time::timeout(timeout, exchange).await {
            Ok(answer) => answer,
            Err(_) => {
                self.end(Error::new(ErrorKind::Timeout, format!("no answer within {timeout:?}")));
                receiver.await
            }
        };
        answer.unwrap_or_else(|_| Err(Failure { error: self.reason(), buffer: None }))
    }

    fn reason(&self) -> Error {
        self.shared.reason().unwrap_or_else(|| Error::new(ErrorKind::Disconnected, "the connection ended"))
    }

    pub(super) fn end(&self, error: Error) {
        self.shared.end(error);
    }

    /// Says goodbye, and waits until that is on the wire.
    pub(super) async fn close(&self) {
        let farewell = async {
            let _ = self.outgoing.send(Outgoing { header: goodbye(), data: Bytes::new() }).await;
            self.shared.ended.cancelled().await;
        };
        if tokio::time::timeout(GOODBYE, farewell).await.is_err() {
            self.end(closed());
        }
    }
}

pub(super) fn closed() -> Error {
    Error::new(ErrorKind::Closed, "the client was closed")
}

fn goodbye() -> RequestHeader {
    RequestHeader { flags: 0, command: Command::DISC, cookie: Cookie(0), offset: 0, length: 0 }
}

/// Writes requests as they come until told to say goodbye, or until nobody can send any more.
async fn write(mut sink: WriteHalf<Stream>, requests: mpsc::Receiver<Outgoing>, shared: Arc<Shared>) {
    let ended = shared.ended.clone();
    let outcome = tokio::select! {
        outcome = write_until_goodbye(&mut sink, requests) => outcome,
        () = ended.cancelled() => return,
    };
    match outcome {
        Ok(()) => {
            // A peer that does not read any more does not get to hold us up.
            let _ = tokio::time::timeout(GOODBYE, sink.shutdown()).await;
            shared.end(closed());
        }
        Err(error) => shared.end(error),
    }
}

async fn write_until_goodbye(
    sink: &mut WriteHalf<Stream>,
    mut requests: mpsc::Receiver<Outgoing>,
) -> Result<()> {
    const BATCH: usize = 4 << 10;
    let mut heads = BytesMut::with_capacity(BATCH);
    loop {
        let mut next = requests.recv().await;
        let mut leave = next.is_none();
        // Requests that wait together go out together.
        while let Some(Outgoing { header, data }) = next.take() {
            header.encode(&mut heads);
            leave |= header.command == Command::DISC;
            if !data.is_empty() {
                sink.write_all(&heads).await.map_err(lost)?;
                heads.clear();
                sink.write_all(&data).await.map_err(lost)?;
            }
            if !leave && heads.len() < BATCH {
                next = requests.try_recv().ok();
            }
        }
        if leave && heads.is_empty() {
            goodbye().encode(&mut heads);
        }
        sink.write_all(&heads).await.map_err(lost)?;
        sink.flush().await.map_err(lost)?;
        heads.clear();
        if leave {
            return Ok(());
        }
    }
}
