//! Jobs: what runs, what ran, and ending it.

use axum::Json;
use axum::extract::State;
use schemars::JsonSchema;
use serde::Deserialize;
use tidemark_catalog::JobFilter;
use tidemark_model::JobId;

use crate::auth::Actor;
use crate::extract::{Path, Query, parse_id};
use crate::paging::page;
use crate::problem::Answer;
use crate::routing::{Routes, operator, viewer};
use crate::state::AppState;
use crate::wire::{JobEntry, JobList};

pub(super) fn add(routes: Routes) -> Routes {
    routes
        .get(
            "/api/v1/jobs",
            viewer("listJobs", "Jobs, newest first").query::<JobQuery>().answers::<JobList>(200),
            list,
        )
        .get("/api/v1/jobs/{id}", viewer("showJob", "One job").answers::<JobEntry>(200), show)
        .post(
            "/api/v1/jobs/{id}/actions/cancel",
            operator("cancelJob", "Asks a job to end and to undo what it has begun").answers::<JobEntry>(200),
            cancel,
        )
}

#[derive(Debug, Deserialize, JsonSchema)]
struct JobQuery {
    /// Only in this state.
    status: Option<String>,
    /// Only of this kind.
    kind: Option<String>,
    /// At most so many items (1 to 1000, 100 by default).
    limit: Option<u32>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

async fn list(State(state): State<AppState>, Query(query): Query<JobQuery>) -> Answer<Json<JobList>> {
    let JobQuery { status, kind, limit, cursor } = query;
    let filter = JobFilter {
        state: status.map(|text| parse_id("status", &text)).transpose()?,
        kind: kind.map(|text| parse_id("kind", &text)).transpose()?,
    };
    let found = state.engine.catalog().list_jobs(&filter, &page(limit, cursor)?).await?;
    Ok(Json(JobList { jobs: found.items.iter().map(JobEntry::from).collect(), next_cursor: found.next }))
}

async fn show(State(state): State<AppState>, Path(id): Path<String>) -> Answer<Json<JobEntry>> {
    let id: JobId = parse_id("id", &id)?;
    let job = state.engine.catalog().job(id).await?;
    Ok(Json(JobEntry::from(&job)))
}

async fn cancel(
    State(state): State<AppState>,
    actor: Actor,
    Path(id): Path<String>,
) -> Answer<Json<JobEntry>> {
    let id: JobId = parse_id("id", &id)?;
    state.engine.cancel_job(&actor.name, id).await?;
    let job = state.engine.catalog().job(id).await?;
    Ok(Json(JobEntry::from(&job)))
}
