//! The installed plugins of this host: versions, grants, and the sessions that jobs open with them.
//!
//! The catalog says what is installed, active and granted; the components lie in the data folder under their digest,
//! and are checked against it each time they are read.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::json;
use tidemark_catalog::{AuditEntry, Catalog, Connector as ConnectorRecord, Grant, PluginVersion, Repository};
use tidemark_model::{JobId, UtcMillis};
use tidemark_plugins::{
    AuditEvent, AuditSink, Connector, Grants, Inspection, Manifest, OwnSnapshot, Plugin, Policy, Runtime,
    RuntimeOptions, Secrets, Session, StorageTarget, inspect,
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::engine::{Engine, Shared};
use crate::error::{Error, ErrorKind, Result};
use crate::step::PluginPin;
use crate::store::blocking;

/// Who installs and grants the plugins that came with the product.
const FIRST_PARTY: &str = "host";

/// The runtime and what it has loaded.
pub(crate) struct PluginHost {
    runtime: Runtime,
    folder: PathBuf,
    catalog: Catalog,
    loaded: Mutex<HashMap<String, Plugin>>,
    audit: AuditSink,
}

impl PluginHost {
    pub(crate) fn open(data_dir: &Path, catalog: Catalog, audit: mpsc::Sender<AuditEntry>) -> Result<Self> {
        let folder = data_dir.join("plugins");
        std::fs::create_dir_all(&folder)
            .map_err(|e| Error::io(format!("creating {}", folder.display()), e))?;
        let runtime = Runtime::new(RuntimeOptions {
            cache_dir: Some(data_dir.join("cache")),
            ..RuntimeOptions::default()
        })?;
        let audit = AuditSink::new(move |event| {
            if audit.try_send(denial(event)).is_err() {
                tracing::error!("the audit queue is full; a denial is lost");
            }
        });
        Ok(Self { runtime, folder, catalog, loaded: Mutex::default(), audit })
    }

    /// Installs what came with the product: new versions are granted what they ask for (their code is ours and the
    /// administrator chose the folder) and activated where no other version of the plugin is.
    pub(crate) async fn install_first_party(&self, dir: &Path) -> Result<()> {
        let entries = match std::fs::read_dir(dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(Error::io(format!("reading {}", dir.display()), error)),
        };
        let mut files: Vec<PathBuf> =
            entries.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect();
        files.retain(|path| path.extension().is_some_and(|extension| extension == "wasm"));
        files.sort_unstable();
        for path in files {
            let bytes =
                std::fs::read(&path).map_err(|e| Error::io(format!("reading {}", path.display()), e))?;
            let installed = self.install_one_first_party(bytes).await;
            installed.map_err(|e| e.context(format!("installing {}", path.display())))?;
        }
        Ok(())
    }

    async fn install_one_first_party(&self, bytes: Vec<u8>) -> Result<()> {
        let inspection = inspect(&bytes)?;
        let Manifest { name, version, .. } = &inspection.manifest;
        let known = self.catalog.list_plugins().await?;
        if let Some(same) = known.iter().find(|known| known.name == *name && known.version == *version) {
            if same.digest != inspection.digest {
                tracing::warn!(
                    plugin = name,
                    version,
                    "the folder holds other bytes under the installed version; they are not used"
                );
            } else if !self.path(&same.digest).exists() {
                // Another host that shares the catalog installed it; this one has no copy of its own yet.
                let path = self.path(&same.digest);
                blocking("storing a plugin", move || store_component(&path, &bytes)).await?;
            }
            return Ok(());
        }
        let first = known.iter().all(|known| known.name != *name);
        self.install(bytes).await?;
        if first {
            for capability in &inspection.manifest.capabilities {
                self.grant(FIRST_PARTY, name, &capability.name).await?;
            }
        }
        if self.catalog.active_plugin(name).await?.is_none() {
            self.activate(name, version).await?;
        }
        tracing::info!(plugin = name, version, "installed a plugin that came with the product");
        Ok(())
    }

    /// Stores a component and compiles it. It is not active yet.
    pub(crate) async fn install(&self, bytes: Vec<u8>) -> Result<PluginVersion> {
        // Bytes that are no plugin are the uploader's matter, not a plugin's misbehaviour.
        let unusable = |error: tidemark_plugins::Error| Error::invalid(error.to_string());
        let inspection: Inspection = inspect(&bytes).map_err(unusable)?;
        if let Some(problem) = inspection.problem {
            return Err(Error::invalid(format!(
                "plugin '{}' does not fit its world: {problem}",
                inspection.manifest.name
            )));
        }
        let record = PluginVersion {
            name: inspection.manifest.name.clone(),
            version: inspection.manifest.version.clone(),
            kind: inspection.manifest.kind.as_str().to_owned(),
            digest: inspection.digest.clone(),
            manifest_json: inspection.manifest.to_json()?,
            installed_at: UtcMillis::now(),
            active: false,
            quarantine: None,
        };
        let path = self.path(&inspection.digest);
        let stored = bytes.clone();
        blocking("storing a plugin", move || store_component(&path, &stored)).await?;
        let plugin = self.runtime.load(&bytes).await.map_err(unusable)?;
        self.catalog.add_plugin_version(&record).await?;
        self.loaded().insert(record.digest.clone(), plugin);
        Ok(record)
    }

    /// Makes a version the one that new jobs use, once it has described itself as its manifest does.
    pub(crate) async fn activate(&self, name: &str, version: &str) -> Result<PluginVersion> {
        let record = self.catalog.plugin_version(name, version).await?;
        let plugin = self.load(&record).await?;
        self.runtime.self_check(&plugin).await?;
        Ok(self.catalog.activate_plugin(name, version, UtcMillis::now()).await?)
    }

    pub(crate) async fn grant(&self, actor: &str, plugin: &str, capability: &str) -> Result<()> {
        if self.catalog.list_plugins().await?.iter().all(|known| known.name != plugin) {
            return Err(Error::not_found("plugin", plugin));
        }
        Grants::parse([capability]).map_err(|e| Error::invalid(e.to_string()))?;
        let grant = Grant {
            plugin: plugin.to_owned(),
            capability: capability.to_owned(),
            granted_by: actor.to_owned(),
            granted_at: UtcMillis::now(),
        };
        Ok(self.catalog.add_grant(&grant).await?)
    }

    pub(crate) async fn active_manifest(&self, name: &str) -> Result<Manifest> {
        let record = self.active(name).await?;
        Ok(Manifest::from_json(record.manifest_json.as_bytes())?)
    }

    async fn active(&self, name: &str) -> Result<PluginVersion> {
        match self.catalog.active_plugin(name).await? {
            Some(record) => Ok(record),
            None => {
                let message = format!("there is no active plugin '{name}'; install and activate one");
                Err(Error::new(ErrorKind::NotFound, message))
            }
        }
    }

    /// The version to use, loaded: the pinned one, else the active one.
    async fn version(&self, name: &str, pin: Option<&PluginPin>) -> Result<(Plugin, PluginPin)> {
        let record = match pin {
            Some(pin) => self.catalog.plugin_version(&pin.name, &pin.version).await?,
            None => self.active(name).await?,
        };
        if let Some(reason) = record.quarantine.as_ref().filter(|_| pin.is_none()) {
            return Err(Error::new(ErrorKind::Plugin, format!("plugin '{name}' is in quarantine: {reason}")));
        }
        let plugin = self.load(&record).await?;
        let PluginVersion { name, version, digest, .. } = record;
        Ok((plugin, PluginPin { name, version, digest }))
    }

    async fn load(&self, record: &PluginVersion) -> Result<Plugin> {
        if let Some(plugin) = self.loaded().get(&record.digest) {
            return Ok(plugin.clone());
        }
        let path = self.path(&record.digest);
        let bytes = blocking("reading a plugin", move || {
            std::fs::read(&path).map_err(|e| Error::io(format!("reading {}", path.display()), e))
        })
        .await?;
        if tidemark_plugins::digest(&bytes) != record.digest {
            let message = format!(
                "the stored bytes of plugin {} {} are damaged; install it again",
                record.name, record.version
            );
            return Err(Error::damaged(message));
        }
        let plugin = self.runtime.load(&bytes).await?;
        self.loaded().insert(record.digest.clone(), plugin.clone());
        Ok(plugin)
    }

    async fn session(
        &self,
        plugin: &str,
        settings_json: &str,
        secrets: Secrets,
        job: Option<JobId>,
    ) -> Result<Session> {
        let granted = self.catalog.list_grants(plugin).await?;
        let grants = Grants::parse(granted.iter().map(|grant| grant.capability.as_str()))
            .map_err(|e| Error::damaged(format!("a stored grant of '{plugin}': {e}")))?;
        Ok(Session {
            settings_json: settings_json.to_owned(),
            secrets,
            grants,
            label: job.map_or_else(String::new, |id| id.to_string()),
            audit: Some(self.audit.clone()),
        })
    }

    fn path(&self, digest: &str) -> PathBuf {
        self.folder.join(format!("{digest}.wasm"))
    }

    fn loaded(&self) -> std::sync::MutexGuard<'_, HashMap<String, Plugin>> {
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    /// A session with a hypervisor, configured and not logged in yet.
    pub(crate) async fn open_connector(
        &self,
        record: &ConnectorRecord,
        job: Option<JobId>,
        pin: Option<&PluginPin>,
    ) -> Result<(Connector, PluginPin)> {
        let (plugin, pin) = self.plugins.version(&record.plugin, pin).await?;
        let secrets = self.secrets.open_all(&record.name, &record.secrets_json)?.into_iter().collect();
        let session = self.plugins.session(&record.plugin, &record.settings_json, secrets, job).await?;
        Ok((self.plugins.runtime.connector(&plugin, session).await?, pin))
    }

    /// A session with a storage target, configured.
    pub(crate) async fn open_storage(
        &self,
        record: &Repository,
        job: Option<JobId>,
        pin: Option<&PluginPin>,
    ) -> Result<(StorageTarget, PluginPin)> {
        let (plugin, pin) = self.plugins.version(&record.plugin, pin).await?;
        let secrets = self.secrets.open_all(&record.name, &record.secrets_json)?.into_iter().collect();
        let session = self.plugins.session(&record.plugin, &record.settings_json, secrets, job).await?;
        Ok((self.plugins.runtime.storage_target(&plugin, session).await?, pin))
    }

    /// A policy plugin, ready to be asked.
    pub(crate) async fn open_policy(&self, name: &str) -> Result<(Policy, PluginPin)> {
        let (plugin, pin) = self.plugins.version(name, None).await?;
        let session = self.plugins.session(name, "{}", Secrets::default(), None).await?;
        Ok((self.plugins.runtime.policy(&plugin, session).await?, pin))
    }
}

impl Engine {
    /// Installs a component; it is active only once [`Engine::activate_plugin`] says so.
    ///
    /// # Errors
    /// Plugin where it is no component that fits its world; conflict where the version is installed already.
    pub async fn install_plugin(&self, actor: &str, bytes: Vec<u8>) -> Result<PluginVersion> {
        let record = self.shared.plugins.install(bytes).await?;
        let detail = json!({ "version": record.version, "digest": record.digest });
        self.shared.audit(actor, "plugin.install", &record.name, detail).await;
        Ok(record)
    }

    /// New jobs use this version from now on; running ones keep theirs.
    ///
    /// # Errors
    /// Not found; plugin where its self-check fails.
    pub async fn activate_plugin(&self, actor: &str, name: &str, version: &str) -> Result<()> {
        self.shared.plugins.activate(name, version).await?;
        self.shared.audit(actor, "plugin.activate", name, json!({ "version": version })).await;
        Ok(())
    }

    /// Goes back to the version that was active before.
    ///
    /// # Errors
    /// Not found where there is none.
    pub async fn rollback_plugin(&self, actor: &str, name: &str) -> Result<PluginVersion> {
        let record = self.catalog().rollback_plugin(name, UtcMillis::now()).await?;
        self.shared.audit(actor, "plugin.rollback", name, json!({ "version": record.version })).await;
        Ok(record)
    }

    /// Removes a version that nothing uses.
    ///
    /// # Errors
    /// Not found; conflict while it is active and in use.
    pub async fn remove_plugin(&self, actor: &str, name: &str, version: &str) -> Result<()> {
        // Any job may have pinned it, and its undoing needs it too.
        if let Some(job) = self.shared.jobs_in_progress().await?.first() {
            let message =
                format!("job {} is running; remove plugin {name} {version} when it has ended", job.id);
            return Err(Error::new(ErrorKind::Conflict, message));
        }
        self.catalog().remove_plugin_version(name, version).await?;
        self.shared.audit(actor, "plugin.remove", name, json!({ "version": version })).await;
        Ok(())
    }

    /// Gives a plugin a right. Open sessions keep the rights they began with.
    ///
    /// # Errors
    /// Not found; invalid where it is no capability.
    pub async fn grant_plugin(&self, actor: &str, name: &str, capability: &str) -> Result<()> {
        self.shared.plugins.grant(actor, name, capability).await?;
        self.shared.audit(actor, "plugin.grant", name, json!({ "capability": capability })).await;
        Ok(())
    }

    /// Takes a right away.
    ///
    /// # Errors
    /// Not found.
    pub async fn revoke_grant(&self, actor: &str, name: &str, capability: &str) -> Result<()> {
        self.catalog().remove_grant(name, capability).await?;
        self.shared.audit(actor, "plugin.revoke", name, json!({ "capability": capability })).await;
        Ok(())
    }
}

/// How long a hypervisor may take over one task, such as merging a snapshot of many days.
const PATIENCE: Duration = Duration::from_secs(4 * 3600);

/// Patience with a task of the hypervisor: a call itself is short, what it began need not be. The plugin then answers
/// `unavailable` with a time to wait, and wants to be called again.
pub(crate) struct Patience {
    begun: Instant,
}

impl Patience {
    pub(crate) fn new() -> Self {
        Self { begun: Instant::now() }
    }

    /// Waits, where calling again makes sense.
    ///
    /// # Errors
    /// The error itself where it does not; cancelled.
    pub(crate) async fn wait(
        &self,
        error: tidemark_plugins::Error,
        cancel: &CancellationToken,
    ) -> Result<()> {
        let running = *error.kind() == tidemark_plugins::ErrorKind::Unavailable;
        let Some(pause) = error.retry_after().filter(|_| running && self.begun.elapsed() < PATIENCE) else {
            return Err(error.into());
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => Ok(()),
            () = cancel.cancelled() => Err(Error::cancelled()),
        }
    }
}

/// Removes a snapshot, however long that takes. The host's stop does not stop it: a snapshot that stays costs the VM.
pub(crate) async fn remove_snapshot(connector: &mut Connector, vm_key: &str, token: &str) -> Result<()> {
    let (patience, never) = (Patience::new(), CancellationToken::new());
    while let Err(error) = connector.remove_snapshot(vm_key, token).await {
        patience.wait(error, &never).await?;
    }
    Ok(())
}

/// Our snapshots on a VM, the one included that is still being taken.
pub(crate) async fn list_own_snapshots(connector: &mut Connector, vm_key: &str) -> Result<Vec<OwnSnapshot>> {
    let (patience, never) = (Patience::new(), CancellationToken::new());
    loop {
        match connector.list_own_snapshots(vm_key).await {
            Ok(snapshots) => return Ok(snapshots),
            Err(error) => patience.wait(error, &never).await?,
        }
    }
}

/// Ends a hypervisor's session. What was done stands, so a failure is of no consequence.
pub(crate) async fn log_out(connector: Connector) {
    if let Err(error) = connector.close().await {
        tracing::debug!(error = %error, "logging out failed");
    }
}

/// Writes a component under its digest, durably; one that is there already is the same.
fn store_component(path: &Path, bytes: &[u8]) -> Result<()> {
    let failed = |e: std::io::Error| Error::io(format!("storing {}", path.display()), e);
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(failed)?;
    std::io::Write::write_all(&mut file, bytes).map_err(failed)?;
    file.as_file().sync_all().map_err(failed)?;
    file.persist(path).map_err(|e| failed(e.error))?;
    std::fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)
}

fn denial(event: AuditEvent) -> AuditEntry {
    let AuditEvent { plugin, version, label, capability, target, reason } = event;
    AuditEntry {
        at: UtcMillis::now(),
        actor: format!("plugin {plugin} {version}"),
        action: format!("plugin.{capability}"),
        target,
        outcome: "denied".to_owned(),
        detail_json: json!({ "job_id": label, "reason": reason }).to_string(),
    }
}

impl From<tidemark_plugins::Error> for Error {
    fn from(error: tidemark_plugins::Error) -> Self {
        use tidemark_plugins::ErrorKind as Guest;
        let kind = match error.kind() {
            Guest::Config | Guest::Unsupported => ErrorKind::Invalid,
            Guest::Auth => ErrorKind::Auth,
            Guest::NotFound => ErrorKind::NotFound,
            Guest::Conflict => ErrorKind::Conflict,
            Guest::Throttled | Guest::Unavailable => ErrorKind::Unavailable,
            Guest::Cancelled => ErrorKind::Cancelled,
            Guest::Corrupt | Guest::ChangeTrackingReset { .. } => ErrorKind::Damaged,
            Guest::Denied => ErrorKind::Denied,
            Guest::Limit | Guest::Timeout | Guest::Trap | Guest::Invalid | Guest::Load | Guest::Build => {
                ErrorKind::Plugin
            }
            Guest::Other(_) => ErrorKind::Internal,
        };
        let message = error.to_string();
        Self::wrap(kind, &message, error)
    }
}
