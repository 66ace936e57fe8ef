//! TLS for the client: a certificate authority's file or one pinned certificate, by rustls with ring.

use std::fmt;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use sha2::{Digest, Sha256};
use tokio_rustls::TlsConnector;

use super::options::{TlsIdentity, TlsOptions, TlsTrust};
use crate::error::{Error, ErrorKind, Result};
use crate::stream::Stream;
use crate::uri::NbdAddress;

/// Ready to turn plain streams into TLS ones.
#[derive(Clone)]
pub(super) struct TlsUpgrade {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl fmt::Debug for TlsUpgrade {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TlsUpgrade({:?})", self.name)
    }
}

impl TlsUpgrade {
    /// Loads the files that `options` names.
    pub(super) fn new(options: &TlsOptions, address: &NbdAddress) -> Result<Self> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|source| Error::caused(ErrorKind::Tls, "TLS cannot be set up", source))?;
        let builder = match &options.trust {
            TlsTrust::CaFile(path) => builder.with_root_certificates(load_roots(path)?),
            TlsTrust::PinnedSha256(digest) => builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(PinnedVerifier { digest: *digest, provider })),
        };
        let config = match &options.identity {
            None => builder.with_no_client_auth(),
            Some(TlsIdentity { certificate, key }) => {
                builder.with_client_auth_cert(load_certificates(certificate)?, load_key(key)?).map_err(
                    |source| Error::caused(ErrorKind::Tls, "the client's certificate is of no use", source),
                )?
            }
        };
        let name = match (&options.server_name, address) {
            (Some(name), _) => name.clone(),
            (None, NbdAddress::Tcp { host, .. }) => host.clone(),
            (None, NbdAddress::Unix { .. }) => "localhost".to_owned(),
        };
        let name = match name.parse::<IpAddr>() {
            Ok(address) => ServerName::IpAddress(address.into()),
            Err(_) => ServerName::try_from(name.clone()).map_err(|source| {
                Error::caused(ErrorKind::Tls, format!("'{name}' is no name a certificate can carry"), source)
            })?,
        };
        Ok(Self { config: Arc::new(config), name })
    }

    /// The handshake.
    pub(super) async fn upgrade(&self, stream: Stream) -> Result<Stream> {
        let connector = TlsConnector::from(Arc::clone(&self.config));
        match connector.connect(self.name.clone(), stream).await {
            Ok(stream) => Ok(Box::new(stream)),
            Err(source) => Err(Error::caused(ErrorKind::Tls, "the TLS handshake failed", source)),
        }
    }
}

fn load_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_file_iter(path).and_then(Iterator::collect).map_err(|source| {
        Error::caused(ErrorKind::Tls, format!("no certificates can be read from {}", path.display()), source)
    })
}

fn load_roots(path: &Path) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in load_certificates(path)? {
        roots.add(certificate).map_err(|source| {
            let context = format!("a certificate in {} is of no use as an authority", path.display());
            Error::caused(ErrorKind::Tls, context, source)
        })?;
    }
    if roots.is_empty() {
        return Err(Error::new(ErrorKind::Tls, format!("{} holds no certificate", path.display())));
    }
    Ok(roots)
}

fn load_key(path: &Path) -> Result<PrivateKeyDer<'static>> {
    PrivateKeyDer::from_pem_file(path).map_err(|source| {
        Error::caused(ErrorKind::Tls, format!("no private key can be read from {}", path.display()), source)
    })
}

/// Believes one certificate, and that its holder is there: the handshake's signature is still checked.
#[derive(Debug)]
struct PinnedVerifier {
    digest: [u8; 32],
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for PinnedVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        let found: [u8; 32] = Sha256::digest(end_entity.as_ref()).into();
        if found == self.digest {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(rustls::Error::General("the server's certificate is not the pinned one".to_owned()))
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
