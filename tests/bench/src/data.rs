//! The disks that are moved. What makes figures comparable is the mix: half of the data is made of real files,
//! which compress as files do, half is noise, which does not compress at all; the rest was never written.
//!
//! A process of its own makes or changes a disk (the hidden commands `make-disk` and `change-disk`): it holds the
//! names of all files.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::Args;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, RngExt, SeedableRng};
use rustix::fs::SeekFrom;
use rustix::io::Errno;
use tidemark_tests::process::tool;

/// One mebibyte in bytes.
pub(crate) const MIB: u64 = 1 << 20;
/// One gibibyte in bytes.
pub(crate) const GIB: u64 = 1 << 30;

/// Data is written, and warmed, in pieces of this size.
const PIECE: usize = 256 << 10;
/// The grain of scattered data and of changes: what change tracking tells apart.
pub(crate) const GRAIN: u64 = 64 << 10;
/// A period of the dense disk: this much of files, this much of noise, and a hole.
const FILES: u64 = 24 * MIB;
const NOISE: u64 = 24 * MIB;
const HOLE: u64 = 32 * MIB;
/// Where real files are found on any Linux.
const REAL_FILES: &str = "/usr";
const SEED: u64 = 20_260_101;

/// A disk to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DiskPlan {
    /// Three fifths data, in runs of many MiB.
    Dense {
        /// Bytes.
        size: u64,
    },
    /// Mostly nothing, with 64 KiB of data here and there.
    Scattered {
        /// Bytes.
        size: u64,
        /// Bytes of data.
        data: u64,
    },
}

/// A raw disk on a file system.
#[derive(Debug, Clone)]
pub(crate) struct Disk {
    /// Where it is.
    pub(crate) path: PathBuf,
    /// Where a scattered disk's data is, grain by grain: what has changed in it since it was empty.
    pub(crate) list: PathBuf,
    /// Its size in bytes.
    pub(crate) size: u64,
    /// Bytes that carry data.
    pub(crate) data_bytes: u64,
}

impl DiskPlan {
    /// The virtual size in bytes.
    pub(crate) fn size(self) -> u64 {
        match self {
            Self::Dense { size } | Self::Scattered { size, .. } => size,
        }
    }

    /// About how many bytes will carry data.
    pub(crate) fn data_bytes(self) -> u64 {
        match self {
            Self::Dense { size } => size / (FILES + NOISE + HOLE) * (FILES + NOISE) + FILES + NOISE,
            Self::Scattered { data, .. } => data,
        }
    }

    /// Has the disk made by a process of its own.
    pub(crate) fn make(self, path: &Path) -> Result<Disk> {
        let (size, data) = match self {
            Self::Dense { size } => (size, None),
            Self::Scattered { size, data } => (size, Some(data)),
        };
        let list = path.with_extension("list");
        let mut args = vec!["make-disk".to_owned(), text(path), text(&list), size.to_string()];
        args.extend(data.map(|data| format!("--scattered={data}")));
        let data_bytes =
            tool(&this_program()?, args)?.trim().parse().context("make-disk tells how much it wrote")?;
        Ok(Disk { path: path.to_path_buf(), list, size, data_bytes })
    }

    /// Makes the disk and answers which grains carry data; none for a dense one, whose data is in long runs. Two
    /// calls make the same on the same machine.
    fn fill(self, path: &Path) -> Result<(u64, Vec<u64>)> {
        let file = File::options().read(true).write(true).create_new(true).open(path);
        let file = file.with_context(|| format!("cannot make {}", path.display()))?;
        file.set_len(self.size())?;
        let mut fill = Fill::new()?;
        let made = match self {
            Self::Dense { size } => (dense(&file, size, &mut fill)?, Vec::new()),
            Self::Scattered { size, data } => {
                let grains = scattered(&file, size, data, &mut fill)?;
                (grains.len() as u64 * GRAIN, grains)
            }
        };
        file.sync_all()?;
        Ok(made)
    }
}

/// What the hidden command `make-disk` is told.
#[derive(Debug, Args)]
pub(crate) struct DiskArgs {
    path: PathBuf,
    /// Where the grains with data are written down.
    list: PathBuf,
    size: u64,
    /// Bytes of scattered data; a dense disk without it.
    #[arg(long)]
    scattered: Option<u64>,
}

/// Makes a disk and prints how many bytes of it carry data.
pub(crate) fn make(args: DiskArgs) -> Result<()> {
    let DiskArgs { path, list, size, scattered } = args;
    let plan = scattered.map_or(DiskPlan::Dense { size }, |data| DiskPlan::Scattered { size, data });
    let (data_bytes, grains) = plan.fill(&path)?;
    write_list(&list, &grains)?;
    println!("{data_bytes}");
    Ok(())
}

/// What the hidden command `change-disk` is told.
#[derive(Debug, Args)]
pub(crate) struct ChangeArgs {
    path: PathBuf,
    /// Where the changed grains are written down.
    list: PathBuf,
    /// How many grains.
    count: u64,
    /// Another number, other changes.
    seed: u64,
}

/// Overwrites grains of a dense disk here and there, as a guest does: where there is data already.
pub(crate) fn change(args: ChangeArgs) -> Result<()> {
    let ChangeArgs { path, list, count, seed } = args;
    let file = File::options().write(true).open(&path)?;
    let size = file.metadata()?.len();
    ensure!(size / GRAIN > 4 * count, "the disk is too small for so many changes");
    let mut fill = Fill::new()?;
    fill.noise = StdRng::seed_from_u64(SEED + 1 + seed);
    let mut grains = BTreeSet::new();
    while (grains.len() as u64) < count {
        let start = fill.noise.random_range(0..size / GRAIN) * GRAIN;
        if start % (FILES + NOISE + HOLE) < FILES + NOISE {
            grains.insert(start);
        }
    }
    let grains: Vec<u64> = grains.into_iter().collect();
    for (number, &start) in grains.iter().enumerate() {
        let kind = if number % 2 == 0 { Kind::Files } else { Kind::Noise };
        fill.range(&file, start, start + GRAIN, kind)?;
    }
    file.sync_all()?;
    write_list(&list, &grains)
}

/// Lines "OFFSET LENGTH" in bytes.
fn write_list(path: &Path, grains: &[u64]) -> Result<()> {
    let mut lines = String::new();
    for start in grains {
        writeln!(lines, "{start} {GRAIN}")?;
    }
    fs::write(path, lines).with_context(|| format!("cannot write {}", path.display()))
}

/// This program, for its hidden commands.
pub(crate) fn this_program() -> Result<String> {
    Ok(text(&std::env::current_exe()?))
}

/// A path as an argument.
pub(crate) fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

impl Disk {
    /// Brings its data into the page cache, so that the first contender does not pay for all.
    pub(crate) fn warm(&self) -> Result<()> {
        warm(&self.path)
    }

    /// Has `count` grains overwritten; which ones is left in the file `list`.
    pub(crate) fn change(&self, list: &Path, count: u64, seed: u64) -> Result<()> {
        let args =
            ["change-disk".to_owned(), text(&self.path), text(list), count.to_string(), seed.to_string()];
        tool(&this_program()?, args).map(drop)
    }
}

/// Reads what is not a hole.
pub(crate) fn warm(path: &Path) -> Result<()> {
    let file = File::open(path)?;
    let mut buffer = vec![0; PIECE];
    let mut offset = 0;
    loop {
        offset = match rustix::fs::seek(&file, SeekFrom::Data(offset)) {
            Ok(start) => start,
            // Nothing but a hole is left.
            Err(Errno::NXIO) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let end = rustix::fs::seek(&file, SeekFrom::Hole(offset))?;
        while offset < end {
            let length = usize::try_from(end - offset).unwrap_or(PIECE).min(PIECE);
            let read = file.read_at(&mut buffer[..length], offset)?;
            ensure!(read > 0, "{} has become shorter", path.display());
            offset += read as u64;
        }
    }
}

fn dense(file: &File, size: u64, fill: &mut Fill) -> Result<u64> {
    let mut data_bytes = 0;
    let mut start = 0;
    while start < size {
        let files_end = (start + FILES).min(size);
        let noise_end = (start + FILES + NOISE).min(size);
        fill.range(file, start, files_end, Kind::Files)?;
        fill.range(file, files_end, noise_end, Kind::Noise)?;
        data_bytes += noise_end - start;
        start += FILES + NOISE + HOLE;
    }
    Ok(data_bytes)
}

/// One grain in each of as many equal slots, somewhere on the grid; answers where.
fn scattered(file: &File, size: u64, data: u64, fill: &mut Fill) -> Result<Vec<u64>> {
    let grains = data / GRAIN;
    ensure!(grains > 0 && size / GRAIN >= grains, "no room for the data");
    let slot = size / grains;
    let mut starts = Vec::new();
    for grain in 0..grains {
        let room = slot / GRAIN;
        let start =
            (grain * slot).next_multiple_of(GRAIN) + fill.noise.random_range(0..room.max(2) - 1) * GRAIN;
        let kind = if grain % 2 == 0 { Kind::Files } else { Kind::Noise };
        fill.range(file, start, start + GRAIN, kind)?;
        starts.push(start);
    }
    Ok(starts)
}

#[derive(Clone, Copy)]
enum Kind {
    Files,
    Noise,
}

/// Where data comes from.
struct Fill {
    noise: StdRng,
    /// Files not read yet, the next one last.
    names: Vec<PathBuf>,
    current: Option<File>,
    buffer: Vec<u8>,
}

impl Fill {
    fn new() -> Result<Self> {
        let noise = StdRng::seed_from_u64(SEED);
        Ok(Self { noise, names: real_files()?, current: None, buffer: vec![0; PIECE] })
    }

    fn range(&mut self, file: &File, start: u64, end: u64, kind: Kind) -> Result<()> {
        let mut offset = start;
        while offset < end {
            let length = usize::try_from(end - offset).unwrap_or(PIECE).min(PIECE);
            let mut buffer = std::mem::take(&mut self.buffer);
            match kind {
                Kind::Noise => self.noise.fill_bytes(&mut buffer[..length]),
                Kind::Files => self.read_files(&mut buffer[..length])?,
            }
            file.write_all_at(&buffer[..length], offset)?;
            self.buffer = buffer;
            offset += length as u64;
        }
        Ok(())
    }

    fn read_files(&mut self, mut buffer: &mut [u8]) -> Result<()> {
        while !buffer.is_empty() {
            let read = match &mut self.current {
                Some(file) => file.read(buffer).unwrap_or(0),
                None => 0,
            };
            if read == 0 {
                // A file that cannot be read is passed over; when all are used up, they come again.
                if self.names.is_empty() {
                    self.names = real_files()?;
                }
                self.current = self.names.pop().and_then(|name| File::open(name).ok());
            }
            buffer = &mut buffer[read..];
        }
        Ok(())
    }
}

/// Ordinary files of some size, large trees of one kind mixed among the others.
fn real_files() -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::from(REAL_FILES)];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries.flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_dir() {
                folders.push(entry.path());
            } else if metadata.is_file() && metadata.len() > 4096 {
                found.push(entry.path());
            }
        }
    }
    ensure!(!found.is_empty(), "{REAL_FILES} holds no files");
    // Sorted first: the order of a listing is the file system's.
    found.sort_unstable();
    found.shuffle(&mut StdRng::seed_from_u64(SEED));
    Ok(found)
}
