//! Who takes part, each with its best flags, and each ending with its result durable: ours syncs before it publishes,
//! the peers write past the page cache and flush at their end, or are followed by a sync in their own time.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use tidemark_tests::process::tool;
use tidemark_tests::qemu;

use crate::chain::Chain;
use crate::data::{Disk, text};
use crate::measure::Meter;
use crate::ours::numbered;
use crate::peers;

/// A way to do a work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Contender {
    /// The engine's process with nothing to do: the floor under the memory of all of ours.
    Idle,
    /// The engine's mover, at a zstd level or uncompressed.
    Copy(Option<i32>),
    /// The same for so many disks at once, in one process.
    CopyMany(u32, Option<i32>),
    /// The engine's mover over a list of changed blocks.
    Increment(Option<i32>),
    /// The engine's restore of a chain to a raw file.
    Restore,
    /// The engine's merge of all images of a chain but the full.
    Merge,
    /// The engine's deep verification of a chain.
    Verify,
    /// `qemu-img convert` from NBD.
    Convert {
        /// With zstd-compressed clusters.
        compressed: bool,
    },
    /// `nbdcopy` into a `qemu-nbd` over a fresh image: two processes.
    NbdCopy,
    /// Nothing but sequential direct writes of as many bytes: what the disk gives.
    Fio,
    /// A loop of libnbd reads and writes over a list of changed blocks into a `qemu-nbd` over a fresh overlay.
    ListLoop {
        /// Blocks on their way at once.
        in_flight: u32,
    },
    /// `qemu-img convert` of a chain to a raw file.
    ConvertChain {
        /// With the best flags, or as it comes.
        tuned: bool,
    },
    /// `qemu-img rebase` of the newest image onto the full.
    Rebase,
    /// `qemu-img compare` of a chain with the raw disk.
    Compare,
}

/// What there is to do, and with what.
#[derive(Debug)]
pub(crate) struct Task<'a> {
    /// The source server's address.
    pub(crate) uri: &'a str,
    /// The disk behind it.
    pub(crate) disk: &'a Disk,
    /// The chain whose newest image is that disk, where the work is about one.
    pub(crate) chain: Option<&'a Chain>,
    /// The result: does not exist yet.
    pub(crate) to: PathBuf,
    /// Where the peers that come as source were built.
    pub(crate) tools: &'a Path,
}

/// The empty image below an increment, in the folder of the result.
pub(crate) const PARENT: &str = "parent.qcow2";

impl Contender {
    /// How the tables call it.
    pub(crate) fn name(self) -> String {
        let level = |level: Option<i32>| level.map_or(String::new(), |level| format!(", zstd {level}"));
        match self {
            Self::Idle => "tidemark, idle".to_owned(),
            Self::Copy(zstd) | Self::Increment(zstd) => format!("tidemark{}", level(zstd)),
            Self::Restore | Self::Merge | Self::Verify => "tidemark".to_owned(),
            Self::CopyMany(disks, zstd) => format!("tidemark, {disks} disks at once{}", level(zstd)),
            Self::Convert { compressed: false } => "qemu-img convert".to_owned(),
            Self::Convert { compressed: true } => "qemu-img convert -c (zstd)".to_owned(),
            Self::NbdCopy => "nbdcopy → qemu-nbd".to_owned(),
            Self::Fio => "fio, direct writes (the limit)".to_owned(),
            Self::ListLoop { in_flight: 1 } => "libnbd loop → qemu-nbd".to_owned(),
            Self::ListLoop { in_flight } => format!("libnbd, {in_flight} in flight → qemu-nbd"),
            Self::ConvertChain { tuned: true } => "qemu-img convert, tuned".to_owned(),
            Self::ConvertChain { tuned: false } => "qemu-img convert, default".to_owned(),
            Self::Rebase => "qemu-img rebase".to_owned(),
            Self::Compare => "qemu-img compare".to_owned(),
        }
    }

    /// Whether others are held against it.
    pub(crate) fn is_ours(self) -> bool {
        matches!(
            self,
            Self::Copy(_)
                | Self::CopyMany(..)
                | Self::Increment(_)
                | Self::Verify
                | Self::Restore
                | Self::Merge
        )
    }

    /// Why it cannot take part on this machine, if so.
    pub(crate) fn missing(self, tools: &Path) -> Option<&'static str> {
        match self {
            Self::Fio if tool("fio", ["--version"]).is_err() => Some("fio is not installed"),
            Self::ListLoop { .. } if !peers::list_loop(tools).exists() => {
                Some("it could not be built (a C compiler and libnbd-dev are needed)")
            }
            _ => None,
        }
    }

    /// What must be there before the clock starts.
    pub(crate) fn prepare(self, task: &Task<'_>) -> Result<()> {
        match self {
            Self::Increment(_) | Self::ListLoop { .. } => {
                let parent = task.to.with_file_name(PARENT);
                let args = ["create", "-q", "-f", "qcow2", &text(&parent), &task.disk.size.to_string()];
                if parent.exists() { Ok(()) } else { tool("qemu-img", args).map(drop) }
            }
            // It changes the image it is given.
            Self::Rebase => {
                tool("cp", ["--reflink=auto", &text(&task.chain()?.top()), &text(&task.to)]).map(drop)
            }
            _ => Ok(()),
        }
    }

    /// Does the work once.
    pub(crate) fn run(self, meter: &mut Meter, task: &Task<'_>) -> Result<()> {
        let Task { uri, disk, chain: _, to, tools } = task;
        match self {
            Self::Idle => meter.run(ours()?.arg("idle")),
            Self::Copy(level) => meter.run(with_level(ours()?.arg("copy").arg(uri).arg(to), level)),
            Self::CopyMany(disks, level) => {
                let mut command = ours()?;
                command.arg("copy").arg(uri).arg(to).arg(format!("--disks={disks}"));
                meter.run(with_level(&mut command, level))
            }
            Self::Increment(level) => {
                let mut command = ours()?;
                command.arg("copy").arg(uri).arg(to).arg("--changed").arg(&disk.list);
                meter.run(with_level(command.args(["--backing", PARENT]), level))
            }
            Self::Restore => meter.run(ours()?.arg("restore").arg(to).args(task.chain()?.images().rev())),
            Self::Merge => {
                let chain = task.chain()?;
                let mut command = ours()?;
                command.arg("merge").arg(to).arg("--backing").arg(chain.base());
                // All but the full, which is the last of them.
                meter.run(command.args(chain.images().skip(1).collect::<Vec<_>>().iter().rev()))
            }
            Self::Verify => meter.run(ours()?.arg("verify").args(task.chain()?.images().rev())),
            Self::Convert { compressed } => peers::convert(meter, uri, to, compressed),
            Self::NbdCopy => peers::nbdcopy(meter, uri, disk.size, to),
            Self::Fio => peers::fio(meter, disk.data_bytes, to),
            Self::ListLoop { in_flight } => peers::copy_list(
                meter,
                tools,
                uri,
                &disk.list,
                to.with_file_name(PARENT).as_path(),
                to,
                in_flight,
            ),
            Self::ConvertChain { tuned } => peers::convert_chain(meter, &task.chain()?.top(), to, tuned),
            Self::Rebase => peers::rebase(meter, task.chain()?.base(), to),
            Self::Compare => peers::compare(meter, &disk.path, &task.chain()?.top()),
        }
        .with_context(|| self.name())
    }

    /// The files it makes.
    pub(crate) fn results(self, to: &Path) -> Vec<PathBuf> {
        let with_ranges = |image: PathBuf| [image.with_extension("digests"), image];
        match self {
            Self::Idle | Self::Verify | Self::Compare => Vec::new(),
            Self::Copy(_) | Self::Increment(_) | Self::Merge => with_ranges(to.to_path_buf()).into(),
            Self::CopyMany(disks, _) => {
                (0..disks).flat_map(|number| with_ranges(numbered(to, number))).collect()
            }
            _ => vec![to.to_path_buf()],
        }
    }

    /// Fails unless the results are consistent and hold what is on the disk.
    pub(crate) fn judge(self, task: &Task<'_>) -> Result<()> {
        let disk = &task.disk.path;
        match self {
            Self::Idle | Self::Fio | Self::Verify | Self::Compare => return Ok(()),
            Self::Restore | Self::ConvertChain { .. } => {
                let raw = ["compare", "-f", "raw", "-F", "raw", &text(disk), &text(&task.to)];
                tool("qemu-img", raw)?;
            }
            _ => {
                let images = self.results(&task.to);
                for image in images.iter().filter(|path| path.extension().is_some_and(|one| one == "qcow2")) {
                    qemu::check(image)?;
                    qemu::same_content(disk, image)?;
                    ensure!(qemu::virtual_size(image)? == task.disk.size, "the result has another size");
                }
            }
        }
        if matches!(self, Self::Merge | Self::Rebase) {
            let below = qemu::backing_name(&task.to)?;
            ensure!(below.as_deref() == Some(task.chain()?.base()), "the result stands on {below:?}");
        }
        Ok(())
    }

    /// Takes the results away again, and what lies beside them.
    pub(crate) fn clean_up(self, to: &Path) -> Result<()> {
        for path in self.results(to) {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("cannot remove {}", path.display()));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

impl Task<'_> {
    fn chain(&self) -> Result<&Chain> {
        self.chain.context("this work has no chain")
    }
}

fn ours() -> Result<Command> {
    Ok(Command::new(std::env::current_exe()?))
}

fn with_level(command: &mut Command, level: Option<i32>) -> &mut Command {
    command.args(level.map(|level| format!("--level={level}")))
}
