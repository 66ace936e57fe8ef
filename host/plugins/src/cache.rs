//! Compiled components on disk, so that a restart does not compile again. Only what this code wrote itself is ever
//! loaded: the folder belongs to the host's user, names hold the component's digest and the compiler's identity, and
//! a file is checked against the digest that was written with it.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use wasmtime::Engine;
use wasmtime::component::Component;

/// The folder of compiled components.
#[derive(Debug)]
pub(crate) struct CompileCache {
    folder: PathBuf,
}

impl CompileCache {
    /// Makes the folder, readable by its owner only: whoever can write there can make the host run anything.
    pub(crate) fn open(folder: &Path) -> std::io::Result<Self> {
        use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o700))?;
        Ok(Self { folder: folder.to_owned() })
    }

    /// Takes a compiled component, or has it compiled and keeps it. Answers with whether it was there. A cache that
    /// cannot be written costs time only.
    pub(crate) fn get(
        &self,
        engine: &Engine,
        digest: &str,
        compile: impl FnOnce() -> wasmtime::Result<Vec<u8>>,
    ) -> wasmtime::Result<(Component, bool)> {
        let path = self.path(engine, digest);
        if let Some(component) = load(engine, &path) {
            return Ok((component, true));
        }
        let code = compile()?;
        if let Err(error) = self.store(&path, &code) {
            tracing::warn!(path = %path.display(), %error, "a compiled plugin could not be kept");
        }
        Ok((revive(engine, &code)?, false))
    }

    fn path(&self, engine: &Engine, digest: &str) -> PathBuf {
        let mut hasher = DefaultHasher::new();
        engine.precompile_compatibility_hash().hash(&mut hasher);
        self.folder.join(format!("{digest}-{:016x}.cwasm", hasher.finish()))
    }

    fn store(&self, path: &Path, code: &[u8]) -> std::io::Result<()> {
        let sum = blake3::hash(code).to_hex();
        for (path, bytes) in [(path, code), (&sum_path(path), sum.as_bytes())] {
            let mut file = tempfile::NamedTempFile::new_in(&self.folder)?;
            file.write_all(bytes)?;
            file.as_file().sync_all()?;
            file.persist(path)?;
        }
        Ok(())
    }
}

fn sum_path(path: &Path) -> PathBuf {
    path.with_extension("blake3")
}

/// A file that is missing, torn or of another compiler is none.
fn load(engine: &Engine, path: &Path) -> Option<Component> {
    let expected = std::fs::read_to_string(sum_path(path)).ok()?;
    let code = std::fs::read(path).ok()?;
    if blake3::hash(&code).to_hex().as_str() != expected {
        tracing::warn!(path = %path.display(), "a compiled plugin was damaged; compiling it again");
        return None;
    }
    revive(engine, &code).ok()
}

/// Makes code that our own compiler wrote a component again. Uploaded bytes never come here.
pub(crate) fn revive(engine: &Engine, code: &[u8]) -> wasmtime::Result<Component> {
    #[expect(
        unsafe_code,
        reason = "the code comes from our own compiler, in this process or in one of its own, or was kept by `store` \
                  in a folder that only this user may write, and matches the digest written with it"
    )]
    // SAFETY: `code` is what wasmtime's compiler gave (see the reason above); wasmtime itself refuses another version's
    // or configuration's code.
    unsafe {
        Component::deserialize(engine, code)
    }
}
