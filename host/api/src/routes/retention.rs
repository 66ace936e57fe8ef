//! Retention in a repository: letting policies decide, what they let go, and copies of backups elsewhere.

use std::collections::HashMap;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use tidemark_catalog::RetentionMark;

use super::accepted;
use super::backups::repository_of;
use crate::auth::Actor;
use crate::extract::{IdempotencyKey, Json as JsonBody, OptionalJson, Path};
use crate::problem::Answer;
use crate::routing::{Routes, admin, operator, viewer};
use crate::state::AppState;
use crate::wire::{
    Accepted, AcceptedJobs, ApproveMarks, ApprovedMarks, CopyBackups, MarkEntry, MarkList, PruneRepository,
};

pub(super) fn add(routes: Routes) -> Routes {
    routes
        .post(
            "/api/v1/repositories/{id}/actions/prune",
            operator("pruneRepository", "Lets the flows' policies decide, and deletes what is due")
                .body::<PruneRepository>()
                .answers::<Accepted>(202)
                .idempotent(),
            prune,
        )
        .get(
            "/api/v1/repositories/{id}/marks",
            viewer("listMarks", "Backups that policies let go, and when").answers::<MarkList>(200),
            marks,
        )
        .post(
            "/api/v1/repositories/{id}/actions/approve",
            admin("approveMarks", "Lets marked backups go that wait for approval")
                .body::<ApproveMarks>()
                .answers::<ApprovedMarks>(200),
            approve,
        )
        .post(
            "/api/v1/vms/{id}/actions/copy",
            operator("copyBackups", "Copies a VM's backups that another repository lacks")
                .body::<CopyBackups>()
                .answers::<AcceptedJobs>(202)
                .idempotent(),
            copy,
        )
}

async fn prune(
    State(state): State<AppState>,
    actor: Actor,
    key: IdempotencyKey,
    Path(id): Path<String>,
    OptionalJson(PruneRepository { dry_run }): OptionalJson<PruneRepository>,
) -> Answer<Response> {
    let key = key.scoped(&actor.name, "prune");
    let job = state.engine.submit_prune(&actor.name, &id, dry_run, key).await?;
    accepted(job.id, &Accepted::new(&job))
}

async fn marks(State(state): State<AppState>, Path(id): Path<String>) -> Answer<Json<MarkList>> {
    let repository = repository_of(state.engine.catalog(), &id).await?;
    let marks = state.engine.catalog().marks(repository.id, None).await?;
    let vms = state.engine.catalog().list_vms().await?;
    let names: HashMap<_, _> = vms.iter().map(|vm| (vm.id, vm.name.as_str())).collect();
    // A VM with a mark has a backup, and one with a backup cannot be removed.
    let named =
        |mark: &RetentionMark| MarkEntry::new(mark, names.get(&mark.vm_id).copied().unwrap_or_default());
    Ok(Json(MarkList { marks: marks.iter().map(named).collect() }))
}

async fn approve(
    State(state): State<AppState>,
    actor: Actor,
    Path(id): Path<String>,
    OptionalJson(ApproveMarks { vm }): OptionalJson<ApproveMarks>,
) -> Answer<Json<ApprovedMarks>> {
    let approved = state.engine.approve_marks(&actor.name, &id, vm.as_deref()).await?;
    Ok(Json(ApprovedMarks { approved }))
}

async fn copy(
    State(state): State<AppState>,
    actor: Actor,
    key: IdempotencyKey,
    Path(id): Path<String>,
    JsonBody(CopyBackups { from, to }): JsonBody<CopyBackups>,
) -> Answer<Response> {
    let key = key.scoped(&actor.name, "copy");
    let jobs = state.engine.submit_copies(&actor.name, &id, &from, &to, key).await?;
    let message = match jobs.len() {
        0 => format!("{to} has all that there is"),
        count => format!("{count} backups are copied to {to}"),
    };
    let body = AcceptedJobs { job_ids: jobs.iter().map(|job| job.id.to_string()).collect(), message };
    Ok((StatusCode::ACCEPTED, Json(body)).into_response())
}
