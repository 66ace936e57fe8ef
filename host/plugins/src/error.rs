//! What can go wrong with a plugin: one error, whose kind says what to do about it.
//!
//! Every error names the plugin, its version and the call, because the person who reads it has to know whom to ask.

use std::fmt;
use std::time::Duration;

use tidemark_model::DiskKey;

/// The sort of an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ErrorKind {
    /// The connection's settings are wrong.
    Config,
    /// The credentials or their rights are not sufficient.
    Auth,
    /// The named thing does not exist.
    NotFound,
    /// The named thing is busy or was changed by somebody else.
    Conflict,
    /// The other side cannot do this at all.
    Unsupported,
    /// Too many requests.
    Throttled,
    /// The other side cannot be reached or failed.
    Unavailable,
    /// The call was given up, by the host or by the other side.
    Cancelled,
    /// The other side answered something that cannot be right.
    Corrupt,
    /// Change tracking cannot answer: only a full backup is right.
    ChangeTrackingReset {
        /// A stable code, for example `file-fault`.
        code: String,
        /// The disk; empty where the plugin did not name one.
        disk: DiskKey,
    },
    /// Not in the manifest, not granted, or the grant does not cover the target.
    Denied,
    /// A limit of the sandbox was met.
    Limit,
    /// The call did not end in time.
    Timeout,
    /// The guest crashed.
    Trap,
    /// The guest returned something that cannot be.
    Invalid,
    /// The component cannot be loaded: damaged, of another contract, or with imports outside its world.
    Load,
    /// The plugin could not be built from its source.
    Build,
    /// Any other sort, in the plugin's own word.
    Other(String),
}

/// An error of one plugin in one call.
#[derive(Clone)]
pub struct Error(Box<Inner>);

#[derive(Debug, Clone)]
struct Inner {
    kind: ErrorKind,
    plugin: String,
    version: String,
    operation: String,
    message: String,
    retry_after: Option<Duration>,
}

impl Error {
    /// An error outside any call, for example while a component is loaded.
    pub(crate) fn new(kind: ErrorKind, operation: &str, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            kind,
            plugin: String::new(),
            version: String::new(),
            operation: operation.to_owned(),
            message: message.into(),
            retry_after: None,
        }))
    }

    /// The same error with the plugin that is to blame.
    pub(crate) fn of(mut self, plugin: &str, version: &str) -> Self {
        plugin.clone_into(&mut self.0.plugin);
        version.clone_into(&mut self.0.version);
        self
    }

    /// The same error with the plugin's own wish of when to come back.
    pub(crate) fn after(mut self, retry_after: Option<Duration>) -> Self {
        self.0.retry_after = retry_after;
        self
    }

    /// What sort of error it is.
    #[must_use]
    pub fn kind(&self) -> &ErrorKind {
        &self.0.kind
    }

    /// The plugin's name; empty where it could not be read.
    #[must_use]
    pub fn plugin(&self) -> &str {
        &self.0.plugin
    }

    /// The plugin's version; empty where it could not be read.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.0.version
    }

    /// The call, for example `list-vms`.
    #[must_use]
    pub fn operation(&self) -> &str {
        &self.0.operation
    }

    /// What happened, without plugin and operation.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// How long the other side wants to be left alone.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// Whether the same call may succeed later, in a fresh session, with nobody changing anything.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(
            self.0.kind,
            ErrorKind::Throttled | ErrorKind::Unavailable | ErrorKind::Conflict | ErrorKind::Timeout
        )
    }

    /// Whether the plugin itself misbehaved, which counts towards its quarantine.
    #[must_use]
    pub fn is_misbehaviour(&self) -> bool {
        matches!(self.0.kind, ErrorKind::Limit | ErrorKind::Timeout | ErrorKind::Trap | ErrorKind::Invalid)
    }
}

impl ErrorKind {
    /// The stable word that logs, the catalog and the API carry.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Config => "config",
            Self::Auth => "auth",
            Self::NotFound => "not-found",
            Self::Conflict => "conflict",
            Self::Unsupported => "unsupported",
            Self::Throttled => "throttled",
            Self::Unavailable => "unavailable",
            Self::Cancelled => "cancelled",
            Self::Corrupt => "corrupt",
            Self::ChangeTrackingReset { .. } => "change-tracking-reset",
            Self::Denied => "denied",
            Self::Limit => "limit",
            Self::Timeout => "timeout",
            Self::Trap => "trap",
            Self::Invalid => "invalid",
            Self::Load => "load",
            Self::Build => "build",
            Self::Other(word) => word,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.0.plugin.is_empty() {
            write!(f, "plugin {} {}: ", self.0.plugin, self.0.version)?;
        }
        write!(f, "{}: {} ({})", self.0.operation, self.0.message, self.0.kind.as_str())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl std::error::Error for Error {}
