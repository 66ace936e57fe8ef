//! Opens a fresh store for one session of a plugin and hands it to the façade of its kind.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use serde_json::Value;
use wasmtime::{Store, UpdateDeadline};

use crate::audit::AuditSink;
use crate::conduct::ConductSink;
use crate::connector::Connector;
use crate::error::{Error, ErrorKind};
use crate::filesystem::GuestFilesystem;
use crate::grants::{Grants, Rights};
use crate::guest::{Guest, Stopped, arm};
use crate::http::{Conversation, HttpClient};
use crate::manifest::{Manifest, PluginKind};
use crate::offered::disk::ReadOnlyDisk;
use crate::offered::log::LogAllowance;
use crate::policy::Policy;
use crate::runtime::{Plugin, Runtime, World};
use crate::secrets::Secrets;
use crate::state::State;
use crate::storage::StorageTarget;
use crate::volumes::VolumeReader;

/// For whom a plugin works, and what it is given.
#[derive(Debug, Clone)]
pub struct Session {
    /// The connection's settings, a JSON object without secrets.
    pub settings_json: String,
    /// The connection's secrets.
    pub secrets: Secrets,
    /// What the administrator granted the plugin.
    pub grants: Grants,
    /// For log and audit, for example the job's id.
    pub label: String,
    /// Where refusals are reported; none only logs them.
    pub audit: Option<AuditSink>,
    /// Where it is told how the session went.
    pub conduct: Option<ConductSink>,
    /// Records its HTTP requests, or answers them in place of the servers.
    pub conversation: Option<Conversation>,
}

impl Session {
    /// A session with nothing at all: for plugins that need neither settings nor rights.
    #[must_use]
    pub fn bare(label: &str) -> Self {
        Self {
            settings_json: "{}".to_owned(),
            secrets: Secrets::none(),
            grants: Grants::default(),
            label: label.to_owned(),
            audit: None,
            conduct: None,
            conversation: None,
        }
    }
}

/// Instantiates a world and wraps it.
macro_rules! open {
    ($runtime:expr, $plugin:expr, $session:expr, $disks:expr, $world:ident) => {{
        let World::$world(pre) = $plugin.world() else {
            let message = format!("it is no {}", stringify!($world));
            let Manifest { name, version, .. } = $plugin.manifest();
            return Err(Error::new(ErrorKind::Unsupported, "open", message).of(name, version));
        };
        let mut store = $runtime.store($plugin, $session, $disks)?;
        let limit = arm(&mut store);
        match tokio::time::timeout(limit, pre.instantiate_async(&mut store)).await {
            Ok(Ok(bindings)) => Guest::new(bindings, store),
            Ok(Err(error)) => {
                let Stopped { kind, message, at_fault } = Stopped::by(store.data_mut(), &error);
                let error = failed($plugin, kind, message);
                if at_fault {
                    store.data().tell(Some(error.clone()));
                }
                return Err(error);
            }
            Err(_) => return Err(failed($plugin, ErrorKind::Timeout, "it does not start".to_owned())),
        }
    }};
}

impl Runtime {
    /// Starts a plugin of any kind without settings or rights, and compares what it says of itself with its manifest.
    ///
    /// # Errors
    /// How the plugin misbehaved.
    pub async fn self_check(&self, plugin: &Plugin) -> Result<(), Error> {
        let bare = Session::bare("self-check");
        let contract = &plugin.manifest().contract;
        match plugin.manifest().kind {
            PluginKind::Connector => {
                let guest = open!(self, plugin, bare, Vec::new(), Connector);
                Connector::described(guest, contract).await.map(drop)
            }
            PluginKind::StorageTarget => {
                let guest = open!(self, plugin, bare, Vec::new(), StorageTarget);
                StorageTarget::described(guest, contract).await.map(drop)
            }
            PluginKind::GuestFilesystem => self.guest_filesystem(plugin, bare, Vec::new()).await.map(drop),
            PluginKind::VolumeReader => self.volume_reader(plugin, bare, Vec::new()).await.map(drop),
            PluginKind::Policy => self.policy(plugin, bare).await.map(drop),
        }
    }

    /// Starts a connector: instantiates, compares its description with the manifest, configures.
    ///
    /// # Errors
    /// What the plugin answers to `configure`, or how it misbehaved.
    pub async fn connector(&self, plugin: &Plugin, session: Session) -> Result<Connector, Error> {
        let settings = session.settings_json.clone();
        let guest = open!(self, plugin, session, Vec::new(), Connector);
        Connector::start(guest, &plugin.manifest().contract, &settings).await
    }

    /// Starts a storage target, likewise.
    ///
    /// # Errors
    /// What the plugin answers to `configure`, or how it misbehaved.
    pub async fn storage_target(&self, plugin: &Plugin, session: Session) -> Result<StorageTarget, Error> {
        let settings = session.settings_json.clone();
        let guest = open!(self, plugin, session, Vec::new(), StorageTarget);
        StorageTarget::start(guest, &plugin.manifest().contract, &settings).await
    }

    /// Starts a file-system reader over disks.
    ///
    /// # Errors
    /// How the plugin misbehaved.
    pub async fn guest_filesystem(
        &self,
        plugin: &Plugin,
        session: Session,
        disks: Vec<Arc<dyn ReadOnlyDisk>>,
    ) -> Result<GuestFilesystem, Error> {
        let guest = open!(self, plugin, session, disks, GuestFilesystem);
        GuestFilesystem::start(guest, &plugin.manifest().contract).await
    }

    /// Starts a reader of partition tables or a volume manager over disks.
    ///
    /// # Errors
    /// How the plugin misbehaved.
    pub async fn volume_reader(
        &self,
        plugin: &Plugin,
        session: Session,
        disks: Vec<Arc<dyn ReadOnlyDisk>>,
    ) -> Result<VolumeReader, Error> {
        let sizes = disks.iter().map(|disk| disk.size()).collect();
        let guest = open!(self, plugin, session, disks, VolumeReader);
        Ok(VolumeReader::new(guest, sizes))
    }

    /// Starts a policy on the deterministic engine.
    ///
    /// # Errors
    /// How the plugin misbehaved.
    pub async fn policy(&self, plugin: &Plugin, session: Session) -> Result<Policy, Error> {
        let guest = open!(self, plugin, session, Vec::new(), Policy);
        Policy::start(guest, &plugin.manifest().contract).await
    }

    fn store(
        &self,
        plugin: &Plugin,
        session: Session,
        disks: Vec<Arc<dyn ReadOnlyDisk>>,
    ) -> Result<Store<State>, Error> {
        let Session { settings_json, secrets, grants, label, audit, conduct, conversation } = session;
        let manifest = plugin.manifest();
        let settings: Value = serde_json::from_str(&settings_json)
            .ok()
            .filter(Value::is_object)
            .ok_or_else(|| failed(plugin, ErrorKind::Config, "the settings are no JSON object".to_owned()))?;
        let limits = self.shared_limits();
        let state = State {
            kind: manifest.kind,
            plugin: manifest.name.clone(),
            version: manifest.version.clone(),
            label,
            secrets,
            rights: Rights::new(manifest, &settings, grants),
            audit,
            conduct,
            http: HttpClient::default(),
            conversation,
            disks,
            log: LogAllowance::new(limits.log_burst),
            wasi: Mutex::default(),
            started: Instant::now(),
            deadline: Instant::now(),
            busy_ticks: 0,
            memory_bytes: 0,
            host_calls_left: 0,
            stopped: None,
            limits,
        };
        let mut store = Store::new(self.engine(manifest.kind), state);
        store.limiter(|state| state);
        store.set_hostcall_fuel(store.data().limits.transfer_bytes);
        // Each tick gives the thread away once, so that a busy guest shares it and the outer clock is heard.
        store.epoch_deadline_callback(|mut context| {
            Ok(if context.data_mut().is_overdue() {
                UpdateDeadline::Interrupt
            } else {
                UpdateDeadline::Yield(1)
            })
        });
        Ok(store)
    }
}

fn failed(plugin: &Plugin, kind: ErrorKind, message: String) -> Error {
    let Manifest { name, version, .. } = plugin.manifest();
    Error::new(kind, "open", message).of(name, version)
}
