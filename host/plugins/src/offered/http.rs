//! Requests of guests: checked against manifest and grants, secrets filled in, then sent by the session's client. A
//! conversation that is replayed answers in the servers' place, to what the grants allow.

mod recorded;

use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{HOST, HeaderName, HeaderValue};
use hyper::http::uri::Authority;
use hyper::{Method, Request, Uri};

use crate::bindings::host::tidemark::plugin::http::{self as wit, Host};
use crate::bindings::host::tidemark::plugin::types;
use crate::grants::Denied;
use crate::http::{Answer, Bounds, Exchange, HttpFailure, Origin, Trust};
use crate::manifest::Network;
use crate::secrets::Encoding;
use crate::state::{State, guest_error};

/// What a request costs of the host-call allowance.
const COST: u32 = 50;
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);
const MAX_HEADERS: usize = 100;
const MAX_HEADER_BYTES: usize = 64 << 10;
const METHODS: [Method; 5] = [Method::GET, Method::POST, Method::PUT, Method::DELETE, Method::HEAD];
/// Set by the host, or meaningful only between two neighbours (RFC 9110 section 7.6.1).
const RESERVED: [&str; 9] = [
    "host",
    "content-length",
    "transfer-encoding",
    "connection",
    "keep-alive",
    "upgrade",
    "te",
    "trailer",
    "expect",
];

impl Host for State {
    async fn send(&mut self, request: wit::Request) -> wasmtime::Result<Result<wit::Response, types::Error>> {
        self.spend(COST)?;
        let Some(conversation) = self.conversation.clone() else { return Ok(self.exchange(request).await) };
        let asked = recorded::request(&request, &self.secrets);
        if conversation.replays() {
            let allowed = self.target(&request.url).map(drop);
            return Ok(allowed.and_then(|()| recorded::answer(&conversation, &asked)));
        }
        let answered = self.exchange(request).await;
        let answer = recorded::answered(&answered, &self.secrets);
        conversation.note(Exchange { request: asked, answer });
        Ok(answered)
    }
}

type Prepared = (Origin, Request<Full<Bytes>>, Bounds);

/// Where a request goes, which the grants cover.
struct AllowedTarget {
    uri: Uri,
    authority: Authority,
    host: String,
    port: u16,
    plain: bool,
    networks: Vec<Network>,
}

impl State {
    async fn exchange(&mut self, request: wit::Request) -> Result<wit::Response, types::Error> {
        let (origin, request, bounds) = self.prepare(request)?;
        let target = format!("{}:{}", origin.host, origin.port);
        let sent = self.http.send(origin, request, &bounds).await;
        sent.map(response).map_err(|failure| self.failure(failure, target))
    }

    fn target(&self, url: &str) -> Result<AllowedTarget, types::Error> {
        let uri: Uri = url.parse().map_err(|error| config(format!("'{}' is no URL: {error}", shown(url))))?;
        let plain = match uri.scheme_str() {
            Some("https") => false,
            Some("http") => true,
            _ => return Err(config(format!("'{}' is neither https nor http", shown(url)))),
        };
        let authority = uri.authority().filter(|authority| !authority.as_str().contains('@'));
        let authority =
            authority.ok_or_else(|| config("a URL needs a host, and no user name before it"))?.clone();
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        let port = authority.port_u16().unwrap_or(if plain { 80 } else { 443 });
        let networks = self.rights.check_http(&host, port, plain).map_err(|denied| self.refuse(denied))?;
        Ok(AllowedTarget { uri, authority, host, port, plain, networks })
    }

    fn prepare(&self, request: wit::Request) -> Result<Prepared, types::Error> {
        let wit::Request { method, url, headers, body, timeout_ms, trust } = request;
        let AllowedTarget { uri, authority, host, port, plain, networks } = self.target(&url)?;
        let secret_elsewhere = self.secrets.appear_in(&url)
            || headers
                .iter()
                .any(|(name, value)| self.secrets.appear_in(name) || self.secrets.appear_in(value));
        if secret_elsewhere {
            let reason = "a secret may stand in a body only, never in a URL or header".to_owned();
            return Err(self.refuse(Denied {
                capability: "secret",
                target: format!("{host}:{port}"),
                reason,
            }));
        }
        let trust = if plain { None } else { Some(trust_of(trust)?) };
        let body = self.assemble(body)?;
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let request = head(&method, path, authority.as_str(), headers)?
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| config(error.to_string()))?;
        let wanted = if timeout_ms == 0 { DEFAULT_TIMEOUT } else { Duration::from_millis(timeout_ms) };
        let left = self.deadline.saturating_duration_since(Instant::now());
        let bounds =
            Bounds { networks, timeout: wanted.min(left), response_bytes: self.limits.response_bytes };
        Ok((Origin { host, port, trust }, request, bounds))
    }

    fn assemble(&self, parts: Vec<wit::Part>) -> Result<Vec<u8>, types::Error> {
        let mut body = Vec::new();
        for part in parts {
            match part {
                wit::Part::Bytes(bytes) => body.extend(bytes),
                wit::Part::Secret(wit::SecretPart { name, encoding }) => {
                    let encoding = match encoding {
                        wit::Encoding::Raw => Encoding::Raw,
                        wit::Encoding::XmlText => Encoding::XmlText,
                        wit::Encoding::JsonString => Encoding::JsonString,
                        wit::Encoding::Percent => Encoding::Percent,
                        wit::Encoding::Base64 => Encoding::Base64,
                    };
                    let secret = self.secrets.encoded(&name, encoding).ok_or_else(|| {
                        config(format!(
                            "the connection has no secret '{name}'; give it with --secret {name}=@FILE"
                        ))
                    })?;
                    body.extend(secret.into_bytes());
                }
            }
        }
        Ok(body)
    }

    fn failure(&self, failure: HttpFailure, target: String) -> types::Error {
        match failure {
            HttpFailure::Forbidden(reason) => self.refuse(Denied { capability: "http", target, reason }),
            HttpFailure::Unavailable(message) => guest_error(types::ErrorKind::Unavailable, message),
            HttpFailure::Untrusted(message) => guest_error(types::ErrorKind::Config, message),
            HttpFailure::TooLarge(limit) => {
                let message = format!("the answer of {target} is larger than {limit} bytes");
                guest_error(types::ErrorKind::Other("limit".to_owned()), message)
            }
            HttpFailure::Timeout(after) => {
                let message = format!("{target} did not answer within {} ms", after.as_millis());
                guest_error(types::ErrorKind::Unavailable, message)
            }
        }
    }
}

fn head(
    method: &str,
    path: &str,
    authority: &str,
    headers: Vec<(String, String)>,
) -> Result<hyper::http::request::Builder, types::Error> {
    let known = METHODS.iter().find(|known| known.as_str() == method);
    let method =
        known.ok_or_else(|| config(format!("'{}' is no method that a plugin may use", shown(method))))?;
    let size: usize = headers.iter().map(|(name, value)| name.len() + value.len()).sum();
    if headers.len() > MAX_HEADERS || size > MAX_HEADER_BYTES {
        return Err(config("the request has too many headers"));
    }
    let mut builder = Request::builder().method(method).uri(path).header(HOST, authority);
    for (name, value) in headers {
        let header = HeaderName::try_from(&name);
        let header = header.map_err(|_| config(format!("'{}' is no header", shown(&name))))?;
        if RESERVED.contains(&header.as_str()) || header.as_str().starts_with("proxy-") {
            return Err(config(format!("the header {header} belongs to the host")));
        }
        let value =
            HeaderValue::try_from(value).map_err(|_| config(format!("header {header} has a wrong value")))?;
        builder = builder.header(header, value);
    }
    Ok(builder)
}

fn trust_of(trust: wit::Trust) -> Result<Trust, types::Error> {
    match trust {
        wit::Trust::System => Ok(Trust::System),
        wit::Trust::Authorities(pem) => Ok(Trust::Authorities(pem)),
        wit::Trust::Thumbprint(text) => Trust::thumbprint(&text).ok_or_else(|| {
            config(format!("'{}' is no thumbprint (SHA-1 or SHA-256 in hexadecimal)", shown(&text)))
        }),
    }
}

fn response(answer: Answer) -> wit::Response {
    let headers = answer
        .headers
        .iter()
        .map(|(name, value)| {
            (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned())
        })
        .collect();
    wit::Response { status: answer.status, headers, body: answer.body }
}

fn config(message: impl Into<String>) -> types::Error {
    guest_error(types::ErrorKind::Config, message)
}

fn shown(text: &str) -> String {
    super::log::printable(text).chars().take(200).collect()
}
