//! `tidemark plugin check`: every problem of a plugin's sources or of a component, in one list.

use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use tidemark_plugins::{Checked, Manifest, check_component, check_source};

use crate::output::{Ended, Output};

pub(super) fn run(path: &Path, output: &Output) -> Result<Ended> {
    let from_source = path.is_dir();
    let checked = if from_source {
        check_source(path)
    } else {
        let bytes = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
        Checked { component: Some(path.to_owned()), ..check_component(&bytes) }
    };
    let ended = if checked.problems.is_empty() { Ended::Done } else { Ended::Failed };
    let Checked { manifest, component, problems } = checked;
    let document = json!({
        "name": manifest.as_ref().map(|manifest| &manifest.name),
        "version": manifest.as_ref().map(|manifest| &manifest.version),
        "kind": manifest.as_ref().map(|manifest| manifest.kind.as_str()),
        "component": component,
        "problems": problems,
    });
    output.document(document, |_: Value| {
        let mut text: String = problems.iter().map(|problem| format!("{problem}\n")).collect();
        match &manifest {
            Some(Manifest { name, version, kind, .. }) if problems.is_empty() => {
                text.push_str(&format!("{name} {version} ({kind}): no problem was found\n"));
            }
            _ => text.push_str(&format!("{} problems\n", problems.len())),
        }
        if from_source && component.is_none() {
            text.push_str("there is no component yet: build it to have its imports looked at\n");
        }
        text
    })?;
    Ok(ended)
}
