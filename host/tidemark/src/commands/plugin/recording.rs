//! The file of `plugin test --record` and `--replay`: what the trial was begun with, and the conversation that it led to.
//! The settings and the moment belong to it, as requests are made of both; secrets do not.

use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tidemark_model::UtcMillis;
use tidemark_plugins::conformance::Trial;
use tidemark_plugins::{Conversation, Exchange};

/// The only format so far.
const FORMAT: u32 = 1;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Recording {
    format: u32,
    now_ms: i64,
    settings: Map<String, Value>,
    vm: Option<String>,
    exchanges: Vec<Exchange>,
}

/// A place for a recording: an earlier one is never written over.
pub(super) fn place(path: &Path) -> Result<()> {
    ensure!(!path.exists(), "the recording {} exists already; name another file", path.display());
    Ok(())
}

/// Writes what the trial's conversation recorded, whole or not at all. The file is its owner's alone, as answers may hold the
/// keys of sessions.
pub(super) fn write(path: &Path, trial: &Trial) -> Result<()> {
    let Trial { settings, vm, now, conversation, .. } = trial;
    let exchanges = conversation.as_ref().map(Conversation::exchanges).unwrap_or_default();
    let (settings, vm) = (settings.clone(), vm.clone());
    let recording = Recording { format: FORMAT, now_ms: now.0, settings, vm, exchanges };
    let mut text = serde_json::to_string_pretty(&recording)?;
    text.push('\n');
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let write = || -> Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(text.as_bytes())?;
        file.persist_noclobber(path)?;
        Ok(())
    };
    write().with_context(|| format!("writing the recording {}", path.display()))
}

/// The trial as it was recorded.
pub(super) fn read(path: &Path) -> Result<Trial> {
    let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    let recording: Recording = serde_json::from_str(&text)
        .with_context(|| format!("{} is no recording of 'plugin test --record'", path.display()))?;
    let Recording { format, now_ms, settings, vm, exchanges } = recording;
    ensure!(format == FORMAT, "{} has format {format}; this program reads {FORMAT}", path.display());
    let conversation = Some(Conversation::replaying(exchanges));
    Ok(Trial { settings, vm, now: UtcMillis(now_ms), conversation, ..Trial::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recording_comes_back_and_is_never_written_over() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("talk.json");
        let settings = serde_json::json!({ "host": "vc" }).as_object().cloned().unwrap();
        let trial = Trial {
            settings,
            vm: Some("web01".to_owned()),
            now: UtcMillis(1_780_000_000_000),
            conversation: Some(Conversation::recording()),
            ..Trial::default()
        };
        place(&path).unwrap();
        write(&path, &trial).unwrap();
        let again = read(&path).unwrap();
        assert_eq!((&again.settings, &again.vm, again.now), (&trial.settings, &trial.vm, trial.now));
        assert!(again.conversation.unwrap().went_as_recorded().is_ok());
        assert!(place(&path).is_err() && write(&path, &trial).is_err());
        std::fs::write(&path, "{}").unwrap();
        let error = read(&path).err().unwrap().to_string();
        assert!(error.contains("is no recording"), "{error}");
    }
}
