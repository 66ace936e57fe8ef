//! `tidemark plugin new`: a folder with a small plugin that works, to go on from.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use clap::ValueEnum;
use serde_json::{Value, json};
use tidemark_plugins::{NAME_RULE, is_plugin_name};

use super::kit::{files_of, kinds_in};
use crate::args::NewArgs;
use crate::output::Output;

pub(super) fn run(args: &NewArgs, output: &Output) -> Result<()> {
    let NewArgs { name, kind, lang, dir } = args;
    ensure!(is_plugin_name(name), "'{name}' is no plugin name ({NAME_RULE}; it begins with a letter)");
    let dir = dir.as_deref().unwrap_or(Path::new(name));
    let files = files_of(*kind, *lang, name).with_context(|| {
        let kinds: Vec<String> = kinds_in(*lang).map(|kind| word(&kind)).collect();
        let (kind, lang, kinds) = (word(kind), word(lang), kinds.join(" and "));
        format!("there is no template of a {kind} in {lang}, only of: {kinds}")
    })?;
    make(dir, &files)?;
    let (kind, language) = (word(kind), word(lang));
    let places: Vec<&str> = files.iter().map(|(place, _)| place.as_str()).collect();
    let document = json!({ "name": name, "kind": kind, "language": language, "dir": dir, "files": places });
    output.document(document, |_: Value| {
        format!(
            "{kind} {name} is begun in {0}\n  tidemark plugin build    makes the component\n  \
             tidemark plugin test     runs its own tests, and tries it out in the sandbox\n\
             each in that folder; {0}/README.md says more",
            dir.display()
        )
    })
}

/// The word of an argument, as it is typed.
fn word(value: &impl ValueEnum) -> String {
    value.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

/// Writes the files into a folder that holds nothing yet.
fn make(dir: &Path, files: &[(String, String)]) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("making the folder {}", dir.display()))?;
    let mut entries = fs::read_dir(dir).with_context(|| format!("looking into {}", dir.display()))?;
    ensure!(entries.next().is_none(), "the folder {} is not empty; --dir names another", dir.display());
    for (place, text) in files {
        let path = dir.join(place);
        let write = || -> std::io::Result<()> {
            fs::create_dir_all(path.parent().unwrap_or(dir))?;
            fs::write(&path, text)
        };
        write().with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_empty_folder_is_filled() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("above/mine");
        make(&dir, &[("src/lib.rs".to_owned(), "//! x\n".to_owned())]).unwrap();
        assert_eq!(fs::read_to_string(dir.join("src/lib.rs")).unwrap(), "//! x\n");
        let error = make(&dir, &[("src/lib.rs".to_owned(), String::new())]).unwrap_err();
        assert!(error.to_string().contains("is not empty"), "{error}");
        assert_eq!(fs::read_to_string(dir.join("src/lib.rs")).unwrap(), "//! x\n");
    }
}
