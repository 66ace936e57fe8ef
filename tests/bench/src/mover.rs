//! The hidden command `copy`: one disk moved by the engine, in a process that does nothing else.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use tidemark_engine::{CopyOptions, Limits, copy_disk};

/// What to move.
#[derive(Debug, Args)]
pub(crate) struct CopyArgs {
    /// The NBD server's address.
    uri: String,
    /// The image to make.
    to: PathBuf,
    /// The zstd level; stored as it is without one.
    #[arg(long)]
    level: Option<i32>,
}

/// Moves it. The image is durable when this returns.
pub(crate) fn run(args: CopyArgs) -> Result<()> {
    let CopyArgs { uri, to, level } = args;
    let limits = Limits { zstd_level: level, ..Limits::default() };
    let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
    runtime.block_on(copy_disk(CopyOptions { uri, to, changed: None, limits })).context("the copy failed")?;
    Ok(())
}
