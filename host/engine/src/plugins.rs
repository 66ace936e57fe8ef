//! The plugins that this host has loaded, and the sessions that jobs open with them. How versions come and go is in
//! [`lifecycle`], what a misbehaving one brings on itself in [`strikes`].
//!
//! The catalog says what is installed, active and granted, and has the components for every host. Copies lie in the data
//! folder under their digest, and are checked against it each time they are read.

mod lifecycle;
mod patience;
mod strikes;
mod trust;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::json;
use tidemark_catalog::{AuditEntry, Catalog, Connector as ConnectorRecord, PluginVersion, Repository};
use tidemark_model::{JobId, UtcMillis};
use tidemark_plugins::{
    AuditEvent, AuditSink, Compiler, ConductSink, Connector, Grants, GuestFilesystem, Manifest, Plugin,
    PluginKind, Policy, ReadOnlyDisk, Runtime, RuntimeOptions, Secrets, Session, StorageTarget, VolumeReader,
};
use tokio::sync::mpsc;

use crate::engine::Shared;
use crate::error::{Error, ErrorKind, Result};
use crate::step::PluginPin;
use crate::store::blocking;

pub use lifecycle::NewPlugin;
pub(crate) use patience::{Patience, list_own_snapshots, log_out, remove_snapshot};
pub use trust::{Trust, TrustError};

/// How plugins are compiled and whom to believe.
#[derive(Debug, Clone, Default)]
pub struct PluginOptions {
    /// A folder with plugins that are installed at the start (`*.wasm`): part of the product.
    pub dir: Option<PathBuf>,
    /// Whose signatures count.
    pub trust: Trust,
    /// Who compiles components; none compiles in this process.
    pub compiler: Option<Compiler>,
}

/// The runtime and what it has loaded.
pub(crate) struct PluginHost {
    runtime: Runtime,
    folder: PathBuf,
    catalog: Catalog,
    trust: Trust,
    loaded: Mutex<HashMap<String, Plugin>>,
    audit: AuditSink,
    conduct: ConductSink,
}

impl PluginHost {
    pub(crate) fn open(
        data_dir: &Path,
        catalog: Catalog,
        options: PluginOptions,
        audit: mpsc::Sender<AuditEntry>,
    ) -> Result<Self> {
        let PluginOptions { dir: _, trust, compiler } = options;
        let folder = data_dir.join("plugins");
        std::fs::create_dir_all(&folder)
            .map_err(|e| Error::io(format!("creating {}", folder.display()), e))?;
        let runtime = Runtime::new(RuntimeOptions {
            cache_dir: Some(data_dir.join("cache")),
            compiler,
            ..RuntimeOptions::default()
        })?;
        let conduct = strikes::watch(catalog.clone(), audit.clone());
        let audit = AuditSink::new(move |event| {
            if audit.try_send(denial(event)).is_err() {
                tracing::error!("the audit queue is full; a denial is lost");
            }
        });
        Ok(Self { runtime, folder, catalog, trust, loaded: Mutex::default(), audit, conduct })
    }

    pub(crate) async fn active_manifest(&self, name: &str) -> Result<Manifest> {
        let record = self.active(name).await?;
        Ok(Manifest::from_json(record.manifest_json.as_bytes())?)
    }

    async fn active(&self, name: &str) -> Result<PluginVersion> {
        match self.catalog.active_plugin(name).await? {
            Some(record) => Ok(record),
            None => Err(self.why_none_is_active(name).await?),
        }
    }

    async fn why_none_is_active(&self, name: &str) -> Result<Error> {
        let all = self.catalog.list_plugins().await?;
        let held = all.iter().rfind(|known| known.name == name && known.quarantine.is_some());
        let Some(PluginVersion { version, quarantine: Some(reason), .. }) = held else {
            let message = format!("there is no active plugin '{name}'; install and activate one");
            return Ok(Error::new(ErrorKind::NotFound, message));
        };
        let message = format!(
            "plugin {name} {version} is in quarantine: {reason}; activate another version, or this one again after \
             `tidemark plugin release {name} {version}`"
        );
        Ok(Error::new(ErrorKind::Plugin, message))
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
        let bytes = self.component(record).await?;
        let plugin = self.runtime.load(&bytes).await?;
        self.loaded().insert(record.digest.clone(), plugin.clone());
        Ok(plugin)
    }

    /// The bytes of a version: this host's own copy, or the catalog's where that is missing or damaged.
    async fn component(&self, record: &PluginVersion) -> Result<Vec<u8>> {
        let (path, digest) = (self.path(&record.digest), record.digest.clone());
        let own = blocking("reading a plugin", move || {
            Ok(std::fs::read(&path).ok().filter(|bytes| tidemark_plugins::digest(bytes) == digest))
        });
        if let Some(bytes) = own.await? {
            self.catalog.keep_plugin_component(&record.digest, &bytes).await?;
            return Ok(bytes);
        }
        let bytes = self.catalog.plugin_component(&record.digest).await?;
        let bytes = bytes.filter(|bytes| tidemark_plugins::digest(bytes) == record.digest).ok_or_else(|| {
            let PluginVersion { name, version, .. } = record;
            let message = format!(
                "the component of plugin {name} {version} is missing or damaged; remove that version and install it again"
            );
            Error::damaged(message)
        })?;
        self.keep(&record.digest, &bytes).await?;
        Ok(bytes)
    }

    /// Keeps a copy on this host.
    async fn keep(&self, digest: &str, bytes: &[u8]) -> Result<()> {
        let (path, bytes) = (self.path(digest), bytes.to_vec());
        blocking("storing a plugin", move || store_component(&path, &bytes)).await
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
            conduct: Some(self.conduct.clone()),
            conversation: None,
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
    /// The names of the active plugins of a kind, in their order.
    pub(crate) async fn active_readers(&self, kind: PluginKind) -> Result<Vec<String>> {
        let all = self.catalog.list_plugins().await?;
        let active = all
            .into_iter()
            .filter(|known| known.active && known.quarantine.is_none() && known.kind == kind.as_str());
        let mut names: Vec<String> = active.map(|known| known.name).collect();
        names.sort_unstable();
        Ok(names)
    }

    /// A reader of partition tables over disks.
    pub(crate) async fn open_volume_reader(
        &self,
        name: &str,
        disks: Vec<Arc<dyn ReadOnlyDisk>>,
    ) -> Result<VolumeReader> {
        let (plugin, _) = self.plugins.version(name, None).await?;
        let session = self.plugins.session(name, "{}", Secrets::default(), None).await?;
        Ok(self.plugins.runtime.volume_reader(&plugin, session, disks).await?)
    }

    /// A reader of file systems over disks.
    pub(crate) async fn open_filesystem(
        &self,
        name: &str,
        disks: Vec<Arc<dyn ReadOnlyDisk>>,
    ) -> Result<GuestFilesystem> {
        let (plugin, _) = self.plugins.version(name, None).await?;
        let session = self.plugins.session(name, "{}", Secrets::default(), None).await?;
        Ok(self.plugins.runtime.guest_filesystem(&plugin, session, disks).await?)
    }

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
