//! What protects the server from its clients: bodies are read whole, up to a limit and within a time, before a
//! handler sees them; and work that was begun is finished even where the client goes away.
//!
//! hyper drops a handler's future when its connection ends. A dropped future could stop the engine between two
//! steps, so each request runs on a task of its own; a panic there becomes a 500 instead of a cut connection.

use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::header;
use axum::middleware::Next;
use axum::response::Response;

use crate::problem::{Answer, Problem};
use crate::state::AppState;

/// The largest JSON body.
pub(crate) const MAX_JSON_BYTES: usize = 1 << 20;

/// The largest plugin.
pub(crate) const MAX_PLUGIN_BYTES: usize = 64 << 20;

/// The only path that takes large bodies.
pub(crate) const UPLOAD_PATH: &str = "/api/v1/plugins";

/// Reads the body and runs the rest on a task of its own.
pub(crate) async fn guard(State(state): State<AppState>, request: Request, next: Next) -> Answer<Response> {
    let limit = if request.uri().path() == UPLOAD_PATH { MAX_PLUGIN_BYTES } else { MAX_JSON_BYTES };
    let request = collect(request, limit, state.timeouts.body).await?;
    let work = tokio::spawn(next.run(request));
    match tokio::time::timeout(state.timeouts.answer, work).await {
        Ok(Ok(response)) => Ok(response),
        Ok(Err(error)) => Err(Problem::internal(error)),
        // The task goes on: what it changes is recorded by the engine, not by this answer.
        Err(_) => Err(Problem::slow_answer("the work goes on in the background; look again later")),
    }
}

async fn collect(request: Request, limit: usize, within: Duration) -> Answer<Request> {
    let (parts, body) = request.into_parts();
    let announced =
        parts.headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    if announced.is_some_and(|length: u64| length > limit as u64) {
        return Err(too_large(limit));
    }
    let bytes = match tokio::time::timeout(within, to_bytes(body, limit)).await {
        Ok(Ok(bytes)) => bytes,
        Ok(Err(error)) if is_length_limit(&error) => return Err(too_large(limit)),
        Ok(Err(error)) => return Err(Problem::invalid(format!("the body cannot be read: {error}"))),
        Err(_) => {
            let detail = format!("the body did not arrive within {} seconds", within.as_secs());
            return Err(Problem::slow_request(detail));
        }
    };
    Ok(Request::from_parts(parts, Body::from(bytes)))
}

/// axum wraps the limit's error; only its text tells it from a broken connection.
fn is_length_limit(error: &axum::Error) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(inner) = cause {
        if inner.to_string() == "length limit exceeded" {
            return true;
        }
        cause = inner.source();
    }
    false
}

fn too_large(limit: usize) -> Problem {
    Problem::too_large(format!("at most {limit} bytes are taken here"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(length: usize) -> Request {
        Request::builder().body(Body::from(vec![b'x'; length])).unwrap()
    }

    #[tokio::test]
    async fn a_body_up_to_the_limit_passes() {
        let passed = collect(request(8), 8, Duration::from_secs(5)).await.unwrap();
        assert_eq!(to_bytes(passed.into_body(), 100).await.unwrap().len(), 8);
        assert_eq!(collect(request(9), 8, Duration::from_secs(5)).await.unwrap_err().status(), 413);
    }

    #[tokio::test]
    async fn a_body_that_never_ends_is_given_up() {
        let stuck = Body::from_stream(futures_util::stream::pending::<Result<Vec<u8>, std::io::Error>>());
        let request = Request::builder().body(stuck).unwrap();
        assert_eq!(collect(request, 8, Duration::from_millis(1)).await.unwrap_err().status(), 408);
    }
}
