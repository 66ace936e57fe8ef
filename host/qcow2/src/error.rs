//! The crate's one error: a kind to match on, the context in words, and the I/O error below it, if any.

use std::fmt;
use std::io;

/// What went wrong, as far as a caller has to tell it apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The caller asked for something that cannot be: an offset off the grid, a bad name, a wrong order.
    Invalid,
    /// A well-formed image with a feature that this crate refuses.
    Unsupported,
    /// The image contradicts itself or the format.
    Corrupt,
    /// The source could not be read; trying again may help.
    Io,
}

impl ErrorKind {
    /// Whether the same call may succeed later.
    #[must_use]
    pub fn is_retryable(self) -> bool {
        self == Self::Io
    }
}

/// An image could not be written, opened or read.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    context: String,
    source: Option<io::Error>,
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
        Self { kind: ErrorKind::Invalid, context: context.into(), source: None }
    }

    pub(crate) fn unsupported(context: impl Into<String>) -> Self {
        Self { kind: ErrorKind::Unsupported, context: context.into(), source: None }
    }

    pub(crate) fn corrupt(context: impl Into<String>) -> Self {
        Self { kind: ErrorKind::Corrupt, context: context.into(), source: None }
    }

    /// A source that ends too early is a damaged image, not a passing fault.
    pub(crate) fn io(context: impl Into<String>, source: io::Error) -> Self {
        let kind =
            if source.kind() == io::ErrorKind::UnexpectedEof { ErrorKind::Corrupt } else { ErrorKind::Io };
        Self { kind, context: context.into(), source: Some(source) }
    }

    /// The same error, told from further out.
    pub(crate) fn within(mut self, outer: impl fmt::Display) -> Self {
        self.context = format!("{outer}: {}", self.context);
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.context)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|source| source as _)
    }
}
