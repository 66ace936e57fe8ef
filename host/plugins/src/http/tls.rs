//! Whom to believe on the other side of TLS: the machine's authorities, given ones, or exactly one certificate.
//!
//! A pinned certificate is believed whatever its names, dates and issuer say, because that is what a self-signed
//! vCenter offers; the handshake's signature is still checked, so that a copied certificate is of no use.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use sha2::Digest as _;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::HttpFailure;

/// Whom to believe.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Trust {
    /// The machine's authorities.
    System,
    /// These authorities only, in PEM.
    Authorities(String),
    /// Exactly the certificate with this fingerprint.
    Thumbprint(Vec<u8>),
}

impl Trust {
    /// A fingerprint as people write it: SHA-1 or SHA-256, hexadecimal, colons or spaces between.
    pub(crate) fn thumbprint(text: &str) -> Option<Self> {
        let digits: String = text.chars().filter(|c| !matches!(c, ':' | ' ')).collect();
        let bytes = hex::decode(digits).ok()?;
        matches!(bytes.len(), 20 | 32).then_some(Self::Thumbprint(bytes))
    }
}

/// The configurations a session has needed so far.
#[derive(Default)]
pub(super) struct Configurations(HashMap<Trust, Arc<ClientConfig>>);

impl Configurations {
    pub(super) async fn handshake(
        &mut self,
        trust: &Trust,
        host: &str,
        stream: TcpStream,
    ) -> Result<TlsStream<TcpStream>, HttpFailure> {
        let config = match self.0.get(trust) {
            Some(config) => Arc::clone(config),
            None => {
                let config = Arc::new(configuration(trust).map_err(HttpFailure::Untrusted)?);
                self.0.insert(trust.clone(), Arc::clone(&config));
                config
            }
        };
        let name = ServerName::try_from(host.to_owned()).map_err(|_| {
            HttpFailure::Untrusted(format!("'{host}' is no name that a certificate could have"))
        })?;
        TlsConnector::from(config).connect(name, stream).await.map_err(|error| {
            let refused = error
                .get_ref()
                .and_then(|inner| inner.downcast_ref::<rustls::Error>())
                .is_some_and(|error| matches!(error, rustls::Error::InvalidCertificate(_)));
            let message = format!("TLS with {host}: {error}");
            if refused { HttpFailure::Untrusted(message) } else { HttpFailure::Unavailable(message) }
        })
    }
}

fn configuration(trust: &Trust) -> Result<ClientConfig, String> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let mut config = match trust {
        Trust::System => builder.with_root_certificates(system_roots()).with_no_client_auth(),
        Trust::Authorities(pem) => builder.with_root_certificates(roots_from(pem)?).with_no_client_auth(),
        Trust::Thumbprint(expected) => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Pinned { expected: expected.clone(), provider }))
            .with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn system_roots() -> Arc<RootCertStore> {
    static ROOTS: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    let load = || {
        let mut roots = RootCertStore::empty();
        let found = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(found.certs);
        Arc::new(roots)
    };
    Arc::clone(ROOTS.get_or_init(load))
}

fn roots_from(pem: &str) -> Result<Arc<RootCertStore>, String> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let certificate = certificate.map_err(|error| format!("the authorities are no PEM: {error}"))?;
        roots.add(certificate).map_err(|error| format!("an authority cannot be used: {error}"))?;
    }
    if roots.is_empty() {
        return Err("there is no certificate in the given authorities".to_owned());
    }
    Ok(Arc::new(roots))
}

#[derive(Debug)]
struct Pinned {
    expected: Vec<u8>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let sha256 = sha2::Sha256::digest(end_entity.as_ref());
        let same = match self.expected.len() {
            20 => self.expected.as_slice() == sha1::Sha1::digest(end_entity.as_ref()).as_slice(),
            _ => self.expected.as_slice() == sha256.as_slice(),
        };
        if same {
            return Ok(ServerCertVerified::assertion());
        }
        let words = format!("the server's certificate has another thumbprint: {}", hex::encode(sha256));
        Err(rustls::Error::InvalidCertificate(CertificateError::Other(rustls::OtherError(Arc::new(
            std::io::Error::other(words),
        )))))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
