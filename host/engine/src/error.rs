//! The engine's one error: a small kind that callers match on, one sentence of context, and the cause beneath it.

use std::error::Error as StdError;
use std::fmt;

/// What sort of failure this is; decides the HTTP status and whether a retry can help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The named thing does not exist.
    NotFound,
    /// The named thing is in use, exists already, or was changed by somebody else.
    Conflict,
    /// The request is wrong.
    Invalid,
    /// A plugin lacks a capability.
    Denied,
    /// The hypervisor or store refuses the credentials.
    Auth,
    /// The other side cannot be reached; a retry may help.
    Unavailable,
    /// Stored or received bytes are not what they should be.
    Damaged,
    /// No space is left on the repository or the target.
    NoSpace,
    /// Stopped on request.
    Cancelled,
    /// This host no longer holds the job.
    LeaseLost,
    /// A plugin broke a limit, trapped or answered nonsense.
    Plugin,
    /// Anything else.
    Internal,
}

impl ErrorKind {
    /// The stable word of logs, jobs and problem documents.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotFound => "not-found",
            Self::Conflict => "conflict",
            Self::Invalid => "invalid",
            Self::Denied => "denied",
            Self::Auth => "auth",
            Self::Unavailable => "unavailable",
            Self::Damaged => "damaged",
            Self::NoSpace => "no-space",
            Self::Cancelled => "cancelled",
            Self::LeaseLost => "lease-lost",
            Self::Plugin => "plugin",
            Self::Internal => "internal",
        }
    }
}

/// What went wrong in the engine.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    message: String,
    field: Option<String>,
    source: Option<Box<dyn StdError + Send + Sync>>,
    detail: Option<Box<serde_json::Value>>,
}

/// The engine's result.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), field: None, source: None, detail: None }
    }

    pub(crate) fn not_found(noun: &str, name: &str) -> Self {
        Self::new(ErrorKind::NotFound, format!("there is no {noun} '{name}'"))
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, message)
    }

    /// One value of the request is wrong; `field` is its path in the request's document.
    pub(crate) fn invalid_field(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { field: Some(field.into()), ..Self::invalid(message) }
    }

    /// Something that cannot be, which is our own mistake.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Internal, message)
    }

    pub(crate) fn damaged(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Damaged, message)
    }

    pub(crate) fn cancelled() -> Self {
        Self::new(ErrorKind::Cancelled, "cancelled on request")
    }

    /// An I/O failure at a named thing; a full disk gets a kind and a hint of its own.
    pub(crate) fn io(what: impl fmt::Display, error: std::io::Error) -> Self {
        let (kind, message) = match error.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                (ErrorKind::NoSpace, format!("{what}: no space is left; free some or choose another target"))
            }
            std::io::ErrorKind::NotFound => (ErrorKind::NotFound, what.to_string()),
            std::io::ErrorKind::AlreadyExists => (ErrorKind::Conflict, what.to_string()),
            _ => (ErrorKind::Internal, what.to_string()),
        };
        Self { kind, message, field: None, source: Some(Box::new(error)), detail: None }
    }

    /// A failure to read what is stored: damage, named by `damage`, or a repository that is away for a moment, named by
    /// what was being done.
    pub(crate) fn reading(damage: &str, doing: &str, error: std::io::Error) -> Self {
        if is_bad_medium(&error) {
            Self::damaged(format!("{damage}: {error}"))
        } else {
            Self::io(doing, error)
        }
    }

    /// The words of an error that is the stored bytes' fault; any other ends the job without a verdict.
    pub(crate) fn into_damage(self) -> Result<String> {
        match self.kind {
            ErrorKind::Damaged | ErrorKind::NotFound => Ok(self.chain()),
            _ => Err(self),
        }
    }

    /// Puts what was being done in front; the cause keeps its kind.
    #[must_use]
    pub(crate) fn context(self, what: impl fmt::Display) -> Self {
        let (kind, field) = (self.kind, self.field.clone());
        Self { kind, message: what.to_string(), field, source: Some(Box::new(self)), detail: None }
    }

    pub(crate) fn wrap(
        kind: ErrorKind,
        message: &str,
        source: impl StdError + Send + Sync + 'static,
    ) -> Self {
        Self { kind, message: message.to_owned(), field: None, source: Some(Box::new(source)), detail: None }
    }

    /// Adds what a program wants to know of the failure.
    #[must_use]
    pub(crate) fn with_detail(mut self, detail: serde_json::Value) -> Self {
        self.detail = Some(Box::new(detail));
        self
    }

    /// What a program wants to know of the failure, beside its words.
    #[must_use]
    pub fn detail(&self) -> Option<&serde_json::Value> {
        self.detail.as_deref()
    }

    /// The sort of failure.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The value of the request that is at fault, by its path (`settings.port`), where it is one.
    #[must_use]
    pub fn field(&self) -> Option<&str> {
        self.field.as_deref()
    }

    /// The whole chain of causes in one line.
    #[must_use]
    pub fn chain(&self) -> String {
        let mut text = self.message.clone();
        let mut cause = self.source();
        while let Some(error) = cause {
            let words = error.to_string();
            if !text.ends_with(&words) {
                text.push_str(": ");
                text.push_str(&words);
            }
            cause = error.source();
        }
        text
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|error| error as &(dyn StdError + 'static))
    }
}

/// Whether an error, or what caused it, says that the stored bytes themselves cannot be had.
pub(crate) fn is_bad_medium(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            let lost = io.kind() == std::io::ErrorKind::UnexpectedEof;
            return lost || io.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error());
        }
        cause = error.source();
    }
    false
}
