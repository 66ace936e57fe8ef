//! The addresses that a request may go to, and how errors name them.

use ureq::http::Uri;
use ureq::http::uri::Scheme;

use crate::error::{Error, Result};

/// An `http` or `https` address with a host and without credentials.
///
/// The errors say what to do and quote nothing: an address that is wrong may still be a secret.
pub(super) fn parse(url: &str) -> Result<Uri> {
    let uri: Uri = url.parse().map_err(|_| {
        Error::invalid("the URL cannot be read: write it as https://host/path, other than ASCII escaped")
    })?;
    match uri.scheme() {
        Some(scheme) if *scheme == Scheme::HTTP || *scheme == Scheme::HTTPS => {}
        Some(_) => return Err(Error::invalid("the URL is neither http nor https: use one of them")),
        None => return Err(Error::invalid("the URL has no scheme: start it with https://")),
    }
    let Some(authority) = uri.authority() else {
        return Err(Error::invalid("the URL names no host: write it as https://host/path"));
    };
    if authority.as_str().contains('@') {
        return Err(Error::invalid(
            "the URL holds credentials: take them out and give them as an Authorization header",
        ));
    }
    if authority.host().is_empty() {
        return Err(Error::invalid("the URL names no host: write it as https://host/path"));
    }
    if authority.as_str() != authority.host() && authority.port_u16().is_none_or(|port| port == 0) {
        return Err(Error::invalid("the URL's port is none: give one from 1 to 65535, or leave it out"));
    }
    Ok(uri)
}

/// Scheme, host and port: what may be shown. For many receivers the path is the key.
pub(super) fn origin(uri: &Uri) -> String {
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    format!("{}://{authority}", uri.scheme_str().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn an_error_says_what_to_do_and_quotes_nothing() {
        let cases = [
            ("https:///path", "https://host/path"),
            ("http://", "https://host/path"),
            ("", "https://host/path"),
            ("https://host/a b", "https://host/path"),
            ("https://bücher.example/", "ASCII"),
            ("ftp://host.example/s3cret", "neither http nor https"),
            ("file:///etc/s3cret", "https://"),
            ("host.example", "start it with https://"),
            ("/s3cret", "start it with https://"),
            ("https://user:s3cret@host.example/", "Authorization"),
            ("https://s3cret@host.example/", "Authorization"),
            ("https://:443/", "names no host"),
            ("https://host.example:/", "port"),
            ("https://host.example:0/", "port"),
            ("https://host.example:70000/", ""),
        ];
        for (url, advice) in cases {
            let error = parse(url).expect_err(url);
            assert_eq!(error.kind(), ErrorKind::Invalid, "{url}");
            assert!(error.to_string().contains(advice), "{url}: {error}");
            assert!(!format!("{error:?}").contains("s3cret"), "{error:?}");
        }
    }

    #[test]
    fn an_origin_shows_no_path() {
        for (url, expected) in [
            ("https://hooks.example.com/T0/B0/key?x=y", "https://hooks.example.com"),
            ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
            ("https://[::1]:8443/x", "https://[::1]:8443"),
        ] {
            assert_eq!(origin(&parse(url).unwrap()), expected);
        }
    }
}
