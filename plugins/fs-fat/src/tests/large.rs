//! Many files, and large ones.

use std::time::Instant;

use tidemark_plugin::guest_filesystem::{GuestVolume, NodeKind};

use super::*;

/// Lists a folder and looks at all in it; prints how long that took.
fn listed(volume: &impl GuestVolume, folder: u64, what: &str) -> usize {
    let begun = Instant::now();
    let (mut cursor, mut count) = (Some(0), 0);
    while let Some(at) = cursor {
        let page = volume.list(folder, at, 10_000).unwrap();
        assert!(page.entries.iter().all(|entry| entry.stat.kind == NodeKind::File));
        count += page.entries.len();
        cursor = page.next;
    }
    eprintln!("{what}: {count} entries in {:?}", begun.elapsed());
    count
}

/// Reads a file from its beginning to its end, and gives how many bytes are not 7.
fn others(volume: &impl GuestVolume, node: u64, size: u64, what: &str) -> u64 {
    let begun = Instant::now();
    let mut others = 0;
    for at in (0..size).step_by(256 << 10) {
        let bytes = volume.read(node, None, at, 256 << 10).unwrap();
        others += bytes.iter().filter(|byte| **byte != 7).count() as u64;
    }
    eprintln!("{what}: {size} bytes in {:?}", begun.elapsed());
    others
}

/// What a number of a little-endian field is.
fn number(image: &Image, at: u64, length: usize) -> u64 {
    image.bytes(at, length).iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

#[test]
fn an_exfat_folder_of_100_000_files() {
    const FILES: usize = 100_000;
    let image = Image::new(256 << 20);
    image.run("mkfs.exfat", "-c 4096");
    let mounted = image.mounted("mount.exfat-fuse", "");
    std::fs::create_dir(mounted.folder().join("many")).unwrap();
    std::fs::write(mounted.folder().join("many/file-000000"), b"").unwrap();
    drop(mounted);
    // exfat-fuse looks for each new name in all others: here the first file is copied into a larger folder.
    let (at, file) = exfat::set(&image, "file-000000");
    let mut sets = Vec::new();
    for name in 0..FILES {
        let mut set = file.clone();
        for (place, unit) in (66..).step_by(2).zip(format!("file-{name:06}").encode_utf16()) {
            set[place..place + 2].copy_from_slice(&unit.to_le_bytes());
        }
        sets.extend(exfat::signed(set));
    }
    let heap = number(&image, 88, 4) * 512;
    let first = (at - heap) / 4096 + 2 + 100;
    image.write(heap + (first - 2) * 4096, &sets);
    let (at, mut folder) = exfat::set(&image, "many");
    folder[33] |= 2;
    folder[52..56].copy_from_slice(&u32::try_from(first).unwrap().to_le_bytes());
    let length = (sets.len() as u64).next_multiple_of(4096).to_le_bytes();
    folder[40..48].copy_from_slice(&length);
    folder[56..64].copy_from_slice(&length);
    image.write(at, &exfat::signed(folder));
    let volume = opened(of_bytes(image.bytes(0, 64 << 20))).unwrap();
    let many = volume.lookup(1, b"many".to_vec()).unwrap().node;
    assert_eq!(listed(&volume, many, "exfat"), FILES);
    // Sets cross clusters, wherever the folder's clusters are one after another.
    assert!(volume.lookup(many, b"file-099999".to_vec()).is_ok());
}

#[test]
fn a_fat_folder_with_as_many_files_as_it_can_have() {
    // 65,536 entries of which two are the folder's own.
    const FILES: usize = 65_534;
    let home = tempfile::tempdir().unwrap();
    std::fs::create_dir(home.path().join("MANY")).unwrap();
    let image = Image::new(64 << 20);
    image.run("mkfs.vfat", "-F 32 -s 1");
    fat::fill(&image, home.path());
    let at = find(&image, b"MANY       ");
    let table = number(&image, 14, 2) * 512;
    let heap = table + 2 * number(&image, 36, 4) * 512;
    let first = number(&image, at + 26, 2);
    let mut entries = image.bytes(heap + (first - 2) * 512, 64);
    for name in 0..FILES {
        entries.extend(format!("FILE{name:04X}   ").bytes());
        entries.extend([0; 21]);
    }
    // From its first cluster the folder goes on far behind all others, in clusters in turn.
    let clusters: Vec<u64> =
        (0..4096).map(|place| if place == 0 { first } else { 40_000 + place * 2 }).collect();
    for (place, cluster) in clusters.iter().enumerate() {
        let next = clusters.get(place + 1).map_or(0x0fff_ffff, |next| u32::try_from(*next).unwrap());
        image.write(table + cluster * 4, &next.to_le_bytes());
        image.write(heap + (cluster - 2) * 512, &entries[place * 512..(place + 1) * 512]);
    }
    let volume = opened(of_bytes(image.bytes(0, 64 << 20))).unwrap();
    assert_eq!(volume.info().warnings.len(), 1, "the copy of the table is another");
    let many = volume.lookup(1, b"MANY".to_vec()).unwrap().node;
    assert_eq!(listed(&volume, many, "fat32"), FILES);
}

#[test]
fn a_file_of_4_gib_in_pieces_is_read_without_going_through_its_chain_again() {
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("LARGE"), b"x").unwrap();
    let image = Image::new(10 << 30);
    image.run("mkfs.vfat", "-F 32 -s 128");
    fat::fill(&image, home.path());
    let at = find(&image, b"LARGE      ");
    let table = number(&image, 14, 2) * 512;
    let heap = table + 2 * number(&image, 36, 4) * 512;
    let first = number(&image, at + 26, 2);
    // Every other cluster.
    let mut chain = vec![0; 65_536 * 8];
    for place in 0..65_536_usize {
        let next = if place == 65_535 {
            0x0fff_ffff
        } else {
            u32::try_from(first).unwrap() + 2 * (u32::try_from(place).unwrap() + 1)
        };
        chain[place * 8..place * 8 + 4].copy_from_slice(&next.to_le_bytes());
    }
    image.write(table + first * 4, &chain);
    image.write(at + 28, &[0xff; 4]);
    for place in (0..65_536_u64).step_by(1111) {
        image.write(heap + (first + 2 * place - 2) * 65_536 + 60_000, &[7]);
    }
    let volume = opened(image.disk()).unwrap();
    let stat = volume.lookup(1, b"LARGE".to_vec()).unwrap();
    assert_eq!(stat.size_bytes, u64::from(u32::MAX));
    for place in (0..65_536_u64).step_by(1111) {
        assert_eq!(volume.read(stat.node, None, place * 65_536 + 59_999, 3).unwrap(), [0, 7, 0]);
    }
    assert_eq!(volume.read(stat.node, None, u64::from(u32::MAX) - 3, 9).unwrap(), [0; 3]);
    let size = 128_u64 << 20;
    assert_eq!(size - others(&volume, stat.node, size, "fat32"), (size / 65_536).div_ceil(1111));
}
