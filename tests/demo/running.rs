//! What a demo leaves running: two process numbers in a file, checked by name before anything is stopped, as
//! numbers are given out again.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use tidemark_tests::binaries::target;
use tidemark_tests::process::{terminate, wait_for};

/// The demo's folder.
pub(crate) fn folder() -> PathBuf {
    target().join("demo")
}

fn record() -> PathBuf {
    folder().join("running")
}

/// Notes what goes on running.
pub(crate) fn note(processes: &[(&str, Option<u32>)]) -> Result<()> {
    let lines: Vec<_> =
        processes.iter().filter_map(|(name, pid)| pid.map(|pid| format!("{name} {pid}\n"))).collect();
    fs::write(record(), lines.concat()).context("cannot note what goes on running")
}

/// Stops what an earlier demo left running, if anything.
pub(crate) fn stop() -> Result<()> {
    let Ok(text) = fs::read_to_string(record()) else { return Ok(()) };
    for line in text.lines() {
        let Some((name, pid)) = line.split_once(' ') else { continue };
        let pid: u32 = pid.parse().with_context(|| format!("'{line}' in {}", record().display()))?;
        if is_running(name, pid) {
            terminate(pid)?;
            wait_for(&format!("{name} to stop"), Duration::from_secs(60), || {
                Ok((!is_running(name, pid)).then_some(()))
            })?;
            println!("stopped {name} ({pid})");
        }
    }
    fs::remove_file(record())?;
    Ok(())
}

fn is_running(name: &str, pid: u32) -> bool {
    let Ok(status) = fs::read_to_string(format!("/proc/{pid}/status")) else { return false };
    let named = status.lines().any(|line| line.split_whitespace().eq(["Name:", name]));
    named && !status.lines().any(|line| line.starts_with("State:") && line.contains('Z'))
}
