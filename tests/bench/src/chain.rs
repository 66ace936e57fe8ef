//! A backup chain: a full and increments of the same disk, made by the engine itself as backups make them, while a
//! guest overwrites blocks here and there in between. The peers work on the very same files.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use tidemark_tests::process::tool;

use crate::data::{Disk, GRAIN, text, this_program, warm};

/// How a chain is made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ChainPlan {
    /// Images above the full.
    pub(crate) layers: u64,
    /// Changed grains in each of them.
    pub(crate) grains: u64,
}

/// A chain of images in one folder.
#[derive(Debug, Clone)]
pub(crate) struct Chain {
    folder: PathBuf,
    /// File names, the full first.
    names: Vec<String>,
}

impl ChainPlan {
    /// Bytes that all layers store together, at most.
    pub(crate) fn layer_bytes(self) -> u64 {
        self.layers * self.grains * GRAIN
    }

    /// Makes one chain a level, all of the same backups. The disk ends as the newest image has it.
    pub(crate) fn make(
        self,
        disk: &Disk,
        uri: &str,
        dir: &Path,
        levels: [Option<i32>; 2],
    ) -> Result<[Chain; 2]> {
        let mut chains = levels.map(|level| {
            let name = level.map_or("chain-plain".to_owned(), |level| format!("chain-zstd-{level}"));
            Chain { folder: dir.join(name), names: Vec::new() }
        });
        for chain in &chains {
            fs::create_dir_all(&chain.folder)?;
        }
        let list = dir.join("layer.list");
        for number in 0..=self.layers {
            if number > 0 {
                disk.change(&list, self.grains, number)?;
            }
            for (chain, level) in chains.iter_mut().zip(levels) {
                chain.add(uri, level, &list)?;
            }
        }
        fs::remove_file(list)?;
        Ok(chains)
    }
}

impl Chain {
    fn add(&mut self, uri: &str, level: Option<i32>, list: &Path) -> Result<()> {
        let name = format!("{:03}.qcow2", self.names.len());
        let mut args = vec!["copy".to_owned(), uri.to_owned(), text(&self.folder.join(&name))];
        args.extend(level.map(|level| format!("--level={level}")));
        if let Some(below) = self.names.last() {
            args.extend([format!("--changed={}", text(list)), format!("--backing={below}")]);
        }
        tool(&this_program()?, args)?;
        self.names.push(name);
        Ok(())
    }

    /// Where a result goes that shall stand beside the images.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The images, the full first.
    pub(crate) fn images(&self) -> impl DoubleEndedIterator<Item = PathBuf> {
        self.names.iter().map(|name| self.folder.join(name))
    }

    /// The full's name.
    pub(crate) fn base(&self) -> &str {
        self.names.first().map_or("", String::as_str)
    }

    /// The newest image.
    pub(crate) fn top(&self) -> PathBuf {
        self.folder.join(self.names.last().map_or("", String::as_str))
    }

    /// The chain with all that belongs to it, copied into another file system.
    pub(crate) fn copied_to(&self, folder: &Path) -> Result<Self> {
        let copy = Self { folder: folder.join("chain"), names: self.names.clone() };
        tool("cp", ["-r", "--sparse=always", &text(&self.folder), &text(&copy.folder)])?;
        tool("sync", ["-f", &text(folder)])?;
        Ok(copy)
    }

    /// Brings all images into the page cache.
    pub(crate) fn warm(&self) -> Result<()> {
        self.images().try_for_each(|image| warm(&image))
    }
}
