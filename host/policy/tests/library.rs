//! The shipped policies: each is without a finding, and each passes the cases beside it.

#![expect(clippy::unwrap_used, reason = "a test that cannot read the library has failed")]

use std::path::{Path, PathBuf};

use tidemark_model::PolicyKind;
use tidemark_policy::{Script, cases_kind, check, likely_kind, run_cases};

fn library() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../policies")
}

fn scripts(folder: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(library().join(folder)).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let mut scripts: Vec<PathBuf> =
        paths.filter(|path| path.extension().is_some_and(|e| e == "rhai")).collect();
    scripts.sort();
    scripts
}

fn all() -> Vec<(PolicyKind, PathBuf)> {
    let kinds = [(PolicyKind::Retention, "retention"), (PolicyKind::Group, "groups")];
    kinds.iter().flat_map(|(kind, folder)| scripts(folder).into_iter().map(|path| (*kind, path))).collect()
}

#[test]
fn nothing_is_found_wrong_with_any() {
    assert!(all().len() >= 14);
    for (kind, path) in all() {
        let source = std::fs::read_to_string(&path).unwrap();
        assert_eq!(likely_kind(&source), kind);
        let found: Vec<String> = check(kind, &source).iter().map(ToString::to_string).collect();
        assert!(found.is_empty(), "{}:\n{}", path.display(), found.join("\n"));
    }
}

#[test]
fn each_passes_the_cases_beside_it() {
    let mut wrong = Vec::new();
    for (kind, path) in all() {
        let script = Script::compile(kind, &std::fs::read_to_string(&path).unwrap()).unwrap();
        let toml = std::fs::read_to_string(path.with_extension("test.toml")).unwrap();
        assert_eq!(cases_kind(&toml).unwrap(), Some(kind), "{}", path.display());
        let results = run_cases(&script, &toml).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert!(results.len() >= 3, "{}", path.display());
        for result in results.iter().filter(|result| !result.passed()) {
            wrong.push(format!("{}: {}: {:#?}", path.display(), result.name, result.differences));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A file of cases without its script would never be run.
#[test]
fn no_file_of_cases_is_without_its_script() {
    for folder in ["retention", "groups"] {
        let entries = std::fs::read_dir(library().join(folder)).unwrap();
        let names: Vec<String> =
            entries.map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
        for name in &names {
            let base = name.strip_suffix(".test.toml").or(name.strip_suffix(".rhai"));
            let base = base.unwrap_or_else(|| panic!("what is {folder}/{name}?"));
            let pair = [format!("{base}.rhai"), format!("{base}.test.toml")];
            assert!(pair.iter().all(|file| names.contains(file)), "{folder}/{base} is not complete");
        }
    }
}
