//! The classic partition table: four entries in the first sector, and a chain of further sectors, each with one logical
//! partition and the way to the next.

use std::collections::BTreeSet;

use tidemark_plugin::Result;

use crate::bytes::{Bytes, u32_at};
use crate::table::{Partition, Table, is_signed};

const SECTOR: u64 = 512;
const SECTOR_BYTES: u32 = 512;
const ENTRIES: usize = 446;
const ENTRY: usize = 16;
/// Logical partitions count from here, however many primary ones there are.
const FIRST_LOGICAL: u32 = 5;
/// No tool makes more.
const MAX_LOGICAL: usize = 256;

#[derive(Clone, Copy)]
struct Entry {
    kind: u8,
    start: u32,
    sectors: u32,
}

impl Entry {
    fn all(sector: &[u8]) -> [Self; 4] {
        [0, 1, 2, 3].map(|place| {
            let at = ENTRIES + place * ENTRY;
            let kind = sector.get(at + 4).copied().unwrap_or(0);
            Self { kind, start: u32_at(sector, at + 8), sectors: u32_at(sector, at + 12) }
        })
    }

    fn is_empty(self) -> bool {
        self.kind == 0 || self.sectors == 0
    }

    /// CHS, LBA and Linux extended partitions.
    fn is_extended(self) -> bool {
        matches!(self.kind, 0x05 | 0x0f | 0x85)
    }

    fn partition(self, number: u32, base: u64) -> Partition {
        Partition {
            number: Some(number),
            offset: base + u64::from(self.start) * SECTOR,
            length: u64::from(self.sectors) * SECTOR,
            label: String::new(),
            purpose: purpose(self.kind).map(str::to_owned),
        }
    }
}

/// The table of a disk; none where its first sector is none.
pub(crate) fn read(disk: &impl Bytes) -> Result<Option<Table>> {
    let Some(sector) = disk.read_inside(0, SECTOR_BYTES)? else { return Ok(None) };
    if !is_signed(&sector) {
        return Ok(None);
    }
    let mut table = Table::default();
    let mut extended = None;
    for (entry, number) in Entry::all(&sector).into_iter().zip(1..) {
        if entry.is_empty() {
            continue;
        }
        if entry.is_extended() {
            extended = extended.or(Some(entry));
        } else {
            table.add(disk, entry.partition(number, 0));
        }
    }
    if let Some(entry) = extended {
        logical(disk, u64::from(entry.start) * SECTOR, &mut table)?;
    }
    Ok(Some(table))
}

/// Whether the entries of a first sector can be meant, and are not code: LVM2 asks for this before it takes a disk with a label
/// of its own for a partitioned one.
pub(crate) fn is_meant(disk: &impl Bytes) -> Result<bool> {
    let sector = disk.read_inside(0, SECTOR_BYTES)?.filter(|sector| is_signed(sector));
    Ok(sector.is_some_and(|sector| {
        let flag = |place: usize| sector.get(ENTRIES + place * ENTRY).copied().unwrap_or(0);
        (0..4).all(|place| matches!(flag(place), 0 | 0x80))
    }))
}

/// Follows the chain of logical partitions. Places are counted from the extended partition, and from each sector's own.
fn logical(disk: &impl Bytes, extended: u64, table: &mut Table) -> Result<()> {
    let (mut at, mut number, mut seen) = (extended, FIRST_LOGICAL, BTreeSet::new());
    loop {
        if !seen.insert(at) || seen.len() > MAX_LOGICAL {
            table.complaints.push("the chain of logical partitions goes round in a circle".to_owned());
            return Ok(());
        }
        let sector = disk.read_inside(at, SECTOR_BYTES)?.filter(|sector| is_signed(sector));
        let Some(sector) = sector else {
            table.complaints.push(format!("the chain of logical partitions breaks at {at}"));
            return Ok(());
        };
        let [own, next, ..] = Entry::all(&sector);
        if !own.is_empty() && !own.is_extended() {
            table.add(disk, own.partition(number, at));
            number += 1;
        }
        if next.is_empty() || !next.is_extended() {
            return Ok(());
        }
        at = extended + u64::from(next.start) * SECTOR;
    }
}

/// What a partition of a type is for, where it is for no file system.
fn purpose(kind: u8) -> Option<&'static str> {
    match kind {
        0x42 => Some("Windows dynamic disk"),
        0x82 => Some("swap"),
        0x8e => Some("LVM2 physical volume"),
        0xfd => Some("Linux RAID member"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(disk: &mut [u8], sector: usize, place: usize, kind: u8, start: u32, sectors: u32) {
        let at = sector * 512 + ENTRIES + place * ENTRY;
        disk[at + 4] = kind;
        disk[at + 8..at + 12].copy_from_slice(&start.to_le_bytes());
        disk[at + 12..at + 16].copy_from_slice(&sectors.to_le_bytes());
        disk[sector * 512 + 510..sector * 512 + 512].copy_from_slice(&[0x55, 0xaa]);
    }

    fn places(table: &Table) -> Vec<(Option<u32>, u64, u64)> {
        table.partitions.iter().map(|found| (found.number, found.offset / 512, found.length / 512)).collect()
    }

    #[test]
    fn primary_and_logical_partitions_have_their_usual_numbers() {
        let mut disk = vec![0; 512 * 4096];
        put(&mut disk, 0, 0, 0x83, 64, 100);
        put(&mut disk, 0, 2, 0x0f, 1000, 2000);
        put(&mut disk, 1000, 0, 0x83, 10, 50);
        put(&mut disk, 1000, 1, 0x05, 500, 100);
        put(&mut disk, 1500, 0, 0x82, 2, 60);
        let table = read(&disk).unwrap().unwrap();
        assert_eq!(places(&table), [(Some(1), 64, 100), (Some(5), 1010, 50), (Some(6), 1502, 60)]);
        assert_eq!(table.partitions[2].purpose.as_deref(), Some("swap"));
        assert!(table.complaints.is_empty());
    }

    #[test]
    fn a_circle_ends_and_what_lies_beyond_the_disk_is_left_out() {
        let mut disk = vec![0; 512 * 4096];
        put(&mut disk, 0, 0, 0x83, 4000, 200);
        put(&mut disk, 0, 1, 0x83, 9000, 10);
        put(&mut disk, 0, 3, 0x05, 1000, 2000);
        put(&mut disk, 1000, 0, 0x83, 1, 5);
        put(&mut disk, 1000, 1, 0x05, 500, 100);
        put(&mut disk, 1500, 0, 0x83, 1, 5);
        put(&mut disk, 1500, 1, 0x05, 0, 100);
        let table = read(&disk).unwrap().unwrap();
        assert_eq!(places(&table), [(Some(1), 4000, 96), (Some(5), 1001, 5), (Some(6), 1501, 5)]);
        assert_eq!(table.complaints.len(), 3, "{:?}", table.complaints);
        assert!(table.complaints[2].contains("circle"));
    }

    #[test]
    fn a_chain_that_leads_to_nothing_breaks_with_a_word() {
        let mut disk = vec![0; 512 * 4096];
        put(&mut disk, 0, 0, 0x05, 1000, 2000);
        let table = read(&disk).unwrap().unwrap();
        assert!(table.partitions.is_empty() && table.complaints[0].contains("breaks"));
        assert!(read(&vec![0; 512]).unwrap().is_none());
        assert!(read(&vec![0; 100]).unwrap().is_none());
    }
}
