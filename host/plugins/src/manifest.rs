//! The manifest: what a plugin says of itself and what it asks for. It travels inside the component as the custom
//! section `tidemark:manifest` (JSON), and is written by its author as `plugin.toml`.
//!
//! Reading it runs nothing and compiles nothing. Whether the component keeps to it is `inspect`'s and the runtime's
//! business.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::contract::{CONTRACTS, contract_fits, numbers};
use crate::error::{Error, ErrorKind};

/// The section's name at the component's outermost level.
pub const SECTION: &str = "tidemark:manifest";
/// No component is larger than this.
pub const MAX_COMPONENT_BYTES: usize = 64 << 20;
const MAX_MANIFEST_BYTES: usize = 1 << 20;

/// Which world a plugin is written for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PluginKind {
    /// Talks to a hypervisor.
    Connector,
    /// Says where objects go.
    StorageTarget,
    /// Reads one kind of file system.
    GuestFilesystem,
    /// Reads partition tables or a volume manager.
    VolumeReader,
    /// Decides.
    Policy,
}

/// A language runtime that has to be linked beside the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum LanguageRuntime {
    /// WASI 0.2 that grants nothing.
    #[serde(rename = "wasi-0.2")]
    Wasi02,
}

/// Networks beyond the public one to which a capability may lead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// Always allowed; may be named for clarity.
    Public,
    /// RFC 1918, RFC 6598 and unique local addresses.
    Private,
    /// This machine.
    Loopback,
}

/// Something that a plugin asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Capability {
    /// `http`, `nbd`, `vddk` or `path`.
    pub name: String,
    /// Hosts, `host:port`, URLs or folders; `${config.NAME}` stands for a setting of the connection.
    #[serde(default)]
    pub targets: Vec<String>,
    /// Networks beyond the public one.
    #[serde(default)]
    pub networks: Vec<Network>,
    /// Why, for the administrator who is asked.
    pub reason: String,
}

/// What a plugin says of itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Lower-case letters, digits and hyphens, at most 64.
    pub name: String,
    /// `MAJOR.MINOR.PATCH`.
    pub version: String,
    /// Its world.
    pub kind: PluginKind,
    /// The contract version it was written against.
    pub contract: String,
    /// One sentence for people.
    #[serde(default)]
    pub description: String,
    /// JSON Schema of a connection's settings.
    #[serde(default = "any_object")]
    pub settings: serde_json::Value,
    /// What it asks for.
    #[serde(default)]
    pub capabilities: Vec<Capability>,
    /// What its language needs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime: Option<LanguageRuntime>,
}

fn any_object() -> serde_json::Value {
    serde_json::json!({ "type": "object" })
}

impl PluginKind {
    /// The word the manifest and the catalog use.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connector => "connector",
            Self::StorageTarget => "storage-target",
            Self::GuestFilesystem => "guest-filesystem",
            Self::VolumeReader => "volume-reader",
            Self::Policy => "policy",
        }
    }
}

impl fmt::Display for PluginKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for PluginKind {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        [Self::Connector, Self::StorageTarget, Self::GuestFilesystem, Self::VolumeReader, Self::Policy]
            .into_iter()
            .find(|kind| kind.as_str() == text)
            .ok_or_else(|| bad(format!("'{text}' is no kind of plugin")))
    }
}

impl Manifest {
    /// Parses and checks a manifest from its JSON.
    ///
    /// # Errors
    /// [`ErrorKind::Load`] with what is wrong.
    pub fn from_json(json: &[u8]) -> Result<Self, Error> {
        let manifest: Self = serde_json::from_slice(json).map_err(|error| bad(error.to_string()))?;
        manifest.check()?;
        Ok(manifest)
    }

    /// The JSON that goes into the component.
    ///
    /// # Errors
    /// [`ErrorKind::Load`] where the manifest does not pass its own checks.
    pub fn to_json(&self) -> Result<String, Error> {
        self.check()?;
        serde_json::to_string(self).map_err(|error| bad(error.to_string()))
    }

    /// Checks every field.
    ///
    /// # Errors
    /// [`ErrorKind::Load`] that names the first wrong field.
    pub fn check(&self) -> Result<(), Error> {
        self.problems().into_iter().next().map_or(Ok(()), |problem| Err(bad(problem)))
    }

    /// Everything that is wrong with the fields, each by its name.
    pub(crate) fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if !is_plugin_name(&self.name) {
            problems.push(format!("'{}' is no plugin name ({NAME_RULE})", self.name));
        }
        if numbers(&self.version).is_none() {
            problems.push(format!("'{}' is no version (MAJOR.MINOR.PATCH)", self.version));
        }
        if !contract_fits(&self.contract) {
            let spoken = CONTRACTS.join(" and ");
            problems
                .push(format!("contract {} does not fit this host, which speaks {spoken}", self.contract));
        }
        if !self.settings.is_object() {
            problems.push("settings must be a JSON Schema (an object)".to_owned());
        }
        for capability in &self.capabilities {
            if !matches!(capability.name.as_str(), "http" | "nbd" | "vddk" | "path") {
                problems.push(format!("'{}' is no capability", capability.name));
            }
            if capability.reason.trim().is_empty() {
                problems.push(format!("capability {} has no reason", capability.name));
            }
        }
        problems
    }
}

/// What a plugin may be called, in words.
pub const NAME_RULE: &str = "lower-case letters, digits, hyphens";

/// Whether a plugin may be called so.
#[must_use]
pub fn is_plugin_name(name: &str) -> bool {
    name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.len() <= 64
}

/// Reads the manifest out of a component.
///
/// # Errors
/// [`ErrorKind::Load`] where the bytes are no component, have no manifest or a wrong one.
pub fn read_manifest(component: &[u8]) -> Result<Manifest, Error> {
    let manifest = read_unchecked(component)?;
    manifest.check()?;
    Ok(manifest)
}

/// The same without a look at what the fields say.
pub(crate) fn read_unchecked(component: &[u8]) -> Result<Manifest, Error> {
    let section = sections(component)?.into_iter().find(|section| section.is_manifest(component));
    let Some(section) = section else {
        return Err(bad("the component has no manifest; build it with 'tidemark plugin build'"));
    };
    let json = component.get(section.content_start + name_length()..section.end).unwrap_or_default();
    if json.len() > MAX_MANIFEST_BYTES {
        return Err(bad("the manifest is larger than 1 MiB"));
    }
    serde_json::from_slice(json).map_err(|error| bad(error.to_string()))
}

/// Gives a component its manifest, in place of one that it has.
///
/// # Errors
/// [`ErrorKind::Load`] where the bytes are no component or the manifest is wrong.
pub fn attach_manifest(component: &[u8], manifest: &Manifest) -> Result<Vec<u8>, Error> {
    let json = manifest.to_json()?;
    let mut out = component.get(..PREAMBLE.len()).unwrap_or_default().to_vec();
    for section in sections(component)?.into_iter().filter(|section| !section.is_manifest(component)) {
        out.extend_from_slice(component.get(section.start..section.end).unwrap_or_default());
    }
    let section = wasm_encoder::CustomSection { name: SECTION.into(), data: json.as_bytes().into() };
    wasm_encoder::ComponentSection::append_to_component(&section, &mut out);
    Ok(out)
}

/// SHA-256 of a component, in hexadecimal: its identity in the catalog.
#[must_use]
pub fn digest(component: &[u8]) -> String {
    hex::encode(Sha256::digest(component))
}

/// The component model's magic, version and layer.
const PREAMBLE: [u8; 8] = [0x00, 0x61, 0x73, 0x6d, 0x0d, 0x00, 0x01, 0x00];

struct Section {
    id: u8,
    start: usize,
    content_start: usize,
    end: usize,
}

impl Section {
    fn is_manifest(&self, component: &[u8]) -> bool {
        let name = component.get(self.content_start..self.end).unwrap_or_default();
        self.id == 0
            && name.first().is_some_and(|&length| usize::from(length) == SECTION.len())
            && name.get(1..).is_some_and(|rest| rest.starts_with(SECTION.as_bytes()))
    }
}

fn name_length() -> usize {
    1 + SECTION.len()
}

/// The outermost sections. Nested modules and components lie inside one each, so their own custom sections are
/// never taken for the component's.
fn sections(component: &[u8]) -> Result<Vec<Section>, Error> {
    if component.len() > MAX_COMPONENT_BYTES {
        return Err(bad(format!("the component is larger than {MAX_COMPONENT_BYTES} bytes")));
    }
    if !component.starts_with(&PREAMBLE) {
        return Err(bad("this is no WebAssembly component"));
    }
    let mut found = Vec::new();
    let mut at = PREAMBLE.len();
    while let Some(&id) = component.get(at) {
        let (length, content_start) =
            leb128(component, at + 1).ok_or_else(|| bad("the component is cut short"))?;
        let end = content_start + length;
        if end > component.len() {
            return Err(bad("the component is cut short"));
        }
        found.push(Section { id, start: at, content_start, end });
        at = end;
    }
    Ok(found)
}

fn leb128(bytes: &[u8], mut at: usize) -> Option<(usize, usize)> {
    let mut value = 0u64;
    for shift in [0, 7, 14, 21, 28] {
        let byte = *bytes.get(at)?;
        at += 1;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some((usize::try_from(u32::try_from(value).ok()?).ok()?, at));
        }
    }
    None
}

fn bad(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Load, "manifest", message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::CONTRACT;

    fn manifest() -> Manifest {
        Manifest {
            name: "tiny".into(),
            version: "1.2.3".into(),
            kind: PluginKind::Connector,
            contract: CONTRACT.into(),
            description: String::new(),
            settings: any_object(),
            capabilities: vec![],
            runtime: None,
        }
    }

    #[test]
    fn a_manifest_is_found_again_and_replaced() {
        let component = attach_manifest(&PREAMBLE, &manifest()).unwrap();
        assert_eq!(read_manifest(&component).unwrap(), manifest());
        let newer = Manifest { version: "1.2.4".into(), ..manifest() };
        let again = attach_manifest(&component, &newer).unwrap();
        assert_eq!(read_manifest(&again).unwrap().version, "1.2.4");
        assert_eq!(again.len(), component.len());
    }

    #[test]
    fn damage_is_an_error() {
        let component = attach_manifest(&PREAMBLE, &manifest()).unwrap();
        for length in 0..component.len() {
            assert!(read_manifest(&component[..length]).is_err(), "cut at {length}");
        }
        assert!(read_manifest(b"\x7fELF").is_err());
    }

    #[test]
    fn wrong_fields_are_named() {
        for (wrong, word) in [
            (Manifest { name: "../x".into(), ..manifest() }, "name"),
            (Manifest { version: "1.2".into(), ..manifest() }, "version"),
            (Manifest { contract: "0.99.0".into(), ..manifest() }, "contract"),
            (Manifest { contract: "0.1.1".into(), ..manifest() }, "contract"),
        ] {
            assert!(wrong.check().unwrap_err().message().contains(word));
        }
    }
}
