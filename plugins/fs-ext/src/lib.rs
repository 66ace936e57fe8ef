//! The reader `fs-ext`: ext2, ext3 and ext4. What a journal holds is read as if it had been replayed; nothing is written.
//!
//! ```text
//! disk ─▶ superblock, features ─▶ journal: header, log, transactions ─▶ overlay: the disk after the replay
//!                                                                          │
//!          lib: stat, list, read ◀─ directory, inline, map: extents or pointers ◀─ filesystem: groups, inode
//! ```

mod checksum;
mod directory;
mod features;
mod filesystem;
mod inline;
mod inode;
mod journal;
mod map;
mod superblock;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::rc::Rc;

use tidemark_plugin::attributes::NodeAttributes;
use tidemark_plugin::disk::CachedDisk;
use tidemark_plugin::fields::index;
use tidemark_plugin::guest_filesystem::{GuestFilesystem, Volume, VolumeInfo};
use tidemark_plugin::nodes::{ByInode, FileStat, InodeReader};
use tidemark_plugin::{Description, Error, Result, description, placement};

use crate::filesystem::FileSystem;
use crate::inode::Inode;
use crate::map::Window;
use crate::superblock::Superblock;

const ROOT: u32 = 2;

/// The reader.
#[derive(Debug)]
pub struct Ext;

impl GuestFilesystem for Ext {
    type Volume = ByInode<Opened>;

    fn describe() -> Description {
        description("fs-ext", env!("CARGO_PKG_VERSION"))
    }

    fn probe(disk_index: u32) -> Result<Option<String>> {
        let found = Superblock::probe(&CachedDisk::open(disk_index)?)?;
        Ok(found.map(|superblock| superblock.features.name().to_owned()))
    }

    fn open(disk_index: u32) -> Result<Volume> {
        Ok(Volume::new(ByInode::new(Opened::new(CachedDisk::open(disk_index)?)?)))
    }
}

/// An open file system.
#[derive(Debug)]
pub struct Opened {
    system: FileSystem,
    warnings: Vec<String>,
    replayed: bool,
    /// The part of a file's map that was used last.
    window: RefCell<Option<(u32, Rc<Window>)>>,
}

impl Opened {
    /// Opens the file system on a disk.
    ///
    /// # Errors
    /// Unsupported for features that are not read; corrupt for damage.
    pub fn new(disk: CachedDisk) -> Result<Self> {
        let superblock = Superblock::read(&disk)?;
        let mut warnings = Vec::new();
        let mut warn = |words: &str| warnings.push(words.to_owned());
        let (in_use, within) = (superblock.features.needs_recovery(), superblock.journal != 0);
        if superblock.errors() {
            warn(
                "the guest found errors in the file system, and it was not repaired since: run e2fsck in the guest",
            );
        }
        if superblock.total_bytes() > disk.size() {
            warn(
                "the file system is larger than its volume: what lies beyond the volume's end cannot be read",
            );
        }
        if !superblock.features.has_journal() && !superblock.clean() {
            warn(
                "the file system was in use when it was backed up, and has no journal: \
                 what was changed last may be missing or damaged",
            );
        }
        if in_use && !within {
            warn(
                "the file system was in use when it was backed up, and its journal lies on another disk, which is not read: \
                 what was changed last may be missing or damaged",
            );
        }
        if !in_use || !within {
            let system = FileSystem::new(disk, superblock);
            return Ok(Self { system, warnings, replayed: false, window: RefCell::default() });
        }
        let found = journal::replay(disk, superblock)?;
        warn(if found.replayed {
            "the file system was in use when it was backed up: its journal was replayed for reading"
        } else {
            "the file system was in use when it was backed up; its journal has nothing that is not in its place"
        });
        if found.fast_commits {
            warn(
                "the journal ends with fast commits, which are not read: what was changed last may be missing",
            );
        }
        // The superblock is a block like others.
        let superblock = Superblock::read(&found.disk)?;
        let system = FileSystem::new(found.disk, superblock);
        Ok(Self { system, warnings, replayed: found.replayed, window: RefCell::default() })
    }

    /// What a node's number stands for: those that the file system keeps for itself are nobody's.
    fn inode(&self, node: u64) -> Result<Inode> {
        let number = u32::try_from(node).unwrap_or(0);
        if number != ROOT && number < self.system.superblock.first_inode {
            return Err(Error::not_found(format!("there is no inode {node}")));
        }
        let inode = self.system.inode(number)?;
        if inode.holds_attribute() {
            return Err(Error::corrupt(format!(
                "inode {number} is the value of an attribute, but has a name"
            )));
        }
        Ok(inode)
    }

    fn window(&self, inode: &Inode, byte: u64) -> Result<Rc<Window>> {
        let mut kept = self.window.borrow_mut();
        if let Some((_, window)) =
            kept.as_ref().filter(|(known, kept)| *known == inode.number && kept.has(byte))
        {
            return Ok(Rc::clone(window));
        }
        let window = Rc::new(Window::read(&self.system, inode, byte)?);
        *kept = Some((inode.number, Rc::clone(&window)));
        Ok(window)
    }

    /// What a file or a link holds, from an offset on, of which it has at least `length` bytes.
    fn content(&self, inode: &Inode, offset: u64, length: u32) -> Result<Vec<u8>> {
        inode.readable()?;
        let length = u64::from(length);
        if inode.inline() {
            let end = index(offset.saturating_add(length))?;
            let held = inline::read(inode)?;
            let part = held.get(index(offset)?..end).map(<[u8]>::to_vec);
            return part.ok_or_else(|| Error::corrupt("a file ends early"));
        }
        let mut bytes = vec![0; index(length)?];
        let (mut rest, mut at) = (bytes.as_mut_slice(), offset);
        while !rest.is_empty() {
            let window = self.window(inode, at)?;
            let count = usize::try_from(window.to.saturating_sub(at)).unwrap_or(usize::MAX).min(rest.len());
            let (part, after) = rest.split_at_mut_checked(count).unwrap_or_default();
            window.runs.read(&self.system.disk, at, part)?;
            (rest, at) = (after, at.saturating_add(count as u64));
        }
        Ok(bytes)
    }
}

impl InodeReader for Opened {
    fn info(&self) -> VolumeInfo {
        let superblock = &self.system.superblock;
        VolumeInfo {
            filesystem: superblock.features.name().to_owned(),
            label: superblock.label.clone(),
            uuid: superblock.uuid_text(),
            total_bytes: superblock.total_bytes(),
            warnings: self.warnings.clone(),
            journal_replayed: self.replayed,
        }
    }

    fn root(&self) -> u64 {
        u64::from(ROOT)
    }

    fn stat(&self, inode: u64) -> Result<FileStat> {
        self.inode(inode)?.stat()
    }

    fn list(&self, directory: u64) -> Result<directory::Names> {
        directory::read(&self.system, &self.inode(directory)?)
    }

    fn read(&self, inode: u64, stream: Option<&[u8]>, offset: u64, length: u32) -> Result<Vec<u8>> {
        if stream.is_some() {
            return Err(Error::not_found("files of ext file systems have no named streams"));
        }
        self.content(&self.inode(inode)?, offset, length)
    }

    fn readlink(&self, inode: u64) -> Result<Vec<u8>> {
        let inode = self.inode(inode)?;
        inode.readable()?;
        let size = u32::try_from(inode.size).unwrap_or(u32::MAX);
        let target = if inode.fast_link() {
            inode.map()?.get(..index(inode.size)?).map(<[u8]>::to_vec)
        } else if inode.size <= self.system.superblock.block_bytes {
            Some(self.content(&inode, 0, size)?)
        } else {
            None
        };
        let target = target.filter(|target| !target.is_empty() && !target.contains(&0));
        target.ok_or_else(|| Error::corrupt(format!("the link {} of {size} bytes is damaged", inode.number)))
    }

    fn attributes(&self, inode: u64) -> Result<NodeAttributes> {
        self.inode(inode).map(|inode| inode.attributes())
    }

    /// Where the journal was replayed, what it has lies in memory only.
    fn placed(&self, inode: u64, offset: u64, size: u64) -> Result<Option<Vec<placement::Run>>> {
        let inode = self.inode(inode)?;
        inode.readable()?;
        if self.replayed || inode.inline() {
            return Ok(None);
        }
        let window = self.window(&inode, offset)?;
        let end = window.to.min(size);
        Ok(Some(window.runs.placed(offset, end, end)))
    }

    fn next_data(&self, inode: u64, offset: u64, size: u64) -> Result<Option<u64>> {
        let inode = self.inode(inode)?;
        inode.readable()?;
        if inode.inline() {
            return Ok(Some(offset).filter(|offset| *offset < size));
        }
        let mut at = offset;
        while at < size {
            let window = self.window(&inode, at)?;
            if let Some(found) = window.runs.next_data(at, size) {
                return Ok(Some(found));
            }
            at = window.to;
        }
        Ok(None)
    }
}

tidemark_plugin::export_guest_filesystem!(Ext, attributes, placement);
