//! What a plugin of each kind owes the host, tried out in the sandbox without a server: each duty is one check, and each
//! check that fails says why.
//!
//! ```text
//! component ─load─▶ describe ─▶ the suite of its kind: connector │ storage │ policy │ filesystem
//! ```
//! Settings are the trial's over the schema's defaults. Everything that the manifest asks for is granted, as the person
//! who tries a plugin out is its administrator; the folders of a storage target are scratch ones unless the trial names
//! others. A suite ends early where the rest could only fail for the same reason.

mod connector;
mod filesystem;
mod policy;
mod scratch;
mod storage;

use std::fmt::Display;
use std::pin::Pin;
use std::sync::Arc;

use serde_json::{Map, Value};
use tidemark_model::{RetentionPoint, UtcMillis};

use crate::error::Error;
use crate::grants::Grants;
use crate::http::Conversation;
use crate::manifest::{Manifest, PluginKind};
use crate::offered::disk::ReadOnlyDisk;
use crate::runtime::{Plugin, Runtime, RuntimeOptions};
use crate::secrets::Secrets;
use crate::session::Session;

/// What a plugin is tried out with.
#[derive(Clone, Default)]
pub struct Trial {
    /// Settings; the schema's defaults count where one is not given.
    pub settings: Map<String, Value>,
    /// Secrets of the connection.
    pub secrets: Secrets,
    /// For a connector, the VM to take a snapshot of, by key or name; the first that can be backed up where none is named.
    pub vm: Option<String>,
    /// For a policy, the backups to judge, with their ranks.
    pub timeline: Vec<RetentionPoint>,
    /// For a policy, the moment of its decisions.
    pub now: UtcMillis,
    /// For a file-system reader, a disk that it has to know.
    pub disk: Option<Arc<dyn ReadOnlyDisk>>,
    /// Records what the plugin says over HTTP, or answers in the servers' place.
    pub conversation: Option<Conversation>,
}

/// One duty, and what became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// What the plugin owes.
    pub name: String,
    /// Why it does not do so; none where it does.
    pub problem: Option<String>,
}

/// The checks so far.
#[derive(Default)]
struct Report(Vec<Check>);

impl Report {
    /// Notes how a check ended, and hands on what it gave.
    fn settle<T>(&mut self, name: &str, ended: Result<T, impl Display>) -> Option<T> {
        let (given, problem) = match ended {
            Ok(given) => (Some(given), None),
            Err(problem) => (None, Some(problem.to_string())),
        };
        self.0.push(Check { name: name.to_owned(), problem });
        given
    }
}

/// Tries a component out. It is compiled in this process, so it has to be one's own.
///
/// It is boxed, so that what it calls is not compiled again in every program that awaits it.
pub fn try_out<'a>(
    component: &'a [u8],
    trial: &'a Trial,
) -> Pin<Box<dyn Future<Output = Vec<Check>> + Send + 'a>> {
    Box::pin(all_checks(component, trial))
}

async fn all_checks(component: &[u8], trial: &Trial) -> Vec<Check> {
    let mut report = Report::default();
    // What ends a suite early is in the report already.
    let _ = run(component, trial, &mut report).await;
    if let Some(conversation) = trial.conversation.as_ref().filter(|conversation| conversation.replays()) {
        report.settle("its requests are the recorded ones", conversation.went_as_recorded());
    }
    report.0
}

async fn run(component: &[u8], trial: &Trial, report: &mut Report) -> Option<()> {
    let runtime = Runtime::new(RuntimeOptions::default());
    let runtime = report.settle("the sandbox starts", runtime)?;
    let plugin = report.settle("the component fits its world", runtime.load(component).await)?;
    let described = runtime.self_check(&plugin).await;
    report.settle("describe agrees with the manifest", described)?;
    match plugin.manifest().kind {
        PluginKind::Connector => connector::run(&runtime, &plugin, trial, report).await,
        PluginKind::StorageTarget => storage::run(&runtime, &plugin, trial, report).await,
        PluginKind::Policy => policy::run(&runtime, &plugin, trial, report).await,
        PluginKind::GuestFilesystem => filesystem::run(&runtime, &plugin, trial, report).await,
        // What volumes there are is for the disk to say, and no disk is given.
        PluginKind::VolumeReader => Some(()),
    }
}

impl Trial {
    /// A session with everything that the manifest asks for.
    fn session(&self, plugin: &Plugin) -> Session {
        let grants = Grants::parse(["http", "nbd", "vddk", "path"]);
        Session {
            settings_json: Value::Object(self.settings_of(plugin.manifest())).to_string(),
            secrets: self.secrets.clone(),
            grants: grants.unwrap_or_default(),
            conversation: self.conversation.clone(),
            ..Session::bare("conformance")
        }
    }

    /// The given settings over the schema's defaults.
    fn settings_of(&self, manifest: &Manifest) -> Map<String, Value> {
        let mut settings = Map::new();
        let properties = manifest.settings.get("properties").and_then(Value::as_object);
        for (name, setting) in properties.into_iter().flatten() {
            if let Some(default) = setting.get("default") {
                settings.insert(name.clone(), default.clone());
            }
        }
        settings.extend(self.settings.clone());
        settings
    }
}

/// An error of the plugin in words that need not name the plugin.
fn words(error: &Error) -> String {
    format!("{}: {} ({})", error.operation(), error.message(), error.kind().as_str())
}

/// Fails with words that are only made where they are needed.
fn ensure(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(otherwise()) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::contract::CONTRACT;

    #[test]
    fn defaults_count_where_nothing_is_given() {
        let manifest = Manifest {
            name: "mine".into(),
            version: "0.1.0".into(),
            kind: PluginKind::Policy,
            contract: CONTRACT.into(),
            description: String::new(),
            settings: json!({"properties": {"a": {"default": 1}, "b": {"default": 2}, "c": {}}}),
            capabilities: vec![],
            runtime: None,
        };
        let given = json!({"b": 3}).as_object().cloned().unwrap_or_default();
        let trial = Trial { settings: given, ..Trial::default() };
        assert_eq!(Value::Object(trial.settings_of(&manifest)), json!({"a": 1, "b": 3}));
    }
}
