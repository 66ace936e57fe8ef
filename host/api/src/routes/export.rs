//! A disk of a backup as a download.

use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::Response;
use schemars::JsonSchema;
use serde::Deserialize;
use tidemark_model::BackupId;

use super::sending::{self, ANY_BYTES};
use crate::auth::Actor;
use crate::extract::{Path, Query, parse_id};
use crate::problem::Answer;
use crate::routing::{Routes, operator};
use crate::state::AppState;
use crate::wire::RestoreFormat;

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
    ];
    let length = export.length();
    // Parts can be had where the same request always gives the same bytes.
    let part = match (export.tag(), length) {
        (Some(tag), Some(whole)) => sending::part(&headers, whole, tag, &mut fields)?,
        _ => {
            fields.push((header::ACCEPT_RANGES, "none".to_owned()));
            None
        }
    };
    match part {
        Some(part) => sending::answer(&state, fields, Some(part.length), export.stream_range(part)?),
        None => sending::answer(&state, fields, length, export.stream()),
    }
}

fn media(format: RestoreFormat) -> &'static str {
    match format {
        RestoreFormat::Raw => ANY_BYTES,
        RestoreFormat::Qcow2 => "application/x-qemu-disk",
        RestoreFormat::Vmdk => "application/x-vmdk",
    }
}
