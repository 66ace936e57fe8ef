//! The one place where failures become answers: RFC 9457 problem documents with the HTTP status that fits.
//!
//! Besides the standard members a problem carries `kind`, the engine's stable word, and `field` where one value
//! of the request is at fault. Handlers return [`Problem`] and never build an error response themselves.

use std::error::Error as StdError;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use tidemark_engine::ErrorKind;

/// The media type of every error answer.
pub(crate) const PROBLEM_JSON: &str = "application/problem+json";

/// An error answer in the making.
#[derive(Debug)]
pub(crate) struct Problem {
    status: StatusCode,
    kind: &'static str,
    title: &'static str,
    detail: String,
    field: Option<String>,
    /// How many bytes there are, where a range of others was asked for.
    whole: Option<u64>,
    /// What a program wants to know beside the words: members of the document.
    more: Option<Box<Value>>,
}

/// What every handler returns.
pub(crate) type Answer<T> = Result<T, Problem>;

impl Problem {
    fn new(status: StatusCode, kind: &'static str, title: &'static str, detail: impl Into<String>) -> Self {
        Self { status, kind, title, detail: detail.into(), field: None, whole: None, more: None }
    }

    /// The request cannot be understood; `field` names the value at fault, where there is one.
    pub(crate) fn invalid(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid", "The request is not valid", detail)
    }

    /// One value of the request is wrong.
    pub(crate) fn invalid_field(field: &str, detail: impl Into<String>) -> Self {
        let mut problem = Self::invalid(detail);
        problem.field = Some(field.to_owned());
        problem
    }

    pub(crate) fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not-found", "Not found", detail)
    }

    pub(crate) fn method_not_allowed(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", "Method not allowed", detail)
    }

    pub(crate) fn unauthenticated(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "unauthenticated", "A valid token is needed", detail)
    }

    pub(crate) fn forbidden(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", "The token's role does not allow this", detail)
    }

    pub(crate) fn conflict(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "conflict", "In conflict with the present state", detail)
    }

    pub(crate) fn too_large(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", "The body is too large", detail)
    }

    /// A range outside the `whole` bytes that there are.
    pub(crate) fn no_such_range(whole: u64) -> Self {
        let detail = format!("the range lies outside the {whole} bytes that there are");
        let mut problem =
            Self::new(StatusCode::RANGE_NOT_SATISFIABLE, "range", "The range cannot be had", detail);
        problem.whole = Some(whole);
        problem
    }

    pub(crate) fn unsupported_media(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "media-type", "Wrong content type", detail)
    }

    /// The client was too slow in sending its request.
    pub(crate) fn slow_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, "timeout", "The request took too long", detail)
    }

    /// The work behind the request did not end in time.
    pub(crate) fn slow_answer(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::GATEWAY_TIMEOUT, "timeout", "The answer took too long", detail)
    }

    /// A failure of our own. The cause goes to the log, not to the client.
    pub(crate) fn internal(cause: impl std::fmt::Display) -> Self {
        tracing::error!(%cause, "a request failed inside the server");
        let detail = "the server failed inside; its log has the cause";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "Internal error", detail)
    }

    #[cfg(test)]
    pub(crate) fn status(&self) -> StatusCode {
        self.status
    }

    #[cfg(test)]
    pub(crate) fn field(&self) -> Option<&str> {
        self.field.as_deref()
    }
}

/// The status and title of each of the engine's kinds.
fn status_of(kind: ErrorKind) -> (StatusCode, &'static str) {
    match kind {
        ErrorKind::NotFound => (StatusCode::NOT_FOUND, "Not found"),
        ErrorKind::Conflict => (StatusCode::CONFLICT, "In conflict with the present state"),
        ErrorKind::Invalid => (StatusCode::BAD_REQUEST, "The request is not valid"),
        ErrorKind::Denied => (StatusCode::FORBIDDEN, "A plugin lacks a grant"),
        // Not 401: the client's own token was good; the machine behind us refused *our* credentials.
        ErrorKind::Auth => (StatusCode::BAD_GATEWAY, "The other side refuses the credentials"),
        ErrorKind::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "The other side cannot be reached"),
        ErrorKind::Damaged => (StatusCode::CONFLICT, "Stored data is damaged"),
        ErrorKind::NoSpace => (StatusCode::INSUFFICIENT_STORAGE, "No space is left"),
        ErrorKind::Cancelled => (StatusCode::CONFLICT, "Cancelled"),
        ErrorKind::LeaseLost => (StatusCode::CONFLICT, "Another host has taken this over"),
        ErrorKind::Plugin => (StatusCode::BAD_GATEWAY, "A plugin failed"),
        ErrorKind::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "Internal error"),
    }
}

impl From<tidemark_engine::Error> for Problem {
    fn from(error: tidemark_engine::Error) -> Self {
        let kind = error.kind();
        if kind == ErrorKind::Internal {
            return Self::internal(error.chain());
        }
        let (status, title) = status_of(kind);
        let field = error.field().map(str::to_owned);
        let more = error.detail().cloned().map(Box::new);
        Self { field, more, ..Self::new(status, kind.as_str(), title, error.chain()) }
    }
}

impl From<tidemark_catalog::Error> for Problem {
    fn from(error: tidemark_catalog::Error) -> Self {
        Self::from(tidemark_engine::Error::from(error))
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let Self { status, kind, title, detail, field, whole, more } = self;
        let mut document = json!({
            "type": format!("urn:tidemark:problem:{kind}"),
            "title": title,
            "status": status.as_u16(),
            "detail": detail,
            "kind": kind,
        });
        if let Some(field) = field {
            document["field"] = json!(field);
        }
        if let (Some(Value::Object(more)), Some(members)) = (more.map(|more| *more), document.as_object_mut())
        {
            // Never in place of what every problem has.
            more.into_iter().for_each(|(name, value)| {
                members.entry(name).or_insert(value);
            });
        }
        let mut response = (status, document.to_string()).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        if let Some(range) = whole.and_then(|whole| format!("bytes */{whole}").parse().ok()) {
            headers.insert(header::CONTENT_RANGE, range);
        }
        if status == StatusCode::UNAUTHORIZED {
            let challenge = HeaderValue::from_static("Bearer realm=\"tidemark\"");
            headers.insert(header::WWW_AUTHENTICATE, challenge);
        }
        response
    }
}

/// A foreign error and its causes in one line, for the log.
pub(crate) fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}
