//! Keeps count of jobs in which a plugin misbehaved. Two in a row, on whichever hosts, and the version is in quarantine:
//! no new job uses it until an administrator releases it. Jobs that run keep it, as all that they began belongs to it.
//!
//! A job that went well in between ends the row. A session outside of jobs (looking around for an administrator or a
//! flow, a policy that is asked) ends only a row of such sessions: a connector that lists its VMs well may still crash in
//! every backup.

use serde_json::json;
use tidemark_catalog::{AuditEntry, Catalog};
use tidemark_model::UtcMillis;
use tidemark_plugins::{ConductEvent, ConductSink};
use tokio::sync::mpsc;

use crate::error::Error;

/// Sessions that may wait to be counted.
const QUEUE: usize = 4096;

/// A sink whose events are counted in the catalog by a task, which ends with the last clone of the sink.
pub(super) fn watch(catalog: Catalog, audit: mpsc::Sender<AuditEntry>) -> ConductSink {
    let (sender, mut events) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        while let Some(event) = events.recv().await {
            count(&catalog, &audit, event).await;
        }
    });
    ConductSink::new(move |event| {
        if sender.try_send(event).is_err() {
            tracing::warn!("too many plugin sessions end at once; how one of them went is not counted");
        }
    })
}

async fn count(catalog: &Catalog, audit: &mpsc::Sender<AuditEntry>, event: ConductEvent) {
    let ConductEvent { plugin, version, label, fault } = event;
    let job = Some(label.as_str()).filter(|label| !label.is_empty());
    let Some(fault) = fault else {
        // Sessions that end with the host, such as those of mounts, need no praise.
        if let Err(error) = catalog.absolve_plugin(&plugin, &version, job).await
            && !catalog.is_closed()
        {
            tracing::warn!(plugin, version, error = %Error::from(error).chain(), "a good session is not counted");
        }
        return;
    };
    let reason = fault.to_string();
    tracing::warn!(plugin, version, job = label, reason, "a plugin misbehaved");
    match catalog.strike_plugin(&plugin, &version, job, &reason).await {
        Ok((_, true)) => {
            tracing::error!(plugin, version, reason, "the plugin version is in quarantine from now on");
            let entry = AuditEntry {
                at: UtcMillis::now(),
                actor: "host".to_owned(),
                action: "plugin.quarantine".to_owned(),
                target: plugin,
                outcome: "ok".to_owned(),
                detail_json: json!({ "version": version, "reason": reason, "job_id": label }).to_string(),
            };
            if audit.try_send(entry).is_err() {
                tracing::error!("the audit queue is full; a quarantine is not in it");
            }
        }
        Ok(_) => {}
        // Whoever misbehaves before it is installed (its self-check fails) has no row.
        Err(error) if error.kind() == tidemark_catalog::ErrorKind::NotFound => {}
        Err(error) => {
            tracing::warn!(plugin, version, error = %Error::from(error).chain(), "a strike is not counted");
        }
    }
}
