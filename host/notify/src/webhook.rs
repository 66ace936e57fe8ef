//! Webhooks: an event, as JSON, to an address that somebody gave us, signed where there is a secret.
//!
//! A delivery may arrive twice, as the answer to the first may get lost: its id stays the same for every attempt, so
//! that a receiver can drop the second.

use ureq::http::{HeaderName, Method};

use crate::error::{Error, ErrorKind, Result};
use crate::http::{Caller, HttpSettings, header_value};

/// The header with the kind of event.
pub const EVENT_HEADER: &str = "Tidemark-Event";
/// The header with the event's id, the same for each attempt.
pub const DELIVERY_HEADER: &str = "Tidemark-Delivery";

const LONGEST_NAME: usize = 200;

/// One receiver of events.
#[derive(Debug)]
pub struct Webhook {
    caller: Caller,
}

/// What a receiver answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delivery {
    /// The HTTP status, a 2xx.
    pub status: u16,
}

impl Webhook {
    /// A receiver at the address of `settings`; nothing is sent yet.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`], in words that say what to change.
    pub fn new(settings: HttpSettings) -> Result<Self> {
        Ok(Self { caller: Caller::new(settings)? })
    }

    /// Whom it tells: scheme, host and port, without the path, which may be a secret.
    #[must_use]
    pub fn origin(&self) -> &str {
        self.caller.origin()
    }

    /// One attempt to deliver `body`. `kind` and `event_id` are printable ASCII.
    ///
    /// # Errors
    /// By status: [`ErrorKind::Throttled`] for 425 and 429, [`ErrorKind::Timeout`] for 408,
    /// [`ErrorKind::Unavailable`] for 5xx, all to be tried again; [`ErrorKind::Refused`] for 401, 403 and 407,
    /// [`ErrorKind::Rejected`] for the others, redirects included. By connection: [`ErrorKind::Unreachable`] and
    /// [`ErrorKind::Timeout`], to be tried again; [`ErrorKind::Tls`], [`ErrorKind::Protocol`].
    pub fn deliver(&self, event_id: &str, kind: &str, body: &serde_json::Value) -> Result<Delivery> {
        let own = vec![
            (HeaderName::from_static("tidemark-event"), name("the event's kind", kind)?),
            (HeaderName::from_static("tidemark-delivery"), name("the event's id", event_id)?),
        ];
        let body = serde_json::to_vec(body).map_err(|error| {
            Error::caused(ErrorKind::Invalid, "the event cannot be written as JSON", error)
        })?;
        let answer = self.caller.call(&Method::POST, own, Some(body))?;
        match answer.status {
            200..=299 => Ok(Delivery { status: answer.status }),
            _ => Err(self.caller.unwanted(answer)),
        }
    }
}

fn name(what: &str, text: &str) -> Result<ureq::http::HeaderValue> {
    if text.trim().is_empty() || text.len() > LONGEST_NAME {
        return Err(Error::invalid(format!("{what} is empty or longer than {LONGEST_NAME} characters")));
    }
    header_value(what, text)
}
