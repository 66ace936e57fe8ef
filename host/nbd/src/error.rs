//! The crate's one error: a kind that says whether a retry helps, the server and export it happened at, what was
//! being done, and the cause.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

use crate::codec::Errno;

/// What went wrong, so far as a caller may decide on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The text is no NBD URI, or one that asks for something this client does not do.
    InvalidUri,
    /// The caller asked for what cannot be: beyond the end, unaligned, larger than the largest request.
    InvalidRequest,
    /// The server could not be reached, or not after all attempts to reconnect.
    Unreachable,
    /// The connection ended in the middle.
    Disconnected,
    /// No answer within the time given.
    Timeout,
    /// TLS could not be set up: a certificate, a key, a pin, or the two sides' wishes do not match.
    Tls,
    /// The server does not know the export, or no longer does.
    ExportGone,
    /// After a reconnect the export is another one: its size, flags or contexts differ.
    Changed,
    /// The server refused by its own policy.
    Refused,
    /// The server, the export or this client lacks what was asked for.
    Unsupported,
    /// The peer broke the protocol; nothing more it says can be believed.
    Protocol,
    /// The server carried the request out and answered with this error.
    Remote(Errno),
    /// The client or server was closed by its owner.
    Closed,
    /// The operating system refused a local step, such as listening.
    Io,
}

impl ErrorKind {
    /// Whether the same request may succeed later without anyone changing anything.
    #[must_use]
    pub fn is_retryable(self) -> bool {
        match self {
            Self::Unreachable | Self::Disconnected | Self::Timeout => true,
            Self::Remote(errno) => matches!(errno, Errno::SHUTDOWN | Errno::NO_MEMORY),
            Self::InvalidUri
            | Self::InvalidRequest
            | Self::Tls
            | Self::ExportGone
            | Self::Changed
            | Self::Refused
            | Self::Unsupported
            | Self::Protocol
            | Self::Closed
            | Self::Io => false,
        }
    }
}

/// An error of the NBD client or server.
#[derive(Clone)]
pub struct Error(Arc<Inner>);

#[derive(Clone)]
struct Inner {
    kind: ErrorKind,
    place: Option<String>,
    context: String,
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

/// The crate's result.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(crate) fn new(kind: ErrorKind, context: impl Into<String>) -> Self {
        Self(Arc::new(Inner { kind, place: None, context: context.into(), source: None }))
    }

    pub(crate) fn caused(
        kind: ErrorKind,
        context: impl Into<String>,
        source: impl StdError + Send + Sync + 'static,
    ) -> Self {
        let source: Arc<dyn StdError + Send + Sync> = Arc::new(source);
        Self(Arc::new(Inner { kind, place: None, context: context.into(), source: Some(source) }))
    }

    /// Names the server and export, once: the innermost place is the right one.
    pub(crate) fn at(mut self, place: impl fmt::Display) -> Self {
        if self.0.place.is_none() {
            Arc::make_mut(&mut self.0).place = Some(place.to_string());
        }
        self
    }

    /// Puts the operation before the context, as in `read of 512 bytes at guest offset 0: …`.
    pub(crate) fn during(mut self, operation: impl fmt::Display) -> Self {
        let inner = Arc::make_mut(&mut self.0);
        inner.context = format!("{operation}: {}", inner.context);
        self
    }

    /// What went wrong.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Whether the same request may succeed later; see [`ErrorKind::is_retryable`].
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        self.0.kind.is_retryable()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.0.place {
            write!(f, "{place}: ")?;
        }
        f.write_str(&self.0.context)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self}", self.0.kind)?;
        match &self.0.source {
            Some(source) => write!(f, " ({source})"),
            None => Ok(()),
        }
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_is_set_once_and_the_source_is_not_repeated() {
        let cause = std::io::Error::other("broken pipe");
        let error = Error::caused(ErrorKind::Disconnected, "the connection ended", cause)
            .during("read of 512 bytes at guest offset 0")
            .at("nbd://a/x")
            .at("nbd://b/y");
        assert_eq!(error.to_string(), "nbd://a/x: read of 512 bytes at guest offset 0: the connection ended");
        assert_eq!(error.source().unwrap().to_string(), "broken pipe");
        assert!(error.is_retryable());
    }
}
