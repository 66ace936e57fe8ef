//! Errors as the contract knows them, and the words to make one in a line.

use crate::bindings::tidemark::plugin::types;

pub use types::{Error, ErrorKind};

/// What a call into the host or into a plugin answers.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of any kind.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), retry_after_ms: None, detail: None }
    }

    /// The settings are wrong; a retry cannot help.
    pub fn config(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Config, message)
    }

    /// The credentials or their rights are not sufficient.
    pub fn auth(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Auth, message)
    }

    /// The named thing does not exist.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::NotFound, message)
    }

    /// The named thing is busy or was changed by somebody else.
    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Conflict, message)
    }

    /// The other side cannot do this at all.
    pub fn unsupported(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unsupported, message)
    }

    /// Too many requests; the host waits `retry_after_ms` milliseconds before it tries again.
    pub fn throttled(message: impl Into<String>, retry_after_ms: u64) -> Self {
        Self { retry_after_ms: Some(retry_after_ms), ..Self::new(ErrorKind::Throttled, message) }
    }

    /// The other side cannot be reached or failed; a retry may help.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unavailable, message)
    }

    /// The other side answered something that cannot be right.
    pub fn corrupt(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Corrupt, message)
    }

    /// Change tracking cannot answer for a change id: only a full backup is right. `code` is stable, `disk` the
    /// disk's key.
    pub fn change_tracking_reset(code: &str, disk: &str, message: impl Into<String>) -> Self {
        let detail = format!(r#"{{"code":{},"disk":{}}}"#, json_string(code), json_string(disk));
        Self::new(ErrorKind::ChangeTrackingReset, message).with_detail(detail)
    }

    /// An error of a sort that the contract does not name.
    pub fn other(sort: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Other(sort.into()), message)
    }

    /// The same error with a JSON object that holds more.
    #[must_use]
    pub fn with_detail(mut self, json_object: impl Into<String>) -> Self {
        self.detail = Some(json_object.into());
        self
    }

    /// The same error with `what` was going on put before its message.
    #[must_use]
    pub fn during(mut self, what: &str) -> Self {
        self.message = format!("{what}: {}", self.message);
        self
    }

    /// Whether the other side could not be reached or failed.
    #[must_use]
    pub fn is_unavailable(&self) -> bool {
        matches!(self.kind, ErrorKind::Unavailable)
    }
}

/// `text` as a JSON string, quotes included.
fn json_string(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for ch in text.chars() {
        match ch {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            ch if u32::from(ch) < 0x20 => out.push_str(&format!("\\u{:04x}", u32::from(ch))),
            ch => out.push(ch),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reset_carries_its_code_and_disk_as_json() {
        let error = Error::change_tracking_reset("file-fault", "20\"00\n", "no");
        assert_eq!(error.detail.as_deref(), Some(r#"{"code":"file-fault","disk":"20\"00\u000a"}"#));
        assert_eq!(error.kind, ErrorKind::ChangeTrackingReset);
    }

    #[test]
    fn what_went_on_comes_first() {
        assert_eq!(
            Error::config("no host").during("reading the settings").message,
            "reading the settings: no host"
        );
    }
}
