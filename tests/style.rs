//! The parts of the house style that a program can check: every source file says what it is for, stays small
//! enough to be read at once, and leaves nothing unfinished behind.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use tidemark_tests::binaries::checkout;

/// A file this long is two files.
const LONGEST_FILE: usize = 600;

/// Names that say nothing about what is inside.
const EMPTY_NAMES: &[&str] =
    &["utils.rs", "util.rs", "helpers.rs", "helper.rs", "common.rs", "manager.rs", "misc.rs"];

/// Spelt in two halves, so that this file passes its own check.
const UNFINISHED: &[(&str, &str)] =
    &[("todo", "!("), ("unimplemented", "!("), ("#[ign", "ore"), ("TO", "DO"), ("FIX", "ME")];

#[test]
fn every_source_file_keeps_the_house_style() -> Result<()> {
    let mut files = Vec::new();
    for folder in ["host", "plugins", "sdk", "tests"] {
        collect(&checkout().join(folder), &mut files);
    }
    ensure!(files.len() > 20, "the sources were not found");
    let mut offences = Vec::new();
    for file in &files {
        offences.extend(offences_of(file).with_context(|| file.display().to_string())?);
    }
    ensure!(offences.is_empty(), "{}", offences.join("\n"));
    Ok(())
}

fn offences_of(file: &Path) -> Result<Vec<String>> {
    let text = fs::read_to_string(file)?;
    let mut offences = Vec::new();
    let mut blame = |what: String| offences.push(format!("{}: {what}", file.display()));
    if !text.starts_with("//!") {
        blame("does not open with what it is for (//!)".to_owned());
    }
    let lines = text.lines().count();
    if lines > LONGEST_FILE {
        blame(format!("has {lines} lines; {LONGEST_FILE} is where one splits"));
    }
    let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    if EMPTY_NAMES.contains(&name) {
        blame("has a name that says nothing".to_owned());
    }
    for (head, tail) in UNFINISHED {
        if text.contains(&format!("{head}{tail}")) {
            blame(format!("contains {head}{tail}"));
        }
    }
    Ok(offences)
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        if path.is_dir() && name != "target" && name != "fuzz" {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}
