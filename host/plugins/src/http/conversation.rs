//! What a plugin asked over HTTP and what it was answered, recorded beside a real server and replayed without one.
//!
//! Requests are kept as the guest made them: a secret is only named there. What an answer says of a secret is masked. A
//! replay believes only the same questions in the same order; the first that strays ends it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

/// One question and its answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exchange {
    /// What the plugin asked.
    pub request: RecordedRequest,
    /// What it was answered.
    pub answer: RecordedAnswer,
}

/// A request as the guest made it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordedRequest {
    /// For example `POST`.
    pub method: String,
    /// Where to.
    pub url: String,
    /// Whom it believes on the other side: `system`, a thumbprint, or the SHA-256 of its authorities.
    pub trust: String,
    /// The guest's own headers.
    pub headers: Vec<(String, String)>,
    /// The body's pieces.
    pub body: Vec<RecordedPart>,
}

/// A piece of a body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum RecordedPart {
    /// UTF-8.
    Text(String),
    /// Any other bytes, in Base64.
    Base64(String),
    /// A secret, by its name in the connection's settings.
    Secret {
        /// The name.
        name: String,
        /// How it is written into its place.
        encoding: String,
    },
}

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum RecordedAnswer {
    /// An answer of the server.
    Response {
        /// The status.
        status: u16,
        /// All headers.
        headers: Vec<(String, String)>,
        /// The body, in one piece or none.
        body: Vec<RecordedPart>,
    },
    /// The host's own error, where there was no answer.
    Failure {
        /// Its sort.
        kind: String,
        /// For people.
        message: String,
    },
}

/// A conversation that is being recorded or replayed. Clones share it.
#[derive(Debug, Clone)]
pub struct Conversation(Arc<Mutex<Tape>>);

#[derive(Debug)]
enum Tape {
    Recording(Vec<Exchange>),
    Replaying { left: VecDeque<Exchange>, place: usize, strayed: Option<String> },
}

impl Conversation {
    /// One that is recorded from now on.
    #[must_use]
    pub fn recording() -> Self {
        Self(Arc::new(Mutex::new(Tape::Recording(Vec::new()))))
    }

    /// One that is given again.
    #[must_use]
    pub fn replaying(exchanges: Vec<Exchange>) -> Self {
        let tape = Tape::Replaying { left: exchanges.into(), place: 0, strayed: None };
        Self(Arc::new(Mutex::new(tape)))
    }

    /// What was recorded so far.
    #[must_use]
    pub fn exchanges(&self) -> Vec<Exchange> {
        match &*self.tape() {
            Tape::Recording(exchanges) => exchanges.clone(),
            Tape::Replaying { .. } => Vec::new(),
        }
    }

    /// Whether a replay went as it was recorded, to its end.
    ///
    /// # Errors
    /// Where it strayed, or what was not asked, in words.
    pub fn went_as_recorded(&self) -> Result<(), String> {
        match &*self.tape() {
            Tape::Replaying { strayed: Some(why), .. } => Err(why.clone()),
            Tape::Replaying { left, place, .. } => match left.front() {
                Some(Exchange { request: RecordedRequest { method, url, .. }, .. }) => {
                    let (next, count) = (place + 1, left.len());
                    Err(format!("request {next} was not made, nor the rest of {count}: {method} {url}"))
                }
                None => Ok(()),
            },
            Tape::Recording(_) => Ok(()),
        }
    }

    pub(crate) fn replays(&self) -> bool {
        matches!(&*self.tape(), Tape::Replaying { .. })
    }

    pub(crate) fn note(&self, exchange: Exchange) {
        if let Tape::Recording(exchanges) = &mut *self.tape() {
            exchanges.push(exchange);
        }
    }

    /// The recorded answer to this request; an error says how it strays from what was asked then.
    pub(crate) fn answer(&self, asked: &RecordedRequest) -> Result<RecordedAnswer, String> {
        let mut tape = self.tape();
        let Tape::Replaying { left, place, strayed } = &mut *tape else {
            return Err("nothing is replayed".to_owned());
        };
        if let Some(why) = strayed {
            return Err(why.clone());
        }
        *place += 1;
        let difference = match left.pop_front() {
            Some(Exchange { request, answer }) => match difference(asked, &request) {
                None => return Ok(answer),
                Some(difference) => difference,
            },
            None => format!("{} {} is beyond the end of the recording", asked.method, asked.url),
        };
        let why = format!("request {place}: {difference}");
        *strayed = Some(why.clone());
        Err(why)
    }

    fn tape(&self) -> MutexGuard<'_, Tape> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RecordedPart {
    pub(crate) fn of(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::Text(text.to_owned()),
            Err(_) => Self::Base64(STANDARD.encode(bytes)),
        }
    }

    /// The bytes of a piece; none of a secret, or where they are no Base64.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Text(text) => text.clone().into_bytes(),
            Self::Base64(text) => STANDARD.decode(text).unwrap_or_default(),
            Self::Secret { .. } => Vec::new(),
        }
    }

    /// For comparison and for people.
    fn shown(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Base64(text) => format!("(base64 {text})"),
            Self::Secret { name, encoding } => format!("(secret {name} as {encoding})"),
        }
    }
}

/// How a request differs from the recorded one; none where it does not.
fn difference(asked: &RecordedRequest, recorded: &RecordedRequest) -> Option<String> {
    let line = |request: &RecordedRequest| format!("{} {}", request.method, request.url);
    if line(asked) != line(recorded) {
        return Some(format!("{} and not {}, as it was recorded", line(asked), line(recorded)));
    }
    let named = |request: &RecordedRequest| {
        let mut lines: Vec<String> =
            request.headers.iter().map(|(name, value)| format!("{}: {value}", name.to_lowercase())).collect();
        lines.sort_unstable();
        lines.join("\n")
    };
    let body = |request: &RecordedRequest| request.body.iter().map(RecordedPart::shown).collect::<String>();
    let of = |what: &str, now: &str, then: &str| {
        (now != then).then(|| {
            let (now, then) = around(now, then);
            format!("the {what} of {} has '{now}' where '{then}' was recorded", line(asked))
        })
    };
    let trust = of("trust", &asked.trust, &recorded.trust);
    trust
        .or_else(|| of("header", &named(asked), &named(recorded)))
        .or_else(|| of("body", &body(asked), &body(recorded)))
}

/// What stands around the first difference of two texts.
fn around(now: &str, then: &str) -> (String, String) {
    const BEFORE: usize = 20;
    const SHOWN: usize = 60;
    let same = now.chars().zip(then.chars()).take_while(|(a, b)| a == b).count();
    let part = |text: &str| text.chars().skip(same.saturating_sub(BEFORE)).take(SHOWN).collect();
    (part(now), part(then))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(url: &str, body: &str) -> RecordedRequest {
        let secret = RecordedPart::Secret { name: "password".into(), encoding: "xml-text".into() };
        RecordedRequest {
            method: "POST".into(),
            url: url.into(),
            trust: "system".into(),
            headers: vec![("Content-Type".into(), "text/xml".into())],
            body: vec![RecordedPart::of(body.as_bytes()), secret],
        }
    }

    fn answer(status: u16) -> RecordedAnswer {
        RecordedAnswer::Response { status, headers: vec![], body: vec![RecordedPart::of(b"\xff\x00")] }
    }

    #[test]
    fn a_recording_is_replayed_in_its_order_and_to_its_end() {
        let recording = Conversation::recording();
        for (place, status) in [200, 500].into_iter().enumerate() {
            let request = request(&format!("https://a/{place}"), "<x/>");
            recording.note(Exchange { request, answer: answer(status) });
        }
        let text = serde_json::to_string(&recording.exchanges()).unwrap();
        let replay = Conversation::replaying(serde_json::from_str(&text).unwrap());
        assert_eq!(replay.answer(&request("https://a/0", "<x/>")), Ok(answer(200)));
        assert!(replay.went_as_recorded().unwrap_err().contains("request 2 was not made"));
        assert_eq!(replay.answer(&request("https://a/1", "<x/>")), Ok(answer(500)));
        assert_eq!(replay.went_as_recorded(), Ok(()));
        let beyond = replay.answer(&request("https://a/2", "<x/>")).unwrap_err();
        assert!(beyond.contains("request 3") && beyond.contains("beyond the end"), "{beyond}");
    }

    #[test]
    fn what_strays_is_shown_and_ends_the_replay() {
        let exchange = Exchange { request: request("https://a/0", "<key>one</key>"), answer: answer(200) };
        for (asked, words) in [
            (request("https://b/0", "<key>one</key>"), "https://b/0 and not POST https://a/0"),
            (request("https://a/0", "<key>two</key>"), "'<key>two</key>(secret password as xml-text)' where"),
        ] {
            let replay = Conversation::replaying(vec![exchange.clone(), exchange.clone()]);
            let why = replay.answer(&asked).unwrap_err();
            assert!(why.contains("request 1") && why.contains(words), "{why}");
            assert_eq!(replay.answer(&exchange.request), Err(why.clone()), "nothing after it is believed");
            assert_eq!(replay.went_as_recorded(), Err(why));
        }
    }

    #[test]
    fn the_case_and_order_of_headers_say_nothing() {
        let mut recorded = request("https://a/0", "");
        recorded.headers.push(("Accept".into(), "x".into()));
        let mut asked = recorded.clone();
        asked.headers = vec![("accept".into(), "x".into()), ("content-type".into(), "text/xml".into())];
        assert_eq!(difference(&asked, &recorded), None);
        asked.headers.pop();
        assert!(difference(&asked, &recorded).is_some_and(|difference| difference.contains("header")));
        let other = RecordedRequest { trust: "thumbprint ab".into(), ..recorded.clone() };
        assert!(difference(&other, &recorded).is_some_and(|difference| difference.contains("the trust of")));
    }
}
