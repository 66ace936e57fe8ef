//! The catalog's one error: a kind to match on, the operation in words, and the cause.

use std::error::Error as StdError;
use std::fmt;

use sqlx::error::ErrorKind as Violation;

/// What sort of failure it is; a caller decides by this alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The named thing does not exist.
    NotFound,
    /// The named thing exists already, is in use, or is in another state than the operation needs.
    Conflict,
    /// The lease under which the effect was asked for is no longer the job's: stop, another host has it.
    LeaseLost,
    /// The database cannot be reached or is busy; a retry may help.
    Unavailable,
    /// The database holds something that cannot be right.
    Corrupt,
    /// The request itself cannot be right.
    Invalid,
}

/// The result of every catalog operation.
pub type Result<T> = std::result::Result<T, Error>;

/// A failed catalog operation.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    context: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, context: impl Into<String>) -> Self {
        Self { kind, context: context.into(), source: None }
    }

    pub(crate) fn with_source(
        kind: ErrorKind,
        context: impl Into<String>,
        source: impl StdError + Send + Sync + 'static,
    ) -> Self {
        Self { kind, context: context.into(), source: Some(Box::new(source)) }
    }

    pub(crate) fn not_found(noun: &str, which: impl fmt::Display) -> Self {
        Self::new(ErrorKind::NotFound, format!("there is no {noun} '{which}'"))
    }

    pub(crate) fn conflict(context: impl Into<String>) -> Self {
        Self::new(ErrorKind::Conflict, context)
    }

    pub(crate) fn invalid(context: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, context)
    }

    /// Sorts a driver's error; `context` says what was being done.
    pub(crate) fn from_sqlx(context: impl Into<String>, source: sqlx::Error) -> Self {
        let kind = match &source {
            sqlx::Error::Database(database) => database_kind(database.as_ref()),
            sqlx::Error::RowNotFound => ErrorKind::NotFound,
            sqlx::Error::Configuration(_) => ErrorKind::Invalid,
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed => ErrorKind::Unavailable,
            _ => ErrorKind::Corrupt,
        };
        Self::with_source(kind, context, source)
    }

    /// What sort of failure it is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Whether the same call may succeed a little later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        self.kind == ErrorKind::Unavailable
    }

    /// The same error in these words where it is of this kind: what a constraint means, its operation knows.
    pub(crate) fn meaning(mut self, kind: ErrorKind, words: impl Into<String>) -> Self {
        if self.kind == kind {
            self.context = words.into();
        }
        self
    }
}

/// SQLite's primary result codes are the low byte of the extended code; PostgreSQL's are SQLSTATE texts, whose
/// five characters no SQLite code has.
fn database_kind(error: &dyn sqlx::error::DatabaseError) -> ErrorKind {
    match error.kind() {
        Violation::UniqueViolation | Violation::ForeignKeyViolation | Violation::ExclusionViolation => {
            return ErrorKind::Conflict;
        }
        Violation::NotNullViolation | Violation::CheckViolation => return ErrorKind::Invalid,
        _ => {}
    }
    let code = error.code().unwrap_or_default();
    if code.len() == 5 {
        return match &code[..2] {
            // Data that the columns cannot hold, for example a NUL inside a text.
            "22" => ErrorKind::Invalid,
            "XX" | "42" => ErrorKind::Corrupt,
            // Lost connections, deadlocks, resources, shutdown.
            _ => ErrorKind::Unavailable,
        };
    }
    const SQLITE_ERROR: u32 = 1;
    const SQLITE_CORRUPT: u32 = 11;
    const SQLITE_NOTADB: u32 = 26;
    match code.parse::<u32>().map(|code| code & 0xff) {
        Ok(SQLITE_ERROR | SQLITE_CORRUPT | SQLITE_NOTADB) => ErrorKind::Corrupt,
        _ => ErrorKind::Unavailable,
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.context)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_ref().map(|source| &**source as &(dyn StdError + 'static))
    }
}
