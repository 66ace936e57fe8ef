//! A work, done by each contender in turn, round after round: what disturbs the machine for a while disturbs all.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;
use tidemark_tests::process::{Guarded, tool, wait_for};

use crate::contender::{self, Contender};
use crate::data::{Disk, DiskPlan};
use crate::measure::Sample;

/// Connections a source server takes; each contender opens what it likes.
const SHARED: &str = "--shared=32";

/// What is timed, and who does it.
#[derive(Debug)]
pub(crate) struct Work {
    pub(crate) name: &'static str,
    pub(crate) disk: DiskPlan,
    pub(crate) contenders: Vec<Contender>,
}

impl Work {
    /// Ours beside both peers, and the bare disk where that can be told.
    pub(crate) fn uncompressed(name: &'static str, disk: DiskPlan) -> Self {
        let mut contenders =
            vec![Contender::Ours(None), Contender::QemuImg { compressed: false }, Contender::NbdCopy];
        if contender::has_fio() && matches!(disk, DiskPlan::Dense { .. }) {
            contenders.push(Contender::Fio);
        }
        Self { name, disk, contenders }
    }

    /// The default level and a stronger one beside the peer that compresses; nbdcopy's way cannot.
    pub(crate) fn compressed(name: &'static str, disk: DiskPlan) -> Self {
        let contenders =
            vec![Contender::Ours(Some(1)), Contender::Ours(Some(3)), Contender::QemuImg { compressed: true }];
        Self { name, disk, contenders }
    }
}

/// A work with all its samples.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) name: &'static str,
    pub(crate) size: u64,
    pub(crate) data_bytes: u64,
    /// Each contender's samples, in the order of the rounds.
    pub(crate) results: Vec<(Contender, Vec<Sample>)>,
}

/// The place where works are done.
#[derive(Debug)]
pub(crate) struct Bench {
    dir: TempDir,
    rounds: u32,
}

impl Bench {
    /// Makes a folder of its own below `dir`; it goes with this value.
    pub(crate) fn new(dir: &Path, rounds: u32) -> Result<Self> {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let dir = dir.canonicalize()?;
        let dir = tempfile::Builder::new().prefix("run-").tempdir_in(&dir)?;
        let bench = Self { dir, rounds };
        // A sink in memory measures the first touch of pages, and a source there qemu-nbd's search for holes.
        ensure!(
            bench.file_system()? != "tmpfs",
            "{} is in memory; choose another --dir",
            bench.dir.path().display()
        );
        Ok(bench)
    }

    /// What a reader must know to judge the figures.
    pub(crate) fn circumstances(&self) -> Result<Vec<String>> {
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        let memory = std::fs::read_to_string("/proc/meminfo")?;
        let kib = memory.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0);
        let first_line = |text: String| text.lines().next().unwrap_or_default().to_owned();
        Ok(vec![
            format!("{cores} processor cores, {} GiB of memory, Linux {}", kib >> 20, kernel()?),
            format!("disks and results on {}", self.file_system()?),
            format!(
                "{}; {}",
                first_line(tool("qemu-img", ["--version"])?),
                first_line(tool("nbdcopy", ["--version"])?)
            ),
            format!("{} interleaved rounds", self.rounds),
        ])
    }

    fn file_system(&self) -> Result<String> {
        let dir = self.dir.path().display().to_string();
        let table = tool("df", ["--output=fstype", &dir])?;
        Ok(table.lines().next_back().unwrap_or_default().trim().to_owned())
    }

    /// Does one work in all its rounds. The first round's results are compared with the source.
    pub(crate) fn run(&self, work: &Work) -> Result<Outcome> {
        eprintln!("{}: making the disk", work.name);
        let disk = work.disk.make(&self.dir.path().join("disk.raw"))?;
        let outcome = self.rounds_over(work, &disk);
        std::fs::remove_file(&disk.path)?;
        outcome.with_context(|| work.name)
    }

    fn rounds_over(&self, work: &Work, disk: &Disk) -> Result<Outcome> {
        let mut source = Source::start(disk, self.dir.path())?;
        let mut results: Vec<_> = work.contenders.iter().map(|&one| (one, Vec::new())).collect();
        let to = self.dir.path().join("result.qcow2");
        disk.warm()?;
        for round in 0..self.rounds {
            for (contender, samples) in &mut results {
                // Whatever another left to be written must not be written in this one's time.
                tool("sync", [] as [&str; 0])?;
                let sample = contender.run(&source.uri, work.disk.size(), disk.data_bytes, &to)?;
                eprintln!(
                    "{}: round {}, {}: {:.2} s",
                    work.name,
                    round + 1,
                    contender.name(),
                    sample.wall.as_secs_f64()
                );
                if round == 0 && contender.makes_image() {
                    contender::judge(&disk.path, &to).with_context(|| contender.name())?;
                }
                std::fs::remove_file(&to)?;
                if contender.is_ours() {
                    std::fs::remove_file(to.with_extension("digests"))?;
                }
                samples.push(sample);
            }
            source.server.still_running()?;
        }
        Ok(Outcome { name: work.name, size: work.disk.size(), data_bytes: disk.data_bytes, results })
    }
}

/// The server that all contenders of a work read from.
struct Source {
    server: Guarded,
    uri: String,
}

impl Source {
    fn start(disk: &Disk, dir: &Path) -> Result<Self> {
        let socket: PathBuf = dir.join("source.sock");
        let mut command = Command::new("qemu-nbd");
        command
            .args(["--read-only", "--persistent", "--format=raw", SHARED, "--socket"])
            .arg(&socket)
            .arg(&disk.path);
        let mut server = Guarded::start("qemu-nbd", &mut command, &dir.join("source.log"))?;
        wait_for("the source's socket", Duration::from_secs(10), || {
            server.still_running()?;
            // The socket's file is there a moment before it is listened on.
            Ok(UnixStream::connect(&socket).ok())
        })?;
        Ok(Self { server, uri: contender::nbd_uri(&socket) })
    }
}

fn kernel() -> Result<String> {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    // The part that tells machines apart is nobody's business.
    Ok(release.trim().split(['-', '+']).next().unwrap_or_default().to_owned())
}
