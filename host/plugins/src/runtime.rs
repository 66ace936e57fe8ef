//! The sandbox: two engines (everyday and deterministic), the ticker that interrupts endless loops, and loading.
//!
//! A component is validated, held against its world and compiled once; every session then gets a fresh store.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use wasmtime::component::{Component, HasSelf, Linker};
use wasmtime::{Config, Engine, OptLevel};

use crate::bindings::{connector, filesystem, policy, storage, volumes};
use crate::cache::{CompileCache, revive};
use crate::compile::Compiler;
use crate::connector::LinkedConnector;
use crate::error::{Error, ErrorKind};
use crate::filesystem::LinkedFilesystem;
use crate::inspect::{Inspection, look, validate};
use crate::limits::Limits;
use crate::manifest::{LanguageRuntime, Manifest, PluginKind};
use crate::state::State;

/// How often running guests are looked at.
pub(crate) const TICK: Duration = Duration::from_millis(10);

/// How a runtime works.
#[derive(Debug, Clone, Default)]
pub struct RuntimeOptions {
    /// Where compiled components are kept; a folder of its own. None compiles at every load.
    pub cache_dir: Option<PathBuf>,
    /// The limits of every session.
    pub limits: Limits,
    /// Who compiles; none compiles in this process, for components that are trusted as much as this code.
    pub compiler: Option<Compiler>,
}

/// The sandbox. Clones share it.
#[derive(Clone)]
pub struct Runtime {
    inner: Arc<Inner>,
}

struct Inner {
    everyday: Engine,
    deterministic: Engine,
    cache: Option<CompileCache>,
    limits: Arc<Limits>,
    compiler: Option<Compiler>,
}

/// A loaded version of a plugin. Clones share it; sessions that run keep it alive.
#[derive(Clone)]
pub struct Plugin {
    inner: Arc<Loaded>,
}

pub(crate) struct Loaded {
    pub(crate) inspection: Inspection,
    pub(crate) world: World,
    from_cache: bool,
}

/// A component that is linked to its world.
pub(crate) enum World {
    Connector(LinkedConnector),
    StorageTarget(storage::StorageTargetPre<State>),
    GuestFilesystem(Box<LinkedFilesystem>),
    VolumeReader(volumes::VolumeReaderPre<State>),
    Policy(policy::PolicyPre<State>),
}

impl Runtime {
    /// Starts the engines and the ticker, which ends with the last clone.
    ///
    /// # Errors
    /// [`ErrorKind::Load`] where this machine cannot run the sandbox or the cache folder cannot be made.
    pub fn new(options: RuntimeOptions) -> Result<Self, Error> {
        let RuntimeOptions { cache_dir, limits, compiler } = options;
        let failed = |error: String| Error::new(ErrorKind::Load, "runtime", error);
        let engine = |kind| Engine::new(&configuration(kind)).map_err(|error| failed(format!("{error:#}")));
        let (everyday, deterministic) = (engine(PluginKind::Connector)?, engine(PluginKind::Policy)?);
        let open = |folder: PathBuf| {
            CompileCache::open(&folder).map_err(|error| failed(format!("{}: {error}", folder.display())))
        };
        let cache = cache_dir.map(open).transpose()?;
        tick(&everyday, &deterministic).map_err(|error| failed(error.to_string()))?;
        let limits = Arc::new(limits);
        Ok(Self { inner: Arc::new(Inner { everyday, deterministic, cache, limits, compiler }) })
    }

    /// Validates, compiles and links a component. Compiling takes up to seconds and is done on a blocking thread.
    ///
    /// # Errors
    /// [`ErrorKind::Load`] where it is damaged, of another contract, or imports what its world does not name.
    pub async fn load(&self, component: &[u8]) -> Result<Plugin, Error> {
        let (runtime, bytes) = (self.clone(), component.to_vec());
        tokio::task::spawn_blocking(move || runtime.load_blocking(&bytes))
            .await
            .map_err(|error| Error::new(ErrorKind::Load, "load", format!("the compiler failed: {error}")))?
    }

    /// The same as [`Runtime::load`], on this thread.
    ///
    /// # Errors
    /// See [`Runtime::load`].
    pub fn load_blocking(&self, bytes: &[u8]) -> Result<Plugin, Error> {
        let inspection = look(bytes)?;
        let Manifest { name, version, .. } = &inspection.manifest;
        let failed = |message: String| Error::new(ErrorKind::Load, "load", message).of(name, version);
        if let Some(problem) = &inspection.problem {
            return Err(failed(problem.clone()));
        }
        let kind = inspection.manifest.kind;
        let engine = self.engine(kind);
        let compiled = match &self.inner.cache {
            Some(cache) => cache.get(engine, &inspection.digest, || self.compile(kind, bytes)),
            None => self.compile(kind, bytes).and_then(|code| Ok((revive(engine, &code)?, false))),
        };
        let (component, from_cache) =
            compiled.map_err(|error| failed(format!("it does not compile: {error:#}")))?;
        let world = World::link(&inspection, engine, &component)
            .map_err(|error| failed(format!("it does not fit its world: {error:#}")))?;
        Ok(Plugin { inner: Arc::new(Loaded { inspection, world, from_cache }) })
    }

    fn compile(&self, kind: PluginKind, bytes: &[u8]) -> wasmtime::Result<Vec<u8>> {
        validate(bytes).map_err(|error| wasmtime::Error::msg(error.message().to_owned()))?;
        match &self.inner.compiler {
            Some(compiler) => compiler.compile(kind, bytes).map_err(wasmtime::Error::msg),
            None => self.engine(kind).precompile_component(bytes),
        }
    }

    /// The limits of every session.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.inner.limits
    }

    pub(crate) fn shared_limits(&self) -> Arc<Limits> {
        Arc::clone(&self.inner.limits)
    }

    pub(crate) fn engine(&self, kind: PluginKind) -> &Engine {
        match kind {
            PluginKind::Policy => &self.inner.deterministic,
            _ => &self.inner.everyday,
        }
    }
}

impl Plugin {
    /// What it says of itself.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.inner.inspection.manifest
    }

    /// SHA-256 of the component, in hexadecimal.
    #[must_use]
    pub fn digest(&self) -> &str {
        &self.inner.inspection.digest
    }

    /// All that was found in it.
    #[must_use]
    pub fn inspection(&self) -> &Inspection {
        &self.inner.inspection
    }

    /// Whether it was compiled before.
    #[must_use]
    pub fn from_cache(&self) -> bool {
        self.inner.from_cache
    }

    pub(crate) fn world(&self) -> &World {
        &self.inner.world
    }
}

impl World {
    fn link(inspection: &Inspection, engine: &Engine, component: &Component) -> wasmtime::Result<Self> {
        let Inspection { manifest, exports, .. } = inspection;
        let mut linker: Linker<State> = Linker::new(engine);
        if manifest.runtime == Some(LanguageRuntime::Wasi02) {
            wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
        }
        Ok(match manifest.kind {
            PluginKind::Connector => {
                connector::Connector::add_to_linker::<_, HasSelf<_>>(&mut linker, |state| state)?;
                Self::Connector(LinkedConnector::new(linker.instantiate_pre(component)?, exports)?)
            }
            PluginKind::StorageTarget => {
                storage::StorageTarget::add_to_linker::<_, HasSelf<_>>(&mut linker, |state| state)?;
                Self::StorageTarget(storage::StorageTargetPre::new(linker.instantiate_pre(component)?)?)
            }
            PluginKind::GuestFilesystem => {
                filesystem::GuestFilesystem::add_to_linker::<_, HasSelf<_>>(&mut linker, |state| state)?;
                Self::GuestFilesystem(Box::new(LinkedFilesystem::new(
                    linker.instantiate_pre(component)?,
                    exports,
                )?))
            }
            PluginKind::VolumeReader => {
                volumes::VolumeReader::add_to_linker::<_, HasSelf<_>>(&mut linker, |state| state)?;
                Self::VolumeReader(volumes::VolumeReaderPre::new(linker.instantiate_pre(component)?)?)
            }
            PluginKind::Policy => {
                policy::Policy::add_to_linker::<_, HasSelf<_>>(&mut linker, |state| state)?;
                Self::Policy(policy::PolicyPre::new(linker.instantiate_pre(component)?)?)
            }
        })
    }
}

/// How guests of a kind run: policies on an engine that always does the same, all others on the everyday one.
pub(crate) fn configuration(kind: PluginKind) -> Config {
    let mut config = Config::new();
    if kind == PluginKind::Policy {
        config.consume_fuel(true).cranelift_nan_canonicalization(true);
    }
    config
        .epoch_interruption(true)
        .cranelift_opt_level(OptLevel::Speed)
        .max_wasm_stack(512 << 10)
        .async_stack_size(2 << 20)
        // Deterministic where a guest uses it, and rarely worth its difference between machines.
        .relaxed_simd_deterministic(true);
    config
}

/// A thread of the system, not a task: a guest that loops must be interrupted even while it holds every worker.
fn tick(everyday: &Engine, deterministic: &Engine) -> std::io::Result<()> {
    let engines = [everyday.weak(), deterministic.weak()];
    std::thread::Builder::new().name("plugin-ticker".to_owned()).spawn(move || {
        loop {
            std::thread::sleep(TICK);
            let mut alive = false;
            for engine in &engines {
                if let Some(engine) = engine.upgrade() {
                    engine.increment_epoch();
                    alive = true;
                }
            }
            if !alive {
                return;
            }
        }
    })?;
    Ok(())
}
