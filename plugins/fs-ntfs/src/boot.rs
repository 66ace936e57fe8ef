//! The boot sector. A copy of it is the last sector of the partition, where Windows looks too when the first is damaged.

use tidemark_plugin::disk::CachedDisk;
use tidemark_plugin::fields::{byte, le16, le64, slice};

const SECTOR: usize = 512;
/// From 512 bytes to 2 MiB.
const CLUSTERS: std::ops::RangeInclusive<u64> = 512..=2 << 20;

/// What other things leave where a volume begins: file systems, encryption, volume managers, swap.
const OTHERS: [(u64, &[u8]); 10] = [
    (0, b"XFSB"),
    (0, b"LUKS"),
    (0, b"LABELONE"),
    (512, b"LABELONE"),
    (1080, b"\x53\xef"),
    (3, b"EXFAT   "),
    (3, b"-FVE-FS-"),
    (4086, b"SWAPSPACE2"),
    (32_769, b"CD001"),
    (65_600, b"_BHRfS_M"),
];

/// Whether something else has its mark here; FAT's are the words of its width.
fn is_taken(disk: &CachedDisk) -> bool {
    let holds = |(at, word): &(u64, &[u8])| {
        let mut bytes = vec![0; word.len()];
        disk.read(*at, &mut bytes).is_ok() && bytes == *word
    };
    OTHERS.iter().any(holds) || [(54, &b"FAT"[..]), (82, b"FAT")].iter().any(holds)
}

/// What it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Boot {
    pub(crate) cluster_bytes: u64,
    pub(crate) record_bytes: u64,
    /// Where the table of files begins, on the disk.
    pub(crate) table_at: u64,
    /// Where its first records are once more.
    pub(crate) mirror_at: u64,
    pub(crate) total_bytes: u64,
    pub(crate) serial: u64,
    /// The first sector was damaged and its copy was taken.
    pub(crate) is_copy: bool,
}

impl Boot {
    /// The boot sector of a disk, or its copy; none where neither is one. The copy does not count where something else was
    /// made over an older volume, of which it may be left.
    pub(crate) fn find(disk: &CachedDisk) -> Option<Self> {
        if let Some(boot) = Self::at(disk, 0) {
            return Some(boot);
        }
        if is_taken(disk) {
            return None;
        }
        let sectors = [SECTOR as u64, 4096];
        let mut places =
            sectors.iter().filter_map(|sector| (disk.size() / sector).checked_sub(1)?.checked_mul(*sector));
        let copy = places.find_map(|last| Self::at(disk, last))?;
        Some(Self { is_copy: true, ..copy })
    }

    fn at(disk: &CachedDisk, offset: u64) -> Option<Self> {
        let mut sector = [0; SECTOR];
        disk.read(offset, &mut sector).ok()?;
        Self::parse(&sector, disk.size())
    }

    fn parse(sector: &[u8], disk_bytes: u64) -> Option<Self> {
        if slice(sector, 3, 8).ok()? != b"NTFS    " {
            return None;
        }
        let sector_bytes = u64::from(le16(sector, 11).ok()?);
        // Above 128 it counts as a negative power of two, as the size of a record does.
        let per_cluster = match byte(sector, 13).ok()? {
            count @ 0..=128 => u64::from(count),
            power => 1_u64.checked_shl(256 - u32::from(power))?,
        };
        let cluster_bytes = sector_bytes.checked_mul(per_cluster)?;
        let record = byte(sector, 64).ok()?.cast_signed();
        let record_bytes = match u64::try_from(record) {
            Ok(clusters) => clusters.checked_mul(cluster_bytes)?,
            Err(_) => 1_u64.checked_shl(u32::from(record.unsigned_abs()))?,
        };
        let fits = (256..=4096).contains(&sector_bytes)
            && sector_bytes.is_power_of_two()
            && cluster_bytes.is_power_of_two()
            && CLUSTERS.contains(&cluster_bytes)
            && record_bytes.is_power_of_two()
            && (512..=65_536).contains(&record_bytes);
        if !fits {
            return None;
        }
        // The copy's own sector is not counted.
        let total_bytes = le64(sector, 40).ok()?.checked_mul(sector_bytes)?;
        let table_at = le64(sector, 48).ok()?.checked_mul(cluster_bytes)?;
        let mirror_at = le64(sector, 56).ok()?.checked_mul(cluster_bytes)?;
        let serial = le64(sector, 72).ok()?;
        let lies_inside = total_bytes > 0 && table_at > 0 && table_at < disk_bytes;
        lies_inside.then_some(Self {
            cluster_bytes,
            record_bytes,
            table_at,
            mirror_at,
            total_bytes,
            serial,
            is_copy: false,
        })
    }
}
