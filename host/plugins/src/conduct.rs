//! How sessions of a plugin went: told once, when a session is over, to whoever keeps count of it.
//!
//! Bad conduct is what the plugin alone is to blame for: it crashed, computed without end, wanted more than its limits
//! or answered what cannot be. Waiting too long for somebody else is none, nor is an error that it reports itself.

use std::fmt;
use std::sync::Arc;

use crate::error::Error;

/// A session that is over.
#[derive(Debug, Clone)]
pub struct ConductEvent {
    /// The plugin's name.
    pub plugin: String,
    /// Its version.
    pub version: String,
    /// For whom it worked: the session's label.
    pub label: String,
    /// What it did wrong; none where it worked well.
    pub fault: Option<Error>,
}

/// Takes the events of sessions. Those that did no more than start are not told.
#[derive(Clone)]
pub struct ConductSink(Arc<dyn Fn(ConductEvent) + Send + Sync>);

impl ConductSink {
    /// Calls a function, which must not block.
    pub fn new(take: impl Fn(ConductEvent) + Send + Sync + 'static) -> Self {
        Self(Arc::new(take))
    }

    pub(crate) fn send(&self, event: ConductEvent) {
        (self.0)(event);
    }
}

impl fmt::Debug for ConductSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ConductSink")
    }
}
