//! The reader `fs-ext`: ext2, ext3 and ext4, over the crate `ext4-view`. What a journal holds is read as if it had been
//! replayed; nothing is written.

mod superblock;
#[cfg(test)]
mod tests;

use std::cell::RefCell;

use ext4_view::{Ext4, Ext4Error, Ext4Read, File, FileType, Metadata, Timestamp};
use tidemark_plugin::disk::CachedDisk;
use tidemark_plugin::guest_filesystem::{GuestFilesystem, NodeKind, Volume, VolumeInfo};
use tidemark_plugin::nodes::{ByPath, FileStat, PathReader, nanoseconds};
use tidemark_plugin::{Description, Error, Result, description, info};

use crate::superblock::Superblock;

/// The reader.
#[derive(Debug)]
pub struct Ext;

impl GuestFilesystem for Ext {
    type Volume = ByPath<Opened>;

    fn describe() -> Description {
        description("fs-ext", env!("CARGO_PKG_VERSION"))
    }

    fn probe(disk_index: u32) -> Result<Option<String>> {
        let found = Superblock::read(&CachedDisk::open(disk_index)?)?;
        Ok(found.map(|superblock| superblock.name().to_owned()))
    }

    fn open(disk_index: u32) -> Result<Volume> {
        Ok(Volume::new(ByPath::new(Opened::new(CachedDisk::open(disk_index)?)?)))
    }
}

/// An open file system.
pub struct Opened {
    ext4: Ext4,
    superblock: Superblock,
    /// The file that was read last, where the next piece of it is asked for.
    file: RefCell<Option<(Vec<u8>, File)>>,
}

impl std::fmt::Debug for Opened {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Opened({:?})", self.superblock)
    }
}

impl Opened {
    /// Opens the file system on a disk.
    ///
    /// # Errors
    /// Unsupported for features that are not read; corrupt for damage.
    pub fn new(disk: CachedDisk) -> Result<Self> {
        let superblock = Superblock::read(&disk)?;
        let superblock =
            superblock.ok_or_else(|| Error::corrupt("this is no ext2, ext3 or ext4 file system"))?;
        let ext4 = Ext4::load(Box::new(Device(disk))).map_err(|error| told(&error))?;
        Ok(Self { ext4, superblock, file: RefCell::new(None) })
    }
}

struct Device(CachedDisk);

impl Ext4Read for Device {
    fn read(
        &mut self,
        start: u64,
        into: &mut [u8],
    ) -> std::result::Result<(), Box<dyn std::error::Error + Send + Sync + 'static>> {
        self.0.read(start, into).map_err(|error| error.message.into())
    }
}

impl PathReader for Opened {
    fn info(&self) -> VolumeInfo {
        let Superblock { label, uuid, total_bytes, needs_recovery, .. } = &self.superblock;
        let warning =
            "the file system was in use when it was backed up: its journal was replayed for reading";
        VolumeInfo {
            filesystem: self.superblock.name().to_owned(),
            label: label.clone(),
            uuid: uuid.clone(),
            total_bytes: *total_bytes,
            warnings: if *needs_recovery { vec![warning.to_owned()] } else { Vec::new() },
            journal_replayed: *needs_recovery,
        }
    }

    fn root(&self) -> Result<FileStat> {
        self.ext4.metadata("/").map(|metadata| stat(&metadata)).map_err(|error| told(&error))
    }

    fn list(&self, path: &[u8]) -> Result<Vec<(Vec<u8>, FileStat)>> {
        let mut found = Vec::new();
        for entry in self.ext4.read_dir(path).map_err(|error| told(&error))? {
            let entry = entry.map_err(|error| told(&error))?;
            let name = entry.file_name();
            let name = AsRef::<[u8]>::as_ref(&name).to_vec();
            if matches!(name.as_slice(), b"." | b"..") {
                continue;
            }
            let stat = match entry.metadata() {
                Ok(metadata) => stat(&metadata),
                // It costs itself and nothing else of its folder. The crate refuses times before 1970 and after
                // 2038-01-19 as damage, too.
                Err(error @ Ext4Error::Corrupt(_)) => {
                    info!("{}: {error}", String::from_utf8_lossy(&name));
                    FileStat::UNREADABLE
                }
                Err(error) => return Err(told(&error)),
            };
            found.push((name, stat));
        }
        Ok(found)
    }

    fn read(&self, path: &[u8], stream: Option<&[u8]>, offset: u64, length: u32) -> Result<Vec<u8>> {
        if stream.is_some() {
            return Err(Error::not_found("files of ext file systems have no named streams"));
        }
        let mut kept = self.file.borrow_mut();
        let again = kept.take().filter(|(known, file)| known == path && file.position() <= offset);
        let mut file = match again {
            Some((_, file)) => file,
            None => self.ext4.open(path).map_err(|error| told(&error))?,
        };
        let size = file.metadata().len();
        let wanted = size.saturating_sub(offset).min(u64::from(length));
        let mut bytes = vec![0; usize::try_from(wanted).unwrap_or(0)];
        if file.position() != offset && !bytes.is_empty() {
            file.seek_to(offset).map_err(|error| told(&error))?;
        }
        let mut filled = 0;
        while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match file.read_bytes(rest).map_err(|error| told(&error))? {
                0 => {
                    return Err(Error::corrupt(format!(
                        "a file of {size} bytes ends after {}",
                        file.position()
                    )));
                }
                read => filled += read,
            }
        }
        *kept = Some((path.to_vec(), file));
        Ok(bytes)
    }

    fn readlink(&self, path: &[u8]) -> Result<Vec<u8>> {
        let target = self.ext4.read_link(path).map_err(|error| told(&error))?;
        Ok(AsRef::<[u8]>::as_ref(&target).to_vec())
    }
}

fn stat(metadata: &Metadata) -> FileStat {
    let kind = match metadata.file_type() {
        FileType::Regular => NodeKind::File,
        FileType::Directory => NodeKind::Directory,
        FileType::Symlink => NodeKind::Symlink,
        _ => NodeKind::Other,
    };
    FileStat {
        kind,
        size_bytes: metadata.len(),
        modified_ns: time(metadata.modified()),
        created_ns: metadata.created().and_then(time),
        accessed_ns: time(metadata.accessed()),
        mode: Some(u32::from(metadata.mode())),
        owner: Some(metadata.uid().to_string()),
        group: Some(metadata.gid().to_string()),
        // The crate does not say.
        links: 0,
    }
}

fn time(time: Timestamp) -> Option<i64> {
    nanoseconds(time.seconds(), time.nanoseconds())
}

/// An error of the crate, by what can be done about it.
fn told(error: &Ext4Error) -> Error {
    let words = error.to_string();
    match error {
        Ext4Error::NotFound => Error::not_found(words),
        Ext4Error::Encrypted => {
            Error::unsupported("the file or its folder is encrypted (fscrypt): only the guest has the key")
        }
        Ext4Error::Incompatible(_) => Error::unsupported(format!("the file system cannot be read: {words}")),
        Ext4Error::Io(_) => Error::unavailable(words),
        Ext4Error::Corrupt(_) => Error::corrupt(format!("the file system is damaged: {words}")),
        _ => Error::config(words),
    }
}

tidemark_plugin::export_guest_filesystem!(Ext);
