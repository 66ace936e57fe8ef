//! The text of a file of test cases. Unknown keys are errors, and errors name their line.

use std::collections::BTreeMap;

use serde::Deserialize;
use tidemark_model::{BackupType, ByteLen, Candidate, CandidateDisk, DiskKey, UtcMillis};
use toml::{Spanned, Table, Value};

use super::CasesError;
use crate::calendar::{Zone, parse_moment};
use crate::sizes::parse_size;

/// A value with its place.
pub(super) type At<T> = Spanned<T>;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    pub(super) kind: Option<At<String>>,
    #[serde(default, rename = "case")]
    pub(super) cases: Vec<At<Case>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Case {
    pub(super) name: String,
    pub(super) now: At<Value>,
    pub(super) time_zone: Option<At<String>>,
    #[serde(default)]
    pub(super) settings: Table,
    pub(super) vm: Option<VmText>,
    #[serde(default)]
    pub(super) timeline: Vec<At<Entry>>,
    pub(super) keep: Option<Vec<At<Value>>>,
    pub(super) keep_count: Option<usize>,
    pub(super) drop: Option<Vec<At<Value>>>,
    pub(super) reasons: Option<BTreeMap<At<String>, String>>,
    pub(super) error: Option<String>,
    #[serde(default)]
    pub(super) floors: bool,
    pub(super) history: Option<HistoryText>,
    pub(super) expect: Option<Expect>,
}

/// One backup (`at`) or a row of them (`every`, `from`, `to`).
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Entry {
    pub(super) at: Option<At<Value>>,
    pub(super) every: Option<At<String>>,
    pub(super) from: Option<At<Value>>,
    pub(super) to: Option<At<Value>>,
    pub(super) id: Option<At<String>>,
    #[serde(rename = "type")]
    pub(super) backup_type: Option<At<String>>,
    #[serde(default)]
    pub(super) verified: bool,
    #[serde(default)]
    pub(super) damaged: bool,
    #[serde(default)]
    pub(super) pinned: bool,
    pub(super) size: Option<At<Value>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct VmText {
    key: String,
    name: String,
    connector: String,
    folder: String,
    power: String,
    guest_os: String,
    tags: Vec<String>,
    datastores: Vec<String>,
    protected_by: Vec<String>,
    disks: Vec<DiskText>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct DiskText {
    key: String,
    #[serde(default)]
    label: String,
    capacity: Option<At<Value>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct HistoryText {
    pub(super) chain_length: u32,
    pub(super) last_full: Option<At<Value>>,
    pub(super) last_backup: Option<At<Value>>,
    pub(super) full_size: Option<At<Value>>,
    pub(super) increments_size: Option<At<Value>>,
    pub(super) changed: Option<At<Value>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Expect {
    pub(super) protect: Option<bool>,
    pub(super) reason: Option<String>,
    pub(super) exclude_disks: Option<Vec<String>>,
    pub(super) plan: Option<String>,
    pub(super) plan_reason: Option<String>,
}

/// Settings as a policy is given them; times are texts.
pub(super) fn settings_json(settings: &Table) -> String {
    fn json(value: &Value) -> serde_json::Value {
        match value {
            Value::String(text) => text.as_str().into(),
            Value::Integer(number) => (*number).into(),
            Value::Float(number) => (*number).into(),
            Value::Boolean(yes) => (*yes).into(),
            Value::Datetime(time) => time.to_string().into(),
            Value::Array(items) => items.iter().map(json).collect(),
            Value::Table(fields) => fields.iter().map(|(name, value)| (name.clone(), json(value))).collect(),
        }
    }
    settings
        .iter()
        .map(|(name, value)| (name.clone(), json(value)))
        .collect::<serde_json::Value>()
        .to_string()
}

/// Reads the text, and turns its values into ours. Holds the text, to tell lines from places.
pub(super) struct Reader<'a>(pub(super) &'a str);

impl Reader<'_> {
    pub(super) fn file(&self) -> Result<File, CasesError> {
        toml::from_str(self.0).map_err(|error| CasesError {
            line: error.span().map(|span| self.line(span.start)),
            message: error.message().to_owned(),
        })
    }

    pub(super) fn line(&self, place: usize) -> usize {
        let before = self.0.as_bytes().get(..place.min(self.0.len())).unwrap_or_default();
        before.iter().filter(|byte| **byte == b'\n').count() + 1
    }

    /// An error at a value.
    pub(super) fn wrong<T>(&self, at: &At<T>, message: impl Into<String>) -> CasesError {
        CasesError { line: Some(self.line(at.span().start)), message: message.into() }
    }

    /// The text of a string, or of a time that was written without quotes.
    pub(super) fn text(&self, value: &At<Value>) -> Result<String, CasesError> {
        match value.get_ref() {
            Value::String(text) => Ok(text.clone()),
            Value::Datetime(time) => Ok(time.to_string()),
            other => {
                Err(self.wrong(value, format!("a text or a time is expected, not a {}", other.type_str())))
            }
        }
    }

    pub(super) fn moment(&self, value: &At<Value>, zone: Zone) -> Result<UtcMillis, CasesError> {
        parse_moment(&self.text(value)?, zone).map_err(|message| self.wrong(value, message))
    }

    pub(super) fn size(&self, value: &At<Value>) -> Result<ByteLen, CasesError> {
        let size = match value.get_ref() {
            Value::Integer(bytes) => u64::try_from(*bytes).map(ByteLen).map_err(|error| error.to_string()),
            Value::String(text) => parse_size(text),
            other => Err(format!("a size is expected, not a {}", other.type_str())),
        };
        size.map_err(|message| self.wrong(value, message))
    }

    pub(super) fn backup_type(&self, value: &At<String>) -> Result<BackupType, CasesError> {
        match value.get_ref().as_str() {
            "full" => Ok(BackupType::Full),
            "incremental" => Ok(BackupType::Incremental),
            other => Err(self.wrong(value, format!("'{other}' is neither full nor incremental"))),
        }
    }

    pub(super) fn zone(&self, value: Option<&At<String>>) -> Result<Zone, CasesError> {
        let Some(name) = value else { return Ok(Zone::UTC) };
        Zone::parse(name.get_ref()).map_err(|error| self.wrong(name, error.to_string()))
    }

    pub(super) fn candidate(&self, text: &VmText) -> Result<Candidate, CasesError> {
        let disk = |disk: &DiskText| {
            let capacity = disk.capacity.as_ref().map_or(Ok(ByteLen(1 << 35)), |size| self.size(size))?;
            Ok(CandidateDisk { key: DiskKey(disk.key.clone()), label: disk.label.clone(), capacity })
        };
        let or = |text: &String, otherwise: &str| {
            if text.is_empty() { otherwise.to_owned() } else { text.clone() }
        };
        Ok(Candidate {
            key: or(&text.key, &text.name),
            name: text.name.clone(),
            connector: text.connector.clone(),
            folder: text.folder.clone(),
            power: or(&text.power, "unknown"),
            guest_os: text.guest_os.clone(),
            tags: text.tags.clone(),
            datastores: text.datastores.clone(),
            protected_by: text.protected_by.clone(),
            disks: text.disks.iter().map(disk).collect::<Result<_, _>>()?,
        })
    }
}
