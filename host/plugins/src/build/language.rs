//! What a plugin is written in, which its folder shows, and how each language's tools make a component of it.
//!
//! | the folder has | language | made by |
//! |---|---|---|
//! | `Cargo.toml` | Rust | cargo for wasm32-unknown-unknown, then `wit-component` in this process |
//! | `package.json` | JavaScript | componentize-js, from npm |
//! | `requirements.txt` | Python | componentize-py, from PyPI |
//!
//! The tools of the last two are the plugin's own, fetched into its folder where they are missing. Their components import
//! nothing beyond their world either, unless the manifest asks for the WASI of their runtime.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{failed, toolchain};
use crate::error::Error;
use crate::manifest::Manifest;

/// The folder with the contract beside sources that are not Rust.
const CONTRACT_FOLDER: &str = "wit";
const PYTHON_MODULE: &str = "plugin";
const NPM_COMPILER: &str = "node_modules/@bytecodealliance/componentize-js/src/cli.js";
const PYTHON_COMPILER: &str = ".venv/bin/componentize-py";

/// Tools that are fetched into a plugin's folder.
struct Tools {
    /// The file that names them.
    wanted: &'static str,
    /// A copy of that file, as it was when they were fetched.
    stamp: &'static str,
    /// The one that has to be among them.
    compiler: &'static str,
    package: &'static str,
    fetch: fn(&Path) -> Result<(), Error>,
}

const NODE: Tools = Tools {
    wanted: "package.json",
    stamp: "node_modules/componentize-js.installed",
    compiler: NPM_COMPILER,
    package: "@bytecodealliance/componentize-js",
    fetch: fetch_node_modules,
};
const PYTHON: Tools = Tools {
    wanted: "requirements.txt",
    stamp: ".venv/componentize-py.installed",
    compiler: PYTHON_COMPILER,
    package: "componentize-py",
    fetch: fetch_python_packages,
};

/// What the JavaScript engine offers beyond the world: never HTTP, which is the host's.
const JS_NETWORK: [&str; 2] = ["http", "fetch-event"];
const JS_SYSTEM: [&str; 3] = ["stdio", "random", "clocks"];

/// A language that plugins are written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Language {
    /// Rust.
    Rust,
    /// JavaScript, as an ECMAScript module.
    JavaScript,
    /// Python 3.
    Python,
}

impl Language {
    /// The language of the sources in a folder.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Build`] where it shows none.
    pub fn of(dir: &Path) -> Result<Self, Error> {
        let signs = [
            ("Cargo.toml", Self::Rust),
            ("package.json", Self::JavaScript),
            ("requirements.txt", Self::Python),
        ];
        let found = signs.into_iter().find(|(file, _)| dir.join(file).is_file());
        found.map(|(_, language)| language).ok_or_else(|| {
            failed(format!(
                "{} holds no plugin's sources: there is neither Cargo.toml (Rust) nor package.json (JavaScript) nor \
                 requirements.txt (Python)",
                dir.display()
            ))
        })
    }
}

/// A component of JavaScript sources.
pub(super) fn javascript(dir: &Path, manifest: &Manifest) -> Result<Vec<u8>, Error> {
    fetch(dir, &NODE)?;
    let disabled = JS_NETWORK.iter().chain(if manifest.runtime.is_none() { &JS_SYSTEM[..] } else { &[] });
    made_in(dir, |out| {
        let mut command = Command::new("node");
        command.arg(NPM_COMPILER).arg(entry(dir)?).args(["--wit", contract(dir)?]);
        command.args(["--world-name", manifest.kind.as_str()]).arg("--disable").args(disabled);
        // Of the options that take many values the last: another option has to end it.
        command.arg("--out").arg(out);
        Ok(command)
    })
}

/// A component of Python sources.
pub(super) fn python(dir: &Path, manifest: &Manifest) -> Result<Vec<u8>, Error> {
    fetch(dir, &PYTHON)?;
    made_in(dir, |out| {
        let mut command = componentize_py(dir)?;
        command.args(["--world", manifest.kind.as_str(), "componentize", PYTHON_MODULE]);
        if manifest.runtime.is_none() {
            command.arg("--stub-wasi");
        }
        command.arg("--output").arg(out);
        Ok(command)
    })
}

/// Runs a plugin's own tests.
pub(super) fn own_tests(dir: &Path) -> Result<(), Error> {
    let command = match Language::of(dir)? {
        Language::Rust => {
            let mut command = toolchain::native_cargo();
            command.arg("test");
            command
        }
        Language::JavaScript => {
            fetch(dir, &NODE)?;
            let mut command = Command::new("npm");
            command.args(["test", "--silent"]);
            command
        }
        Language::Python => {
            fetch(dir, &PYTHON)?;
            // The contract's classes, of which the component gets its own.
            let classes = scratch()?;
            let mut command = componentize_py(dir)?;
            command.args(["--quiet", "--world", super::manifest_from_source(dir)?.kind.as_str()]);
            run(dir, command.arg("bindings").arg(classes.path()))?;
            let mut command = Command::new(within(dir, ".venv/bin/python"));
            command.args(["-m", "unittest", "--quiet"]);
            command.env("PYTHONPATH", classes.path()).env("PYTHONDONTWRITEBYTECODE", "1");
            return run(dir, &mut command);
        }
    };
    run(dir, &mut { command })
}

fn componentize_py(dir: &Path) -> Result<Command, Error> {
    let mut command = Command::new(within(dir, PYTHON_COMPILER));
    command.args(["--wit-path", contract(dir)?]).env("VIRTUAL_ENV", within(dir, ".venv"));
    Ok(command)
}

/// A path that is found from any working folder.
fn within(dir: &Path, place: &str) -> PathBuf {
    std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned()).join(place)
}

fn contract(dir: &Path) -> Result<&'static str, Error> {
    if dir.join(CONTRACT_FOLDER).is_dir() {
        return Ok(CONTRACT_FOLDER);
    }
    Err(failed(format!(
        "the contract's folder {} is missing; 'tidemark plugin new' makes one",
        dir.join(CONTRACT_FOLDER).display()
    )))
}

/// The module that `package.json` names as its main one.
fn entry(dir: &Path) -> Result<String, Error> {
    let file = dir.join("package.json");
    let wrong = |problem: String| failed(format!("{}: {problem}", file.display()));
    let text = std::fs::read_to_string(&file).map_err(|error| wrong(error.to_string()))?;
    let package: serde_json::Value = serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
    let main = package.get("main").and_then(serde_json::Value::as_str);
    main.map(str::to_owned).ok_or_else(|| wrong("'main' has to name the plugin's module".to_owned()))
}

/// Fetches what is missing, and all of it again where other tools are wanted than when it was fetched.
fn fetch(dir: &Path, tools: &Tools) -> Result<(), Error> {
    let Tools { wanted, stamp, compiler, package, fetch } = tools;
    let read = |file: &str| std::fs::read(dir.join(file));
    let known = read(wanted).map_err(|error| failed(format!("{}: {error}", dir.join(wanted).display())))?;
    if dir.join(compiler).is_file() && read(stamp).is_ok_and(|stamp| stamp == known) {
        return Ok(());
    }
    tracing::info!(dir = %dir.display(), package, "fetching the tools of a plugin");
    fetch(dir)?;
    if !dir.join(compiler).is_file() {
        return Err(failed(format!("{wanted} does not name {package}")));
    }
    std::fs::write(dir.join(stamp), known).map_err(|error| failed(format!("{stamp}: {error}")))
}

fn fetch_node_modules(dir: &Path) -> Result<(), Error> {
    run(dir, Command::new("npm").args(["install", "--no-audit", "--no-fund", "--loglevel=error"]))
}

fn fetch_python_packages(dir: &Path) -> Result<(), Error> {
    if !dir.join(".venv/bin/python").is_file() {
        run(dir, Command::new("python3").args(["-m", "venv", ".venv"]))?;
    }
    let mut pip = Command::new(within(dir, ".venv/bin/python"));
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]);
    run(dir, pip.args(["--requirement", "requirements.txt"]))
}

/// What a compiler writes into the file that it is told.
fn made_in(dir: &Path, command: impl FnOnce(&Path) -> Result<Command, Error>) -> Result<Vec<u8>, Error> {
    let folder = scratch()?;
    let out = folder.path().join("component.wasm");
    run(dir, &mut command(&out)?)?;
    std::fs::read(&out).map_err(|error| failed(format!("the compiler left no component: {error}")))
}

fn scratch() -> Result<tempfile::TempDir, Error> {
    let made = tempfile::Builder::new().prefix("tidemark-plugin-").tempdir();
    made.map_err(|error| failed(format!("no temporary folder can be made: {error}")))
}

/// Runs a tool in the plugin's folder; all that it says goes to stderr.
fn run(dir: &Path, command: &mut Command) -> Result<(), Error> {
    let program = command.get_program().to_string_lossy().into_owned();
    command.current_dir(dir).stdin(Stdio::null()).stdout(std::io::stderr());
    let ended = command.status().map_err(|error| {
        let advice = match program.as_str() {
            "node" | "npm" => ": install Node.js 20 or newer, with npm",
            "python3" => ": install Python 3.10 or newer, with venv",
            "cargo" => ": install Rust from https://rustup.rs",
            _ => "",
        };
        failed(format!("{program} does not start ({error}){advice}"))
    })?;
    let mut words = vec![program];
    words.extend(command.get_args().take(3).map(|word| word.to_string_lossy().into_owned()));
    if ended.success() { Ok(()) } else { Err(failed(format!("{} failed ({ended})", words.join(" ")))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_shows_the_language() {
        for (file, language) in [
            ("Cargo.toml", Language::Rust),
            ("package.json", Language::JavaScript),
            ("requirements.txt", Language::Python),
        ] {
            let folder = tempfile::tempdir().unwrap();
            assert!(Language::of(folder.path()).unwrap_err().message().contains(file));
            std::fs::write(folder.path().join(file), "").unwrap();
            assert_eq!(Language::of(folder.path()).unwrap(), language);
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let said = |ended: Result<String, Error>| ended.unwrap_err().message().to_owned();
        assert!(said(entry(folder.path())).contains("package.json"));
        std::fs::write(folder.path().join("package.json"), "{}").unwrap();
        assert!(said(entry(folder.path())).contains("'main'"));
        std::fs::write(folder.path().join("package.json"), r#"{"main": "plugin.js"}"#).unwrap();
        assert_eq!(entry(folder.path()).unwrap(), "plugin.js");
        let contract = contract(folder.path()).map(str::to_owned);
        assert!(said(contract).contains("tidemark plugin new"));
        let unknown = run(folder.path(), &mut Command::new("tidemark-no-such-tool"));
        assert!(unknown.unwrap_err().message().contains("does not start"));
        let failing = run(folder.path(), Command::new("ls").arg("no-such-file"));
        assert!(failing.unwrap_err().message().starts_with("ls no-such-file failed"));
    }
}
