//! Between the contract's requests and answers and those of a recorded conversation.

use crate::bindings::host::tidemark::plugin::http as wit;
use crate::bindings::host::tidemark::plugin::types;
use crate::http::{Conversation, RecordedAnswer, RecordedPart, RecordedRequest};
use crate::secrets::Secrets;
use crate::state::guest_error;

/// The sort of the error where a request is not the recorded one.
const STRAYED: &str = "replay";

pub(super) fn request(request: &wit::Request) -> RecordedRequest {
    let body = request.body.iter().map(|part| match part {
        wit::Part::Bytes(bytes) => RecordedPart::of(bytes),
        wit::Part::Secret(wit::SecretPart { name, encoding }) => {
            let encoding = match encoding {
                wit::Encoding::Raw => "raw",
                wit::Encoding::XmlText => "xml-text",
                wit::Encoding::JsonString => "json-string",
                wit::Encoding::Percent => "percent",
                wit::Encoding::Base64 => "base64",
            };
            RecordedPart::Secret { name: name.clone(), encoding: encoding.to_owned() }
        }
    });
    RecordedRequest {
        method: request.method.clone(),
        url: request.url.clone(),
        headers: request.headers.clone(),
        body: body.collect(),
    }
}

/// What is recorded of an answer, without the connection's secrets.
pub(super) fn answered(answer: &Result<wit::Response, types::Error>, secrets: &Secrets) -> RecordedAnswer {
    match answer {
        Ok(wit::Response { status, headers, body }) => {
            let masked = |(name, value): &(String, String)| (name.clone(), secrets.masked(value));
            let part = match RecordedPart::of(body) {
                RecordedPart::Text(text) => RecordedPart::Text(secrets.masked(&text)),
                other => other,
            };
            let body = if body.is_empty() { Vec::new() } else { vec![part] };
            RecordedAnswer::Response { status: *status, headers: headers.iter().map(masked).collect(), body }
        }
        Err(types::Error { kind, message, .. }) => {
            let kind = match kind {
                types::ErrorKind::Config => "config",
                types::ErrorKind::Other(word) => word,
                // The client has no other.
                _ => "unavailable",
            };
            RecordedAnswer::Failure { kind: kind.to_owned(), message: secrets.masked(message) }
        }
    }
}

/// The recorded answer to a request, in place of the server's.
pub(super) fn answer(
    conversation: &Conversation,
    asked: &RecordedRequest,
) -> Result<wit::Response, types::Error> {
    let strayed = |why| guest_error(types::ErrorKind::Other(STRAYED.to_owned()), why);
    match conversation.answer(asked).map_err(strayed)? {
        RecordedAnswer::Response { status, headers, body } => {
            let body = body.iter().flat_map(RecordedPart::bytes).collect();
            Ok(wit::Response { status, headers, body })
        }
        RecordedAnswer::Failure { kind, message } => {
            let kind = match kind.as_str() {
                "config" => types::ErrorKind::Config,
                "unavailable" => types::ErrorKind::Unavailable,
                _ => types::ErrorKind::Other(kind),
            };
            Err(guest_error(kind, message))
        }
    }
}
