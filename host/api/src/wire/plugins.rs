//! Plugins: installed versions, their manifests, and what they were granted.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tidemark_catalog::{Grant, PluginVersion};

use super::{json_value, rfc3339};

/// An installed version of a plugin.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct PluginEntry {
    /// The plugin's name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// `connector`, `storage-target`, `guest-filesystem`, `volume-reader` or `policy`.
    pub kind: String,
    /// SHA-256 of the component, in hexadecimal.
    pub digest: String,
    /// What it says of itself: settings, capabilities it asks for and why.
    pub manifest: Value,
    /// When it was installed.
    pub installed_at: String,
    /// Whether new jobs use it.
    pub active: bool,
    /// Why it is not used any more, where it misbehaved.
    pub quarantine: Option<String>,
    /// The minisign key that signed it, where somebody did.
    pub signed_by: Option<String>,
    /// Sessions in a row in which it misbehaved; the second one puts it into quarantine.
    pub strikes: u32,
}

/// A right that a plugin was given.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct GrantEntry {
    /// The plugin's name.
    pub plugin: String,
    /// The capability.
    pub capability: String,
    /// Who gave it.
    pub granted_by: String,
    /// When.
    pub granted_at: String,
}

/// The installed plugins and their grants.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct PluginList {
    /// By name and version.
    pub plugins: Vec<PluginEntry>,
    /// What they were granted.
    pub grants: Vec<GrantEntry>,
    /// For the next page.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

/// Makes new jobs use a version.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ActivatePlugin {
    /// The version.
    pub version: String,
    /// Whether it is granted what it asks for beyond the version before it.
    #[serde(default)]
    pub approve: bool,
}

/// Lets a version out of quarantine.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReleasePlugin {
    /// The version.
    pub version: String,
}

/// How a component is installed.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
pub struct InstallQuery {
    /// The text of its minisign signature file.
    pub signature: Option<String>,
}

/// Gives a plugin a capability, or takes it away.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GrantPlugin {
    /// For example `http:vcenter.example.org` or `path:/backup`.
    pub capability: String,
}

impl From<&PluginVersion> for PluginEntry {
    fn from(plugin: &PluginVersion) -> Self {
        let PluginVersion {
            name,
            version,
            kind,
            digest,
            manifest_json,
            installed_at,
            active,
            quarantine,
            signed_by,
            strikes,
        } = plugin;
        Self {
            name: name.clone(),
            version: version.clone(),
            kind: kind.clone(),
            digest: digest.clone(),
            manifest: json_value(manifest_json),
            installed_at: rfc3339(*installed_at),
            active: *active,
            quarantine: quarantine.clone(),
            signed_by: signed_by.clone(),
            strikes: *strikes,
        }
    }
}

impl From<&Grant> for GrantEntry {
    fn from(grant: &Grant) -> Self {
        let Grant { plugin, capability, granted_by, granted_at } = grant;
        Self {
            plugin: plugin.clone(),
            capability: capability.clone(),
            granted_by: granted_by.clone(),
            granted_at: rfc3339(*granted_at),
        }
    }
}
