//! A disk of a backup as a download. The answer's head is sent before the data is read, so a failure in the middle can
//! only cut the connection: a body that ends as announced, by its length or its last chunk, is complete.

use std::io;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::{StreamExt as _, stream};
use schemars::JsonSchema;
use serde::Deserialize;
use tidemark_engine::{Export, ExportStream};
use tidemark_model::{BackupId, ByteLen, Extent};
use tokio::sync::watch;

use crate::auth::Actor;
use crate::extract::{Path, Query, parse_id};
use crate::problem::{Answer, Problem};
use crate::range::{Wanted, wanted};
use crate::routing::{Routes, operator};
use crate::server::stopped;
use crate::state::AppState;
use crate::wire::RestoreFormat;

const ANY_BYTES: &str = "application/octet-stream";

pub(super) fn add(routes: Routes) -> Routes {
    routes.get(
        "/api/v1/backups/{id}/disks/{n}/export",
        operator("exportDisk", "Sends one disk as raw (with HTTP ranges), QCOW2 or VMDK")
            .query::<ExportQuery>()
            .answers_bytes(ANY_BYTES),
        export,
    )
}

#[derive(Debug, Deserialize, JsonSchema)]
struct ExportQuery {
    /// `raw` where not given; `qcow2` and `vmdk` are standalone images.
    #[serde(default)]
    format: RestoreFormat,
}

async fn export(
    State(state): State<AppState>,
    actor: Actor,
    Path((id, disk)): Path<(String, String)>,
    Query(ExportQuery { format }): Query<ExportQuery>,
    headers: HeaderMap,
) -> Answer<Response> {
    let id: BackupId = parse_id("id", &id)?;
    let disk: u32 = parse_id("n", &disk)?;
    let export = state.engine.open_export(&actor.name, id, disk, format.into()).await?;
    let mut fields = vec![
        (header::CONTENT_TYPE, media(format).to_owned()),
        // The name is the engine's own: lower-case ASCII without anything that would need quoting.
        (header::CONTENT_DISPOSITION, format!("attachment; filename=\"{}\"", export.file_name())),
        (header::CACHE_CONTROL, "private, no-store".to_owned()),
    ];
    let (status, length, stream) = choose(export, &headers, &mut fields)?;
    if let Some(length) = length {
        fields.push((header::CONTENT_LENGTH, length.0.to_string()));
    }
    let mut response = (status, Body::from_stream(until_stopped(stream, state.stopping))).into_response();
    for (name, value) in fields {
        response.headers_mut().insert(name, value.parse().map_err(Problem::internal)?);
    }
    Ok(response)
}

/// The whole or the part that is asked for, and what the headers say of it.
fn choose(
    export: Export,
    headers: &HeaderMap,
    fields: &mut Vec<(HeaderName, String)>,
) -> Answer<(StatusCode, Option<ByteLen>, ExportStream)> {
    let length = export.length();
    let (Some(tag), Some(whole)) = (export.tag().map(|tag| format!("\"{tag}\"")), length) else {
        fields.push((header::ACCEPT_RANGES, "none".to_owned()));
        return Ok((StatusCode::OK, length, export.stream()));
    };
    fields.push((header::ACCEPT_RANGES, "bytes".to_owned()));
    let wanted = wanted(headers, whole, &tag);
    fields.push((header::ETAG, tag));
    match wanted {
        Wanted::Whole => Ok((StatusCode::OK, length, export.stream())),
        Wanted::Part(part) => {
            let Extent { offset, length } = part;
            let range = format!("bytes {}-{}/{}", offset.0, part.end().0 - 1, whole.0);
            fields.push((header::CONTENT_RANGE, range));
            Ok((StatusCode::PARTIAL_CONTENT, Some(length), export.stream_range(part)?))
        }
        Wanted::Unsatisfiable => Err(Problem::no_such_range(whole.0)),
    }
}

/// What the body is made of. A server that stops must not let a body end as if it were complete.
pub(super) fn until_stopped(
    stream: ExportStream,
    stopping: watch::Receiver<bool>,
) -> impl stream::Stream<Item = Result<axum::body::Bytes, io::Error>> + Send {
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

fn media(format: RestoreFormat) -> &'static str {
    match format {
        RestoreFormat::Raw => ANY_BYTES,
        RestoreFormat::Qcow2 => "application/x-qemu-disk",
        RestoreFormat::Vmdk => "application/x-vmdk",
    }
}
