//! Connectors: the connections to hypervisors, testing them and looking at what they have.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use tidemark_catalog::{Catalog, Connector};

use super::created;
use crate::auth::Actor;
use crate::extract::{Json as JsonBody, Path, Query};
use crate::paging::{PageQuery, cut};
use crate::problem::{Answer, Problem};
use crate::routing::{Routes, admin, operator, viewer};
use crate::state::AppState;
use crate::wire::{
    AddConnection, ConnectionEntry, ConnectorList, DiscoveredVm, Discovery, TestReport, UpdateConnection,
};

pub(super) fn add(routes: Routes) -> Routes {
    routes
        .get(
            "/api/v1/connectors",
            viewer("listConnectors", "Connectors by name").query::<PageQuery>().answers::<ConnectorList>(200),
            list,
        )
        .post(
            "/api/v1/connectors",
            admin("addConnector", "Adds a connector").body::<AddConnection>().answers::<ConnectionEntry>(201),
            create,
        )
        .get(
            "/api/v1/connectors/{id}",
            viewer("showConnector", "One connector").answers::<ConnectionEntry>(200),
            show,
        )
        .delete("/api/v1/connectors/{id}", admin("removeConnector", "Removes an unused connector"), remove)
        .post(
            "/api/v1/connectors/{id}/actions/update",
            admin("updateConnector", "Changes settings, secrets or the bound; the rest stays")
                .body::<UpdateConnection>()
                .answers::<ConnectionEntry>(200),
            update,
        )
        .post(
            "/api/v1/connectors/{id}/actions/test",
            operator("testConnector", "Logs in and says what stands in the way").answers::<TestReport>(200),
            test,
        )
        .post(
            "/api/v1/connectors/{id}/actions/discover",
            operator("discover", "Lists the hypervisor's VMs").answers::<Discovery>(200),
            discover,
        )
}

pub(super) async fn find(catalog: &Catalog, name_or_id: &str) -> Answer<Connector> {
    let found = catalog.connector_by_name_or_id(name_or_id).await?;
    found.ok_or_else(|| Problem::not_found(format!("there is no connector '{name_or_id}'")))
}

async fn list(State(state): State<AppState>, Query(query): Query<PageQuery>) -> Answer<Json<ConnectorList>> {
    let all = state.engine.catalog().list_connectors().await?;
    let found = cut(all, &query.request()?, |connector| connector.name.clone());
    Ok(Json(ConnectorList {
        connectors: found.items.iter().map(ConnectionEntry::from).collect(),
        next_cursor: found.next,
    }))
}

async fn create(
    State(state): State<AppState>,
    actor: Actor,
    JsonBody(wire): JsonBody<AddConnection>,
) -> Answer<Response> {
    let connector = state.engine.add_connector(&actor.name, wire.into()).await?;
    created("connectors", &connector.id.to_string(), &ConnectionEntry::from(&connector))
}

async fn show(State(state): State<AppState>, Path(id): Path<String>) -> Answer<Json<ConnectionEntry>> {
    Ok(Json(ConnectionEntry::from(&find(state.engine.catalog(), &id).await?)))
}

async fn remove(State(state): State<AppState>, actor: Actor, Path(id): Path<String>) -> Answer<StatusCode> {
    state.engine.remove_connector(&actor.name, &id).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn update(
    State(state): State<AppState>,
    actor: Actor,
    Path(id): Path<String>,
    JsonBody(wire): JsonBody<UpdateConnection>,
) -> Answer<Json<ConnectionEntry>> {
    let connector = state.engine.update_connector(&actor.name, &id, wire.into()).await?;
    Ok(Json(ConnectionEntry::from(&connector)))
}

async fn test(State(state): State<AppState>, Path(id): Path<String>) -> Answer<Json<TestReport>> {
    Ok(Json(TestReport::new(state.engine.test_connector(&id).await?)))
}

async fn discover(State(state): State<AppState>, Path(id): Path<String>) -> Answer<Json<Discovery>> {
    discover_by(&state, &id, Vec::new()).await
}

pub(super) async fn discover_by(
    state: &AppState,
    name_or_id: &str,
    warnings: Vec<String>,
) -> Answer<Json<Discovery>> {
    let connector = find(state.engine.catalog(), name_or_id).await?;
    let vms: Vec<DiscoveredVm> =
        state.engine.discover(name_or_id).await?.into_iter().map(DiscoveredVm::from).collect();
    Ok(Json(Discovery { connector: connector.name, total: vms.len(), vms, warnings }))
}
