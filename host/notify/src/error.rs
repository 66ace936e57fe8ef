//! The crate's one error: a kind that says whether a retry helps, whom it was about and what was being done, how long
//! the other side asked to wait, and the cause.
//!
//! No error shows a secret: neither a signing key, a password or a header's value, nor the path of an address, which
//! for many receivers is the key to it.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::time::Duration;

/// What went wrong, so far as a caller may decide on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The settings or the message cannot be right; the words say what to do about it.
    Invalid,
    /// The other side could not be reached, or the connection ended in the middle.
    Unreachable,
    /// No answer within the time given.
    Timeout,
    /// The other side asks for a pause: HTTP 425 and 429.
    Throttled,
    /// The other side has trouble of its own: HTTP 5xx, an SMTP reply 4yz.
    Unavailable,
    /// The other side does not believe or admit us: HTTP 401, 403 and 407, a failed SMTP login.
    Refused,
    /// The other side will not take this, now or later: the other HTTP statuses, an SMTP reply 5yz.
    Rejected,
    /// TLS could not be set up: the certificate is not trusted, or the two sides find no common ground.
    Tls,
    /// What answered does not speak the protocol.
    Protocol,
    /// A signature that does not fit its message, or is too old.
    Signature,
    /// The caller gave up between two attempts.
    Cancelled,
}

impl ErrorKind {
    /// Whether the same call may succeed later without anyone changing anything.
    #[must_use]
    pub fn is_retryable(self) -> bool {
        match self {
            Self::Unreachable | Self::Timeout | Self::Throttled | Self::Unavailable => true,
            Self::Invalid
            | Self::Refused
            | Self::Rejected
            | Self::Tls
            | Self::Protocol
            | Self::Signature
            | Self::Cancelled => false,
        }
    }

    /// Sorts an error of a socket, with or without TLS over it.
    pub(crate) fn of_io(error: &io::Error) -> Self {
        if error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>()) {
            return Self::Tls;
        }
        match error.kind() {
            // A socket's own timeout is told as the former on Unix.
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Self::Timeout,
            io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput => Self::Protocol,
            _ => Self::Unreachable,
        }
    }
}

/// A message that was not delivered, or could not be.
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    context: String,
    retry_after: Option<Duration>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// The crate's result.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(crate) fn new(kind: ErrorKind, context: impl Into<String>) -> Self {
        Self(Box::new(Inner { kind, context: context.into(), retry_after: None, source: None }))
    }

    pub(crate) fn invalid(context: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, context)
    }

    pub(crate) fn caused(
        kind: ErrorKind,
        context: impl Into<String>,
        source: impl StdError + Send + Sync + 'static,
    ) -> Self {
        let mut error = Self::new(kind, context);
        error.0.source = Some(Box::new(source));
        error
    }

    pub(crate) fn asking_for(mut self, pause: Option<Duration>) -> Self {
        self.0.retry_after = pause;
        self
    }

    /// Puts what was being done before the context, as in `POST to https://a: HTTP 500`.
    pub(crate) fn during(mut self, operation: impl fmt::Display) -> Self {
        self.0.context = format!("{operation}: {}", self.0.context);
        self
    }

    /// What went wrong.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Whether the same call may succeed later; see [`ErrorKind::is_retryable`].
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        self.0.kind.is_retryable()
    }

    /// How long the other side asked to wait before the next attempt (`Retry-After`), an hour at most.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
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
    fn the_source_is_not_repeated() {
        let cause = io::Error::new(io::ErrorKind::ConnectionReset, "reset by peer");
        let kind = ErrorKind::of_io(&cause);
        let error = Error::caused(kind, "the connection ended", cause).during("POST to http://a");
        assert_eq!(error.to_string(), "POST to http://a: the connection ended");
        assert_eq!(error.source().unwrap().to_string(), "reset by peer");
        assert_eq!(
            format!("{error:?}"),
            "Unreachable: POST to http://a: the connection ended (reset by peer)"
        );
        assert!(error.is_retryable());
    }

    #[test]
    fn a_certificate_is_no_matter_of_patience() {
        let refused = rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
        let error = io::Error::new(io::ErrorKind::InvalidData, refused);
        assert_eq!(ErrorKind::of_io(&error), ErrorKind::Tls);
        assert!(!ErrorKind::Tls.is_retryable());
        assert_eq!(ErrorKind::of_io(&io::ErrorKind::WouldBlock.into()), ErrorKind::Timeout);
    }
}
