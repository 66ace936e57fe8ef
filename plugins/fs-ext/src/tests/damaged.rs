//! Damage of images with and without checksums.

use tidemark_fs_testing::{Damage, Endured};

use super::*;

/// Little that is not metadata: names in an index, a file in many pieces, holes, links.
fn fill(folder: &Path) {
    std::fs::create_dir_all(folder.join("many/deep")).unwrap();
    for number in 0..80 {
        std::fs::write(folder.join(format!("many/a file with the number {number}")), [b'x'; 9]).unwrap();
    }
    let pieces = std::fs::File::create(folder.join("pieces")).unwrap();
    for number in 0..40_u64 {
        std::os::unix::fs::FileExt::write_all_at(&pieces, b"piece", number * 3000).unwrap();
    }
    std::os::unix::fs::symlink("pieces", folder.join("link")).unwrap();
    std::os::unix::fs::symlink("long/".repeat(50), folder.join("long link")).unwrap();
    std::fs::hard_link(folder.join("pieces"), folder.join("many/deep/second")).unwrap();
    std::fs::write(folder.join("many/deep/small"), [b'y'; 70]).unwrap();
}

fn endured(options: &str, rounds: u32, names_checked: bool) -> Endured {
    let image = made(4 << 20, options);
    let kind = options.get(3..7).unwrap();
    fill(image.mounted(kind, "barrier=0").folder());
    let tree = read(&image, options);
    assert_eq!(tree.refused().count(), 0);
    let damage = Damage { rounds, names_checked, contents_checked: false, may_panic: false };
    let endured = damage.endure(&image, &tree, |disk| Opened::new(disk).map(ByInode::new));
    println!("{options}: {endured:?}");
    endured
}

#[test]
fn checksums_tell_damage() {
    let endured = endured("-t ext4 -b 1024 -O ^has_journal", 10_000, true);
    assert!(endured.refused > 20 && endured.partly > 1000 && endured.whole > 1000, "{endured:?}");
    assert_eq!(endured.panicked, 0);
}

#[test]
fn without_checksums_damage_is_an_error_or_shows_but_never_more() {
    for options in ["-t ext2 -b 1024", "-t ext4 -b 4096 -O ^metadata_csum,^has_journal,inline_data"] {
        let endured = endured(options, 3000, false);
        assert!(endured.refused > 5 && endured.partly > 50 && endured.panicked == 0, "{endured:?}");
    }
}

/// Where the journal ends early, an older state is read, as the kernel would; whatever else is wrong with it is an error.
#[test]
fn a_damaged_journal_is_endured() {
    let image = made(4 << 20, "-t ext4 -b 1024");
    let mounted = image.mounted("ext4", "barrier=0,commit=300,data=journal");
    fill(mounted.folder());
    std::fs::File::open(mounted.folder()).unwrap().sync_all().unwrap();
    let copied = copy(&image);
    drop(mounted);
    assert!(opened(&copied).unwrap().info().journal_replayed);
    let tree = read(&copied, "journal");
    let damage = Damage { rounds: 2000, names_checked: false, contents_checked: false, may_panic: false };
    let endured = damage.endure(&copied, &tree, |disk| Opened::new(disk).map(ByInode::new));
    println!("journal: {endured:?}");
    assert!(endured.refused > 200 && endured.panicked == 0, "{endured:?}");
}
