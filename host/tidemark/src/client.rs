//! The REST client of the command line: JSON in, JSON out, problem documents as errors.

use std::fmt;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use ureq::http::request::Builder;
use ureq::http::{Method, Request, Response};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Body, SendBody};

use crate::args::Global;
use crate::servers;

/// Calls that reach a hypervisor take their time; the server itself gives up earlier.
const CALL_LIMIT: Duration = Duration::from_secs(330);
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// The largest answer; long lists come in pages.
const MAX_ANSWER: u64 = 64 << 20;
/// What may stay as it is in a path or query.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// A request that the server refused.
#[derive(Debug)]
pub(crate) struct Refused {
    problem: Value,
}

impl Refused {
    /// The server's problem document.
    pub(crate) fn problem(&self) -> &Value {
        &self.problem
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |key: &str| self.problem.get(key).and_then(Value::as_str);
        match (text("detail"), text("title")) {
            (Some(detail), _) => f.write_str(detail),
            (None, Some(title)) => f.write_str(title),
            (None, None) => write!(f, "the server answered {}", self.problem),
        }
    }
}

impl std::error::Error for Refused {}

/// Bytes on their way.
pub(crate) struct Download {
    /// How many there are, where the server knows.
    pub(crate) length: Option<u64>,
    /// Fails where the connection ends before the body does.
    pub(crate) body: Box<dyn Read>,
}

/// Talks to one server.
pub(crate) struct Client {
    agent: Agent,
    url: String,
    token: String,
}

/// A part of a path or query, with everything special escaped.
pub(crate) fn escape(text: &str) -> String {
    utf8_percent_encode(text, PLAIN).to_string()
}

impl Client {
    /// A client for the server that the arguments name.
    pub(crate) fn new(global: &Global) -> Result<Self> {
        let url = global.url.trim_end_matches('/').to_owned();
        if !url.starts_with("http://") && !url.starts_with("https://") {
            bail!("'{url}' is no http:// or https:// URL");
        }
        let token = match &global.token {
            Some(token) => token.trim().to_owned(),
            None => servers::token_of(&url)?,
        };
        // Answers come on this machine or its network; a proxy from the environment has no part in it.
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .proxy(None)
            .max_redirects(0)
            .timeout_connect(Some(CONNECT_LIMIT))
            .timeout_global(Some(CALL_LIMIT));
        if let Some(ca) = &global.ca {
            let roots = RootCerts::from(authorities(ca)?);
            config = config.tls_config(TlsConfig::builder().root_certs(roots).build());
        }
        Ok(Self { agent: config.build().new_agent(), url, token })
    }

    /// `GET`
    pub(crate) fn get(&self, path: &str) -> Result<Value> {
        self.call(Method::GET, path, None)
    }

    /// `POST` of a JSON document.
    pub(crate) fn post(&self, path: &str, body: &impl serde::Serialize) -> Result<Value> {
        let body = serde_json::to_vec(body)?;
        self.call(Method::POST, path, Some(("application/json", body)))
    }

    /// `PUT` of a JSON document.
    pub(crate) fn put(&self, path: &str, body: &impl serde::Serialize) -> Result<Value> {
        let body = serde_json::to_vec(body)?;
        self.call(Method::PUT, path, Some(("application/json", body)))
    }

    /// `POST` without a body.
    pub(crate) fn act(&self, path: &str) -> Result<Value> {
        self.call(Method::POST, path, None)
    }

    /// `POST` of bytes.
    pub(crate) fn upload(&self, path: &str, media: &'static str, body: Vec<u8>) -> Result<Value> {
        self.call(Method::POST, path, Some((media, body)))
    }

    /// `DELETE`
    pub(crate) fn delete(&self, path: &str) -> Result<Value> {
        self.call(Method::DELETE, path, None)
    }

    /// All pages of a list as one document; `key` names the array.
    pub(crate) fn list(&self, path: &str, key: &str) -> Result<Value> {
        let joint = if path.contains('?') { '&' } else { '?' };
        let mut whole = self.get(&format!("{path}{joint}limit=1000"))?;
        while let Some(cursor) = whole.get("next_cursor").and_then(Value::as_str).map(str::to_owned) {
            let mut page = self.get(&format!("{path}{joint}limit=1000&cursor={}", escape(&cursor)))?;
            let more =
                page.get_mut(key).and_then(Value::as_array_mut).map(std::mem::take).unwrap_or_default();
            let Some(items) = whole.get_mut(key).and_then(Value::as_array_mut) else { break };
            items.extend(more);
            let Some(document) = whole.as_object_mut() else { break };
            match page.get("next_cursor") {
                // A cursor that does not advance would never end.
                Some(Value::String(next)) if *next != cursor => {
                    document.insert("next_cursor".to_owned(), Value::String(next.clone()));
                }
                _ => {
                    document.remove("next_cursor");
                }
            }
        }
        Ok(whole)
    }

    /// `GET` of bytes, for as long as they keep coming.
    pub(crate) fn download(&self, path: &str) -> Result<Download> {
        self.receive(path, "*/*")
    }

    /// The same for documents of which there is one a line.
    pub(crate) fn lines(&self, path: &str) -> Result<Download> {
        self.receive(path, "application/x-ndjson")
    }

    fn receive(&self, path: &str, accepted: &str) -> Result<Download> {
        let request = self.request(Method::GET, path).header("accept", accepted).body(())?;
        let request = self.agent.configure_request(request);
        let request = request.timeout_global(None).timeout_recv_response(Some(CALL_LIMIT)).build();
        let mut answer = self.agent.run(request).with_context(|| self.silence())?;
        if !answer.status().is_success() {
            let document = self.document(&mut answer)?;
            return Err(self.refusal(answer.status().as_u16(), document));
        }
        let length =
            answer.headers().get("content-length").and_then(|value| value.to_str().ok()?.parse().ok());
        Ok(Download { length, body: Box::new(answer.into_body().into_reader()) })
    }

    fn call(&self, method: Method, path: &str, body: Option<(&'static str, Vec<u8>)>) -> Result<Value> {
        let mut request =
            self.request(method, path).header("accept", "application/json, application/problem+json");
        let answered = match body {
            Some((media, bytes)) => {
                request = request.header("content-type", media);
                self.agent.run(request.body(bytes)?)
            }
            None => self.agent.run(request.body(SendBody::none())?),
        };
        let mut answer = answered.with_context(|| self.silence())?;
        let document = self.document(&mut answer)?;
        if answer.status().is_success() {
            return Ok(document);
        }
        Err(self.refusal(answer.status().as_u16(), document))
    }

    fn request(&self, method: Method, path: &str) -> Builder {
        Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.url))
            .header("authorization", format!("Bearer {}", self.token))
    }

    fn silence(&self) -> String {
        format!("the server at {} does not answer", self.url)
    }

    /// The whole answer as JSON; null where it is empty.
    fn document(&self, answer: &mut Response<Body>) -> Result<Value> {
        let status = answer.status().as_u16();
        let text = answer
            .body_mut()
            .with_config()
            .limit(MAX_ANSWER)
            .read_to_string()
            .with_context(|| format!("the answer of {} broke off", self.url))?;
        if text.is_empty() { Ok(Value::Null) } else { parse(&text, &self.url, status) }
    }

    fn refusal(&self, status: u16, document: Value) -> anyhow::Error {
        if document.get("kind").is_none() {
            return anyhow!("the server at {} answered {status}", self.url);
        }
        Refused { problem: document }.into()
    }
}

fn parse(text: &str, url: &str, status: u16) -> Result<Value> {
    serde_json::from_str(text).with_context(|| {
        format!("{url} answered {status} with something else than JSON; is it a Tidemark server?")
    })
}

fn authorities(file: &Path) -> Result<Vec<Certificate<'static>>> {
    let pem = std::fs::read(file).with_context(|| format!("reading {}", file.display()))?;
    let mut found = Vec::new();
    for item in parse_pem(&pem) {
        if let PemItem::Certificate(certificate) = item.with_context(|| file.display().to_string())? {
            found.push(certificate);
        }
    }
    if found.is_empty() {
        bail!("{} holds no certificate", file.display());
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_escaped_for_paths() {
        assert_eq!(escape("web 01/ä?#"), "web%2001%2F%C3%A4%3F%23");
        assert_eq!(escape("vm-1_a.b~c"), "vm-1_a.b~c");
    }

    #[test]
    fn a_refusal_says_its_detail() {
        let refused = Refused {
            problem: serde_json::json!({"title": "t", "detail": "no VM 'x'", "kind": "not-found"}),
        };
        assert_eq!(refused.to_string(), "no VM 'x'");
    }
}
