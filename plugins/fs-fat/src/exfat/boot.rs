//! The boot region of exFAT: twelve sectors with a checksum, and twelve more that are their copy.

use tidemark_plugin::disk::CachedDisk;
use tidemark_plugin::fields::{byte, index, le16, le32, le64, slice};
use tidemark_plugin::{Error, Result};

use crate::clusters::{Clusters, Width};

const BEGINNING: &[u8] = b"\xeb\x76\x90EXFAT   ";
/// Sectors of one region; the last one is the checksum, again and again.
const SECTORS: u64 = 12;
/// Bits of the volume's flags.
const SECOND_TABLE: u16 = 1;
const IN_USE: u16 = 2;
const FAILING: u16 = 4;
/// Bytes that change without the checksum: the flags, and how full the volume is.
const UNCHECKED: [usize; 3] = [106, 107, 112];

/// What the boot sector says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Boot {
    pub(super) total_bytes: u64,
    pub(super) root: u32,
    pub(super) serial: u32,
    table_at: u64,
    table_bytes: u64,
    heap_at: u64,
    cluster_bytes: u64,
    count: u32,
    flags: u16,
    /// The first region was damaged.
    of_copy: bool,
}

impl Boot {
    /// Whether it lies on a disk, by its first bytes.
    pub(super) fn probed(disk: &CachedDisk) -> Result<bool> {
        let mut sector = [0; 512];
        if disk.size() < sector.len() as u64 {
            return Ok(false);
        }
        disk.read(0, &mut sector)?;
        Ok(sector.starts_with(BEGINNING) && slice(&sector, 510, 2)? == [0x55, 0xaa])
    }

    /// Reads it; from its copy where the checksum is wrong.
    pub(super) fn read(disk: &CachedDisk) -> Result<Self> {
        let mut sector = [0; 512];
        disk.read(0, &mut sector)?;
        // The size of sectors itself may be damaged: the copy lies where its own says.
        let shifts = [byte(&sector, 108)?, 9, 12, 10, 11];
        let mut first_error = None;
        for (shift, region) in [(shifts[0], 0)].into_iter().chain(shifts.map(|shift| (shift, 1))) {
            match Self::region(disk, shift, region) {
                Ok(boot) => return Ok(Self { of_copy: region == 1, ..boot }),
                Err(error) if error.is_unavailable() => return Err(error),
                Err(error) => drop(first_error.get_or_insert(error)),
            }
        }
        Err(first_error.unwrap_or_else(|| Error::corrupt("this is no exFAT file system")))
    }

    fn region(disk: &CachedDisk, shift: u8, region: u64) -> Result<Self> {
        if !(9..=12).contains(&shift) {
            return Err(Error::corrupt(format!("exFAT has no sectors of 2^{shift} bytes")));
        }
        let sector = 1_u64 << shift;
        let mut bytes = vec![0; index(sector * SECTORS)?];
        disk.read(region * sector * SECTORS, &mut bytes)?;
        let (checked, sums) = bytes.split_at(index(sector * (SECTORS - 1))?);
        let sum = checked.iter().enumerate().filter(|(at, _)| !UNCHECKED.contains(at));
        let sum = sum.fold(0_u32, |sum, (_, byte)| sum.rotate_right(1).wrapping_add(u32::from(*byte)));
        if !checked.starts_with(BEGINNING)
            || sums.as_chunks::<4>().0.iter().any(|known| *known != sum.to_le_bytes())
        {
            return Err(Error::corrupt("the boot region of exFAT is damaged, and its copy as well"));
        }
        Self::parse(checked, shift)
    }

    fn parse(bytes: &[u8], shift: u8) -> Result<Self> {
        let sector = 1_u64 << shift;
        let per_cluster = byte(bytes, 109)?;
        let flags = le16(bytes, 106)?;
        if byte(bytes, 105)? != 1 {
            let words = format!("version {} of exFAT is not known: only 1 is read", byte(bytes, 105)?);
            return Err(Error::unsupported(words));
        }
        if byte(bytes, 108)? != shift || per_cluster > 25 - shift || !matches!(byte(bytes, 110)?, 1 | 2) {
            return Err(Error::corrupt("the boot sector of exFAT holds sizes that cannot be"));
        }
        let table_bytes = u64::from(le32(bytes, 84)?) * sector;
        let second = flags & SECOND_TABLE != 0 && byte(bytes, 110)? == 2;
        let table_at = u64::from(le32(bytes, 80)?) * sector + if second { table_bytes } else { 0 };
        let count = le32(bytes, 92)?;
        let total_bytes = le64(bytes, 72)?.checked_mul(sector);
        if u64::from(count) + 2 > Width::Exfat.numbers(table_bytes) || count > 0xffff_fff5 {
            return Err(Error::corrupt("the table of exFAT is shorter than the volume"));
        }
        Ok(Self {
            total_bytes: total_bytes.ok_or_else(|| Error::corrupt("a volume that ends beyond all bounds"))?,
            root: le32(bytes, 96)?,
            serial: le32(bytes, 100)?,
            table_at,
            table_bytes,
            heap_at: u64::from(le32(bytes, 88)?) * sector,
            cluster_bytes: sector << per_cluster,
            count,
            flags,
            of_copy: false,
        })
    }

    /// What the administrator must know.
    pub(super) fn warnings(&self) -> Vec<String> {
        [
            (self.of_copy, "the boot region is damaged: its copy was read"),
            (
                self.flags & IN_USE != 0,
                "the file system was in use when it was backed up: what was being written then may be incomplete",
            ),
            (self.flags & FAILING != 0, "the guest noted failures of this volume's disk"),
        ]
        .into_iter()
        .filter(|(is, _)| *is)
        .map(|(_, words)| words.to_owned())
        .collect()
    }

    /// The clusters.
    pub(super) fn clusters(self, disk: CachedDisk) -> Result<Clusters> {
        let Self { table_at, table_bytes, heap_at, cluster_bytes, count, .. } = self;
        if heap_at > disk.size() {
            return Err(Error::corrupt("the volume ends before its first file"));
        }
        Ok(Clusters { disk, width: Width::Exfat, table_at, table_bytes, heap_at, cluster_bytes, count })
    }
}
