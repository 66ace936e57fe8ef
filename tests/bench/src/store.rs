//! The data that works are done with: made when first wanted, gone when the last work that wants it is done.
//!
//! Everything lies in a folder of this run, which goes with it. A run that was killed leaves its folder behind; the
//! next one knows by the lock in it, which nobody holds any more, and takes it away.

use std::fs::{self, File};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;
use tidemark_tests::process::tool;

use crate::chain::Chain;
use crate::data::{Disk, DiskPlan, GIB, MIB, text};
use crate::rounds::Source;
use crate::works::{Scale, Subject};

const PREFIX: &str = "run-";
const LOCK: &str = "lock";
/// The levels of the chains: one plain, one compressed.
const LEVELS: [Option<i32>; 2] = [None, Some(1)];

/// The data, and the folder of this run.
#[derive(Debug)]
pub(crate) struct Store {
    dir: TempDir,
    /// Held as long as this run lives.
    _lock: File,
    scale: Scale,
    disks: Vec<(DiskPlan, Disk)>,
    /// Disks made so far, for their names.
    made: u32,
    chains: Option<[Chain; 2]>,
}

impl Store {
    /// Makes a folder of its own below `dir`.
    pub(crate) fn new(dir: &Path, scale: Scale) -> Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let dir = dir.canonicalize()?;
        sweep(&dir)?;
        let dir = tempfile::Builder::new().prefix(PREFIX).tempdir_in(&dir)?;
        let lock = File::create_new(dir.path().join(LOCK))?;
        lock.lock()?;
        let store = Self { dir, _lock: lock, scale, disks: Vec::new(), made: 0, chains: None };
        store.check_place()?;
        Ok(store)
    }

    /// This run's folder.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// What kind of file system it is on.
    pub(crate) fn file_system(&self) -> Result<String> {
        self.df("fstype")
    }

    fn df(&self, column: &str) -> Result<String> {
        let table = tool("df", ["--block-size=1", &format!("--output={column}"), &text(self.dir())])?;
        Ok(table.lines().next_back().unwrap_or_default().trim().to_owned())
    }

    fn check_place(&self) -> Result<()> {
        let dir = self.dir().display();
        // A sink in memory measures the first touch of pages, and a source there qemu-nbd's search for holes.
        ensure!(self.file_system()? != "tmpfs", "{dir} is in memory; choose another --dir");
        // The disk, two chains over it, a result, and the image of a sink that holds a chain or a result.
        let needed = 6 * self.scale.dense.data_bytes() + 2 * self.scale.chain.layer_bytes();
        let needed = needed + 3 * self.scale.sparse.data_bytes() + GIB;
        let free: u64 = self.df("avail")?.parse().context("df prints a number")?;
        ensure!(
            free >= needed,
            "{dir} has {} MiB free and {} MiB are needed; choose another --dir or a smaller --size",
            free / MIB,
            needed / MIB
        );
        Ok(())
    }

    /// The disk of a subject, and its chain if it is about one.
    pub(crate) fn take(&mut self, subject: Subject) -> Result<(Disk, Option<Chain>)> {
        let disk = self.disk(self.scale.disk(subject))?;
        let Subject::Chain { compressed } = subject else { return Ok((disk, None)) };
        if self.chains.is_none() {
            eprintln!("making the chains");
            disk.warm()?;
            let source = Source::start(&disk, self.dir())?;
            self.chains = Some(self.scale.chain.make(&disk, &source.uri, self.dir(), LEVELS)?);
        }
        let [plain, zstd] = self.chains.clone().context("the chains were made")?;
        Ok((disk, Some(if compressed { zstd } else { plain })))
    }

    fn disk(&mut self, plan: DiskPlan) -> Result<Disk> {
        if let Some((_, disk)) = self.disks.iter().find(|(one, _)| *one == plan) {
            return Ok(disk.clone());
        }
        eprintln!("making a disk: {plan:?}");
        let path = self.dir().join(format!("disk-{}.raw", self.made));
        self.made += 1;
        let disk = plan.make(&path)?;
        self.disks.push((plan, disk.clone()));
        Ok(disk)
    }

    /// Frees the space of all that the works still to come do not want.
    pub(crate) fn keep(&mut self, wanted: impl Iterator<Item = Subject>) -> Result<()> {
        let plans: Vec<_> = wanted.map(|subject| self.scale.disk(subject)).collect();
        for (plan, disk) in &self.disks {
            if !plans.contains(plan) && disk.path.exists() {
                fs::remove_file(&disk.path)?;
            }
        }
        self.disks.retain(|(plan, _)| plans.contains(plan));
        Ok(())
    }
}

/// Removes what killed runs left.
fn sweep(dir: &Path) -> Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if !entry.file_name().to_string_lossy().starts_with(PREFIX) {
            continue;
        }
        let abandoned = match File::open(entry.path().join(LOCK)) {
            Ok(lock) => lock.try_lock().is_ok(),
            Err(_) => false,
        };
        if abandoned {
            fs::remove_dir_all(entry.path())
                .with_context(|| format!("cannot remove {}", entry.path().display()))?;
        }
    }
    Ok(())
}
