//! The hidden commands that are timed: one operation of the engine, in a process that does nothing else. `idle` is
//! the floor under all of them: the process and its runtime, with nothing to do.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::{Args, Subcommand};
use tidemark_engine::{
    Changed, CopyOptions, FlattenOptions, Limits, MergeChainOptions, VerifyChainOptions, copy_disk,
    flatten_chain, merge_chain, verify_chain,
};
use tidemark_model::{ByteLen, Extent, ExtentList};
use tokio::task::JoinSet;

/// One operation.
#[derive(Debug, Subcommand)]
pub(crate) enum Operation {
    /// Moves a disk as a backup does
    #[command(hide = true)]
    Copy(CopyArgs),
    /// Restores a chain to a raw file
    #[command(hide = true)]
    Restore(ChainArgs),
    /// Merges images into one
    #[command(hide = true)]
    Merge(ChainArgs),
    /// Verifies a chain cluster by cluster
    #[command(hide = true)]
    Verify {
        /// The images, the newest first.
        layers: Vec<PathBuf>,
    },
    /// Starts, and ends
    #[command(hide = true)]
    Idle,
}

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
    /// For an increment: the ranges that changed, as lines "OFFSET LENGTH".
    #[arg(long, requires = "backing")]
    changed: Option<PathBuf>,
    /// For an increment: the image below.
    #[arg(long, requires = "changed")]
    backing: Option<String>,
    /// So many disks at once, the same one each time; the images are numbered.
    #[arg(long, conflicts_with = "changed")]
    disks: Option<u32>,
}

/// What to make of which images.
#[derive(Debug, Args)]
pub(crate) struct ChainArgs {
    /// The file to make.
    to: PathBuf,
    /// The images, the newest first.
    layers: Vec<PathBuf>,
    /// For a merge: the image below them.
    #[arg(long)]
    backing: Option<String>,
}

/// Does it. Whatever it makes is durable when this returns.
pub(crate) fn run(operation: Operation) -> Result<()> {
    let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
    runtime.block_on(async {
        match operation {
            Operation::Copy(args) => copy(args).await.context("the copy failed"),
            Operation::Restore(ChainArgs { to, layers, backing: _ }) => {
                let options = FlattenOptions { layers, to, limits: Limits::default() };
                flatten_chain(options).await.map(drop).context("the restore failed")
            }
            Operation::Merge(ChainArgs { to, layers, backing }) => {
                let options = MergeChainOptions { layers, backing, to, limits: Limits::default() };
                merge_chain(options).await.map(drop).context("the merge failed")
            }
            Operation::Verify { layers } => verify(layers).await.context("the verification failed"),
            Operation::Idle => Ok(()),
        }
    })
}

async fn copy(args: CopyArgs) -> Result<()> {
    let CopyArgs { uri, to, level, changed, backing, disks } = args;
    let limits = Limits { zstd_level: level, ..Limits::default() };
    let changed = match (changed, backing) {
        (Some(list), Some(backing)) => Some(Changed { extents: read_list(&list)?, backing }),
        _ => None,
    };
    let Some(disks) = disks else {
        copy_disk(CopyOptions { uri, to, changed, limits }).await?;
        return Ok(());
    };
    let mut copies = JoinSet::new();
    for number in 0..disks {
        let to = numbered(&to, number);
        copies.spawn(copy_disk(CopyOptions { uri: uri.clone(), to, changed: None, limits: limits.clone() }));
    }
    while let Some(copied) = copies.join_next().await {
        copied??;
    }
    Ok(())
}

async fn verify(layers: Vec<PathBuf>) -> Result<()> {
    let report = verify_chain(VerifyChainOptions { layers, limits: Limits::default() }).await?;
    ensure!(report.damaged.iter().all(ExtentList::is_empty), "the chain is damaged: {:?}", report.damaged);
    // A verification that had nothing to compare with would be fast for nothing.
    ensure!(
        report.compared_clusters > 0 && report.uncompared_clusters == 0,
        "{} clusters were compared and {} were not",
        report.compared_clusters,
        report.uncompared_clusters
    );
    Ok(())
}

/// The image of one of several disks.
pub(crate) fn numbered(to: &Path, number: u32) -> PathBuf {
    to.with_extension(format!("{number}.qcow2"))
}

fn read_list(path: &Path) -> Result<ExtentList> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut extents = Vec::new();
    for line in text.lines() {
        let (offset, length) = line.split_once(' ').context("a line of the list is no pair")?;
        extents.push(Extent::new(offset.parse()?, length.parse()?)?);
    }
    // How large the disk is, its server knows: the copy holds the list against that.
    Ok(ExtentList::checked(extents, ByteLen(u64::MAX))?)
}
