//! Connections: hypervisors and repositories, their settings, secrets and bounds. Settings are checked against the
//! plugin's schema and tried with the plugin itself before anything is stored.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jsonschema::error::ValidationErrorKind;
use serde_json::{Map, Value, json};
use tidemark_catalog::{BackupFilter, Connector, PageRequest, Repository};
use tidemark_model::{ByteLen, ConnectorId, JobKind, RepositoryId, UtcMillis};
use tidemark_plugins::PluginKind;

use crate::engine::{Engine, Shared};
use crate::error::{Error, ErrorKind, Result};
use crate::plugins;
use crate::requests::{Bounds, ConnectionChange, NewConnection};
use crate::store::ObjectStore;
use crate::throttle;

/// How often bounds are read again.
const WATCH: Duration = Duration::from_secs(5);

/// Settings and secrets as they are stored.
struct Sealed {
    settings_json: String,
    secrets_json: String,
}

impl Engine {
    /// Adds a connection to a hypervisor. It is not contacted; [`Engine::test_connector`] does that.
    ///
    /// # Errors
    /// Invalid settings by field; conflict where the name is taken; not found for an unknown plugin.
    pub async fn add_connector(&self, actor: &str, new: NewConnection) -> Result<Connector> {
        let Sealed { settings_json, secrets_json } = self.seal(&new, PluginKind::Connector).await?;
        let NewConnection { name, plugin, bounds, .. } = new;
        let record = Connector {
            id: ConnectorId::random(),
            name,
            plugin,
            settings_json,
            secrets_json,
            max_disks: connector_bound(bounds, None)?,
            created_at: UtcMillis::now(),
        };
        self.try_connector(&record).await?;
        self.catalog().add_connector(&record).await?;
        self.shared.audit(actor, "connector.add", &record.name, json!({ "plugin": record.plugin })).await;
        Ok(record)
    }

    /// Changes a connection, for example its password: what is given replaces what was, the rest stays. Running jobs
    /// keep the settings and secrets that they began with; the bound on disks is theirs too from now on.
    ///
    /// # Errors
    /// Not found; invalid settings by field.
    pub async fn update_connector(
        &self,
        actor: &str,
        name_or_id: &str,
        change: ConnectionChange,
    ) -> Result<Connector> {
        let old = self.connector(name_or_id).await?;
        let (changed, bounds) = (change.names(), change.bounds);
        let stored = (old.settings_json.as_str(), old.secrets_json.as_str());
        let new = self.merged(&old.name, &old.plugin, stored, change)?;
        let Sealed { settings_json, secrets_json } = self.seal(&new, PluginKind::Connector).await?;
        let max_disks = connector_bound(bounds, old.max_disks)?;
        let record = Connector { settings_json, secrets_json, max_disks, ..old };
        self.try_connector(&record).await?;
        self.catalog().update_connector(&record).await?;
        self.shared.disk_slots.bound(record.id.into(), record.max_disks);
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
        let Sealed { settings_json, secrets_json } = self.seal(&new, PluginKind::StorageTarget).await?;
        let NewConnection { name, plugin, bounds, .. } = new;
        let record = Repository {
            id: RepositoryId::random(),
            name,
            plugin,
            settings_json,
            secrets_json,
            max_disks: max_disks(bounds, None),
            bandwidth: bandwidth(bounds, None)?,
            created_at: UtcMillis::now(),
        };
        let (target, _) = self.shared.open_storage(&record, None, None).await?;
        ObjectStore::establish(record.name.clone(), target).await?.list("").await?;
        self.catalog().add_repository(&record).await?;
        self.shared.audit(actor, "repository.add", &record.name, json!({ "plugin": record.plugin })).await;
        Ok(record)
    }

    /// Changes a repository: what is given replaces what was, the rest stays. A new place must be one already (it
    /// bears the mark) and hold the backups that the catalog knows: objects are not moved. A new bandwidth is that of
    /// running jobs too.
    ///
    /// # Errors
    /// Not found; invalid settings by field; unavailable where the new place bears no mark; conflict where it holds
    /// none of the known backups, or a job writes to the old one.
    pub async fn update_repository(
        &self,
        actor: &str,
        name_or_id: &str,
        change: ConnectionChange,
    ) -> Result<Repository> {
        let old = self.repository(name_or_id).await?;
        let (changed, bounds) = (change.names(), change.bounds);
        let moved = !change.settings.is_empty() || !change.secrets.is_empty();
        let stored = (old.settings_json.as_str(), old.secrets_json.as_str());
        let new = self.merged(&old.name, &old.plugin, stored, change)?;
        let Sealed { settings_json, secrets_json } = self.seal(&new, PluginKind::StorageTarget).await?;
        let max_disks = max_disks(bounds, old.max_disks);
        let bandwidth = bandwidth(bounds, old.bandwidth)?;
        let record = Repository { settings_json, secrets_json, max_disks, bandwidth, ..old };
        if moved {
            self.refuse_while_written(&record).await?;
            self.try_repository(&record).await?;
        }
        self.catalog().update_repository(&record).await?;
        self.shared.disk_slots.bound(record.id.into(), record.max_disks);
        self.shared.throttles.bound(record.id, record.bandwidth);
        self.shared.audit(actor, "repository.update", &record.name, json!({ "changed": changed })).await;
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

    /// Opening it configures the plugin: settings that it refuses are never stored.
    async fn try_connector(&self, record: &Connector) -> Result<()> {
        let (session, _) = self.shared.open_connector(record, None, None).await?;
        plugins::log_out(session).await;
        Ok(())
    }

    /// Looks whether the place is this repository.
    async fn try_repository(&self, record: &Repository) -> Result<()> {
        let (target, _) = self.shared.open_storage(record, None, None).await?;
        let listed = ObjectStore::over(record.name.clone(), target).await?.list("").await?;
        let filter = BackupFilter { repository_id: Some(record.id), ..BackupFilter::default() };
        let known = self.catalog().list_backups(&filter, &PageRequest { limit: 1000, cursor: None }).await?;
        let here = |key: &String| listed.iter().any(|(listed, _)| listed == key);
        if known.items.is_empty() || known.items.iter().any(|backup| here(&backup.manifest_key)) {
            return Ok(());
        }
        let message = format!(
            "the new place holds none of the backups of repository '{}'; move them first",
            record.name
        );
        Err(Error::new(ErrorKind::Conflict, message))
    }

    /// Whoever writes now would leave its objects at the old place.
    async fn refuse_while_written(&self, record: &Repository) -> Result<()> {
        let id = record.id.to_string();
        // The payloads of these name backups only, of whatever repository.
        let merges = |kind: JobKind| matches!(kind, JobKind::DeleteBackup | JobKind::SynthesizeFull);
        let jobs = self.shared.jobs_in_progress().await?;
        match jobs.iter().find(|job| merges(job.kind) || job.payload_json.contains(&id)) {
            Some(job) => {
                let message = format!("repository '{}' may be in use by job {}", record.name, job.id);
                Err(Error::new(ErrorKind::Conflict, message))
            }
            None => Ok(()),
        }
    }

    /// The connection as it is after the change.
    fn merged(
        &self,
        name: &str,
        plugin: &str,
        (settings_json, secrets_json): (&str, &str),
        change: ConnectionChange,
    ) -> Result<NewConnection> {
        let ConnectionChange { settings: changed_settings, secrets: changed_secrets, bounds } = change;
        let mut settings: Map<String, Value> = serde_json::from_str(settings_json)
            .map_err(|e| Error::damaged(format!("the stored settings of '{name}': {e}")))?;
        settings.extend(changed_settings);
        let mut secrets = self.shared.secrets.open_all(name, secrets_json)?;
        secrets.extend(changed_secrets);
        Ok(NewConnection { name: name.to_owned(), plugin: plugin.to_owned(), settings, secrets, bounds })
    }

    /// Checks all that can be checked without the plugin's help.
    async fn seal(&self, new: &NewConnection, kind: PluginKind) -> Result<Sealed> {
        let NewConnection { name, plugin, settings, secrets, bounds: _ } = new;
        let named = !name.is_empty()
            && name.len() <= 100
            && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
        if !named {
            let message = format!("'{name}' is no usable name: letters, digits, '-', '_' and '.' only");
            return Err(Error::invalid_field("name", message));
        }
        let manifest = self.shared.plugins.active_manifest(plugin).await?;
        if manifest.kind != kind {
            let message = format!("plugin '{plugin}' is a {}, not a {kind}", manifest.kind);
            return Err(Error::invalid_field("plugin", message));
        }
        check_settings(&manifest.settings, settings)?;
        check_secrets(secrets)?;
        Ok(Sealed {
            settings_json: Value::Object(settings.clone()).to_string(),
            secrets_json: self.shared.secrets.seal_all(name, secrets)?,
        })
    }
}

/// Carries the bounds of the catalog to whatever runs here, as another host may have changed them.
pub(crate) async fn watch_bounds(shared: Arc<Shared>) {
    while !shared.is_stopping() {
        if let Err(error) = read_bounds(&shared).await {
            tracing::debug!(error = %error.chain(), "reading the bounds of connections failed; they stay");
        }
        tokio::select! {
            () = tokio::time::sleep(WATCH) => {}
            () = shared.shutdown.cancelled() => {}
        }
    }
}

async fn read_bounds(shared: &Shared) -> Result<()> {
    for connector in shared.catalog.list_connectors().await? {
        shared.disk_slots.bound(connector.id.into(), connector.max_disks);
    }
    for repository in shared.catalog.list_repositories().await? {
        shared.disk_slots.bound(repository.id.into(), repository.max_disks);
        shared.throttles.bound(repository.id, repository.bandwidth);
    }
    Ok(())
}

impl ConnectionChange {
    /// What is changed, for the audit trail; never a value.
    fn names(&self) -> Vec<String> {
        let Self { settings, secrets, bounds: Bounds { max_disks, bandwidth } } = self;
        let bounds = [max_disks.map(|_| "max_disks"), bandwidth.map(|_| "bandwidth_bytes_per_second")];
        let bounds = bounds.into_iter().flatten().map(str::to_owned);
        settings.keys().chain(secrets.keys()).cloned().chain(bounds).collect()
    }
}

/// A connector's one bound, where it had `old` before.
fn connector_bound(bounds: Bounds, old: Option<u32>) -> Result<Option<u32>> {
    if bounds.bandwidth.is_some() {
        let message = "bandwidth_bytes_per_second: a bandwidth is a repository's, not a connector's";
        return Err(Error::invalid_field("bandwidth_bytes_per_second", message));
    }
    Ok(max_disks(bounds, old))
}

/// The bound on disks, where it was `old` before.
fn max_disks(bounds: Bounds, old: Option<u32>) -> Option<u32> {
    bounds.max_disks.or(old).filter(|&disks| disks != 0)
}

/// A repository's bandwidth, where it was `old` before.
fn bandwidth(bounds: Bounds, old: Option<ByteLen>) -> Result<Option<ByteLen>> {
    match bounds.bandwidth {
        Some(rate) => throttle::checked(rate),
        None => Ok(old),
    }
}

/// Checks settings against a plugin's JSON Schema; the error names each field.
fn check_settings(schema: &Value, settings: &Map<String, Value>) -> Result<()> {
    let validator = jsonschema::validator_for(schema)
        .map_err(|e| Error::invalid(format!("the plugin's settings schema is unusable: {e}")))?;
    let instance = Value::Object(settings.clone());
    let mut at_fault = None;
    let mut problems: Vec<String> = Vec::new();
    for error in validator.iter_errors(&instance) {
        let place = setting_at_fault(&error);
        let words = if place.is_empty() { String::new() } else { format!("setting '{place}': ") };
        problems.push(format!("{words}{error}"));
        at_fault.get_or_insert(place);
    }
    match at_fault {
        None => Ok(()),
        Some(place) if place.is_empty() => Err(Error::invalid_field("settings", problems.join("; "))),
        Some(place) => Err(Error::invalid_field(format!("settings.{place}"), problems.join("; "))),
    }
}

/// The path of the setting that a finding is about, empty where it is about all of them: one that is missing or
/// unknown is found at the object that should or should not have it.
fn setting_at_fault(error: &jsonschema::ValidationError<'_>) -> String {
    let mut path = error.instance_path().to_string();
    let more = match error.kind() {
        ValidationErrorKind::Required { property } => property.as_str(),
        ValidationErrorKind::AdditionalProperties { unexpected }
        | ValidationErrorKind::UnevaluatedProperties { unexpected } => unexpected.first().map(String::as_str),
        _ => None,
    };
    if let Some(name) = more {
        path = format!("{path}/{name}");
    }
    path.trim_start_matches('/').replace('/', ".")
}

fn check_secrets(secrets: &BTreeMap<String, String>) -> Result<()> {
    match secrets.iter().find(|(name, value)| name.is_empty() || value.is_empty()) {
        Some((name, _)) => {
            Err(Error::invalid_field(format!("secrets.{name}"), format!("secret '{name}' is empty")))
        }
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
            "properties": {
                "host": { "type": "string" },
                "port": { "type": "integer", "maximum": 65535 },
                "modes": { "type": "array", "items": { "type": "string" } },
            },
            "additionalProperties": false,
        });
        let checked = |value: Value| check_settings(&schema, value.as_object().unwrap());
        assert!(checked(json!({ "host": "vc", "port": 443 })).is_ok());
        for (wrong, field) in [
            (json!({ "host": "vc", "port": 70000 }), "settings.port"),
            (json!({}), "settings.host"),
            (json!({ "host": "vc", "prot": 1 }), "settings.prot"),
            (json!({ "host": "vc", "modes": ["a", 1] }), "settings.modes.1"),
        ] {
            let error = checked(wrong).unwrap_err();
            assert_eq!(error.field(), Some(field), "{error}");
            let name = field.rsplit('.').next().unwrap();
            assert!(error.to_string().contains(name), "{error}");
        }
    }

    #[test]
    fn a_bound_stays_goes_or_changes_and_belongs_to_its_sort() {
        let disks = |max_disks| Bounds { max_disks, bandwidth: None };
        assert_eq!(max_disks(disks(None), Some(3)), Some(3));
        assert_eq!(max_disks(disks(Some(0)), Some(3)), None);
        assert_eq!(connector_bound(disks(Some(5)), None).unwrap(), Some(5));
        let rate = |bytes| Bounds { max_disks: None, bandwidth: Some(ByteLen(bytes)) };
        assert_eq!(bandwidth(rate(0), Some(ByteLen(1 << 20))).unwrap(), None);
        assert_eq!(bandwidth(Bounds::default(), Some(ByteLen(1 << 20))).unwrap(), Some(ByteLen(1 << 20)));
        let foreign = connector_bound(rate(1 << 20), None).unwrap_err();
        assert_eq!(foreign.field(), Some("bandwidth_bytes_per_second"));
    }
}
