//! What an administrator granted, and whether it covers a target. Pure: names and numbers in, yes or a reason out.
//!
//! A capability takes effect only where the manifest asks for it **and** a grant covers it; [`Rights`] is both
//! together for one connection, with the manifest's `${config.NAME}` filled in from its settings.

use std::fmt;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

use serde_json::Value;

use crate::manifest::{Manifest, Network};

/// A refusal: which capability, to what, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{capability} to {target} is denied: {reason}")]
pub struct Denied {
    /// The capability.
    pub capability: &'static str,
    /// To what.
    pub target: String,
    /// Why, with what the administrator can do about it.
    pub reason: String,
}

/// A host and perhaps a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    host: String,
    port: Option<u16>,
}

/// One granted capability.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Grant {
    /// HTTP, to one target or to all that manifest and settings name.
    Http(Option<Target>),
    /// NBD, likewise.
    Nbd(Option<Target>),
    /// A folder and all below it, or every folder that manifest and settings name.
    Path(Option<PathBuf>),
    /// Reading through VMware's VDDK from the servers that manifest and settings name.
    Vddk,
}

/// A text that is no grant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no capability (http, http:HOST[:PORT], nbd, nbd:HOST[:PORT], path, path:/FOLDER or vddk)")]
pub struct ParseGrantError(pub String);

/// Everything that was granted to one plugin.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Grants(Vec<Grant>);

impl Grants {
    /// Parses the catalog's list.
    ///
    /// # Errors
    /// The first text that is no grant.
    pub fn parse<T: AsRef<str>>(texts: impl IntoIterator<Item = T>) -> Result<Self, ParseGrantError> {
        texts.into_iter().map(|text| text.as_ref().parse()).collect::<Result<_, _>>().map(Self)
    }

    /// Whether HTTP to this host and port was granted.
    ///
    /// # Errors
    /// [`Denied`] where no grant covers it.
    pub fn check_http(&self, host: &str, port: u16) -> Result<(), Denied> {
        let covered = self
            .0
            .iter()
            .any(|grant| matches!(grant, Grant::Http(target) if covers(target.as_ref(), host, port)));
        granted("http", covered, || format!("{host}:{port}"))
    }

    /// Whether NBD to this host and port was granted.
    ///
    /// # Errors
    /// [`Denied`] where no grant covers it.
    pub fn check_nbd(&self, host: &str, port: u16) -> Result<(), Denied> {
        let covered = self
            .0
            .iter()
            .any(|grant| matches!(grant, Grant::Nbd(target) if covers(target.as_ref(), host, port)));
        granted("nbd", covered, || format!("{host}:{port}"))
    }

    /// Whether this folder, or one above it, was granted.
    ///
    /// # Errors
    /// [`Denied`] where no grant covers it, or the path is not absolute and clean.
    pub fn check_path(&self, folder: &Path) -> Result<(), Denied> {
        let covered = self.0.iter().any(|grant| match grant {
            Grant::Path(Some(above)) => is_below(folder, above),
            Grant::Path(None) => is_clean(folder),
            _ => false,
        });
        granted("path", covered, || folder.display().to_string())
    }

    /// Whether VDDK was granted.
    ///
    /// # Errors
    /// [`Denied`] where it was not.
    pub fn check_vddk(&self, server: &str) -> Result<(), Denied> {
        granted("vddk", self.0.contains(&Grant::Vddk), || server.to_owned())
    }
}

fn granted(capability: &'static str, covered: bool, target: impl Fn() -> String) -> Result<(), Denied> {
    if covered {
        return Ok(());
    }
    let target = target();
    let reason =
        format!("it was not granted; grant it with 'tidemark plugin grant NAME {capability}:{target}'");
    let reason = if capability == "vddk" {
        "it was not granted; grant it with 'tidemark plugin grant NAME vddk'".to_owned()
    } else {
        reason
    };
    Err(Denied { capability, target, reason })
}

/// Whether a grant (for all targets where it names none) covers a host and port.
#[must_use]
pub fn covers(grant: Option<&Target>, host: &str, port: u16) -> bool {
    grant.is_none_or(|target| target.covers(host, port))
}

impl Target {
    /// Parses `HOST`, `HOST:PORT`, `[V6]:PORT`, `*`, `*.SUFFIX` or a URL, whose scheme then gives the port.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (scheme, rest) =
            text.split_once("://").map_or((None, text), |(scheme, rest)| (Some(scheme), rest));
        let authority = rest.split(['/', '?', '#']).next()?;
        if scheme.is_none() && authority.len() != rest.len() {
            return None;
        }
        let authority = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        let (host, port) = if let Some(v6) = authority.strip_prefix('[') {
            let (host, after) = v6.split_once(']')?;
            (host, after.strip_prefix(':').or(after.is_empty().then_some("")).map(str::to_owned)?)
        } else {
            match authority.rsplit_once(':') {
                Some((host, port)) if !host.contains(':') => (host, port.to_owned()),
                Some(_) => (authority, String::new()),
                None => (authority, String::new()),
            }
        };
        let port = if port.is_empty() { None } else { Some(port.parse::<u16>().ok()?) };
        let port = port.or(match scheme {
            Some("https") => Some(443),
            Some("http") => Some(80),
            Some("nbd" | "nbds") => Some(10809),
            _ => None,
        });
        let clean =
            !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || ".-_:*".contains(c));
        clean.then(|| Self { host: normal(host), port })
    }

    /// The host, in lower case and without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port; none covers all.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        self.port
    }

    fn covers(&self, host: &str, port: u16) -> bool {
        let host = normal(host);
        let same_host = match self.host.strip_prefix('*') {
            Some("") => true,
            Some(suffix) => host.len() > suffix.len() && suffix.starts_with('.') && host.ends_with(suffix),
            None => self.host == host,
        };
        same_host && self.port.is_none_or(|own| own == port)
    }
}

fn normal(host: &str) -> String {
    host.trim_matches(['[', ']']).trim_end_matches('.').to_ascii_lowercase()
}

/// Absolute, without `.` and `..`, and at or below `above`. By component, so that `/backup2` is not below `/backup`.
fn is_below(path: &Path, above: &Path) -> bool {
    is_clean(path) && path.starts_with(above)
}

fn is_clean(path: &Path) -> bool {
    path.is_absolute()
        && path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)))
        && !path.to_string_lossy().contains('\0')
}

impl FromStr for Grant {
    type Err = ParseGrantError;

    fn from_str(text: &str) -> Result<Self, ParseGrantError> {
        let wrong = || ParseGrantError(text.to_owned());
        let (name, target) = text.split_once(':').map_or((text, None), |(name, target)| (name, Some(target)));
        let target_of = |target: Option<&str>| match target {
            None => Ok(None),
            Some(target) => Target::parse(target).map(Some).ok_or_else(wrong),
        };
        match (name, target) {
            ("http", target) => Ok(Self::Http(target_of(target)?)),
            ("nbd", target) => Ok(Self::Nbd(target_of(target)?)),
            ("vddk", None) => Ok(Self::Vddk),
            ("path", None) => Ok(Self::Path(None)),
            ("path", Some(folder)) if is_clean(Path::new(folder)) => {
                Ok(Self::Path(Some(PathBuf::from(folder))))
            }
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        match self.port {
            Some(port) => write!(f, "{host}:{port}"),
            None => f.write_str(&host),
        }
    }
}

/// A target that the manifest names, with the settings filled in.
#[derive(Debug, Clone)]
struct Asked {
    capability: String,
    target: String,
    networks: Vec<Network>,
}

/// What one connection of a plugin may do: its manifest and its grants together.
#[derive(Debug, Clone)]
pub struct Rights {
    plugin: String,
    asked: Vec<Asked>,
    grants: Grants,
}

impl Rights {
    /// Fills the settings in. A target whose settings are not given is left out.
    #[must_use]
    pub fn new(manifest: &Manifest, settings: &Value, grants: Grants) -> Self {
        let schema = &manifest.settings;
        let asked = manifest.capabilities.iter().flat_map(|capability| {
            capability.targets.iter().filter_map(|template| {
                Some(Asked {
                    capability: capability.name.clone(),
                    target: fill(template, settings, schema)?,
                    networks: capability.networks.clone(),
                })
            })
        });
        Self { plugin: manifest.name.clone(), asked: asked.collect(), grants }
    }

    /// Whether an HTTP request may go there; answers with the networks that are allowed beyond the public one.
    ///
    /// # Errors
    /// [`Denied`] with what is missing.
    pub fn check_http(&self, host: &str, port: u16, plain: bool) -> Result<Vec<Network>, Denied> {
        let networks = self.asked_host("http", host, port, plain)?;
        self.grants.check_http(host, port).map(|()| networks).map_err(|denied| self.named(denied))
    }

    /// Whether the host may read there over NBD.
    ///
    /// # Errors
    /// [`Denied`] with what is missing.
    pub fn check_nbd(&self, host: &str, port: u16) -> Result<Vec<Network>, Denied> {
        let networks = self.asked_host("nbd", host, port, false)?;
        self.grants.check_nbd(host, port).map(|()| networks).map_err(|denied| self.named(denied))
    }

    /// Whether the host may read there through VDDK.
    ///
    /// # Errors
    /// [`Denied`] with what is missing.
    pub fn check_vddk(&self, server: &str, port: u16) -> Result<(), Denied> {
        self.asked_host("vddk", server, port, false)?;
        self.grants.check_vddk(server).map_err(|denied| self.named(denied))
    }

    /// Whether this folder may be used.
    ///
    /// # Errors
    /// [`Denied`] with what is missing.
    pub fn check_path(&self, folder: &Path) -> Result<(), Denied> {
        let asked = self
            .asked
            .iter()
            .any(|asked| asked.capability == "path" && is_below(folder, Path::new(&asked.target)));
        if !asked {
            return Err(not_asked("path", folder.display().to_string()));
        }
        self.grants.check_path(folder).map_err(|denied| self.named(denied))
    }

    /// The refusal with a command that can be typed as it stands.
    fn named(&self, denied: Denied) -> Denied {
        Denied { reason: denied.reason.replace("grant NAME ", &format!("grant {} ", self.plugin)), ..denied }
    }

    /// Plain HTTP needs a target that says `http://` itself: nobody gets it by the way.
    fn asked_host(
        &self,
        capability: &'static str,
        host: &str,
        port: u16,
        plain: bool,
    ) -> Result<Vec<Network>, Denied> {
        let mut fitting = self
            .asked
            .iter()
            .filter(|asked| asked.capability == capability)
            .filter(|asked| !plain || asked.target.starts_with("http://"))
            .filter(|asked| Target::parse(&asked.target).is_some_and(|target| target.covers(host, port)))
            .peekable();
        if fitting.peek().is_none() {
            return Err(not_asked(capability, format!("{host}:{port}")));
        }
        Ok(fitting.flat_map(|asked| asked.networks.iter().copied()).collect())
    }
}

fn not_asked(capability: &'static str, target: String) -> Denied {
    let reason = "neither the plugin's manifest nor the connection's settings name it".to_owned();
    Denied { capability, target, reason }
}

/// Replaces each `${config.NAME}`; the schema's default counts where a setting is absent.
fn fill(template: &str, settings: &Value, schema: &Value) -> Option<String> {
    let mut out = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("${config.") {
        let (name, after) = after.split_once('}')?;
        let default =
            schema.get("properties").and_then(|all| all.get(name)).and_then(|one| one.get("default"));
        let value = settings.get(name).filter(|value| !value.is_null()).or(default)?;
        out.push_str(before);
        match value {
            Value::String(text) if !text.is_empty() => out.push_str(text),
            Value::Number(number) => out.push_str(&number.to_string()),
            _ => return None,
        }
        rest = after;
    }
    out.push_str(rest);
    Some(out)
}

#[cfg(test)]
#[path = "grants/tests.rs"]
mod tests;
