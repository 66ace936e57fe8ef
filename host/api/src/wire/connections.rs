//! Connectors and repositories, which are both a plugin with settings, secrets and a bound of their own sort, and the
//! vCenter connectors in the older shape of credentials. Secrets go in and never come out: answers name them only.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tidemark_catalog::{Connector, Repository};
use tidemark_engine::{Bounds, ConnectionChange, NewConnection, RepositorySpace};
use tidemark_model::{ByteLen, UtcMillis};

use super::{json_value, rfc3339};

/// The plugin whose connectors are also shown as credentials.
const VCENTER: &str = "vcenter";

/// Adds a connector or a repository.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AddConnection {
    /// A unique name.
    pub name: String,
    /// The plugin that serves it.
    pub plugin: String,
    /// Checked against the plugin's own schema.
    #[serde(default)]
    pub settings: Map<String, Value>,
    /// Sealed at rest; no answer ever holds them.
    #[serde(default)]
    pub secrets: BTreeMap<String, String>,
    /// Disks that a host moves from a connector, or writes to a repository, at the same time; 0 for no bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_disks: Option<u32>,
    /// Of a repository only: stored bytes that a host writes to it in a second; 0 for no bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth_bytes_per_second: Option<u64>,
}

impl From<AddConnection> for NewConnection {
    fn from(wire: AddConnection) -> Self {
        let AddConnection { name, plugin, settings, secrets, max_disks, bandwidth_bytes_per_second } = wire;
        let bounds = Bounds { max_disks, bandwidth: bandwidth_bytes_per_second.map(ByteLen) };
        Self { name, plugin, settings, secrets, bounds }
    }
}

/// Changes a connector or a repository: what is given replaces what was, the rest stays.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UpdateConnection {
    /// Checked against the plugin's own schema, together with those that stay.
    #[serde(default)]
    pub settings: Map<String, Value>,
    /// Sealed at rest; no answer ever holds them.
    #[serde(default)]
    pub secrets: BTreeMap<String, String>,
    /// Disks that a host moves from a connector, or writes to a repository, at the same time; 0 for no bound, as it was
    /// where not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_disks: Option<u32>,
    /// Of a repository only: stored bytes that a host writes to it in a second; 0 for no bound, as it was where not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth_bytes_per_second: Option<u64>,
}

impl From<UpdateConnection> for ConnectionChange {
    fn from(wire: UpdateConnection) -> Self {
        let UpdateConnection { settings, secrets, max_disks, bandwidth_bytes_per_second } = wire;
        let bounds = Bounds { max_disks, bandwidth: bandwidth_bytes_per_second.map(ByteLen) };
        Self { settings, secrets, bounds }
    }
}

/// A connector or a repository.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct ConnectionEntry {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// The plugin that serves it.
    pub plugin: String,
    /// Without secrets.
    pub settings: Value,
    /// The names of the secrets it has.
    pub secret_names: Vec<String>,
    /// Disks that a host moves from a connector, or writes to a repository, at the same time, where there is a bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_disks: Option<u32>,
    /// Stored bytes that a host writes to a repository in a second, where there is a bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth_bytes_per_second: Option<u64>,
    /// When it was added.
    pub created_at: String,
}

/// One page of connectors.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct ConnectorList {
    /// By name.
    pub connectors: Vec<ConnectionEntry>,
    /// For the next page.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

/// One page of repositories.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct RepositoryList {
    /// By name.
    pub repositories: Vec<ConnectionEntry>,
    /// For the next page.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

/// The names, never the values.
fn names_of(secrets_json: &str) -> Vec<String> {
    match json_value(secrets_json) {
        Value::Object(secrets) => secrets.into_iter().map(|(name, _)| name).collect(),
        _ => Vec::new(),
    }
}

impl From<&Connector> for ConnectionEntry {
    fn from(connector: &Connector) -> Self {
        let Connector { id, name, plugin, settings_json, secrets_json, max_disks, created_at } = connector;
        let entry = Self::unbounded(id, name, plugin, (settings_json, secrets_json), *created_at);
        Self { max_disks: *max_disks, ..entry }
    }
}

impl From<&Repository> for ConnectionEntry {
    fn from(repository: &Repository) -> Self {
        let Repository { id, name, plugin, settings_json, secrets_json, max_disks, bandwidth, created_at } =
            repository;
        let entry = Self::unbounded(id, name, plugin, (settings_json, secrets_json), *created_at);
        Self { max_disks: *max_disks, bandwidth_bytes_per_second: bandwidth.map(|rate| rate.0), ..entry }
    }
}

impl ConnectionEntry {
    fn unbounded(
        id: &impl ToString,
        name: &str,
        plugin: &str,
        (settings_json, secrets_json): (&str, &str),
        created_at: UtcMillis,
    ) -> Self {
        Self {
            id: id.to_string(),
            name: name.to_owned(),
            plugin: plugin.to_owned(),
            settings: json_value(settings_json),
            secret_names: names_of(secrets_json),
            max_disks: None,
            bandwidth_bytes_per_second: None,
            created_at: rfc3339(created_at),
        }
    }
}

/// A repository and how full it is.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct RepositoryDetail {
    /// The repository.
    #[serde(flatten)]
    pub entry: ConnectionEntry,
    /// How full it is.
    pub space: SpaceEntry,
}

/// How full a repository is.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct SpaceEntry {
    /// The sum of the sizes of its images and range digests. Where files share extents, less is used.
    pub objects_bytes: u64,
    /// Bytes in use on the whole file system that holds it, other files included; shared extents count once.
    pub file_system_used_bytes: Option<u64>,
    /// Bytes that may still be stored there.
    pub file_system_free_bytes: Option<u64>,
    /// The file system's size.
    pub file_system_total_bytes: Option<u64>,
}

impl From<RepositorySpace> for SpaceEntry {
    fn from(space: RepositorySpace) -> Self {
        let RepositorySpace { objects, file_system } = space;
        Self {
            objects_bytes: objects.0,
            file_system_used_bytes: file_system.map(|space| space.used.0),
            file_system_free_bytes: file_system.map(|space| space.free.0),
            file_system_total_bytes: file_system.map(|space| space.total.0),
        }
    }
}

/// Adds a vCenter connector in the shape of credentials.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
pub struct AddCredentials {
    /// A unique name.
    #[serde(alias = "credential_name")]
    pub name: String,
    /// The server's host name or address.
    #[serde(alias = "host", alias = "vcenter_url", alias = "server")]
    pub vcenter_host: String,
    /// Who logs in.
    pub username: String,
    /// The password; no answer ever holds it.
    pub password: String,
    /// Further settings of the connector, for example `port`, `thumbprint` or `transport`.
    #[serde(flatten)]
    pub settings: Map<String, Value>,
}

impl From<AddCredentials> for NewConnection {
    fn from(wire: AddCredentials) -> Self {
        let AddCredentials { name, vcenter_host, username, password, mut settings } = wire;
        settings.insert("host".to_owned(), Value::String(vcenter_host));
        settings.insert("username".to_owned(), Value::String(username));
        let secrets = BTreeMap::from([("password".to_owned(), password)]);
        Self { name, plugin: VCENTER.to_owned(), settings, secrets, bounds: Bounds::default() }
    }
}

/// A vCenter connector in the shape of credentials.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct CredentialsEntry {
    /// The connector's id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// The server's host name or address.
    pub vcenter_host: String,
    /// Who logs in.
    pub username: String,
    /// When it was added.
    pub created_at: String,
}

/// The vCenter connectors.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct CredentialsList {
    /// By name.
    pub credentials: Vec<CredentialsEntry>,
}

impl From<&Connector> for CredentialsEntry {
    fn from(connector: &Connector) -> Self {
        let Connector { id, name, plugin: _, settings_json, secrets_json: _, max_disks: _, created_at } =
            connector;
        let settings = json_value(settings_json);
        let text = |key: &str| settings.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        Self {
            id: id.to_string(),
            name: name.clone(),
            vcenter_host: text("host"),
            username: text("username"),
            created_at: rfc3339(*created_at),
        }
    }
}

/// Whether a connector is shown as credentials.
pub(crate) fn is_vcenter(connector: &Connector) -> bool {
    connector.plugin == VCENTER
}

#[cfg(test)]
mod tests {
    use tidemark_model::ConnectorId;

    use super::*;

    #[test]
    fn secrets_never_come_back() {
        let connector = Connector {
            id: ConnectorId::random(),
            name: "lab".to_owned(),
            plugin: VCENTER.to_owned(),
            settings_json: r#"{"host":"vc","username":"u"}"#.to_owned(),
            secrets_json: r#"{"password":"5ea1ed"}"#.to_owned(),
            max_disks: Some(2),
            created_at: UtcMillis(0),
        };
        let entry = serde_json::to_string(&ConnectionEntry::from(&connector)).unwrap();
        let view = serde_json::to_string(&CredentialsEntry::from(&connector)).unwrap();
        assert!(!entry.contains("5ea1ed") && !view.contains("5ea1ed"));
        assert!(entry.contains(r#""secret_names":["password"]"#));
        assert!(view.contains(r#""vcenter_host":"vc""#));
    }

    #[test]
    fn credentials_become_a_connector() {
        let wire: AddCredentials = serde_json::from_str(
            r#"{"credential_name":"lab","vcenter_host":"vc","username":"u","password":"p","port":8443}"#,
        )
        .unwrap();
        let NewConnection { name, plugin, settings, secrets, bounds: _ } = wire.into();
        assert_eq!((name.as_str(), plugin.as_str()), ("lab", VCENTER));
        assert_eq!(Value::Object(settings), serde_json::json!({"host":"vc","username":"u","port":8443}));
        assert_eq!(secrets["password"], "p");
    }
}
