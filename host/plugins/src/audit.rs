//! Where refusals are reported. The host writes them down; a full queue is said in the log rather than waited for,
//! as a guest must not be able to stop the host by being refused often.

use std::fmt;
use std::sync::Arc;

use tokio::sync::mpsc;

/// A capability that was asked for and refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditEvent {
    /// The plugin's name.
    pub plugin: String,
    /// Its version.
    pub version: String,
    /// For whom it worked: the session's label.
    pub label: String,
    /// `http`, `nbd`, `path`, `vddk` or `secret`.
    pub capability: String,
    /// To what.
    pub target: String,
    /// Why it was refused.
    pub reason: String,
}

/// Takes the events of a session.
#[derive(Clone)]
pub struct AuditSink(Arc<dyn Fn(AuditEvent) + Send + Sync>);

impl AuditSink {
    /// Calls a function, which must not block.
    pub fn new(take: impl Fn(AuditEvent) + Send + Sync + 'static) -> Self {
        Self(Arc::new(take))
    }

    pub(crate) fn send(&self, event: AuditEvent) {
        tracing::info!(
            plugin = %event.plugin, version = %event.version, job = %event.label, capability = %event.capability,
            target = %event.target, "denied: {}", event.reason
        );
        (self.0)(event);
    }
}

impl From<mpsc::Sender<AuditEvent>> for AuditSink {
    fn from(sender: mpsc::Sender<AuditEvent>) -> Self {
        Self::new(move |event| {
            if sender.try_send(event).is_err() {
                tracing::warn!("the audit queue is full or closed; a refusal is only in this log");
            }
        })
    }
}

impl fmt::Debug for AuditSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AuditSink")
    }
}
