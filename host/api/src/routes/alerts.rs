//! The part of `/metrics` that people alert on: how old each VM's last good and last verified backup is, whom nobody
//! protects, what fails and why, how full repositories are and when they will be, and how flows end.

use std::collections::BTreeMap;

use tidemark_catalog::{PageRequest, RunStatus};
use tidemark_model::UtcMillis;

use crate::metrics::Exposition;
use crate::problem::Answer;
use crate::state::AppState;

const DAY_MS: i64 = 86_400_000;
/// Failures are counted over so long.
const FAILURES_MS: i64 = DAY_MS;
/// What a repository takes a day is the mean over so long.
const GROWTH_DAYS: i64 = 7;

/// All of it.
pub(super) async fn render(state: &AppState, out: &mut Exposition) -> Answer<()> {
    let now = state.engine.now();
    ages(state, out, now).await?;
    failures(state, out).await?;
    repositories(state, out, now).await?;
    flows(state, out).await
}

async fn ages(state: &AppState, out: &mut Exposition, now: UtcMillis) -> Answer<()> {
    let standings = state.engine.catalog().vm_standings().await?;
    let families = [
        (
            "tidemark_last_good_backup_age_seconds",
            "Age of a VM's newest backup that is not damaged; none without one.",
        ),
        (
            "tidemark_last_verified_backup_age_seconds",
            "Age of a VM's newest verified backup; none without one.",
        ),
    ];
    for (place, (name, help)) in families.into_iter().enumerate() {
        out.family(name, "gauge", help);
        for vm in &standings {
            let at = if place == 0 { vm.last_good } else { vm.last_verified };
            let Some(at) = at else { continue };
            let id = vm.vm_id.to_string();
            out.sample(name, &[("vm", vm.name.as_str()), ("vm_id", &id)], (now.0 - at.0).max(0) / 1000);
        }
    }
    let without = standings.iter().filter(|vm| vm.last_good.is_none()).count();
    out.family("tidemark_vms_without_good_backup", "gauge", "VMs under protection that have no good backup.");
    out.sample("tidemark_vms_without_good_backup", &[], without);
    let unprotected = state.engine.catalog().unprotected_vms().await?.len();
    out.family(
        "tidemark_unprotected_vms",
        "gauge",
        "VMs that connectors showed when they were last asked and that no enabled flow protects.",
    );
    out.sample("tidemark_unprotected_vms", &[], unprotected);
    Ok(())
}

async fn failures(state: &AppState, out: &mut Exposition) -> Answer<()> {
    let since = UtcMillis::now().plus_millis(-FAILURES_MS);
    let name = "tidemark_failed_jobs_last_day";
    out.family(name, "gauge", "Jobs that failed in the last 24 hours, by kind and reason.");
    for (kind, reason, count) in state.engine.catalog().failures_since(since).await? {
        out.sample(name, &[("kind", &kind), ("reason", &reason)], count);
    }
    Ok(())
}

async fn repositories(state: &AppState, out: &mut Exposition, now: UtcMillis) -> Answer<()> {
    let catalog = state.engine.catalog();
    let mut rows = Vec::new();
    for repository in catalog.list_repositories().await? {
        let space = state.engine.repository_space(&repository).await?;
        let grown = catalog.stored_since(repository.id, now.plus_millis(-GROWTH_DAYS * DAY_MS)).await?;
        rows.push((repository.name, space, grown.0 / GROWTH_DAYS.unsigned_abs()));
    }
    out.family(
        "tidemark_repository_objects_bytes",
        "gauge",
        "What the catalog says a repository's objects weigh.",
    );
    for (name, space, _) in &rows {
        out.sample("tidemark_repository_objects_bytes", &[("repository", name)], space.objects.0);
    }
    out.family(
        "tidemark_repository_free_bytes",
        "gauge",
        "What may still be stored in a repository's file system.",
    );
    for (name, space, _) in &rows {
        if let Some(system) = &space.file_system {
            out.sample("tidemark_repository_free_bytes", &[("repository", name)], system.free.0);
        }
    }
    out.family(
        "tidemark_repository_days_until_full",
        "gauge",
        "Free space over what backups stored a day in the last week; none where nothing was stored.",
    );
    for (name, space, daily) in &rows {
        if let (Some(system), true) = (&space.file_system, *daily > 0) {
            let days = system.free.0 / daily;
            out.sample("tidemark_repository_days_until_full", &[("repository", name)], days);
        }
    }
    Ok(())
}

async fn flows(state: &AppState, out: &mut Exposition) -> Answer<()> {
    let catalog = state.engine.catalog();
    let mut last = BTreeMap::new();
    let mut counts = Vec::new();
    for flow in catalog.list_flows().await? {
        // Of those that have ended the newest: one under way must not make an alert flap.
        let runs = catalog.list_flow_runs(flow.id, &PageRequest { limit: 10, cursor: None }).await?;
        if let Some(status) = runs.items.iter().find_map(|run| run.status) {
            last.insert(flow.name.clone(), status);
        }
        for (status, runs) in catalog.count_flow_runs(flow.id).await? {
            counts.push((flow.name.clone(), status.map_or("running", RunStatus::as_str), runs));
        }
    }
    out.family("tidemark_flow_runs", "gauge", "Runs of a flow by how they ended.");
    for (flow, status, runs) in &counts {
        out.sample("tidemark_flow_runs", &[("flow", flow), ("status", status)], runs);
    }
    out.family(
        "tidemark_flow_last_run_ok",
        "gauge",
        "1 where a flow's newest finished run succeeded, else 0.",
    );
    for (flow, status) in &last {
        let ok = u8::from(*status == RunStatus::Succeeded);
        out.sample("tidemark_flow_last_run_ok", &[("flow", flow)], ok);
    }
    Ok(())
}
