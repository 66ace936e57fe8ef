//! Virtual machines under protection.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use super::backups::vm_of;
use crate::auth::Actor;
use crate::extract::{Json as JsonBody, Path, Query};
use crate::paging::{PageQuery, cut};
use crate::problem::{Answer, Problem};
use crate::routing::{Routes, admin, viewer};
use crate::state::AppState;
use crate::wire::{AddVms, AddedVms, VmEntry, VmList};

pub(super) fn add(routes: Routes) -> Routes {
    routes
        .get(
            "/api/v1/vms",
            viewer("listVms", "Protected VMs by name").query::<PageQuery>().answers::<VmList>(200),
            list,
        )
        .post(
            "/api/v1/vms",
            admin("addVms", "Puts VMs under protection").body::<AddVms>().answers::<AddedVms>(201),
            create,
        )
        .get("/api/v1/vms/{id}", viewer("showVm", "One protected VM").answers::<VmEntry>(200), show)
        .delete("/api/v1/vms/{id}", admin("removeVm", "Ends the protection of a VM without backups"), remove)
}

async fn list(State(state): State<AppState>, Query(query): Query<PageQuery>) -> Answer<Json<VmList>> {
    let all = state.engine.catalog().list_vms().await?;
    // Names are unique only within a connector.
    let found = cut(all, &query.request()?, |vm| format!("{}/{}", vm.name, vm.id));
    Ok(Json(VmList { vms: found.items.iter().map(VmEntry::from).collect(), next_cursor: found.next }))
}

async fn create(
    State(state): State<AppState>,
    actor: Actor,
    JsonBody(wire): JsonBody<AddVms>,
) -> Answer<Response> {
    add_vms(&state, &actor, wire, Vec::new()).await
}

pub(super) async fn add_vms(
    state: &AppState,
    actor: &Actor,
    wire: AddVms,
    warnings: Vec<String>,
) -> Answer<Response> {
    let AddVms { connector, vm_names } = wire;
    if vm_names.is_empty() {
        return Err(Problem::invalid_field("vm_names", "vm_names: name at least one VM"));
    }
    let added = state.engine.add_vms(&actor.name, &connector, &vm_names).await?;
    let body = AddedVms { added: added.len(), vms: added.iter().map(VmEntry::from).collect(), warnings };
    Ok((StatusCode::CREATED, Json(body)).into_response())
}

async fn show(State(state): State<AppState>, Path(id): Path<String>) -> Answer<Json<VmEntry>> {
    Ok(Json(VmEntry::from(&vm_of(state.engine.catalog(), &id).await?)))
}

async fn remove(State(state): State<AppState>, actor: Actor, Path(id): Path<String>) -> Answer<StatusCode> {
    state.engine.remove_vm(&actor.name, &id).await?;
    Ok(StatusCode::NO_CONTENT)
}
