//! Repositories: the places where backups are kept, and rebuilding the catalog from one.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use tidemark_catalog::Role;

use super::backups::repository_of;
use super::{accepted, created};
use crate::auth::Actor;
use crate::extract::{IdempotencyKey, Json as JsonBody, OptionalJson, Path, Query};
use crate::paging::{PageQuery, cut};
use crate::problem::{Answer, Problem};
use crate::routing::{Routes, admin, operator, viewer};
use crate::state::AppState;
use crate::wire::{
    Accepted, AddConnection, CheckRepository, ConnectionEntry, RepositoryDetail, RepositoryList,
    UpdateConnection,
};

pub(super) fn add(routes: Routes) -> Routes {
    routes
        .get(
            "/api/v1/repositories",
            viewer("listRepositories", "Repositories by name")
                .query::<PageQuery>()
                .answers::<RepositoryList>(200),
            list,
        )
        .post(
            "/api/v1/repositories",
            admin("addRepository", "Adds a repository")
                .body::<AddConnection>()
                .answers::<ConnectionEntry>(201),
            create,
        )
        .get(
            "/api/v1/repositories/{id}",
            viewer("showRepository", "One repository and how full it is").answers::<RepositoryDetail>(200),
            show,
        )
        .delete(
            "/api/v1/repositories/{id}",
            admin("removeRepository", "Forgets a repository that no backup is in; deletes nothing in it"),
            remove,
        )
        .post(
            "/api/v1/repositories/{id}/actions/update",
            admin(
                "updateRepository",
                "Changes settings, secrets or the bandwidth; the rest stays, objects too",
            )
            .body::<UpdateConnection>()
            .answers::<ConnectionEntry>(200),
            update,
        )
        .post(
            "/api/v1/repositories/{id}/actions/import",
            operator("importRepository", "Rebuilds the catalog from the repository's manifests")
                .answers::<Accepted>(202)
                .idempotent(),
            import,
        )
        .post(
            "/api/v1/repositories/{id}/actions/check",
            operator(
                "checkRepository",
                "Compares the repository with the catalog; deleting garbage needs admin",
            )
            .body::<CheckRepository>()
            .answers::<Accepted>(202)
            .idempotent(),
            check,
        )
}

async fn list(State(state): State<AppState>, Query(query): Query<PageQuery>) -> Answer<Json<RepositoryList>> {
    let all = state.engine.catalog().list_repositories().await?;
    let found = cut(all, &query.request()?, |repository| repository.name.clone());
    Ok(Json(RepositoryList {
        repositories: found.items.iter().map(ConnectionEntry::from).collect(),
        next_cursor: found.next,
    }))
}

async fn create(
    State(state): State<AppState>,
    actor: Actor,
    JsonBody(wire): JsonBody<AddConnection>,
) -> Answer<Response> {
    let repository = state.engine.add_repository(&actor.name, wire.into()).await?;
    created("repositories", &repository.id.to_string(), &ConnectionEntry::from(&repository))
}

async fn show(State(state): State<AppState>, Path(id): Path<String>) -> Answer<Json<RepositoryDetail>> {
    let repository = repository_of(state.engine.catalog(), &id).await?;
    let space = state.engine.repository_space(&repository).await?;
    Ok(Json(RepositoryDetail { entry: ConnectionEntry::from(&repository), space: space.into() }))
}

async fn remove(State(state): State<AppState>, actor: Actor, Path(id): Path<String>) -> Answer<StatusCode> {
    state.engine.remove_repository(&actor.name, &id).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn update(
    State(state): State<AppState>,
    actor: Actor,
    Path(id): Path<String>,
    JsonBody(wire): JsonBody<UpdateConnection>,
) -> Answer<Json<ConnectionEntry>> {
    let repository = state.engine.update_repository(&actor.name, &id, wire.into()).await?;
    Ok(Json(ConnectionEntry::from(&repository)))
}

async fn import(
    State(state): State<AppState>,
    actor: Actor,
    key: IdempotencyKey,
    Path(id): Path<String>,
) -> Answer<Response> {
    let job = state.engine.submit_import(&actor.name, &id, key.scoped(&actor.name, "import")).await?;
    accepted(job.id, &Accepted::new(&job))
}

async fn check(
    State(state): State<AppState>,
    actor: Actor,
    key: IdempotencyKey,
    Path(id): Path<String>,
    OptionalJson(CheckRepository { delete, grace_hours }): OptionalJson<CheckRepository>,
) -> Answer<Response> {
    if delete && actor.role < Role::Admin {
        return Err(Problem::forbidden(format!(
            "deleting needs the role admin; token '{}' has the role {}",
            actor.name,
            actor.role.as_str()
        )));
    }
    let key = key.scoped(&actor.name, "check");
    let job = state.engine.submit_check(&actor.name, &id, delete, grace_hours, key).await?;
    accepted(job.id, &Accepted::new(&job))
}
