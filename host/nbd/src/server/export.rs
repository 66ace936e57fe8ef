//! What the owner of a server provides: exports, a way to find them, and the switches.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tidemark_model::{ByteLen, Extent, GuestOffset};

use crate::codec::{Command, Errno};

/// A run of bytes of one kind in `base:allocation`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AllocationExtent {
    /// How long it is.
    pub length: ByteLen,
    /// Nothing is allocated there.
    pub hole: bool,
    /// It reads as zeroes.
    pub zero: bool,
}

impl AllocationExtent {
    /// A run of data.
    #[must_use]
    pub fn data(length: ByteLen) -> Self {
        Self { length, hole: false, zero: false }
    }

    /// A run that is not allocated and reads as zeroes.
    #[must_use]
    pub fn hole(length: ByteLen) -> Self {
        Self { length, hole: true, zero: true }
    }
}

/// One read-only disk. The calls may block; the server makes them on blocking threads, several at a time.
pub trait Export: Send + Sync + 'static {
    /// The disk's size; it must not change while the export exists.
    fn size(&self) -> ByteLen;

    /// Fills `buffer` with the bytes at `offset`; the range lies inside the disk.
    ///
    /// # Errors
    /// Whatever the source reports; the client is answered with an input/output error.
    fn read_at(&self, offset: GuestOffset, buffer: &mut [u8]) -> io::Result<()>;

    /// What `range` (not empty, inside the disk) consists of: ascending, gap-free, beginning at its first byte.
    /// It may end early, but must cover at least one byte; it may go beyond the range.
    ///
    /// # Errors
    /// As [`read_at`](Self::read_at).
    fn allocation(&self, range: Extent) -> io::Result<Vec<AllocationExtent>>;
}

/// Finds exports by name, at each negotiation, so that they may come and go.
pub trait ExportSource: Send + Sync + 'static {
    /// The export of this name; the empty name asks for the default one.
    fn find(&self, name: &str) -> Option<Arc<dyn Export>>;

    /// The names to show to who asks for a list.
    fn names(&self) -> Vec<String>;
}

/// A request, as a [`FaultHook`] sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The export's name.
    pub export: String,
    /// What is asked for.
    pub command: Command,
    /// Of which range.
    pub extent: Extent,
}

/// What to do to a request instead of answering it well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing; answer it.
    None,
    /// Close the connection without an answer.
    Disconnect,
    /// Answer later.
    Delay(Duration),
    /// Answer with an error.
    Fail(Errno),
}

/// Called for every request before it is carried out.
pub type FaultHook = Arc<dyn Fn(&Request) -> Fault + Send + Sync>;

/// The switches of a server.
#[derive(Clone)]
pub struct ServerOptions {
    /// With it, TLS is required: nothing but the upgrade is answered before.
    pub tls: Option<Arc<rustls::ServerConfig>>,
    /// Whether clients are told that they may open several connections to an export.
    pub multi_conn: bool,
    /// Faults to play, for tests.
    pub fault_hook: Option<FaultHook>,
    /// The most connections at a time; further ones wait.
    pub max_connections: usize,
    /// The most requests of one connection at a time; further ones wait.
    pub max_in_flight: usize,
    /// How long a client may take to negotiate.
    pub negotiation_timeout: Duration,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            tls: None,
            multi_conn: true,
            fault_hook: None,
            max_connections: 128,
            max_in_flight: 32,
            negotiation_timeout: Duration::from_secs(30),
        }
    }
}

impl fmt::Debug for ServerOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tls, multi_conn, fault_hook, max_connections, max_in_flight, negotiation_timeout } = self;
        f.debug_struct("ServerOptions")
            .field("tls", &tls.is_some())
            .field("multi_conn", multi_conn)
            .field("fault_hook", &fault_hook.is_some())
            .field("max_connections", max_connections)
            .field("max_in_flight", max_in_flight)
            .field("negotiation_timeout", negotiation_timeout)
            .finish()
    }
}
