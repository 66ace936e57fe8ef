//! An open volume, as the contract asks for it.

use std::cell::RefCell;
use std::rc::Rc;

use tidemark_plugin::attributes::NodeAttributes;
use tidemark_plugin::disk::CachedDisk;
use tidemark_plugin::fields::{le16, le32, le64, units_le, wtf8};
use tidemark_plugin::guest_filesystem::{NamedStream, NodeKind, VolumeInfo};
use tidemark_plugin::nodes::{FileStat, InodeReader};
use tidemark_plugin::{Error, Result, info, placement};

use crate::attribute::{Attribute, Form, kind, utf16};
use crate::boot::Boot;
use crate::record::Reference;
use crate::reparse::{self, Reparse};
use crate::security::Security;
use crate::stream::Stream;
use crate::table::{File, Table};
use crate::{index, log, sddl};

/// Records before this one are the file system's own.
const FIRST_FILE: u64 = 24;
const ROOT: u64 = 5;
const VOLUME: Reference = Reference { record: 3, sequence: 0 };
const VOLUME_DIRTY: u16 = 1;

/// Bits of a file's attributes.
const SYSTEM: u32 = 0x4;
const REPARSE: u32 = 0x400;
/// All of them that say something of a file ([MS-FSCC] 2.6), with their words.
const MARKS: [(u64, &str); 16] = [
    (0x1, "read-only"),
    (0x2, "hidden"),
    (0x4, "system"),
    (0x20, "archive"),
    (0x100, "temporary"),
    (0x200, "sparse"),
    (0x400, "reparse-point"),
    (0x800, "compressed"),
    (0x1000, "offline"),
    (0x2000, "not-content-indexed"),
    (0x4000, "encrypted"),
    (0x8000, "integrity-stream"),
    (0x2_0000, "no-scrub-data"),
    (0x8_0000, "pinned"),
    (0x10_0000, "unpinned"),
    (0x40_0000, "recall-on-data-access"),
];
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

    /// A file's own security descriptor, as files had before NTFS 3.0.
    fn own_descriptor(&self, file: &File) -> Result<Option<Vec<u8>>> {
        let own = Stream::of(&self.table, file, kind::SECURITY_DESCRIPTOR, &[])?;
        own.map(|own| own.all(&self.table.disk, 1 << 16)).transpose()
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
        let is_plain = name.is_empty().then(|| self.expect_here(&file)).transpose()?.unwrap_or(true);
        let Some(stream) = Stream::of(&self.table, &file, kind::DATA, name)? else { return Ok(None) };
        if !is_plain && stream.is_hole() {
            let message = "the file cannot be read: its contents are put together by a driver of the guest; restore the disk";
            return Err(Error::unsupported(message));
        }
        let stream = Rc::new(stream);
        *self.last.borrow_mut() = Some((node, name.to_vec(), Rc::clone(&stream)));
        Ok(Some(stream))
    }

    /// That a file's bytes are those of its own data; whether no driver has a say in it.
    fn expect_here(&self, file: &File) -> Result<bool> {
        let standard = Standard::of(file)?;
        match self.reparse(file, &standard)? {
            Reparse::Elsewhere(why) => Err(Error::unsupported(format!("the file cannot be read: {why}"))),
            Reparse::Overlay(_) => {
                let message =
                    "the file was compressed by Windows (compact /exe), which is not read; restore the disk";
                Err(Error::unsupported(message))
            }
            _ => Ok(standard.attributes & REPARSE == 0),
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

    /// One pass over the attributes: a folder may have a hundred thousand files.
    fn stat(&self, node: u64) -> Result<FileStat> {
        let file = self.file(node)?;
        let (mut links, mut size, mut standard, mut descriptor) = (0, 0, None, None);
        for attribute in file.attributes() {
            let Attribute { kind, name, form, .. } = attribute?;
            match (kind, form) {
                (kind::STANDARD_INFORMATION, Form::Resident(value)) => {
                    standard = Some(Standard::parse(value)?)
                }
                (kind::FILE_NAME, Form::Resident(name)) => links += u32::from(index::is_shown(name)?),
                (kind::SECURITY_DESCRIPTOR, Form::Resident(value)) => descriptor = Some(value),
                (kind::DATA, Form::Resident(value)) if name.is_empty() => size = value.len() as u64,
                (kind::DATA, Form::Elsewhere(extent)) if name.is_empty() && extent.first == 0 => {
                    size = extent.size;
                }
                _ => {}
            }
        }
        let standard = standard.ok_or_else(Standard::missing)?;
        let (kind, size_bytes) = match self.reparse(&file, &standard)? {
            Reparse::Link(target) => (NodeKind::Symlink, target.len() as u64),
            Reparse::Special => (NodeKind::Other, 0),
            _ if file.is_directory => (NodeKind::Directory, 0),
            _ => (NodeKind::File, size),
        };
        let (owner, group) = match (standard.security, descriptor) {
            (Some(number), _) => self.security.owner(&self.table, number),
            (None, Some(own)) => self.security.owner_in(own),
            // As large as that it does not lie in a record.
            (None, None) => {
                self.own_descriptor(&file)?.map(|own| self.security.owner_in(&own)).unwrap_or_default()
            }
        };
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

    fn attributes(&self, inode: u64) -> Result<NodeAttributes> {
        let file = self.file(inode)?;
        let standard = Standard::of(&file)?;
        let descriptor = match standard.security {
            Some(number) => self.security.descriptor(&self.table, number).map(Some),
            None => self.own_descriptor(&file),
        };
        let mut attributes = NodeAttributes::of(standard.attributes.into(), &MARKS);
        match descriptor.and_then(|descriptor| descriptor.map(|bytes| sddl::text(&bytes)).transpose()) {
            Ok(text) => attributes.access_list = text,
            // Who may do what is not known, which is not the same as that nothing is said of it.
            Err(error) => {
                info!("the security descriptor of {inode}: {}", error.message);
                attributes.flags.push("access-list-unreadable".to_owned());
            }
        }
        Ok(attributes)
    }

    fn placed(&self, inode: u64, offset: u64, _size: u64) -> Result<Option<Vec<placement::Run>>> {
        let stream = self.stream(inode, &[])?;
        Ok(stream.map(|stream| stream.placed(offset)).transpose()?.flatten())
    }

    fn next_data(&self, inode: u64, offset: u64, _size: u64) -> Result<Option<u64>> {
        Ok(self.stream(inode, &[])?.and_then(|stream| stream.next_data(offset)))
    }
}

impl Standard {
    fn of(file: &File) -> Result<Self> {
        Self::parse(file.resident(kind::STANDARD_INFORMATION, &[])?.ok_or_else(Self::missing)?)
    }

    fn missing() -> Error {
        Error::corrupt("a file without its standard information")
    }

    fn parse(value: &[u8]) -> Result<Self> {
        Ok(Self {
            created: nanoseconds(le64(value, 0)?),
            modified: nanoseconds(le64(value, 8)?),
            accessed: nanoseconds(le64(value, 24)?),
            attributes: le32(value, 32)?,
            // The field came with NTFS 3.0. (An error would be words that nobody reads, for each of many files.)
            security: match value.len() {
                ..56 => None,
                _ => Some(le32(value, 52)?).filter(|number| *number != 0),
            },
        })
    }
}

/// A time of Windows; none beyond what the contract can say, and for zero, which is no time.
fn nanoseconds(time: u64) -> Option<i64> {
    let time = i64::try_from(time).ok().filter(|time| *time != 0)?;
    time.checked_sub(EPOCH)?.checked_mul(100)
}
