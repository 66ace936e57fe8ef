//! Where the host itself reads a disk's bytes: a descriptor that a connector gave and the grants were held against.

use super::Exports;
use crate::bindings::connector::exports::tidemark::plugin::hypervisor as hv;
use crate::error::{Error, ErrorKind};
use crate::grants::{Denied, Target};
use crate::guest::Guest;
use crate::http::Trust;
use crate::manifest::Network;

const OPERATION: &str = "open-disk";
/// The port of NBD where a URI names none.
const NBD_PORT: u16 = 10809;

/// A disk that is open for reading.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskLease {
    /// Opaque; for `close_disk`.
    pub token: String,
    /// Where its bytes are.
    pub transport: Transport,
}

/// Where a disk's bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transport {
    /// An NBD server.
    Nbd {
        /// `nbd://host:port/export` or `nbds://…`.
        uri: String,
    },
    /// VMware's VDDK, which the host runs through nbdkit.
    Vddk(VddkSource),
    /// Ranges of a file over HTTPS.
    HttpRange(HttpSource),
}

/// What VDDK needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VddkSource {
    /// The vCenter server's name.
    pub server: String,
    /// Its port.
    pub port: u16,
    /// Who logs in.
    pub username: String,
    /// The secret's name in the connection's settings.
    pub password_secret: String,
    /// SHA-1 fingerprint.
    pub thumbprint: String,
    /// The VM's managed object.
    pub vm_moref: String,
    /// The snapshot's.
    pub snapshot_moref: String,
    /// `[datastore] folder/file.vmdk`.
    pub file: String,
    /// Transport modes.
    pub modes: String,
}

/// What a range reader needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpSource {
    /// The file.
    pub url: String,
    /// To be sent with each request.
    pub headers: Vec<(String, String)>,
    /// The pinned certificate; none believes the machine's authorities.
    pub thumbprint: Option<String>,
    /// The networks, beyond the public one, that the address may lie in once it is resolved.
    pub networks: Vec<Network>,
}

/// Checks what the guest gave. Nonsense ends the session; a refusal is audited and does not.
pub(super) fn checked(guest: &mut Guest<Exports>, transport: hv::Transport) -> Result<Transport, Error> {
    let allowed = match transport {
        hv::Transport::Nbd(hv::NbdSource { uri }) => nbd(guest, uri)?,
        hv::Transport::Vddk(source) => vddk(guest, source)?,
        hv::Transport::HttpRange(source) => http(guest, source)?,
    };
    allowed.map_err(|denied| {
        let message = denied.to_string();
        // The guest's side of the refusal is of no use: it is not running.
        let _ = guest.store.data().refuse(denied);
        guest.error(ErrorKind::Denied, OPERATION, message)
    })
}

type Checked = Result<Result<Transport, Denied>, Error>;

fn nbd(guest: &mut Guest<Exports>, uri: String) -> Checked {
    let known = uri.starts_with("nbd://") || uri.starts_with("nbds://");
    let Some(target) = Target::parse(&uri).filter(|_| known && is_printable(&uri)) else {
        return Err(guest.nonsense(OPERATION, format!("'{uri}' is no NBD address (nbd://host:port/export)")));
    };
    let rights = &guest.store.data().rights;
    Ok(rights.check_nbd(target.host(), target.port().unwrap_or(NBD_PORT)).map(|_| Transport::Nbd { uri }))
}

fn vddk(guest: &mut Guest<Exports>, source: hv::VddkSource) -> Checked {
    let hv::VddkSource {
        server,
        port,
        username,
        password_secret,
        thumbprint,
        vm_moref,
        snapshot_moref,
        file,
        modes,
    } = source;
    let texts =
        [&server, &username, &password_secret, &thumbprint, &vm_moref, &snapshot_moref, &file, &modes];
    if texts.iter().any(|text| text.is_empty() || text.len() > 4096 || !is_printable(text)) {
        return Err(guest.nonsense(OPERATION, "a VDDK descriptor with an empty or unprintable field"));
    }
    if guest.store.data().secrets.get(&password_secret).is_none() {
        let message = format!("the connection has no secret '{password_secret}'");
        return Err(guest.error(ErrorKind::Config, OPERATION, message));
    }
    let allowed = guest.store.data().rights.check_vddk(&server, port);
    let source = VddkSource {
        server,
        port,
        username,
        password_secret,
        thumbprint,
        vm_moref,
        snapshot_moref,
        file,
        modes,
    };
    Ok(allowed.map(|()| Transport::Vddk(source)))
}

fn http(guest: &mut Guest<Exports>, source: hv::HttpSource) -> Checked {
    let hv::HttpSource { url, headers, thumbprint } = source;
    let uri = url.parse::<hyper::Uri>().ok().filter(|uri| uri.scheme_str() == Some("https"));
    let authority =
        uri.as_ref().and_then(|uri| uri.authority()).filter(|authority| !authority.as_str().contains('@'));
    let Some(authority) = authority else {
        return Err(guest.nonsense(OPERATION, format!("'{url}' is no https URL")));
    };
    if thumbprint.as_deref().is_some_and(|text| Trust::thumbprint(text).is_none()) {
        return Err(guest.nonsense(OPERATION, "a transport whose thumbprint is none"));
    }
    let wrong_header = headers.iter().any(|(name, value)| {
        hyper::header::HeaderName::try_from(name).is_err()
            || hyper::header::HeaderValue::try_from(value).is_err()
    });
    if wrong_header {
        return Err(guest.nonsense(OPERATION, "a transport with a header that is none"));
    }
    let (host, port) =
        (authority.host().trim_matches(['[', ']']).to_owned(), authority.port_u16().unwrap_or(443));
    let allowed = guest.store.data().rights.check_http(&host, port, false);
    Ok(allowed.map(|networks| Transport::HttpRange(HttpSource { url, headers, thumbprint, networks })))
}

fn is_printable(text: &str) -> bool {
    !text.chars().any(char::is_control)
}
