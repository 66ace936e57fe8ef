//! Damage of discs.

use tidemark_fs_testing::Damage;

use super::*;

/// The place of a record by its plain name.
fn record(image: &[u8], name: &[u8]) -> usize {
    let mut found = image.windows(name.len()).enumerate().filter(|(at, window)| {
        *at > 33 && *window == name && usize::from(image[at - 1]) == name.len() && image[at - 33] > 33
    });
    found.next().unwrap().0 - 33
}

fn refused(image: &[u8]) -> Vec<(String, String)> {
    let found = Tree::read(&opened(of_bytes(image.to_vec())).unwrap());
    let refused =
        found.refused().map(|(path, why)| (String::from_utf8_lossy(path).into_owned(), why.to_owned()));
    refused.collect()
}

#[test]
fn records_that_cannot_be_are_errors() {
    let home = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(home.path().join("one/two")).unwrap();
    std::fs::write(home.path().join("file"), b"content").unwrap();
    let image = bytes(&disc(GENISOIMAGE, "-R", home.path()));
    assert_eq!(refused(&image), []);
    let (file, one, two) = (record(&image, b"FILE.;1"), record(&image, b"ONE"), record(&image, b"TWO"));
    let changed = |at: usize, bytes: &[u8]| {
        let mut image = image.clone();
        image[at..at + bytes.len()].copy_from_slice(bytes);
        image
    };
    let is = |path: &str, why: &str| vec![(path.to_owned(), why.to_owned())];
    // A folder that is the root again, and one that is a file.
    let both = |block: u32| [block.to_le_bytes(), block.to_be_bytes()].concat();
    let root = u32::from_le_bytes(image[32768 + 158..][..4].try_into().unwrap());
    let circle = changed(two + 2, &both(root));
    assert_eq!(refused(&circle), is("/one/two/", "two folders lie in the same place, or lead in a circle"));
    let itself = "what should be a folder does not begin with a record for itself";
    let of_file = u32::from_le_bytes(image[file + 2..][..4].try_into().unwrap());
    let why = refused(&changed(one + 2, &both(of_file)));
    assert!(
        matches!(why.as_slice(), [(path, why)] if path == "/one/" && (why == itself || why.starts_with("there is no record"))),
        "{why:?}"
    );
    // What the two forms of a number, or ISO 9660 and Rock Ridge, do not agree on is shown and not read.
    for damaged in [changed(file + 10, &[9]), changed(file + 25, &[2]), changed(one + 25, &[0])] {
        let volume = opened(of_bytes(damaged)).unwrap();
        let entries = volume.list(1, 0, 10).unwrap().entries;
        let others = entries
            .iter()
            .filter(|entry| entry.stat.kind == tidemark_plugin::guest_filesystem::NodeKind::Other);
        assert_eq!((entries.len(), others.count()), (2, 1));
    }
    // A record without a length hides those after it, which is told.
    let names = |image: Vec<u8>| {
        let entries = opened(of_bytes(image)).unwrap().list(1, 0, 10).unwrap().entries;
        entries.into_iter().map(|entry| String::from_utf8(entry.name).unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(names(changed(file, &[0])), [format!("damaged entries at {file}")]);
    assert_eq!(names(changed(file, &[20])), [format!("damaged entries at {file}")]);
    // The name itself is no name.
    let name = image[file..file + 200].windows(9).position(|window| window == b"NM\x09\x01\0file").unwrap();
    assert_eq!(names(changed(file + name + 5, b"a/bc")).first(), Some(&format!("damaged name at {file}")));
}

#[test]
fn a_continuation_that_has_no_end_is_an_error() {
    let home = tempfile::tempdir().unwrap();
    let name = "n".repeat(250);
    std::fs::write(home.path().join(&name), b"content").unwrap();
    let mut image = bytes(&disc(GENISOIMAGE, "-R", home.path()));
    let places: Vec<usize> =
        (0..image.len() - 28).filter(|at| image[*at..].starts_with(b"CE\x1c\x01")).collect();
    let root_extent = u32::from_le_bytes(image[32768 + 158..][..4].try_into().unwrap()) as usize * 2048;
    // The file's own, of which the place it goes on at becomes itself.
    let at = *places.iter().rfind(|at| **at > root_extent && **at < root_extent + 2048).unwrap();
    let [block, offset] = [at / 2048, at % 2048].map(|number| u32::try_from(number).unwrap());
    for (to, number) in [(4, block), (12, offset), (20, 28)] {
        image[at + to..at + to + 4].copy_from_slice(&number.to_le_bytes());
        image[at + to + 4..at + to + 8].copy_from_slice(&number.to_be_bytes());
    }
    let volume = opened(of_bytes(image)).unwrap();
    let entry = volume.list(1, 0, 10).unwrap().entries.remove(0);
    let error = volume.stat(entry.stat.node).unwrap_err();
    assert_eq!(error.message, "what Rock Ridge adds to a record has no end");
}

#[test]
fn damage_is_an_error_and_never_a_crash() {
    for (options, wanted) in [("-R", WANTED), ("--norock -J -joliet-long -joliet-utf16", JOLIET)] {
        let home = tempfile::tempdir().unwrap();
        Wanted { many: 200, large: 0, ..wanted }.fill(home.path());
        for name in ["odd", "a/second name", "large", "fragments one", "fragments two"] {
            let removed = std::fs::remove_file(home.path().join(name));
            assert!(removed.is_ok() || name == "a/second name", "{name}");
        }
        let tree = tree_of(home.path());
        let image = disc(XORRISO, options, home.path());
        let damage = Damage { rounds: 5000, names_checked: false, contents_checked: false, may_panic: false };
        let endured = damage.endure(&image, &tree, opened);
        eprintln!("{options}: {endured:?}");
        assert!(
            endured.partly > 500 && endured.refused > 10 && endured.panicked == 0,
            "{options}: {endured:?}"
        );
    }
}
