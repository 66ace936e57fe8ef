//! Backups: starting, listing, showing, chains, change ids, deleting. Lists hold durable backups; one that is still
//! being made or that failed answers under its id, from its job.

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use schemars::JsonSchema;
use serde::Deserialize;
use tidemark_catalog::{BackupFilter, Catalog, PageRequest, Repository, Vm};
use tidemark_engine::{BackupRequest, BackupView};
use tidemark_model::{BackupId, BackupStatus, ByteLen, RequestedType};

use super::accepted;
use crate::auth::Actor;
use crate::extract::{IdempotencyKey, Json as JsonBody, KeptJson, Path, Query, parse_id};
use crate::paging::page;
use crate::problem::{Answer, Problem};
use crate::routing::{Routes, admin, operator, viewer};
use crate::state::AppState;
use crate::wire::{
    BackupChain, BackupDetail, BackupList, BackupSummary, ChangeIdAnswer, DeleteBackups, StartBackup,
    StartedBackup, StartedDeletion,
};

pub(super) fn add(routes: Routes) -> Routes {
    routes
        .post(
            "/api/v1/backups",
            operator("startBackup", "Starts a backup of one VM")
                .body::<StartBackup>()
                .answers::<StartedBackup>(202)
                .idempotent(),
            start,
        )
        .get(
            "/api/v1/backups",
            viewer("listBackups", "Durable backups, newest first")
                .query::<BackupQuery>()
                .answers::<BackupList>(200),
            list,
        )
        .get("/api/v1/backups/{id}", viewer("showBackup", "One backup").answers::<BackupDetail>(200), show)
        .get(
            "/api/v1/backups/chain/{vm_name}",
            viewer("showChain", "A VM's newest full and its incrementals in order")
                .query::<ChainQuery>()
                .answers::<BackupChain>(200),
            chain,
        )
        .get(
            "/api/v1/backups/changeid",
            viewer("showChangeId", "From where a disk's next incremental counts")
                .query::<ChangeIdQuery>()
                .answers::<ChangeIdAnswer>(200),
            change_id,
        )
        .delete(
            "/api/v1/backups/{id}",
            // Whoever may run jobs should not be able to destroy what they made.
            admin("deleteBackup", "Deletes a backup; what newer ones need of it is merged into them first")
                .answers::<StartedDeletion>(202)
                .idempotent(),
            delete,
        )
        .post(
            "/api/v1/backups/actions/delete",
            admin("deleteBackups", "Deletes backups anywhere in their chains, one job a VM and repository")
                .body::<DeleteBackups>()
                .answers::<StartedDeletion>(202)
                .idempotent(),
            delete_all,
        )
}

#[derive(Debug, Deserialize, JsonSchema)]
struct BackupQuery {
    /// Only of this VM (name or id).
    vm_name: Option<String>,
    /// Only in this repository (name or id).
    repository_id: Option<String>,
    /// `completed` or `damaged`.
    status: Option<String>,
    /// At most so many items (1 to 1000, 100 by default).
    limit: Option<u32>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

#[derive(Debug, Deserialize, JsonSchema)]
struct ChainQuery {
    /// Only in this repository (name or id).
    repository_id: Option<String>,
}

#[derive(Debug, Deserialize, JsonSchema)]
struct ChangeIdQuery {
    /// The VM's name or id.
    vm_name: String,
    /// The disk's key in the hypervisor, or its index. The first disk where not given.
    disk_id: Option<String>,
    /// Only in this repository (name or id).
    repository_id: Option<String>,
}

pub(super) async fn vm_of(catalog: &Catalog, name_or_id: &str) -> Answer<Vm> {
    let found = catalog.vm_by_name_or_id(name_or_id).await?;
    found.ok_or_else(|| Problem::not_found(format!("there is no VM '{name_or_id}'")))
}

pub(super) async fn repository_of(catalog: &Catalog, name_or_id: &str) -> Answer<Repository> {
    let found = catalog.repository_by_name_or_id(name_or_id).await?;
    found.ok_or_else(|| Problem::not_found(format!("there is no repository '{name_or_id}'")))
}

async fn start(
    State(state): State<AppState>,
    actor: Actor,
    key: IdempotencyKey,
    KeptJson(wire, warnings): KeptJson<StartBackup>,
) -> Answer<Response> {
    let StartBackup { vm_name, repository_id, backup_type, bandwidth_bytes_per_second } = wire;
    let request = BackupRequest {
        exclude_disks: Vec::new(),
        then_synthetic: false,
        priority: 0,
        vm: vm_name,
        repository: repository_id,
        requested: RequestedType::from(backup_type),
        bandwidth: bandwidth_bytes_per_second.map(ByteLen),
        idempotency_key: key.scoped(&actor.name, "backup"),
    };
    let submitted = state.engine.submit_backup(&actor.name, request).await?;
    accepted(submitted.job.id, &StartedBackup::new(&submitted, backup_type, warnings))
}

async fn list(State(state): State<AppState>, Query(query): Query<BackupQuery>) -> Answer<Json<BackupList>> {
    let BackupQuery { vm_name, repository_id, status, limit, cursor } = query;
    let catalog = state.engine.catalog();
    let request = page(limit, cursor)?;
    let vm_id = match vm_name {
        Some(name) => Some(vm_of(catalog, &name).await?.id),
        None => None,
    };
    let repository_id = match repository_id {
        Some(name) => Some(repository_of(catalog, &name).await?.id),
        None => None,
    };
    let status = status.map(|word| parse_id::<BackupStatus>("status", &word)).transpose()?;
    let found = catalog.list_backups(&BackupFilter { vm_id, repository_id, status }, &request).await?;
    Ok(Json(BackupList {
        backups: found.items.iter().map(BackupSummary::from).collect(),
        next_cursor: found.next,
    }))
}

async fn show(State(state): State<AppState>, Path(id): Path<String>) -> Answer<Json<BackupDetail>> {
    let id: BackupId = parse_id("id", &id)?;
    let detail = match state.engine.backup_status(id).await? {
        BackupView::Stored(backup) => {
            let repository = state.engine.catalog().repository(backup.repository_id).await?;
            BackupDetail::stored(&backup, Some(&repository))
        }
        BackupView::Pending { job, vm } => BackupDetail::pending(id, &job, &vm),
    };
    Ok(Json(detail))
}

async fn chain(
    State(state): State<AppState>,
    Path(vm_name): Path<String>,
    Query(ChainQuery { repository_id }): Query<ChainQuery>,
) -> Answer<Json<BackupChain>> {
    let catalog = state.engine.catalog();
    let vm = vm_of(catalog, &vm_name).await?;
    let repository_id = match repository_id {
        Some(name) => Some(repository_of(catalog, &name).await?.id),
        None => None,
    };
    let backups = catalog.chain(vm.id, repository_id).await?;
    Ok(Json(BackupChain {
        vm_name: vm.name,
        vm_id: vm.id.to_string(),
        full_backup_id: backups.first().map(|full| full.id.to_string()),
        chain_length: backups.len(),
        backups: backups.iter().map(BackupSummary::from).collect(),
    }))
}

async fn change_id(
    State(state): State<AppState>,
    Query(query): Query<ChangeIdQuery>,
) -> Answer<Json<ChangeIdAnswer>> {
    let ChangeIdQuery { vm_name, disk_id, repository_id } = query;
    let catalog = state.engine.catalog();
    let vm = vm_of(catalog, &vm_name).await?;
    let repository_id = match repository_id {
        Some(name) => Some(repository_of(catalog, &name).await?.id),
        None => None,
    };
    let filter = BackupFilter { vm_id: Some(vm.id), repository_id, status: Some(BackupStatus::Completed) };
    let found = catalog.list_backups(&filter, &PageRequest { limit: 1, cursor: None }).await?;
    let Some(newest) = found.items.into_iter().next() else {
        return Err(Problem::not_found(format!("VM '{}' has no good backup", vm.name)));
    };
    let wanted = |disk: &&tidemark_catalog::BackupDisk| match &disk_id {
        Some(text) => disk.disk_key.0 == *text || disk.disk_index.to_string() == *text,
        None => true,
    };
    let Some(disk) = newest.disks.iter().find(wanted) else {
        let text = disk_id.unwrap_or_default();
        return Err(Problem::not_found(format!("the newest backup of '{}' has no disk '{text}'", vm.name)));
    };
    Ok(Json(ChangeIdAnswer {
        vm_name: vm.name,
        disk_id: disk.disk_key.to_string(),
        disk_index: disk.disk_index,
        change_id: disk.change_id.as_ref().map(ToString::to_string),
        backup_id: newest.id.to_string(),
    }))
}

async fn delete(
    State(state): State<AppState>,
    actor: Actor,
    key: IdempotencyKey,
    Path(id): Path<String>,
) -> Answer<Response> {
    submit_delete(&state, &actor, key, &[parse_id("id", &id)?]).await
}

async fn delete_all(
    State(state): State<AppState>,
    actor: Actor,
    key: IdempotencyKey,
    JsonBody(DeleteBackups { backup_ids }): JsonBody<DeleteBackups>,
) -> Answer<Response> {
    let ids = backup_ids.iter().map(|id| parse_id::<BackupId>("backup_ids", id));
    submit_delete(&state, &actor, key, &ids.collect::<Answer<Vec<_>>>()?).await
}

async fn submit_delete(
    state: &AppState,
    actor: &Actor,
    key: IdempotencyKey,
    ids: &[BackupId],
) -> Answer<Response> {
    let jobs = state.engine.submit_delete(&actor.name, ids, key.scoped(&actor.name, "delete")).await?;
    let first = jobs.first().ok_or_else(|| Problem::internal("a deletion without a job"))?;
    accepted(first.id, &StartedDeletion::new(first, &jobs))
}
