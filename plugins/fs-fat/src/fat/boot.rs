//! The boot sector of FAT: how long everything is, and so where it lies.

use tidemark_plugin::disk::CachedDisk;
use tidemark_plugin::fields::{byte, index, le16, le32, slice};
use tidemark_plugin::{Error, Result};

use crate::clusters::{Clusters, Place, Width};
use crate::fat::{COMPARED, ENTRY, names};

const SECTOR: usize = 512;
/// FAT32 has bits there that say which copy of the table is in force: bit 7, and the copy in bits 0 to 3.
const ONE_IN_FORCE: u16 = 0x80;
/// Where BitLocker To Go leaves its mark, in a volume that looks like FAT32 to all others.
const BITLOCKER_AT: usize = 424;
const BITLOCKER: [u8; 16] = *b"\x3b\xd6\x67\x49\x29\x2e\xd8\x4a\x83\x99\xf6\xa3\x39\xe3\xd0\x01";

/// What the boot sector says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Boot {
    width: Width,
    /// The table in force.
    pub(super) table_at: u64,
    table_bytes: u64,
    /// Where its copy lies, if there is one that should be the same.
    copy_at: Option<u64>,
    heap_at: u64,
    cluster_bytes: u64,
    count: u32,
    pub(super) root: Place,
    pub(super) total_bytes: u64,
    pub(super) medium: u8,
    pub(super) label: Option<String>,
    pub(super) serial: Option<u32>,
    /// A text says that this is FAT.
    pub(super) named: bool,
    pub(super) in_use: bool,
    pub(super) encrypted: bool,
}

impl Boot {
    /// Reads it; none where it is no boot sector of FAT.
    pub(super) fn read(disk: &CachedDisk) -> Result<Option<Self>> {
        let mut sector = [0; SECTOR];
        if disk.size() < SECTOR as u64 {
            return Ok(None);
        }
        disk.read(0, &mut sector)?;
        // What cannot be is another file system, or code.
        Ok(if plausible(&sector)? { Self::parse(&sector).ok().flatten() } else { None })
    }

    fn parse(sector: &[u8]) -> Result<Option<Self>> {
        let bytes = u64::from(le16(sector, 11)?);
        let cluster_bytes = u64::from(byte(sector, 13)?) * bytes;
        let tables = u64::from(byte(sector, 16)?);
        let either = |short: usize, long: usize| match le16(sector, short)? {
            0 => le32(sector, long).map(u64::from),
            sectors => Ok(u64::from(sectors)),
        };
        let (total, table) = (either(19, 32)?, either(22, 36)?);
        // What both Linux and Windows go by: FAT32 has no short number for its table, whatever its clusters are.
        let wide = le16(sector, 22)? == 0;
        let root_bytes = if wide { 0 } else { u64::from(le16(sector, 17)?) * ENTRY as u64 };
        let tables_at = u64::from(le16(sector, 14)?) * bytes;
        let table_bytes = table * bytes;
        let root_at = tables_at + tables * table_bytes;
        let heap_at = root_at + root_bytes.next_multiple_of(bytes);
        let total_bytes = total * bytes;
        let clusters = total_bytes.saturating_sub(heap_at) / cluster_bytes;
        let width = match clusters {
            _ if wide => Width::Fat32,
            0..4085 => Width::Fat12,
            _ => Width::Fat16,
        };
        let count = clusters.min(width.numbers(table_bytes).saturating_sub(2)).min(0x0fff_fff0);
        let count = u32::try_from(count).unwrap_or(0);
        let flags = if wide { le16(sector, 40)? } else { 0 };
        let in_force = if flags & ONE_IN_FORCE == 0 { 0 } else { u64::from(flags & 0xf) };
        if count == 0 || in_force >= tables || (wide && le16(sector, 42)? != 0) {
            return Ok(None);
        }
        // The second part of the boot sector lies behind what FAT32 has more.
        let more = if wide { 64 } else { 36 };
        let signed = byte(sector, more + 2)?;
        let label = (signed == 0x29).then(|| slice(sector, more + 7, 11)).transpose()?;
        let label = label.and_then(|label| label.try_into().ok()).map(names::label);
        Ok(Some(Self {
            width,
            table_at: tables_at + in_force * table_bytes,
            table_bytes,
            copy_at: (flags & ONE_IN_FORCE == 0 && tables > 1).then_some(tables_at + table_bytes),
            heap_at,
            cluster_bytes,
            count,
            root: if wide {
                Place::Chain(le32(sector, 44)?, None)
            } else {
                Place::Fixed(root_at, root_bytes)
            },
            total_bytes,
            medium: byte(sector, 21)?,
            label: label.filter(|label| label != "NO NAME"),
            serial: matches!(signed, 0x28 | 0x29).then(|| le32(sector, more + 3)).transpose()?,
            named: slice(sector, more + 18, 3)? == b"FAT",
            in_use: byte(sector, more + 1)? & 1 != 0,
            encrypted: slice(sector, BITLOCKER_AT, 16)? == BITLOCKER,
        }))
    }

    /// What it is called.
    pub(super) fn name(&self) -> &'static str {
        match self.width {
            Width::Fat12 => "fat12",
            Width::Fat16 => "fat16",
            Width::Fat32 | Width::Exfat => "fat32",
        }
    }

    /// The clusters.
    pub(super) fn clusters(&self, disk: CachedDisk) -> Result<Clusters> {
        let Self { width, table_at, table_bytes, heap_at, cluster_bytes, count, .. } = *self;
        if heap_at > disk.size() {
            return Err(Error::corrupt("the volume ends before its first file"));
        }
        Ok(Clusters { disk, width, table_at, table_bytes, heap_at, cluster_bytes, count })
    }

    /// Whether the table and its copy differ; tables too large to compare are taken to be the same.
    pub(super) fn copies_differ(&self, disk: &CachedDisk) -> Result<bool> {
        let Some(copy_at) = self.copy_at.filter(|_| self.table_bytes <= COMPARED) else { return Ok(false) };
        // The first two numbers are marks, which a guest may keep in one copy alone; behind the last lies nothing.
        let [from, to] = [2, u64::from(self.count) + 2].map(|number| self.width.bytes(number));
        let mut both = [vec![0; index(to - from)?], vec![0; index(to - from)?]];
        for (bytes, at) in both.iter_mut().zip([self.table_at, copy_at]) {
            disk.read(at + from, bytes)?;
        }
        let [table, copy] = both;
        Ok(table != copy)
    }
}

/// Whether the first sector can be one of FAT: numbers that hardly anything else has, as there is no signature to rely on.
fn plausible(sector: &[u8]) -> Result<bool> {
    let (bytes, per_cluster) = (le16(sector, 11)?, byte(sector, 13)?);
    Ok(matches!(byte(sector, 0)?, 0xeb | 0xe9)
        && slice(sector, 510, 2)? == [0x55, 0xaa]
        && (512..=4096).contains(&bytes)
        && bytes.is_power_of_two()
        && per_cluster.is_power_of_two()
        && le16(sector, 14)? > 0
        && (1..=4).contains(&byte(sector, 16)?)
        && byte(sector, 21)? >= 0xf0)
}
