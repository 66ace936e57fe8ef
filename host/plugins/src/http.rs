//! The HTTP client behind the guests' `http` interface: one request at a time, HTTP/1.1, connections kept alive
//! within a session, no redirects, no cookies, no proxies. What a guest may reach was decided before; here the
//! resolved address is checked and exactly that address is connected to, so that a name cannot change its mind.

mod address;
mod conversation;
mod range;
mod tls;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::manifest::Network;

pub use address::check as check_address;
pub use conversation::{Conversation, Exchange, RecordedAnswer, RecordedPart, RecordedRequest};
pub use range::RangeReader;
pub(crate) use tls::Trust;

/// Idle connections a session keeps at most.
const MAX_IDLE: usize = 8;

/// Where a request goes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Origin {
    pub(crate) host: String,
    pub(crate) port: u16,
    /// None for plain HTTP.
    pub(crate) trust: Option<Trust>,
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum HttpFailure {
    /// The name leads to an address that is not allowed.
    Forbidden(String),
    /// No connection, or it broke.
    Unavailable(String),
    /// The other side is not who it should be, or what we were given to check it by is wrong.
    Untrusted(String),
    /// The answer is larger than allowed.
    TooLarge(usize),
    /// It took too long.
    Timeout(Duration),
}

/// A whole answer.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

/// What one answer may be and where it may come from.
pub(crate) struct Bounds {
    pub(crate) networks: Vec<Network>,
    pub(crate) timeout: Duration,
    pub(crate) response_bytes: usize,
}

/// The connections of one session.
#[derive(Default)]
pub(crate) struct HttpClient {
    idle: HashMap<Origin, SendRequest<Full<Bytes>>>,
    tls: tls::Configurations,
    /// The connections' drivers; they end with the session.
    drivers: JoinSet<()>,
}

impl HttpClient {
    /// Sends one request and collects its answer.
    pub(crate) async fn send(
        &mut self,
        origin: Origin,
        request: Request<Full<Bytes>>,
        bounds: &Bounds,
    ) -> Result<Answer, HttpFailure> {
        // What is kept is taken out first: a request given up half-way must not leave its connection for the next.
        let kept = self.idle.remove(&origin);
        let exchange = self.exchange(kept, &origin, request, bounds);
        let (answer, connection) = tokio::time::timeout(bounds.timeout, exchange)
            .await
            .map_err(|_| HttpFailure::Timeout(bounds.timeout))??;
        if self.idle.len() < MAX_IDLE && !connection.is_closed() {
            self.idle.insert(origin, connection);
        }
        Ok(answer)
    }

    async fn exchange(
        &mut self,
        kept: Option<SendRequest<Full<Bytes>>>,
        origin: &Origin,
        mut request: Request<Full<Bytes>>,
        bounds: &Bounds,
    ) -> Result<(Answer, SendRequest<Full<Bytes>>), HttpFailure> {
        if let Some(mut connection) = kept
            && connection.ready().await.is_ok()
        {
            match connection.try_send_request(request).await {
                Ok(response) => return Ok((collect(response, bounds).await?, connection)),
                // Only a request that never left is sent again: a repeated POST may do its work twice.
                Err(mut refused) => match refused.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(HttpFailure::Unavailable(refused.error().to_string())),
                },
            }
        }
        let mut connection = self.connect(origin, bounds).await?;
        let response = connection
            .send_request(request)
            .await
            .map_err(|error| HttpFailure::Unavailable(chain(&error)))?;
        Ok((collect(response, bounds).await?, connection))
    }

    async fn connect(
        &mut self,
        origin: &Origin,
        bounds: &Bounds,
    ) -> Result<SendRequest<Full<Bytes>>, HttpFailure> {
        let stream = connect_checked(origin, &bounds.networks).await?;
        match &origin.trust {
            None => self.drive(stream).await,
            Some(trust) => {
                let stream = self.tls.handshake(trust, &origin.host, stream).await?;
                self.drive(stream).await
            }
        }
    }

    async fn drive<S>(&mut self, stream: S) -> Result<SendRequest<Full<Bytes>>, HttpFailure>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, connection) = handshake(TokioIo::new(stream))
            .await
            .map_err(|error| HttpFailure::Unavailable(error.to_string()))?;
        while self.drivers.try_join_next().is_some() {}
        self.drivers.spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a plugin's HTTP connection ended");
            }
        });
        Ok(sender)
    }
}

/// Resolves, keeps the addresses that are allowed, and connects to the first that answers.
async fn connect_checked(origin: &Origin, networks: &[Network]) -> Result<TcpStream, HttpFailure> {
    let Origin { host, port, .. } = origin;
    let resolved: Vec<SocketAddr> = tokio::net::lookup_host((host.as_str(), *port))
        .await
        .map_err(|error| HttpFailure::Unavailable(format!("{host} cannot be resolved: {error}")))?
        .collect();
    let mut last = HttpFailure::Unavailable(format!("{host} has no address"));
    for address in resolved {
        if let Err(why) = address::check(address.ip(), networks) {
            last = HttpFailure::Forbidden(format!("{host} leads to {}, {why}", address.ip()));
            continue;
        }
        match TcpStream::connect(address).await {
            Ok(stream) => {
                let _ = stream.set_nodelay(true);
                return Ok(stream);
            }
            Err(error) => {
                last = HttpFailure::Unavailable(format!("{host}:{port} cannot be reached: {error}"))
            }
        }
    }
    Err(last)
}

async fn collect(response: Response<Incoming>, bounds: &Bounds) -> Result<Answer, HttpFailure> {
    let (head, mut incoming) = response.into_parts();
    let mut body = Vec::new();
    while let Some(frame) = incoming.frame().await {
        let frame = frame.map_err(|error| HttpFailure::Unavailable(chain(&error)))?;
        if let Ok(data) = frame.into_data() {
            if body.len() + data.len() > bounds.response_bytes {
                return Err(HttpFailure::TooLarge(bounds.response_bytes));
            }
            body.extend_from_slice(&data);
        }
    }
    Ok(Answer { status: head.status.as_u16(), headers: head.headers, body })
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text = format!("{text}: {inner}");
        source = inner.source();
    }
    text
}
