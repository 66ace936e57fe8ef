//! An object that takes over ranges of other files: on a file system that can share extents (XFS, Btrfs) they cost
//! no space. Written through the page cache, as what is new in it is small.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use tidemark_model::{ByteLen, HostOffset};

use super::folder::{Location, create_file};
use super::{SealedObject, SpaceWatch};
use crate::error::{Error, Result};
use crate::throttle::Throttle;

/// What the trial copies: a block of every known file system.
const TRIAL: usize = 64 << 10;

/// An object under construction.
#[derive(Debug)]
pub(crate) struct SharedObject {
    key: String,
    token: String,
    location: Location,
    file: File,
    written: u64,
    space: SpaceWatch,
    throttle: Throttle,
}

impl SharedObject {
    pub(super) fn create(
        key: String,
        token: String,
        location: Location,
        watched: Option<PathBuf>,
        throttle: Throttle,
    ) -> Result<Self> {
        let file = create_file(&location)?;
        Ok(Self { key, token, location, file, written: 0, space: SpaceWatch::new(watched), throttle })
    }

    /// A file outside any repository.
    pub(crate) fn local(location: Location) -> Result<Self> {
        let (key, watched) = (location.path.clone(), Some(location.folder.clone()));
        Self::create(key, String::new(), location, watched, Throttle::default())
    }

    /// Appends, not faster than the repository may; blocks. Ranges that are shared are not written, so not bounded.
    pub(crate) fn append(&mut self, bytes: &Bytes) -> Result<()> {
        self.throttle.take(bytes.len() as u64)?;
        self.file.write_all_at(bytes, self.written).map_err(|e| self.failed(e))?;
        self.grown(bytes.len() as u64)
    }

    /// Appends a range of another file, on the same block grid in both; blocks. The file system shares the extents
    /// where it can and copies where it cannot.
    pub(crate) fn append_range(&mut self, source: &File, host: HostOffset, length: ByteLen) -> Result<()> {
        let (mut from, mut to) = (host.0, self.written);
        let end = host.0 + length.0;
        while from < end {
            let left = usize::try_from(end - from).unwrap_or(usize::MAX);
            match rustix::fs::copy_file_range(source, Some(&mut from), &self.file, Some(&mut to), left) {
                Ok(0) => return Err(self.failed(io::ErrorKind::UnexpectedEof.into())),
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(self.failed(error.into())),
            }
        }
        self.grown(length.0)
    }

    /// Makes all of it durable, the header over its blank start last; blocks.
    pub(crate) fn seal(self, header: &Bytes) -> Result<SealedObject> {
        let durable = || {
            self.file.sync_data()?;
            self.file.write_all_at(header, 0)?;
            self.file.sync_all()
        };
        durable().map_err(|e| self.failed(e))?;
        let Self { key, token, written, .. } = self;
        Ok(SealedObject { key, token, size: ByteLen(written) })
    }

    fn grown(&mut self, by: u64) -> Result<()> {
        self.written += by;
        self.space.grown_to(ByteLen(self.written))
    }

    fn failed(&self, error: io::Error) -> Error {
        Error::io(format!("writing {}", self.location.display()), error)
    }
}

/// Whether files in this folder can share extents. Any doubt is a no.
pub(crate) fn can_share(folder: &Path) -> bool {
    let trial = || -> io::Result<()> {
        let (source, target) = (nameless(folder)?, nameless(folder)?);
        source.write_all_at(&[1; TRIAL], 0)?;
        rustix::fs::ioctl_ficlone(&target, &source)?;
        Ok(())
    };
    trial().is_ok()
}

/// A file without a name, gone when it is closed.
pub(crate) fn nameless(folder: &Path) -> io::Result<File> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    Ok(rustix::fs::open(folder, flags, Mode::RUSR | Mode::WUSR)?.into())
}
