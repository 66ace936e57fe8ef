//! The vCenter connectors, seen as credentials: the older shape of the same thing. Connectors of other plugins do
//! not exist here.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use tidemark_catalog::{Catalog, Connector};

use super::{connectors, created};
use crate::auth::Actor;
use crate::extract::{Json as JsonBody, Path};
use crate::problem::{Answer, Problem};
use crate::routing::{Routes, admin, operator, viewer};
use crate::state::AppState;
use crate::wire::{AddCredentials, CredentialsEntry, CredentialsList, TestReport, is_vcenter};

pub(super) fn add(routes: Routes) -> Routes {
    routes
        .get(
            "/api/v1/vmware-credentials",
            viewer("listCredentials", "vCenter connectors as credentials").answers::<CredentialsList>(200),
            list,
        )
        .post(
            "/api/v1/vmware-credentials",
            admin("addCredentials", "Adds a vCenter connector")
                .body::<AddCredentials>()
                .answers::<CredentialsEntry>(201),
            create,
        )
        .get(
            "/api/v1/vmware-credentials/{id}",
            viewer("showCredentials", "One vCenter connector").answers::<CredentialsEntry>(200),
            show,
        )
        .delete(
            "/api/v1/vmware-credentials/{id}",
            admin("removeCredentials", "Removes an unused vCenter connector"),
            remove,
        )
        .post(
            "/api/v1/vmware-credentials/{id}/test",
            operator("testCredentials", "Logs in and says what stands in the way").answers::<TestReport>(200),
            test,
        )
}

async fn find(catalog: &Catalog, id: &str) -> Answer<Connector> {
    let connector = connectors::find(catalog, id).await?;
    if is_vcenter(&connector) {
        return Ok(connector);
    }
    Err(Problem::not_found(format!("connector '{}' is no vCenter", connector.name)))
}

async fn list(State(state): State<AppState>) -> Answer<Json<CredentialsList>> {
    let all = state.engine.catalog().list_connectors().await?;
    let credentials = all.iter().filter(|found| is_vcenter(found)).map(CredentialsEntry::from).collect();
    Ok(Json(CredentialsList { credentials }))
}

async fn create(
    State(state): State<AppState>,
    actor: Actor,
    JsonBody(wire): JsonBody<AddCredentials>,
) -> Answer<Response> {
    let connector = state.engine.add_connector(&actor.name, wire.into()).await?;
    created("vmware-credentials", &connector.id.to_string(), &CredentialsEntry::from(&connector))
}

async fn show(State(state): State<AppState>, Path(id): Path<String>) -> Answer<Json<CredentialsEntry>> {
    Ok(Json(CredentialsEntry::from(&find(state.engine.catalog(), &id).await?)))
}

async fn remove(State(state): State<AppState>, actor: Actor, Path(id): Path<String>) -> Answer<StatusCode> {
    let connector = find(state.engine.catalog(), &id).await?;
    state.engine.remove_connector(&actor.name, &connector.id.to_string()).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn test(State(state): State<AppState>, Path(id): Path<String>) -> Answer<Json<TestReport>> {
    let connector = find(state.engine.catalog(), &id).await?;
    Ok(Json(TestReport::new(state.engine.test_connector(&connector.id.to_string()).await?)))
}
