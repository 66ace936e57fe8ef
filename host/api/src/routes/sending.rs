//! What downloads have in common. The answer's head is sent before the data is read, so a failure in the middle can only cut
//! the connection: a body that ends as announced, by its length or its last chunk, is complete.

use std::io;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use tidemark_engine::Error;
use tidemark_model::{ByteLen, Extent};
use tokio::sync::watch;

use crate::problem::{Answer, Problem};
use crate::range::{Wanted, wanted};
use crate::server::stopped;
use crate::state::AppState;

pub(super) const ANY_BYTES: &str = "application/octet-stream";

type Sent = BoxStream<'static, Result<Bytes, Error>>;

/// The part that is asked for of something of which parts may be asked for, and what the headers say of it; none is all.
pub(super) fn part(
    headers: &HeaderMap,
    whole: ByteLen,
    tag: &str,
    fields: &mut Vec<(HeaderName, String)>,
) -> Answer<Option<Extent>> {
    fields.push((header::ACCEPT_RANGES, "bytes".to_owned()));
    let tag = format!("\"{tag}\"");
    let wanted = wanted(headers, whole, &tag);
    fields.push((header::ETAG, tag));
    match wanted {
        Wanted::Whole => Ok(None),
        Wanted::Part(part) => {
            let range = format!("bytes {}-{}/{}", part.offset.0, part.end().0 - 1, whole.0);
            fields.push((header::CONTENT_RANGE, range));
            Ok(Some(part))
        }
        Wanted::Unsatisfiable => Err(Problem::no_such_range(whole.0)),
    }
}

/// The answer. A part of a whole says so in its fields already.
pub(super) fn answer(
    state: &AppState,
    fields: Vec<(HeaderName, String)>,
    length: Option<ByteLen>,
    stream: Sent,
) -> Answer<Response> {
    let is_part = fields.iter().any(|(name, _)| name == header::CONTENT_RANGE);
    let status = if is_part { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK };
    let body = Body::from_stream(until_stopped(stream, state.stopping.clone()));
    let mut response = (status, body).into_response();
    let length = length.map(|length| (header::CONTENT_LENGTH, length.0.to_string()));
    let cached = (header::CACHE_CONTROL, "private, no-store".to_owned());
    for (name, value) in fields.into_iter().chain(length).chain([cached]) {
        response.headers_mut().insert(name, value.parse().map_err(Problem::internal)?);
    }
    Ok(response)
}

/// What the body is made of. A server that stops must not let a body end as if it were complete.
fn until_stopped(
    stream: Sent,
    stopping: watch::Receiver<bool>,
) -> impl stream::Stream<Item = Result<Bytes, io::Error>> + Send {
    stream::unfold(Some((stream, stopping)), |state| async move {
        let (mut stream, mut stopping) = state?;
        let next = tokio::select! {
            biased;
            () = stopped(&mut stopping) => return Some((Err(io::Error::other("the server stops")), None)),
            next = stream.next() => next?,
        };
        match next {
            Ok(bytes) => Some((Ok(bytes), Some((stream, stopping)))),
            Err(error) => Some((Err(io::Error::other(error.chain())), None)),
        }
    })
}
