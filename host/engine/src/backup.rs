//! A backup from its beginning to its end. Read [`Attempt::carry_out`] for the story; each step is recorded before
//! its effect ([`crate::step`]), and whatever fails is undone by [`crate::recovery`].
//!
//! ```text
//! pin plugins ▶ wait for a slot ▶ preflight ▶ snapshot ▶ plan ▶ open the disks ▶ audit the plan ▶ move all disks
//!           ▶ publish objects and manifest
//!           ▶ ONE catalog transaction: backup, disks, change ids ▶ remove the snapshot
//! ```

mod audit;
mod disks;
mod plan;
mod schedule;
mod subject;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde_json::{Value, json};
use tidemark_catalog::{Backup, BackupDisk};
use tidemark_model::{BackupId, BackupStatus, BackupType, ByteLen, UtcMillis};
use tidemark_plugins::{Connector, Severity, Snapshot};

use crate::error::{Error, ErrorKind, Result};
use crate::plugins::{self, Patience};
use crate::queue::{Failure, JobContext};
use crate::recovery;
use crate::requests::BackupPayload;
use crate::slots::Slot;
use crate::step::{Leftovers, ObjectRef, Step};
use crate::store::{ObjectStore, SealedObject};
use crate::throttle::Bucket;
use crate::{layout, manifest, synthesize};

use disks::{MovedDisks, OpenDisk};
use plan::Chosen;
use subject::Subject;

/// How often the snapshot's removal is tried before it is left to the next run.
const REMOVE_ATTEMPTS: u32 = 3;

/// The backup's id is its job's: known from the submission on, and one backup a job.
pub(crate) fn backup_id(job: &tidemark_catalog::Job) -> Result<BackupId> {
    job.id.to_string().parse().map_err(|e| Error::internal(format!("{e}")))
}

/// Runs a backup job.
pub(crate) async fn run(job: &Arc<JobContext>) -> std::result::Result<Value, Failure> {
    let payload: BackupPayload = job.payload()?;
    let subject = Subject::load(&job.shared, &payload).await?;
    let bandwidth = payload.bandwidth_bytes_per_second.map(|bytes| Bucket::of(Some(ByteLen(bytes))));
    let mut attempt = Attempt::open(job, subject, bandwidth).await?;
    match attempt.carry_out().await {
        Ok(backup) => {
            let Attempt { connector, warnings, audited, .. } = attempt;
            plugins::log_out(connector).await;
            synthesize::after_backup(&job.shared, &backup, payload.then_synthetic).await;
            Ok(result_json(&backup, &warnings, audited))
        }
        Err(error) => Err(attempt.give_up(error).await),
    }
}

/// One try at a backup: what it talks to and what it has left behind so far.
struct Attempt<'a> {
    job: &'a Arc<JobContext>,
    id: BackupId,
    subject: Subject,
    connector: Connector,
    store: ObjectStore,
    left: Leftovers,
    warnings: Vec<String>,
    /// What the audit of change tracking compared.
    audited: Option<Value>,
    started_at: UtcMillis,
    /// Of the first disk that is moved; taken before the snapshot.
    slot: Option<Slot>,
    /// What this job alone is bounded by.
    bandwidth: Option<Arc<Bucket>>,
}

impl<'a> Attempt<'a> {
    async fn open(
        job: &'a Arc<JobContext>,
        subject: Subject,
        bandwidth: Option<Arc<Bucket>>,
    ) -> Result<Self> {
        let (connector, connector_pin) = subject.open_connector(&job.shared, &job.job).await?;
        let (store, storage_pin) =
            ObjectStore::open(&job.shared, &subject.repository, &job.job, None).await?;
        let mut attempt = Self {
            job,
            id: backup_id(&job.job)?,
            subject,
            connector,
            store,
            left: Leftovers::default(),
            warnings: Vec::new(),
            audited: None,
            started_at: job.shared.clock.now(),
            slot: None,
            bandwidth,
        };
        attempt.record(Step::Pinned { connector: connector_pin, storage: storage_pin }).await?;
        Ok(attempt)
    }

    async fn carry_out(&mut self) -> Result<Backup> {
        self.wait_for_slot().await?;
        self.preflight().await?;
        let (snapshot, snapshot_at) = self.take_snapshot().await?;
        self.job.phase("planning");
        let chosen = plan::choose(self, &snapshot).await?;
        self.record(chosen.step()).await?;
        let open = disks::open_all(self, &snapshot, &chosen).await?;
        let (leases, moving) =
            (open.leases, self.audit_and_move(&snapshot, chosen, open.disks, snapshot_at).await);
        disks::close_all(self, &leases).await;
        let (chosen, moved) = moving?;
        self.confirm_snapshot(&snapshot).await?;
        self.job.phase("publishing");
        let backup = self.publish(&chosen, moved, snapshot_at).await?;
        self.commit(&backup).await?;
        self.job.phase("removing the snapshot");
        self.remove_snapshot(&snapshot).await;
        Ok(backup)
    }

    /// Moves the disks as planned, or as a full where the audit finds that the plan rests on a wrong map.
    async fn audit_and_move(
        &mut self,
        snapshot: &Snapshot,
        mut chosen: Chosen,
        disks: Vec<OpenDisk>,
        snapshot_at: UtcMillis,
    ) -> Result<(Chosen, MovedDisks)> {
        if let Some(reason) = audit::audit(self, &chosen, &disks).await? {
            chosen = chosen.into_full(reason);
            self.record(chosen.step()).await?;
        }
        let moved = disks::move_all(self, snapshot, &chosen, disks, snapshot_at).await?;
        Ok((chosen, moved))
    }

    async fn record(&mut self, step: Step) -> Result<()> {
        self.job.check_cancelled()?;
        self.job.shared.record(&self.job.lease, &step).await?;
        self.left.add(step);
        Ok(())
    }

    /// A snapshot costs the guest as long as it stands: one that nobody reads yet is not taken. Before preflight, so
    /// that what that finds is of now, and no session with the hypervisor is open for nothing.
    async fn wait_for_slot(&mut self) -> Result<()> {
        self.job.phase("waiting for a slot");
        let slots = &self.job.shared.disk_slots;
        let Subject { connector, repository, .. } = &self.subject;
        slots.bound(connector.id.into(), connector.max_disks);
        slots.bound(repository.id.into(), repository.max_disks);
        tokio::select! {
            slot = slots.queue(self.subject.lanes()) => self.slot = Some(slot),
            () = self.job.cancel.cancelled() => return Err(Error::cancelled()),
        }
        Ok(())
    }

    /// Sees that the VM can be backed up, clears what an earlier run left on it, and turns change tracking on.
    async fn preflight(&mut self) -> Result<()> {
        self.job.phase("preflight");
        let vm_key = self.subject.vm.key.clone();
        let report = self.connector.preflight(&vm_key).await?;
        let blockers: Vec<_> =
            report.findings.iter().filter(|finding| finding.severity == Severity::Blocker).collect();
        if let Some(reason) = report.vm.not_protected.as_deref() {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!("VM '{}' cannot be protected: {reason}", report.vm.name),
            ));
        }
        if !blockers.is_empty() {
            // Missing rights are the account's matter; everything else is the VM's or the connection's.
            let rights = blockers.iter().any(|finding| finding.code == "missing-privilege");
            let kind = if rights { ErrorKind::Auth } else { ErrorKind::Invalid };
            let reasons: Vec<_> = blockers.iter().map(|finding| finding.message.as_str()).collect();
            return Err(Error::new(kind, format!("VM '{}': {}", report.vm.name, reasons.join("; "))));
        }
        let unprotected = report.vm.disks.iter().filter_map(|disk| {
            disk.not_protected
                .as_ref()
                .map(|why| format!("disk {} ({}) is not protected: {why}", disk.key, disk.label))
        });
        self.warnings.extend(unprotected);
        let swept =
            recovery::remove_stale_snapshots(&mut self.connector, &vm_key, &self.job.shared.installation)
                .await?;
        if swept > 0 {
            self.warnings.push(format!("{swept} snapshot(s) that an earlier run had left were removed"));
        }
        self.subject.update_inventory(&self.job.shared, &report.vm).await?;
        let enable = !report.vm.change_tracking && (report.can_enable_change_tracking || swept > 0);
        if enable {
            self.enable_change_tracking(&vm_key).await?;
        }
        let warned = report.findings.into_iter().filter(|finding| {
            // What is mended by now is no warning; an unprotected disk has been named already.
            let told =
                finding.code == "disk-not-protected" || (enable && finding.code == "change-tracking-off");
            finding.severity == Severity::Warning && !told
        });
        self.warnings.extend(warned.map(|finding| finding.message));
        Ok(())
    }

    async fn enable_change_tracking(&mut self, vm_key: &str) -> Result<()> {
        self.job.phase("enabling change tracking");
        let patience = Patience::new();
        while let Err(error) = self.connector.enable_change_tracking(vm_key).await {
            patience.wait(error, &self.job.cancel).await?;
        }
        tracing::info!("changed block tracking was off and is enabled now");
        Ok(())
    }

    async fn take_snapshot(&mut self) -> Result<(Snapshot, UtcMillis)> {
        self.job.phase("taking the snapshot");
        let vm_key = self.subject.vm.key.clone();
        let idempotency_key = recovery::snapshot_key(&self.job.shared.installation, self.id);
        let requested =
            Step::SnapshotRequested { vm_key: vm_key.clone(), idempotency_key: idempotency_key.clone() };
        self.record(requested).await?;
        let at = self.job.shared.clock.now();
        let patience = Patience::new();
        let mut snapshot = loop {
            match self.connector.create_snapshot(&vm_key, &idempotency_key, self.subject.quiesce()).await {
                Ok(snapshot) => break snapshot,
                Err(error) => patience.wait(error, &self.job.cancel).await?,
            }
        };
        self.record(Step::SnapshotTaken { vm_key, token: snapshot.token.clone() }).await?;
        self.warnings.extend(snapshot.warnings.iter().cloned());
        self.leave_out(&mut snapshot);
        if snapshot.disks.is_empty() {
            return Err(Error::invalid(format!(
                "VM '{}' has no disk that can be protected",
                self.subject.vm.name
            )));
        }
        Ok((snapshot, at))
    }

    /// Disks that the flow's policy leaves out, by key or label.
    fn leave_out(&mut self, snapshot: &mut Snapshot) {
        let excluded = &self.subject.exclude_disks;
        let warnings = &mut self.warnings;
        snapshot.disks.retain(|disk| {
            let out = excluded.iter().any(|name| *name == disk.key.0 || *name == disk.label);
            if out {
                warnings.push(format!("disk {} ({}) is left out, as the policy says", disk.key, disk.label));
            }
            !out
        });
    }

    /// What was read is of one moment only if the snapshot stood until the end.
    async fn confirm_snapshot(&mut self, snapshot: &Snapshot) -> Result<()> {
        self.job.check_cancelled()?;
        let own = plugins::list_own_snapshots(&mut self.connector, &self.subject.vm.key).await?;
        if own.iter().any(|standing| standing.token == snapshot.token) {
            return Ok(());
        }
        let message =
            "the snapshot was removed by somebody else while its disks were read; run the backup again";
        Err(Error::new(ErrorKind::Conflict, message))
    }

    /// Gives the objects their names: disks first, then the manifest that describes them.
    async fn publish(
        &mut self,
        chosen: &Chosen,
        moved: MovedDisks,
        snapshot_at: UtcMillis,
    ) -> Result<Backup> {
        let manifest_key = chosen.folder.manifest_key(snapshot_at, self.id);
        let manifest_token = self.store.begin(&manifest_key, 0).await?.token().to_owned();
        let mut objects: Vec<ObjectRef> = moved.objects.iter().map(SealedObject::reference).collect();
        objects.push(ObjectRef { key: manifest_key.clone(), token: manifest_token });
        self.record(Step::Publishing { objects }).await?;
        for sealed in moved.objects {
            self.store.publish(sealed).await?;
        }
        let mut disks = moved.disks;
        disks.sort_by_key(|disk| disk.disk_index);
        let backup = self.describe(chosen, snapshot_at, manifest_key.clone(), disks);
        let bytes = manifest::write(&self.subject.vm, &backup)?;
        self.store.put(&manifest_key, bytes.into()).await?;
        Ok(backup)
    }

    fn describe(
        &self,
        chosen: &Chosen,
        snapshot_at: UtcMillis,
        manifest_key: String,
        disks: Vec<BackupDisk>,
    ) -> Backup {
        let pins = self.left.pins.iter().flat_map(|(connector, storage)| [connector, storage]);
        let plugins: Value =
            pins.map(|pin| (pin.name.clone(), json!(pin.version))).collect::<serde_json::Map<_, _>>().into();
        Backup {
            id: self.id,
            vm_id: self.subject.vm.id,
            vm_name: self.subject.vm.name.clone(),
            repository_id: self.subject.repository.id,
            backup_type: chosen.backup_type(),
            parent_id: chosen.parent_id(),
            status: BackupStatus::Completed,
            reason_code: chosen.reason_code.clone(),
            reason: chosen.reason.clone(),
            started_at: self.started_at,
            snapshot_at,
            completed_at: self.job.shared.clock.now(),
            manifest_key,
            pinned: false,
            plugins_json: plugins.to_string(),
            warnings_json: json!(self.warnings).to_string(),
            job_id: Some(self.job.job.id),
            verified_at: None,
            verified_level: None,
            consolidated_at: None,
            copy_of: None,
            staged_manifest_key: None,
            disks,
        }
    }

    /// The only place where a backup and its change ids become known: one transaction, after all bytes are durable.
    async fn commit(&mut self, backup: &Backup) -> Result<()> {
        self.record(Step::Committing { backup_id: self.id.to_string() }).await?;
        self.job.shared.catalog.commit_backup(&self.job.lease, backup).await.map_err(Error::from)
    }

    /// The backup stands already: a snapshot that cannot be removed is a warning, and the next run tries again.
    async fn remove_snapshot(&mut self, snapshot: &Snapshot) {
        let vm_key = self.subject.vm.key.clone();
        let step = Step::SnapshotRemoving { vm_key: vm_key.clone(), token: snapshot.token.clone() };
        if let Err(error) = self.job.shared.record(&self.job.lease, &step).await {
            tracing::warn!(error = %error.chain(), "recording the snapshot's removal failed");
        }
        for attempt in 1..=REMOVE_ATTEMPTS {
            match plugins::remove_snapshot(&mut self.connector, &vm_key, &snapshot.token).await {
                Ok(()) => return,
                Err(error) if attempt == REMOVE_ATTEMPTS => {
                    let error = error.chain();
                    tracing::warn!(error, "the snapshot could not be removed");
                    self.warnings
                        .push(format!("the snapshot could not be removed and is tried again later: {error}"));
                }
                Err(_) => tokio::time::sleep(std::time::Duration::from_secs(u64::from(attempt))).await,
            }
        }
    }

    /// Undoes what was begun, unless that is for somebody else to do.
    async fn give_up(self, error: Error) -> Failure {
        let Attempt { job, connector, left, slot, .. } = self;
        drop(slot);
        plugins::log_out(connector).await;
        let committing = error.kind() == ErrorKind::Unavailable && left.committing;
        if error.kind() == ErrorKind::LeaseLost || job.lease_lost.load(Ordering::Relaxed) || committing {
            // Another host has the job, or the commit's outcome is unknown: only a new lease makes it safe to look.
            return Failure { error, clean: false };
        }
        job.phase("cleaning up");
        let undone = recovery::undo_backup(&job.shared, &job.job, &left).await;
        match undone {
            Ok(()) => Failure { error, clean: true },
            Err(trouble) => {
                tracing::warn!(error = %trouble.chain(), "cleaning up after the job failed");
                recovery::record_failure(&job.shared, &job.lease, &error).await;
                Failure { error, clean: false }
            }
        }
    }
}

fn result_json(backup: &Backup, warnings: &[String], audited: Option<Value>) -> Value {
    json!({
        "backup_id": backup.id.to_string(),
        "backup_type": backup.backup_type.as_str(),
        "reason_code": backup.reason_code,
        "reason": backup.reason,
        "warnings": warnings,
        "audit": audited,
    })
}

/// The folder of a VM's backups in the repository: the parent's where there is one, so that a renamed VM's chain
/// stays together.
#[derive(Debug, Clone)]
pub(crate) struct VmFolder(String);

impl VmFolder {
    fn manifest_key(&self, at: UtcMillis, id: BackupId) -> String {
        layout::manifest_key(&self.0, at, id)
    }

    fn disk_key(&self, disk_index: u32, at: UtcMillis, id: BackupId, backup_type: BackupType) -> String {
        layout::disk_key(&self.0, disk_index, at, id, backup_type)
    }
}
