//! Discovering virtual machines and putting them under protection, and asking for their backups.

use serde_json::json;
use tidemark_catalog::{Connector as ConnectorRecord, Job, SeenVm, Vm};
use tidemark_model::{BackupId, ConnectorId, JobKind};
use tidemark_plugins::{
    Connector, Error as PluginError, ErrorKind as PluginErrorKind, Finding, Product, Severity, VirtualMachine,
};

use crate::engine::{Engine, Shared};
use crate::error::{Error, ErrorKind, Result};
use crate::requests::{Asked, BackupPayload, BackupRequest, BackupView, SubmittedBackup};
use crate::{backup, inventory, plugins, throttle};

/// What a test of a connection found.
#[derive(Debug, Clone)]
pub struct TestedConnector {
    /// What the connection leads to; none where the plugin does not say.
    pub product: Option<Product>,
    /// What was found.
    pub findings: Vec<Finding>,
}

async fn tested(connector: &mut Connector) -> std::result::Result<TestedConnector, PluginError> {
    let mut findings = connector.check().await?;
    // It only says what is there: whatever keeps it from that says nothing of backups.
    let product = connector.identify().await.unwrap_or_else(|error| {
        if *error.kind() != PluginErrorKind::Unsupported {
            let (severity, code) = (Severity::Warning, "product-unknown".to_owned());
            findings.push(Finding { severity, code, message: error.to_string() });
        }
        None
    });
    Ok(TestedConnector { product, findings })
}

impl Engine {
    /// Logs in and reports what is there and what stands in the way of backups.
    ///
    /// # Errors
    /// Not found; whatever the hypervisor or the plugin answers.
    pub async fn test_connector(&self, name_or_id: &str) -> Result<TestedConnector> {
        let record = self.connector(name_or_id).await?;
        let (mut connector, _) = self.shared.open_connector(&record, None, None).await?;
        let tested = tested(&mut connector).await;
        plugins::log_out(connector).await;
        tested.map_err(|error| {
            let error = Error::from(error);
            if error.kind() != ErrorKind::Auth {
                return error;
            }
            error.context(format!(
                "connector '{}' cannot log in; check its user name and password, and that the account is neither \
                 locked nor expired",
                record.name
            ))
        })
    }

    /// Every virtual machine that the connection shows.
    ///
    /// # Errors
    /// Not found; whatever the hypervisor or the plugin answers.
    pub async fn discover(&self, name_or_id: &str) -> Result<Vec<VirtualMachine>> {
        let record = self.connector(name_or_id).await?;
        self.shared.look_around(&record).await
    }

    /// Puts virtual machines under protection, by name or key. All of them or none.
    ///
    /// # Errors
    /// Not found where the hypervisor does not show one; conflict where a name is ambiguous.
    pub async fn add_vms(&self, actor: &str, connector: &str, names: &[String]) -> Result<Vec<Vm>> {
        let record = self.connector(connector).await?;
        let found = self.shared.look_around(&record).await?;
        let mut wanted = Vec::new();
        for name in names {
            let matching: Vec<_> = found.iter().filter(|vm| vm.key == *name || vm.name == *name).collect();
            match matching.as_slice() {
                [vm] => wanted.push(*vm),
                [] => {
                    return Err(Error::not_found(&format!("VM on connector '{}' named", record.name), name));
                }
                _ => {
                    let keys: Vec<_> = matching.iter().map(|vm| vm.key.as_str()).collect();
                    let message =
                        format!("several VMs are named '{name}'; use one of the keys {}", keys.join(", "));
                    return Err(Error::new(ErrorKind::Conflict, message));
                }
            }
        }
        let mut added = Vec::new();
        for vm in wanted {
            added.push(self.shared.protect(record.id, &vm.key, &vm.name, &inventory::to_json(vm)).await?);
            self.shared
                .audit(actor, "vm.add", &vm.name, json!({ "connector": record.name, "key": vm.key }))
                .await;
        }
        Ok(added)
    }

    /// Ends a VM's protection. Its backups must be gone before.
    ///
    /// # Errors
    /// Not found; conflict while it has backups.
    pub async fn remove_vm(&self, actor: &str, name_or_id: &str) -> Result<()> {
        let vm = self.vm(name_or_id).await?;
        self.shared.refuse_while_used(&vm.id.to_string(), &format!("VM '{}'", vm.name)).await?;
        self.catalog().remove_vm(vm.id).await?;
        self.shared.audit(actor, "vm.remove", &vm.name, json!({})).await;
        Ok(())
    }

    /// Queues a backup. Two backups of one VM never run at the same time.
    ///
    /// # Errors
    /// Not found for an unknown VM or repository; invalid for a VM without a connector.
    pub async fn submit_backup(&self, actor: &str, request: BackupRequest) -> Result<SubmittedBackup> {
        self.shared.submit_backup(actor, request).await
    }

    /// What is known of a backup's id: the backup, or the job that was to make it.
    ///
    /// # Errors
    /// Not found.
    pub async fn backup_status(&self, id: BackupId) -> Result<BackupView> {
        match self.catalog().backup(id).await {
            Ok(backup) => return Ok(BackupView::Stored(Box::new(backup))),
            Err(error) if error.kind() == tidemark_catalog::ErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
        let unknown = || Error::not_found("backup", &id.to_string());
        let job_id = id.to_string().parse().map_err(|_| unknown())?;
        let job: Job = self.catalog().job(job_id).await.map_err(|_| unknown())?;
        if job.kind != JobKind::Backup {
            return Err(unknown());
        }
        let payload: BackupPayload = serde_json::from_str(&job.payload_json)
            .map_err(|e| Error::damaged(format!("a job's payload: {e}")))?;
        let vm = self.vm(&payload.vm_id).await?;
        Ok(BackupView::Pending { job: Box::new(job), vm: Box::new(vm) })
    }

    pub(crate) async fn vm(&self, name_or_id: &str) -> Result<Vm> {
        let found = self.catalog().vm_by_name_or_id(name_or_id).await?;
        found.ok_or_else(|| Error::not_found("VM", name_or_id))
    }
}

impl Shared {
    /// Every virtual machine that a connection shows now; what it showed is kept for reports.
    pub(crate) async fn look_around(&self, record: &ConnectorRecord) -> Result<Vec<VirtualMachine>> {
        let (mut connector, _) = self.open_connector(record, None, None).await?;
        let found = connector.list_all_vms().await;
        plugins::log_out(connector).await;
        let found = found?;
        let seen_at = self.clock.now();
        let seen: Vec<SeenVm> = found
            .iter()
            .map(|vm| SeenVm {
                connector_id: record.id,
                vm_key: vm.key.clone(),
                name: vm.name.clone(),
                inventory_json: inventory::to_json(vm),
                seen_at,
            })
            .collect();
        self.catalog.set_seen_vms(record.id, &seen).await?;
        Ok(found)
    }

    /// Puts a VM that a connector shows under protection, or brings what is known of it up to date. One that is known
    /// from an imported repository only, with the same key and name, goes on under its old id, so that its chain goes on.
    pub(crate) async fn protect(
        &self,
        connector: ConnectorId,
        key: &str,
        name: &str,
        inventory_json: &str,
    ) -> Result<Vm> {
        if self.catalog.vm_of_connector(connector, key).await?.is_none()
            && let Some(orphan) = self.catalog.orphaned_vm(key, name).await?
        {
            self.catalog.attach_vm(orphan.id, connector).await?;
        }
        let now = self.clock.now();
        Ok(self.catalog.upsert_vm(connector, key, name, inventory_json, now).await?)
    }

    /// Queues a backup; see [`Engine::submit_backup`].
    pub(crate) async fn submit_backup(&self, actor: &str, request: BackupRequest) -> Result<SubmittedBackup> {
        let BackupRequest {
            vm,
            repository,
            requested,
            bandwidth,
            exclude_disks,
            then_synthetic,
            priority,
            idempotency_key,
        } = request;
        let bandwidth = throttle::checked(bandwidth.unwrap_or_default())?;
        let found = self.catalog.vm_by_name_or_id(&vm).await?;
        let vm = found.ok_or_else(|| Error::not_found("VM", &vm))?;
        let found = self.catalog.repository_by_name_or_id(&repository).await?;
        let repository = found.ok_or_else(|| Error::not_found("repository", &repository))?;
        if vm.connector_id.is_none() {
            let message = format!(
                "VM '{}' is known only from an imported repository; add it by its connector",
                vm.name
            );
            return Err(Error::invalid(message));
        }
        let payload = BackupPayload {
            vm_id: vm.id.to_string(),
            vm_name: vm.name.clone(),
            repository_id: repository.id.to_string(),
            requested: requested.as_str().to_owned(),
            bandwidth_bytes_per_second: bandwidth.map(|rate| rate.0),
            exclude_disks,
            then_synthetic,
        };
        let exclusive = Some(format!("vm:{}", vm.id));
        let asked = Asked { actor, priority, idempotency_key };
        let job = self.submit_as(&asked, JobKind::Backup, &payload, exclusive).await?;
        let detail = json!({ "vm": vm.name, "repository": repository.name, "type": requested.as_str() });
        self.audit(actor, "backup.run", &job.id.to_string(), detail).await;
        Ok(SubmittedBackup { backup_id: backup::backup_id(&job)?, job, vm })
    }
}
