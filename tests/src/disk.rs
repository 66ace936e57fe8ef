//! Raw disks for the simulator: made here, changed here and in the simulator alike, so that what a restore must
//! give back is known without asking the product.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

/// How much is compared or copied at a time.
const STRIDE: usize = 1 << 20;

/// What a run of a disk is filled with.
#[derive(Debug, Clone, Copy)]
pub enum Fill {
    /// Bytes that do not compress.
    Noise(u64),
    /// Text that compresses well.
    Text(u64),
}

/// `length` bytes of a fill; the same fill gives the same bytes.
#[must_use]
pub fn bytes(fill: Fill, length: usize) -> Vec<u8> {
    match fill {
        Fill::Noise(seed) => {
            let mut content = vec![0; length];
            SmallRng::seed_from_u64(seed).fill_bytes(&mut content);
            content
        }
        Fill::Text(seed) => {
            let line = format!("record {seed:012}: what a guest writes is mostly the same again and again\n");
            line.as_bytes().iter().copied().cycle().take(length).collect()
        }
    }
}

/// The model of one disk: a raw file that always holds what the guest sees.
#[derive(Debug, Clone)]
pub struct RawDisk {
    path: PathBuf,
    size: u64,
}

impl RawDisk {
    /// A disk of zeros, sparse.
    ///
    /// # Errors
    /// Where the file cannot be made.
    pub fn create(path: &Path, size: u64) -> Result<Self> {
        File::create(path).and_then(|file| file.set_len(size)).with_context(|| path.display().to_string())?;
        Ok(Self { path: path.to_path_buf(), size })
    }

    /// A disk that exists.
    ///
    /// # Errors
    /// Where it does not.
    pub fn open(path: &Path) -> Result<Self> {
        let size = fs::metadata(path).with_context(|| path.display().to_string())?.len();
        Ok(Self { path: path.to_path_buf(), size })
    }

    /// Its file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its capacity in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Writes inside the disk.
    ///
    /// # Errors
    /// Where the write would grow it or fails.
    pub fn write(&self, offset: u64, content: &[u8]) -> Result<()> {
        let end = offset.checked_add(content.len() as u64);
        ensure!(end.is_some_and(|end| end <= self.size), "a write beyond the end of {}", self.path.display());
        File::options().write(true).open(&self.path)?.write_all_at(content, offset)?;
        Ok(())
    }

    /// A sparse copy: how the disk was at this moment.
    ///
    /// # Errors
    /// Where the copy fails.
    pub fn freeze(&self, path: &Path) -> Result<Self> {
        copy_sparse(&self.path, path, 0)?;
        File::options().write(true).open(path)?.set_len(self.size)?;
        Self::open(path)
    }
}

/// Copies the non-zero strides of `source` into `target` from `offset` on; `target` is made where it is missing.
///
/// # Errors
/// Where either file fails.
pub fn copy_sparse(source: &Path, target: &Path, offset: u64) -> Result<()> {
    let mut from = File::open(source).with_context(|| source.display().to_string())?;
    let to = File::options().create(true).truncate(false).write(true).open(target);
    let mut to = to.with_context(|| target.display().to_string())?;
    let (mut buffer, mut position) = (vec![0; 64 << 10], offset);
    loop {
        let count = from.read(&mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        if buffer[..count].iter().any(|&byte| byte != 0) {
            to.seek(SeekFrom::Start(position))?;
            to.write_all(&buffer[..count])?;
        }
        position += count as u64;
    }
}

/// Checks that two raw files hold the same bytes, sizes included.
///
/// # Errors
/// Where and how they differ.
pub fn identical(expected: &Path, actual: &Path) -> Result<()> {
    let (mut left, mut right) = (open(expected)?, open(actual)?);
    let (wanted, got) = (left.metadata()?.len(), right.metadata()?.len());
    ensure!(wanted == got, "{} has {got} bytes instead of {wanted}", actual.display());
    let (mut a, mut b) = (vec![0; STRIDE], vec![0; STRIDE]);
    let mut position = 0;
    while position < wanted {
        let count = usize::try_from((wanted - position).min(STRIDE as u64))?;
        left.read_exact(&mut a[..count])?;
        right.read_exact(&mut b[..count])?;
        if let Some(at) = a[..count].iter().zip(&b[..count]).position(|(x, y)| x != y) {
            bail!(
                "{} differs from {} at byte {}",
                actual.display(),
                expected.display(),
                position + at as u64
            );
        }
        position += count as u64;
    }
    Ok(())
}

fn open(path: &Path) -> Result<File> {
    File::open(path).with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_flipped_byte_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let disk = RawDisk::create(&folder.path().join("a"), 3 << 20).unwrap();
        disk.write(1 << 20, &bytes(Fill::Noise(1), 4096)).unwrap();
        let copy = disk.freeze(&folder.path().join("b")).unwrap();
        identical(disk.path(), copy.path()).unwrap();
        copy.write((3 << 20) - 1, &[1]).unwrap();
        let error = identical(disk.path(), copy.path()).unwrap_err();
        assert!(error.to_string().contains("at byte 3145727"), "{error}");
        assert!(disk.write((3 << 20) - 1, &[1, 1]).is_err());
    }
}
