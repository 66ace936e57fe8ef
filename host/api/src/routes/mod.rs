//! The routes, one file a resource. Handlers validate, convert and call the engine; they decide nothing.

mod alerts;
mod audit;
mod backup_actions;
mod backups;
mod connectors;
mod discovery;
mod events;
mod export;
mod jobs;
mod mounts;
mod plugins;
mod policies;
mod protection_flows;
mod repositories;
mod retention;
mod sending;
mod server;
mod tokens;
mod vms;
mod vmware_credentials;

use axum::Json;
use axum::http::header::LOCATION;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tidemark_model::JobId;

use crate::problem::{Answer, Problem};
use crate::routing::Routes;

/// All routes of the API.
pub(crate) fn all() -> Routes {
    let adders = [
        server::add,
        events::add,
        backups::add,
        backup_actions::add,
        export::add,
        mounts::add,
        connectors::add,
        repositories::add,
        vms::add,
        jobs::add,
        plugins::add,
        policies::add,
        protection_flows::add,
        retention::add,
        tokens::add,
        audit::add,
        discovery::add,
        vmware_credentials::add,
    ];
    adders.into_iter().fold(Routes::default(), |routes, add| add(routes))
}

/// `202 Accepted` with the job's place.
fn accepted(job: JobId, body: &impl Serialize) -> Answer<Response> {
    let place = HeaderValue::try_from(format!("/api/v1/jobs/{job}")).map_err(Problem::internal)?;
    Ok((StatusCode::ACCEPTED, [(LOCATION, place)], Json(body)).into_response())
}

/// `201 Created` with the new thing's place.
fn created(noun: &str, id: &str, body: &impl Serialize) -> Answer<Response> {
    let place = HeaderValue::try_from(format!("/api/v1/{noun}/{id}")).map_err(Problem::internal)?;
    Ok((StatusCode::CREATED, [(LOCATION, place)], Json(body)).into_response())
}
