//! Damaged images: names and links are right or refused, whatever was damaged.

use tidemark_fs_testing::Damage;

use super::*;

const SMALL: Wanted = Wanted { sparse: MIB, many: 150, large: 60_000, ..WANTED };
const DAMAGE: Damage =
    Damage { rounds: 10_000, names_checked: true, contents_checked: false, may_panic: false };

#[test]
fn damage_is_an_error_and_never_a_crash() {
    let (image, tree) = filled(20 * MIB, "-b size=1024", &SMALL);
    let endured = DAMAGE.endure(&image, &tree, opened);
    // Most of what is used are bytes of files, which have no checksums.
    assert!(endured.partly > 500 && endured.whole > 1000, "{endured:?}");
}

#[test]
fn a_damaged_journal_is_an_error_and_never_a_crash() {
    let image = made(20 * MIB, "-b size=1024");
    let mounted = image.mounted("xfs", "nouuid");
    SMALL.fill(mounted.folder());
    in_use::run("xfs_io", &["-x", "-c", "shutdown -f"], mounted.folder());
    drop(mounted);
    let (info, tree) = read(&image);
    assert!(info.journal_replayed, "{info:?}");
    // Where the journal cannot be replayed, older names are read, with a warning.
    let endured = Damage { rounds: 3000, names_checked: false, ..DAMAGE }.endure(&image, &tree, opened);
    assert!(endured.partly + endured.refused > 20 && endured.whole > 500, "{endured:?}");
}
