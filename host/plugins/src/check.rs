//! Everything that is wrong with a plugin before it runs, in one list: the manifest's fields, the settings' schema, what
//! it asks for beside what it can use, and how the component fits. Nothing is built and nothing is run.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::build::{built_component, unchecked_from_source};
use crate::contract::HTTP;
use crate::error::Error;
use crate::inspect::{Interfaces, interfaces, misfits};
use crate::manifest::{Capability, Manifest, PluginKind, read_unchecked};

/// What was looked at, and what is wrong.
#[derive(Debug, Clone, Default)]
pub struct Checked {
    /// The manifest; none where it cannot be read.
    pub manifest: Option<Manifest>,
    /// The component beside the sources; none where there is none yet.
    pub component: Option<PathBuf>,
    /// One sentence a problem.
    pub problems: Vec<String>,
}

/// Looks at the sources in `dir`, and at the component that was built of them where there is one.
#[must_use]
pub fn check_source(dir: &Path) -> Checked {
    let manifest = match unchecked_from_source(dir) {
        Ok(manifest) => manifest,
        Err(error) => return unreadable(&error),
    };
    let mut problems = of_manifest(&manifest);
    let component = built_component(dir, &manifest.name);
    if let Some(path) = &component {
        match std::fs::read(path) {
            Ok(bytes) => {
                if read_unchecked(&bytes).ok().as_ref() != Some(&manifest) {
                    let path = path.display();
                    problems.push(format!("{path} was not built with this plugin.toml: build it again"));
                }
                problems.extend(of_component(&manifest, &bytes));
            }
            Err(error) => problems.push(format!("{}: {error}", path.display())),
        }
    }
    Checked { manifest: Some(manifest), component, problems }
}

/// Looks at a component.
#[must_use]
pub fn check_component(bytes: &[u8]) -> Checked {
    let manifest = match read_unchecked(bytes) {
        Ok(manifest) => manifest,
        Err(error) => return unreadable(&error),
    };
    let mut problems = of_manifest(&manifest);
    problems.extend(of_component(&manifest, bytes));
    Checked { manifest: Some(manifest), component: None, problems }
}

fn unreadable(error: &Error) -> Checked {
    Checked { problems: vec![error.message().to_owned()], ..Checked::default() }
}

fn of_manifest(manifest: &Manifest) -> Vec<String> {
    let mut problems = manifest.problems();
    problems.extend(of_schema(&manifest.settings));
    for capability in &manifest.capabilities {
        problems.extend(of_capability(manifest, capability));
    }
    problems
}

fn of_schema(schema: &Value) -> Vec<String> {
    if let Err(error) = jsonschema::validator_for(schema) {
        let at = error.instance_path().to_string();
        let place = if at.is_empty() { String::new() } else { format!(" at {at}") };
        return vec![format!("settings: no valid JSON Schema{place}: {error}")];
    }
    let properties = schema.get("properties").and_then(Value::as_object).into_iter().flatten();
    let wrong = properties.filter_map(|(name, setting)| {
        let default = setting.get("default")?;
        let fits = jsonschema::validator_for(setting).is_ok_and(|validator| validator.is_valid(default));
        (!fits).then(|| format!("settings: the default {default} of '{name}' does not fit its own schema"))
    });
    wrong.collect()
}

/// The capabilities that anything of a kind can make use of.
fn usable(kind: PluginKind) -> &'static [&'static str] {
    match kind {
        PluginKind::Connector => &["http", "nbd", "vddk"],
        PluginKind::StorageTarget => &["http", "path"],
        PluginKind::GuestFilesystem | PluginKind::VolumeReader | PluginKind::Policy => &[],
    }
}

fn of_capability(manifest: &Manifest, capability: &Capability) -> Vec<String> {
    let Capability { name, targets, .. } = capability;
    let (kind, mut problems) = (manifest.kind, Vec::new());
    if !usable(kind).contains(&name.as_str()) {
        problems.push(format!("it asks for {name}, which a {kind} cannot use"));
    }
    if targets.is_empty() {
        problems.push(format!("it asks for {name} without a target, which allows nothing"));
    }
    let settings = manifest.settings.get("properties");
    for target in targets {
        for setting in named_settings(target) {
            if settings.and_then(|all| all.get(setting)).is_none() {
                problems.push(format!("the target '{target}' of {name} names no setting"));
            }
        }
    }
    problems
}

/// What stands in each `${config.NAME}`; nothing, which names no setting, where one has no end.
fn named_settings(target: &str) -> impl Iterator<Item = &str> {
    target.split("${config.").skip(1).map(|rest| rest.split_once('}').map_or("", |(name, _)| name))
}

fn of_component(manifest: &Manifest, bytes: &[u8]) -> Vec<String> {
    match interfaces(bytes) {
        Ok(Interfaces { imports, exports }) => {
            let mut problems = misfits(manifest, &imports, &exports);
            problems.extend(of_imports(manifest, &imports));
            problems
        }
        Err(error) => vec![error.message().to_owned()],
    }
}

/// HTTP is the one capability whose use shows in the imports: the others are used by what a plugin answers.
fn of_imports(manifest: &Manifest, imports: &[String]) -> Option<String> {
    if !manifest.kind.imports().contains(&HTTP) {
        return None;
    }
    let imported = imports.iter().any(|import| HTTP.is(import));
    let asked = manifest.capabilities.iter().any(|capability| capability.name == "http");
    match (imported, asked) {
        (true, false) => {
            Some("it imports http and does not ask for it: every request would be denied".to_owned())
        }
        (false, true) => Some("it asks for http and never imports it".to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::contract::CONTRACT;

    fn asking(kind: PluginKind, name: &str, target: &str) -> Manifest {
        Manifest {
            name: "mine".into(),
            version: "0.1.0".into(),
            kind,
            contract: CONTRACT.into(),
            description: String::new(),
            settings: json!({"type": "object", "properties": {"host": {"type": "string"}}}),
            capabilities: vec![Capability {
                name: name.into(),
                targets: vec![target.into()],
                networks: vec![],
                reason: "to work".into(),
            }],
            runtime: None,
        }
    }

    fn only(problems: Vec<String>) -> String {
        assert_eq!(problems.len(), 1, "{problems:?}");
        problems.concat()
    }

    #[test]
    fn a_manifest_that_fits_has_no_problem() {
        let manifest = asking(PluginKind::Connector, "http", "https://${config.host}:443");
        assert!(of_manifest(&manifest).is_empty(), "{:?}", of_manifest(&manifest));
        let imports = ["tidemark:plugin/http@0.1.0".to_owned()];
        assert_eq!(of_imports(&manifest, &imports), None);
    }

    #[test]
    fn all_problems_are_named_at_once() {
        let mut manifest = asking(PluginKind::Connector, "http", "${config.hots}");
        manifest.name = "Mine".into();
        manifest.version = "1".into();
        manifest.settings["properties"]["port"] = json!({"type": "integer", "default": "443"});
        let problems = of_manifest(&manifest);
        assert_eq!(problems.len(), 4, "{problems:?}");
        for (problem, word) in problems.iter().zip(["Mine", "MAJOR.MINOR.PATCH", "'port'", "${config.hots}"])
        {
            assert!(problem.contains(word), "{problem}");
        }
    }

    #[test]
    fn a_schema_has_to_be_one() {
        assert!(only(of_schema(&json!({"type": "objekt"}))).contains("no valid JSON Schema"));
        assert!(
            only(of_schema(&json!({"properties": {"a": {"minimum": "x"}}})))
                .contains("/properties/a/minimum")
        );
    }

    #[test]
    fn what_is_asked_for_has_to_be_of_use() {
        let of = |kind, name| of_manifest(&asking(kind, name, "${config.host}"));
        assert!(only(of(PluginKind::Policy, "http")).contains("cannot use"));
        assert!(only(of(PluginKind::StorageTarget, "nbd")).contains("cannot use"));
        let connector = asking(PluginKind::Connector, "nbd", "${config.host}");
        let http = ["tidemark:plugin/http@0.1.0".to_owned()];
        assert!(of_imports(&connector, &http).is_some_and(|problem| problem.contains("does not ask")));
        let asking_http = asking(PluginKind::Connector, "http", "${config.host}");
        assert!(of_imports(&asking_http, &[]).is_some_and(|problem| problem.contains("never imports")));
        let open = asking(PluginKind::Connector, "nbd", "nbd://${config.host");
        assert!(only(of_manifest(&open)).contains("names no setting"));
    }

    #[test]
    fn what_is_no_plugin_is_said_in_one_sentence() {
        assert!(only(check_component(b"\x7fELF").problems).contains("no WebAssembly component"));
        let folder = tempfile::tempdir().unwrap();
        assert!(only(check_source(folder.path()).problems).contains("plugin.toml"));
    }
}
