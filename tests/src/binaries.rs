//! Where the built product lies. The three places are fixed: `target/release/tidemark`,
//! `target/release/vcenter-sim` and `target/plugins/*.wasm`; `TIDEMARK_TARGET` names another target folder.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};

/// The root of the checkout.
#[must_use]
pub fn checkout() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().map_or_else(|| package.to_path_buf(), Path::to_path_buf)
}

/// The target folder that `make build` fills.
#[must_use]
pub fn target() -> PathBuf {
    env::var_os("TIDEMARK_TARGET").map_or_else(|| checkout().join("target"), PathBuf::from)
}

/// The product.
///
/// # Errors
/// Where it is not built.
pub fn tidemark() -> Result<PathBuf> {
    built(target().join("release/tidemark"))
}

/// The vCenter simulator.
///
/// # Errors
/// Where it is not built.
pub fn vcenter_sim() -> Result<PathBuf> {
    built(target().join("release/vcenter-sim"))
}

/// The folder of first-party components.
#[must_use]
pub fn plugins() -> PathBuf {
    target().join("plugins")
}

/// One component by its file's stem.
///
/// # Errors
/// Where it is not built.
pub fn component(name: &str) -> Result<PathBuf> {
    built(plugins().join(format!("{name}.wasm")))
}

/// A component that exists for the tests only, such as one that misbehaves.
///
/// # Errors
/// Where it is not built.
pub fn guest(name: &str) -> Result<PathBuf> {
    built(target().join("guests").join(format!("{name}.wasm")))
}

fn built(path: PathBuf) -> Result<PathBuf> {
    ensure!(path.is_file(), "{} is missing: run `make build` first", path.display());
    Ok(path)
}
