//! Between the contract's requests and answers and those of a recorded conversation.

use sha2::{Digest as _, Sha256};

use crate::bindings::host::tidemark::plugin::http as wit;
use crate::bindings::host::tidemark::plugin::types;
use crate::http::{Conversation, RecordedAnswer, RecordedPart, RecordedRequest};
use crate::secrets::Secrets;
use crate::state::guest_error;

/// The sort of the error where a request is not the recorded one.
const STRAYED: &str = "replay";

/// What is recorded of a request. Secrets are named where the host fills them in; where a server gave one to the guest and
/// the guest gives it back, it is masked, as it was in the answer.
pub(super) fn request(request: &wit::Request, secrets: &Secrets) -> RecordedRequest {
    let body = request.body.iter().map(|part| match part {
        wit::Part::Bytes(bytes) => RecordedPart::of(&secrets.masked_bytes(bytes)),
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
        url: secrets.masked(&request.url),
        trust: match &request.trust {
            wit::Trust::System => "system".to_owned(),
            wit::Trust::Authorities(pem) => format!("authorities {}", hex::encode(Sha256::digest(pem))),
            wit::Trust::Thumbprint(text) => format!("thumbprint {text}"),
        },
        headers: request.headers.iter().map(|field| masked(field, secrets)).collect(),
        body: body.collect(),
    }
}

/// What is recorded of an answer, without the connection's secrets.
pub(super) fn answered(answer: &Result<wit::Response, types::Error>, secrets: &Secrets) -> RecordedAnswer {
    match answer {
        Ok(wit::Response { status, headers, body }) => {
            let part = RecordedPart::of(&secrets.masked_bytes(body));
            let body = if body.is_empty() { Vec::new() } else { vec![part] };
            let headers = headers.iter().map(|field| masked(field, secrets)).collect();
            RecordedAnswer::Response { status: *status, headers, body }
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

fn masked((name, value): &(String, String), secrets: &Secrets) -> (String, String) {
    (name.clone(), secrets.masked(value))
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
