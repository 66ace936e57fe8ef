//! The asynchronous client.

mod options;

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tidemark_model::{ByteLen, Extent, ExtentList, GuestOffset};

pub use options::{
    ClientOptions, ExportInfo, ListedExport, ReconnectPolicy, StatusExtent, TlsIdentity, TlsOptions, TlsTrust,
};

use crate::error::{Error, ErrorKind, Result};
use crate::uri::NbdUri;

/// A connection, or several, to one export. Cheap to clone; all clones share the connections.
#[derive(Debug, Clone)]
pub struct Client {
    info: std::sync::Arc<ExportInfo>,
}

fn unfinished<T>() -> Result<T> {
    Err(Error::new(ErrorKind::Unsupported, "the client is being written"))
}

/// Asks a server for its exports; the export in `uri` is of no meaning.
///
/// # Errors
/// As [`Client::connect`]; [`ErrorKind::Refused`] or [`ErrorKind::Unsupported`] when the server does not tell.
pub async fn list_exports(
    _uri: &NbdUri,
    _tls: Option<&TlsOptions>,
    _timeout: Duration,
) -> Result<Vec<ListedExport>> {
    unfinished()
}

impl Client {
    /// Connects and negotiates.
    ///
    /// # Errors
    /// [`ErrorKind::Unreachable`], [`ErrorKind::Tls`], [`ErrorKind::ExportGone`], [`ErrorKind::Refused`],
    /// [`ErrorKind::Protocol`] and the like. The first connection is tried once.
    pub async fn connect(_options: ClientOptions) -> Result<Self> {
        unfinished()
    }

    /// The disk's size.
    #[must_use]
    pub fn size(&self) -> ByteLen {
        self.info.size
    }

    /// What was negotiated.
    #[must_use]
    pub fn info(&self) -> &ExportInfo {
        &self.info
    }

    /// The largest extent that one read or write takes.
    #[must_use]
    pub fn max_request(&self) -> ByteLen {
        ByteLen(u64::from(self.info.block_sizes.maximum))
    }

    /// Reads `extent` into `buffer`, whose content is replaced and whose memory is used when it suffices.
    /// Dropping the future gives the buffer up, nothing else.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidRequest`] beyond the disk or [`max_request`](Self::max_request);
    /// [`ErrorKind::Remote`] when the server answers with an error; the connection's own errors once reconnecting
    /// has failed, [`ErrorKind::ExportGone`] and [`ErrorKind::Changed`] among them.
    pub async fn read(&self, _extent: Extent, _buffer: BytesMut) -> Result<BytesMut> {
        unfinished()
    }

    /// The status of `extent` in a negotiated context: gap-free, neighbours merged, exactly as long as asked.
    ///
    /// # Errors
    /// As [`read`](Self::read); [`ErrorKind::Unsupported`] when the context was not negotiated.
    pub async fn block_status(&self, _context: &str, _extent: Extent) -> Result<Vec<StatusExtent>> {
        unfinished()
    }

    /// The parts of `extent` that may hold something other than zeroes, by `base:allocation`; all of it when the
    /// server does not offer that context.
    ///
    /// # Errors
    /// As [`block_status`](Self::block_status).
    pub async fn allocated(&self, _extent: Extent) -> Result<ExtentList> {
        unfinished()
    }

    /// Writes `data` at `offset`.
    ///
    /// # Errors
    /// As [`read`](Self::read); no write is repeated after a lost connection.
    pub async fn write(&self, _offset: GuestOffset, _data: Bytes) -> Result<()> {
        unfinished()
    }

    /// Makes `extent` read as zeroes, punching a hole where the server can.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub async fn write_zeroes(&self, _extent: Extent) -> Result<()> {
        unfinished()
    }

    /// Tells the server that the content of `extent` is of no use any more.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub async fn trim(&self, _extent: Extent) -> Result<()> {
        unfinished()
    }

    /// Makes all answered writes durable.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub async fn flush(&self) -> Result<()> {
        unfinished()
    }

    /// Says goodbye on all connections, for all clones.
    pub async fn close(self) {}
}
