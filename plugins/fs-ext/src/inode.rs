//! An inode: everything about a file but its name (ext4 disk layout, "Index Nodes").

use tidemark_plugin::attributes::NodeAttributes;
use tidemark_plugin::fields::{byte, le16, le32, slice};
use tidemark_plugin::guest_filesystem::NodeKind;
use tidemark_plugin::nodes::{FileStat, nanoseconds};
use tidemark_plugin::{Error, Result};

use crate::checksum::crc32c;
use crate::superblock::Superblock;

/// The size of an inode's old part, which all have.
const OLD_PART: usize = 128;
const SUM_LOW: usize = 0x7c;
const SUM_HIGH: usize = 0x82;
// Flags.
const ENCRYPTED: u32 = 0x800;
const INDEXED: u32 = 0x1000;
const COUNTS_BLOCKS: u32 = 0x4_0000;
const EXTENTS: u32 = 0x8_0000;
const HOLDS_ATTRIBUTE: u32 = 0x20_0000;
const INLINE: u32 = 0x1000_0000;
/// Flags that are the user's, with their words: those of chattr(1).
const MARKS: [(u64, &str); 19] = [
    (0x1, "secure-deletion"),
    (0x2, "undeletable"),
    (0x4, "compressed"),
    (0x8, "synchronous"),
    (0x10, "immutable"),
    (0x20, "append-only"),
    (0x40, "no-dump"),
    (0x80, "no-access-time"),
    (0x400, "no-compression"),
    (0x800, "encrypted"),
    (0x4000, "data-journaling"),
    (0x8000, "no-tail-merging"),
    (0x1_0000, "synchronous-directory"),
    (0x2_0000, "top-of-directory-tree"),
    (0x10_0000, "verity"),
    (0x80_0000, "no-copy-on-write"),
    (0x200_0000, "dax"),
    (0x2000_0000, "project-inheriting"),
    (0x4000_0000, "case-insensitive"),
];

/// An inode that is in use, and whose checksum is right.
#[derive(Debug)]
pub(crate) struct Inode {
    pub(crate) number: u32,
    pub(crate) kind: NodeKind,
    pub(crate) size: u64,
    /// What the checksums of its blocks begin with, where they have them.
    pub(crate) seed: Option<u32>,
    flags: u32,
    bytes: Vec<u8>,
    /// How many bytes after the old part are fields; attributes follow.
    extra: usize,
    /// It has blocks of its own.
    has_blocks: bool,
}

impl Inode {
    pub(crate) fn parse(superblock: &Superblock, number: u32, mut bytes: Vec<u8>) -> Result<Self> {
        let extra = if bytes.len() > OLD_PART { usize::from(le16(&bytes, 0x80)?) } else { 0 };
        let seed = superblock
            .seed
            .map(|seed| crc32c(seed, &[&number.to_le_bytes(), bytes.get(0x64..0x68).unwrap_or_default()]));
        if let Some(seed) = seed {
            check(seed, &mut bytes, extra)
                .map_err(|error| error.during(&format!("reading inode {number}")))?;
        }
        let (mode, links) = (le16(&bytes, 0)?, le16(&bytes, 0x1a)?);
        if mode == 0 || links == 0 {
            return Err(Error::corrupt(format!("inode {number} is not in use, but is asked for")));
        }
        if extra > bytes.len() - OLD_PART || !extra.is_multiple_of(4) {
            return Err(Error::corrupt(format!("inode {number} has {extra} bytes of more fields")));
        }
        let kind = match mode & 0xf000 {
            0x4000 => NodeKind::Directory,
            0x8000 => NodeKind::File,
            0xa000 => NodeKind::Symlink,
            _ => NodeKind::Other,
        };
        let flags = le32(&bytes, 0x20)?;
        let large =
            kind == NodeKind::File || superblock.features.large_directory() && kind == NodeKind::Directory;
        let high = if large { le32(&bytes, 0x6c)? } else { 0 };
        // A block with attributes counts, but holds nothing of the file.
        let attributes = le32(&bytes, 0x68)? != 0 || le16(&bytes, 0x76)? != 0;
        let unit = if flags & COUNTS_BLOCKS != 0 { superblock.block_bytes } else { 512 };
        let of_attributes = if attributes { superblock.cluster_bytes / unit } else { 0 };
        let counted = (u64::from(le16(&bytes, 0x74)?) << 32) | u64::from(le32(&bytes, 0x1c)?);
        Ok(Self {
            number,
            kind,
            size: (u64::from(high) << 32) | u64::from(le32(&bytes, 4)?),
            seed,
            flags,
            extra,
            has_blocks: counted != of_attributes,
            bytes,
        })
    }

    /// What people see of it.
    pub(crate) fn stat(&self) -> Result<FileStat> {
        let bytes = &self.bytes;
        let halves = |low, high| Ok((u32::from(le16(bytes, high)?) << 16) | u32::from(le16(bytes, low)?));
        let (user, group) = (halves(0x02, 0x78)?, halves(0x18, 0x7a)?);
        Ok(FileStat {
            kind: self.kind,
            size_bytes: self.size,
            modified_ns: self.time(0x10, 0x88)?,
            created_ns: if self.has_field(0x90) { self.time(0x90, 0x94)? } else { None },
            accessed_ns: self.time(0x08, 0x8c)?,
            mode: Some(u32::from(le16(bytes, 0)? & 0o7777)),
            owner: Some(user.to_string()),
            group: Some(group.to_string()),
            links: u32::from(le16(bytes, 0x1a)?),
        })
    }

    /// A time in nanoseconds since 1970: 32 bits with a sign, and where there is room, two more bits and the nanoseconds.
    fn time(&self, at: usize, more_at: usize) -> Result<Option<i64>> {
        let seconds = i64::from(le32(&self.bytes, at)?.cast_signed());
        let more = if self.has_field(more_at) { le32(&self.bytes, more_at)? } else { 0 };
        Ok(nanoseconds(seconds + (i64::from(more & 3) << 32), more >> 2))
    }

    /// Whether there is room for a field of four bytes.
    fn has_field(&self, at: usize) -> bool {
        at + 4 <= OLD_PART + self.extra && self.bytes.len() > OLD_PART
    }

    /// Where its blocks are told, or what it holds: 60 bytes.
    pub(crate) fn map(&self) -> Result<&[u8]> {
        slice(&self.bytes, 0x28, 60)
    }

    /// A named attribute within the inode: of the system's own, by its name without `system.`; none where there is none.
    /// (ext4 disk layout, "Extended Attributes".)
    pub(crate) fn system_attribute(&self, wanted: &[u8]) -> Result<Option<&[u8]>> {
        const MAGIC: u32 = 0xea02_0000;
        const SYSTEM: u8 = 7;
        let area = self.bytes.get(OLD_PART + self.extra..).unwrap_or_default();
        if area.len() < 8 || le32(area, 0)? != MAGIC {
            return Ok(None);
        }
        let area = slice(area, 4, area.len() - 4)?;
        let mut at = 0;
        while at + 4 <= area.len() && le32(area, at)? != 0 {
            let length = usize::from(byte(area, at)?);
            let name = slice(area, at + 16, length)?;
            if byte(area, at + 1)? == SYSTEM && name == wanted {
                if le32(area, at + 4)? != 0 {
                    return Err(Error::unsupported("what the file holds lies in the inode of an attribute"));
                }
                let size = usize::try_from(le32(area, at + 8)?).unwrap_or(usize::MAX);
                return slice(area, usize::from(le16(area, at + 2)?), size).map(Some);
            }
            at += (16 + length).next_multiple_of(4);
        }
        Ok(None)
    }

    pub(crate) fn attributes(&self) -> NodeAttributes {
        NodeAttributes::of(self.flags.into(), &MARKS)
    }

    /// What it holds lies in it.
    pub(crate) fn inline(&self) -> bool {
        self.flags & INLINE != 0
    }

    pub(crate) fn extents(&self) -> bool {
        self.flags & EXTENTS != 0
    }

    /// A directory with an index of its names.
    pub(crate) fn indexed(&self) -> bool {
        self.flags & INDEXED != 0
    }

    /// It is the value of an attribute, which has no name.
    pub(crate) fn holds_attribute(&self) -> bool {
        self.flags & HOLDS_ATTRIBUTE != 0
    }

    /// A link whose target lies in the inode.
    pub(crate) fn fast_link(&self) -> bool {
        self.kind == NodeKind::Symlink && !self.has_blocks && !self.inline()
    }

    /// Refuses what only the guest can read.
    pub(crate) fn readable(&self) -> Result<()> {
        if self.flags & ENCRYPTED == 0 {
            return Ok(());
        }
        let what = match self.kind {
            NodeKind::Directory => "the names in this folder are",
            NodeKind::Symlink => "the link is",
            _ => "the file is",
        };
        Err(Error::unsupported(format!("{what} encrypted (fscrypt): only the guest has the key")))
    }
}

/// The checksum has 16 bits in the old part, and 16 more where there is room. It is of the inode without it, which is what is
/// left of `bytes`.
fn check(seed: u32, bytes: &mut [u8], extra: usize) -> Result<()> {
    let mut wanted = u32::from(take(bytes, SUM_LOW)?);
    let mut mask = 0xffff;
    if bytes.len() > OLD_PART && OLD_PART + extra >= SUM_HIGH + 2 {
        wanted |= u32::from(take(bytes, SUM_HIGH)?) << 16;
        mask = u32::MAX;
    }
    if crc32c(seed, &[bytes]) & mask == wanted {
        Ok(())
    } else {
        Err(Error::corrupt("its checksum is wrong"))
    }
}

/// A number of 16 bits, of which zeros are left.
fn take(bytes: &mut [u8], at: usize) -> Result<u16> {
    let found = le16(bytes, at)?;
    bytes.iter_mut().skip(at).take(2).for_each(|byte| *byte = 0);
    Ok(found)
}
