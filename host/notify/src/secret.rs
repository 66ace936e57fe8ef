//! A word that must not be shown: a signing key, a password, the value of a header that may be one.
//!
//! It has no `Display` and no serialised form, its `Debug` shows nothing of it, and its bytes are overwritten when it
//! is dropped. Copies that libraries make on the way to a socket are not.

use std::fmt;

use zeroize::Zeroize as _;

/// A secret word.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    /// Takes the word.
    #[must_use]
    pub fn new(word: impl Into<String>) -> Self {
        Self(word.into())
    }

    /// The word itself, for where it has to be used.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<String> for Secret {
    fn from(word: String) -> Self {
        Self(word)
    }
}

impl From<&str> for Secret {
    fn from(word: &str) -> Self {
        Self(word.to_owned())
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_not_shown() {
        let secret = Secret::new("hunter2");
        assert_eq!(format!("{secret:?} {:?}", Some(&secret)), "… Some(…)");
        assert_eq!(secret.expose(), "hunter2");
    }
}
