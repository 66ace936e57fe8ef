//! The server itself: health, its OpenAPI document, metrics.

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use tidemark_catalog::{BackupFilter, JobFilter, PageRequest};
use tidemark_model::{JobKind, JobState};

use super::alerts;
use crate::auth::OPEN_PATH;
use crate::metrics::Exposition;
use crate::problem::Answer;
use crate::routing::{Routes, open, viewer};
use crate::state::AppState;
use crate::wire::Health;

/// Prometheus' text format.
const METRICS_TEXT: &str = "text/plain; version=0.0.4";

const KINDS: [JobKind; 10] = [
    JobKind::Backup,
    JobKind::RestoreDisk,
    JobKind::Verify,
    JobKind::ImportRepository,
    JobKind::DeleteBackup,
    JobKind::SynthesizeFull,
    JobKind::CheckRepository,
    JobKind::CopyBackup,
    JobKind::Prune,
    JobKind::RunFlow,
];

pub(super) fn add(routes: Routes) -> Routes {
    routes
        .get(
            OPEN_PATH,
            open("health", "Whether the server works; needs no token").answers::<Health>(200),
            health,
        )
        .get(
            "/api/v1/openapi.json",
            viewer("openapi", "This document").answers::<serde_json::Value>(200),
            openapi,
        )
        .get("/metrics", viewer("metrics", "Counts for Prometheus").answers_text(METRICS_TEXT), metrics)
}

/// Asks the catalog, so that a server which has lost its database does not call itself healthy.
async fn health(State(state): State<AppState>) -> Response {
    let works = state.engine.catalog().list_repositories().await;
    if let Err(error) = &works {
        tracing::warn!(error = crate::problem::chain(error), "the catalog does not answer");
    }
    let (code, status) = match works {
        Ok(_) => (StatusCode::OK, "ok"),
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "failing"),
    };
    let health = Health {
        status: status.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        uptime_seconds: state.http.uptime().as_secs(),
    };
    (code, Json(health)).into_response()
}

async fn openapi(State(state): State<AppState>) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], state.openapi.to_string()).into_response()
}

/// Figures that need one read of the catalog; long lists are not walked for them.
async fn metrics(State(state): State<AppState>) -> Answer<Response> {
    let mut out = Exposition::default();
    out.family("tidemark_build_info", "gauge", "The server's version.");
    out.sample("tidemark_build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1);
    out.family("tidemark_uptime_seconds", "gauge", "Seconds since the start.");
    out.sample("tidemark_uptime_seconds", &[], state.http.uptime().as_secs());
    let catalog = state.engine.catalog();
    let configured = [
        ("connectors", catalog.list_connectors().await?.len()),
        ("repositories", catalog.list_repositories().await?.len()),
        ("vms", catalog.list_vms().await?.len()),
        ("plugins", catalog.list_plugins().await?.len()),
    ];
    out.family("tidemark_configured", "gauge", "How many of each noun the catalog holds.");
    for (noun, count) in configured {
        out.sample("tidemark_configured", &[("noun", noun)], count);
    }
    unfinished_jobs(&state, &mut out).await?;
    stored_backups(&state, &mut out).await?;
    alerts::render(&state, &mut out).await?;
    state.http.render(&mut out);
    Ok(([(header::CONTENT_TYPE, METRICS_TEXT)], out.finish()).into_response())
}

/// Jobs that wait or run, by kind.
async fn unfinished_jobs(state: &AppState, out: &mut Exposition) -> Answer<()> {
    out.family("tidemark_jobs", "gauge", "Jobs that wait or run (at most 1000 of each are counted).");
    for wanted in [JobState::Queued, JobState::Running] {
        let filter = JobFilter { state: Some(wanted), kind: None };
        let found =
            state.engine.catalog().list_jobs(&filter, &PageRequest { limit: 1000, cursor: None }).await?;
        for kind in KINDS {
            let count = found.items.iter().filter(|job| job.kind == kind).count();
            out.sample("tidemark_jobs", &[("kind", kind.as_str()), ("state", wanted.as_str())], count);
        }
    }
    Ok(())
}

/// How each VM's newest backup is: what an alert on missing or damaged backups needs.
async fn stored_backups(state: &AppState, out: &mut Exposition) -> Answer<()> {
    let catalog = state.engine.catalog();
    let mut newest = Vec::new();
    for vm in catalog.list_vms().await? {
        let filter = BackupFilter { vm_id: Some(vm.id), ..BackupFilter::default() };
        let found = catalog.list_backups(&filter, &PageRequest { limit: 1, cursor: None }).await?;
        newest.extend(found.items.into_iter().map(|backup| (vm.name.clone(), vm.id.to_string(), backup)));
    }
    out.family("tidemark_last_backup_timestamp_seconds", "gauge", "The moment of a VM's newest backup.");
    for (name, id, backup) in &newest {
        let labels = [("vm", name.as_str()), ("vm_id", id), ("status", backup.status.as_str())];
        out.sample("tidemark_last_backup_timestamp_seconds", &labels, backup.snapshot_at.0 / 1000);
    }
    out.family("tidemark_last_backup_stored_bytes", "gauge", "What a VM's newest backup takes.");
    for (name, id, backup) in &newest {
        let stored: u64 = backup.disks.iter().map(|disk| disk.stored.0).sum();
        out.sample("tidemark_last_backup_stored_bytes", &[("vm", name.as_str()), ("vm_id", id)], stored);
    }
    Ok(())
}
