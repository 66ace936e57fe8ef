//! The items of a subvolume's tree that say what files are.

use tidemark_plugin::attributes::NodeAttributes;
use tidemark_plugin::fields::{byte, le16, le32, le64, slice};
use tidemark_plugin::guest_filesystem::NodeKind;
use tidemark_plugin::nodes::{FileStat, nanoseconds};
use tidemark_plugin::{Error, Result};

use crate::compression::Compression;
use crate::tree::Key;

/// Kinds of keys.
pub(crate) const INODE_ITEM: u8 = 1;
pub(crate) const INODE_REF: u8 = 12;
pub(crate) const DIR_INDEX: u8 = 96;
pub(crate) const EXTENT_DATA: u8 = 108;
pub(crate) const ROOT_ITEM: u8 = 132;

/// A file's data have no checksums.
const NO_DATA_SUM: u64 = 1;
/// The kind of an entry that names a directory.
const DIRECTORY: u8 = 2;

/// What an inode says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Inode {
    pub(crate) stat: FileStat,
    /// Its data have checksums.
    pub(crate) summed: bool,
    flags: u64,
}

/// Flags that are the user's, with their words: those of chattr(1), and what only btrfs has.
const MARKS: [(u64, &str); 11] = [
    (0x1, "no-checksums"),
    (0x2, "no-copy-on-write"),
    (0x4, "read-only"),
    (0x8, "no-compression"),
    (0x20, "synchronous"),
    (0x40, "immutable"),
    (0x80, "append-only"),
    (0x100, "no-dump"),
    (0x200, "no-access-time"),
    (0x400, "synchronous-directory"),
    (0x800, "compressed"),
];

impl Inode {
    pub(crate) fn parse(item: &[u8]) -> Result<Self> {
        let mode = le32(item, 52)?;
        let kind = match mode & 0o170_000 {
            0o100_000 => NodeKind::File,
            0o040_000 => NodeKind::Directory,
            0o120_000 => NodeKind::Symlink,
            _ => NodeKind::Other,
        };
        let time = |at| {
            let seconds = le64(item, at)?.cast_signed();
            Ok(nanoseconds(seconds, le32(item, at + 8)?))
        };
        let stat = FileStat {
            kind,
            size_bytes: le64(item, 16)?,
            accessed_ns: time(112)?,
            modified_ns: time(136)?,
            // Older kernels left it out.
            created_ns: time(148)?.filter(|time| *time != 0),
            mode: Some(mode & 0o7777),
            owner: Some(le32(item, 44)?.to_string()),
            group: Some(le32(item, 48)?.to_string()),
            links: le32(item, 40)?,
        };
        let flags = le64(item, 64)?;
        Ok(Self { stat, summed: flags & NO_DATA_SUM == 0, flags })
    }

    pub(crate) fn attributes(&self) -> NodeAttributes {
        NodeAttributes::of(self.flags, &MARKS)
    }
}

/// A name in a directory, and the key of what it leads to: an inode of the same tree, or another tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DirectoryEntry {
    pub(crate) name: Vec<u8>,
    pub(crate) to: Key,
    pub(crate) is_directory: bool,
}

impl DirectoryEntry {
    pub(crate) fn parse(item: &[u8]) -> Result<Self> {
        let name = slice(item, 30, usize::from(le16(item, 27)?))?;
        if name.is_empty()
            || name == b"."
            || name == b".."
            || name.iter().any(|byte| matches!(byte, 0 | b'/'))
        {
            let shown = String::from_utf8_lossy(name);
            return Err(Error::corrupt(format!("a directory has the impossible name '{shown}'")));
        }
        let is_directory = byte(item, 29)? == DIRECTORY;
        Ok(Self { name: name.to_vec(), to: Key::parse(item, 0)?, is_directory })
    }
}

/// A part of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Extent<'a> {
    /// Where in the file it begins.
    pub(crate) start: u64,
    pub(crate) length: u64,
    pub(crate) content: Content<'a>,
}

/// What a part of a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Content<'a> {
    /// Zeros: a hole, or room that was set aside and never written.
    Zeros,
    /// Bytes beside the metadata.
    Inline { bytes: &'a [u8], compression: Option<Compression> },
    /// Bytes at a logical address.
    Plain { logical: u64 },
    /// A part of what comes out of compressed bytes.
    Compressed { packed: Packed, offset: u64 },
}

/// Compressed bytes on the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Packed {
    pub(crate) logical: u64,
    pub(crate) length: u64,
    pub(crate) unpacked: u64,
    pub(crate) compression: Compression,
}

impl<'a> Extent<'a> {
    pub(crate) fn parse(start: u64, item: &'a [u8]) -> Result<Self> {
        let unpacked = le64(item, 8)?;
        if byte(item, 17)? != 0 || le16(item, 18)? != 0 {
            return Err(Error::unsupported("the file is encrypted: only the guest has the key"));
        }
        let compression = Compression::numbered(byte(item, 16)?)?;
        let kind = byte(item, 20)?;
        if kind == 0 {
            let bytes = item.get(21..).unwrap_or_default();
            let length = if compression.is_some() { unpacked } else { bytes.len() as u64 };
            return Self::within(start, length, Content::Inline { bytes, compression });
        }
        if kind > 2 {
            return Err(Error::corrupt(format!("a part of a file is of the unknown kind {kind}")));
        }
        let (logical, packed) = (le64(item, 21)?, le64(item, 29)?);
        let (offset, length) = (le64(item, 37)?, le64(item, 45)?);
        if logical == 0 || kind == 2 {
            return Self::within(start, length, Content::Zeros);
        }
        let whole = if compression.is_some() { unpacked } else { packed };
        if offset.checked_add(length).is_none_or(|end| end > whole) {
            return Err(Error::corrupt("a part of a file is larger than what it is a part of"));
        }
        let content = match compression {
            None => Content::Plain { logical: logical.saturating_add(offset) },
            Some(compression) => Content::Compressed {
                packed: Packed { logical, length: packed, unpacked, compression },
                offset,
            },
        };
        Self::within(start, length, content)
    }

    fn within(start: u64, length: u64, content: Content<'a>) -> Result<Self> {
        match start.checked_add(length) {
            Some(_) => Ok(Self { start, length, content }),
            None => Err(Error::corrupt("a part of a file ends beyond all bounds")),
        }
    }

    /// Where in the file it ends.
    pub(crate) fn end(&self) -> u64 {
        self.start.saturating_add(self.length)
    }
}
