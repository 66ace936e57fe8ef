//! The server over real sockets: plain and TLS, a stop that ends event streams, refused addresses.

use std::time::Duration;

use tidemark_engine::{Engine, EngineOptions, Limits, PluginOptions};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

use crate::{ErrorKind, Server, ServerOptions, TlsFiles};

const PATIENCE: Duration = Duration::from_secs(30);

async fn engine(dir: &std::path::Path) -> Engine {
    let options = EngineOptions {
        data_dir: dir.to_owned(),
        database_url: None,
        plugins: PluginOptions::default(),
        owner: None,
        limits: Limits::default(),
        mail: None,
        clock: tidemark_engine::Clock::System,
        abort_at_step: None,
    };
    Engine::start(options).await.unwrap()
}

fn anywhere(tls: Option<TlsFiles>) -> ServerOptions {
    ServerOptions { listen: "127.0.0.1:0".parse().unwrap(), tls }
}

#[tokio::test]
async fn a_stop_ends_event_streams_and_the_server() {
    let dir = tempfile::tempdir().unwrap();
    let engine = engine(dir.path()).await;
    let token = std::fs::read_to_string(dir.path().join("admin.token")).unwrap();
    let server = Server::bind(engine.clone(), &anywhere(None)).await.unwrap();
    let address = server.url().strip_prefix("http://").unwrap().to_owned();
    let taken = ServerOptions { listen: address.parse().unwrap(), tls: None };
    assert_eq!(Server::bind(engine, &taken).await.err().unwrap().kind(), ErrorKind::Listen);

    let (stop, stopped) = oneshot::channel::<()>();
    let running = tokio::spawn(server.run(async { stopped.await.unwrap_or_default() }));
    let mut stream = TcpStream::connect(&address).await.unwrap();
    let request =
        format!("GET /api/v1/events HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n\r\n", token.trim());
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = [0; 15];
    stream.read_exact(&mut head).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 200 OK");
    stop.send(()).unwrap();
    let mut rest = Vec::new();
    tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await.unwrap().unwrap();
    assert!(String::from_utf8_lossy(&rest).contains("text/event-stream"));
    tokio::time::timeout(PATIENCE, running).await.unwrap().unwrap();
    assert!(TcpStream::connect(&address).await.is_err());
}

#[tokio::test]
async fn tls_answers_with_the_given_certificate() {
    let dir = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let files = TlsFiles { certificates: dir.path().join("cert.pem"), key: dir.path().join("key.pem") };
    std::fs::write(&files.certificates, made.cert.pem()).unwrap();
    std::fs::write(&files.key, made.signing_key.serialize_pem()).unwrap();
    let engine = engine(dir.path()).await;
    let server = Server::bind(engine.clone(), &anywhere(Some(files.clone()))).await.unwrap();
    let address = server.url().strip_prefix("https://").unwrap().to_owned();
    let running = tokio::spawn(server.run(std::future::pending()));

    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
    let name = rustls_pki_types::ServerName::try_from("localhost").unwrap();
    let socket = TcpStream::connect(&address).await.unwrap();
    let mut stream = connector.connect(name, socket).await.unwrap();
    stream.write_all(b"GET /api/v1/health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = [0; 15];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200 OK");
    running.abort();

    std::fs::write(&files.key, "no key").unwrap();
    let refused = Server::bind(engine, &anywhere(Some(files))).await;
    assert_eq!(refused.err().unwrap().kind(), ErrorKind::Tls);
}
