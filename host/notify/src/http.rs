//! The one way by which webhooks and hooks leave: a request that is signed, followed nowhere, bounded in time and in
//! what is read of its answer, and the sorting of what comes back.
//!
//! Each call has a connection of its own: deliveries are rare, and a connection that was kept may be dead by the next.

mod address;
mod answer;

use std::fmt;
use std::time::{Duration, SystemTime};

use rustls_pki_types::CertificateDer;
use ureq::http::header::CONTENT_TYPE;
use ureq::http::{HeaderName, HeaderValue, Method, Request, Uri};
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use ureq::{Agent, Proxy};

pub(crate) use self::answer::Answer;
use crate::error::{Error, ErrorKind, Result};
use crate::secret::Secret;
use crate::signature::{self, SIGNATURE_HEADER};
use crate::{bounds, quote, trust};

const USER_AGENT: &str = concat!("tidemark/", env!("CARGO_PKG_VERSION"));

/// Where to, and how.
#[derive(Clone)]
pub struct HttpSettings {
    /// `http://` or `https://`, without credentials. Its path is treated as a secret.
    pub url: String,
    /// Further headers of each request. Every value is treated as a secret.
    pub headers: Vec<(String, Secret)>,
    /// Signs each request where it is given; see [`verify_signature`](crate::verify_signature).
    pub secret: Option<Secret>,
    /// For the whole call, from the resolution of the name to the last byte that is read; an hour at most.
    pub timeout: Duration,
    /// PEM of the authorities to believe in place of the machine's.
    pub authorities: Option<String>,
    /// Whether `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY` of the environment count.
    pub environment_proxy: bool,
}

impl HttpSettings {
    /// Ten seconds, unsigned, no further headers, the machine's authorities, no proxy.
    #[must_use]
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            headers: Vec::new(),
            secret: None,
            timeout: Duration::from_secs(10),
            authorities: None,
            environment_proxy: false,
        }
    }
}

impl fmt::Debug for HttpSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { url, headers, secret, timeout, authorities, environment_proxy } = self;
        let origin = address::parse(url).map(|uri| address::origin(&uri));
        f.debug_struct("HttpSettings")
            .field("url", &origin.as_deref().unwrap_or("…"))
            .field("headers", headers)
            .field("secret", secret)
            .field("timeout", timeout)
            .field("authorities", &authorities.is_some())
            .field("environment_proxy", environment_proxy)
            .finish()
    }
}

/// Sends requests to one address.
pub(crate) struct Caller {
    agent: Agent,
    uri: Uri,
    origin: String,
    headers: Vec<(HeaderName, HeaderValue)>,
    secret: Option<Secret>,
    timeout: Duration,
    /// Words that no error may show.
    hidden: Vec<Secret>,
}

impl Caller {
    pub(crate) fn new(settings: HttpSettings) -> Result<Self> {
        let HttpSettings { url, headers, secret, timeout, authorities, environment_proxy } = settings;
        let uri = address::parse(&url)?;
        let origin = address::origin(&uri);
        let named = |error: Error| error.during(&origin);
        bounds::check_timeout(timeout).map_err(named)?;
        if secret.as_ref().is_some_and(Secret::is_empty) {
            return Err(named(Error::invalid("the secret is empty: give one, or none at all")));
        }
        let mut hidden: Vec<Secret> = secret.iter().cloned().collect();
        for value in headers.iter().map(|(_, value)| value.expose()) {
            hidden.extend(quote::pieces(value, &[' ', ',', ';']));
        }
        if let Some(path) = uri.path_and_query() {
            hidden.extend(quote::pieces(path.as_str(), &['/', '?', '&', '=']));
        }
        let headers =
            headers.iter().map(|(name, value)| header(name, value)).collect::<Result<_>>().map_err(named)?;
        let certificates = trust::authorities(authorities.as_deref()).map_err(named)?;
        let agent = agent(timeout, &certificates, environment_proxy);
        Ok(Self { agent, uri, origin, headers, secret, timeout, hidden })
    }

    /// Whom it calls, as errors name it: without path and query.
    pub(crate) fn origin(&self) -> &str {
        &self.origin
    }

    /// The media type that the settings give to the body.
    pub(crate) fn media_type(&self) -> Option<&HeaderValue> {
        self.headers.iter().find(|(name, _)| name == CONTENT_TYPE).map(|(_, value)| value)
    }

    /// One request. `own` headers are those of the mechanism; a body without a media type in the settings is JSON.
    ///
    /// Every answer is one here, whatever its status.
    pub(crate) fn call(
        &self,
        method: &Method,
        own: Vec<(HeaderName, HeaderValue)>,
        body: Option<Vec<u8>>,
    ) -> Result<Answer> {
        self.attempt(method, own, body)
            .map(|answer| Answer::new(answer, method, &self.origin))
            .map_err(|error| error.during(format!("{method} to {}", self.origin)))
    }

    fn attempt(
        &self,
        method: &Method,
        own: Vec<(HeaderName, HeaderValue)>,
        body: Option<Vec<u8>>,
    ) -> Result<ureq::http::Response<ureq::Body>> {
        let mut request = Request::builder().method(method).uri(&self.uri);
        if body.is_some() && self.media_type().is_none() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let signed = body.as_deref().unwrap_or_default();
        bounds::check_body("a body", signed.len())?;
        if let Some(secret) = &self.secret {
            request = request.header(SIGNATURE_HEADER, signature::sign(secret, SystemTime::now(), signed)?);
        }
        for (name, value) in own.iter().chain(&self.headers) {
            request = request.header(name, value);
        }
        let unfit = |error| Error::caused(ErrorKind::Invalid, "the request cannot be made", error);
        let sent = match body {
            Some(body) => self.agent.run(request.body(body).map_err(unfit)?),
            None => self.agent.run(request.body(()).map_err(unfit)?),
        };
        sent.map_err(|error| self.failed(error))
    }

    /// The answer as an error: what its status means, and a line of what it said.
    pub(crate) fn unwanted(&self, answer: Answer) -> Error {
        let context = format!("{} to {}: HTTP {}", answer.method, answer.origin, answer.status);
        let (kind, status, pause) = (answer.kind(), answer.status, answer.retry_after);
        let (said, _) = answer.read();
        let said = quote::quote(&said, self.hidden.iter().map(Secret::expose));
        let advice = match status {
            300..=399 => "; redirects are not followed: give the address that it redirects to",
            _ => "",
        };
        let said = if said.is_empty() { said } else { format!(" ({said})") };
        Error::new(kind, format!("{context}{said}{advice}")).asking_for(pause)
    }

    fn failed(&self, error: ureq::Error) -> Error {
        use ureq::Error as E;
        let (kind, context) = match &error {
            E::Timeout(_) => (ErrorKind::Timeout, self.silence()),
            E::Io(cause) => match ErrorKind::of_io(cause) {
                ErrorKind::Timeout => (ErrorKind::Timeout, self.silence()),
                ErrorKind::Tls => (ErrorKind::Tls, TLS_FAILED.to_owned()),
                ErrorKind::Protocol => (ErrorKind::Protocol, NO_HTTP.to_owned()),
                kind => (kind, "no connection, or it ended before the answer".to_owned()),
            },
            E::Rustls(_) | E::Tls(_) | E::Pem(_) | E::TlsRequired => (ErrorKind::Tls, TLS_FAILED.to_owned()),
            E::HostNotFound => (ErrorKind::Unreachable, "the name is not known".to_owned()),
            E::ConnectionFailed => (ErrorKind::Unreachable, "no connection".to_owned()),
            E::ConnectProxyFailed(_) => {
                (ErrorKind::Unreachable, "the proxy does not let it through".to_owned())
            }
            E::Http(_) | E::BadUri(_) | E::InvalidProxyUrl => {
                (ErrorKind::Invalid, "the request cannot be made".to_owned())
            }
            _ => (ErrorKind::Protocol, NO_HTTP.to_owned()),
        };
        match error {
            // It would quote the whole address.
            E::BadUri(_) => Error::new(kind, context),
            E::Io(cause) => Error::caused(kind, context, cause),
            E::Rustls(cause) => Error::caused(kind, context, cause),
            other => Error::caused(kind, context, other),
        }
    }

    fn silence(&self) -> String {
        format!("no answer within {} s", self.timeout.as_secs_f64())
    }
}

const TLS_FAILED: &str = "TLS cannot be set up";
const NO_HTTP: &str = "what answers does not speak HTTP as it should";

impl fmt::Debug for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Caller").field("origin", &self.origin).finish_non_exhaustive()
    }
}

fn agent(timeout: Duration, certificates: &[CertificateDer<'_>], environment_proxy: bool) -> Agent {
    let roots: Vec<_> = certificates.iter().map(|found| Certificate::from_der(found).to_owned()).collect();
    let tls = TlsConfig::builder()
        .root_certs(RootCerts::from(roots))
        .unversioned_rustls_crypto_provider(trust::provider())
        .build();
    Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_idle_connections(0)
        .proxy(if environment_proxy { Proxy::try_from_env() } else { None })
        .timeout_global(Some(timeout))
        .user_agent(USER_AGENT)
        .tls_config(tls)
        .build()
        .new_agent()
}

/// Headers that belong to the transfer or to the signature.
const NOT_OURS_TO_SET: [&str; 6] =
    ["host", "content-length", "transfer-encoding", "connection", "te", "expect"];

fn header(name: &str, value: &Secret) -> Result<(HeaderName, HeaderValue)> {
    let shown = quote::quote(name.as_bytes(), []);
    let parsed = name.parse::<HeaderName>().map_err(|_| {
        Error::invalid(format!("'{shown}' is no name of a header: use letters, digits and hyphens"))
    })?;
    if NOT_OURS_TO_SET.contains(&parsed.as_str()) || parsed.as_str().starts_with("tidemark-") {
        return Err(Error::invalid(format!(
            "the header '{shown}' is set by the sender itself: leave it out"
        )));
    }
    Ok((parsed, header_value(&format!("the header '{shown}'"), value.expose())?))
}

/// A value that no log shows; `what` names it in the error.
pub(crate) fn header_value(what: &str, text: &str) -> Result<HeaderValue> {
    let mut value = HeaderValue::from_str(text)
        .ok()
        .filter(|value| value.to_str().is_ok())
        .ok_or_else(|| Error::invalid(format!("{what} may hold printable ASCII on one line only")))?;
    value.set_sensitive(true);
    Ok(value)
}
