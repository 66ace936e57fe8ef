//! Protection flows: making, changing and running them, and reading what they did.

use axum::Json;
use axum::extract::State;
use axum::http::{Method, StatusCode};
use axum::response::Response;
use tidemark_catalog::{Flow, RunStatus};
use tidemark_engine::{FlowChange, FlowDefinition, NewFlow};

use super::{accepted, created};
use crate::auth::Actor;
use crate::extract::{IdempotencyKey, Json as JsonBody, Path, Query, parse_id};
use crate::paging::PageQuery;
use crate::problem::{Answer, Problem};
use crate::routing::{Routes, admin, operator, viewer};
use crate::state::AppState;
use crate::wire::{
    BulkFlows, BulkOutcome, ExecutionEntry, ExecutionList, FiringEntry, FiringList, FlowEntry, FlowList,
    FlowPreview, FlowStanding, FlowSummary, StartedExecution, UnprotectedList, UnprotectedQuery, WriteFlow,
};

pub(super) fn add(routes: Routes) -> Routes {
    runs(bulk(single(routes)))
}

fn single(routes: Routes) -> Routes {
    routes
        .get("/api/v1/protection-flows", viewer("listFlows", "Flows by name").answers::<FlowList>(200), list)
        .post(
            "/api/v1/protection-flows",
            admin("createFlow", "Makes a flow").body::<WriteFlow>().answers::<FlowEntry>(201),
            create,
        )
        .get("/api/v1/protection-flows/{id}", viewer("showFlow", "One flow").answers::<FlowEntry>(200), show)
        .route(
            Method::PUT,
            "/api/v1/protection-flows/{id}",
            admin("updateFlow", "Changes a flow; what is not given stays")
                .body::<WriteFlow>()
                .answers::<FlowEntry>(200),
            update,
        )
        .delete(
            "/api/v1/protection-flows/{id}",
            admin("removeFlow", "Forgets a flow and its runs; its backups stay"),
            remove,
        )
        .post(
            "/api/v1/protection-flows/{id}/enable",
            operator("enableFlow", "Lets a flow fire").answers::<FlowEntry>(200),
            enable,
        )
        .post(
            "/api/v1/protection-flows/{id}/disable",
            operator("disableFlow", "Lets a flow fire no more").answers::<FlowEntry>(200),
            disable,
        )
        .get(
            "/api/v1/protection-flows/{id}/preview",
            viewer("previewFlow", "What a flow would do now; nothing is recorded")
                .answers::<FlowPreview>(200),
            preview,
        )
}

fn bulk(routes: Routes) -> Routes {
    routes
        .get(
            "/api/v1/protection-flows/summary",
            viewer("summarizeFlows", "All flows in one look").answers::<FlowSummary>(200),
            summary,
        )
        .post(
            "/api/v1/protection-flows/bulk-enable",
            operator("enableFlows", "Lets flows fire").body::<BulkFlows>().answers::<BulkOutcome>(200),
            bulk_enable,
        )
        .post(
            "/api/v1/protection-flows/bulk-disable",
            operator("disableFlows", "Lets flows fire no more")
                .body::<BulkFlows>()
                .answers::<BulkOutcome>(200),
            bulk_disable,
        )
        .post(
            "/api/v1/protection-flows/bulk-delete",
            admin("removeFlows", "Forgets flows").body::<BulkFlows>().answers::<BulkOutcome>(200),
            bulk_delete,
        )
        .post(
            "/api/v1/protection-flows/bulk-execute",
            operator("executeFlows", "Runs flows now").body::<BulkFlows>().answers::<BulkOutcome>(200),
            bulk_execute,
        )
        .get(
            "/api/v1/reports/unprotected-vms",
            viewer("listUnprotectedVms", "VMs that no enabled flow protects")
                .query::<UnprotectedQuery>()
                .answers::<UnprotectedList>(200),
            unprotected,
        )
}

fn runs(routes: Routes) -> Routes {
    routes
        .post(
            "/api/v1/protection-flows/{id}/execute",
            operator("executeFlow", "Runs a flow now, enabled or not")
                .answers::<StartedExecution>(202)
                .idempotent(),
            execute,
        )
        .get(
            "/api/v1/protection-flows/{id}/executions",
            viewer("listExecutions", "A flow's runs, the newest first")
                .query::<PageQuery>()
                .answers::<ExecutionList>(200),
            executions,
        )
        .get(
            "/api/v1/protection-flows/{id}/executions/{run}",
            viewer("showExecution", "One run with each VM's reason").answers::<ExecutionEntry>(200),
            execution,
        )
        .get(
            "/api/v1/protection-flows/{id}/firings",
            viewer("listFirings", "The times for which a flow fired, passed over or not, the newest first")
                .query::<PageQuery>()
                .answers::<FiringList>(200),
            firings,
        )
        .get(
            "/api/v1/protection-flows/{id}/status",
            viewer("showFlowStatus", "A flow, its newest run and its next").answers::<FlowStanding>(200),
            status,
        )
}

async fn list(State(state): State<AppState>) -> Answer<Json<FlowList>> {
    let flows = state.engine.catalog().list_flows().await?;
    Ok(Json(FlowList { total: flows.len(), flows: flows.iter().map(FlowEntry::from).collect() }))
}

async fn create(
    State(state): State<AppState>,
    actor: Actor,
    JsonBody(wire): JsonBody<WriteFlow>,
) -> Answer<Response> {
    let document = wire.document().unwrap_or_default();
    let definition = FlowDefinition::parse(document)?;
    let name = wire.name.ok_or_else(|| Problem::invalid_field("name", "a flow needs a name"))?;
    let new = NewFlow { name, definition, secrets: wire.secrets, enabled: wire.enabled.unwrap_or(true) };
    let flow = state.engine.create_flow(&actor.name, new).await?;
    created("protection-flows", &flow.id.to_string(), &FlowEntry::from(&flow))
}

async fn show(State(state): State<AppState>, Path(id): Path<String>) -> Answer<Json<FlowEntry>> {
    Ok(Json(FlowEntry::from(&state.engine.flow(&id).await?)))
}

async fn update(
    State(state): State<AppState>,
    actor: Actor,
    Path(id): Path<String>,
    JsonBody(wire): JsonBody<WriteFlow>,
) -> Answer<Json<FlowEntry>> {
    let definition = match wire.document() {
        Some(serde_json::Value::Object(given)) => {
            let flow = state.engine.flow(&id).await?;
            let mut document = FlowDefinition::of(&flow)?.to_document()?;
            if let Some(members) = document.as_object_mut() {
                members.extend(given);
                members.retain(|_, value| !value.is_null());
            }
            Some(FlowDefinition::parse(document)?)
        }
        _ => None,
    };
    let change = FlowChange { name: wire.name, definition, secrets: wire.secrets, enabled: wire.enabled };
    let flow = state.engine.update_flow(&actor.name, &id, change).await?;
    Ok(Json(FlowEntry::from(&flow)))
}

async fn remove(State(state): State<AppState>, actor: Actor, Path(id): Path<String>) -> Answer<StatusCode> {
    state.engine.remove_flow(&actor.name, &id).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn enable(
    State(state): State<AppState>,
    actor: Actor,
    Path(id): Path<String>,
) -> Answer<Json<FlowEntry>> {
    let flow = state.engine.set_flow_enabled(&actor.name, &id, true).await?;
    Ok(Json(FlowEntry::from(&flow)))
}

async fn disable(
    State(state): State<AppState>,
    actor: Actor,
    Path(id): Path<String>,
) -> Answer<Json<FlowEntry>> {
    let flow = state.engine.set_flow_enabled(&actor.name, &id, false).await?;
    Ok(Json(FlowEntry::from(&flow)))
}

async fn preview(State(state): State<AppState>, Path(id): Path<String>) -> Answer<Json<FlowPreview>> {
    Ok(Json(FlowPreview::from(state.engine.preview_flow(&id).await?)))
}

async fn execute(
    State(state): State<AppState>,
    actor: Actor,
    key: IdempotencyKey,
    Path(id): Path<String>,
) -> Answer<Response> {
    let key = key.scoped(&actor.name, "flow");
    let (flow, job) = state.engine.execute_flow(&actor.name, &id, key).await?;
    let started = StartedExecution {
        execution_id: job.id.to_string(),
        job_id: job.id.to_string(),
        flow_id: flow.id.to_string(),
        status: job.state.as_str().to_owned(),
        message: format!("flow '{}' runs as job {}", flow.name, job.id),
    };
    accepted(job.id, &started)
}

async fn executions(
    State(state): State<AppState>,
    Path(id): Path<String>,
    Query(query): Query<PageQuery>,
) -> Answer<Json<ExecutionList>> {
    let flow = state.engine.flow(&id).await?;
    let page = state.engine.catalog().list_flow_runs(flow.id, &query.request()?).await?;
    let executions: Vec<_> = page.items.iter().map(|run| ExecutionEntry::new(run, &[])).collect();
    Ok(Json(ExecutionList { total: executions.len(), executions, next_cursor: page.next }))
}

async fn execution(
    State(state): State<AppState>,
    Path((id, run)): Path<(String, String)>,
) -> Answer<Json<ExecutionEntry>> {
    let flow = state.engine.flow(&id).await?;
    let catalog = state.engine.catalog();
    let run = catalog.flow_run(parse_id("run", &run)?).await?;
    if run.flow_id != flow.id {
        return Err(Problem::not_found(format!("flow '{}' has no run {}", flow.name, run.job_id)));
    }
    let vms = catalog.run_vms(run.job_id).await?;
    Ok(Json(ExecutionEntry::new(&run, &vms)))
}

async fn firings(
    State(state): State<AppState>,
    Path(id): Path<String>,
    Query(query): Query<PageQuery>,
) -> Answer<Json<FiringList>> {
    let flow = state.engine.flow(&id).await?;
    let page = state.engine.catalog().list_firings(flow.id, &query.request()?).await?;
    Ok(Json(FiringList {
        firings: page.items.iter().map(FiringEntry::from).collect(),
        next_cursor: page.next,
    }))
}

async fn status(State(state): State<AppState>, Path(id): Path<String>) -> Answer<Json<FlowStanding>> {
    Ok(Json(FlowStanding::from(&state.engine.flow_status(&id).await?)))
}

async fn summary(State(state): State<AppState>) -> Answer<Json<FlowSummary>> {
    let flows: Vec<Flow> = state.engine.catalog().list_flows().await?;
    let mut summary = FlowSummary {
        total_flows: flows.len(),
        enabled_flows: flows.iter().filter(|flow| flow.enabled).count(),
        unprotected_vms: state.engine.unprotected_vms(false).await?.len(),
        ..FlowSummary::default()
    };
    summary.disabled_flows = summary.total_flows - summary.enabled_flows;
    for flow in &flows {
        match state.engine.flow_status(&flow.id.to_string()).await?.last_run.map(|run| run.status) {
            None => {}
            Some(None) => summary.running += 1,
            Some(Some(RunStatus::Succeeded)) => summary.succeeded += 1,
            Some(Some(_)) => summary.troubled += 1,
        }
    }
    Ok(Json(summary))
}

/// What is done to each of several flows.
#[derive(Clone, Copy)]
enum Deed {
    Enable(bool),
    Remove,
    Execute,
}

async fn each(state: &AppState, actor: &Actor, flows: Vec<String>, deed: Deed) -> BulkOutcome {
    let mut outcome = BulkOutcome::default();
    for id in flows {
        let done = match deed {
            Deed::Enable(enabled) => {
                state.engine.set_flow_enabled(&actor.name, &id, enabled).await.map(|_| None)
            }
            Deed::Remove => state.engine.remove_flow(&actor.name, &id).await.map(|()| None),
            Deed::Execute => state
                .engine
                .execute_flow(&actor.name, &id, None)
                .await
                .map(|(_, job)| Some(job.id.to_string())),
        };
        match done {
            Ok(job) => {
                outcome.successful += 1;
                outcome.jobs.extend(job.map(|job| (id, job)));
            }
            Err(error) => {
                outcome.failed += 1;
                outcome.errors.insert(id, error.chain());
            }
        }
    }
    outcome
}

async fn bulk_enable(
    State(state): State<AppState>,
    actor: Actor,
    JsonBody(wire): JsonBody<BulkFlows>,
) -> Json<BulkOutcome> {
    Json(each(&state, &actor, wire.flow_ids, Deed::Enable(true)).await)
}

async fn bulk_disable(
    State(state): State<AppState>,
    actor: Actor,
    JsonBody(wire): JsonBody<BulkFlows>,
) -> Json<BulkOutcome> {
    Json(each(&state, &actor, wire.flow_ids, Deed::Enable(false)).await)
}

async fn bulk_delete(
    State(state): State<AppState>,
    actor: Actor,
    JsonBody(wire): JsonBody<BulkFlows>,
) -> Json<BulkOutcome> {
    Json(each(&state, &actor, wire.flow_ids, Deed::Remove).await)
}

async fn bulk_execute(
    State(state): State<AppState>,
    actor: Actor,
    JsonBody(wire): JsonBody<BulkFlows>,
) -> Json<BulkOutcome> {
    Json(each(&state, &actor, wire.flow_ids, Deed::Execute).await)
}

async fn unprotected(
    State(state): State<AppState>,
    Query(query): Query<UnprotectedQuery>,
) -> Answer<Json<UnprotectedList>> {
    Ok(Json(UnprotectedList::from(state.engine.unprotected_vms(query.refresh).await?)))
}
