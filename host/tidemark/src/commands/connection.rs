//! What connectors and repositories share: settings typed by the plugin's own schema, secrets read from files.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use serde_json::{Map, Value};
use tidemark_api::wire::{AddConnection, ConnectionEntry, PluginList, UpdateConnection};

use crate::args::{ConnectionArgs, ConnectionValues};
use crate::client::{Client, Refused, escape};
use crate::output::{Table, fields, moment, or_dash, size};

/// What bounds a connection; a bandwidth fits a repository only.
#[derive(Default)]
pub(super) struct Bounds {
    pub(super) max_disks: Option<u32>,
    pub(super) bandwidth: Option<u64>,
}

/// Adds a connection and answers its document; `nouns` is the part of the path.
pub(super) fn add(client: &Client, nouns: &str, args: ConnectionArgs, bounds: Bounds) -> Result<Value> {
    let ConnectionArgs { name, plugin, values } = args;
    let (settings, secrets) = typed(&schema_of(client, &plugin)?, values)?;
    let Bounds { max_disks, bandwidth: bandwidth_bytes_per_second } = bounds;
    let request = AddConnection { name, plugin, settings, secrets, max_disks, bandwidth_bytes_per_second };
    client.post(&format!("/api/v1/{nouns}"), &request)
}

/// Changes a connection and answers its document.
pub(super) fn update(
    client: &Client,
    nouns: &str,
    name: &str,
    values: ConnectionValues,
    bounds: Bounds,
) -> Result<Value> {
    let path = format!("/api/v1/{nouns}/{}", escape(name));
    let known: ConnectionEntry = serde_json::from_value(client.get(&path)?)?;
    let (settings, secrets) = typed(&schema_of(client, &known.plugin)?, values)?;
    let Bounds { max_disks, bandwidth: bandwidth_bytes_per_second } = bounds;
    let change = UpdateConnection { settings, secrets, max_disks, bandwidth_bytes_per_second };
    client.post(&format!("{path}/actions/update"), &change)
}

/// Settings as a plugin's schema has them, and secrets read from their files.
pub(super) fn typed(
    schema: &Value,
    values: ConnectionValues,
) -> Result<(Map<String, Value>, BTreeMap<String, String>)> {
    let ConnectionValues { settings, secrets } = values;
    let mut typed = Map::new();
    for (key, text) in settings {
        let value = type_value(schema, &key, &text)?;
        if typed.insert(key.clone(), value).is_some() {
            bail!("setting '{key}' is given twice");
        }
    }
    let mut read = BTreeMap::new();
    for (key, file) in secrets {
        read.insert(key, read_secret(&file)?);
    }
    Ok((typed, read))
}

/// The settings' schema of the plugin's active version. A plugin that is not there is the server's to refuse.
fn schema_of(client: &Client, plugin: &str) -> Result<Value> {
    let found = match client.get(&format!("/api/v1/plugins/{}", escape(plugin))) {
        Ok(found) => serde_json::from_value::<PluginList>(found)?,
        Err(error) if error.is::<Refused>() => return Ok(Value::Null),
        Err(error) => return Err(error),
    };
    let active = found.plugins.into_iter().find(|version| version.active);
    Ok(active.map(|version| version.manifest["settings"].clone()).unwrap_or_default())
}

fn type_value(schema: &Value, key: &str, text: &str) -> Result<Value> {
    let wanted = schema["properties"][key]["type"].as_str().unwrap_or("string");
    match wanted {
        "integer" | "number" | "boolean" | "object" => serde_json::from_str(text)
            .ok()
            .with_context(|| format!("setting '{key}' takes a value of type {wanted}, not '{text}'")),
        "array" if !text.trim_start().starts_with('[') => {
            Ok(text.split(',').map(|item| Value::String(item.trim().to_owned())).collect())
        }
        "array" => serde_json::from_str(text).with_context(|| format!("setting '{key}' takes a list")),
        _ => Ok(Value::String(text.to_owned())),
    }
}

/// One line end at the end belongs to the editor, not to the secret.
fn read_secret(file: &Path) -> Result<String> {
    let mut text = String::new();
    if file == Path::new("-") {
        std::io::stdin().read_to_string(&mut text).context("reading the secret from standard input")?;
    } else {
        text = std::fs::read_to_string(file)
            .with_context(|| format!("reading the secret in {}", file.display()))?;
    }
    let trimmed =
        text.strip_suffix('\n').map_or(text.as_str(), |line| line.strip_suffix('\r').unwrap_or(line));
    Ok(trimmed.to_owned())
}

/// Connections as a table.
pub(super) fn table(entries: Vec<ConnectionEntry>, empty: &str) -> String {
    let mut table = Table::new(&["NAME", "PLUGIN", "SETTINGS", "BOUND", "ADDED"]);
    for entry in entries {
        let (settings, bound) = (settings_line(&entry.settings), bound(&entry));
        table.row([entry.name, entry.plugin, settings, bound, moment(&entry.created_at)]);
    }
    table.render(empty)
}

/// One connection.
pub(super) fn show(entry: ConnectionEntry) -> String {
    let bound = bound(&entry);
    fields(&[
        ("name", entry.name),
        ("id", entry.id),
        ("plugin", entry.plugin),
        ("settings", settings_line(&entry.settings)),
        ("secrets", or_dash(Some(entry.secret_names.join(", ")))),
        ("bound", bound),
        ("added", moment(&entry.created_at)),
    ])
}

fn bound(entry: &ConnectionEntry) -> String {
    let disks = entry.max_disks.map(|disks| format!("{disks} disks"));
    let rate = entry.bandwidth_bytes_per_second.map(|rate| format!("{}/s", size(rate)));
    let bounds: Vec<String> = disks.into_iter().chain(rate).collect();
    or_dash((!bounds.is_empty()).then(|| bounds.join(", ")))
}

fn settings_line(settings: &Value) -> String {
    let Some(settings) = settings.as_object() else { return settings.to_string() };
    let words = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    settings.iter().map(|(key, value)| format!("{key}={}", words(value))).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn settings_take_the_schemas_type() {
        let schema = json!({"properties": {
            "port": {"type": "integer"}, "verify": {"type": "boolean"}, "hosts": {"type": "array"},
        }});
        assert_eq!(type_value(&schema, "port", "8443").unwrap(), json!(8443));
        assert_eq!(type_value(&schema, "verify", "true").unwrap(), json!(true));
        assert_eq!(type_value(&schema, "hosts", "a, b").unwrap(), json!(["a", "b"]));
        assert_eq!(type_value(&schema, "username", "1234").unwrap(), json!("1234"));
        let error = type_value(&schema, "port", "many").unwrap_err();
        assert_eq!(error.to_string(), "setting 'port' takes a value of type integer, not 'many'");
    }

    #[test]
    fn a_secret_loses_one_line_end_only() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("p");
        for (content, secret) in [("pw\n", "pw"), ("pw\r\n", "pw"), ("pw", "pw"), (" pw \n\n", " pw \n")] {
            std::fs::write(&file, content).unwrap();
            assert_eq!(read_secret(&file).unwrap(), secret);
        }
    }
}
