//! The open file system.

use tidemark_plugin::attributes::NodeAttributes;
use tidemark_plugin::disk::CachedDisk;
use tidemark_plugin::fields::index;
use tidemark_plugin::guest_filesystem::{NodeKind, VolumeInfo};
use tidemark_plugin::nodes::{FileStat, InodeReader};
use tidemark_plugin::{Error, ErrorKind, Result, info};

use crate::blocks::{Blocks, missing};
use crate::file::{File, Unpacked};
use crate::items::{DIR_INDEX, DirectoryEntry, INODE_ITEM, INODE_REF, Inode, ROOT_ITEM};
use crate::subvolumes::{FIRST, Node, SUMS, Subvolume, Subvolumes, lies_in, root};
use crate::superblock::Superblock;
use crate::tree::{Cursor, Key};

/// The inode of the empty folder that stands for a subvolume in a snapshot of what it lies in.
const EMPTY: u64 = 2;
/// The inode of what a damaged entry of a directory leads to.
const DAMAGED: u64 = 0;
/// The most entries of a directory.
const MAX_ENTRIES: usize = 1 << 20;
/// The longest target of a link.
const MAX_TARGET: u64 = 64 << 10;

/// An open file system.
pub struct Opened {
    blocks: Blocks,
    subvolumes: Subvolumes,
    unpacked: Unpacked,
}

impl std::fmt::Debug for Opened {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Opened({:?})", self.blocks.superblock)
    }
}

impl Opened {
    /// Opens the file system on a disk.
    ///
    /// # Errors
    /// Unsupported for several devices, RAID and features that are not read; corrupt for damage.
    pub fn new(disk: CachedDisk) -> Result<Self> {
        let superblock = Superblock::read(&disk)?;
        let blocks = Blocks::open(disk, superblock)?;
        let opened = Self { blocks, subvolumes: Subvolumes::new(), unpacked: Unpacked::default() };
        opened.stat(opened.root())?;
        Ok(opened)
    }

    fn inode(&self, subvolume: Subvolume, inode: u64) -> Result<Inode> {
        let key = Key { object: inode, kind: INODE_ITEM, offset: 0 };
        let cursor = Cursor::at_or_before(&self.blocks, subvolume.tree, key)?;
        match cursor.item()? {
            Some((found, item)) if found == key => Inode::parse(item),
            _ => Err(missing(format!("inode {inode} of subvolume {}", subvolume.id))),
        }
    }

    /// A file or link with its size.
    fn file(&self, number: u64) -> Result<(File<'_>, u64)> {
        let Node { subvolume, inode, .. } = Node::numbered(number);
        let subvolume = self.subvolumes.at(&self.blocks, subvolume)?;
        let Inode { stat, summed, .. } = self.inode(subvolume, inode)?;
        let sums = if summed { Some(root(&self.blocks, SUMS)?) } else { None };
        let file = File { blocks: &self.blocks, tree: subvolume.tree, inode, sums, unpacked: &self.unpacked };
        Ok((file, stat.size_bytes))
    }

    /// The node that an entry of a directory leads to. Damage costs the entry and nothing else of its directory.
    fn entry(
        &self,
        place: u64,
        subvolume: Subvolume,
        directory: u64,
        entry: &DirectoryEntry,
    ) -> Result<Node> {
        let (place, inode) = match self.target(place, subvolume, directory, entry) {
            Err(error) if error.kind == ErrorKind::Corrupt => {
                info!("{}: {}", String::from_utf8_lossy(&entry.name), error.message);
                (place, DAMAGED)
            }
            target => target?,
        };
        Ok(Node { names_directory: entry.is_directory, subvolume: place, inode })
    }

    /// The subvolume's place and the inode that an entry of a directory leads to.
    fn target(
        &self,
        place: u64,
        subvolume: Subvolume,
        directory: u64,
        entry: &DirectoryEntry,
    ) -> Result<(u64, u64)> {
        let to = entry.to.object;
        match entry.to.kind {
            INODE_ITEM if !entry.is_directory || self.is_above(subvolume, directory, to)? => Ok((place, to)),
            ROOT_ITEM if lies_in(&self.blocks, to, (subvolume.id, directory), &entry.name)? => {
                Ok((self.subvolumes.place(to)?, FIRST))
            }
            ROOT_ITEM => Ok((place, EMPTY)),
            _ => Ok((place, DAMAGED)),
        }
    }

    /// Whether a directory is the one above another, of which each has one only: so they do not lead in circles.
    fn is_above(&self, subvolume: Subvolume, above: u64, directory: u64) -> Result<bool> {
        let start = Key { object: directory, kind: INODE_REF, offset: 0 };
        let cursor = Cursor::at_or_after(&self.blocks, subvolume.tree, start)?;
        let found = cursor.item()?.filter(|(key, _)| key.group() == start.group());
        Ok(directory != FIRST && found.is_some_and(|(key, _)| key.offset == above))
    }
}

impl InodeReader for Opened {
    fn info(&self) -> VolumeInfo {
        let Superblock { label, uuid, total_bytes, has_log, is_copy, .. } = &self.blocks.superblock;
        let mut warnings = Vec::new();
        if *has_log {
            warnings.push(
                "the file system was in use when it was backed up, and its log of synced files is not replayed: what was \
                 written and synced in the last seconds before (after the last commit) is not shown"
                    .to_owned(),
            );
        }
        if *is_copy {
            warnings.push("the superblock is damaged: a copy of it was read".to_owned());
        }
        let lacking = total_bytes.saturating_sub(self.blocks.disk.size());
        if lacking > 0 {
            warnings.push(format!(
                "the volume is {lacking} bytes shorter than its file system: files may lack parts"
            ));
        }
        VolumeInfo {
            filesystem: "btrfs".to_owned(),
            label: label.clone(),
            uuid: uuid.clone(),
            total_bytes: *total_bytes,
            warnings,
            journal_replayed: false,
        }
    }

    fn root(&self) -> u64 {
        FIRST
    }

    fn stat(&self, number: u64) -> Result<FileStat> {
        let Node { names_directory, subvolume, inode } = Node::numbered(number);
        match inode {
            EMPTY => {
                return Ok(FileStat { mode: Some(0o755), links: 1, ..FileStat::of(NodeKind::Directory) });
            }
            DAMAGED => return Err(Error::corrupt("the entry of the directory leads nowhere")),
            _ => {}
        }
        let stat = self.inode(self.subvolumes.at(&self.blocks, subvolume)?, inode)?.stat;
        if names_directory != (stat.kind == NodeKind::Directory) {
            return Err(Error::corrupt(format!("inode {inode} is not what its name says")));
        }
        Ok(stat)
    }

    fn list(&self, number: u64) -> Result<Vec<(Vec<u8>, u64)>> {
        let Node { subvolume: place, inode, .. } = Node::numbered(number);
        if inode == EMPTY {
            return Ok(Vec::new());
        }
        let subvolume = self.subvolumes.at(&self.blocks, place)?;
        let start = Key { object: inode, kind: DIR_INDEX, offset: 0 };
        let mut cursor = Cursor::at_or_after(&self.blocks, subvolume.tree, start)?;
        let mut found = Vec::new();
        while let Some((_, item)) = cursor.item()?.filter(|(key, _)| key.group() == start.group()) {
            if found.len() >= MAX_ENTRIES {
                return Err(Error::unsupported(format!("a directory of more than {MAX_ENTRIES} entries")));
            }
            let entry = DirectoryEntry::parse(item)?;
            let node = self.entry(place, subvolume, inode, &entry)?;
            found.push((entry.name, node.number()?));
            cursor.advance()?;
        }
        Ok(found)
    }

    fn read(&self, number: u64, stream: Option<&[u8]>, offset: u64, length: u32) -> Result<Vec<u8>> {
        if stream.is_some() {
            return Err(Error::not_found("files of btrfs have no named streams"));
        }
        let (file, size) = self.file(number)?;
        let mut bytes = vec![0; index(size.saturating_sub(offset).min(u64::from(length)))?];
        file.read(offset, &mut bytes)?;
        Ok(bytes)
    }

    fn readlink(&self, number: u64) -> Result<Vec<u8>> {
        let (file, size) = self.file(number)?;
        if size > MAX_TARGET {
            return Err(Error::corrupt(format!("a link of {size} bytes")));
        }
        let mut target = vec![0; index(size)?];
        file.read(0, &mut target)?;
        Ok(target)
    }

    fn attributes(&self, number: u64) -> Result<NodeAttributes> {
        let Node { subvolume, inode, .. } = Node::numbered(number);
        if inode == EMPTY {
            return Ok(NodeAttributes::of(0, &[]));
        }
        self.inode(self.subvolumes.at(&self.blocks, subvolume)?, inode).map(|inode| inode.attributes())
    }

    fn next_data(&self, number: u64, offset: u64, size: u64) -> Result<Option<u64>> {
        self.file(number)?.0.next_data(offset, size)
    }
}
