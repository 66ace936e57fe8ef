//! What is not read, and what is read with a warning.

use std::os::unix::fs::FileExt;

use tidemark_plugin::guest_filesystem::GuestVolume;
use tidemark_plugin::{Error, ErrorKind};

use super::*;

fn error(image: &Image) -> Error {
    open(image.disk()).unwrap_err()
}

/// Changes the superblock, with its checksum.
fn changed(image: &Image, at: usize, bytes: &[u8]) {
    let mut superblock = image.bytes(64 << 10, 4096);
    superblock[at..at + bytes.len()].copy_from_slice(bytes);
    let sum = crc32c::crc32c(&superblock[32..]);
    superblock[..4].copy_from_slice(&sum.to_le_bytes());
    image.write(64 << 10, &superblock);
}

#[test]
fn what_is_foreign_or_short_is_not_probed() {
    let probed = |image: &Image| Superblock::is_on(&image.disk()).unwrap();
    for size in [0, 1, 512, 65_536 + 100, 1 << 20] {
        let image = Image::new(size);
        assert!(!probed(&image), "{size}");
        assert_eq!(error(&image).kind, ErrorKind::Corrupt, "{size}");
    }
    let image = Image::new(64 << 20);
    image.run("mke2fs", "-q -F -t ext4");
    assert!(!probed(&image));
    assert!(probed(&made(160 << 20, "")));
}

#[test]
fn what_is_not_read_is_said() {
    let image = made(160 << 20, "");
    for (at, bytes, words) in [
        (0x88, 3_u64.to_le_bytes(), "spans 3 devices"),
        (0xbc, (1_u64 << 12).to_le_bytes(), "zoned"),
        (0xbc, (1_u64 << 13).to_le_bytes(), "extent tree"),
        (0xbc, (1_u64 << 14).to_le_bytes(), "RAID stripes"),
        (0xbc, (1_u64 << 40).to_le_bytes(), "not known"),
        (0x38, (1_u64 << 33).to_le_bytes(), "btrfs-image"),
        (0x38, (1_u64 << 36).to_le_bytes(), "btrfstune"),
        (0xc9, 7_u64.to_le_bytes(), "another device"),
    ] {
        let before = image.bytes(64 << 10, 4096);
        changed(&image, at, &bytes);
        let error = error(&image);
        assert_eq!(error.kind, ErrorKind::Unsupported, "{}", error.message);
        assert!(error.message.contains(words), "{}", error.message);
        image.write(64 << 10, &before);
    }
    open(image.disk()).unwrap();
}

#[test]
fn several_devices_are_refused() {
    for profile in ["raid1", "raid0", "single"] {
        let image = Image::new(160 << 20);
        let second = image.home().join("second");
        std::fs::File::create(&second).unwrap().set_len(160 << 20).unwrap();
        image.run("mkfs.btrfs", &format!("-q -f -d {profile} -m {profile} {}", second.display()));
        let error = error(&image);
        assert_eq!(error.kind, ErrorKind::Unsupported, "{}", error.message);
        assert!(error.message.contains("2 devices"), "{}", error.message);
    }
}

#[test]
fn a_damaged_superblock_is_read_from_its_copy() {
    let (image, tree) = filled(160 << 20, "", "defaults", &WANTED);
    image.write((64 << 10) + 0x50, &[0xff; 4]);
    assert!(Superblock::is_on(&image.disk()).unwrap());
    let volume = open(image.disk()).unwrap();
    assert_eq!(volume.info().warnings, ["the superblock is damaged: a copy of it was read"]);
    tree.compare(&Tree::read(&volume), CHECKS, "a copy");
    image.write((64 << 20) + 0x50, &[0xff; 4]);
    assert!(error(&image).message.contains("checksum"));
}

#[test]
fn a_file_system_in_use_is_read_as_of_its_last_commit() {
    let image = made(160 << 20, "");
    let mounted = image.mounted("btrfs", "commit=300");
    WANTED.fill(mounted.folder());
    let run = |program: &str, arguments: &[&str]| {
        let status = std::process::Command::new(program).args(arguments).status().unwrap();
        assert!(status.success(), "{program}");
    };
    run("sync", &["-f", mounted.folder().to_str().unwrap()]);
    // This one is in the log only.
    let late = std::fs::File::create(mounted.folder().join("late")).unwrap();
    late.write_all_at(b"synced", 0).unwrap();
    late.sync_all().unwrap();
    let taken = Image::new(image.size());
    run("cp", &["--sparse=always", image.path().to_str().unwrap(), taken.path().to_str().unwrap()]);
    drop(late);
    drop(mounted);
    // The copy has the first one's UUID, which is no longer mounted.
    let volume = open(Image::disk(&taken)).unwrap();
    let info = volume.info();
    assert!(info.warnings.iter().any(|warning| warning.contains("in use")), "{info:?}");
    assert!(!info.journal_replayed);
    let found = Tree::read(&volume);
    let mounted = taken.mounted("btrfs", "ro,rescue=nologreplay");
    Tree::of(mounted.folder()).compare(&found, CHECKS, "in use");
    drop(mounted);
    assert!(!found.0.contains_key(b"/late".as_slice()));
}
