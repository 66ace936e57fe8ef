//! The few fields of the superblock that people ask for, and by which ext2, ext3 and ext4 are told apart (ext4 disk layout,
//! section "The Super Block").

use tidemark_plugin::Result;
use tidemark_plugin::disk::CachedDisk;

const AT: u64 = 1024;
const LENGTH: usize = 1024;
const MAGIC: u16 = 0xef53;
/// Features of the three kinds.
const HAS_JOURNAL: u32 = 0x4;
const NEEDS_RECOVERY: u32 = 0x4;
/// Extents, 64 bit, flexible groups, inline data, large directories, encryption, checksum seeds, meta-data checksums in
/// `incompatible`: none of them is in ext3.
const EXT4_INCOMPATIBLE: u32 = 0x40 | 0x80 | 0x200 | 0x8000 | 0x4000 | 0x1_0000 | 0x2000;
/// Huge files, checksums of groups, many subdirectories, large inodes, checksums of metadata.
const EXT4_READ_ONLY: u32 = 0x8 | 0x10 | 0x20 | 0x40 | 0x400;

/// What is known from the superblock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Superblock {
    pub(crate) label: String,
    pub(crate) uuid: String,
    pub(crate) total_bytes: u64,
    pub(crate) needs_recovery: bool,
    compatible: u32,
    incompatible: u32,
    read_only: u32,
}

impl Superblock {
    /// Reads it; none where there is none.
    pub(crate) fn read(disk: &CachedDisk) -> Result<Option<Self>> {
        let mut bytes = [0; LENGTH];
        if disk.size() < AT + bytes.len() as u64 {
            return Ok(None);
        }
        disk.read(AT, &mut bytes)?;
        Ok(Self::parse(&bytes))
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let u16_at =
            |at: usize| bytes.get(at..).and_then(|rest| rest.first_chunk()).map(|b| u16::from_le_bytes(*b));
        let u32_at =
            |at: usize| bytes.get(at..).and_then(|rest| rest.first_chunk()).map(|b| u32::from_le_bytes(*b));
        if u16_at(56)? != MAGIC {
            return None;
        }
        let (compatible, incompatible, read_only) = (u32_at(92)?, u32_at(96)?, u32_at(100)?);
        let high = if incompatible & 0x80 == 0 { 0 } else { u32_at(336)? };
        let blocks = (u64::from(high) << 32) | u64::from(u32_at(4)?);
        let block_bytes = 1024_u64.checked_shl(u32_at(24)?).filter(|bytes| *bytes <= 64 << 10)?;
        let name = bytes.get(120..136)?.split(|byte| *byte == 0).next().unwrap_or_default();
        Some(Self {
            label: String::from_utf8_lossy(name).into_owned(),
            uuid: uuid(bytes.get(104..120)?),
            total_bytes: blocks.checked_mul(block_bytes)?,
            needs_recovery: compatible & HAS_JOURNAL != 0 && incompatible & NEEDS_RECOVERY != 0,
            compatible,
            incompatible,
            read_only,
        })
    }

    /// What its maker would call it.
    pub(crate) fn name(&self) -> &'static str {
        if self.incompatible & EXT4_INCOMPATIBLE != 0 || self.read_only & EXT4_READ_ONLY != 0 {
            "ext4"
        } else if self.compatible & HAS_JOURNAL != 0 {
            "ext3"
        } else {
            "ext2"
        }
    }
}

fn uuid(bytes: &[u8]) -> String {
    let hex: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let part = |from: usize, to: usize| hex.get(from..to).map(<[String]>::concat).unwrap_or_default();
    [part(0, 4), part(4, 6), part(6, 8), part(8, 10), part(10, 16)].join("-")
}
