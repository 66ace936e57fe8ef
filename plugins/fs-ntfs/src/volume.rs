//! An open volume, as the contract asks for it.

use std::cell::RefCell;
use std::rc::Rc;

use tidemark_plugin::disk::CachedDisk;
use tidemark_plugin::fields::{le16, le32, le64, units_le, wtf8};
use tidemark_plugin::guest_filesystem::{NamedStream, NodeKind, VolumeInfo};
use tidemark_plugin::nodes::{FileStat, InodeReader};
use tidemark_plugin::{Error, Result};

use crate::attribute::{Attribute, Form, kind, utf16};
use crate::boot::Boot;
use crate::record::Reference;
use crate::reparse::{self, Reparse};
use crate::security::{self, Owner, Security};
use crate::stream::Stream;
use crate::table::{File, Table};
use crate::{index, log};

/// Records before this one are the file system's own.
const FIRST_FILE: u64 = 24;
const ROOT: u64 = 5;
const VOLUME: Reference = Reference { record: 3, sequence: 0 };
const VOLUME_DIRTY: u16 = 1;

/// Bits of a file's attributes.
const SYSTEM: u32 = 0x4;
const REPARSE: u32 = 0x400;
const MAX_REPARSE: u32 = 16 << 10;
/// The longest link of Interix.
const MAX_INTERIX: u64 = 8 + 2 * 4096;
/// 100-nanosecond steps from 1601 to 1970.
const EPOCH: i64 = 116_444_736_000_000_000;

/// An open NTFS volume.
#[derive(Debug)]
pub struct Ntfs {
    table: Table,
    boot: Boot,
    security: Security,
    label: String,
    root: Reference,
    is_clean: bool,
    /// The stream that was read last.
    last: RefCell<Option<Last>>,
}

/// A node with the name of its stream.
type Last = (u64, Vec<u8>, Rc<Stream>);

/// What the standard information of a file says.
struct Standard {
    created: Option<i64>,
    modified: Option<i64>,
    accessed: Option<i64>,
    attributes: u32,
    security: Option<u32>,
}

impl Ntfs {
    /// Opens the volume on a disk.
    ///
    /// # Errors
    /// Corrupt for damage.
    pub fn open(disk: CachedDisk) -> Result<Self> {
        let boot = Boot::find(&disk).ok_or_else(|| Error::corrupt("this is no NTFS volume"))?;
        let table = Table::open(Rc::new(disk), &boot)?;
        let volume = table.file(VOLUME)?;
        let label = volume.resident(kind::VOLUME_NAME, &[])?.unwrap_or_default();
        let label = String::from_utf8_lossy(&wtf8(units_le(label))).into_owned();
        let flags = volume.resident(kind::VOLUME_INFORMATION, &[])?;
        let is_dirty =
            flags.map(|flags| le16(flags, 10)).transpose()?.is_none_or(|flags| flags & VOLUME_DIRTY != 0);
        let is_clean = !is_dirty && log::is_clean(&table)?;
        let root = table.file(Reference { record: ROOT, sequence: 0 })?;
        if !root.is_directory {
            return Err(Error::corrupt("the root is no folder"));
        }
        let root = root.reference;
        Ok(Self {
            table,
            boot,
            security: Security::default(),
            label,
            root,
            is_clean,
            last: RefCell::new(None),
        })
    }

    fn file(&self, node: u64) -> Result<File> {
        self.table.file(Reference::from_node(node))
    }

    /// What a file is beside its data.
    fn reparse(&self, file: &File, standard: &Standard) -> Result<Reparse> {
        if standard.attributes & REPARSE != 0 {
            let point = Stream::of(&self.table, file, kind::REPARSE_POINT, &[])?;
            let point = point.ok_or_else(|| Error::corrupt("a reparse point without its data"))?;
            return Reparse::parse(&point.all(&self.table.disk, MAX_REPARSE)?, standard.attributes);
        }
        if standard.attributes & SYSTEM != 0 && !file.is_directory {
            let data = Stream::of(&self.table, file, kind::DATA, &[])?;
            if let Some(data) = data.filter(|data| (9..=MAX_INTERIX).contains(&data.size)) {
                let most = u32::try_from(data.size).unwrap_or(0);
                // What cannot be read (EFS) is a file all the same.
                let content = data.read(&self.table.disk, 0, most).unwrap_or_default();
                return Ok(reparse::interix(&content).unwrap_or(Reparse::Plain));
            }
        }
        Ok(Reparse::Plain)
    }

    fn owner(&self, file: &File, standard: &Standard) -> Result<Owner> {
        if let Some(number) = standard.security {
            return Ok(self.security.owner(&self.table, number));
        }
        // As NTFS did before version 3.
        let own = Stream::of(&self.table, file, kind::SECURITY_DESCRIPTOR, &[])?;
        let own = own.map(|own| own.all(&self.table.disk, 1 << 16)).transpose()?;
        Ok(own.and_then(|own| security::owner_in(&own).ok()).unwrap_or_default())
    }

    /// The data of a file or a named stream of it; none where it has none.
    fn stream(&self, node: u64, name: &[u8]) -> Result<Option<Rc<Stream>>> {
        if let Some((known, known_name, stream)) = &*self.last.borrow()
            && *known == node
            && known_name == name
        {
            return Ok(Some(Rc::clone(stream)));
        }
        let file = self.file(node)?;
        if name.is_empty() {
            self.expect_here(&file)?;
        }
        let Some(stream) = Stream::of(&self.table, &file, kind::DATA, name)? else { return Ok(None) };
        let is_plain = Standard::of(&file)?.attributes & REPARSE == 0;
        if name.is_empty() && !is_plain && stream.is_hole() {
            let message = "the file cannot be read: its contents are put together by a driver of the guest; restore the disk";
            return Err(Error::unsupported(message));
        }
        let stream = Rc::new(stream);
        *self.last.borrow_mut() = Some((node, name.to_vec(), Rc::clone(&stream)));
        Ok(Some(stream))
    }

    /// That a file's bytes are those of its own data.
    fn expect_here(&self, file: &File) -> Result<()> {
        match self.reparse(file, &Standard::of(file)?)? {
            Reparse::Elsewhere(why) => Err(Error::unsupported(format!("the file cannot be read: {why}"))),
            Reparse::Overlay(_) => {
                let message =
                    "the file was compressed by Windows (compact /exe), which is not read; restore the disk";
                Err(Error::unsupported(message))
            }
            _ => Ok(()),
        }
    }
}

impl InodeReader for Ntfs {
    fn info(&self) -> VolumeInfo {
        let mut warnings = Vec::new();
        if !self.is_clean {
            let message = "the file system was in use when it was backed up, and its log is not replayed: what was changed in the last moments before may be missing or incomplete";
            warnings.push(message.to_owned());
        }
        if self.table.is_from_copy {
            warnings.push("the first record of the file table is damaged: its copy was used".to_owned());
        }
        if self.boot.is_copy {
            warnings.push("the boot sector is damaged: its copy at the volume's end was used".to_owned());
        }
        VolumeInfo {
            filesystem: "ntfs".to_owned(),
            label: self.label.clone(),
            uuid: format!("{:016X}", self.boot.serial),
            total_bytes: self.boot.total_bytes,
            warnings,
            journal_replayed: false,
        }
    }

    fn root(&self) -> u64 {
        self.root.node()
    }

    fn stat(&self, node: u64) -> Result<FileStat> {
        let file = self.file(node)?;
        let standard = Standard::of(&file)?;
        let (mut links, mut size) = (0, 0);
        for attribute in file.attributes() {
            let attribute = attribute?;
            match (&attribute, attribute.form) {
                (Attribute { kind: kind::FILE_NAME, .. }, Form::Resident(name)) => {
                    links += u32::from(index::is_shown(name)?);
                }
                (data, Form::Resident(value)) if data.is(kind::DATA, &[]) => size = value.len() as u64,
                (data, Form::Elsewhere(extent)) if data.is(kind::DATA, &[]) && extent.first == 0 => {
                    size = extent.size;
                }
                _ => {}
            }
        }
        let (kind, size_bytes) = match self.reparse(&file, &standard)? {
            Reparse::Link(target) => (NodeKind::Symlink, target.len() as u64),
            Reparse::Special => (NodeKind::Other, 0),
            _ if file.is_directory => (NodeKind::Directory, 0),
            _ => (NodeKind::File, size),
        };
        let (owner, group) = self.owner(&file, &standard)?;
        Ok(FileStat {
            kind,
            size_bytes,
            modified_ns: standard.modified,
            created_ns: standard.created,
            accessed_ns: standard.accessed,
            mode: None,
            owner,
            group,
            links,
        })
    }

    fn list(&self, directory: u64) -> Result<Vec<(Vec<u8>, u64)>> {
        let file = self.file(directory)?;
        let is_own = |reference: Reference| directory == self.root.node() && reference.record < FIRST_FILE;
        let (names, walked) = index::names(&self.table, &file, is_own)?;
        // A volume that was in use says so in its warnings.
        if walked.lost_blocks > 0 && self.is_clean {
            let message = format!(
                "{} blocks of the folder's index are in use though nothing leads to them: names would be missing",
                walked.lost_blocks
            );
            return Err(Error::corrupt(message));
        }
        Ok(names.into_all())
    }

    fn read(&self, inode: u64, stream: Option<&[u8]>, offset: u64, length: u32) -> Result<Vec<u8>> {
        let name = match stream {
            Some(name) => {
                let name = str::from_utf8(name).map_err(|_| Error::not_found("there is no such stream"))?;
                utf16(name)
            }
            None => Vec::new(),
        };
        match self.stream(inode, &name)? {
            Some(stream) => stream.read(&self.table.disk, offset, length),
            None if name.is_empty() => Ok(Vec::new()),
            None => Err(Error::not_found("there is no such stream")),
        }
    }

    fn readlink(&self, inode: u64) -> Result<Vec<u8>> {
        let file = self.file(inode)?;
        match self.reparse(&file, &Standard::of(&file)?)? {
            Reparse::Link(target) => Ok(target),
            _ => Err(Error::config("this is no link")),
        }
    }

    fn streams(&self, inode: u64) -> Result<Vec<NamedStream>> {
        let file = self.file(inode)?;
        let mut streams = Vec::new();
        for attribute in file.attributes() {
            let attribute = attribute?;
            if attribute.kind != kind::DATA || attribute.name.is_empty() {
                continue;
            }
            let size_bytes = match attribute.form {
                Form::Resident(value) => value.len() as u64,
                Form::Elsewhere(extent) if extent.first == 0 => extent.size,
                Form::Elsewhere(_) => continue,
            };
            streams.push(NamedStream { name: wtf8(units_le(attribute.name)), size_bytes });
        }
        Ok(streams)
    }

    fn next_data(&self, inode: u64, offset: u64, _size: u64) -> Result<Option<u64>> {
        Ok(self.stream(inode, &[])?.and_then(|stream| stream.next_data(offset)))
    }
}

impl Standard {
    fn of(file: &File) -> Result<Self> {
        let value = file.resident(kind::STANDARD_INFORMATION, &[])?;
        let value = value.ok_or_else(|| Error::corrupt("a file without its standard information"))?;
        Ok(Self {
            created: nanoseconds(le64(value, 0)?),
            modified: nanoseconds(le64(value, 8)?),
            accessed: nanoseconds(le64(value, 24)?),
            attributes: le32(value, 32)?,
            // The field came with NTFS 3.0.
            security: le32(value, 52).ok().filter(|number| *number != 0),
        })
    }
}

/// A time of Windows; none beyond what the contract can say, and for zero, which is no time.
fn nanoseconds(time: u64) -> Option<i64> {
    let time = i64::try_from(time).ok().filter(|time| *time != 0)?;
    time.checked_sub(EPOCH)?.checked_mul(100)
}
