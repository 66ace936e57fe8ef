//! What is in a component, without running it: manifest, digest, imports, exports, and whether they fit the world
//! of its kind.

use wasmparser::{BinaryReaderError, Encoding, Parser, Payload};

use crate::error::{Error, ErrorKind};
use crate::manifest::{LanguageRuntime, Manifest, digest, read_manifest};
use crate::offered::wasi;

/// What was found in a component.
#[derive(Debug, Clone)]
pub struct Inspection {
    /// What it says of itself.
    pub manifest: Manifest,
    /// SHA-256 of the bytes, in hexadecimal.
    pub digest: String,
    /// How many bytes it has.
    pub size: usize,
    /// The interfaces it imports, for example `tidemark:plugin/log@0.1.0`.
    pub imports: Vec<String>,
    /// The interfaces it exports.
    pub exports: Vec<String>,
    /// Why it does not fit its world; none where it does.
    pub problem: Option<String>,
}

/// Looks into a component. One that does not fit its world is reported, not refused.
///
/// # Errors
/// [`ErrorKind::Load`] where the bytes are no valid component or have no manifest.
pub fn inspect(component: &[u8]) -> Result<Inspection, Error> {
    let found = look(component)?;
    validate(component).map_err(|error| error.of(&found.manifest.name, &found.manifest.version))?;
    Ok(found)
}

/// The same without a look into the functions, which takes the most time: for components that were validated before, or
/// are when they are compiled.
pub(crate) fn look(component: &[u8]) -> Result<Inspection, Error> {
    let manifest = read_manifest(component)?;
    let Interfaces { imports, exports } =
        names(component).map_err(|error| damaged(&error).of(&manifest.name, &manifest.version))?;
    let problem = misfits(&manifest, &imports, &exports).into_iter().next();
    Ok(Inspection { digest: digest(component), size: component.len(), manifest, imports, exports, problem })
}

/// The interfaces at a component's outermost level, by their full names.
pub(crate) struct Interfaces {
    pub(crate) imports: Vec<String>,
    pub(crate) exports: Vec<String>,
}

/// Validates a component and reads what it imports and exports.
///
/// # Errors
/// [`ErrorKind::Load`] where the bytes are no valid component.
pub(crate) fn interfaces(component: &[u8]) -> Result<Interfaces, Error> {
    validate(component)?;
    names(component).map_err(|error| damaged(&error))
}

/// Checks every byte of a component, functions included.
///
/// # Errors
/// [`ErrorKind::Load`] where it is no valid component.
pub(crate) fn validate(component: &[u8]) -> Result<(), Error> {
    wasmparser::Validator::new().validate_all(component).map(drop).map_err(|error| damaged(&error))
}

fn damaged(error: &BinaryReaderError) -> Error {
    Error::new(ErrorKind::Load, "inspect", format!("the component is damaged: {error}"))
}

fn names(component: &[u8]) -> Result<Interfaces, BinaryReaderError> {
    let (mut imports, mut exports) = (Vec::new(), Vec::new());
    let mut depth = 0_usize;
    for payload in Parser::new(0).parse_all(component) {
        match payload? {
            Payload::Version { encoding: Encoding::Module | Encoding::Component, .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::ComponentImportSection(section) if depth == 1 => {
                for import in section {
                    imports.push(import?.name.name.to_owned());
                }
            }
            Payload::ComponentExportSection(section) if depth == 1 => {
                for export in section {
                    exports.push(export?.name.name.to_owned());
                }
            }
            _ => {}
        }
    }
    Ok(Interfaces { imports, exports })
}

/// Every way in which a component does not fit the world of its kind.
pub(crate) fn misfits(manifest: &Manifest, imports: &[String], exports: &[String]) -> Vec<String> {
    let kind = manifest.kind;
    let mut problems = Vec::new();
    for import in imports {
        let of_world = kind
            .imports()
            .iter()
            .any(|interface| interface.is(import) && interface.is_in(&manifest.contract));
        let of_runtime = manifest.runtime == Some(LanguageRuntime::Wasi02) && wasi::offers(import);
        if !of_world && !of_runtime {
            problems.push(format!("it imports {import}, which the world {kind} does not name"));
        }
    }
    if !exports.iter().any(|export| kind.export().is(export)) {
        problems.push(format!("it does not export {}, as a {kind} has to", kind.export()));
    }
    for optional in kind.optional_exports() {
        if !optional.is_in(&manifest.contract) && exports.iter().any(|export| optional.is(export)) {
            problems.push(format!(
                "it exports {optional}, which its contract {} does not have: name a newer one in plugin.toml",
                manifest.contract
            ));
        }
    }
    problems
}
