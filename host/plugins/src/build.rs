//! From a plugin's source folder to one component file: made by the tools of its language, then the manifest from
//! `plugin.toml` put into it.
//!
//! The import list of the result *is* its list of abilities: no operating system is behind it.

mod language;
mod toolchain;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Deserialize;

use crate::error::{Error, ErrorKind};
use crate::inspect::inspect;
use crate::manifest::{Capability, LanguageRuntime, Manifest, PluginKind, attach_manifest};

pub use language::Language;
pub use toolchain::BuildMethod;

/// Where things go.
#[derive(Debug, Clone, Default)]
pub struct BuildOptions {
    /// The component's file; `<target folder>/plugins/<name>.wasm` where none is given.
    pub out: Option<PathBuf>,
    /// Cargo's target folder; `CARGO_TARGET_DIR` or `<workspace>/target/plugins-build` where none is given.
    pub target_dir: Option<PathBuf>,
}

/// What a build gave.
#[derive(Debug, Clone)]
pub struct BuiltPlugin {
    /// The component.
    pub path: PathBuf,
    /// Its manifest.
    pub manifest: Manifest,
    /// By what it was made, in words.
    pub method: String,
    /// SHA-256 of the component, in hexadecimal.
    pub digest: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Source {
    name: String,
    version: String,
    kind: PluginKind,
    contract: String,
    #[serde(default)]
    description: String,
    settings: Option<SettingsSource>,
    #[serde(default)]
    capabilities: Vec<Capability>,
    runtime: Option<LanguageRuntime>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum SettingsSource {
    File(String),
    Inline(serde_json::Value),
}

/// Builds the plugin whose `plugin.toml` lies in `dir`, in the language that the folder shows. Blocks; the tools' messages go
/// to stderr.
///
/// # Errors
/// [`ErrorKind::Build`] where no way to build works here (with what to install) or the source does not compile,
/// [`ErrorKind::Load`] where the manifest is wrong or the component does not fit its world.
pub fn build_plugin(dir: &Path, options: &BuildOptions) -> Result<BuiltPlugin, Error> {
    let manifest = manifest_from_source(dir)?;
    let target_dir = options.target_dir.clone().unwrap_or_else(|| default_target_dir(dir));
    let (component, method) = match Language::of(dir)? {
        Language::Rust => {
            let method = BuildMethod::find()?;
            tracing::info!(plugin = %manifest.name, method = %method, "building a plugin");
            let module = run_cargo(dir, &target_dir, &method)?;
            let core =
                std::fs::read(&module).map_err(|error| failed(format!("{}: {error}", module.display())))?;
            (componentize(&core)?, method.to_string())
        }
        Language::JavaScript => (language::javascript(dir, &manifest)?, "componentize-js".to_owned()),
        Language::Python => (language::python(dir, &manifest)?, "componentize-py".to_owned()),
    };
    let component = attach_manifest(&component, &manifest)?;
    let inspection = inspect(&component)?;
    if let Some(problem) = inspection.problem {
        return Err(Error::new(ErrorKind::Load, "build", problem).of(&manifest.name, &manifest.version));
    }
    let path = options.out.clone().unwrap_or_else(|| component_in(&target_dir, &manifest.name));
    write_atomically(&path, &component)?;
    Ok(BuiltPlugin { path, manifest, method, digest: inspection.digest })
}

/// Reads `plugin.toml` and, where it names one, the settings' schema beside it.
///
/// # Errors
/// [`ErrorKind::Load`] with the file and what is wrong in it.
pub fn manifest_from_source(dir: &Path) -> Result<Manifest, Error> {
    let manifest = unchecked_from_source(dir)?;
    manifest.check()?;
    Ok(manifest)
}

/// The same without a look at what the fields say.
pub(crate) fn unchecked_from_source(dir: &Path) -> Result<Manifest, Error> {
    let file = dir.join("plugin.toml");
    let wrong = |file: &Path, error: String| {
        Error::new(ErrorKind::Load, "manifest", format!("{}: {error}", file.display()))
    };
    let text = std::fs::read_to_string(&file).map_err(|error| wrong(&file, error.to_string()))?;
    let source: Source = toml::from_str(&text).map_err(|error| wrong(&file, error.to_string()))?;
    let beside = dir.join("settings.schema.json");
    let schema_file = match &source.settings {
        Some(SettingsSource::File(name)) => Some(dir.join(name)),
        None if beside.exists() => Some(beside),
        _ => None,
    };
    let settings = match (source.settings, schema_file) {
        (_, Some(file)) => {
            let text = std::fs::read_to_string(&file).map_err(|error| wrong(&file, error.to_string()))?;
            serde_json::from_str(&text).map_err(|error| wrong(&file, error.to_string()))?
        }
        (Some(SettingsSource::Inline(schema)), None) => schema,
        _ => serde_json::json!({ "type": "object" }),
    };
    Ok(Manifest {
        name: source.name,
        version: source.version,
        kind: source.kind,
        contract: source.contract,
        description: source.description,
        settings,
        capabilities: source.capabilities,
        runtime: source.runtime,
    })
}

/// The component that was last built of the sources in `dir`: in the place that a build chooses by itself, or as
/// `NAME.wasm` beside the sources; none where there is none.
#[must_use]
pub fn built_component(dir: &Path, name: &str) -> Option<PathBuf> {
    let places = [component_in(&default_target_dir(dir), name), dir.join(format!("{name}.wasm"))];
    let built = |path: &PathBuf| std::fs::metadata(path).and_then(|about| about.modified()).ok();
    places.into_iter().filter(|path| built(path).is_some()).max_by_key(built)
}

/// Runs the plugin's own tests on this machine, with the everyday tools of its language; all of their output goes to
/// stderr.
///
/// # Errors
/// [`ErrorKind::Build`] where the tool does not start or a test fails.
pub fn run_own_tests(dir: &Path) -> Result<(), Error> {
    language::own_tests(dir)
}

/// Turns a core module that a guest library's build gave into a component; leaves a component as it is.
///
/// # Errors
/// [`ErrorKind::Build`] where the module imports something that its world does not name.
pub fn componentize(module: &[u8]) -> Result<Vec<u8>, Error> {
    if wasmparser::Parser::is_component(module) {
        return Ok(module.to_vec());
    }
    let mut encoder = wit_component::ComponentEncoder::default()
        .validate(true)
        .module(module)
        .map_err(|error| failed(format!("no plugin world in the module: {error:#}")))?;
    encoder.encode().map_err(|error| failed(format!("the module does not fit its world: {error:#}")))
}

fn run_cargo(dir: &Path, target_dir: &Path, method: &BuildMethod) -> Result<PathBuf, Error> {
    let mut command: Command = method.cargo();
    command
        .current_dir(dir)
        .args([
            "build",
            "--release",
            "--target",
            toolchain::TARGET,
            "--message-format",
            "json-render-diagnostics",
        ])
        .arg("--target-dir")
        .arg(target_dir)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit());
    method.finish_arguments(&mut command);
    let output = command.output().map_err(|error| failed(format!("cargo does not start: {error}")))?;
    if !output.status.success() {
        return Err(failed(format!("cargo failed in {} ({})", dir.display(), output.status)));
    }
    let messages = String::from_utf8_lossy(&output.stdout);
    let package = std::fs::canonicalize(dir.join("Cargo.toml")).ok();
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["reason"] == "compiler-artifact")
        .filter(|message| {
            package.is_none() || message["manifest_path"].as_str().map(PathBuf::from) == package
        })
        .flat_map(|message| message["filenames"].as_array().cloned().unwrap_or_default())
        .filter_map(|name| name.as_str().map(PathBuf::from))
        .rfind(|path| path.extension().is_some_and(|extension| extension == "wasm"))
        .ok_or_else(|| failed("cargo made no .wasm file; is `crate-type = [\"cdylib\"]` set?"))
}

/// `<outermost workspace>/target/plugins-build`, so that all first-party plugins share one build of `std`.
fn default_target_dir(dir: &Path) -> PathBuf {
    if let Some(given) = std::env::var_os("CARGO_TARGET_DIR") {
        return PathBuf::from(given);
    }
    let dir = std::fs::canonicalize(dir).unwrap_or_else(|_| dir.to_owned());
    let is_workspace = |folder: &&Path| {
        std::fs::read_to_string(folder.join("Cargo.toml")).is_ok_and(|text| text.contains("[workspace]"))
    };
    let root = dir.ancestors().filter(is_workspace).last().unwrap_or(&dir).to_owned();
    root.join("target").join("plugins-build")
}

fn component_in(target_dir: &Path, name: &str) -> PathBuf {
    target_dir.join("plugins").join(format!("{name}.wasm"))
}

fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let write = || -> std::io::Result<()> {
        std::fs::create_dir_all(folder)?;
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        std::io::Write::write_all(&mut file, bytes)?;
        // A temporary file is its owner's alone; a component is for everybody to install.
        file.as_file().set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
        file.persist(path)?;
        Ok(())
    };
    write().map_err(|error| failed(format!("{}: {error}", path.display())))
}

fn failed(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Build, "build", message)
}
