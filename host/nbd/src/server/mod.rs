//! A read-only NBD server for exports that its owner provides.
//!
//! A task accepts connections, each connection is a task with a task for every request in it, and all end with the
//! server. Exports are looked up at each negotiation and kept alive by the connections that use them.

mod answer;
mod export;
mod negotiate;
mod transmission;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

pub use export::{AllocationExtent, Export, ExportSource, Fault, FaultHook, Request, ServerOptions};

use crate::error::{Error, ErrorKind, Result};
use crate::stream::Stream;
use crate::uri::NbdUri;

/// A server that runs until it is shut down or dropped.
#[derive(Debug)]
pub struct Server {
    endpoint: Endpoint,
    tls: bool,
    ended: CancellationToken,
    accepting: Option<JoinHandle<()>>,
}

#[derive(Debug)]
enum Endpoint {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    async fn accept(&self) -> io::Result<Stream> {
        match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Ok(Box::new(stream))
            }
            Self::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                Ok(Box::new(stream))
            }
        }
    }
}

impl Server {
    /// Listens on a TCP address; port 0 takes a free one, see [`local_addr`](Self::local_addr).
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub async fn bind_tcp(
        address: SocketAddr,
        exports: Arc<dyn ExportSource>,
        options: ServerOptions,
    ) -> Result<Self> {
        let failed = |source| Error::caused(ErrorKind::Io, format!("cannot listen on {address}"), source);
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let endpoint = Endpoint::Tcp(listener.local_addr().map_err(failed)?);
        Ok(Self::start(Listener::Tcp(listener), endpoint, exports, options))
    }

    /// Listens on a Unix-domain socket at a path where nothing is yet; it is removed at the end.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub async fn bind_unix(
        path: impl AsRef<Path>,
        exports: Arc<dyn ExportSource>,
        options: ServerOptions,
    ) -> Result<Self> {
        let path = path.as_ref().to_path_buf();
        let listener = UnixListener::bind(&path).map_err(|source| {
            Error::caused(ErrorKind::Io, format!("cannot listen on {}", path.display()), source)
        })?;
        Ok(Self::start(Listener::Unix(listener), Endpoint::Unix(path), exports, options))
    }

    fn start(
        listener: Listener,
        endpoint: Endpoint,
        exports: Arc<dyn ExportSource>,
        options: ServerOptions,
    ) -> Self {
        let ended = CancellationToken::new();
        let tls = options.tls.is_some();
        let accepting = tokio::spawn(accept(listener, exports, options, ended.clone()));
        Self { endpoint, tls, ended, accepting: Some(accepting) }
    }

    /// The TCP address it listens on; nothing for a Unix-domain socket.
    #[must_use]
    pub fn local_addr(&self) -> Option<SocketAddr> {
        match &self.endpoint {
            Endpoint::Tcp(address) => Some(*address),
            Endpoint::Unix(_) => None,
        }
    }

    /// How clients on this machine reach one of its exports.
    #[must_use]
    pub fn uri(&self, export: &str) -> NbdUri {
        let uri = match &self.endpoint {
            Endpoint::Tcp(address) => {
                let host = match address.ip() {
                    IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
                    IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
                    ip => ip,
                };
                NbdUri::tcp(host.to_string(), address.port(), export)
            }
            Endpoint::Unix(path) => NbdUri::unix(path, export),
        };
        uri.with_tls(self.tls)
    }

    /// Stops listening and ends all connections.
    pub async fn shutdown(mut self) {
        self.ended.cancel();
        if let Some(accepting) = self.accepting.take() {
            // It ends by itself; a panic in it has been reported where it happened.
            let _ = accepting.await;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.ended.cancel();
        if let Endpoint::Unix(path) = &self.endpoint {
            // The socket may have been removed by somebody else.
            let _ = std::fs::remove_file(path);
        }
    }
}

async fn accept(
    listener: Listener,
    exports: Arc<dyn ExportSource>,
    options: ServerOptions,
    ended: CancellationToken,
) {
    let places = Arc::new(Semaphore::new(options.max_connections.max(1)));
    let mut connections = JoinSet::new();
    let serve_all = async {
        while let Ok(place) = Arc::clone(&places).acquire_owned().await {
            let stream = match listener.accept().await {
                Ok(stream) => stream,
                Err(error) => {
                    tracing::warn!(%error, "an NBD connection could not be accepted");
                    // Out of descriptors, most likely: trying at once would only burn time.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            while connections.try_join_next().is_some() {}
            let (exports, options) = (Arc::clone(&exports), options.clone());
            connections.spawn(async move {
                let _place = place;
                if let Err(error) = serve_one(stream, exports, options).await {
                    tracing::debug!(error = ?error, "an NBD client's connection failed");
                }
            });
        }
    };
    tokio::select! {
        () = serve_all => {}
        () = ended.cancelled() => {}
    }
    connections.shutdown().await;
}

async fn serve_one(stream: Stream, exports: Arc<dyn ExportSource>, options: ServerOptions) -> Result<()> {
    let timeout = options.negotiation_timeout;
    let negotiation = negotiate::negotiate(stream, &*exports, &options);
    let session = tokio::time::timeout(timeout, negotiation)
        .await
        .map_err(|_| Error::new(ErrorKind::Timeout, format!("no export chosen within {timeout:?}")))??;
    match session {
        Some(session) => transmission::serve(session, options).await,
        None => Ok(()),
    }
}
