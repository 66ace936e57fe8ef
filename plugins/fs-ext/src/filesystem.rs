//! The file system as it lies on the disk: blocks, the groups they are in, and the inodes of the groups (ext4 disk layout,
//! "Block Group Descriptors", "Finding an Inode").

use std::cell::Cell;

use tidemark_plugin::disk::CachedDisk;
use tidemark_plugin::fields::{array, index, le16, le32, slice};
use tidemark_plugin::{Error, Result};

use crate::checksum::{crc16, crc32c};
use crate::inode::Inode;
use crate::superblock::Superblock;

/// The group has inodes that were never written.
const INODES_UNUSED: u16 = 1;
/// Where a descriptor has its checksum.
const SUM_AT: usize = 0x1e;

/// An ext2, ext3 or ext4 on a disk.
#[derive(Debug)]
pub(crate) struct FileSystem {
    pub(crate) disk: CachedDisk,
    pub(crate) superblock: Superblock,
    /// The group that was looked up last, and where its inodes lie.
    group: Cell<Option<(u64, u64)>>,
}

impl FileSystem {
    pub(crate) fn new(disk: CachedDisk, superblock: Superblock) -> Self {
        Self { disk, superblock, group: Cell::new(None) }
    }

    /// Where `count` blocks lie on the disk, in bytes.
    ///
    /// # Errors
    /// Corrupt for blocks that no file can have.
    pub(crate) fn place(&self, block: u64, count: u64) -> Result<u64> {
        let Superblock { first_block, blocks, block_bytes, .. } = self.superblock;
        let end = block.checked_add(count).filter(|end| *end <= blocks);
        if end.is_none() || block == 0 || block < first_block {
            return Err(Error::corrupt(format!(
                "{count} blocks at {block} of {blocks} cannot be part of a file"
            )));
        }
        block.checked_mul(block_bytes).ok_or_else(|| Error::corrupt("a block beyond all bounds"))
    }

    /// A block of metadata.
    pub(crate) fn block(&self, block: u64) -> Result<Vec<u8>> {
        let mut bytes = vec![0; index(self.superblock.block_bytes)?];
        self.disk.read(self.place(block, 1)?, &mut bytes)?;
        Ok(bytes)
    }

    /// What has a number, and is in use.
    ///
    /// # Errors
    /// Not found for a number that cannot be; corrupt for damage.
    pub(crate) fn inode(&self, number: u32) -> Result<Inode> {
        let Superblock { group_inodes, inodes, inode_bytes, .. } = self.superblock;
        let none = || Error::not_found(format!("there is no inode {number}"));
        let from_zero = number.checked_sub(1).filter(|_| number <= inodes).ok_or_else(none)?;
        let table = self.inode_table(u64::from(from_zero / group_inodes))?;
        let within = u64::from(from_zero % group_inodes) * inode_bytes as u64;
        let mut bytes = vec![0; inode_bytes];
        let at = table.checked_add(within).ok_or_else(|| Error::corrupt("an inode beyond all bounds"))?;
        self.disk.read(at, &mut bytes)?;
        Inode::parse(&self.superblock, number, bytes)
    }

    /// Where the inodes of a group lie, in bytes.
    fn inode_table(&self, group: u64) -> Result<u64> {
        if let Some((_, table)) = self.group.get().filter(|(known, _)| *known == group) {
            return Ok(table);
        }
        let features = self.superblock.features;
        let mut descriptor = vec![0; self.superblock.descriptor_bytes];
        self.disk.read(self.descriptor_place(group)?, &mut descriptor)?;
        self.check(group, &descriptor)?;
        let summed = features.metadata_csum() || features.gdt_csum();
        if summed && le16(&descriptor, 0x12)? & INODES_UNUSED != 0 {
            return Err(Error::corrupt(format!("an inode of group {group}, of which none was ever used")));
        }
        let high = if descriptor.len() >= 64 { le32(&descriptor, 0x28)? } else { 0 };
        let block = (u64::from(high) << 32) | u64::from(le32(&descriptor, 8)?);
        let bytes = u64::from(self.superblock.group_inodes).checked_mul(self.superblock.inode_bytes as u64);
        let blocks = bytes.unwrap_or(u64::MAX).div_ceil(self.superblock.block_bytes);
        let table = self.place(block, blocks).map_err(|error| error.during("finding inodes"))?;
        self.group.set(Some((group, table)));
        Ok(table)
    }

    /// Where a group's descriptor lies: with the others behind the superblock, or with a few in the first of their groups.
    fn descriptor_place(&self, group: u64) -> Result<u64> {
        let superblock = &self.superblock;
        let per_block = superblock.block_bytes / superblock.descriptor_bytes as u64;
        let (number, within) = (group / per_block, group % per_block * superblock.descriptor_bytes as u64);
        let block = if superblock.features.meta_bg() && number >= superblock.first_meta_group {
            let first = number.checked_mul(per_block);
            let start = first.and_then(|first| first.checked_mul(superblock.group_blocks));
            let start = start.and_then(|start| start.checked_add(superblock.first_block));
            let start = start.ok_or_else(|| Error::corrupt("a group beyond all bounds"))?;
            // Where a block is as large as the superblock, and there is none before it, the copy in group 0 takes two.
            let second = superblock.block_bytes == 1024 && number == 0 && superblock.first_block == 0;
            start + u64::from(self.has_superblock(first.unwrap_or(0))) + u64::from(second)
        } else {
            u64::from(superblock.block_bytes == 1024) + 1 + number
        };
        Ok(self.place(block, 1)? + within)
    }

    /// Whether a group begins with a copy of the superblock.
    fn has_superblock(&self, group: u64) -> bool {
        let features = self.superblock.features;
        let power_of = |base: u64| {
            let mut power = base;
            while power < group {
                power = power.saturating_mul(base);
            }
            power == group
        };
        match group {
            0 => true,
            _ if features.sparse_super2() => {
                self.superblock.copies.iter().any(|copy| u64::from(*copy) == group)
            }
            1 => true,
            _ => !features.sparse_super() || [3, 5, 7].into_iter().any(power_of),
        }
    }

    fn check(&self, group: u64, descriptor: &[u8]) -> Result<()> {
        let number = u32::try_from(group).unwrap_or(u32::MAX).to_le_bytes();
        let before = slice(descriptor, 0, SUM_AT)?;
        let after = descriptor.get(SUM_AT + 2..).unwrap_or_default();
        let sum = if let Some(seed) = self.superblock.seed {
            crc32c(seed, &[&number, before, &[0; 2], after]).to_le_bytes()
        } else if self.superblock.features.gdt_csum() {
            let [low, high] = crc16(&[&self.superblock.uuid, &number, before, after]).to_le_bytes();
            [low, high, 0, 0]
        } else {
            return Ok(());
        };
        if sum.first_chunk() == Some(&array::<2>(descriptor, SUM_AT)?) {
            return Ok(());
        }
        Err(Error::corrupt(format!("the checksum of the descriptor of group {group} is wrong")))
    }
}
