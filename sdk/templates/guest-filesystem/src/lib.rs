//! The file system `my-plugin`: a tar archive (POSIX ustar) that a disk begins with, shown as read-only files.
//!
//! The archive is read once, header by header, when it is opened (`archive`); files are read from where they lie on the
//! disk, by the host where it asks where that is. What a guest wrote is not to be trusted: whatever does not fit is an error or a warning, never a guess.

mod archive;

use tidemark_plugin::guest_filesystem::{
    Entry, EntryPage, GuestFilesystem, GuestVolume, NamedStream, Stat, Volume, VolumeInfo,
};
use tidemark_plugin::placement::{Placement, Run};
use tidemark_plugin::{Description, Error, Result, description, disk};

use crate::archive::{Archive, BLOCK, Header, Node};

/// The reader.
#[derive(Debug)]
pub struct Tar;

/// An open archive.
#[derive(Debug)]
pub struct Opened {
    disk: u32,
    size: u64,
    archive: Archive,
}

impl GuestFilesystem for Tar {
    type Volume = Opened;

    fn describe() -> Description {
        description("my-plugin", env!("CARGO_PKG_VERSION"))
    }

    fn probe(disk_index: u32) -> Result<Option<String>> {
        if disk::size(disk_index)? < u64::from(BLOCK) {
            return Ok(None);
        }
        let header = Header::parse(&disk::read_at(disk_index, 0, BLOCK)?);
        Ok(header.ok().flatten().map(|_| "tar".to_owned()))
    }

    fn open(disk_index: u32) -> Result<Volume> {
        let size = disk::size(disk_index)?;
        let archive = Archive::scan(size, |offset| disk::read_at(disk_index, offset, BLOCK))?;
        Ok(Volume::new(Opened { disk: disk_index, size, archive }))
    }
}

impl GuestVolume for Opened {
    fn info(&self) -> VolumeInfo {
        VolumeInfo {
            filesystem: "tar".to_owned(),
            label: String::new(),
            uuid: String::new(),
            total_bytes: self.size,
            warnings: self.archive.warnings.clone(),
            journal_replayed: false,
        }
    }

    fn root(&self) -> u64 {
        Archive::ROOT
    }

    fn lookup(&self, directory: u64, name: Vec<u8>) -> Result<Stat> {
        let found = self.archive.lookup(directory, &name)?;
        self.stat(found)
    }

    fn list(&self, directory: u64, cursor: u64, limit: u32) -> Result<EntryPage> {
        let (nodes, next) = self.archive.page(directory, cursor, limit)?;
        let entry =
            |node: u64| Ok(Entry { name: self.archive.node(node)?.name.clone(), stat: self.stat(node)? });
        Ok(EntryPage { entries: nodes.iter().map(|node| entry(*node)).collect::<Result<_>>()?, next })
    }

    fn stat(&self, node: u64) -> Result<Stat> {
        let Node { kind, size, modified_s, mode, owner, group, .. } = self.archive.node(node)?;
        Ok(Stat {
            node,
            kind: *kind,
            size_bytes: *size,
            modified_ns: modified_s.checked_mul(1_000_000_000),
            created_ns: None,
            accessed_ns: None,
            mode: Some(*mode),
            owner: Some(owner.clone()).filter(|name| !name.is_empty()),
            group: Some(group.clone()).filter(|name| !name.is_empty()),
            links: 1,
        })
    }

    fn read(&self, node: u64, name_of_stream: Option<Vec<u8>>, offset: u64, length: u32) -> Result<Vec<u8>> {
        if name_of_stream.is_some() {
            return Err(Error::not_found("files in an archive have no named streams"));
        }
        match self.archive.place(node, offset, length)? {
            Some((start, length)) => disk::read_at(self.disk, start, length),
            None => Ok(Vec::new()),
        }
    }

    fn readlink(&self, node: u64) -> Result<Vec<u8>> {
        Ok(self.archive.node(node)?.target.clone())
    }

    fn streams(&self, _node: u64) -> Result<Vec<NamedStream>> {
        Ok(Vec::new())
    }

    fn next_data(&self, node: u64, offset: u64) -> Result<Option<u64>> {
        // An archive has no holes.
        Ok(Some(offset).filter(|offset| self.archive.node(node).is_ok_and(|node| *offset < node.size)))
    }
}

/// Files lie in an archive as they are: the host reads them by itself.
impl Placement for Opened {
    fn runs(&self, node: u64, offset: u64) -> Result<Option<Vec<Run>>> {
        let place = self.archive.place(node, offset, u32::MAX)?;
        let run = |(start, length): (u64, u32)| Run { length: length.into(), offset: Some(start) };
        Ok(Some(place.map(run).into_iter().collect()))
    }
}

tidemark_plugin::export_guest_filesystem!(Tar, placement);
