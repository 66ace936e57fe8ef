//! The Wasm runtime of plugins: load, verify, grant, limit, and typed façades that believe no guest.

pub mod build;
mod error;
mod inspect;
mod manifest;

pub use error::{Error, ErrorKind};
pub use inspect::{Inspection, inspect};
pub use manifest::{
    CONTRACT, Capability, LanguageRuntime, MAX_COMPONENT_BYTES, Manifest, Network, PluginKind, SECTION,
    attach_manifest, digest, read_manifest,
};
