//! A small blocking client of the REST interface. Every answer comes back whole, errors included, as the tests
//! judge statuses and bodies themselves.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::ops::RangeInclusive;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use ureq::Agent;
use ureq::http::{self, Request};

/// A folder of a hundred thousand files has less.
const MAX_ANSWER: u64 = 256 << 20;

/// One answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The headers.
    pub headers: http::HeaderMap,
    /// The body as text.
    pub text: String,
}

impl Answer {
    /// A header's text, empty where there is none.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The body as JSON.
    ///
    /// # Errors
    /// Where it is none.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.text)
            .with_context(|| format!("no JSON in answer {}: {}", self.status, self.text))
    }

    /// The body of an answer that must have this status.
    ///
    /// # Errors
    /// Where it has another one.
    pub fn expect(&self, status: u16) -> Result<Value> {
        ensure!(self.status == status, "expected status {status}, got {}: {}", self.status, self.text);
        if self.text.is_empty() { Ok(Value::Null) } else { self.json() }
    }
}

/// A client of one server, with or without a token.
#[derive(Debug, Clone)]
pub struct Rest {
    agent: Agent,
    base: String,
    token: Option<String>,
}

impl Rest {
    /// A client of the server at `base`, for example `http://127.0.0.1:8082`.
    #[must_use]
    pub fn new(base: &str, token: Option<&str>) -> Self {
        let config = Agent::config_builder().http_status_as_error(false).max_redirects(0).build();
        Self { agent: config.into(), base: base.to_owned(), token: token.map(str::to_owned) }
    }

    /// `GET path`.
    ///
    /// # Errors
    /// Where no answer comes.
    pub fn get(&self, path: &str) -> Result<Answer> {
        self.send("GET", path, &[], None)
    }

    /// `DELETE path`.
    ///
    /// # Errors
    /// Where no answer comes.
    pub fn delete(&self, path: &str) -> Result<Answer> {
        self.send("DELETE", path, &[], None)
    }

    /// `POST path` with a JSON body.
    ///
    /// # Errors
    /// Where no answer comes.
    pub fn post(&self, path: &str, body: &Value) -> Result<Answer> {
        let json = body.to_string();
        self.send("POST", path, &[("content-type", "application/json")], Some(json.as_bytes()))
    }

    /// Any request, with its own headers and bytes.
    ///
    /// # Errors
    /// Where no answer comes.
    pub fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&[u8]>,
    ) -> Result<Answer> {
        let request = self.request(method, path, headers);
        let sent = match body {
            Some(bytes) => self.agent.run(request.body(bytes)?),
            None => self.agent.run(request.body(())?),
        };
        let response = sent.with_context(|| format!("{method} {}{path}", self.base))?;
        let (parts, mut body) = response.into_parts();
        let text = body
            .with_config()
            .limit(MAX_ANSWER)
            .read_to_string()
            .with_context(|| format!("{method} {path}: the body"))?;
        Ok(Answer { status: parts.status.as_u16(), headers: parts.headers, text })
    }

    /// Copies the body of `GET path` into `sink`; answers the number of bytes.
    ///
    /// # Errors
    /// Where the status is not 200 or the copy fails.
    pub fn download(&self, path: &str, mut sink: impl Write) -> Result<u64> {
        let mut body = self.stream(path)?;
        std::io::copy(&mut body, &mut sink).with_context(|| format!("GET {path}: the body"))
    }

    /// The body of `GET path` as it comes.
    ///
    /// # Errors
    /// Where the status is not 200.
    pub fn stream(&self, path: &str) -> Result<impl Read + Send + use<>> {
        self.body(path, &[], 200)
    }

    /// Some bytes of `GET path`, as they come.
    ///
    /// # Errors
    /// Where the status is not 206.
    pub fn part(&self, path: &str, range: RangeInclusive<u64>) -> Result<impl Read + Send + use<>> {
        self.body(path, &[("range", &format!("bytes={}-{}", range.start(), range.end()))], 206)
    }

    fn body(&self, path: &str, headers: &[(&str, &str)], status: u16) -> Result<impl Read + Send + use<>> {
        let request = self.request("GET", path, headers).body(())?;
        let response = self.agent.run(request).with_context(|| format!("GET {}{path}", self.base))?;
        let answered = response.status().as_u16();
        ensure!(
            answered == status,
            "GET {path} ({headers:?}) answered {answered} where {status} was expected"
        );
        Ok(response.into_body().into_reader())
    }

    /// `GET path` by plain reads of the socket, where it is the server's time that counts; how many bytes the body had, with
    /// what frames its chunks. They go into `piece`, of which nothing is kept.
    ///
    /// # Errors
    /// Where the status is not 200, and where the body is not as long as was said.
    pub fn pull(&self, path: &str, piece: &mut [u8]) -> Result<u64> {
        let host = self.base.strip_prefix("http://").context("only plain HTTP is read by hand")?;
        let mut socket = TcpStream::connect(host)?;
        let token = self.token.as_deref().unwrap_or_default();
        write!(
            socket,
            "GET {path} HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {token}\r\nconnection: close\r\n\r\n"
        )?;
        let (mut filled, mut head) = (0, None);
        while head.is_none() {
            let count = socket.read(piece.get_mut(filled..).unwrap_or_default())?;
            ensure!(count > 0, "GET {path}: the server broke off");
            filled += count;
            let read = piece.get(..filled).unwrap_or_default();
            head = read.windows(4).position(|bytes| bytes == b"\r\n\r\n").map(|at| at + 4);
        }
        let head = head.unwrap_or(0);
        let text = String::from_utf8_lossy(piece.get(..head).unwrap_or_default()).to_ascii_lowercase();
        ensure!(text.starts_with("http/1.1 200"), "GET {path} answered {text}");
        let length = text.lines().find_map(|line| line.strip_prefix("content-length: "));
        let length: Option<u64> = length.map(|length| length.trim().parse()).transpose()?;
        let mut end = piece.get(head.max(filled.saturating_sub(5))..filled).unwrap_or_default().to_vec();
        let mut sum = (filled - head) as u64;
        loop {
            match socket.read(piece)? {
                0 => break,
                count => {
                    sum += count as u64;
                    let last = piece.get(count.saturating_sub(5)..count).unwrap_or_default();
                    end.extend_from_slice(last);
                    end.drain(..end.len().saturating_sub(5));
                }
            }
        }
        let whole = length.map_or(end == b"0\r\n\r\n", |length| length == sum);
        ensure!(whole, "GET {path}: the body is not whole after {sum} bytes");
        Ok(sum)
    }

    fn request(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> http::request::Builder {
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.base));
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request
    }
}
