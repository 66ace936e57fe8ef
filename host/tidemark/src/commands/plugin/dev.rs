//! `tidemark plugin dev`: builds, installs and activates a plugin whenever its sources change, until it is stopped.
//!
//! ```text
//! look ─unchanged─▶ wait an interval ─▶ look
//!      └changed─▶ build ─▶ (take the same version away) ─▶ install ─▶ activate ─▶ wait
//! ```
//! A version is never replaced on a server. So the earlier one of the same number is removed first, which the server
//! refuses while a job or a flow works with it: then the author is told to raise the version. What goes wrong is said, and
//! the next change is waited for.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use tidemark_api::wire::{ActivatePlugin, GrantEntry, GrantPlugin, PluginList};
use tidemark_plugins::Manifest;
use tidemark_plugins::build::{BuildOptions, BuiltPlugin, build_plugin};

use super::action;
use crate::args::DevArgs;
use crate::client::{Client, Refused, escape};
use crate::output::Output;

/// Each source file with the moment of its last change.
type Sources = BTreeMap<PathBuf, SystemTime>;

pub(super) fn run(args: &DevArgs, client: &Client, output: &Output) -> Result<()> {
    let interval = Duration::from_secs(args.interval);
    let mut seen = Sources::new();
    loop {
        let found = sources(&args.dir)?;
        if found != seen {
            // Noted before the build: a change that comes while it runs starts the next one.
            seen = found;
            match renew(&args.dir, client) {
                Ok(message) => output.done(&message)?,
                Err(error) => output.complaint(&error),
            }
        }
        std::thread::sleep(interval);
    }
}

/// One round; answers what to tell.
fn renew(dir: &Path, client: &Client) -> Result<String> {
    let built = build_plugin(dir, &BuildOptions::default())?;
    let BuiltPlugin { path, manifest: Manifest { name, version, .. }, digest, .. } = &built;
    let component = std::fs::read(path).with_context(|| path.display().to_string())?;
    let known = installed(client, name)?;
    let same = known.plugins.iter().find(|plugin| plugin.version == *version);
    if same.is_some_and(|plugin| plugin.digest == *digest) {
        activate(client, name, version)?;
        return Ok(format!("{name} {version} is active as it was"));
    }
    if same.is_some() {
        let version = escape(version);
        let gone = client.delete(&format!("/api/v1/plugins/{}/versions/{version}", escape(name)));
        gone.context("a version is never replaced: raise it in plugin.toml and Cargo.toml")?;
    }
    client.upload("/api/v1/plugins", "application/wasm", component)?;
    // The last version of a plugin takes its grants along.
    for GrantEntry { capability, .. } in known.grants {
        client.post(&action(name, "grant"), &GrantPlugin { capability })?;
    }
    activate(client, name, version)?;
    Ok(format!("{name} {version} is active"))
}

/// The server's versions and grants of this name.
fn installed(client: &Client, name: &str) -> Result<PluginList> {
    match client.get(&format!("/api/v1/plugins/{}", escape(name))) {
        Ok(found) => Ok(serde_json::from_value(found)?),
        // None of this name yet; whatever else the server refuses, it refuses the installation too.
        Err(error) if error.is::<Refused>() => {
            Ok(PluginList { plugins: Vec::new(), grants: Vec::new(), next_cursor: None })
        }
        Err(error) => Err(error),
    }
}

fn activate(client: &Client, name: &str, version: &str) -> Result<()> {
    let body = ActivatePlugin { version: version.to_owned(), approve: false };
    client.post(&action(name, "activate"), &body).map(drop)
}

/// The files that a build reads, but for those that it makes.
fn sources(dir: &Path) -> Result<Sources> {
    let (mut found, mut waiting) = (Sources::new(), vec![dir.to_owned()]);
    while let Some(at) = waiting.pop() {
        let entries = std::fs::read_dir(&at).with_context(|| at.display().to_string())?;
        for entry in entries {
            let entry = entry.with_context(|| at.display().to_string())?;
            let (path, name) = (entry.path(), entry.file_name());
            let hidden = name.to_string_lossy().starts_with('.');
            // An editor may have taken its temporary file away again.
            let Ok(about) = entry.metadata() else { continue };
            if about.is_dir() {
                let made = ["target", "node_modules", "__pycache__"].iter().any(|made| name == *made);
                waiting.extend((!hidden && !made).then_some(path));
            } else if is_source(&path) && !hidden {
                found.insert(path, about.modified()?);
            }
        }
    }
    Ok(found)
}

fn is_source(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str());
    matches!(extension, Some("rs" | "js" | "mjs" | "py" | "toml" | "json" | "txt" | "wit"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_build_reads_counts() {
        let home = tempfile::tempdir().unwrap();
        let write = |place: &str| {
            let path = home.path().join(place);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "x").unwrap();
        };
        for place in ["Cargo.toml", "src/lib.rs", "sdk/wit/host.wit"] {
            write(place);
        }
        let before = sources(home.path()).unwrap();
        assert_eq!(before.len(), 3);
        for place in [
            "Cargo.lock",
            "mine.wasm",
            "target/debug/x.rs",
            "node_modules/x/x.js",
            "__pycache__/x.py",
            ".venv/x.py",
            ".git/x.rs",
            "src/.lib.rs",
        ] {
            write(place);
        }
        assert_eq!(sources(home.path()).unwrap(), before);
        write("src/more.rs");
        assert_ne!(sources(home.path()).unwrap(), before);
    }
}
