//! The HTTPS side of the vCenter: `/sdk`, its list of versions, and `/folder`.

use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tracing::debug;

use super::http::{Answer, answer, plain, segments};
use super::{folder, sdk};
use crate::objects::service_instance::VERSIONS;
use crate::state::Simulator;

/// Why a connection ends without an answer.
#[derive(Debug, thiserror::Error)]
#[error("a fault switch closes the connection")]
pub(super) struct Dropped;

/// Accepts connections until the task is dropped.
pub async fn serve(simulator: Simulator, listener: TcpListener, tls: Arc<rustls::ServerConfig>) {
    let acceptor = TlsAcceptor::from(tls);
    loop {
        match listener.accept().await {
            Ok((stream, _)) => _ = tokio::spawn(connection(simulator.clone(), stream, acceptor.clone())),
            // Out of descriptors, most likely: let others finish first.
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

async fn connection(simulator: Simulator, stream: TcpStream, acceptor: TlsAcceptor) {
    _ = stream.set_nodelay(true);
    let handshake = tokio::time::timeout(Duration::from_secs(30), acceptor.accept(stream));
    let stream = match handshake.await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return debug!(%error, "a TLS handshake failed"),
        Err(_) => return debug!("a TLS handshake took too long"),
    };
    let service = service_fn(move |request| route(simulator.clone(), request));
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new());
    if let Err(error) = server.serve_connection(TokioIo::new(stream), service).await {
        debug!(%error, "a connection ended early");
    }
}

async fn route(simulator: Simulator, request: Request<Incoming>) -> Result<Answer, Dropped> {
    let path = segments(request.uri());
    let path: Vec<&str> = path.iter().map(String::as_str).collect();
    match (request.method(), path.as_slice()) {
        (&Method::POST, ["sdk" | "sdk/"]) => sdk::post(&simulator, request).await,
        (&Method::GET, ["sdk", "vimServiceVersions.xml"]) => Ok(versions()),
        (&Method::GET | &Method::HEAD, ["folder", rest @ ..]) if !rest.is_empty() => {
            folder::get(&simulator, &request, &rest.join("/"))
        }
        (_, ["sdk"] | ["folder", ..]) => Ok(plain(StatusCode::METHOD_NOT_ALLOWED, "not this method")),
        _ => Ok(plain(StatusCode::NOT_FOUND, "nothing is here")),
    }
}

fn versions() -> Answer {
    let (first, prior) = VERSIONS.split_first().unwrap_or((&"", &[]));
    let prior: String = prior.iter().map(|version| format!("<version>{version}</version>")).collect();
    let body = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\" ?>\n<namespaces version=\"1.0\"><namespace>\
         <name>urn:vim25</name><version>{first}</version><priorVersions>{prior}</priorVersions>\
         </namespace></namespaces>"
    );
    answer(StatusCode::OK, "text/xml", body)
}
