//! Where results are written: a folder on the disk, or a file system on a loop device.
//!
//! The **fast** sink is an ext4 in an image file of which every byte was written before: its writes are copied into
//! memory that has been touched, so it shows what a contender can do when the disk is not what holds it back. The
//! **reflink** sink is an XFS, whose files can share extents.
//!
//! Mounting needs root. It happens in a mount namespace of this program's own (see [`enter_namespace`]), and the
//! image's name goes as soon as it is mounted: so however this program ends, nothing stays mounted and the kernel
//! frees device and space.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use tidemark_tests::process::tool;

use crate::data::MIB;

/// Tells the program that it is inside its namespace.
const INSIDE: &str = "TIDEMARK_BENCH_NAMESPACE";
/// How images are named; the number of the process that mounts them follows.
const IMAGE: &str = "tidemark-bench-";
/// Images are filled in pieces of this size.
const PIECE: usize = 1 << 20;

/// Which kind of place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SinkPlan {
    /// The benchmark's folder.
    Disk,
    /// An ext4 in a file that is written beforehand.
    Fast,
    /// An XFS with reflinks.
    Reflink,
}

impl SinkPlan {
    /// How the tables call it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Disk => "disk",
            Self::Fast => "fast sink",
            Self::Reflink => "XFS with reflinks",
        }
    }

    /// Why this machine has no such place, if so.
    pub(crate) fn missing(self) -> Option<&'static str> {
        match self {
            Self::Disk => None,
            Self::Fast | Self::Reflink if !inside() => Some("mounting a loop device needs root"),
            Self::Reflink if tool("mkfs.xfs", ["-V"]).is_err() => {
                Some("mkfs.xfs is not installed (xfsprogs)")
            }
            Self::Fast | Self::Reflink => None,
        }
    }

    /// Makes the place in `dir`, this run's folder, with room for `bytes`; an image lies in `images`.
    pub(crate) fn make(self, dir: &Path, images: &Path, bytes: u64) -> Result<Sink> {
        let (fs, options) = match self {
            Self::Disk => return Ok(Sink { folder: dir.to_path_buf(), mount: None }),
            // Nothing may be discarded: that would take the image's touched memory away again.
            Self::Fast => {
                ("ext4", &["-F", "-m", "0", "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0"][..])
            }
            Self::Reflink => ("xfs", &["-f", "-m", "reflink=1"][..]),
        };
        sweep(images)?;
        // Another run may have an image in the same folder.
        let image = images.join(format!("{IMAGE}{}.img", std::process::id()));
        // Tables and journals come on top; mkfs.xfs refuses less than 300 MiB.
        let bytes = (bytes + bytes / 16 + 512 * MIB).next_multiple_of(MIB);
        let mount = Mount::new(&image, dir.join(fs), bytes, fs, options, self == Self::Fast);
        // Either it is mounted or not wanted; the name goes in both cases.
        let _ = fs::remove_file(&image);
        let mount = mount?;
        Ok(Sink { folder: mount.point.clone(), mount: Some(mount) })
    }
}

/// Removes the images of runs that were killed before they had mounted them.
fn sweep(images: &Path) -> Result<()> {
    for entry in fs::read_dir(images)? {
        let entry = entry?;
        let name = entry.file_name();
        let owner = name.to_str().and_then(|name| name.strip_prefix(IMAGE)?.strip_suffix(".img"));
        if owner.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// A place for results; dropping it unmounts what was mounted for it.
#[derive(Debug)]
pub(crate) struct Sink {
    /// Where results go.
    pub(crate) folder: PathBuf,
    mount: Option<Mount>,
}

impl Sink {
    /// What is in use before a contender starts, for [`Self::taken_up`].
    pub(crate) fn in_use(&self) -> Result<u64> {
        match &self.mount {
            Some(mount) => mount.used(),
            None => Ok(0),
        }
    }

    /// The bytes that results take up. Only a file system of our own can tell how much of them is shared.
    pub(crate) fn taken_up(&self, before: u64, results: &[PathBuf]) -> Result<u64> {
        match &self.mount {
            Some(mount) => Ok(mount.used()?.saturating_sub(before)),
            None => results.iter().filter(|path| path.exists()).map(|path| allocated(path)).sum(),
        }
    }
}

fn allocated(path: &Path) -> Result<u64> {
    Ok(fs::metadata(path)?.blocks() * 512)
}

#[derive(Debug)]
struct Mount {
    point: PathBuf,
}

impl Mount {
    fn new(
        image: &Path,
        point: PathBuf,
        bytes: u64,
        fs: &str,
        options: &[&str],
        touch: bool,
    ) -> Result<Self> {
        let mut file = File::create_new(image).with_context(|| format!("cannot make {}", image.display()))?;
        if touch {
            let piece = vec![0x5a; PIECE];
            for _ in 0..bytes / PIECE as u64 {
                file.write_all(&piece)?;
            }
            file.sync_all()?;
        } else {
            file.set_len(bytes)?;
        }
        drop(file);
        let path = image.display().to_string();
        tool(&format!("mkfs.{fs}"), ["-q"].iter().chain(options).copied().chain([path.as_str()]))?;
        fs::create_dir_all(&point)?;
        tool("mount", ["-o", "loop,nodiscard,noatime", &path, &point.display().to_string()])?;
        Ok(Self { point })
    }

    fn used(&self) -> Result<u64> {
        let point = self.point.display().to_string();
        // Space that is promised and not yet taken counts only after this.
        tool("sync", ["-f", &point])?;
        let table = tool("df", ["--block-size=1", "--output=used", &point])?;
        table.lines().next_back().unwrap_or_default().trim().parse().context("df prints a number")
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // The loop device goes with its mount; what fails here, the end of the namespace undoes.
        if let Err(error) = tool("umount", [&self.point]) {
            eprintln!("{error:#}");
        }
    }
}

/// Starts this program again in a mount namespace of its own, where that is allowed; there is no way back.
pub(crate) fn enter_namespace() -> Result<()> {
    let namespace = ["--mount", "--propagation=private", "--"];
    if inside() || tool("unshare", namespace.into_iter().chain(["true"])).is_err() {
        return Ok(());
    }
    let mut again = Command::new("unshare");
    again.args(namespace).arg(std::env::current_exe()?).args(std::env::args_os().skip(1)).env(INSIDE, "yes");
    bail!("cannot start again: {}", again.exec())
}

fn inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}
