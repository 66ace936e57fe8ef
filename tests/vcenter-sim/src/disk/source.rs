//! Takes a raw disk image over into the state folder: the image is read, never written, and its holes stay holes.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{SeekFrom, ioctl_ficlone, seek};
use rustix::io::Errno;

use super::pool::BLOCK_BYTES;

/// A copied image: the file, its length in bytes, and which of its blocks hold data.
pub(super) struct Copied {
    pub(super) file: File,
    pub(super) capacity: u64,
    pub(super) allocated: Vec<bool>,
}

/// Copies `source` to `target`, sharing its extents where the file system can.
pub(super) fn copy(source: &Path, target: &Path) -> io::Result<Copied> {
    let from = File::open(source)?;
    let capacity = from.metadata()?.len();
    if capacity == 0 || !capacity.is_multiple_of(512) {
        return Err(io::Error::new(ErrorKind::InvalidInput, "a disk is a whole number of 512-byte sectors"));
    }
    let to = File::options().read(true).write(true).create(true).truncate(true).open(target)?;
    let cloned = ioctl_ficlone(&to, &from).is_ok();
    if !cloned {
        to.set_len(capacity)?;
    }
    let blocks = usize::try_from(capacity.div_ceil(BLOCK_BYTES)).map_err(io::Error::other)?;
    let mut allocated = vec![false; blocks];
    let mut position = 0;
    while let Some((start, end)) = next_data(&from, position, capacity)? {
        if !cloned {
            copy_range(&from, &to, start, end)?;
        }
        for block in start / BLOCK_BYTES..end.div_ceil(BLOCK_BYTES) {
            allocated[usize::try_from(block).map_err(io::Error::other)?] = true;
        }
        position = end;
    }
    Ok(Copied { file: to, capacity, allocated })
}

/// The next run of data at or after `position`.
fn next_data(file: &File, position: u64, capacity: u64) -> io::Result<Option<(u64, u64)>> {
    let start = match seek(file, SeekFrom::Data(position)) {
        Ok(start) if start < capacity => start,
        Ok(_) | Err(Errno::NXIO) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let end = seek(file, SeekFrom::Hole(start))?.min(capacity);
    Ok(Some((start, end)))
}

fn copy_range(from: &File, to: &File, start: u64, end: u64) -> io::Result<()> {
    let mut buffer = vec![0; 1 << 20];
    let mut position = start;
    while position < end {
        let wanted = usize::try_from((end - position).min(1 << 20)).map_err(io::Error::other)?;
        from.read_exact_at(&mut buffer[..wanted], position)?;
        to.write_all_at(&buffer[..wanted], position)?;
        position += wanted as u64;
    }
    Ok(())
}
