//! Times the mover beside the tools people use today: `qemu-img convert` and `nbdcopy`, on the same disk, from the
//! same server, onto the same file system, in interleaved rounds.
//!
//! This process makes data, starts others and measures them; it moves nothing itself. The mover runs in a process
//! of its own (the hidden command `copy`), so that its memory and its processor time are counted as a peer's are.

mod contender;
mod data;
mod measure;
mod mover;
mod report;
mod rounds;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};

use data::{DiskPlan, GIB, MIB};
use rounds::{Bench, Work};

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
    /// Moves one disk as a backup does.
    #[command(hide = true)]
    Copy(mover::CopyArgs),
    /// Makes a disk to be moved.
    #[command(hide = true)]
    MakeDisk(data::DiskArgs),
}

#[derive(Debug, Args)]
struct BenchArgs {
    /// Small disks and one round: shows that the benchmark works, not how fast anything is
    #[arg(long)]
    quick: bool,
    /// Rounds of each work
    #[arg(long)]
    rounds: Option<u32>,
    /// The dense disk's size in MiB; three fifths of it carry data (8192 gives the published peers' 4.9 GiB)
    #[arg(long, value_name = "MIB")]
    size: Option<u64>,
    /// Where disks and results are put: a folder on a real disk, not tmpfs
    #[arg(long, value_name = "DIR", default_value = "target/bench")]
    dir: PathBuf,
    /// Puts the figures between the markers of this document
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,
    /// Only the works whose name contains this
    #[arg(long, value_name = "TEXT", default_value = "")]
    only: String,
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    match cli.command {
        Some(Hidden::Copy(args)) => mover::run(args),
        Some(Hidden::MakeDisk(args)) => data::run(args),
        None => bench(&cli.bench),
    }
}

fn bench(args: &BenchArgs) -> Result<()> {
    let (size, sparse_size, sparse_data) =
        if args.quick { (64 * MIB, GIB, 4 * MIB) } else { (2 * GIB, 100 * GIB, GIB) };
    let size = args.size.map_or(size, |mib| mib * MIB);
    let rounds = args.rounds.unwrap_or(if args.quick { 1 } else { 5 }).max(1);
    let bench = Bench::new(&args.dir, rounds)?;
    let dense = DiskPlan::Dense { size };
    let sparse = DiskPlan::Scattered { size: sparse_size, data: sparse_data };
    let works = [
        Work::uncompressed("full, uncompressed", dense),
        Work::compressed("full, zstd", dense),
        Work::uncompressed("sparse", sparse),
    ];
    let mut outcomes = Vec::new();
    for work in works.iter().filter(|work| work.name.contains(&args.only)) {
        outcomes.push(bench.run(work)?);
    }
    let text = report::render(&outcomes, &bench.circumstances()?);
    println!("{text}");
    if let Some(document) = &args.write {
        report::write(document, &text)?;
    }
    Ok(())
}
