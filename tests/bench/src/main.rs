//! Times the engine beside the tools people use today, on the same data, from the same server, onto the same file
//! system, in interleaved rounds.
//!
//! This process has data made, starts others and measures them; it moves nothing itself. The engine runs in
//! processes of its own (the hidden commands of `ours`), so that its memory and its processor time are counted as a
//! peer's are.

mod chain;
mod contender;
mod data;
mod files;
mod measure;
mod ours;
mod peers;
mod report;
mod rounds;
mod sink;
mod stop;
mod store;
mod summary;
mod works;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};

use data::{GIB, MIB};
use rounds::Bench;
use store::Store;
use works::{Scale, Work};

/// Times ours beside its peers.
#[derive(Debug, Parser)]
#[command(name = "tidemark-bench")]
struct Cli {
    #[command(subcommand)]
    command: Option<Hidden>,
    #[command(flatten)]
    bench: BenchArgs,
}

#[derive(Debug, Subcommand)]
enum Hidden {
    #[command(flatten)]
    Ours(ours::Operation),
    /// Times files out of backups
    Files(files::FilesArgs),
    /// Makes a disk to be moved
    #[command(hide = true)]
    MakeDisk(data::DiskArgs),
    /// Overwrites a disk here and there
    #[command(hide = true)]
    ChangeDisk(data::ChangeArgs),
}

#[derive(Debug, Args)]
struct BenchArgs {
    /// Small disks and one round: shows that the benchmark works, not how fast anything is
    #[arg(long)]
    quick: bool,
    /// Rounds of each work
    #[arg(long)]
    rounds: Option<u32>,
    /// The dense disk's size in MiB; three fifths of it carry data
    #[arg(long, value_name = "MIB")]
    size: Option<u64>,
    /// Where disks and results are put: a folder on a real disk, not tmpfs
    #[arg(long, value_name = "DIR", default_value = "target/bench")]
    dir: PathBuf,
    /// Where the fast sink's image is put, if elsewhere; in /dev/shm it has no disk below it at all
    #[arg(long, value_name = "DIR")]
    fast_dir: Option<PathBuf>,
    /// Puts the figures between the markers of this document
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,
    /// Only the works whose title contains this
    #[arg(long, value_name = "TEXT", default_value = "")]
    only: String,
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    match cli.command {
        Some(Hidden::Ours(operation)) => ours::run(operation),
        Some(Hidden::Files(args)) => files::run(&args),
        Some(Hidden::MakeDisk(args)) => data::make(args),
        Some(Hidden::ChangeDisk(args)) => data::change(args),
        None => {
            sink::enter_namespace()?;
            stop::listen()?;
            bench(cli.bench)
        }
    }
}

fn bench(args: BenchArgs) -> Result<()> {
    let BenchArgs { quick, rounds, size, dir, fast_dir, write, only } = args;
    let scale = if quick { Scale::quick() } else { Scale::full(size.map_or(8 * GIB, |mib| mib * MIB)) };
    let mut works = works::all(&scale);
    works.retain(|work| work.title().contains(&only));
    let mut store = Store::new(&dir, scale)?;
    let rounds = rounds.unwrap_or(if quick { 1 } else { 5 }).max(1);
    let bench = Bench::new(rounds, fast_dir, &store);
    let mut outcomes = Vec::new();
    let mut rest: &[Work] = &works;
    while let Some((work, later)) = rest.split_first() {
        outcomes.push(bench.run(work, &mut store).map_err(|error| error.context(work.title()))?);
        rest = later;
        store.keep(rest.iter().map(|work| work.subject))?;
    }
    let text = report::render(&outcomes, &bench.circumstances(&store)?);
    println!("{text}");
    if let Some(document) = &write {
        report::write(document, &text)?;
    }
    Ok(())
}
