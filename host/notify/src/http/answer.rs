//! An answer: what its status means for a sender, how long it asks to wait, and as much of its body as is wanted.

use std::io::Read as _;
use std::time::{Duration, SystemTime};

use ureq::Body;
use ureq::http::header::RETRY_AFTER;
use ureq::http::{Method, Response};

use crate::error::ErrorKind;
use crate::quote::MAX_READ;

/// Nobody is believed who asks for a longer pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);

/// What came back; its body is still to be read.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) method: Method,
    pub(crate) origin: String,
    pub(crate) retry_after: Option<Duration>,
    body: Body,
}

impl Answer {
    pub(super) fn new(response: Response<Body>, method: &Method, origin: &str) -> Self {
        let asked = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
        Self {
            status: response.status().as_u16(),
            method: method.clone(),
            origin: origin.to_owned(),
            retry_after: asked.and_then(|text| pause(text, SystemTime::now())),
            body: response.into_body(),
        }
    }

    /// What the status means where it is not the one that was wanted.
    pub(crate) fn kind(&self) -> ErrorKind {
        meaning(self.status)
    }

    /// The first 4 KiB of the body, and whether that is not all of it. What cannot be read is missing, no error: the
    /// status has said already what became of the request.
    pub(crate) fn read(self) -> (Vec<u8>, bool) {
        let mut reader = self.body.into_reader();
        let (mut kept, mut filled) = (vec![0; MAX_READ + 1], 0);
        let mut broke_off = false;
        while filled < kept.len() {
            match reader.read(&mut kept[filled..]) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(_) => {
                    broke_off = true;
                    break;
                }
            }
        }
        kept.truncate(filled.min(MAX_READ));
        (kept, broke_off || filled > MAX_READ)
    }
}

fn meaning(status: u16) -> ErrorKind {
    match status {
        401 | 403 | 407 => ErrorKind::Refused,
        408 => ErrorKind::Timeout,
        425 | 429 => ErrorKind::Throttled,
        500.. => ErrorKind::Unavailable,
        _ => ErrorKind::Rejected,
    }
}

/// `Retry-After` in seconds or as a date (RFC 9110, section 10.2.3).
fn pause(text: &str, now: SystemTime) -> Option<Duration> {
    let text = text.trim();
    let asked = if !text.is_empty() && text.bytes().all(|digit| digit.is_ascii_digit()) {
        // What does not fit is too long anyway.
        text.parse().map_or(LONGEST_PAUSE, Duration::from_secs)
    } else {
        httpdate::parse_http_date(text).ok()?.duration_since(now).unwrap_or_default()
    };
    Some(asked.min(LONGEST_PAUSE))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_status_says_whether_patience_helps() {
        for status in [408, 425, 429, 500, 502, 503, 504, 599] {
            assert!(meaning(status).is_retryable(), "{status}");
        }
        for status in [200, 204, 301, 308, 400, 401, 403, 404, 410, 413, 422] {
            assert!(!meaning(status).is_retryable(), "{status}");
        }
    }

    #[test]
    fn a_pause_is_seconds_or_a_date_and_bounded() {
        let now = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        let seconds = |text| pause(text, now).map(|pause| pause.as_secs());
        assert_eq!(seconds("120"), Some(120));
        assert_eq!(seconds(" 0 "), Some(0));
        assert_eq!(seconds("86400"), Some(3600));
        assert_eq!(seconds("99999999999999999999999"), Some(3600));
        assert_eq!(seconds("Sun, 06 Nov 1994 08:50:37 GMT"), Some(60));
        assert_eq!(seconds("Sun, 06 Nov 1994 08:49:00 GMT"), Some(0));
        assert_eq!(seconds("Sat, 06 Nov 2094 08:49:00 GMT"), Some(3600));
        for odd in ["", "soon", "-1", "1.5"] {
            assert_eq!(seconds(odd), None, "{odd}");
        }
    }

    proptest! {
        #[test]
        fn foreign_pauses_are_bounded(text in "\\PC{0,40}") {
            prop_assert!(pause(&text, SystemTime::now()).unwrap_or_default() <= LONGEST_PAUSE);
        }
    }
}
