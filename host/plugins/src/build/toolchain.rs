//! Finds out which way to build for wasm32-unknown-unknown works on this machine. Two do: a toolchain that has the
//! target's standard library (`rustup target add`), or one that has the library's source and builds it on the way
//! (Debian's `rustc-web`, `cargo-web`, `rust-web-src`).

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::error::{Error, ErrorKind};

/// The target: nothing but what the world names can be imported.
pub(super) const TARGET: &str = "wasm32-unknown-unknown";

/// How plugins are built here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BuildMethod {
    /// The toolchain has the target installed.
    Installed {
        /// The compiler.
        rustc: PathBuf,
        /// Its cargo.
        cargo: PathBuf,
    },
    /// The standard library is built from the toolchain's own source.
    BuildStd {
        /// The compiler.
        rustc: PathBuf,
        /// Its cargo.
        cargo: PathBuf,
        /// The linker for WebAssembly.
        linker: PathBuf,
    },
}

impl fmt::Display for BuildMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Installed { rustc, .. } => {
                write!(f, "{} with the installed target {TARGET}", rustc.display())
            }
            Self::BuildStd { rustc, linker, .. } => {
                write!(f, "{} with std built from source, linked by {}", rustc.display(), linker.display())
            }
        }
    }
}

impl BuildMethod {
    /// Finds the first way that works here.
    ///
    /// # Errors
    /// [`ErrorKind::Build`] with what to install.
    pub fn find() -> Result<Self, Error> {
        let toolchains = [("rustc", "cargo"), ("/usr/bin/rustc", "/usr/bin/cargo")];
        let toolchains = toolchains.map(|(rustc, cargo)| (PathBuf::from(rustc), PathBuf::from(cargo)));
        for (rustc, cargo) in &toolchains {
            if has_target(rustc) && runs(cargo) {
                return Ok(Self::Installed { rustc: rustc.clone(), cargo: cargo.clone() });
            }
        }
        let mut linker_missing = false;
        for (rustc, cargo) in &toolchains {
            if !(has_source(rustc) && runs(cargo)) {
                continue;
            }
            match find_linker(rustc) {
                Some(linker) => {
                    return Ok(Self::BuildStd { rustc: rustc.clone(), cargo: cargo.clone(), linker });
                }
                None => linker_missing = true,
            }
        }
        let advice = if linker_missing {
            "no linker for WebAssembly was found: run 'apt-get install lld'"
        } else {
            "plugins cannot be built here yet: run 'rustup target add wasm32-unknown-unknown', or on Debian \
             'apt-get install rustc-web cargo-web rust-web-src lld'"
        };
        Err(Error::new(ErrorKind::Build, "build", advice))
    }

    /// A cargo command in an environment that an outer cargo or rustup has not coloured.
    pub(super) fn cargo(&self) -> Command {
        let (Self::Installed { rustc, cargo } | Self::BuildStd { rustc, cargo, .. }) = self;
        let mut command = clean(cargo);
        command.env("RUSTC", rustc);
        if let Self::BuildStd { linker, .. } = self {
            // `-Zbuild-std` is the one unstable switch; the language of the guests stays the stable one.
            command.env("RUSTC_BOOTSTRAP", "1");
            command.env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", linker);
        }
        command
    }

    pub(super) fn finish_arguments(&self, command: &mut Command) {
        if matches!(self, Self::BuildStd { .. }) {
            command.arg("-Zbuild-std=std,panic_abort");
        }
    }
}

/// The cargo that builds for this machine.
pub(super) fn native_cargo() -> Command {
    clean(Path::new("cargo"))
}

fn clean(program: &Path) -> Command {
    let mut command = Command::new(program);
    for name in [
        "RUSTFLAGS",
        "CARGO_ENCODED_RUSTFLAGS",
        "CARGO_BUILD_TARGET",
        "CARGO_BUILD_RUSTFLAGS",
        "RUSTC_WORKSPACE_WRAPPER",
        "RUSTC",
        "RUSTDOC",
        "CARGO",
        "LD_LIBRARY_PATH",
        "CARGO_MANIFEST_DIR",
        "CARGO_PKG_NAME",
    ] {
        command.env_remove(name);
    }
    command
}

fn print(rustc: &Path, arguments: &[&str]) -> Option<PathBuf> {
    let output = clean(rustc).args(arguments).stderr(Stdio::null()).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    (output.status.success() && !text.trim().is_empty()).then(|| PathBuf::from(text.trim()))
}

fn runs(cargo: &Path) -> bool {
    clean(cargo).arg("--version").output().is_ok_and(|output| output.status.success())
}

/// Whether the target's `core` lies where this compiler looks for it.
fn has_target(rustc: &Path) -> bool {
    let Some(folder) = print(rustc, &["--print", "target-libdir", "--target", TARGET]) else { return false };
    let Ok(entries) = std::fs::read_dir(folder) else { return false };
    entries.flatten().any(|entry| {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        name.starts_with("libcore-") && name.ends_with(".rlib")
    })
}

fn has_source(rustc: &Path) -> bool {
    print(rustc, &["--print", "sysroot"])
        .is_some_and(|sysroot| sysroot.join("lib/rustlib/src/rust/library/std/Cargo.toml").exists())
}

/// The linker that came with a Rust toolchain fits its LLVM; a distribution's `wasm-ld` is the last choice.
fn find_linker(rustc: &Path) -> Option<PathBuf> {
    let beside = [rustc, Path::new("rustc")].into_iter().filter_map(|rustc| {
        let sysroot = print(rustc, &["--print", "sysroot"])?;
        let host = print(rustc, &["--print", "host-tuple"])?;
        Some(sysroot.join("lib/rustlib").join(host).join("bin/rust-lld"))
    });
    let in_path = ["rust-lld", "wasm-ld"].into_iter().flat_map(|name| {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).map(|folder| folder.join(name)).collect::<Vec<_>>()
    });
    beside.chain(in_path).find(|linker| linker.exists())
}
