//! The audit trail. It names connections, plugins and people, so that only administrators read it.

use axum::Json;
use axum::extract::State;

use crate::extract::Query;
use crate::paging::PageQuery;
use crate::problem::Answer;
use crate::routing::{Routes, admin};
use crate::state::AppState;
use crate::wire::{AuditLine, AuditList};

pub(super) fn add(routes: Routes) -> Routes {
    let operation = admin("listAudit", "Who changed what and when, newest first")
        .query::<PageQuery>()
        .answers::<AuditList>(200);
    routes.get("/api/v1/audit", operation, list)
}

async fn list(State(state): State<AppState>, Query(query): Query<PageQuery>) -> Answer<Json<AuditList>> {
    let found = state.engine.catalog().list_audit(&query.request()?).await?;
    Ok(Json(AuditList {
        entries: found.items.iter().map(AuditLine::from).collect(),
        next_cursor: found.next,
    }))
}
