//! What a volume looks like, from the signatures that file systems and others leave. It is a word for people, and tells a
//! whole disk without a table from one that has none yet; whether a file system can be read is for its reader to say.

use tidemark_plugin::Result;

use crate::bytes::{Bytes, says, u16_at};

/// Enough of a volume's beginning for every signature but those of ISO 9660 and btrfs.
const HEAD: u32 = 8 << 10;
const BTRFS_AT: u64 = 64 << 10;
const ISO_AT: u64 = 32 << 10;
const SECTOR: u32 = 2048;

/// What a member of an LVM2 volume group looks like.
pub(crate) const PHYSICAL_VOLUME: &str = "LVM2 physical volume";

/// A signature by its place in the head.
const SIGNATURES: [(usize, &[u8], &str); 17] = [
    (3, b"-FVE-FS-", "BitLocker"),
    (3, b"NTFS    ", "ntfs"),
    (3, b"EXFAT   ", "exfat"),
    (3, b"ReFS\0\0\0\0", "ReFS"),
    (0, b"XFSB", "xfs"),
    (0, b"LUKS\xba\xbe", "LUKS"),
    (1080, b"\x53\xef", "ext"),
    (512, b"LABELONE", PHYSICAL_VOLUME),
    (0, b"LABELONE", PHYSICAL_VOLUME),
    (1024, b"LABELONE", PHYSICAL_VOLUME),
    (1536, b"LABELONE", PHYSICAL_VOLUME),
    (4086, b"SWAPSPACE2", "swap"),
    (4086, b"SWAP-SPACE", "swap"),
    (3072, b"PRIVHEAD", "Windows dynamic disk"),
    (4096, b"\xfc\x4e\x2b\xa9", "Linux RAID member"),
    (0, b"\xfc\x4e\x2b\xa9", "Linux RAID member"),
    (0, b"hsqs", "squashfs"),
];

/// What lies in a volume; none where nothing is known of it.
pub(crate) fn of(volume: &impl Bytes) -> Result<Option<&'static str>> {
    let head_bytes = u32::try_from(volume.size()).unwrap_or(HEAD).min(HEAD);
    let Some(head) = volume.read_inside(0, head_bytes)? else { return Ok(None) };
    if let Some((_, _, name)) = SIGNATURES.iter().find(|(at, word, _)| says(&head, *at, word)) {
        return Ok(Some(name));
    }
    if is_fat(&head) {
        return Ok(Some("fat"));
    }
    for (at, place, word, name) in
        [(BTRFS_AT, 64, &b"_BHRfS_M"[..], "btrfs"), (ISO_AT, 1, b"CD001", "iso9660")]
    {
        let sector = volume.read_inside(at, SECTOR)?;
        if sector.is_some_and(|sector| says(&sector, place, word)) {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

/// FAT has no signature that can be relied on, but its first sector holds numbers that hardly anything else does.
fn is_fat(head: &[u8]) -> bool {
    let byte = |at: usize| head.get(at).copied().unwrap_or(0);
    let sector = u16_at(head, 11);
    matches!(byte(0), 0xeb | 0xe9)
        && says(head, 510, &[0x55, 0xaa])
        && (512..=4096).contains(&sector)
        && sector.is_power_of_two()
        && byte(13).is_power_of_two()
        && u16_at(head, 14) > 0
        && matches!(byte(16), 1 | 2)
        && byte(21) >= 0xf0
        && (says(head, 54, b"FAT") || says(head, 82, b"FAT32"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holding(at: usize, word: &[u8]) -> Vec<u8> {
        let mut disk = vec![0; 128 << 10];
        disk[at..at + word.len()].copy_from_slice(word);
        disk
    }

    fn seen(disk: &Vec<u8>) -> Option<&'static str> {
        of(disk).unwrap()
    }

    #[test]
    fn each_signature_is_known_and_nothing_is_nothing() {
        for (at, word, name) in SIGNATURES {
            assert_eq!(seen(&holding(at, word)), Some(name));
        }
        assert_eq!(seen(&holding(65600, b"_BHRfS_M")), Some("btrfs"));
        assert_eq!(seen(&holding(32769, b"CD001")), Some("iso9660"));
        assert_eq!(seen(&holding(0, b"")), None);
        assert_eq!(seen(&Vec::new()), None);
        assert_eq!(seen(&vec![0; 100]), None);
    }

    #[test]
    fn a_boot_sector_is_fat_only_with_all_of_its_numbers() {
        let mut disk = holding(0, &[0xeb, 0x3c, 0x90]);
        disk[11..13].copy_from_slice(&512_u16.to_le_bytes());
        disk[13] = 4;
        disk[14] = 1;
        disk[16] = 2;
        disk[21] = 0xf8;
        disk[54..57].copy_from_slice(b"FAT");
        disk[510..512].copy_from_slice(&[0x55, 0xaa]);
        assert_eq!(seen(&disk), Some("fat"));
        for (at, byte) in [(0, 0), (11, 1), (13, 3), (14, 0), (16, 3), (21, 0), (54, b'X'), (510, 0)] {
            let mut broken = disk.clone();
            broken[at] = byte;
            assert_eq!(seen(&broken), None, "byte {at}");
        }
    }
}
