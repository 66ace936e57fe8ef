//! The file of `plugin test --record` and `--replay`: what the trial was begun with, and the conversation that it led to.
//! The settings and the moment belong to it, as requests are made of both; secrets do not.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

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

/// A new file, made before anything is asked: an earlier recording is never written over. It is its owner's alone, as
/// answers may hold the keys of sessions.
pub(super) fn create(path: &Path) -> Result<(File, PathBuf)> {
    let made = File::options().write(true).create_new(true).mode(0o600).open(path);
    let file = made.with_context(|| format!("making the recording {}", path.display()))?;
    Ok((file, path.to_owned()))
}

/// Writes what the trial's conversation recorded.
pub(super) fn write((mut file, path): (File, PathBuf), trial: &Trial) -> Result<()> {
    let Trial { settings, vm, now, conversation, .. } = trial;
    let exchanges = conversation.as_ref().map(Conversation::exchanges).unwrap_or_default();
    let (settings, vm) = (settings.clone(), vm.clone());
    let recording = Recording { format: FORMAT, now_ms: now.0, settings, vm, exchanges };
    let mut text = serde_json::to_string_pretty(&recording)?;
    text.push('\n');
    file.write_all(text.as_bytes()).with_context(|| format!("writing {}", path.display()))
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
        write(create(&path).unwrap(), &trial).unwrap();
        let again = read(&path).unwrap();
        assert_eq!((again.settings, again.vm, again.now), (trial.settings, trial.vm, trial.now));
        assert!(again.conversation.unwrap().went_as_recorded().is_ok());
        assert!(create(&path).is_err());
        std::fs::write(&path, "{}").unwrap();
        let error = read(&path).err().unwrap().to_string();
        assert!(error.contains("is no recording"), "{error}");
    }
}
