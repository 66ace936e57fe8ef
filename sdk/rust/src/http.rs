//! HTTP through the host. A request is plain data until [`Request::send`], so that protocol logic can be tested
//! without a host. Secrets are named, never held: [`Request::secret`] leaves a place that the host fills in.

use crate::bindings::tidemark::plugin::http;
use crate::error::{Error, Result};

pub use http::{Encoding, Part, Request, Response, SecretPart, Trust};

/// How long a request may take where nothing else is said.
pub const DEFAULT_TIMEOUT_MS: u64 = 60_000;

impl Request {
    /// A request without headers or body, to a server that the machine's certificate authorities vouch for.
    pub fn new(method: &str, url: impl Into<String>) -> Self {
        Self {
            method: method.to_owned(),
            url: url.into(),
            headers: Vec::new(),
            body: Vec::new(),
            timeout_ms: DEFAULT_TIMEOUT_MS,
            trust: Trust::System,
        }
    }

    /// A `GET`.
    pub fn get(url: impl Into<String>) -> Self {
        Self::new("GET", url)
    }

    /// A `POST`.
    pub fn post(url: impl Into<String>) -> Self {
        Self::new("POST", url)
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    /// Appends to the body.
    #[must_use]
    pub fn bytes(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.body.push(Part::Bytes(bytes.into()));
        self
    }

    /// Appends a secret of the connection's settings to the body, written as `encoding` says.
    #[must_use]
    pub fn secret(mut self, name: &str, encoding: Encoding) -> Self {
        self.body.push(Part::secret(name, encoding));
        self
    }

    /// Replaces the body by these parts.
    #[must_use]
    pub fn parts(mut self, parts: Vec<Part>) -> Self {
        self.body = parts;
        self
    }

    /// How long the whole exchange may take.
    #[must_use]
    pub fn timeout_ms(mut self, timeout_ms: u64) -> Self {
        self.timeout_ms = timeout_ms;
        self
    }

    /// Whom to believe on the other side of TLS.
    #[must_use]
    pub fn trust(mut self, trust: Trust) -> Self {
        self.trust = trust;
        self
    }

    /// Sends it.
    ///
    /// # Errors
    /// `unavailable` where no answer came, `other("denied")` where the host does not grant the target; any answer,
    /// whatever its status, is no error. Outside a component there is no host, and the answer is `unsupported`.
    pub fn send(&self) -> Result<Response> {
        #[cfg(target_arch = "wasm32")]
        return http::send(self);
        #[cfg(not(target_arch = "wasm32"))]
        Err(Error::unsupported(format!("{} {}: there is no host outside a component", self.method, self.url)))
    }
}

impl Part {
    /// A secret by its name.
    #[must_use]
    pub fn secret(name: &str, encoding: Encoding) -> Self {
        Self::Secret(SecretPart { name: name.to_owned(), encoding })
    }
}

impl Response {
    /// All values of a header, whatever the case of its name.
    pub fn header<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> + 'a {
        self.headers
            .iter()
            .filter(move |(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// The body as text.
    ///
    /// # Errors
    /// `corrupt` where it is not UTF-8.
    pub fn text(&self) -> Result<&str> {
        std::str::from_utf8(&self.body)
            .map_err(|error| Error::corrupt(format!("the answer is not UTF-8: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_only_named() {
        let request =
            Request::post("https://x/").bytes("<p>").secret("password", Encoding::XmlText).bytes("</p>");
        assert_eq!(request.body[1], Part::secret("password", Encoding::XmlText));
        assert_eq!(request.body.len(), 3);
    }

    #[test]
    fn headers_are_found_in_any_case() {
        let response =
            Response { status: 200, headers: vec![("Set-Cookie".into(), "a=1".into())], body: vec![0xff] };
        assert_eq!(response.header("set-cookie").collect::<Vec<_>>(), ["a=1"]);
        assert!(response.text().is_err());
    }
}
