//! The server's self-signed certificate, made at each start, and its thumbprints.

use std::sync::Arc;

use anyhow::Context;
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use sha1::Sha1;
use sha2::{Digest, Sha256};

/// What HTTPS needs.
pub struct Identity {
    /// For the listener.
    pub config: Arc<ServerConfig>,
    /// SHA-256 of the certificate, upper hex with colons.
    pub thumbprint: String,
    /// SHA-1 of the certificate, upper hex with colons.
    pub thumbprint_sha1: String,
}

impl Identity {
    /// A new certificate for the loopback names.
    ///
    /// # Errors
    /// When key or certificate cannot be made.
    pub fn create() -> anyhow::Result<Self> {
        let names = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
        let certified =
            rcgen::generate_simple_self_signed(names).context("a self-signed certificate cannot be made")?;
        let certificate = certified.cert.der().clone();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(certified.signing_key.serialize_der()));
        let thumbprint = colons(&Sha256::digest(&certificate));
        let thumbprint_sha1 = colons(&Sha1::digest(&certificate));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)?;
        Ok(Self { config: Arc::new(config), thumbprint, thumbprint_sha1 })
    }
}

fn colons(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02X}")).collect::<Vec<_>>().join(":")
}
