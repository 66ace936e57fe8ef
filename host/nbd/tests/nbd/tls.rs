//! TLS both ways: the client with qemu-nbd, qemu-img with the server, the two with each other, and who is refused.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest, Sha256};
use tidemark_nbd::{Client, ErrorKind, NbdUri, Server, ServerOptions, TlsIdentity, TlsOptions, TlsTrust};

use crate::memory::Shelf;
use crate::process::{Daemon, free_port, noise, quick, read_all, run_beside, text};

/// An authority and what it signed, as files of the names qemu expects.
struct Certificates {
    folder: tempfile::TempDir,
    server_digest: [u8; 32],
}

impl Certificates {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, content: String| std::fs::write(folder.path().join(name), content).unwrap();
        let mut authority = CertificateParams::new(Vec::new()).unwrap();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let authority_key = KeyPair::generate().unwrap();
        write("ca-cert.pem", authority.self_signed(&authority_key).unwrap().pem());
        let issuer = Issuer::new(authority, authority_key);
        let mut server_digest = [0; 32];
        for (name, usage) in
            [("server", ExtendedKeyUsagePurpose::ServerAuth), ("client", ExtendedKeyUsagePurpose::ClientAuth)]
        {
            let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
            let mut params = CertificateParams::new(names).unwrap();
            params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
            params.extended_key_usages = vec![usage];
            let key = KeyPair::generate().unwrap();
            let certificate = params.signed_by(&key, &issuer).unwrap();
            write(&format!("{name}-cert.pem"), certificate.pem());
            write(&format!("{name}-key.pem"), key.serialize_pem());
            if name == "server" {
                server_digest = Sha256::digest(certificate.der()).into();
            }
        }
        Self { folder, server_digest }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn by_authority(&self) -> TlsOptions {
        TlsOptions { trust: TlsTrust::CaFile(self.file("ca-cert.pem")), server_name: None, identity: None }
    }

    fn by_pin(&self, digest: [u8; 32]) -> TlsOptions {
        let server_name = Some("another.example".to_owned());
        TlsOptions { trust: TlsTrust::PinnedSha256(digest), server_name, identity: None }
    }

    fn identity(&self) -> Option<TlsIdentity> {
        Some(TlsIdentity { certificate: self.file("client-cert.pem"), key: self.file("client-key.pem") })
    }

    fn server_config(&self) -> Arc<rustls::ServerConfig> {
        let chain = CertificateDer::pem_file_iter(self.file("server-cert.pem")).unwrap();
        let chain = chain.collect::<Result<Vec<_>, _>>().unwrap();
        let key = PrivateKeyDer::from_pem_file(self.file("server-key.pem")).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ServerConfig::builder_with_provider(provider);
        let builder = builder.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
        Arc::new(builder.with_single_cert(chain, key).unwrap())
    }
}

async fn refused(uri: &NbdUri, tls: Option<TlsOptions>) -> String {
    let mut options = quick(uri.clone());
    options.tls = tls;
    options.connections = 1;
    let error = match Client::connect(options).await {
        Err(error) => error,
        // In TLS 1.3 the client learns only later that its certificate was missing.
        Ok(client) => client.read(crate::process::extent(0, 512), bytes::BytesMut::new()).await.unwrap_err(),
    };
    assert_eq!(error.kind(), ErrorKind::Tls, "{error:?}");
    format!("{error:?}")
}

fn qemu_nbd(certificates: &Certificates, disk: &Path, verify: &str) -> (Daemon, NbdUri) {
    let port = free_port();
    let object = format!(
        "tls-creds-x509,id=tls0,endpoint=server,verify-peer={verify},dir={}",
        text(certificates.folder.path())
    );
    let port_text = port.to_string();
    let arguments = [
        "--object",
        &object,
        "--tls-creds",
        "tls0",
        "-r",
        "-t",
        "-e",
        "8",
        "-f",
        "raw",
        "-b",
        "127.0.0.1",
        "-p",
        &port_text,
        text(disk),
    ];
    let server = Daemon::start_tcp("qemu-nbd", &arguments, port);
    (server, NbdUri::tcp("127.0.0.1", port, "").with_tls(true))
}

#[tokio::test(flavor = "multi_thread")]
async fn qemu_nbd_by_authority_and_by_pin() {
    let (certificates, strangers) = (Certificates::new(), Certificates::new());
    let disk = certificates.file("disk.raw");
    std::fs::write(&disk, noise(4 << 20)).unwrap();
    let (_server, uri) = qemu_nbd(&certificates, &disk, "no");

    for tls in [certificates.by_authority(), certificates.by_pin(certificates.server_digest)] {
        let mut options = quick(uri.clone());
        options.tls = Some(tls);
        let client = Client::connect(options).await.unwrap();
        assert!(client.info().connections > 1);
        assert!(read_all(&client, 256 << 10).await == noise(4 << 20));
        client.close().await;
    }

    let plain = uri.with_tls(false);
    assert!(refused(&plain, None).await.contains("requires TLS"));
    refused(&uri, None).await;
    refused(&uri, Some(strangers.by_authority())).await;
    assert!(refused(&uri, Some(strangers.by_pin(strangers.server_digest))).await.contains("pinned"));
    let another_name =
        TlsOptions { server_name: Some("another.example".to_owned()), ..certificates.by_authority() };
    refused(&uri, Some(another_name)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn qemu_nbd_that_asks_for_a_certificate() {
    let certificates = Certificates::new();
    let disk = certificates.file("disk.raw");
    std::fs::write(&disk, noise(1 << 20)).unwrap();
    let (_server, uri) = qemu_nbd(&certificates, &disk, "yes");
    let mut options = quick(uri.clone());
    options.tls = Some(TlsOptions { identity: certificates.identity(), ..certificates.by_authority() });
    let client = Client::connect(options).await.unwrap();
    assert!(read_all(&client, 64 << 10).await == noise(1 << 20));
}

#[tokio::test(flavor = "multi_thread")]
async fn our_server_with_qemu_img_and_our_client() {
    let certificates = Certificates::new();
    let disk = certificates.file("disk.raw");
    std::fs::write(&disk, noise(3 << 20)).unwrap();
    let options = ServerOptions { tls: Some(certificates.server_config()), ..ServerOptions::default() };
    let shelf = Shelf::with("d", noise(3 << 20));
    let server = Server::bind_tcp("127.0.0.1:0".parse().unwrap(), shelf, options).await.unwrap();
    let uri = server.uri("d");
    assert!(uri.tls);

    let mut options = quick(uri.clone());
    options.tls = Some(certificates.by_authority());
    let client = Client::connect(options).await.unwrap();
    assert!(read_all(&client, 256 << 10).await == noise(3 << 20));
    client.close().await;
    assert!(refused(&uri.with_tls(false), None).await.contains("requires TLS"));

    let port = server.local_addr().unwrap().port();
    let creds = format!("tls-creds-x509,id=t,endpoint=client,dir={}", text(certificates.folder.path()));
    let image =
        format!("driver=nbd,server.type=inet,server.host=127.0.0.1,server.port={port},export=d,tls-creds=t");
    let local = format!("driver=raw,file.filename={}", text(&disk));
    let arguments = ["compare", "--object", &creds, "--image-opts", &image, &local].map(str::to_owned);
    let verdict = run_beside("qemu-img", arguments.into()).await;
    assert!(verdict.contains("identical"), "{verdict}");
    server.shutdown().await;
}
