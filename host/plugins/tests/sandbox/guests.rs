//! Builds the hostile guests once and opens sessions of them.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use serde_json::Value;
use tidemark_plugins::build::{BuildOptions, build_plugin};
use tidemark_plugins::{
    AuditEvent, AuditSink, Connector, Error, Grants, Limits, Plugin, Runtime, RuntimeOptions, Secrets,
    Session,
};

fn built(name: &str) -> Vec<u8> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/guests").join(name);
    let out = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("hostile-{name}.wasm"));
    let built = build_plugin(&source, &BuildOptions { out: Some(out), target_dir: None }).unwrap();
    std::fs::read(built.path).unwrap()
}

pub(crate) fn connector_bytes() -> &'static [u8] {
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    BYTES.get_or_init(|| built("connector"))
}

pub(crate) fn storage_bytes() -> &'static [u8] {
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    BYTES.get_or_init(|| built("storage"))
}

pub(crate) fn policy_bytes() -> &'static [u8] {
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    BYTES.get_or_init(|| built("policy"))
}

pub(crate) fn filesystem_bytes() -> &'static [u8] {
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    BYTES.get_or_init(|| built("filesystem"))
}

/// Compiled code is kept for all tests of this process's folder, so that each guest is compiled once.
pub(crate) fn runtime(limits: Limits) -> Runtime {
    let cache_dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("compiled");
    Runtime::new(RuntimeOptions { cache_dir: Some(cache_dir), limits, ..RuntimeOptions::default() }).unwrap()
}

pub(crate) fn quick() -> Limits {
    Limits { call_timeout: Duration::from_millis(300), ..Limits::default() }
}

/// What was refused so far.
#[derive(Clone, Default)]
pub(crate) struct Audit(Arc<Mutex<Vec<AuditEvent>>>);

impl Audit {
    pub(crate) fn sink(&self) -> AuditSink {
        let events = Arc::clone(&self.0);
        AuditSink::new(move |event| events.lock().unwrap().push(event))
    }

    pub(crate) fn events(&self) -> Vec<AuditEvent> {
        self.0.lock().unwrap().clone()
    }
}

pub(crate) fn session(settings: &Value, grants: &[&str], audit: &Audit) -> Session {
    Session {
        settings_json: settings.to_string(),
        secrets: [("password", "p<&>\"w é")].into_iter().collect::<Secrets>(),
        grants: Grants::parse(grants).unwrap(),
        label: "job-1".into(),
        audit: Some(audit.sink()),
        conduct: None,
        conversation: None,
    }
}

pub(crate) struct Lab {
    pub(crate) runtime: Runtime,
    pub(crate) plugin: Plugin,
    pub(crate) audit: Audit,
}

impl Lab {
    pub(crate) async fn connectors(limits: Limits) -> Self {
        let runtime = runtime(limits);
        let plugin = runtime.load(connector_bytes()).await.unwrap();
        Self { runtime, plugin, audit: Audit::default() }
    }

    pub(crate) async fn open(&self, settings: Value, grants: &[&str]) -> Result<Connector, Error> {
        self.runtime.connector(&self.plugin, session(&settings, grants, &self.audit)).await
    }
}
