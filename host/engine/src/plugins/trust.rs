//! Whose plugins are installed: signatures made with minisign, by keys that the administrator trusts.

use std::fmt;

use minisign_verify::{PublicKey, Signature};

/// Whom to believe.
#[derive(Clone, Default)]
pub struct Trust {
    keys: Vec<(String, PublicKey)>,
    required: bool,
}

/// A key or a signature that is of no use, in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustError(String);

impl fmt::Display for TrustError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for TrustError {}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys: Vec<&str> = self.keys.iter().map(|(text, _)| text.as_str()).collect();
        f.debug_struct("Trust").field("keys", &keys).field("required", &self.required).finish()
    }
}

impl Trust {
    /// Trusts these keys, each the line of base64 in a minisign public key file. Where a signature is `required`, no
    /// plugin is installed without one.
    ///
    /// # Errors
    /// A text that is no key; a required signature that nobody could make.
    pub fn new(keys: &[String], required: bool) -> Result<Self, TrustError> {
        let mut trusted = Vec::new();
        for text in keys {
            let text = text.trim();
            let key = PublicKey::from_base64(text);
            let key = key.map_err(|e| TrustError(format!("'{text}' is no minisign public key: {e}")))?;
            trusted.push((text.to_owned(), key));
        }
        if required && trusted.is_empty() {
            let message = "signatures are required, and no key is trusted: no plugin could be installed";
            return Err(TrustError(message.to_owned()));
        }
        Ok(Self { keys: trusted, required })
    }

    /// Who signed a component, by the text of the key. `signature` is the whole text of its `.minisig` file.
    pub(super) fn signer(
        &self,
        component: &[u8],
        signature: Option<&str>,
    ) -> Result<Option<String>, TrustError> {
        let Some(signature) = signature else {
            if self.required {
                let message =
                    "this server installs signed plugins only, and this one comes without a signature";
                return Err(TrustError(message.to_owned()));
            }
            return Ok(None);
        };
        let signature = Signature::decode(signature);
        let signature = signature.map_err(|e| TrustError(format!("the signature cannot be read: {e}")))?;
        // Not the legacy kind, which signs the bytes themselves rather than their digest.
        let signer = self.keys.iter().find(|(_, key)| key.verify(component, &signature, false).is_ok());
        signer.map(|(text, _)| Some(text.clone())).ok_or_else(|| {
            TrustError("the signature is not by a key that this server trusts, or of other bytes".to_owned())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Made by minisign 0.11: `minisign -G -W`, then `minisign -S -m component` over these bytes.
    const COMPONENT: &[u8] = b"a component\n";
    const KEY: &str = include_str!("trust/test.pub");
    const SIGNATURE: &str = include_str!("trust/test.minisig");

    fn key() -> String {
        KEY.lines().last().unwrap_or_default().to_owned()
    }

    #[test]
    fn a_trusted_signature_names_its_key_and_no_other_counts() {
        let trust = Trust::new(&[key()], true).unwrap();
        assert_eq!(trust.signer(COMPONENT, Some(SIGNATURE)).unwrap(), Some(key()));
        assert!(trust.signer(b"other bytes", Some(SIGNATURE)).is_err());
        assert!(trust.signer(COMPONENT, None).unwrap_err().to_string().contains("signed plugins only"));
        assert!(trust.signer(COMPONENT, Some("nonsense")).is_err());
        let nobody = Trust::default();
        assert_eq!(nobody.signer(COMPONENT, None).unwrap(), None);
        let error = nobody.signer(COMPONENT, Some(SIGNATURE)).unwrap_err();
        assert!(
            error.to_string().contains("trusts"),
            "a signature that nobody can check counts for nothing: {error}"
        );
    }

    #[test]
    fn a_wrong_key_is_said_at_the_start() {
        assert!(Trust::new(&["RWQ".to_owned()], false).is_err());
        assert!(Trust::new(&[], true).unwrap_err().to_string().contains("no key is trusted"));
    }
}
