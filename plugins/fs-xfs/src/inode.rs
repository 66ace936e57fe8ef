//! Inodes (XFS Algorithms & Data Structures, chapter "On-disk Inode").

use std::ops::Range;

use tidemark_plugin::attributes::NodeAttributes;
use tidemark_plugin::disk::CachedDisk;
use tidemark_plugin::fields::{array, be16, be32, be64, byte, index};
use tidemark_plugin::guest_filesystem::NodeKind;
use tidemark_plugin::nodes::{FileStat, nanoseconds};
use tidemark_plugin::{Error, Result};

use crate::checksum;
use crate::superblock::Superblock;

pub(crate) const MAGIC: u16 = u16::from_be_bytes(*b"IN");
pub(crate) const CRC_AT: usize = 100;
/// A bit of `di_flags`.
const REALTIME: u16 = 0x1;
/// Bits of `di_flags` with their words, those of xfs_io's chattr.
const MARKS: [(u64, &str); 12] = [
    (0x1, "realtime"),
    (0x8, "immutable"),
    (0x10, "append-only"),
    (0x20, "synchronous"),
    (0x40, "no-access-time"),
    (0x80, "no-dump"),
    (0x100, "realtime-inheriting"),
    (0x200, "project-inheriting"),
    (0x400, "no-symlinks"),
    (0x800, "extent-size-hint"),
    (0x2000, "no-defragmentation"),
    (0x4000, "file-stream"),
];
/// Bits of `di_flags2`.
pub(crate) const LARGE_TIMES: u64 = 0x8;
pub(crate) const LARGE_COUNTS: u64 = 0x10;
/// Large times count nanoseconds from the earliest second that 32 bits can tell.
const LARGE_EPOCH: i64 = i32::MIN as i64;

/// How an inode says where its bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// In the inode.
    Local,
    /// In extents that the inode lists.
    Extents,
    /// In extents that a tree lists.
    Tree,
    /// Nowhere: a device.
    None,
}

/// An inode.
#[derive(Debug, Clone)]
pub(crate) struct Inode {
    pub(crate) number: u64,
    pub(crate) stat: FileStat,
    pub(crate) format: Format,
    /// `di_flags`.
    marks: u16,
    /// How many extents it has.
    pub(crate) extents: u64,
    bytes: Vec<u8>,
    fork: Range<usize>,
}

/// Where the fixed fields of an inode end.
pub(crate) fn core_bytes(superblock: &Superblock) -> usize {
    if superblock.checked { 176 } else { 100 }
}

/// How long the part for data is, in an inode whose fields are right.
pub(crate) fn fork_bytes(superblock: &Superblock, inode: &[u8]) -> Result<usize> {
    let whole = inode.len().saturating_sub(core_bytes(superblock));
    match usize::from(byte(inode, 82)?) * 8 {
        0 => Ok(whole),
        part if part <= whole => Ok(part),
        part => Err(Error::corrupt(format!("an inode with {part} bytes for data, of {whole}"))),
    }
}

impl Inode {
    /// Reads an inode.
    ///
    /// # Errors
    /// Corrupt where it is damaged or unused.
    pub(crate) fn read(disk: &CachedDisk, superblock: &Superblock, number: u64) -> Result<Self> {
        let mut bytes = vec![0; index(superblock.inode_bytes)?];
        disk.read(superblock.inode_at(number)?, &mut bytes)?;
        Self::parse(superblock, number, bytes)
            .map_err(|error| Error { message: format!("inode {number}: {}", error.message), ..error })
    }

    fn parse(superblock: &Superblock, number: u64, inode: Vec<u8>) -> Result<Self> {
        let bytes = inode.as_slice();
        let version = byte(bytes, 4)?;
        if be16(bytes, 0)? != MAGIC || !(if superblock.checked { 3..=3 } else { 1..=2 }).contains(&version) {
            return Err(Error::corrupt("there is no inode"));
        }
        if version == 3 {
            let right = be64(bytes, 152)? == number && array(bytes, 160)? == superblock.metadata_uuid;
            if !checksum::holds(bytes, CRC_AT) || !right {
                return Err(Error::corrupt("its checksum is wrong, or it is another one"));
            }
        }
        let flags = if version == 3 { be64(bytes, 120)? } else { 0 };
        let mode = be16(bytes, 2)?;
        let kind = match mode & 0o170_000 {
            0o100_000 => NodeKind::File,
            0o040_000 => NodeKind::Directory,
            0o120_000 => NodeKind::Symlink,
            0o010_000 | 0o020_000 | 0o060_000 | 0o140_000 => NodeKind::Other,
            0 => return Err(Error::corrupt("it is not in use")),
            _ => return Err(Error::corrupt(format!("a mode of {mode:#o}"))),
        };
        let format = match byte(bytes, 5)? {
            0 if kind == NodeKind::Other => Format::None,
            1 if matches!(kind, NodeKind::Directory | NodeKind::Symlink) => Format::Local,
            2 if kind != NodeKind::Other => Format::Extents,
            3 if kind != NodeKind::Other => Format::Tree,
            format => return Err(Error::corrupt(format!("contents of format {format}"))),
        };
        let size_bytes = be64(bytes, 56)?;
        if i64::try_from(size_bytes).is_err() {
            return Err(Error::corrupt(format!("{size_bytes} bytes")));
        }
        let time = |at| time(bytes, at, flags & LARGE_TIMES != 0);
        let stat = FileStat {
            kind,
            size_bytes,
            modified_ns: time(40)?,
            created_ns: if version == 3 { time(144)? } else { None },
            accessed_ns: time(32)?,
            mode: Some(u32::from(mode & 0o7777)),
            owner: Some(be32(bytes, 8)?.to_string()),
            group: Some(be32(bytes, 12)?.to_string()),
            links: if version == 1 { be16(bytes, 6)?.into() } else { be32(bytes, 16)? },
        };
        let extents = match flags & LARGE_COUNTS {
            0 => be32(bytes, 76)?.into(),
            _ => be64(bytes, 24)?,
        };
        let core = core_bytes(superblock);
        let fork = core..core + fork_bytes(superblock, bytes)?;
        let marks = be16(bytes, 90)?;
        Ok(Self { number, stat, format, marks, extents, bytes: inode, fork })
    }

    /// Its bytes lie on a device for real-time files.
    pub(crate) fn realtime(&self) -> bool {
        self.marks & REALTIME != 0
    }

    pub(crate) fn attributes(&self) -> NodeAttributes {
        NodeAttributes::of(self.marks.into(), &MARKS)
    }

    /// The part that says where its bytes are, or has them.
    pub(crate) fn fork(&self) -> &[u8] {
        self.bytes.get(self.fork.clone()).unwrap_or_default()
    }
}

/// A time, in nanoseconds since 1970.
fn time(bytes: &[u8], at: usize, large: bool) -> Result<Option<i64>> {
    const SECOND: u64 = 1_000_000_000;
    if large {
        let told = be64(bytes, at)?;
        let part = u32::try_from(told % SECOND).unwrap_or_default();
        return Ok(nanoseconds(LARGE_EPOCH.saturating_add_unsigned(told / SECOND), part));
    }
    let [seconds, part] = [be32(bytes, at)?, be32(bytes, at + 4)?];
    Ok(nanoseconds(seconds.cast_signed().into(), part).filter(|_| u64::from(part) < SECOND))
}
