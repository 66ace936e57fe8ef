//! The GUID partition table (UEFI specification 2.10, section 5.3): a header with checksums and an array of entries, twice.
//! Where the first is damaged, the one at the disk's end is taken, and that is said.

use tidemark_plugin::Result;

use crate::bytes::{Bytes, says, u16_at, u32_at, u64_at};
use crate::checksum;
use crate::table::{Partition, Table};

const SIGNATURE: &[u8] = b"EFI PART";
/// Logical sectors that disks have.
const SECTORS: [u32; 2] = [512, 4096];
const HEADER: usize = 92;
/// More than any tool makes; 128 is usual.
const MAX_ENTRIES: u32 = 1024;
const MAX_ENTRY: u32 = 4096;
const NAME: std::ops::Range<usize> = 56..128;
/// Names that Windows gives to every partition of a kind.
const NO_NAMES: [&str; 2] = ["Basic data partition", "primary"];

/// The table of a disk; none where it has no GPT.
pub(crate) fn read(disk: &impl Bytes) -> Result<Option<Table>> {
    for sector in SECTORS {
        let last = (disk.size() / u64::from(sector)).saturating_sub(1);
        let first = header(disk, 1, sector)?;
        if let Some(Header::Good { entries, size }) = &first {
            return Ok(Some(table(disk, sector, entries, *size, Vec::new())));
        }
        // Without any trace of the first one, what lies at the end may be left of an earlier table.
        if let (Some(Header::Damaged), Some(Header::Good { entries, size })) =
            (&first, header(disk, last, sector)?)
        {
            let complaint =
                "the GUID partition table is damaged; its copy at the disk's end is used".to_owned();
            return Ok(Some(table(disk, sector, &entries, size, vec![complaint])));
        }
        if let Some(Header::Damaged) = first {
            let complaints = vec!["the GUID partition table and its copy are damaged".to_owned()];
            return Ok(Some(Table { complaints, ..Table::default() }));
        }
    }
    Ok(None)
}

enum Header {
    Good { entries: Vec<u8>, size: usize },
    Damaged,
}

/// The header in a sector, with the entries that it leads to; none where there is none.
fn header(disk: &impl Bytes, place: u64, sector: u32) -> Result<Option<Header>> {
    let Some(at) = place.checked_mul(u64::from(sector)) else { return Ok(None) };
    let Some(found) = disk.read_inside(at, sector)? else { return Ok(None) };
    if !says(&found, 0, SIGNATURE) {
        return Ok(None);
    }
    let length = usize::try_from(u32_at(&found, 12)).unwrap_or(usize::MAX);
    let Some(header) = found.get(..length).filter(|header| header.len() >= HEADER) else {
        return Ok(Some(Header::Damaged));
    };
    let mut unsigned = header.to_vec();
    if let Some(checksum) = unsigned.get_mut(16..20) {
        checksum.fill(0);
    }
    let (count, size) = (u32_at(header, 80), u32_at(header, 84));
    let sane = checksum::iso(&unsigned) == u32_at(header, 16)
        && u64_at(header, 24) == place
        && count <= MAX_ENTRIES
        && (128..=MAX_ENTRY).contains(&size);
    let start = u64_at(header, 72).checked_mul(u64::from(sector));
    let (Some(start), true) = (start, sane) else { return Ok(Some(Header::Damaged)) };
    // Within a megabyte, which is what one read gives at most.
    let Some(entries) = disk.read_inside(start, (count * size).min(1 << 20))? else {
        return Ok(Some(Header::Damaged));
    };
    if checksum::iso(&entries) != u32_at(header, 88) {
        return Ok(Some(Header::Damaged));
    }
    Ok(Some(Header::Good { entries, size: usize::try_from(size).unwrap_or(usize::MAX) }))
}

fn table(disk: &impl Bytes, sector: u32, entries: &[u8], size: usize, complaints: Vec<String>) -> Table {
    let mut table = Table { complaints, ..Table::default() };
    for (entry, number) in entries.chunks_exact(size).zip(1..) {
        let kind = entry.get(..16).unwrap_or_default();
        if kind.iter().all(|byte| *byte == 0) {
            continue;
        }
        let (first, last) = (u64_at(entry, 32), u64_at(entry, 40));
        let sectors = last.checked_sub(first).and_then(|sectors| sectors.checked_add(1));
        let bytes = |sectors: u64| sectors.checked_mul(u64::from(sector));
        let (Some(offset), Some(length)) = (bytes(first), sectors.and_then(bytes)) else {
            table.complaints.push(format!("partition {number} ends before it begins"));
            continue;
        };
        let purpose = purpose(kind).map(str::to_owned);
        table.add(disk, Partition { number: Some(number), offset, length, label: label(entry), purpose });
    }
    table
}

fn label(entry: &[u8]) -> String {
    let units = entry.get(NAME).unwrap_or_default().chunks_exact(2).map(|pair| u16_at(pair, 0));
    let name: Vec<u16> = units.take_while(|unit| *unit != 0).collect();
    let name = String::from_utf16_lossy(&name);
    if NO_NAMES.contains(&name.as_str()) { String::new() } else { name }
}

/// What a partition of a type is for, where it is for no file system. Types are GUIDs as they lie on the disk.
fn purpose(kind: &[u8]) -> Option<&'static str> {
    const PURPOSES: [(&str, &str); 5] = [
        ("16e3c9e35c0bb84d817df92df00215ae", "Microsoft reserved"),
        ("a0609baf31144f62bc683311714a69ad", "Windows dynamic disk"),
        ("79d3d6e607f5c244a23c238f2a3df928", "LVM2 physical volume"),
        ("6dfd5706aba4c44384e50933c84b4f4f", "swap"),
        ("4861682149646f6e744e656564454649", "BIOS boot"),
    ];
    let hex: String = kind.iter().map(|byte| format!("{byte:02x}")).collect();
    PURPOSES.iter().find(|(guid, _)| *guid == hex).map(|(_, purpose)| *purpose)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECTOR: usize = 512;
    const COUNT: usize = 4096;

    fn entry(first: u64, last: u64, name: &str) -> Vec<u8> {
        let mut entry = vec![7; 16];
        entry.extend([9; 16]);
        entry.extend(first.to_le_bytes());
        entry.extend(last.to_le_bytes());
        entry.extend([0; 8]);
        entry.extend(name.encode_utf16().flat_map(u16::to_le_bytes));
        entry.resize(128, 0);
        entry
    }

    fn put(disk: &mut [u8], place: usize, array: usize, entries: &[u8]) {
        disk[array * SECTOR..array * SECTOR + entries.len()].copy_from_slice(entries);
        let mut header = SIGNATURE.to_vec();
        header.extend(0x0001_0000_u32.to_le_bytes());
        header.extend(92_u32.to_le_bytes());
        header.resize(24, 0);
        header.extend((place as u64).to_le_bytes());
        header.resize(72, 0);
        header.extend((array as u64).to_le_bytes());
        header.extend(u32::try_from(entries.len() / 128).unwrap().to_le_bytes());
        header.extend(128_u32.to_le_bytes());
        header.extend(checksum::iso(entries).to_le_bytes());
        let checksum = checksum::iso(&header);
        header[16..20].copy_from_slice(&checksum.to_le_bytes());
        disk[place * SECTOR..place * SECTOR + header.len()].copy_from_slice(&header);
    }

    fn disk() -> Vec<u8> {
        let mut disk = vec![0; SECTOR * COUNT];
        let entries = [
            entry(64, 163, "Recovery"),
            vec![0; 128],
            entry(200, 299, "Basic data partition"),
            entry(9, 5, "x"),
        ];
        put(&mut disk, 1, 2, &entries.concat());
        put(&mut disk, COUNT - 1, COUNT - 33, &entries.concat());
        disk
    }

    fn places(table: &Table) -> Vec<(Option<u32>, u64, u64, &str)> {
        let place = |found: &'_ Partition| (found.number, found.offset / 512, found.length / 512);
        table
            .partitions
            .iter()
            .map(|found| {
                let (number, offset, length) = place(found);
                (number, offset, length, found.label.as_str())
            })
            .collect()
    }

    #[test]
    fn partitions_keep_their_numbers_and_names() {
        let table = read(&disk()).unwrap().unwrap();
        assert_eq!(places(&table), [(Some(1), 64, 100, "Recovery"), (Some(3), 200, 100, "")]);
        assert_eq!(table.complaints, ["partition 4 ends before it begins"]);
    }

    #[test]
    fn the_copy_at_the_end_helps_where_the_first_is_damaged() {
        for byte in [SECTOR + 20, 2 * SECTOR + 40] {
            let mut disk = disk();
            disk[byte] ^= 1;
            let table = read(&disk).unwrap().unwrap();
            assert_eq!(table.partitions.len(), 2);
            assert!(table.complaints[0].contains("copy at the disk's end"), "{:?}", table.complaints);
            disk[(COUNT - 1) * SECTOR + 20] ^= 1;
            let table = read(&disk).unwrap().unwrap();
            assert!(table.partitions.is_empty());
            assert!(table.complaints[0].contains("and its copy are damaged"));
        }
        let mut wiped = disk();
        wiped[SECTOR..2 * SECTOR].fill(0);
        assert!(read(&wiped).unwrap().is_none(), "nothing says that the table at the end still counts");
    }

    #[test]
    fn a_disk_of_4096_byte_sectors_is_read_as_one_of_512() {
        let small = disk();
        // The same entries and header, eight times as far away.
        let mut large = vec![0; 4096 * COUNT];
        let header = |place: usize, array: usize| {
            let mut header = small[SECTOR..SECTOR + 92].to_vec();
            header[16..20].fill(0);
            header[24..32].copy_from_slice(&(place as u64).to_le_bytes());
            header[72..80].copy_from_slice(&(array as u64).to_le_bytes());
            let checksum = checksum::iso(&header);
            header[16..20].copy_from_slice(&checksum.to_le_bytes());
            header
        };
        for (place, array) in [(1, 2), (COUNT - 1, COUNT - 5)] {
            large[place * 4096..place * 4096 + 92].copy_from_slice(&header(place, array));
            large[array * 4096..array * 4096 + 512].copy_from_slice(&small[2 * SECTOR..2 * SECTOR + 512]);
        }
        for damaged in [false, true] {
            large[4096 + 20] ^= u8::from(damaged);
            let table = read(&large).unwrap().unwrap();
            let found = table.partitions.iter().map(|found| (found.offset / 4096, found.length / 4096));
            assert_eq!(found.collect::<Vec<_>>(), [(64, 100), (200, 100)]);
            assert_eq!(table.complaints.len(), 1 + usize::from(damaged));
        }
    }
}
