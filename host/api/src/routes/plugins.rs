//! Plugins: installing, choosing the version in use, grants. All but looking is the administrator's.

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use tidemark_catalog::PluginVersion;
use tidemark_engine::NewPlugin;

use super::created;
use crate::auth::Actor;
use crate::extract::{Json as JsonBody, Path, Query};
use crate::paging::{PageQuery, cut};
use crate::problem::{Answer, Problem};
use crate::routing::{Routes, admin, viewer};
use crate::state::AppState;
use crate::wire::{
    ActivatePlugin, GrantEntry, GrantPlugin, InstallQuery, PluginEntry, PluginList, ReleasePlugin,
};

const WASM: &str = "application/wasm";

pub(super) fn add(routes: Routes) -> Routes {
    routes
        .get(
            "/api/v1/plugins",
            viewer("listPlugins", "Installed versions and their grants")
                .query::<PageQuery>()
                .answers::<PluginList>(200),
            list,
        )
        .post(
            "/api/v1/plugins",
            admin("installPlugin", "Installs a component (at most 64 MiB), perhaps with its signature")
                .query::<InstallQuery>()
                .wasm_body()
                .answers::<PluginEntry>(201),
            install,
        )
        .get(
            "/api/v1/plugins/{name}",
            viewer("showPlugin", "A plugin's versions and grants").answers::<PluginList>(200),
            show,
        )
        .delete(
            "/api/v1/plugins/{name}/versions/{version}",
            admin("removePlugin", "Removes a version that is not in use"),
            remove,
        )
        .post(
            "/api/v1/plugins/{name}/actions/activate",
            admin("activatePlugin", "Makes new jobs use a version")
                .body::<ActivatePlugin>()
                .answers::<PluginList>(200),
            activate,
        )
        .post(
            "/api/v1/plugins/{name}/actions/rollback",
            admin("rollbackPlugin", "Returns to the version that was active before")
                .answers::<PluginList>(200),
            rollback,
        )
        .post(
            "/api/v1/plugins/{name}/actions/release",
            admin("releasePlugin", "Lets a version out of quarantine")
                .body::<ReleasePlugin>()
                .answers::<PluginList>(200),
            release,
        )
        .post(
            "/api/v1/plugins/{name}/actions/grant",
            admin("grantPlugin", "Gives a plugin a capability")
                .body::<GrantPlugin>()
                .answers::<PluginList>(200),
            grant,
        )
        .post(
            "/api/v1/plugins/{name}/actions/revoke",
            admin("revokeGrant", "Takes a capability away").body::<GrantPlugin>().answers::<PluginList>(200),
            revoke,
        )
}

/// A page of versions and the grants of the plugins on it.
async fn listing(
    state: &AppState,
    versions: &[PluginVersion],
    next_cursor: Option<String>,
) -> Answer<PluginList> {
    let mut grants = Vec::new();
    let mut names: Vec<&str> = versions.iter().map(|plugin| plugin.name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    for name in names {
        grants.extend(state.engine.catalog().list_grants(name).await?.iter().map(GrantEntry::from));
    }
    Ok(PluginList { plugins: versions.iter().map(PluginEntry::from).collect(), grants, next_cursor })
}

async fn one(state: &AppState, name: &str) -> Answer<Json<PluginList>> {
    let mut versions = state.engine.catalog().list_plugins().await?;
    versions.retain(|plugin| plugin.name == name);
    if versions.is_empty() {
        return Err(Problem::not_found(format!("there is no plugin '{name}'")));
    }
    Ok(Json(listing(state, &versions, None).await?))
}

async fn list(State(state): State<AppState>, Query(query): Query<PageQuery>) -> Answer<Json<PluginList>> {
    let all = state.engine.catalog().list_plugins().await?;
    let found = cut(all, &query.request()?, |plugin| format!("{} {}", plugin.name, plugin.version));
    Ok(Json(listing(&state, &found.items, found.next).await?))
}

async fn install(
    State(state): State<AppState>,
    actor: Actor,
    headers: HeaderMap,
    Query(InstallQuery { signature }): Query<InstallQuery>,
    body: Bytes,
) -> Answer<Response> {
    let media = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if !media.eq_ignore_ascii_case(WASM) {
        return Err(Problem::unsupported_media(format!("send the component with content-type: {WASM}")));
    }
    let new = NewPlugin { component: body.to_vec(), signature };
    let plugin = state.engine.install_plugin(&actor.name, new).await?;
    created("plugins", &plugin.name, &PluginEntry::from(&plugin))
}

async fn show(State(state): State<AppState>, Path(name): Path<String>) -> Answer<Json<PluginList>> {
    one(&state, &name).await
}

async fn remove(
    State(state): State<AppState>,
    actor: Actor,
    Path((name, version)): Path<(String, String)>,
) -> Answer<StatusCode> {
    state.engine.remove_plugin(&actor.name, &name, &version).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn activate(
    State(state): State<AppState>,
    actor: Actor,
    Path(name): Path<String>,
    JsonBody(ActivatePlugin { version, approve }): JsonBody<ActivatePlugin>,
) -> Answer<Json<PluginList>> {
    state.engine.activate_plugin(&actor.name, &name, &version, approve).await?;
    one(&state, &name).await
}

async fn release(
    State(state): State<AppState>,
    actor: Actor,
    Path(name): Path<String>,
    JsonBody(ReleasePlugin { version }): JsonBody<ReleasePlugin>,
) -> Answer<Json<PluginList>> {
    state.engine.release_plugin(&actor.name, &name, &version).await?;
    one(&state, &name).await
}

async fn rollback(
    State(state): State<AppState>,
    actor: Actor,
    Path(name): Path<String>,
) -> Answer<Json<PluginList>> {
    state.engine.rollback_plugin(&actor.name, &name).await?;
    one(&state, &name).await
}

async fn grant(
    State(state): State<AppState>,
    actor: Actor,
    Path(name): Path<String>,
    JsonBody(GrantPlugin { capability }): JsonBody<GrantPlugin>,
) -> Answer<Json<PluginList>> {
    state.engine.grant_plugin(&actor.name, &name, &capability).await?;
    one(&state, &name).await
}

async fn revoke(
    State(state): State<AppState>,
    actor: Actor,
    Path(name): Path<String>,
    JsonBody(GrantPlugin { capability }): JsonBody<GrantPlugin>,
) -> Answer<Json<PluginList>> {
    state.engine.revoke_grant(&actor.name, &name, &capability).await?;
    one(&state, &name).await
}
