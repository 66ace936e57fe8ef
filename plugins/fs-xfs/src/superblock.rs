//! The superblock: what the file system is made of, and where its blocks and inodes lie (XFS Algorithms & Data Structures,
//! chapter "Allocation Groups", section "Superblocks").

use tidemark_plugin::disk::CachedDisk;
use tidemark_plugin::fields::{array, be16, be32, be64, byte, text, uuid};
use tidemark_plugin::{Error, Result};

use crate::checksum;

const MAGIC: u32 = u32::from_be_bytes(*b"XFSB");
/// The largest sector, and with it the most that the superblock can be.
const MAX_SECTOR: u64 = 32 << 10;
/// The fields end here in version 5.
const LENGTH: usize = 264;
pub(crate) const CRC_AT: usize = 224;

/// Bits of `versionnum`.
const MORE_BITS: u16 = 0x8000;
const DIRECTORIES_2: u16 = 0x2000;
/// Bits of `features2` in version 4.
const FTYPE_4: u32 = 0x200;
/// Bits of `features_incompat` in version 5.
const FTYPE: u32 = 0x1;
const META_UUID: u32 = 0x4;
const NEEDS_REPAIR: u32 = 0x10;
/// File types in directories, sparse inodes, a second UUID, large times, large extent counters, exchanges of ranges, pointers
/// to parents: what they change is read here, or not needed for reading.
const KNOWN: u32 = FTYPE | 0x2 | META_UUID | 0x8 | NEEDS_REPAIR | 0x20 | 0x40 | 0x80;
/// Names of those that are not.
const UNREAD: [(u32, &str); 3] =
    [(0x100, "a tree of metadata directories"), (0x200, "zones"), (0x400, "gaps between zones")];

/// What is known from the superblock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Superblock {
    pub(crate) label: String,
    pub(crate) uuid: [u8; 16],
    /// The one that metadata carries; it stays when an administrator gives the file system another.
    pub(crate) metadata_uuid: [u8; 16],
    /// Whether it is of version 5, whose metadata has checksums.
    pub(crate) checked: bool,
    /// Whether directories tell the types of files.
    pub(crate) file_types: bool,
    pub(crate) block_bytes: u64,
    pub(crate) inode_bytes: u64,
    pub(crate) directory_block_bytes: u64,
    pub(crate) root: u64,
    /// The journal's first block, 0 if it lies on another device, and how many it has.
    pub(crate) journal: (u64, u64),
    blocks: u64,
    group_blocks: u64,
    groups: u64,
    /// Bits of a block's number within its group, and of an inode's within its block.
    group_bits: u32,
    inode_bits: u32,
}

impl Superblock {
    /// Whether a disk begins as one with XFS does.
    pub(crate) fn probe(disk: &CachedDisk) -> Result<bool> {
        let mut bytes = [0; LENGTH];
        if disk.size() < LENGTH as u64 {
            return Ok(false);
        }
        disk.read(0, &mut bytes)?;
        let block_bytes = be32(&bytes, 4)?;
        Ok(be32(&bytes, 0)? == MAGIC
            && block_bytes.is_power_of_two()
            && (512..=64 << 10).contains(&block_bytes))
    }

    /// Reads it.
    ///
    /// # Errors
    /// Corrupt where it is damaged or none; unsupported for what this reader does not know.
    pub(crate) fn read(disk: &CachedDisk) -> Result<Self> {
        if !Self::probe(disk)? {
            return Err(Error::corrupt("this is no XFS file system"));
        }
        let mut bytes = vec![0; usize::try_from(disk.size().min(MAX_SECTOR)).unwrap_or_default()];
        disk.read(0, &mut bytes)?;
        let sector = usize::from(be16(&bytes, 102)?);
        bytes.truncate(sector);
        let version = be16(&bytes, 100)?;
        match version & 0xf {
            5 if !checksum::holds(&bytes, CRC_AT) => {
                return Err(Error::corrupt("the superblock's checksum is wrong"));
            }
            4 | 5 => {}
            old => {
                return Err(Error::unsupported(format!("XFS of version {old} is not read, only of 4 and 5")));
            }
        }
        if byte(&bytes, 126)? != 0 {
            return Err(Error::unsupported(
                "the file system was being made or copied when it was backed up, and is not complete",
            ));
        }
        let checked = version & 0xf == 5;
        let incompatible = if checked { be32(&bytes, 216)? } else { 0 };
        refuse(version, incompatible)?;
        let file_types = match checked {
            true => incompatible & FTYPE != 0,
            false => version & MORE_BITS != 0 && be32(&bytes, 200)? & FTYPE_4 != 0,
        };
        let own = array(&bytes, 32)?;
        let superblock = Self {
            label: text(&array::<12>(&bytes, 108)?),
            uuid: own,
            metadata_uuid: if incompatible & META_UUID == 0 { own } else { array(&bytes, 248)? },
            checked,
            file_types,
            block_bytes: be32(&bytes, 4)?.into(),
            inode_bytes: be16(&bytes, 104)?.into(),
            directory_block_bytes: u64::from(be32(&bytes, 4)?) << u32::from(byte(&bytes, 192)?).min(16),
            root: be64(&bytes, 56)?,
            journal: (be64(&bytes, 48)?, be32(&bytes, 96)?.into()),
            blocks: be64(&bytes, 8)?,
            group_blocks: be32(&bytes, 84)?.into(),
            groups: be32(&bytes, 88)?.into(),
            group_bits: byte(&bytes, 124)?.into(),
            inode_bits: byte(&bytes, 123)?.into(),
        };
        if superblock.is_possible() && sector.is_power_of_two() && sector >= 512 {
            return Ok(superblock);
        }
        Err(Error::corrupt("the superblock's numbers contradict each other"))
    }

    fn is_possible(&self) -> bool {
        let Self { block_bytes, inode_bytes, blocks, group_blocks, groups, .. } = *self;
        let smallest_inode = if self.checked { 512 } else { 256 };
        // The last group may be shorter than the others.
        let most = groups.saturating_mul(group_blocks);
        inode_bytes.is_power_of_two()
            && (smallest_inode..=2048).contains(&inode_bytes)
            && inode_bytes.checked_shl(self.inode_bits) == Some(block_bytes)
            && self.directory_block_bytes <= 64 << 10
            && group_blocks > 0
            && self.group_bits <= 32
            && 1_u64 << self.group_bits >= group_blocks
            && (most.saturating_sub(group_blocks) + 1..=most).contains(&blocks)
            && blocks.checked_mul(block_bytes).is_some()
    }

    pub(crate) fn shown_uuid(&self) -> String {
        uuid(self.uuid)
    }

    pub(crate) fn total_bytes(&self) -> u64 {
        self.blocks.saturating_mul(self.block_bytes)
    }

    /// Where blocks of the file system lie, in bytes.
    ///
    /// # Errors
    /// Corrupt where they are not all in it.
    pub(crate) fn blocks_at(&self, first: u64, count: u64) -> Result<u64> {
        let beyond = || Error::corrupt(format!("{count} blocks at {first} lie beyond the file system"));
        let group = first >> self.group_bits;
        let within = first & ((1 << self.group_bits) - 1);
        let end = within.checked_add(count).filter(|end| *end <= self.group_blocks);
        let end =
            end.filter(|_| group < self.groups).and_then(|end| (group * self.group_blocks).checked_add(end));
        let end = end.filter(|end| *end <= self.blocks).ok_or_else(beyond)?;
        Ok((end - count) * self.block_bytes)
    }

    /// Where blocks of one group lie, in bytes.
    pub(crate) fn group_blocks_at(&self, group: u32, block: u32, count: u64) -> Result<u64> {
        let within = u64::from(block);
        if within >= self.group_blocks {
            return Err(Error::corrupt(format!("block {block} lies beyond its allocation group")));
        }
        self.blocks_at(u64::from(group) << self.group_bits | within, count)
    }

    /// Where an inode lies, in bytes.
    pub(crate) fn inode_at(&self, inode: u64) -> Result<u64> {
        let block = self.blocks_at(inode >> self.inode_bits, 1);
        let block =
            block.map_err(|_| Error::corrupt(format!("inode {inode} lies beyond the file system")))?;
        Ok(block + (inode & ((1 << self.inode_bits) - 1)) * self.inode_bytes)
    }
}

fn refuse(version: u16, incompatible: u32) -> Result<()> {
    if version & DIRECTORIES_2 == 0 {
        return Err(Error::unsupported("directories of version 1 are not read"));
    }
    if incompatible & NEEDS_REPAIR != 0 {
        return Err(Error::unsupported(
            "the file system is marked as in need of repair: run xfs_repair in the guest, or on a restored disk",
        ));
    }
    let unknown = incompatible & !KNOWN;
    if unknown == 0 {
        return Ok(());
    }
    let mut words: Vec<String> =
        UNREAD.iter().filter(|(bit, _)| unknown & bit != 0).map(|(_, name)| (*name).to_owned()).collect();
    let nameless = UNREAD.iter().fold(unknown, |left, (bit, _)| left & !bit);
    if nameless != 0 {
        words.push(format!("feature bits {nameless:#x}"));
    }
    Err(Error::unsupported(format!(
        "the file system has what this reader does not know: {}",
        words.join(", ")
    )))
}
