//! Reads a server's log as an operator would: a warning or error that nobody expected is a failed test.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

/// The lines at WARN or ERROR.
///
/// # Errors
/// Where the log cannot be read.
pub fn complaints(log: &Path) -> Result<Vec<String>> {
    let text = fs::read_to_string(log).with_context(|| format!("cannot read {}", log.display()))?;
    Ok(text.lines().filter(|line| is_complaint(line)).map(str::to_owned).collect())
}

/// Fails for every complaint in the log that contains none of the `expected` texts.
///
/// # Errors
/// The unexpected lines.
pub fn no_surprises(log: &Path, expected: &[&str]) -> Result<()> {
    let mut lines = complaints(log)?;
    lines.retain(|line| !expected.iter().any(|text| line.contains(text)));
    ensure!(lines.is_empty(), "the log has warnings nobody expected:\n{}", lines.join("\n"));
    Ok(())
}

/// A statement that took long says something of the machine's disk: no test asserts a time.
const SLOW: &str = "WARN sqlx::query: slow statement";

fn is_complaint(line: &str) -> bool {
    if line.contains(SLOW) {
        return false;
    }
    let mut words = line.split_whitespace().take(3);
    words.any(|word| matches!(word, "WARN" | "ERROR")) || line.contains("panicked at")
}

#[cfg(test)]
mod tests {
    use super::is_complaint;

    #[test]
    fn a_warning_is_told_from_talk_about_warnings() {
        assert!(is_complaint("2026-01-01T00:00:00Z  WARN tidemark_engine: slow"));
        assert!(is_complaint("thread 'main' panicked at src/x.rs:1"));
        assert!(!is_complaint("2026-01-01T00:00:00Z  INFO tidemark: an ERROR was survived"));
        assert!(!is_complaint("2026-01-01T00:00:00Z  WARN sqlx::query: slow statement: elapsed=1.4s"));
        assert!(is_complaint("2026-01-01T00:00:00Z  WARN sqlx::query: lost"));
    }
}
