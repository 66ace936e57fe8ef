//! The crate's one error: a kind to match on and the context in words.

use std::fmt;

/// What went wrong, as far as a caller has to tell it apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The caller asked for something that cannot be: an offset off the grid, a wrong order, a bad name.
    Invalid,
    /// The disk or its data is larger than the format can address.
    TooLarge,
}

impl ErrorKind {
    /// Whether the same call may succeed later. Never: nothing here depends on the outside.
    #[must_use]
    pub fn is_retryable(self) -> bool {
        false
    }
}

/// A VMDK could not be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    kind: ErrorKind,
    context: String,
}

/// The crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// What went wrong.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    pub(crate) fn invalid(context: impl Into<String>) -> Self {
        Self { kind: ErrorKind::Invalid, context: context.into() }
    }

    pub(crate) fn too_large(context: impl Into<String>) -> Self {
        Self { kind: ErrorKind::TooLarge, context: context.into() }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.context)
    }
}

impl std::error::Error for Error {}
