//! Policies: versions of scripts, which of them decides, and what another one would change.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;

use super::created;
use crate::auth::Actor;
use crate::extract::{Json as JsonBody, OptionalJson, Path, Query};
use crate::problem::Answer;
use crate::routing::{Routes, admin, operator, viewer};
use crate::state::AppState;
use crate::wire::{
    ActivatePolicy, BacktestPolicy, BacktestReport, PolicyEntry, PolicyList, PolicyQuery, PolicyVersionEntry,
    PolicyVersions, WritePolicy,
};

pub(super) fn add(routes: Routes) -> Routes {
    routes
        .get("/api/v1/policies", viewer("listPolicies", "Policies by name").answers::<PolicyList>(200), list)
        .post(
            "/api/v1/policies",
            admin("putPolicy", "Stores a version of a policy, after a check of it")
                .body::<WritePolicy>()
                .answers::<PolicyVersionEntry>(201),
            put,
        )
        .get(
            "/api/v1/policies/{id}",
            viewer("showPolicy", "The version that decides, or the one asked for")
                .query::<PolicyQuery>()
                .answers::<PolicyVersionEntry>(200),
            show,
        )
        .delete("/api/v1/policies/{id}", admin("removePolicy", "Forgets a policy that no flow uses"), remove)
        .get(
            "/api/v1/policies/{id}/versions",
            viewer("listPolicyVersions", "All versions, the newest first").answers::<PolicyVersions>(200),
            versions,
        )
        .post(
            "/api/v1/policies/{id}/actions/activate",
            admin("activatePolicy", "Lets a version decide from now on")
                .body::<ActivatePolicy>()
                .answers::<PolicyVersionEntry>(200),
            activate,
        )
        .post(
            "/api/v1/policies/{id}/actions/rollback",
            admin("rollbackPolicy", "Returns to the version that decided before")
                .answers::<PolicyVersionEntry>(200),
            rollback,
        )
        .post(
            "/api/v1/policies/{id}/actions/backtest",
            operator("backtestPolicy", "What a version would keep and drop in today's catalog")
                .body::<BacktestPolicy>()
                .answers::<BacktestReport>(200),
            backtest,
        )
}

async fn list(State(state): State<AppState>) -> Answer<Json<PolicyList>> {
    let policies = state.engine.catalog().list_policies().await?;
    Ok(Json(PolicyList { policies: policies.iter().map(PolicyEntry::from).collect() }))
}

async fn put(
    State(state): State<AppState>,
    actor: Actor,
    JsonBody(wire): JsonBody<WritePolicy>,
) -> Answer<Response> {
    let known = state.engine.catalog().list_policies().await?;
    let first = known.iter().all(|policy| policy.name != wire.name);
    let put = state.engine.put_policy(&actor.name, wire.into_put(first)).await?;
    created("policies", &put.version.name, &PolicyVersionEntry::from(&put))
}

async fn show(
    State(state): State<AppState>,
    Path(id): Path<String>,
    Query(query): Query<PolicyQuery>,
) -> Answer<Json<PolicyVersionEntry>> {
    let stored = state.engine.catalog().policy_version(&id, query.version).await?;
    Ok(Json(PolicyVersionEntry::from(&stored)))
}

async fn remove(State(state): State<AppState>, actor: Actor, Path(id): Path<String>) -> Answer<StatusCode> {
    state.engine.remove_policy(&actor.name, &id).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn versions(State(state): State<AppState>, Path(id): Path<String>) -> Answer<Json<PolicyVersions>> {
    let stored = state.engine.catalog().policy_versions(&id).await?;
    Ok(Json(PolicyVersions { versions: stored.iter().map(PolicyVersionEntry::from).collect() }))
}

async fn activate(
    State(state): State<AppState>,
    actor: Actor,
    Path(id): Path<String>,
    JsonBody(wire): JsonBody<ActivatePolicy>,
) -> Answer<Json<PolicyVersionEntry>> {
    let active = state.engine.activate_policy(&actor.name, &id, wire.version).await?;
    Ok(Json(PolicyVersionEntry::from(&active)))
}

async fn rollback(
    State(state): State<AppState>,
    actor: Actor,
    Path(id): Path<String>,
) -> Answer<Json<PolicyVersionEntry>> {
    let active = state.engine.rollback_policy(&actor.name, &id).await?;
    Ok(Json(PolicyVersionEntry::from(&active)))
}

async fn backtest(
    State(state): State<AppState>,
    Path(id): Path<String>,
    OptionalJson(BacktestPolicy { version, source }): OptionalJson<BacktestPolicy>,
) -> Answer<Json<BacktestReport>> {
    let played = state.engine.backtest(&id, version, source.as_deref()).await?;
    Ok(Json(BacktestReport::from(played)))
}
