//! A read-only NBD server for exports that its owner provides.

mod export;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

pub use export::{AllocationExtent, Export, ExportSource, Fault, FaultHook, Request, ServerOptions};

use crate::error::{Error, ErrorKind, Result};
use crate::uri::NbdUri;

/// A server that runs until it is shut down or dropped.
#[derive(Debug)]
pub struct Server {
    local_addr: Option<SocketAddr>,
}

impl Server {
    /// Listens on a TCP address; port 0 takes a free one, see [`local_addr`](Self::local_addr).
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub async fn bind_tcp(
        _address: SocketAddr,
        _exports: Arc<dyn ExportSource>,
        _options: ServerOptions,
    ) -> Result<Self> {
        Err(Error::new(ErrorKind::Unsupported, "the server is being written"))
    }

    /// Listens on a Unix-domain socket at a path where nothing is yet; it is removed at the end.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub async fn bind_unix(
        _path: impl AsRef<Path>,
        _exports: Arc<dyn ExportSource>,
        _options: ServerOptions,
    ) -> Result<Self> {
        Err(Error::new(ErrorKind::Unsupported, "the server is being written"))
    }

    /// The TCP address it listens on; nothing for a Unix-domain socket.
    #[must_use]
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.local_addr
    }

    /// How clients reach one of its exports.
    #[must_use]
    pub fn uri(&self, export: &str) -> NbdUri {
        NbdUri::tcp("127.0.0.1", self.local_addr.map_or(0, |addr| addr.port()), export)
    }

    /// Stops listening and ends all connections.
    pub async fn shutdown(self) {}
}
