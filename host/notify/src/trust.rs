//! Whom to believe on the other side of TLS: the machine's authorities, or given ones in their place.

use std::sync::{Arc, OnceLock};

use rustls::RootCertStore;
use rustls::crypto::{CryptoProvider, ring};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

use crate::error::{Error, ErrorKind, Result};

/// The authorities to believe: those in `pem`, or the machine's where there is none.
pub(crate) fn authorities(pem: Option<&str>) -> Result<Vec<CertificateDer<'static>>> {
    match pem {
        Some(pem) => given(pem),
        None => Ok(of_the_machine().to_vec()),
    }
}

/// [`authorities`] as rustls wants them. Of the machine's, those that cannot be used are passed over.
pub(crate) fn roots(pem: Option<&str>) -> Result<Arc<RootCertStore>> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(authorities(pem)?);
    Ok(Arc::new(roots))
}

/// The cryptography of the whole house.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    Arc::clone(PROVIDER.get_or_init(|| Arc::new(ring::default_provider())))
}

fn given(pem: &str) -> Result<Vec<CertificateDer<'static>>> {
    let unusable = "an authority cannot be used: give certificates in PEM";
    let mut found = Vec::new();
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let certificate = certificate.map_err(|error| Error::caused(ErrorKind::Invalid, unusable, error))?;
        roots.add(certificate.clone()).map_err(|error| Error::caused(ErrorKind::Invalid, unusable, error))?;
        found.push(certificate);
    }
    if found.is_empty() {
        return Err(Error::invalid("there is no certificate in the given authorities: give them in PEM"));
    }
    Ok(found)
}

fn of_the_machine() -> &'static [CertificateDer<'static>] {
    static FOUND: OnceLock<Vec<CertificateDer<'static>>> = OnceLock::new();
    FOUND.get_or_init(|| rustls_native_certs::load_native_certs().certs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_certificates_are_authorities() {
        for odd in ["", "no PEM", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
            assert_eq!(authorities(Some(odd)).unwrap_err().kind(), ErrorKind::Invalid, "{odd}");
        }
    }
}
