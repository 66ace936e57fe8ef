//! The connection's settings, checked once.

use serde::Deserialize;
use tidemark_plugin::http::Trust;
use tidemark_plugin::{Error, Result};

/// The secret's name in the connection's settings.
pub(crate) const PASSWORD: &str = "password";

/// How the host reads the bytes of disks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub(crate) enum TransportKind {
    #[default]
    Vddk,
    Nbd,
    Https,
}

/// As the manifest's schema says. Unknown fields are left alone: the host checks the schema, and may add fields
/// that name the secrets.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Settings {
    pub(crate) host: String,
    #[serde(default = "https_port")]
    pub(crate) port: u16,
    pub(crate) username: String,
    pub(crate) thumbprint: Option<String>,
    pub(crate) ca_pem: Option<String>,
    #[serde(default)]
    pub(crate) transport: TransportKind,
    pub(crate) nbd_url: Option<String>,
    pub(crate) datacenter: Option<String>,
    #[serde(default = "vddk_modes")]
    pub(crate) vddk_modes: String,
    #[serde(default = "yes")]
    pub(crate) quiesce: bool,
}

fn https_port() -> u16 {
    443
}

fn vddk_modes() -> String {
    "nbdssl:nbd".to_owned()
}

fn yes() -> bool {
    true
}

impl Settings {
    pub(crate) fn parse(json: &str) -> Result<Self> {
        let mut settings: Self =
            serde_json::from_str(json).map_err(|error| Error::config(format!("the settings: {error}")))?;
        for optional in
            [&mut settings.thumbprint, &mut settings.ca_pem, &mut settings.nbd_url, &mut settings.datacenter]
        {
            optional.take_if(|text| text.trim().is_empty());
        }
        settings.check()?;
        Ok(settings)
    }

    fn check(&self) -> Result<()> {
        let host = self.host.trim_start_matches('[').trim_end_matches(']');
        let plain = |ch: char| ch.is_ascii_alphanumeric() || matches!(ch, '.' | '-' | '_' | ':');
        if host.is_empty() || !host.chars().all(plain) {
            return Err(Error::config(format!("host '{}' is no host name or address", self.host)));
        }
        if self.port == 0 {
            return Err(Error::config("port 0 does not exist"));
        }
        if self.username.is_empty() {
            return Err(Error::config("username is empty"));
        }
        if let Some(thumbprint) = &self.thumbprint {
            if !matches!(hex_digits(thumbprint), Some(40 | 64)) {
                return Err(Error::config("thumbprint is no SHA-1 or SHA-256 fingerprint in hexadecimal"));
            }
            if self.ca_pem.is_some() {
                return Err(Error::config("thumbprint and ca_pem exclude each other"));
            }
        }
        if self.transport == TransportKind::Nbd {
            let url = self.nbd_url.as_deref().ok_or_else(|| Error::config("transport nbd needs nbd_url"))?;
            if !url.starts_with("nbd://") && !url.starts_with("nbds://") {
                return Err(Error::config(format!("nbd_url '{url}' does not begin with nbd:// or nbds://")));
            }
        }
        Ok(())
    }

    /// `https://host:port`, with brackets around an IPv6 address.
    pub(crate) fn origin(&self) -> String {
        let bare = self.host.trim_start_matches('[').trim_end_matches(']');
        if bare.contains(':') {
            format!("https://[{bare}]:{}", self.port)
        } else {
            format!("https://{bare}:{}", self.port)
        }
    }

    pub(crate) fn trust(&self) -> Trust {
        match (&self.thumbprint, &self.ca_pem) {
            (Some(thumbprint), _) => Trust::Thumbprint(thumbprint.clone()),
            (None, Some(pem)) => Trust::Authorities(pem.clone()),
            (None, None) => Trust::System,
        }
    }

    /// The fingerprint as VDDK wants it (SHA-1, upper case, colons), or what is missing.
    pub(crate) fn vddk_thumbprint(&self) -> Result<String> {
        let thumbprint =
            self.thumbprint.as_deref().filter(|text| hex_digits(text) == Some(40)).ok_or_else(|| {
                Error::config(
                    "transport vddk needs the setting thumbprint with the SHA-1 fingerprint of the server",
                )
            })?;
        let digits: Vec<char> = thumbprint.chars().filter(char::is_ascii_hexdigit).collect();
        let pairs: Vec<String> = digits.chunks(2).map(|pair| pair.iter().collect()).collect();
        Ok(pairs.join(":").to_ascii_uppercase())
    }
}

/// How many hexadecimal digits a fingerprint has; none where it holds anything else than them and colons.
fn hex_digits(text: &str) -> Option<usize> {
    let digits = text.chars().filter(|&ch| ch != ':').count();
    text.chars().all(|ch| ch == ':' || ch.is_ascii_hexdigit()).then_some(digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_the_manifests() {
        let settings = Settings::parse(r#"{"host":"vc.example","username":"u"}"#).unwrap();
        assert_eq!(settings.origin(), "https://vc.example:443");
        assert_eq!(settings.transport, TransportKind::Vddk);
        assert_eq!(settings.vddk_modes, "nbdssl:nbd");
        assert!(settings.quiesce);
        assert_eq!(settings.trust(), Trust::System);
        assert!(settings.vddk_thumbprint().is_err());
    }

    #[test]
    fn wrong_settings_are_named() {
        for (json, word) in [
            (r#"{"username":"u"}"#, "host"),
            (r#"{"host":"a/b","username":"u"}"#, "a/b"),
            (r#"{"host":"h","username":""}"#, "username"),
            (r#"{"host":"h","username":"u","transport":"nbd"}"#, "nbd_url"),
            (r#"{"host":"h","username":"u","transport":"nbd","nbd_url":"http://x"}"#, "nbd://"),
            (r#"{"host":"h","username":"u","thumbprint":"zz"}"#, "thumbprint"),
            (r#"{"host":"h","username":"u","transport":"smb"}"#, "smb"),
        ] {
            let error = Settings::parse(json).unwrap_err();
            assert!(error.message.contains(word), "{json}: {}", error.message);
        }
    }

    #[test]
    fn fingerprints_and_addresses_take_their_written_form() {
        let sha1 = "ab".repeat(20);
        let json = format!(r#"{{"host":"::1","username":"u","thumbprint":"{sha1}"}}"#);
        let settings = Settings::parse(&json).unwrap();
        assert_eq!(settings.origin(), "https://[::1]:443");
        assert_eq!(settings.vddk_thumbprint().unwrap(), vec!["AB"; 20].join(":"));
    }
}
