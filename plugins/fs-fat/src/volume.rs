//! A volume of any of the four as nodes.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use tidemark_plugin::attributes::NodeAttributes;
use tidemark_plugin::disk::{CachedDisk, Run, Runs};
use tidemark_plugin::fields::index;
use tidemark_plugin::guest_filesystem::VolumeInfo;
use tidemark_plugin::nodes::{FileStat, InodeReader};
use tidemark_plugin::{Error, Result, placement};

use crate::clusters::{Clusters, Place};
use crate::exfat::Exfat;
use crate::fat::FatVolume;

/// The root's node, which is no place of an entry.
pub(crate) const ROOT: u64 = 1;
/// Folders of which is known who they are: enough for any real volume, and a few megabytes.
const MAX_KNOWN: usize = 1 << 17;

/// A file's bits with their words.
const MARKS: [(u64, &str); 4] = [(0x01, "read-only"), (0x02, "hidden"), (0x04, "system"), (0x20, "archive")];

/// A file or a folder.
#[derive(Debug, Clone)]
pub(crate) struct Item {
    pub(crate) stat: FileStat,
    pub(crate) place: Place,
    /// Bytes that were written, from the beginning on; what follows reads as zeros.
    pub(crate) written: u64,
    /// As they are on the disk; the low byte is the same for all four.
    pub(crate) marks: u16,
}

/// What differs between FAT and exFAT.
pub(crate) trait Layout: std::fmt::Debug {
    /// What has a node.
    fn item(&self, clusters: &Clusters, node: u64) -> Result<Item>;
    /// What is in a folder.
    fn names(
        &self,
        clusters: &Clusters,
        folder: &Item,
        node: u64,
        runs: &Runs,
    ) -> Result<Vec<(Vec<u8>, u64)>>;
}

/// An open file system.
#[derive(Debug)]
pub struct Opened {
    clusters: Clusters,
    layout: Box<dyn Layout>,
    info: VolumeInfo,
    /// The file that was read last, where its next piece is asked for.
    last: RefCell<Option<(u64, Rc<Runs>)>>,
    /// The nodes of folders by their beginnings: a folder with two nodes is a circle or shared.
    folders: RefCell<HashMap<u32, u64>>,
}

/// What lies on a disk, by its first sector; none for anything else.
pub(crate) fn probed(disk: &CachedDisk) -> Result<Option<&'static str>> {
    Ok(if Exfat::probed(disk)? { Some("exfat") } else { FatVolume::probed(disk)? })
}

impl Opened {
    /// Opens the file system on a disk.
    ///
    /// # Errors
    /// Corrupt where there is none or its first sector is damaged; unsupported for what is not read.
    pub fn new(disk: CachedDisk) -> Result<Self> {
        let (clusters, layout, info): (_, Box<dyn Layout>, _) = match probed(&disk)? {
            None => return Err(Error::corrupt("this is no FAT or exFAT file system")),
            Some("exfat") => {
                let (clusters, layout, info) = Exfat::open(disk)?;
                (clusters, Box::new(layout), info)
            }
            Some(_) => {
                let (clusters, layout, info) = FatVolume::open(disk)?;
                (clusters, Box::new(layout), info)
            }
        };
        Ok(Self { clusters, layout, info, last: RefCell::default(), folders: RefCell::default() })
    }

    /// Corrupt where the same folder is known by another node.
    fn known(&self, node: u64, item: &Item) -> Result<()> {
        let mut folders = self.folders.borrow_mut();
        if folders.is_empty() {
            let root = self.layout.item(&self.clusters, ROOT)?;
            folders.extend(root.place.beginning().map(|beginning| (beginning, ROOT)));
        }
        let Some(beginning) = item.place.beginning() else { return Ok(()) };
        match folders.get(&beginning) {
            Some(known) if *known != node => {
                Err(Error::corrupt("two folders lie in the same place, or lead in a circle"))
            }
            None if folders.len() < MAX_KNOWN => {
                folders.insert(beginning, node);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn runs(&self, node: u64) -> Result<Rc<Runs>> {
        if let Some((_, runs)) = self.last.borrow().as_ref().filter(|(known, _)| *known == node) {
            return Ok(Rc::clone(runs));
        }
        // Two long ones do not fit into memory.
        self.last.take();
        let item = self.layout.item(&self.clusters, node)?;
        let runs = Rc::new(written(self.clusters.runs(item.place)?, item.written)?);
        *self.last.borrow_mut() = Some((node, Rc::clone(&runs)));
        Ok(runs)
    }
}

/// The part of a file that was written.
fn written(runs: Runs, bytes: u64) -> Result<Runs> {
    let cut = |run: &Run| Run { length: run.length.min(bytes.saturating_sub(run.start)), ..*run };
    match runs.as_slice().last() {
        Some(last) if last.start + last.length > bytes => {
            Runs::new(runs.as_slice().iter().map(cut).collect())
        }
        _ => Ok(runs),
    }
}

impl InodeReader for Opened {
    fn info(&self) -> VolumeInfo {
        self.info.clone()
    }

    fn root(&self) -> u64 {
        ROOT
    }

    fn stat(&self, node: u64) -> Result<FileStat> {
        self.layout.item(&self.clusters, node).map(|item| item.stat)
    }

    fn list(&self, node: u64) -> Result<Vec<(Vec<u8>, u64)>> {
        let item = self.layout.item(&self.clusters, node)?;
        self.known(node, &item)?;
        let runs = self.clusters.runs(item.place)?;
        self.layout.names(&self.clusters, &item, node, &runs)
    }

    fn read(&self, node: u64, stream: Option<&[u8]>, offset: u64, length: u32) -> Result<Vec<u8>> {
        if stream.is_some() {
            return Err(Error::not_found("files of FAT and exFAT have no named streams"));
        }
        let mut bytes = vec![0; index(u64::from(length))?];
        self.runs(node)?.read(&self.clusters.disk, offset, &mut bytes)?;
        Ok(bytes)
    }

    fn readlink(&self, _: u64) -> Result<Vec<u8>> {
        Err(Error::config("FAT and exFAT have no symbolic links"))
    }

    fn attributes(&self, node: u64) -> Result<NodeAttributes> {
        let item = self.layout.item(&self.clusters, node)?;
        Ok(NodeAttributes::of(u64::from(item.marks), &MARKS))
    }

    fn placed(&self, node: u64, offset: u64, size: u64) -> Result<Option<Vec<placement::Run>>> {
        Ok(Some(self.runs(node)?.placed(offset, size, size)))
    }

    fn next_data(&self, node: u64, offset: u64, size: u64) -> Result<Option<u64>> {
        Ok(self.runs(node)?.next_data(offset, size))
    }
}

/// A warning where the disk is smaller than the file system on it.
pub(crate) fn shortened(disk: &CachedDisk, total_bytes: u64) -> Option<String> {
    let size = disk.size();
    (size < total_bytes).then(|| {
        format!("the volume has {size} bytes, the file system {total_bytes}: what lies beyond the end cannot be read")
    })
}

/// A volume's serial number as it is shown everywhere.
pub(crate) fn serial(number: u32) -> String {
    format!("{:04X}-{:04X}", number >> 16, number & 0xffff)
}
