//! The HTTP server: accepts connections up to a number, gives each a time for its handshake and headers, and on
//! a stop lets running requests end for a while.
//!
//! hyper directly rather than `axum::serve`, which sets no time limit for headers and knows no TLS.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use futures_util::future::BoxFuture;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tidemark_engine::Engine;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::error::{Error, ErrorKind};
use crate::state::Timeouts;
use crate::tls::{TlsFiles, acceptor};

/// Connections at the same time; further ones wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 1024;
/// For a TLS handshake.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// For the headers of a request, idle time between requests included.
const HEADER_LIMIT: Duration = Duration::from_secs(60);
/// For running requests to end once the server stops.
const DRAIN_LIMIT: Duration = Duration::from_secs(10);
/// After a failed accept, which mostly means that file descriptors ran out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Where and how to listen.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// The address; port 0 takes a free one.
    pub listen: SocketAddr,
    /// TLS, where wanted.
    pub tls: Option<TlsFiles>,
}

/// A server that holds its port and is ready to run.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    tls: Option<TlsAcceptor>,
    router: Router,
    stop: watch::Sender<bool>,
}

impl Server {
    /// Takes the port. Nobody is answered before [`Server::run`].
    ///
    /// # Errors
    /// `Listen` where the address is taken or not ours, `Tls` where the certificate cannot be used.
    pub async fn bind(engine: Engine, options: &ServerOptions) -> Result<Self, Error> {
        let ServerOptions { listen, tls } = options;
        let tls = tls.as_ref().map(acceptor).transpose()?;
        let failed = |error| Error::with_source(ErrorKind::Listen, format!("listening on {listen}"), error);
        let listener = TcpListener::bind(listen).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let (stop, stopping) = watch::channel(false);
        let router = crate::router(engine, stopping, Timeouts::default());
        Ok(Self { listener, address, tls, router, stop })
    }

    /// Where it listens.
    #[must_use]
    pub fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    /// Answers until `until` ends, then lets running requests end for a while.
    pub fn run<'a>(self, until: impl Future<Output = ()> + Send + 'a) -> BoxFuture<'a, ()> {
        // Boxed here, so that it is not compiled again in every program that awaits it.
        Box::pin(self.answer(Box::pin(until)))
    }

    async fn answer(self, mut until: BoxFuture<'_, ()>) {
        let Self { listener, address: _, tls, router, stop } = self;
        let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let mut connections = JoinSet::new();
        loop {
            let slot = tokio::select! {
                () = &mut until => break,
                slot = Arc::clone(&slots).acquire_owned() => slot,
            };
            let accepted = tokio::select! {
                () = &mut until => break,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => {
                    let connection = Connection { router: router.clone(), stopping: stop.subscribe() };
                    let tls = tls.clone();
                    connections.spawn(async move {
                        connection.serve_socket(stream, peer, tls).await;
                        drop(slot);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "accepting a connection failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
            while connections.try_join_next().is_some() {}
        }
        drop(listener);
        // A receiver is always there as long as a connection is; without one there is nothing to tell.
        let _ = stop.send(true);
        let drained =
            tokio::time::timeout(DRAIN_LIMIT, async { while connections.join_next().await.is_some() {} });
        if drained.await.is_err() {
            tracing::warn!(
                open = connections.len(),
                "connections were cut, as their requests did not end in time"
            );
        }
    }
}

struct Connection {
    router: Router,
    stopping: watch::Receiver<bool>,
}

impl Connection {
    async fn serve_socket(self, stream: TcpStream, peer: SocketAddr, tls: Option<TlsAcceptor>) {
        // Small answers should not wait for more; a socket that refuses this is gone anyway.
        let _ = stream.set_nodelay(true);
        let Some(tls) = tls else { return self.serve(stream, peer).await };
        match tokio::time::timeout(HANDSHAKE_LIMIT, tls.accept(stream)).await {
            Ok(Ok(stream)) => self.serve(stream, peer).await,
            Ok(Err(error)) => tracing::debug!(%peer, %error, "the TLS handshake failed"),
            Err(_) => tracing::debug!(%peer, "the TLS handshake took too long"),
        }
    }

    async fn serve(mut self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, peer: SocketAddr) {
        let service = TowerToHyperService::new(self.router);
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_LIMIT)
            .serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = stopped(&mut self.stopping) => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%peer, error = crate::problem::chain(&error), "a connection ended early");
        }
    }
}

/// Ends once the server stops; the guard that `wait_for` gives back must not live across another await.
pub(crate) async fn stopped(stopping: &mut watch::Receiver<bool>) {
    // An error means that the server itself is gone, which is a stop as well.
    let _ = stopping.wait_for(|stopping| *stopping).await;
}
