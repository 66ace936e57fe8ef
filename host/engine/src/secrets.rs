//! Secrets at rest: sealed with XChaCha20-Poly1305 under one key of the installation.
//!
//! The key comes from the environment variable `TIDEMARK_SECRET_KEY` (64 hexadecimal digits) or from the file
//! `secret.key` (mode 0600) in the data folder, made at the first start. Each sealed text is bound to the
//! connection and name it belongs to, so that it cannot be moved to another. Losing the key loses the secrets,
//! never a backup.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use chacha20poly1305::aead::{Aead as _, KeyInit as _, Payload};
use chacha20poly1305::{Key, XChaCha20Poly1305, XNonce};

use crate::error::{Error, ErrorKind, Result};

/// The environment variable that replaces the key file.
pub const KEY_VARIABLE: &str = "TIDEMARK_SECRET_KEY";

const NONCE_LEN: usize = 24;

/// Seals and opens secrets.
pub(crate) struct SecretBox {
    cipher: XChaCha20Poly1305,
}

impl SecretBox {
    /// Takes the key from the environment, else from `secret.key` below `data_dir`, which is made where absent.
    pub(crate) fn open(data_dir: &Path) -> Result<Self> {
        let key = match std::env::var(KEY_VARIABLE) {
            Ok(text) => parse_key(&text, KEY_VARIABLE)?,
            Err(_) => key_file(&data_dir.join("secret.key"))?,
        };
        Ok(Self { cipher: XChaCha20Poly1305::new(&Key::from(key)) })
    }

    /// Seals each secret of the connection `owner`, as a JSON object of name → hexadecimal text.
    pub(crate) fn seal_all(&self, owner: &str, secrets: &BTreeMap<String, String>) -> Result<String> {
        let mut sealed = serde_json::Map::new();
        for (name, value) in secrets {
            let nonce: [u8; NONCE_LEN] = rand::random();
            let binding = binding(owner, name);
            let payload = Payload { msg: value.as_bytes(), aad: binding.as_bytes() };
            let body = self
                .cipher
                .encrypt(&XNonce::from(nonce), payload)
                .map_err(|_| Error::internal(format!("sealing secret '{name}'")))?;
            let text = format!("{}{}", hex::encode(nonce), hex::encode(body));
            sealed.insert(name.clone(), serde_json::Value::String(text));
        }
        Ok(serde_json::Value::Object(sealed).to_string())
    }

    /// Opens what [`seal_all`](Self::seal_all) made for the same owner.
    pub(crate) fn open_all(&self, owner: &str, sealed_json: &str) -> Result<BTreeMap<String, String>> {
        let sealed: BTreeMap<String, String> = serde_json::from_str(sealed_json)
            .map_err(|_| Error::damaged("the sealed secrets are no JSON object"))?;
        sealed
            .into_iter()
            .map(|(name, text)| Ok((name.clone(), self.open_one(owner, &name, &text)?)))
            .collect()
    }

    fn open_one(&self, owner: &str, name: &str, text: &str) -> Result<String> {
        let refused = || {
            Error::new(
                ErrorKind::Auth,
                format!(
                    "secret '{name}' of '{owner}' cannot be opened with this installation's key; set it again"
                ),
            )
        };
        let bytes = hex::decode(text).map_err(|_| refused())?;
        let (nonce, body) = bytes.split_first_chunk::<NONCE_LEN>().ok_or_else(refused)?;
        let binding = binding(owner, name);
        let payload = Payload { msg: body, aad: binding.as_bytes() };
        let plain = self.cipher.decrypt(&XNonce::from(*nonce), payload).map_err(|_| refused())?;
        String::from_utf8(plain).map_err(|_| refused())
    }
}

fn binding(owner: &str, name: &str) -> String {
    format!("tidemark-secret/1\0{owner}\0{name}")
}

fn parse_key(text: &str, origin: &str) -> Result<[u8; 32]> {
    let mut key = [0; 32];
    hex::decode_to_slice(text.trim(), &mut key)
        .map_err(|_| Error::invalid(format!("{origin} must hold 64 hexadecimal digits")))?;
    Ok(key)
}

fn key_file(path: &Path) -> Result<[u8; 32]> {
    match std::fs::read_to_string(path) {
        Ok(text) => {
            let mode =
                std::fs::metadata(path).map_err(|e| Error::io(path.display(), e))?.permissions().mode();
            if mode & 0o077 != 0 {
                return Err(Error::invalid(format!(
                    "{} is readable by others (mode {:o}); run chmod 600 on it",
                    path.display(),
                    mode & 0o777
                )));
            }
            parse_key(&text, &path.display().to_string())
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let key: [u8; 32] = rand::random();
            write_private(path, &format!("{}\n", hex::encode(key)))?;
            Ok(key)
        }
        Err(error) => Err(Error::io(path.display(), error)),
    }
}

/// Writes a new file that only its owner may read, durably; an existing one is an error.
pub(crate) fn write_private(path: &Path, text: &str) -> Result<()> {
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(|e| Error::io(path.display(), e))?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(|e| Error::io(path.display(), e))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(name: &str, value: &str) -> BTreeMap<String, String> {
        BTreeMap::from([(name.to_owned(), value.to_owned())])
    }

    #[test]
    fn a_secret_opens_only_for_its_owner_and_key() {
        let dir = tempfile::tempdir().unwrap();
        let secrets = SecretBox::open(dir.path()).unwrap();
        let sealed = secrets.seal_all("vc1", &one("password", "hunter2")).unwrap();
        assert!(!sealed.contains("hunter2"));
        assert_eq!(secrets.open_all("vc1", &sealed).unwrap(), one("password", "hunter2"));
        assert_eq!(secrets.open_all("vc2", &sealed).unwrap_err().kind(), ErrorKind::Auth);
        let again = SecretBox::open(dir.path()).unwrap();
        assert_eq!(again.open_all("vc1", &sealed).unwrap(), one("password", "hunter2"));
        let other = tempfile::tempdir().unwrap();
        let stranger = SecretBox::open(other.path()).unwrap();
        assert_eq!(stranger.open_all("vc1", &sealed).unwrap_err().kind(), ErrorKind::Auth);
    }

    #[test]
    fn a_key_file_that_others_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        SecretBox::open(dir.path()).unwrap();
        let path = dir.path().join("secret.key");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(SecretBox::open(dir.path()).err().unwrap().to_string().contains("chmod 600"));
    }
}
