//! exFAT.

use std::process::Command;

use tidemark_fs_testing::Damage;
use tidemark_plugin::attributes::Attributes;
use tidemark_plugin::guest_filesystem::GuestVolume;

use super::*;

const FUSE: &str = "mount.exfat-fuse";
const IN_USE: &str =
    "the file system was in use when it was backed up: what was being written then may be incomplete";

/// An image of `mkfs.exfat`, filled, with what is in it.
fn filled(options: &str, size: u64, wanted: Wanted) -> (Image, Tree) {
    let image = Image::new(size);
    image.run("mkfs.exfat", options);
    let mounted = image.mounted(FUSE, "");
    wanted.fill(mounted.folder());
    touch(&mounted.folder().join("small"), 315_532_802_340_000_000);
    touch(&mounted.folder().join("few"), 4_354_819_198_990_000_000);
    let tree = Tree::of(mounted.folder());
    drop(mounted);
    (image, tree)
}

#[test]
fn every_cluster_size_gives_every_byte() {
    for shift in 9..=20 {
        let bytes = 1_u64 << shift;
        let options = format!("-L Läbel🦀 -c {bytes}");
        let many = if shift == 9 { 300 } else { 40 };
        let (image, tree) = filled(&options, (16_u64 << 20).max(bytes * 500), Wanted { many, ..WANTED });
        assert_eq!(probed(&image.disk()).unwrap(), Some("exfat"));
        let volume = opened(image.disk()).unwrap();
        let info = volume.info();
        assert_eq!((info.filesystem.as_str(), info.label.as_str()), ("exfat", "Läbel🦀"), "{options}");
        assert!(info.warnings.is_empty() && info.uuid.len() == 9, "{options}: {info:?}");
        assert_eq!(info.total_bytes, image.size(), "{options}");
        let small = volume.lookup(volume.root(), b"small".to_vec()).unwrap();
        assert_eq!(volume.attributes(small.node).unwrap().flags, ["archive"], "{options}");
        tree.compare(&Tree::read_placed(&volume, &image.disk()), checks(10_000_000), &options);
    }
}

#[test]
fn a_volume_in_use_is_read_with_a_warning() {
    let image = Image::new(64 << 20);
    image.run("mkfs.exfat", "-c 4096");
    let mounted = image.mounted(FUSE, "");
    WANTED.fill(mounted.folder());
    let tree = Tree::of(mounted.folder());
    Command::new("sync").status().unwrap();
    let copy = of_bytes(image.bytes(0, 64 << 20));
    drop(mounted);
    let volume = opened(copy).unwrap();
    assert_eq!(volume.info().warnings, [IN_USE]);
    // exfat-fuse writes the times of files that are no longer open.
    tree.compare(&Tree::read(&volume), checks(0), "in use");
}

/// A set's checksum, as it must be after a change.
pub(super) fn signed(mut set: Vec<u8>) -> Vec<u8> {
    let sum = set.iter().enumerate().filter(|(at, _)| !matches!(at, 2 | 3));
    let sum = sum.fold(0_u16, |sum, (_, byte)| sum.rotate_right(1).wrapping_add(u16::from(*byte)));
    set[2..4].copy_from_slice(&sum.to_le_bytes());
    set
}

/// The place and the bytes of a file's set, by its name of less than 16 letters.
pub(super) fn set(image: &Image, name: &str) -> (u64, Vec<u8>) {
    let units = name.encode_utf16().chain(std::iter::repeat(0)).take(15);
    let entry: Vec<u8> = [0xc1, 0].into_iter().chain(units.flat_map(u16::to_le_bytes)).collect();
    let at = find(image, &entry) - 64;
    (at, image.bytes(at, 96))
}

#[test]
fn bytes_that_were_never_written_are_zeros_and_cost_nothing() {
    let image = Image::new(6 << 30);
    image.run("mkfs.exfat", "-c 65536");
    let mounted = image.mounted(FUSE, "");
    std::fs::write(mounted.folder().join("sparse"), vec![7; 100_000]).unwrap();
    drop(mounted);
    let (at, mut bytes) = set(&image, "sparse");
    // What was there before is not the file's.
    let cluster = u64::from(u32::from_le_bytes(bytes[52..56].try_into().unwrap()));
    let heap = u64::from(u32::from_le_bytes(image.bytes(88, 4).try_into().unwrap())) * 512;
    let start = heap + (cluster - 2) * 65536;
    assert_eq!(image.bytes(start, 100_000), vec![7; 100_000]);
    image.write(start + 100_000, &[9; 100_000]);
    bytes[33] |= 2;
    bytes[40..48].copy_from_slice(&100_000_u64.to_le_bytes());
    bytes[56..64].copy_from_slice(&(5_u64 << 30).to_le_bytes());
    image.write(at, &signed(bytes));
    let volume = opened(image.disk()).unwrap();
    let stat = volume.lookup(1, b"sparse".to_vec()).unwrap();
    assert_eq!(stat.size_bytes, 5 << 30);
    let read = volume.read(stat.node, None, 99_990, 50_000).unwrap();
    assert_eq!(read, [vec![7; 10], vec![0; 49_990]].concat());
    assert_eq!(volume.next_data(stat.node, 99_999).unwrap(), Some(99_999));
    assert_eq!(volume.next_data(stat.node, 100_000).unwrap(), None);
    assert_eq!(volume.read(stat.node, None, (5 << 30) - 5, 100).unwrap(), [0; 5]);
}

#[test]
fn sets_that_cannot_be_are_shown_and_not_read() {
    let image = Image::new(16 << 20);
    image.run("mkfs.exfat", "-c 512");
    let mounted = image.mounted(FUSE, "");
    std::fs::create_dir(mounted.folder().join("folder")).unwrap();
    for name in ["one", "two", "three"] {
        std::fs::write(mounted.folder().join(name), vec![7; 5000]).unwrap();
    }
    let tree = Tree::of(mounted.folder());
    drop(mounted);
    let (at, whole) = set(&image, "two");
    let (of_folder, folder) = set(&image, "folder");
    let read = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = whole.clone();
        change(&mut bytes);
        image.write(at, &bytes);
        let volume = opened(image.disk()).unwrap();
        let list = volume.list(1, 0, 100).unwrap().entries;
        assert!(list.len() >= 4);
        let entry = list.into_iter().find(|entry| entry.stat.node & !31 == at).unwrap();
        let why = volume.stat(entry.stat.node).and_then(|_| volume.read(entry.stat.node, None, 0, 5000));
        (String::from_utf8(entry.name).unwrap(), why.map_or_else(|error| error.message, |_| "read".into()))
    };
    let is = |name: &str, why: &str| (name.to_owned(), why.to_owned());
    assert_eq!(read(&|_| {}), is("two", "read"));
    assert_eq!(read(&|set| set[40] ^= 1), is("two", "the checksum of a file's entries is wrong"));
    assert_eq!(
        read(&|set| set[64] = 0),
        is(&format!("damaged name at {at}"), "the entries of a file are not complete")
    );
    assert_eq!(read(&|set| set[32] = 0xc2), is("two", "the entries of a file are not complete"));
    let long = |set: &mut Vec<u8>, at: usize, number: u64| {
        set[at..at + 8].copy_from_slice(&number.to_le_bytes());
        *set = signed(std::mem::take(set));
    };
    assert_eq!(
        read(&|set| long(set, 40, 6000)),
        is("two", "6000 bytes were written of a file that has 5000")
    );
    assert_eq!(
        read(&|set| long(set, 56, 1 << 60)),
        is("two", "1152921504606846976 bytes of a file are more than the volume has")
    );
    // A name that would be a path elsewhere.
    let path = |set: &mut Vec<u8>| {
        set[66..68].copy_from_slice(b"/\0");
        *set = signed(std::mem::take(set));
    };
    assert_eq!(read(&path), is(&format!("damaged name at {at}"), "read"));
    image.write(at, &whole);
    // A folder that is the root.
    let mut circle = folder;
    circle[52..56].copy_from_slice(&image.bytes(96, 4));
    circle[33] &= !2;
    image.write(of_folder, &signed(circle));
    let found = Tree::read(&opened(image.disk()).unwrap());
    let refused: Vec<_> = found.refused().collect();
    assert_eq!(refused, [(&b"/folder/"[..], "two folders lie in the same place, or lead in a circle")]);
    assert_eq!(found.0.len(), tree.0.len() + 1);
}

#[test]
fn a_damaged_boot_region_is_replaced_by_its_copy() {
    let (image, tree) = filled("-c 4096", 16 << 20, Wanted { many: 20, large: 20_000, ..WANTED });
    let damaged = |at: u64, byte: u8| {
        let before = image.bytes(at, 1);
        image.write(at, &[byte]);
        let opened = opened(image.disk());
        image.write(at, &before);
        opened
    };
    for at in [92, 108, 109, 300] {
        let volume = damaged(at, 77).unwrap();
        assert_eq!(volume.info().warnings, ["the boot region is damaged: its copy was read"], "{at}");
        tree.compare(&Tree::read(&volume), checks(10_000_000), "by the copy");
    }
    assert_eq!(damaged(106, 4).unwrap().info().warnings, ["the guest noted failures of this volume's disk"]);
    assert_eq!(damaged(106, 2).unwrap().info().warnings, [IN_USE]);
    image.write(12 * 512 + 100, &[77]);
    let Error { kind, message, .. } = damaged(92, 77).unwrap_err();
    let words = "the boot region of exFAT is damaged, and its copy as well";
    assert_eq!((kind, message.as_str()), (ErrorKind::Corrupt, words));
}

#[test]
fn damage_is_an_error_and_never_a_crash() {
    let home = tempfile::tempdir().unwrap();
    Wanted { many: 100, large: 0, ..WANTED }.fill(home.path());
    let tree = without_large(home.path());
    let image = Image::new(4 << 20);
    image.run("mkfs.exfat", "-c 2048");
    let mounted = image.mounted(FUSE, "");
    let from = home.path().join(".");
    assert!(Command::new("cp").arg("-r").arg(from).arg(mounted.folder()).status().unwrap().success());
    drop(mounted);
    let damage = Damage { rounds: 10_000, names_checked: false, contents_checked: false, may_panic: false };
    let endured = damage.endure(&image, &tree, opened);
    eprintln!("{endured:?}");
    // Contents have no checksum, and a folder's end may come early.
    assert!(endured.partly > 1000 && endured.panicked == 0, "{endured:?}");
}
