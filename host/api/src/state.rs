//! What every handler has at hand. Cloned per request; all parts are shared.

use std::sync::Arc;
use std::time::Duration;

use tidemark_engine::Engine;
use tokio::sync::watch;

use crate::metrics::HttpMetrics;

/// How long the server waits for its clients and for its own work.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timeouts {
    /// For a whole body to arrive.
    pub(crate) body: Duration,
    /// For a handler to answer; calls to a hypervisor are part of it.
    pub(crate) answer: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { body: Duration::from_secs(120), answer: Duration::from_secs(300) }
    }
}

/// The handles that handlers use.
#[derive(Clone)]
pub(crate) struct AppState {
    /// Does the work.
    pub(crate) engine: Engine,
    /// Counts requests.
    pub(crate) http: Arc<HttpMetrics>,
    /// The OpenAPI document.
    pub(crate) openapi: Arc<str>,
    /// Becomes true when the server stops; ends the event streams, which would otherwise never end.
    pub(crate) stopping: watch::Receiver<bool>,
    /// See [`Timeouts`].
    pub(crate) timeouts: Timeouts,
}
