//! Connections: hypervisors and repositories, their settings and secrets. Settings are checked against the
//! plugin's schema and tried with the plugin itself before anything is stored.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use tidemark_catalog::{Connector, Repository};
use tidemark_model::{ConnectorId, RepositoryId, UtcMillis};
use tidemark_plugins::PluginKind;

use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::plugins;
use crate::requests::NewConnection;
use crate::store::ObjectStore;

impl Engine {
    /// Adds a connection to a hypervisor. It is not contacted; [`Engine::test_connector`] does that.
    ///
    /// # Errors
    /// Invalid settings by field; conflict where the name is taken; not found for an unknown plugin.
    pub async fn add_connector(&self, actor: &str, new: NewConnection) -> Result<Connector> {
        self.check(&new, PluginKind::Connector).await?;
        let NewConnection { name, plugin, settings, secrets } = new;
        let record = Connector {
            id: ConnectorId::random(),
            secrets_json: self.shared.secrets.seal_all(&name, &secrets)?,
            settings_json: Value::Object(settings).to_string(),
            name,
            plugin,
            created_at: UtcMillis::now(),
        };
        // Opening it configures the plugin: settings that it refuses are never stored.
        let (session, _) = self.shared.open_connector(&record, None, None).await?;
        plugins::log_out(session).await;
        self.catalog().add_connector(&record).await?;
        self.shared.audit(actor, "connector.add", &record.name, json!({ "plugin": record.plugin })).await;
        Ok(record)
    }

    /// Changes a connection, for example its password: what is given replaces what was, the rest stays. Running jobs
    /// keep what they began with.
    ///
    /// # Errors
    /// Not found; invalid settings by field.
    pub async fn update_connector(
        &self,
        actor: &str,
        name_or_id: &str,
        settings: Map<String, Value>,
        secrets: BTreeMap<String, String>,
    ) -> Result<Connector> {
        let old = self.connector(name_or_id).await?;
        let changed: Vec<String> = settings.keys().chain(secrets.keys()).cloned().collect();
        let mut all: Map<String, Value> = serde_json::from_str(&old.settings_json)
            .map_err(|e| Error::damaged(format!("the stored settings of connector '{}': {e}", old.name)))?;
        all.extend(settings);
        let mut sealed = self.shared.secrets.open_all(&old.name, &old.secrets_json)?;
        sealed.extend(secrets);
        let Connector { id, name, plugin, created_at, .. } = old;
        let new = NewConnection { name, plugin, settings: all, secrets: sealed };
        self.check(&new, PluginKind::Connector).await?;
        let NewConnection { name, plugin, settings, secrets } = new;
        let record = Connector {
            id,
            secrets_json: self.shared.secrets.seal_all(&name, &secrets)?,
            settings_json: Value::Object(settings).to_string(),
            name,
            plugin,
            created_at,
        };
        let (session, _) = self.shared.open_connector(&record, None, None).await?;
        plugins::log_out(session).await;
        self.catalog().update_connector(&record).await?;
        self.shared.audit(actor, "connector.update", &record.name, json!({ "changed": changed })).await;
        Ok(record)
    }

    /// Removes a connection that no VM refers to.
    ///
    /// # Errors
    /// Not found; conflict.
    pub async fn remove_connector(&self, actor: &str, name_or_id: &str) -> Result<()> {
        let record = self.connector(name_or_id).await?;
        self.catalog().remove_connector(record.id).await?;
        self.shared.audit(actor, "connector.remove", &record.name, json!({})).await;
        Ok(())
    }

    /// Adds a repository and looks whether it can be listed.
    ///
    /// # Errors
    /// Invalid settings by field; denied where the plugin lacks the grant for the place; conflict where the name is
    /// taken; not found for an unknown plugin.
    pub async fn add_repository(&self, actor: &str, new: NewConnection) -> Result<Repository> {
        self.check(&new, PluginKind::StorageTarget).await?;
        let NewConnection { name, plugin, settings, secrets } = new;
        let record = Repository {
            id: RepositoryId::random(),
            secrets_json: self.shared.secrets.seal_all(&name, &secrets)?,
            settings_json: Value::Object(settings).to_string(),
            name,
            plugin,
            created_at: UtcMillis::now(),
        };
        let (target, _) = self.shared.open_storage(&record, None, None).await?;
        ObjectStore::establish(record.name.clone(), target).await?.list("").await?;
        self.catalog().add_repository(&record).await?;
        self.shared.audit(actor, "repository.add", &record.name, json!({ "plugin": record.plugin })).await;
        Ok(record)
    }

    /// Forgets a repository that no backup refers to; its objects stay.
    ///
    /// # Errors
    /// Not found; conflict.
    pub async fn remove_repository(&self, actor: &str, name_or_id: &str) -> Result<()> {
        let record = self.repository(name_or_id).await?;
        self.shared
            .refuse_while_used(&record.id.to_string(), &format!("repository '{}'", record.name))
            .await?;
        self.catalog().remove_repository(record.id).await?;
        self.shared.audit(actor, "repository.remove", &record.name, json!({})).await;
        Ok(())
    }

    pub(crate) async fn connector(&self, name_or_id: &str) -> Result<Connector> {
        let found = self.catalog().connector_by_name_or_id(name_or_id).await?;
        found.ok_or_else(|| Error::not_found("connector", name_or_id))
    }

    pub(crate) async fn repository(&self, name_or_id: &str) -> Result<Repository> {
        let found = self.catalog().repository_by_name_or_id(name_or_id).await?;
        found.ok_or_else(|| Error::not_found("repository", name_or_id))
    }

    async fn check(&self, new: &NewConnection, kind: PluginKind) -> Result<()> {
        let NewConnection { name, plugin, settings, secrets } = new;
        let named = !name.is_empty()
            && name.len() <= 100
            && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
        if !named {
            return Err(Error::invalid(format!(
                "'{name}' is no usable name: letters, digits, '-', '_' and '.' only"
            )));
        }
        let manifest = self.shared.plugins.active_manifest(plugin).await?;
        if manifest.kind != kind {
            return Err(Error::invalid(format!("plugin '{plugin}' is a {}, not a {kind}", manifest.kind)));
        }
        check_settings(&manifest.settings, settings)?;
        check_secrets(secrets)
    }
}

/// Checks settings against a plugin's JSON Schema; the error names each field.
fn check_settings(schema: &Value, settings: &Map<String, Value>) -> Result<()> {
    let validator = jsonschema::validator_for(schema)
        .map_err(|e| Error::invalid(format!("the plugin's settings schema is unusable: {e}")))?;
    let instance = Value::Object(settings.clone());
    let problems: Vec<String> = validator
        .iter_errors(&instance)
        .map(|error| {
            let path = error.instance_path().to_string();
            let field = if path.is_empty() {
                String::new()
            } else {
                format!("setting '{}': ", path.trim_start_matches('/'))
            };
            format!("{field}{error}")
        })
        .collect();
    if problems.is_empty() { Ok(()) } else { Err(Error::invalid(problems.join("; "))) }
}

fn check_secrets(secrets: &BTreeMap<String, String>) -> Result<()> {
    match secrets.iter().find(|(name, value)| name.is_empty() || value.is_empty()) {
        Some((name, _)) => Err(Error::invalid(format!("secret '{name}' is empty"))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_setting_is_named() {
        let schema = json!({
            "type": "object",
            "required": ["host"],
            "properties": { "host": { "type": "string" }, "port": { "type": "integer", "maximum": 65535 } },
            "additionalProperties": false,
        });
        let settings = |value: Value| value.as_object().cloned().unwrap();
        assert!(check_settings(&schema, &settings(json!({ "host": "vc", "port": 443 }))).is_ok());
        let error = check_settings(&schema, &settings(json!({ "host": "vc", "port": 70000 }))).unwrap_err();
        assert!(error.to_string().contains("'port'"), "{error}");
        let error = check_settings(&schema, &settings(json!({}))).unwrap_err();
        assert!(error.to_string().contains("host"), "{error}");
        assert!(check_settings(&schema, &settings(json!({ "host": "vc", "prot": 1 }))).is_err());
    }
}
