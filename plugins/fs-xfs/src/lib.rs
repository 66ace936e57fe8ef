//! The reader `fs-xfs`: XFS of versions 4 and 5. What a journal holds is read as if it had been replayed; nothing is written.
//!
//! ```text
//! superblock ─▶ journal ─▶ inode ─┬─▶ directory ─┬─▶ extents
//!                                 ├─▶ symlink ───┤
//!                                 └─▶ bytes ─────┘     checksum: of all but the bytes, in version 5
//! ```

mod checksum;
mod directory;
mod extents;
mod inode;
mod journal;
mod superblock;
mod symlink;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::rc::Rc;

use tidemark_plugin::attributes::NodeAttributes;
use tidemark_plugin::disk::{CachedDisk, Runs};
use tidemark_plugin::fields::index;
use tidemark_plugin::guest_filesystem::{GuestFilesystem, Volume, VolumeInfo};
use tidemark_plugin::nodes::{ByInode, FileStat, InodeReader};
use tidemark_plugin::{Description, Error, Result, description, placement};

use crate::inode::Inode;
use crate::journal::{Journal, State};
use crate::superblock::Superblock;

/// The reader.
#[derive(Debug)]
pub struct Xfs;

impl GuestFilesystem for Xfs {
    type Volume = ByInode<Opened>;

    fn describe() -> Description {
        description("fs-xfs", env!("CARGO_PKG_VERSION"))
    }

    fn probe(disk_index: u32) -> Result<Option<String>> {
        let found = Superblock::probe(&CachedDisk::open(disk_index)?)?;
        Ok(found.then(|| "xfs".to_owned()))
    }

    fn open(disk_index: u32) -> Result<Volume> {
        Ok(Volume::new(ByInode::new(Opened::new(CachedDisk::open(disk_index)?)?)))
    }
}

/// An open file system.
#[derive(Debug)]
pub struct Opened {
    disk: CachedDisk,
    superblock: Superblock,
    journal: Journal,
    /// Where the file lies that was read last.
    file: RefCell<Option<(u64, Rc<Runs>)>>,
}

impl Opened {
    /// Opens the file system on a disk.
    ///
    /// # Errors
    /// Unsupported for features that are not read; corrupt for damage.
    pub fn new(disk: CachedDisk) -> Result<Self> {
        let superblock = Superblock::read(&disk)?;
        let (disk, journal) = journal::replayed(disk, &superblock)?;
        // The journal may have it larger, if the file system was grown last.
        let superblock = Superblock::read(&disk)?;
        Ok(Self { disk, superblock, journal, file: RefCell::new(None) })
    }

    fn inode(&self, number: u64) -> Result<Inode> {
        Inode::read(&self.disk, &self.superblock, number)
    }

    fn runs(&self, number: u64) -> Result<Rc<Runs>> {
        if let Some((known, runs)) = self.file.borrow().as_ref()
            && *known == number
        {
            return Ok(Rc::clone(runs));
        }
        let inode = self.inode(number)?;
        if inode.realtime() {
            return Err(Error::unsupported(format!(
                "the bytes of file {number} lie on a realtime device, which is not read: restore its disk"
            )));
        }
        if self.journal.unfinished.contains(&number) {
            return Err(Error::corrupt(format!(
                "file {number} was in the midst of a change when it was backed up"
            )));
        }
        // Room for the next one's.
        self.file.take();
        let runs = Rc::new(Runs::new(extents::runs(&self.disk, &self.superblock, &inode)?)?);
        self.file.replace(Some((number, Rc::clone(&runs))));
        Ok(runs)
    }

    fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        let guarded = match self.superblock.checked {
            true => {
                "; checksums keep damaged metadata from being taken for right, but not the contents of files"
            }
            false => "; this version of XFS has no checksums by which that would be noticed",
        };
        match &self.journal.state {
            State::Clean => {}
            State::Replayed => warnings.push(
                "the file system was in use when it was backed up: its journal was replayed for reading".into(),
            ),
            State::NotReplayed(why) => warnings.push(format!(
                "the file system was in use when it was backed up, and its journal could not be replayed ({why}): what \
                 was changed in the last minutes before may be missing, old or wrong{guarded}"
            )),
            State::Elsewhere => warnings.push(format!(
                "the file system has its journal on another device, where it was not looked at: if the file system was \
                 in use when it was backed up, what was changed in the last minutes before may be missing, old or \
                 wrong{guarded}"
            )),
        }
        let unfinished = self.journal.unfinished.len();
        if unfinished > 0 {
            warnings.push(format!("{unfinished} files were in the midst of a change and cannot be read"));
        }
        let (told, size) = (self.superblock.total_bytes(), self.disk.size());
        if told > size {
            warnings.push(format!("the volume ends early: it has {size} bytes, and its file system {told}"));
        }
        warnings
    }
}

impl InodeReader for Opened {
    fn info(&self) -> VolumeInfo {
        VolumeInfo {
            filesystem: "xfs".to_owned(),
            label: self.superblock.label.clone(),
            uuid: self.superblock.shown_uuid(),
            total_bytes: self.superblock.total_bytes(),
            warnings: self.warnings(),
            journal_replayed: self.journal.state == State::Replayed,
        }
    }

    fn root(&self) -> u64 {
        self.superblock.root
    }

    fn stat(&self, inode: u64) -> Result<FileStat> {
        self.inode(inode).map(|inode| inode.stat)
    }

    fn list(&self, directory: u64) -> Result<Vec<(Vec<u8>, u64)>> {
        let inode = self.inode(directory)?;
        directory::list(&self.disk, &self.superblock, &inode, &self.journal.unsummed)
    }

    fn read(&self, inode: u64, stream: Option<&[u8]>, offset: u64, length: u32) -> Result<Vec<u8>> {
        if stream.is_some() {
            return Err(Error::not_found("files of XFS have no named streams"));
        }
        let mut bytes = vec![0; index(length.into())?];
        self.runs(inode)?.read(&self.disk, offset, &mut bytes)?;
        Ok(bytes)
    }

    fn readlink(&self, inode: u64) -> Result<Vec<u8>> {
        symlink::target(&self.disk, &self.superblock, &self.inode(inode)?)
    }

    fn attributes(&self, inode: u64) -> Result<NodeAttributes> {
        self.inode(inode).map(|inode| inode.attributes())
    }

    /// Also where the journal was replayed: it has where a file lies, and nothing of what is in it.
    fn placed(&self, inode: u64, offset: u64, size: u64) -> Result<Option<Vec<placement::Run>>> {
        Ok(Some(self.runs(inode)?.placed(offset, size, size)))
    }

    fn next_data(&self, inode: u64, offset: u64, size: u64) -> Result<Option<u64>> {
        Ok(self.runs(inode)?.next_data(offset, size))
    }
}

tidemark_plugin::export_guest_filesystem!(Xfs, attributes, placement);
