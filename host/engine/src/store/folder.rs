//! Carries out a folder target's operations. Paths come from a plugin, so every step goes through directory
//! handles, one component at a time, never following a symbolic link: nothing outside the folder can be reached.
//!
//! Durability: a published file has its bytes synced before its header is written, the header synced
//! before it is renamed, and the folder synced after. Renames never replace another file.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use tidemark_model::ByteLen;

use super::direct::{Batch, DirectWriter};
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
///
/// What is appended may stay in memory until [`seal`](Self::seal): up to one batch, so small files are written there.
#[derive(Debug)]
pub(crate) struct AppendFile {
    file: File,
    /// What is gathered for the next write.
    batch: Batch,
    /// Bytes handed to the writing threads.
    handed: u64,
    direct: Option<DirectWriter>,
    written: u64,
    location: Location,
}

impl AppendFile {
    /// Makes the folders above and the file itself, which must not exist.
    pub(crate) fn create(location: Location) -> Result<Self> {
        let file = create_file(&location)?;
        Ok(Self { file, batch: Batch::default(), handed: 0, direct: None, written: 0, location })
    }

    /// Appends; parts in memory from [`aligned_memory`](super::direct::aligned_memory) are not copied.
    pub(crate) fn append(&mut self, parts: Vec<Bytes>) -> Result<()> {
        for part in parts {
            self.written += part.len() as u64;
            self.append_part(part).map_err(|e| self.failed(e))?;
        }
        Ok(())
    }

    fn append_part(&mut self, mut bytes: Bytes) -> std::io::Result<()> {
        while !bytes.is_empty() {
            self.batch.take(&mut bytes);
            if self.batch.is_full() {
                let (batch, offset) = (self.batch.next(), self.handed);
                self.handed += batch.len() as u64;
                self.writer()?.write(offset, batch)?;
            }
        }
        Ok(())
    }

    /// The writing threads, started with the first full batch.
    fn writer(&mut self) -> std::io::Result<&mut DirectWriter> {
        if self.direct.is_none() {
            let cached = self.file.try_clone()?;
            let direct = open_direct(&self.file).map_or_else(|| cached.try_clone(), Ok)?;
            self.direct = Some(DirectWriter::start(direct, cached)?);
        }
        self.direct.as_mut().ok_or_else(|| std::io::Error::other("no writing thread"))
    }

    /// Writes what is still in memory, syncs it all, then writes `header` over the blank start, then syncs that.
    pub(crate) fn seal(&mut self, header: Option<&Bytes>) -> Result<()> {
        self.drain().map_err(|e| self.failed(e))?;
        self.file.sync_data().map_err(|e| self.failed(e))?;
        if let Some(header) = header {
            self.file.write_all_at(header, 0).map_err(|e| self.failed(e))?;
        }
        self.file.sync_all().map_err(|e| self.failed(e))
    }

    fn drain(&mut self) -> std::io::Result<()> {
        if let Some(mut direct) = self.direct.take() {
            direct.finish()?;
            // Space was allocated ahead.
            self.file.set_len(self.handed)?;
        }
        for piece in self.batch.slices() {
            self.file.write_all_at(piece, self.handed)?;
            self.handed += piece.len() as u64;
        }
        self.batch = Batch::default();
        Ok(())
    }

    pub(crate) fn written(&self) -> ByteLen {
        ByteLen(self.written)
    }

    fn failed(&self, error: std::io::Error) -> Error {
        Error::io(format!("writing {}", self.location.display()), error)
    }
}

/// A second handle of the same file, for direct writes; none where the file system has none.
pub(crate) fn open_direct(file: &File) -> Option<File> {
    // By its handle, not by its name: a name may be given to another file meanwhile.
    let same = format!("/proc/self/fd/{}", file.as_raw_fd());
    let flags = OFlags::WRONLY | OFlags::DIRECT | OFlags::CLOEXEC;
    rustix::fs::open(same, flags, Mode::empty()).ok().map(File::from)
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
    let renamed =
        rustix::fs::renameat_with(&old_parent, old_name, &new_parent, new_name, RenameFlags::NOREPLACE);
    match renamed {
        // NFS and some other file systems cannot rename without replacing; a hard link never replaces either.
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
            rustix::fs::linkat(&old_parent, old_name, &new_parent, new_name, AtFlags::empty())
                .and_then(|()| rustix::fs::unlinkat(&old_parent, old_name, AtFlags::empty()))
        }
        done => done,
    }
    .map_err(|e| Error::io(what(), e.into()))?;
    rustix::fs::fsync(&new_parent).map_err(|e| Error::io(what(), e.into()))
}

/// Gives a file the name of another one in the same granted folder, durably; `false` where it does not exist.
pub(crate) fn replace(from: &Location, to: &Location) -> Result<bool> {
    if from.folder != to.folder {
        return Err(Error::invalid("a file takes a name in its own folder only"));
    }
    let what = || format!("replacing {}", to.display());
    let (old_parent, old_name) = match open_parent(from, false) {
        Ok(found) => found,
        Err(error) if error.kind() == crate::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    let (new_parent, new_name) = open_parent(to, false)?;
    match rustix::fs::renameat(&old_parent, old_name, &new_parent, new_name) {
        Ok(()) => {
            rustix::fs::fsync(&new_parent).map_err(|e| Error::io(what(), e.into()))?;
            rustix::fs::fsync(&old_parent).map_err(|e| Error::io(what(), e.into()))?;
            Ok(true)
        }
        Err(Errno::NOENT) => Ok(false),
        Err(error) => Err(Error::io(what(), error.into())),
    }
}

/// Makes the folder and an empty file in it, durably; both may be there already.
pub(crate) fn mark(folder: &Path, name: &str) -> Result<()> {
    let failed = |e| Error::io(format!("marking {} as a repository", folder.display()), e);
    std::fs::create_dir_all(folder).map_err(failed)?;
    let file =
        std::fs::OpenOptions::new().append(true).create(true).open(folder.join(name)).map_err(failed)?;
    file.sync_all().map_err(failed)?;
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)
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
        Err(Errno::NOENT) => Ok(()),
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

/// How full a file system is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileSystemSpace {
    /// Its size.
    pub total: ByteLen,
    /// What is in use; extents that files share count once.
    pub used: ByteLen,
    /// What an unprivileged writer may still store.
    pub free: ByteLen,
}

/// How full the folder's file system is.
pub(crate) fn space(folder: &Path) -> Result<FileSystemSpace> {
    let stat = rustix::fs::statvfs(folder)
        .map_err(|e| Error::io(format!("asking for the space of {}", folder.display()), e.into()))?;
    let bytes = |blocks: u64| ByteLen(blocks.saturating_mul(stat.f_frsize));
    Ok(FileSystemSpace {
        total: bytes(stat.f_blocks),
        used: bytes(stat.f_blocks.saturating_sub(stat.f_bfree)),
        free: bytes(stat.f_bavail),
    })
}

/// What an unprivileged writer may still store on the folder's file system.
pub(crate) fn free_space(folder: &Path) -> Result<ByteLen> {
    space(folder).map(|space| space.free)
}

/// The handle of the folder that holds the last component, and that component.
fn open_parent(location: &Location, create: bool) -> Result<(OwnedFd, &OsStr)> {
    let failed = |e: Errno| Error::io(format!("opening the folder of {}", location.display()), e.into());
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
                Err(Errno::EXIST) => {}
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
        file.append(vec![Bytes::from_static(&[0; 8]), Bytes::from_static(b"data")]).unwrap();
        file.seal(Some(&Bytes::from_static(b"header!!"))).unwrap();
        assert_eq!(read(&partial, ByteLen(100)).unwrap(), b"header!!data");
        assert!(list(dir.path(), "").unwrap().iter().all(|(path, _)| path.ends_with(".partial")));
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
    fn a_long_file_is_what_was_appended() {
        // On a disk, where direct writes are tried, and in pieces that fit no chunk.
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let partial = at(dir.path(), "long.partial");
        let mut file = AppendFile::create(partial.clone()).unwrap();
        let piece: Vec<u8> = (0..777_777_u32).map(|at| u8::try_from(at % 251).unwrap()).collect();
        for _ in 0..9 {
            file.append(vec![Bytes::from(piece.clone()), Bytes::from_static(b"|")]).unwrap();
        }
        assert_eq!(file.written(), ByteLen(9 * 777_778));
        file.seal(Some(&Bytes::from_static(b"HEAD"))).unwrap();
        let mut expected = [piece.as_slice(), b"|"].concat().repeat(9);
        expected[..4].copy_from_slice(b"HEAD");
        assert!(read(&partial, ByteLen(1 << 30)).unwrap() == expected);
    }

    #[test]
    fn a_replaced_file_stays_good_for_who_reads_it() {
        let dir = tempfile::tempdir().unwrap();
        let (old, new) = (at(dir.path(), "a"), at(dir.path(), "a.new"));
        std::fs::write(dir.path().join("a"), b"old").unwrap();
        std::fs::write(dir.path().join("a.new"), b"new").unwrap();
        let reader = open(&old).unwrap();
        assert!(replace(&new, &old).unwrap());
        assert!(!replace(&new, &old).unwrap(), "doing it twice is no error");
        assert_eq!(read(&old, ByteLen(10)).unwrap(), b"new");
        assert_eq!(std::io::read_to_string(reader).unwrap(), "old");
        let elsewhere = tempfile::tempdir().unwrap();
        assert!(replace(&old, &at(elsewhere.path(), "a")).is_err());
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
