//! What the host keeps for one session: who the guest is, what it may do, and what it has used up.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use crate::audit::{AuditEvent, AuditSink};
use crate::bindings::host::tidemark::plugin::types;
use crate::conduct::{ConductEvent, ConductSink};
use crate::error::{Error, ErrorKind};
use crate::grants::{Denied, Rights};
use crate::http::{Conversation, HttpClient};
use crate::limits::Limits;
use crate::manifest::PluginKind;
use crate::offered::disk::ReadOnlyDisk;
use crate::offered::log::LogAllowance;
use crate::offered::wasi::LanguageWasi;
use crate::runtime::TICK;
use crate::secrets::Secrets;

/// The store's data.
pub(crate) struct State {
    pub(crate) kind: PluginKind,
    pub(crate) plugin: String,
    pub(crate) version: String,
    pub(crate) label: String,
    pub(crate) limits: Arc<Limits>,
    pub(crate) secrets: Secrets,
    pub(crate) rights: Rights,
    pub(crate) audit: Option<AuditSink>,
    pub(crate) conduct: Option<ConductSink>,
    pub(crate) http: HttpClient,
    /// What is recorded of its requests, or given in place of them.
    pub(crate) conversation: Option<Conversation>,
    pub(crate) disks: Vec<Arc<dyn ReadOnlyDisk>>,
    pub(crate) log: LogAllowance,
    /// What the guest's language needs, once it asks for it. Never locked: it only lets the state be shared.
    pub(crate) wasi: Mutex<Option<Box<LanguageWasi>>>,
    pub(crate) started: Instant,
    /// When the running call has to end.
    pub(crate) deadline: Instant,
    /// Ticks in which the guest computed since it last asked the host for something.
    pub(crate) busy_ticks: u32,
    pub(crate) memory_bytes: usize,
    pub(crate) host_calls_left: u32,
    /// Why the host itself stopped the guest.
    pub(crate) stopped: Option<(ErrorKind, String)>,
}

impl State {
    /// Notes why the guest is stopped; the returned error unwinds it.
    pub(crate) fn stop(&mut self, kind: ErrorKind, message: String) -> wasmtime::Error {
        let error = wasmtime::Error::msg(message.clone());
        self.stopped.get_or_insert((kind, message));
        error
    }

    /// Whether the guest has to stop now; called at each tick in which it computes, never while it waits for the host.
    pub(crate) fn is_overdue(&mut self) -> bool {
        self.busy_ticks += 1;
        let computed = TICK * self.busy_ticks;
        if computed > self.limits.run_timeout && computed < self.limits.call_timeout {
            let message =
                format!("it computed for {} ms without asking the host for anything", computed.as_millis());
            self.stopped.get_or_insert((ErrorKind::Timeout, message));
        }
        self.stopped.is_some() || Instant::now() >= self.deadline
    }

    /// Pays for a call of the host.
    pub(crate) fn spend(&mut self, cost: u32) -> wasmtime::Result<()> {
        self.busy_ticks = 0;
        match self.host_calls_left.checked_sub(cost) {
            Some(left) => {
                self.host_calls_left = left;
                Ok(())
            }
            None => {
                let message =
                    format!("it asked more of the host in one call than {}", self.limits.host_calls);
                Err(self.stop(ErrorKind::Limit, message))
            }
        }
    }

    /// Tells how the session went.
    pub(crate) fn tell(&self, fault: Option<Error>) {
        if let Some(conduct) = &self.conduct {
            let (plugin, version, label) = (self.plugin.clone(), self.version.clone(), self.label.clone());
            conduct.send(ConductEvent { plugin, version, label, fault });
        }
    }

    /// Reports a refusal and gives the guest's side of it.
    pub(crate) fn refuse(&self, denied: Denied) -> types::Error {
        let message = denied.to_string();
        if let Some(audit) = &self.audit {
            audit.send(AuditEvent {
                plugin: self.plugin.clone(),
                version: self.version.clone(),
                label: self.label.clone(),
                capability: denied.capability.to_owned(),
                target: denied.target,
                reason: denied.reason,
            });
        }
        guest_error(types::ErrorKind::Other("denied".to_owned()), message)
    }
}

/// An error for the guest.
pub(crate) fn guest_error(kind: types::ErrorKind, message: impl Into<String>) -> types::Error {
    types::Error { kind, message: message.into(), retry_after_ms: None, detail: None }
}
