//! `tidemark plugin`: the server's plugins, and what their authors need without a server: new, build, check, test, and
//! inspect of a file.

mod check;
mod dev;
mod kit;
mod new;
mod recording;
mod test;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use tidemark_api::wire::{ActivatePlugin, GrantEntry, GrantPlugin, PluginEntry, PluginList, ReleasePlugin};
use tidemark_plugins::build::{BuildOptions, build_plugin};
use tidemark_plugins::{Inspection, Manifest, inspect};

use crate::args::PluginVerb;
use crate::client::{Client, escape};
use crate::output::{Ended, Output, Table, fields, moment, or_dash, size, yes_no};

pub(crate) fn run(verb: PluginVerb, client: &dyn Fn() -> Result<Client>, output: &Output) -> Result<Ended> {
    match verb {
        PluginVerb::List => {
            let list = client()?.list("/api/v1/plugins", "plugins")?;
            output.document(list, |list: PluginList| table(list.plugins))?;
        }
        PluginVerb::Install { file, signature } => install(&client()?, output, &file, signature)?,
        PluginVerb::Activate { name, version, approve } => {
            let changed = client()?.post(&action(&name, "activate"), &ActivatePlugin { version, approve })?;
            output.document(changed, |list: PluginList| in_use(&name, &list))?;
        }
        PluginVerb::Release { name, version } => {
            let body = ReleasePlugin { version: version.clone() };
            let changed = client()?.post(&action(&name, "release"), &body)?;
            output.document(changed, |_: PluginList| {
                format!("{name} {version} is out of quarantine; activate it to use it")
            })?;
        }
        PluginVerb::Rollback { name } => {
            let changed = client()?.act(&action(&name, "rollback"))?;
            output.document(changed, |list: PluginList| in_use(&name, &list))?;
        }
        PluginVerb::Grant { name, capability, revoke } => {
            let verb = if revoke { "revoke" } else { "grant" };
            let changed = client()?.post(&action(&name, verb), &GrantPlugin { capability })?;
            output.document(changed, |list: PluginList| granted(&name, &list.grants))?;
        }
        PluginVerb::Inspect { name_or_file } if Path::new(&name_or_file).is_file() => {
            return inspect_file(output, Path::new(&name_or_file));
        }
        PluginVerb::Inspect { name_or_file } => {
            let shown = client()?.get(&format!("/api/v1/plugins/{}", escape(&name_or_file)))?;
            output.document(shown, show)?;
        }
        PluginVerb::Remove { name, version } => {
            client()?.delete(&format!("/api/v1/plugins/{}/versions/{}", escape(&name), escape(&version)))?;
            output.done(&format!("plugin {name} {version} removed"))?;
        }
        PluginVerb::Build { dir, out } => build(output, &dir, out)?,
        PluginVerb::New(args) => new::run(&args, output)?,
        PluginVerb::Check(args) => return check::run(&args.path, output),
        PluginVerb::Test(args) => return test::run(args, output),
        PluginVerb::Dev(args) => dev::run(&args, &client()?, output)?,
    }
    Ok(Ended::Done)
}

fn action(name: &str, verb: &str) -> String {
    format!("/api/v1/plugins/{}/actions/{verb}", escape(name))
}

fn install(client: &Client, output: &Output, file: &Path, signature: Option<PathBuf>) -> Result<()> {
    let bytes = std::fs::read(file).with_context(|| format!("reading {}", file.display()))?;
    let mut beside = file.as_os_str().to_owned();
    beside.push(".minisig");
    let beside = Some(PathBuf::from(beside)).filter(|beside| beside.is_file());
    let query = match signature.or(beside) {
        Some(path) => {
            let text = std::fs::read_to_string(&path);
            let text = text.with_context(|| format!("reading {}", path.display()))?;
            format!("?signature={}", escape(&text))
        }
        None => String::new(),
    };
    let installed = client.upload(&format!("/api/v1/plugins{query}"), "application/wasm", bytes)?;
    output.document(installed, |plugin: PluginEntry| {
        let state = if plugin.active { "is active" } else { "is installed; activate it to use it" };
        let mut text = format!("{} {} ({}) {state}", plugin.name, plugin.version, plugin.kind);
        if let Some(key) = &plugin.signed_by {
            text.push_str(&format!("\n  signed by {key}"));
        }
        if !plugin.manifest["runtime"].is_null() {
            text.push_str(
                "\n  its language's runtime is given WASI 0.2, without files, network, environment or clock",
            );
        }
        for wish in plugin.manifest["capabilities"].as_array().into_iter().flatten() {
            let word = |key: &str| wish[key].as_str().unwrap_or_default().to_owned();
            text.push_str(&format!("\n  asks for {}: {}", word("name"), word("reason")));
        }
        text
    })
}

fn table(plugins: Vec<PluginEntry>) -> String {
    let mut table = Table::new(&["NAME", "VERSION", "KIND", "ACTIVE", "INSTALLED", "QUARANTINE"]);
    for plugin in plugins {
        table.row([
            plugin.name,
            plugin.version,
            plugin.kind,
            yes_no(plugin.active),
            moment(&plugin.installed_at),
            or_dash(plugin.quarantine),
        ]);
    }
    table.render("no plugins are installed")
}

fn in_use(name: &str, list: &PluginList) -> String {
    match list.plugins.iter().find(|plugin| plugin.active) {
        Some(plugin) => format!("{name} {} is active", plugin.version),
        None => format!("no version of {name} is active"),
    }
}

fn granted(name: &str, grants: &[GrantEntry]) -> String {
    let mut table = Table::new(&["CAPABILITY", "GRANTED BY", "WHEN"]);
    for grant in grants {
        table.row([grant.capability.clone(), grant.granted_by.clone(), moment(&grant.granted_at)]);
    }
    table.render(&format!("{name} has no grants"))
}

fn show(list: PluginList) -> String {
    let name = list.plugins.first().map(|plugin| plugin.name.clone()).unwrap_or_default();
    let active = list.plugins.iter().find(|plugin| plugin.active).or(list.plugins.last());
    let wishes = active.map(|plugin| capabilities(&plugin.manifest)).unwrap_or_default();
    let grants = granted(&name, &list.grants);
    format!("{}\n{wishes}\n{grants}", table(list.plugins))
}

fn capabilities(manifest: &Value) -> String {
    let mut table = Table::new(&["ASKS FOR", "TARGETS", "REASON"]);
    for wish in manifest["capabilities"].as_array().into_iter().flatten() {
        let targets: Vec<&str> =
            wish["targets"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let word = |key: &str| wish[key].as_str().unwrap_or_default().to_owned();
        table.row([word("name"), targets.join(", "), word("reason")]);
    }
    table.render("asks for no capability\n")
}

/// A component that does not fit its world is shown, and the command fails.
fn inspect_file(output: &Output, file: &Path) -> Result<Ended> {
    let bytes = std::fs::read(file).with_context(|| format!("reading {}", file.display()))?;
    let Inspection { manifest, digest, size: length, imports, exports, problem } =
        inspect(&bytes).with_context(|| file.display().to_string())?;
    let ended = if problem.is_some() { Ended::Failed } else { Ended::Done };
    let document = json!({
        "manifest": serde_json::from_str::<Value>(&manifest.to_json()?)?,
        "digest": digest,
        "size_bytes": length,
        "imports": imports,
        "exports": exports,
        "problem": problem,
    });
    output.document(document, |document: Value| {
        let wishes = capabilities(&document["manifest"]);
        let Manifest { name, version, kind, contract, description, .. } = manifest;
        let facts = fields(&[
            ("name", name),
            ("version", version),
            ("kind", kind.to_string()),
            ("contract", contract),
            ("about", or_dash(Some(description))),
            ("size", size(u64::try_from(length).unwrap_or(u64::MAX))),
            ("sha256", digest),
            ("imports", or_dash(Some(imports.join(", ")))),
            ("exports", or_dash(Some(exports.join(", ")))),
            ("problem", or_dash(problem)),
        ]);
        format!("{facts}\n{wishes}")
    })?;
    Ok(ended)
}

fn build(output: &Output, dir: &Path, out: Option<PathBuf>) -> Result<()> {
    let built = build_plugin(dir, &BuildOptions { out, target_dir: None })
        .with_context(|| format!("building the plugin in {}", dir.display()))?;
    let document = json!({
        "path": built.path,
        "name": built.manifest.name,
        "version": built.manifest.version,
        "kind": built.manifest.kind.as_str(),
        "digest": built.digest,
        "method": built.method,
    });
    output.document(document, |document: Value| {
        let word = |key: &str| document[key].as_str().unwrap_or_default().to_owned();
        format!("{} {} built by {}\n{}", word("name"), word("version"), word("method"), word("path"))
    })
}
