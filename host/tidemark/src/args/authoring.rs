//! The arguments of those who write plugins: new, check, test and dev.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::ConnectionValues;

/// Which kind of plugin to begin with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum TemplateArg {
    /// Talks to a hypervisor
    Connector,
    /// Says where backups go
    StorageTarget,
    /// Reads one kind of file system
    GuestFilesystem,
    /// Decides what is protected and what is kept
    Policy,
}

/// In which language to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LanguageArg {
    /// Rust, with cargo
    Rust,
    /// JavaScript, with componentize-js from npm: policies
    Js,
    /// Python, with componentize-py from PyPI: policies and storage targets
    Python,
}

#[derive(Debug, Args)]
pub(crate) struct NewArgs {
    /// The plugin's name: lower-case letters, digits, hyphens
    pub(crate) name: String,
    /// What it is for
    #[arg(long, value_enum)]
    pub(crate) kind: TemplateArg,
    /// What to write it in
    #[arg(long, value_enum, default_value = "rust")]
    pub(crate) lang: LanguageArg,
    /// The folder to make, which has to be empty where it exists [default: NAME]
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// The folder with plugin.toml, or a component
    #[arg(default_value = ".", value_name = "DIR|FILE")]
    pub(crate) path: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct TestArgs {
    /// The folder with plugin.toml
    #[arg(default_value = ".")]
    pub(crate) dir: PathBuf,
    #[command(flatten)]
    pub(crate) values: ConnectionValues,
    /// The VM that a connector takes a snapshot of [default: the first that can be backed up]
    #[arg(long, value_name = "KEY|NAME")]
    pub(crate) vm: Option<String>,
    /// A raw image of a disk that a file-system reader has to know
    #[arg(long, value_name = "FILE")]
    pub(crate) disk: Option<PathBuf>,
    /// Write what the plugin says over HTTP, and is answered, into a new file; secrets are left out
    #[arg(long, value_name = "FILE", conflicts_with = "replay")]
    pub(crate) record: Option<PathBuf>,
    /// Answer its requests from such a file, with the settings that were recorded, and without a server
    #[arg(long, value_name = "FILE", conflicts_with_all = ["settings", "secrets", "vm"])]
    pub(crate) replay: Option<PathBuf>,
    /// Where to put the component that was tried out, if it passes all
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct DevArgs {
    /// The folder with plugin.toml
    #[arg(default_value = ".")]
    pub(crate) dir: PathBuf,
    /// How often to look for changes
    #[arg(long, value_name = "SECONDS", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(crate) interval: u64,
}
