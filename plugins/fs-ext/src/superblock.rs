//! The superblock: what kind of file system this is, and where everything lies (ext4 disk layout, "The Super Block").

use tidemark_plugin::disk::CachedDisk;
use tidemark_plugin::fields::{array, byte, le16, le32, slice, text, uuid};
use tidemark_plugin::{Error, Result};

use crate::checksum::{START, crc32c};
use crate::features::Features;

/// Where it lies on the disk.
const AT: u64 = 1024;
/// How long it is.
const LENGTH: usize = 1024;
const MAGIC: u16 = 0xef53;
/// The first number of files in the oldest revision, and the size of an inode there.
const OLD_FIRST_INODE: u32 = 11;
const OLD_INODE_BYTES: u16 = 128;
/// States: unmounted cleanly, and errors found.
const CLEAN: u16 = 1;
const ERRORS: u16 = 2;

/// What is known from the superblock. Numbers of blocks and groups fit the fields they come from.
#[derive(Debug, Clone)]
pub(crate) struct Superblock {
    pub(crate) features: Features,
    pub(crate) label: String,
    pub(crate) uuid: [u8; 16],
    /// A power of two from 1 KiB to 64 KiB.
    pub(crate) block_bytes: u64,
    /// Blocks are given to files in clusters of this size.
    pub(crate) cluster_bytes: u64,
    pub(crate) blocks: u64,
    pub(crate) first_block: u64,
    pub(crate) group_blocks: u64,
    pub(crate) group_inodes: u32,
    pub(crate) inodes: u32,
    /// The first number that is no inode of the file system's own.
    pub(crate) first_inode: u32,
    pub(crate) inode_bytes: usize,
    pub(crate) descriptor_bytes: usize,
    pub(crate) first_meta_group: u64,
    /// The groups with copies of the superblock, where there are only two.
    pub(crate) copies: [u32; 2],
    /// The journal's inode; 0 where it lies on another disk.
    pub(crate) journal: u32,
    /// What all checksums begin with, where metadata has them.
    pub(crate) seed: Option<u32>,
    state: u16,
}

impl Superblock {
    /// Reads it without a look at what it asks for; none where there is none.
    pub(crate) fn probe(disk: &CachedDisk) -> Result<Option<Self>> {
        Ok(bytes(disk)?.and_then(|bytes| Self::parse(&bytes).ok().flatten()))
    }

    /// Reads it for a file system that is to be opened.
    ///
    /// # Errors
    /// Unsupported for what is not read; corrupt for damage.
    pub(crate) fn read(disk: &CachedDisk) -> Result<Self> {
        let none = || Error::corrupt("this is no ext2, ext3 or ext4 file system");
        let bytes = bytes(disk)?.ok_or_else(none)?;
        let superblock = Self::parse(&bytes)?.ok_or_else(none)?;
        superblock.features.check()?;
        if superblock.features.metadata_csum() {
            let sum = crc32c(START, &[slice(&bytes, 0, LENGTH - 4)?]);
            if byte(&bytes, 0x175)? != 1 {
                return Err(Error::unsupported("the file system has checksums of an unknown kind"));
            }
            if sum != le32(&bytes, LENGTH - 4)? {
                return Err(Error::corrupt("the superblock's checksum is wrong"));
            }
        }
        superblock.check()?;
        Ok(superblock)
    }

    fn parse(bytes: &[u8]) -> Result<Option<Self>> {
        let u16_at = |at| le16(bytes, at);
        let u32_at = |at| le32(bytes, at);
        let scale = (u32_at(24)?, u32_at(28)?);
        let known = u16_at(56)? == MAGIC && u32_at(0x4c)? <= 1 && scale.0 <= 6;
        let features = Features::new(u32_at(0x5c)?, u32_at(0x60)?, u32_at(0x64)?);
        if !known || features.journal_device() || u32_at(4)? == 0 || u32_at(40)? == 0 || u32_at(32)? == 0 {
            return Ok(None);
        }
        let old = u32_at(0x4c)? == 0;
        let uuid = array(bytes, 0x68)?;
        let high = if features.wide() { u32_at(0x150)? } else { 0 };
        let block_bytes = 1024 << scale.0;
        let cluster_bytes =
            if features.bigalloc() { 1024_u64.checked_shl(scale.1) } else { Some(block_bytes) };
        let seed = if features.csum_seed() { u32_at(0x270)? } else { crc32c(START, &[&uuid]) };
        Ok(Some(Self {
            features,
            label: text(slice(bytes, 0x78, 16)?),
            uuid,
            block_bytes,
            cluster_bytes: cluster_bytes.unwrap_or(0),
            blocks: (u64::from(high) << 32) | u64::from(u32_at(4)?),
            first_block: u64::from(u32_at(20)?),
            group_blocks: u64::from(u32_at(32)?),
            group_inodes: u32_at(40)?,
            inodes: u32_at(0)?,
            first_inode: if old { OLD_FIRST_INODE } else { u32_at(0x54)? },
            inode_bytes: usize::from(if old { OLD_INODE_BYTES } else { u16_at(0x58)? }),
            descriptor_bytes: usize::from(if features.wide() { u16_at(0xfe)? } else { 32 }),
            first_meta_group: u64::from(u32_at(0x104)?),
            copies: [u32_at(0x24c)?, u32_at(0x250)?],
            journal: u32_at(0xe0)?,
            seed: features.metadata_csum().then_some(seed),
            state: u16_at(0x3a)?,
        }))
    }

    /// Everything that the rest relies on.
    fn check(&self) -> Result<()> {
        let wrong =
            |what: &str, value: u64| Err(Error::corrupt(format!("the superblock has {what} {value}")));
        let block = usize::try_from(self.block_bytes).unwrap_or(0);
        if !(128..=block).contains(&self.inode_bytes) || !self.inode_bytes.is_power_of_two() {
            return wrong("inodes of a size of", self.inode_bytes as u64);
        }
        let wide = if self.features.wide() { 64..=1024 } else { 32..=32 };
        if !wide.contains(&self.descriptor_bytes) || !self.descriptor_bytes.is_power_of_two() {
            return wrong("group descriptors of a size of", self.descriptor_bytes as u64);
        }
        if !(self.block_bytes..=1 << 31).contains(&self.cluster_bytes) {
            return wrong("clusters of a size of", self.cluster_bytes);
        }
        if self.first_block >= self.blocks || self.first_block > 1 {
            return wrong("a first block of", self.first_block);
        }
        if self.blocks.checked_mul(self.block_bytes).is_none() {
            return wrong("as count of blocks", self.blocks);
        }
        if self.groups().checked_mul(u64::from(self.group_inodes)) != Some(u64::from(self.inodes)) {
            return wrong("as count of inodes", u64::from(self.inodes));
        }
        if self.first_inode < OLD_FIRST_INODE {
            return wrong("a first inode of", u64::from(self.first_inode));
        }
        Ok(())
    }

    /// How many groups there are.
    pub(crate) fn groups(&self) -> u64 {
        self.blocks.saturating_sub(self.first_block).div_ceil(self.group_blocks)
    }

    /// The size of the file system; 0 where its numbers are impossible.
    pub(crate) fn total_bytes(&self) -> u64 {
        self.blocks.checked_mul(self.block_bytes).unwrap_or(0)
    }

    pub(crate) fn uuid_text(&self) -> String {
        uuid(self.uuid)
    }

    /// It was unmounted, or never changed since.
    pub(crate) fn clean(&self) -> bool {
        self.state & CLEAN != 0
    }

    /// The guest's kernel found errors in it.
    pub(crate) fn errors(&self) -> bool {
        self.state & ERRORS != 0
    }
}

fn bytes(disk: &CachedDisk) -> Result<Option<[u8; LENGTH]>> {
    let mut bytes = [0; LENGTH];
    if disk.size() < AT + bytes.len() as u64 {
        return Ok(None);
    }
    disk.read(AT, &mut bytes)?;
    Ok(Some(bytes))
}
