//! Carries out a folder target's operations. Paths come from a plugin, so every step goes through directory
//! handles, one component at a time, never following a symbolic link: nothing outside the folder can be reached.
//!
//! Durability (DESIGN 4.1): a published file has its bytes synced before its header is written, the header synced
//! before it is renamed, and the folder synced after. Renames never replace another file.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags};
use tidemark_model::ByteLen;

use crate::error::{Error, Result};

/// A place below a granted folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Location {
    /// The granted folder.
    pub(crate) folder: PathBuf,
    /// Relative to it.
    pub(crate) path: String,
}

impl Location {
    /// A file anywhere on this host, named absolutely.
    pub(crate) fn of(path: &Path) -> Result<Self> {
        let name = path.file_name().and_then(OsStr::to_str);
        match (path.is_absolute(), path.parent(), name) {
            (true, Some(folder), Some(name)) => {
                Ok(Self { folder: folder.to_path_buf(), path: name.to_owned() })
            }
            _ => Err(Error::invalid(format!("'{}' is no absolute path of a file", path.display()))),
        }
    }

    pub(crate) fn display(&self) -> String {
        self.folder.join(&self.path).display().to_string()
    }
}

/// A file that grows and has no valid header yet.
#[derive(Debug)]
pub(crate) struct AppendFile {
    file: File,
    written: u64,
    location: Location,
}

impl AppendFile {
    /// Makes the folders above and the file itself, which must not exist.
    pub(crate) fn create(location: Location) -> Result<Self> {
        Ok(Self { file: create_file(&location)?, written: 0, location })
    }

    pub(crate) fn append(&mut self, parts: &[Bytes]) -> Result<()> {
        for part in parts {
            self.file.write_all(part).map_err(|e| self.failed(e))?;
            self.written += part.len() as u64;
        }
        Ok(())
    }

    /// Syncs what was appended, then writes `header` over the blank start, then syncs that.
    pub(crate) fn seal(&mut self, header: Option<&Bytes>) -> Result<()> {
        self.file.sync_data().map_err(|e| self.failed(e))?;
        if let Some(header) = header {
            self.file.write_all_at(header, 0).map_err(|e| self.failed(e))?;
        }
        self.file.sync_all().map_err(|e| self.failed(e))
    }

    pub(crate) fn written(&self) -> ByteLen {
        ByteLen(self.written)
    }

    fn failed(&self, error: std::io::Error) -> Error {
        Error::io(format!("writing {}", self.location.display()), error)
    }
}

/// Makes the folders above and a new file, which must not exist.
pub(crate) fn create_file(location: &Location) -> Result<File> {
    let (parent, name) = open_parent(location, true)?;
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(&parent, name, flags, Mode::from(0o640))
        .map_err(|e| Error::io(format!("creating {}", location.display()), e.into()))?;
    Ok(File::from(fd))
}

/// Gives a sealed file its final name; an existing file of that name is an error.
pub(crate) fn publish(from: &Location, to: &str) -> Result<()> {
    let target = Location { folder: from.folder.clone(), path: to.to_owned() };
    let (old_parent, old_name) = open_parent(from, false)?;
    let (new_parent, new_name) = open_parent(&target, true)?;
    let what = || format!("publishing {}", target.display());
    rustix::fs::renameat_with(&old_parent, old_name, &new_parent, new_name, RenameFlags::NOREPLACE)
        .map_err(|e| Error::io(what(), e.into()))?;
    rustix::fs::fsync(&new_parent).map_err(|e| Error::io(what(), e.into()))
}

/// Removes a file; done too where it, or a folder above it, does not exist.
pub(crate) fn remove(location: &Location) -> Result<()> {
    let (parent, name) = match open_parent(location, false) {
        Ok(found) => found,
        Err(error) if error.kind() == crate::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let what = || format!("removing {}", location.display());
    match rustix::fs::unlinkat(&parent, name, AtFlags::empty()) {
        Ok(()) => rustix::fs::fsync(&parent).map_err(|e| Error::io(what(), e.into())),
        Err(rustix::io::Errno::NOENT) => Ok(()),
        Err(error) => Err(Error::io(what(), error.into())),
    }
}

/// Opens a regular file for reading.
pub(crate) fn open(location: &Location) -> Result<File> {
    let (parent, name) = open_parent(location, false)?;
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let fd = rustix::fs::openat(&parent, name, flags, Mode::empty())
        .map_err(|e| Error::io(format!("opening {}", location.display()), e.into()))?;
    let file = File::from(fd);
    let metadata = file.metadata().map_err(|e| Error::io(location.display(), e))?;
    if !metadata.is_file() {
        return Err(Error::damaged(format!("{} is no regular file", location.display())));
    }
    Ok(file)
}

/// The whole of a small file.
pub(crate) fn read(location: &Location, limit: ByteLen) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open(location)?
        .take(limit.0 + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| Error::io(format!("reading {}", location.display()), e))?;
    if bytes.len() as u64 > limit.0 {
        return Err(Error::damaged(format!("{} is larger than {} bytes", location.display(), limit.0)));
    }
    Ok(bytes)
}

/// Every regular file below `path` in the folder with its size, relative to the folder, in no order. Symbolic links
/// are passed over.
pub(crate) fn list(folder: &Path, path: &str) -> Result<Vec<(String, ByteLen)>> {
    if path.split('/').any(|part| part == "..") || path.starts_with('/') {
        return Err(Error::invalid(format!("'{path}' is no clean relative path")));
    }
    let mut found = Vec::new();
    let mut waiting = vec![(folder.join(path), path.to_owned())];
    while let Some((dir, prefix)) = waiting.pop() {
        let entries = match std::fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(Error::io(format!("listing {}", dir.display()), error)),
        };
        for entry in entries {
            let entry = entry.map_err(|e| Error::io(format!("listing {}", dir.display()), e))?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            let metadata = match entry.metadata() {
                Ok(metadata) => metadata,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(error) => return Err(Error::io(entry.path().display(), error)),
            };
            let path = if prefix.is_empty() { name } else { format!("{prefix}/{name}") };
            if metadata.is_dir() {
                waiting.push((entry.path(), path));
            } else if metadata.is_file() {
                found.push((path, ByteLen(metadata.len())));
            }
        }
    }
    Ok(found)
}

/// What an unprivileged writer may still store on the folder's file system.
pub(crate) fn free_space(folder: &Path) -> Result<ByteLen> {
    let stat = rustix::fs::statvfs(folder)
        .map_err(|e| Error::io(format!("asking for the free space of {}", folder.display()), e.into()))?;
    Ok(ByteLen(stat.f_bavail.saturating_mul(stat.f_frsize)))
}

/// The handle of the folder that holds the last component, and that component.
fn open_parent(location: &Location, create: bool) -> Result<(OwnedFd, &OsStr)> {
    let failed =
        |e: rustix::io::Errno| Error::io(format!("opening the folder of {}", location.display()), e.into());
    if create {
        std::fs::create_dir_all(&location.folder)
            .map_err(|e| Error::io(format!("creating {}", location.folder.display()), e))?;
    }
    let folder_flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut current = rustix::fs::open(&location.folder, folder_flags, Mode::empty()).map_err(failed)?;
    let mut parts = location.path.split('/').peekable();
    while let Some(part) = parts.next() {
        if part.is_empty() || part == "." || part == ".." {
            return Err(Error::invalid(format!("'{}' is no clean relative path", location.path)));
        }
        if parts.peek().is_none() {
            return Ok((current, OsStr::new(part)));
        }
        if create {
            match rustix::fs::mkdirat(&current, part, Mode::from(0o750)) {
                Ok(()) => rustix::fs::fsync(current.as_fd()).map_err(failed)?,
                Err(rustix::io::Errno::EXIST) => {}
                Err(error) => return Err(failed(error)),
            }
        }
        current = rustix::fs::openat(&current, part, folder_flags | OFlags::NOFOLLOW, Mode::empty())
            .map_err(failed)?;
    }
    Err(Error::invalid("an empty path"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(folder: &Path, path: &str) -> Location {
        Location { folder: folder.to_path_buf(), path: path.to_owned() }
    }

    #[test]
    fn a_file_appears_only_when_published_and_replaces_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let partial = at(dir.path(), "vm/disk-0/a.qcow2.partial");
        let mut file = AppendFile::create(partial.clone()).unwrap();
        file.append(&[Bytes::from_static(&[0; 8]), Bytes::from_static(b"data")]).unwrap();
        assert_eq!(read(&partial, ByteLen(100)).unwrap(), b"\0\0\0\0\0\0\0\0data");
        file.seal(Some(&Bytes::from_static(b"header!!"))).unwrap();
        publish(&partial, "vm/disk-0/a.qcow2").unwrap();
        assert_eq!(list(dir.path(), "").unwrap(), [("vm/disk-0/a.qcow2".to_owned(), ByteLen(12))]);
        assert_eq!(read(&at(dir.path(), "vm/disk-0/a.qcow2"), ByteLen(100)).unwrap(), b"header!!data");
        AppendFile::create(partial.clone()).unwrap();
        assert_eq!(publish(&partial, "vm/disk-0/a.qcow2").unwrap_err().kind(), crate::ErrorKind::Conflict);
        remove(&partial).unwrap();
        remove(&partial).unwrap();
        remove(&at(dir.path(), "no/such/folder")).unwrap();
    }

    #[test]
    fn no_path_leaves_the_folder() {
        let dir = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(outside.path(), dir.path().join("link")).unwrap();
        for path in ["../x", "a/../../x", "/etc/x", "", "a//b", "link/x"] {
            assert!(AppendFile::create(at(dir.path(), path)).is_err(), "{path} was let through");
        }
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
    }
}
