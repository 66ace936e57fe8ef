//! What is in a component, without running it: manifest, digest, imports, exports, and whether they fit the world
//! of its kind.

use wasmparser::{Encoding, Parser, Payload};

use crate::error::{Error, ErrorKind};
use crate::manifest::{LanguageRuntime, Manifest, contract_fits, digest, read_manifest};

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
    let manifest = read_manifest(component)?;
    let Interfaces { imports, exports } =
        interfaces(component).map_err(|error| error.of(&manifest.name, &manifest.version))?;
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
    let damaged = |error: wasmparser::BinaryReaderError| {
        Error::new(ErrorKind::Load, "inspect", format!("the component is damaged: {error}"))
    };
    wasmparser::Validator::new().validate_all(component).map_err(damaged)?;
    let (imports, exports) = names(component).map_err(damaged)?;
    Ok(Interfaces { imports, exports })
}

fn names(component: &[u8]) -> Result<(Vec<String>, Vec<String>), wasmparser::BinaryReaderError> {
    let (mut imports, mut exports) = (Vec::new(), Vec::new());
    let mut depth = 0_usize;
    for payload in Parser::new(0).parse_all(component) {
        match payload? {
            Payload::Version { encoding: Encoding::Module | Encoding::Component, .. } => depth += 1,
            Payload::End(_) => depth -= 1,
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
    Ok((imports, exports))
}

/// Every way in which a component does not fit the world of its kind.
pub(crate) fn misfits(manifest: &Manifest, imports: &[String], exports: &[String]) -> Vec<String> {
    let kind = manifest.kind;
    let mut problems = Vec::new();
    for import in imports {
        let of_world = kind.imports().iter().any(|name| is_interface(import, name));
        let of_runtime = manifest.runtime == Some(LanguageRuntime::Wasi02) && import.starts_with("wasi:");
        if !of_world && !of_runtime {
            problems.push(format!("it imports {import}, which the world {kind} does not name"));
        }
    }
    if !exports.iter().any(|export| is_interface(export, kind.export())) {
        problems.push(format!("it does not export tidemark:plugin/{}, as a {kind} has to", kind.export()));
    }
    problems
}

/// Whether `full` is `tidemark:plugin/<name>` of a contract that this host speaks.
pub(crate) fn is_interface(full: &str, name: &str) -> bool {
    full.strip_prefix("tidemark:plugin/")
        .and_then(|rest| rest.split_once('@'))
        .is_some_and(|(interface, version)| interface == name && contract_fits(version))
}
