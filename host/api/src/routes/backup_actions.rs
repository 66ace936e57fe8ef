//! What is done with a backup: verify, restore, make it a full, pin, unpin.

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use tidemark_engine::{BackupView, RestoreRequest};
use tidemark_model::BackupId;

use super::accepted;
use crate::auth::Actor;
use crate::extract::{IdempotencyKey, Json as JsonBody, OptionalJson, Path, parse_id};
use crate::problem::{Answer, Problem};
use crate::routing::{Routes, admin, operator};
use crate::state::AppState;
use crate::wire::{Accepted, BackupDetail, RestoreDisk, VerifyBackup};

pub(super) fn add(routes: Routes) -> Routes {
    routes
        .post(
            "/api/v1/backups/{id}/actions/verify",
            operator("verifyBackup", "Compares what is stored with what was recorded")
                .body::<VerifyBackup>()
                .answers::<Accepted>(202)
                .idempotent(),
            verify,
        )
        .post(
            "/api/v1/backups/{id}/actions/restore",
            operator("restoreDisk", "Restores one disk to a new file on the server's machine")
                .body::<RestoreDisk>()
                .answers::<Accepted>(202)
                .idempotent(),
            restore,
        )
        .post(
            "/api/v1/backups/{id}/actions/synthesize",
            operator(
                "synthesizeFull",
                "Makes a full of an incremental by merging, without reading the guest",
            )
            .answers::<Accepted>(202)
            .idempotent(),
            synthesize,
        )
        .post(
            "/api/v1/backups/{id}/actions/pin",
            operator("pinBackup", "Keeps a backup whatever a policy says").answers::<BackupDetail>(200),
            pin,
        )
        .post(
            "/api/v1/backups/{id}/actions/unpin",
            // The counterpart of deleting: it takes a protection away.
            admin("unpinBackup", "Leaves a backup to the policies again").answers::<BackupDetail>(200),
            unpin,
        )
}

async fn verify(
    State(state): State<AppState>,
    actor: Actor,
    key: IdempotencyKey,
    Path(id): Path<String>,
    OptionalJson(VerifyBackup { level }): OptionalJson<VerifyBackup>,
) -> Answer<Response> {
    let id: BackupId = parse_id("id", &id)?;
    let key = key.scoped(&actor.name, "verify");
    let job = state.engine.submit_verify(&actor.name, id, level.into(), key).await?;
    accepted(job.id, &Accepted::new(&job))
}

async fn restore(
    State(state): State<AppState>,
    actor: Actor,
    key: IdempotencyKey,
    Path(id): Path<String>,
    JsonBody(wire): JsonBody<RestoreDisk>,
) -> Answer<Response> {
    let RestoreDisk { disk_index, to, format } = wire;
    if !to.is_absolute() {
        // The server's working folder is nothing that a client knows.
        return Err(Problem::invalid_field("to", "to: an absolute path on the server's machine is needed"));
    }
    let request = RestoreRequest {
        backup_id: parse_id("id", &id)?,
        disk_index,
        to,
        format: format.into(),
        idempotency_key: key.scoped(&actor.name, "restore"),
    };
    let job = state.engine.submit_restore_disk(&actor.name, request).await?;
    accepted(job.id, &Accepted::new(&job))
}

async fn synthesize(
    State(state): State<AppState>,
    actor: Actor,
    key: IdempotencyKey,
    Path(id): Path<String>,
) -> Answer<Response> {
    let id: BackupId = parse_id("id", &id)?;
    let key = key.scoped(&actor.name, "synthesize");
    let job = state.engine.submit_synthesize(&actor.name, id, key).await?;
    accepted(job.id, &Accepted::new(&job))
}

async fn pin(
    State(state): State<AppState>,
    actor: Actor,
    Path(id): Path<String>,
) -> Answer<Json<BackupDetail>> {
    set_pinned(&state, &actor, &id, true).await
}

async fn unpin(
    State(state): State<AppState>,
    actor: Actor,
    Path(id): Path<String>,
) -> Answer<Json<BackupDetail>> {
    set_pinned(&state, &actor, &id, false).await
}

async fn set_pinned(state: &AppState, actor: &Actor, id: &str, pinned: bool) -> Answer<Json<BackupDetail>> {
    let id: BackupId = parse_id("id", id)?;
    state.engine.set_pinned(&actor.name, id, pinned).await?;
    let BackupView::Stored(backup) = state.engine.backup_status(id).await? else {
        return Err(Problem::not_found(format!("there is no backup '{id}'")));
    };
    let repository = state.engine.catalog().repository(backup.repository_id).await?;
    Ok(Json(BackupDetail::stored(&backup, Some(&repository))))
}
