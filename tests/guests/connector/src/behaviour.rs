//! The ways to misbehave. Each is chosen by `behave`, and takes place in the call that `in` names.

use std::hint::black_box;

use serde::Deserialize;

use crate::CAPACITY;
use crate::exports::tidemark::plugin::hypervisor::AreaPage;
use crate::tidemark::plugin::types::{Error, ErrorKind, Extent};
use crate::tidemark::plugin::{clock, http, log};

/// What the connection's settings may say; unknown ones are left alone.
#[derive(Clone, Default, Deserialize)]
#[serde(default)]
pub struct Settings {
    pub behave: String,
    #[serde(rename = "in")]
    pub place: String,
    pub nbd_url: String,
    pub url: String,
    pub method: String,
    pub thumbprint: String,
    pub authorities: String,
    pub secret: String,
    pub encoding: String,
    pub times: u32,
}

/// An error with nothing but a sort and a sentence.
pub fn other(kind: ErrorKind, message: &str) -> Error {
    Error { kind, message: message.into(), retry_after_ms: None, detail: None }
}

impl Settings {
    /// Does what was asked for, where this is the place for it.
    pub fn act(&self, place: &str) -> Result<(), Error> {
        if self.place != place {
            return Ok(());
        }
        match self.behave.as_str() {
            "loop" => loop {
                black_box(());
            },
            "memory" => {
                let mut hoard: Vec<Vec<u8>> = Vec::new();
                loop {
                    hoard.push(black_box(vec![1; 1 << 20]));
                }
            }
            "trap" => panic!("as asked"),
            "stack" => {
                black_box(descend(1));
                Ok(())
            }
            "sleep" => {
                clock::sleep_ms(3_600_000);
                Ok(())
            }
            "log" => loop {
                log::write(log::Level::Info, &"noise ".repeat(2000));
            },
            _ => Ok(()),
        }
    }

    /// Fetches `url` and answers with status and body, where `behave` is `http`.
    pub fn fetch(&self, place: &str) -> Result<Option<String>, Error> {
        if self.behave != "http" || self.place != place {
            return Ok(None);
        }
        let mut answer = String::new();
        for _ in 0..self.times.max(1) {
            let response = http::send(&self.request())?;
            answer = format!("{} {}", response.status, String::from_utf8_lossy(&response.body));
            answer.truncate(4000);
        }
        Ok(Some(answer))
    }

    fn request(&self) -> http::Request {
        let mut body = vec![http::Part::Bytes(b"<".to_vec())];
        if !self.secret.is_empty() {
            let encoding = match self.encoding.as_str() {
                "xml-text" => http::Encoding::XmlText,
                "json-string" => http::Encoding::JsonString,
                "percent" => http::Encoding::Percent,
                "base64" => http::Encoding::Base64,
                _ => http::Encoding::Raw,
            };
            body.push(http::Part::Secret(http::SecretPart { name: self.secret.clone(), encoding }));
        }
        body.push(http::Part::Bytes(b">".to_vec()));
        let trust = match (self.thumbprint.is_empty(), self.authorities.is_empty()) {
            (false, _) => http::Trust::Thumbprint(self.thumbprint.clone()),
            (true, false) => http::Trust::Authorities(self.authorities.clone()),
            (true, true) => http::Trust::System,
        };
        http::Request {
            method: if self.method.is_empty() { "POST".into() } else { self.method.clone() },
            url: self.url.clone(),
            headers: vec![("x-test".into(), "yes".into())],
            body,
            timeout_ms: 2000,
            trust,
        }
    }

    /// The changed areas from `start` on: two pages of one extent each where nothing else was asked for.
    pub fn areas(&self, start: u64) -> AreaPage {
        let half = CAPACITY / 2;
        let extent = |offset, length| Extent { offset, length };
        let (extents, complete_to) = match self.behave.as_str() {
            "unsorted" => (vec![extent(8192, 4096), extent(0, 4096)], CAPACITY),
            "overlapping" => (vec![extent(0, 8192), extent(4096, 8192)], CAPACITY),
            "beyond" => (vec![extent(CAPACITY - 4096, 8192)], CAPACITY),
            "overflow" => (vec![extent(u64::MAX - 1, 8192)], CAPACITY),
            "empty-extent" => (vec![extent(4096, 0)], CAPACITY),
            "complete-beyond" => (vec![], CAPACITY + 1),
            "outside-page" => (vec![extent(half, 4096)], half),
            "stuck-page" => (vec![], start),
            "crawling-page" => (vec![], start + 1),
            // 100,000 of half a KiB in each KiB, a tenth of them a page.
            "many" => {
                let end = (start + 10_000 * 1024).min(100_000 * 1024);
                ((start / 1024..end / 1024).map(|number| extent(number * 1024, 512)).collect(), end)
            }
            _ if start < half => (vec![extent(start, 4096)], half),
            _ => (vec![extent(half, 4096)], CAPACITY),
        };
        AreaPage { extents, complete_to }
    }
}

fn descend(depth: u64) -> u64 {
    let frame = black_box([depth; 64]);
    if black_box(depth) == u64::MAX { 0 } else { descend(depth + 1) + frame[7] }
}
