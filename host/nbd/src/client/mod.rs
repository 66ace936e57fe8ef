//! The asynchronous client: one export over one or several connections, requests in parallel, reads resumed after
//! a lost connection.
//!
//! The first connection negotiates the metadata contexts and, with them, structured replies; it answers block
//! status and reads too (in one piece, by the DF flag). Further connections keep to simple replies, because with
//! structured ones some servers look up block status on every read.
//!
//! Only reads and block status are repeated by themselves after a reconnect. Writes, and what follows unflushed
//! writes, are not: the server may have lost data that nobody would send again.

mod connection;
mod lane;
mod negotiate;
mod options;
mod reply;
mod request;
mod status;
mod tls;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::future::join_all;
use tidemark_model::{ByteLen, Extent, ExtentList, GuestOffset};

pub use options::{
    ClientOptions, ExportInfo, ListedExport, ReconnectPolicy, StatusExtent, TlsIdentity, TlsOptions, TlsTrust,
};

use crate::codec::{BASE_ALLOCATION, Command, TransmissionFlags};
use crate::error::{Error, ErrorKind, Result};
use crate::uri::NbdUri;
use lane::{Dialer, Fate, Lane};
use tls::TlsUpgrade;

/// A connection, or several, to one export. Cheap to clone; all clones share the connections.
///
/// Once reconnecting has failed for one request, the client stays failed for all; a new one may be connected.
#[derive(Clone)]
pub struct Client(Arc<Core>);

struct Core {
    uri: NbdUri,
    info: ExportInfo,
    lanes: Vec<Lane>,
    fate: Arc<Fate>,
    reconnect: ReconnectPolicy,
    request_timeout: Duration,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("uri", &self.0.uri).field("info", &self.0.info).finish_non_exhaustive()
    }
}

/// Asks a server for its exports; the export in `uri` is of no meaning.
///
/// # Errors
/// As [`Client::connect`]; [`ErrorKind::Refused`] or [`ErrorKind::Unsupported`] when the server does not tell.
pub async fn list_exports(
    uri: &NbdUri,
    tls: Option<&TlsOptions>,
    timeout: Duration,
) -> Result<Vec<ListedExport>> {
    let upgrade = tls_upgrade(uri, tls).map_err(|error| error.at(uri))?;
    match tokio::time::timeout(timeout, negotiate::list(uri, upgrade.as_ref())).await {
        Ok(exports) => exports.map_err(|error| error.at(uri)),
        Err(_) => Err(Error::new(ErrorKind::Timeout, format!("no list within {timeout:?}")).at(uri)),
    }
}

fn tls_upgrade(uri: &NbdUri, tls: Option<&TlsOptions>) -> Result<Option<TlsUpgrade>> {
    match tls {
        Some(options) => TlsUpgrade::new(options, &uri.address).map(Some),
        None if uri.tls => Err(Error::new(
            ErrorKind::Tls,
            "the URI requires TLS, but nothing says which certificate to believe",
        )),
        None => Ok(None),
    }
}

impl Client {
    /// Connects and negotiates.
    ///
    /// # Errors
    /// [`ErrorKind::Unreachable`], [`ErrorKind::Tls`], [`ErrorKind::ExportGone`], [`ErrorKind::Refused`],
    /// [`ErrorKind::Protocol`] and the like. The first connection is tried once.
    pub async fn connect(options: ClientOptions) -> Result<Self> {
        let uri = options.uri.clone();
        Self::open(options).await.map_err(|error| error.at(&uri))
    }

    async fn open(options: ClientOptions) -> Result<Self> {
        let tls = tls_upgrade(&options.uri, options.tls.as_ref())?;
        let dialer = Arc::new(Dialer { options, tls });
        let first = dialer.dial(true).await?;
        let multi_conn = first.flags.contains(TransmissionFlags::CAN_MULTI_CONN);
        let further = if multi_conn { dialer.options.connections.saturating_sub(1) } else { 0 };
        let mut connections = Vec::with_capacity(further);
        for dialled in join_all((0..further).map(|_| dialer.dial_further())).await {
            match dialled {
                Ok(connection) => {
                    lane::check_sibling(&first, &connection)?;
                    connections.push(connection);
                }
                Err(error) => {
                    tracing::debug!(uri = %dialer.options.uri, %error, "a further connection failed, using fewer");
                }
            }
        }
        let info = ExportInfo {
            size: first.size,
            flags: first.flags,
            block_sizes: first.block_sizes,
            contexts: first.contexts.iter().map(|(_, name)| name.clone()).collect(),
            multi_conn,
            structured_replies: first.structured,
            connections: 1 + connections.len(),
        };
        let fate = Arc::new(Fate::new());
        let connections = std::iter::once((true, first)).chain(connections.into_iter().map(|c| (false, c)));
        let lanes = connections
            .map(|(contexts, connection)| {
                Lane::new(Arc::clone(&dialer), Arc::clone(&fate), contexts, connection)
            })
            .collect();
        let ClientOptions { uri, reconnect, request_timeout, .. } = dialer.options.clone();
        Ok(Self(Arc::new(Core { uri, info, lanes, fate, reconnect, request_timeout })))
    }

    /// The disk's size.
    #[must_use]
    pub fn size(&self) -> ByteLen {
        self.0.info.size
    }

    /// What was negotiated.
    #[must_use]
    pub fn info(&self) -> &ExportInfo {
        &self.0.info
    }

    /// The server and export.
    #[must_use]
    pub fn uri(&self) -> &NbdUri {
        &self.0.uri
    }

    /// The largest extent that one read or write takes.
    #[must_use]
    pub fn max_request(&self) -> ByteLen {
        ByteLen(u64::from(self.0.info.block_sizes.maximum))
    }

    /// Reads `extent` into `buffer`, whose content is replaced and whose memory is used when it suffices.
    /// Dropping the future gives the buffer up, nothing else.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidRequest`] beyond the disk or [`max_request`](Self::max_request), or unaligned;
    /// [`ErrorKind::Remote`] when the server answers with an error; the connection's own errors once reconnecting
    /// has failed, [`ErrorKind::ExportGone`] and [`ErrorKind::Changed`] among them.
    pub async fn read(&self, extent: Extent, buffer: BytesMut) -> Result<BytesMut> {
        self.0.read(extent, buffer).await.map_err(|error| self.name(error, Command::READ, extent))
    }

    /// The status of `extent` in a negotiated context: gap-free, neighbours merged, exactly as long as asked.
    ///
    /// # Errors
    /// As [`read`](Self::read), without its limit of size; [`ErrorKind::Unsupported`] when the context was not
    /// negotiated.
    pub async fn block_status(&self, context: &str, extent: Extent) -> Result<Vec<StatusExtent>> {
        let status = self.0.block_status(context, extent).await;
        status.map_err(|error| self.name(error, Command::BLOCK_STATUS, extent))
    }

    /// The parts of `extent` that may hold something other than zeroes, by `base:allocation`; all of it when the
    /// server does not offer that context.
    ///
    /// # Errors
    /// As [`block_status`](Self::block_status).
    pub async fn allocated(&self, extent: Extent) -> Result<ExtentList> {
        let named = |error| self.name(error, Command::BLOCK_STATUS, extent);
        self.0.check_inside(extent).map_err(named)?;
        if !self.0.info.contexts.iter().any(|name| name == BASE_ALLOCATION) {
            let whole = if extent.length.0 == 0 { Vec::new() } else { vec![extent] };
            return ExtentList::checked(whole, self.size()).map_err(|source| {
                named(Error::caused(ErrorKind::InvalidRequest, "not of this disk", source))
            });
        }
        let status = self.block_status(BASE_ALLOCATION, extent).await?;
        status::data_ranges(extent.offset, &status, self.size()).map_err(named)
    }

    /// Writes `data` at `offset`.
    ///
    /// # Errors
    /// As [`read`](Self::read); no write is repeated after a lost connection.
    pub async fn write(&self, offset: GuestOffset, data: Bytes) -> Result<()> {
        let extent = Extent { offset, length: ByteLen(data.len() as u64) };
        let written = self.0.change(Command::WRITE, extent, data).await;
        written.map_err(|error| self.name(error, Command::WRITE, extent))
    }

    /// Makes `extent` read as zeroes, punching a hole where the server can.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub async fn write_zeroes(&self, extent: Extent) -> Result<()> {
        let zeroed = self.0.change_all(Command::WRITE_ZEROES, extent).await;
        zeroed.map_err(|error| self.name(error, Command::WRITE_ZEROES, extent))
    }

    /// Tells the server that the content of `extent` is of no use any more.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub async fn trim(&self, extent: Extent) -> Result<()> {
        let trimmed = self.0.change_all(Command::TRIM, extent).await;
        trimmed.map_err(|error| self.name(error, Command::TRIM, extent))
    }

    /// Makes all answered writes durable.
    ///
    /// # Errors
    /// As [`write`](Self::write); [`ErrorKind::Unsupported`] when the server has no flush.
    pub async fn flush(&self) -> Result<()> {
        self.0.flush().await.map_err(|error| error.during("flush").at(&self.0.uri))
    }

    /// Says goodbye on all connections, for all clones.
    pub async fn close(self) {
        join_all(self.0.lanes.iter().map(Lane::close)).await;
    }

    fn name(&self, error: Error, command: Command, extent: Extent) -> Error {
        error.during(format_args!("{command} of {} at {}", extent.length, extent.offset)).at(&self.0.uri)
    }
}
