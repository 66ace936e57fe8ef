//! Whom a backup job is about: the VM, its connection and the repository, as the catalog knows them.

use std::sync::Arc;

use serde_json::Value;
use tidemark_catalog::{Connector as ConnectorRecord, Job, Repository, Vm};
use tidemark_plugins::{Connector, VirtualMachine};

use crate::engine::Shared;
use crate::error::{Error, Result};
use crate::inventory;
use crate::requests::BackupPayload;
use crate::slots::Lane;
use crate::step::PluginPin;

pub(super) struct Subject {
    pub(super) vm: Vm,
    pub(super) connector: ConnectorRecord,
    pub(super) repository: Repository,
    pub(super) requested: tidemark_model::RequestedType,
    /// Disks that are left out, by key or label.
    pub(super) exclude_disks: Vec<String>,
}

impl Subject {
    /// What bounds the disks that are moved at once, beside the host.
    pub(super) fn lanes(&self) -> [Lane; 2] {
        [self.connector.id.into(), self.repository.id.into()]
    }

    pub(super) async fn load(shared: &Arc<Shared>, payload: &BackupPayload) -> Result<Self> {
        let vm_id = payload.vm_id.parse().map_err(|e| Error::damaged(format!("{e}")))?;
        let repository_id = payload.repository_id.parse().map_err(|e| Error::damaged(format!("{e}")))?;
        let vm = shared.catalog.vm(vm_id).await?;
        let connector_id = vm.connector_id.ok_or_else(|| {
            Error::invalid(format!("VM '{}' belongs to no connector; add it again by its connector", vm.name))
        })?;
        Ok(Self {
            connector: shared.catalog.connector(connector_id).await?,
            repository: shared.catalog.repository(repository_id).await?,
            requested: payload.requested.parse().map_err(|e| Error::damaged(format!("{e}")))?,
            exclude_disks: payload.exclude_disks.clone(),
            vm,
        })
    }

    pub(super) async fn open_connector(
        &self,
        shared: &Arc<Shared>,
        job: &Job,
    ) -> Result<(Connector, PluginPin)> {
        shared.open_connector(&self.connector, Some(job.id), None).await
    }

    /// Whether snapshots are to be quiesced: the connection's setting `quiesce`, on where it is not set.
    pub(super) fn quiesce(&self) -> bool {
        let settings: Value = serde_json::from_str(&self.connector.settings_json).unwrap_or_default();
        settings.get("quiesce").and_then(Value::as_bool).unwrap_or(true)
    }

    /// Keeps name and inventory as the hypervisor shows them now.
    pub(super) async fn update_inventory(&mut self, shared: &Shared, seen: &VirtualMachine) -> Result<()> {
        let inventory = inventory::to_json(seen);
        if inventory != self.vm.inventory_json || seen.name != self.vm.name {
            shared.catalog.update_vm_inventory(self.vm.id, &seen.name, &inventory).await?;
            self.vm.inventory_json = inventory;
            self.vm.name.clone_from(&seen.name);
        }
        Ok(())
    }
}
