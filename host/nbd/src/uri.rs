//! NBD URIs: `nbd://host[:port]/export`, `nbds://…`, `nbd+unix:///export?socket=/path`, `nbds+unix://…`.
//!
//! Source: the NBD project's `doc/uri.md`. A query parameter other than `socket` is refused rather than ignored,
//! because those that exist name TLS credentials, and TLS comes from the client's options here.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::error::{Error, ErrorKind, Result};

/// The port that IANA assigned to NBD.
pub const DEFAULT_PORT: u16 = 10809;

/// The longest export name the protocol allows, in bytes.
pub(crate) const MAX_EXPORT_NAME: usize = 4096;

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum NbdAddress {
    /// A TCP port.
    Tcp {
        /// A name or address; an IPv6 address without its brackets.
        host: String,
        /// The port.
        port: u16,
    },
    /// A Unix-domain socket.
    Unix {
        /// The socket's path.
        path: PathBuf,
    },
}

/// A server, an export on it, and whether to speak TLS.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct NbdUri {
    /// Where the server listens.
    pub address: NbdAddress,
    /// The export's name; empty for the server's default export.
    pub export: String,
    /// Whether TLS is required (`nbds`).
    pub tls: bool,
}

impl NbdUri {
    /// An export of a server on a TCP port, without TLS.
    #[must_use]
    pub fn tcp(host: impl Into<String>, port: u16, export: impl Into<String>) -> Self {
        Self { address: NbdAddress::Tcp { host: host.into(), port }, export: export.into(), tls: false }
    }

    /// An export of a server on a Unix-domain socket, without TLS.
    #[must_use]
    pub fn unix(path: impl Into<PathBuf>, export: impl Into<String>) -> Self {
        Self { address: NbdAddress::Unix { path: path.into() }, export: export.into(), tls: false }
    }

    /// The same server's export of another name.
    #[must_use]
    pub fn with_export(&self, export: impl Into<String>) -> Self {
        Self { export: export.into(), ..self.clone() }
    }

    /// The same export, with TLS required or not.
    #[must_use]
    pub fn with_tls(&self, tls: bool) -> Self {
        Self { tls, ..self.clone() }
    }
}

impl FromStr for NbdUri {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let refuse = |why: &str| Error::new(ErrorKind::InvalidUri, format!("'{text}' is no NBD URI: {why}"));
        let (scheme, rest) = text.split_once("://").ok_or_else(|| refuse("nbd:// is missing"))?;
        let (tls, unix) = match scheme.to_ascii_lowercase().as_str() {
            "nbd" => (false, false),
            "nbds" => (true, false),
            "nbd+unix" => (false, true),
            "nbds+unix" => (true, true),
            _ => return Err(refuse("the scheme is not nbd, nbds, nbd+unix or nbds+unix")),
        };
        if rest.contains('#') {
            return Err(refuse("it has a fragment"));
        }
        let (rest, query) = rest.split_once('?').map_or((rest, None), |(rest, query)| (rest, Some(query)));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let export = percent_decode(path).ok_or_else(|| refuse("a bad escape in the export's name"))?;
        if export.len() > MAX_EXPORT_NAME || export.contains('\0') {
            return Err(refuse("the export's name is too long or holds a zero byte"));
        }
        let socket = parse_socket(query).map_err(&refuse)?;
        let address = match (unix, socket) {
            (true, Some(_)) if !authority.is_empty() => {
                return Err(refuse("a host has no place beside a socket"));
            }
            (true, Some(path)) => NbdAddress::Unix { path: PathBuf::from(path) },
            (true, None) => return Err(refuse("?socket= is missing")),
            (false, Some(_)) => return Err(refuse("?socket= needs nbd+unix://")),
            (false, None) => parse_authority(authority).map_err(&refuse)?,
        };
        Ok(Self { address, export, tls })
    }
}

fn parse_socket(query: Option<&str>) -> std::result::Result<Option<String>, &'static str> {
    let mut socket = None;
    for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        if name != "socket" {
            return Err("it has a query parameter other than socket");
        }
        let value = percent_decode(value).ok_or("a bad escape in the socket's path")?;
        if value.is_empty() || value.contains('\0') || socket.is_some() {
            return Err("the socket's path is empty, given twice or holds a zero byte");
        }
        socket = Some(value);
    }
    Ok(socket)
}

fn parse_authority(authority: &str) -> std::result::Result<NbdAddress, &'static str> {
    if authority.contains('@') {
        return Err("a user name is not supported");
    }
    let (host, port) = if let Some(rest) = authority.strip_prefix('[') {
        let (host, after) = rest.split_once(']').ok_or("a bracket is not closed")?;
        let port = match after {
            "" => None,
            _ => Some(after.strip_prefix(':').ok_or("something other than a port follows the address")?),
        };
        (host.to_owned(), port)
    } else {
        let (host, port) =
            authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port)));
        (percent_decode(host).ok_or("a bad escape in the host")?, port)
    };
    if host.is_empty() {
        return Err("the host is missing");
    }
    let port = match port {
        None | Some("") => DEFAULT_PORT,
        Some(port) => port.parse().map_err(|_| "the port is no number below 65536")?,
    };
    Ok(NbdAddress::Tcp { host, port })
}

impl fmt::Display for NbdUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "nbds" } else { "nbd" };
        let export = percent_encode(&self.export);
        match &self.address {
            NbdAddress::Tcp { host, port } => {
                let host = if host.contains(':') { format!("[{host}]") } else { percent_encode(host) };
                write!(f, "{scheme}://{host}")?;
                if *port != DEFAULT_PORT {
                    write!(f, ":{port}")?;
                }
                write!(f, "/{export}")
            }
            NbdAddress::Unix { path } => {
                write!(f, "{scheme}+unix:///{export}?socket={}", percent_encode(&path.to_string_lossy()))
            }
        }
    }
}

fn percent_decode(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let high = char::from(bytes.next()?).to_digit(16)?;
            let low = char::from(bytes.next()?).to_digit(16)?;
            out.push(u8::try_from(high * 16 + low).ok()?);
        } else {
            out.push(byte);
        }
    }
    String::from_utf8(out).ok()
}

/// Escapes everything but the unreserved characters and `/`, which neither a path nor a query needs escaped.
fn percent_encode(text: &str) -> String {
    use fmt::Write;
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            out.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> NbdUri {
        text.parse().unwrap()
    }

    #[test]
    fn the_forms_of_the_specification() {
        assert_eq!(parse("nbd://example.com"), NbdUri::tcp("example.com", 10809, ""));
        assert_eq!(parse("nbd://example.com:4711/disk"), NbdUri::tcp("example.com", 4711, "disk"));
        assert_eq!(parse("nbds://[::1]:1/a%20b/c"), NbdUri::tcp("::1", 1, "a b/c").with_tls(true));
        assert_eq!(parse("nbd+unix:///x?socket=/run/a%20b"), NbdUri::unix("/run/a b", "x"));
        assert_eq!(parse("nbd+unix://?socket=nbd.sock"), NbdUri::unix("nbd.sock", ""));
        assert_eq!(parse("NBD://h//x"), NbdUri::tcp("h", 10809, "/x"));
    }

    #[test]
    fn what_is_refused() {
        for text in [
            "http://a/",
            "nbd:/a",
            "nbd:///x",
            "nbd://u@h/x",
            "nbd://h:70000/x",
            "nbd://[::1/x",
            "nbd://[::1]x/x",
            "nbd+unix:///x",
            "nbd+unix://host/x?socket=/s",
            "nbd://h/x?socket=/s",
            "nbd://h/x?tls-certificates=/etc",
            "nbd://h/%zz",
            "nbd://h/%00",
            "nbd://h/x#y",
        ] {
            let error = text.parse::<NbdUri>().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidUri, "{text}");
            assert!(error.to_string().contains(text), "{error}");
        }
    }

    proptest! {
        #[test]
        fn a_uri_survives_its_text(export in "[^\0]{0,40}", path in "/[^\0]{0,40}", port: u16, tls: bool) {
            for uri in [NbdUri::tcp("h.example", port, &export), NbdUri::tcp("fe80::1", port, &export),
                        NbdUri::unix(&path, &export)] {
                let uri = uri.with_tls(tls);
                prop_assert_eq!(uri.to_string().parse::<NbdUri>().unwrap(), uri);
            }
        }

        #[test]
        fn no_text_panics(text in ".{0,200}") {
            let _ = text.parse::<NbdUri>();
            let _ = format!("nbd://{text}").parse::<NbdUri>();
            let _ = format!("nbd+unix://{text}").parse::<NbdUri>();
        }
    }
}
