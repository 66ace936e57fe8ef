//! Many files, large files, and files in many pieces.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::*;

/// Leaves free space in pieces of one block of 1 KiB alone: a file takes all there is, and gives every other of its blocks back.
pub(super) fn fragment(folder: &Path, pieces: u64) {
    in_use::run("xfs_io", &["-x", "-c", "resblks 0"], folder);
    let path = folder.join("filler");
    let filler = File::create(&path).unwrap();
    let mut size = 0;
    for piece in [1 << 20, 64 << 10, 1 << 10] {
        while filler.write_all_at(&vec![7; piece], size).and_then(|()| filler.sync_data()).is_ok() {
            size += piece as u64;
        }
    }
    let mut script = String::new();
    for piece in 0..pieces {
        script.push_str(&format!("fpunch {} 1024\n", piece * 2048));
    }
    let home = tempfile(&script);
    in_use::run("sh", &["-c", &format!("xfs_io \"$0\" < {} > /dev/null", home.path().display())], &path);
    // What was set aside for the space's own maps can be used now, and lies together.
    in_use::run("fallocate", &["-l", "1800K"], &folder.join("rest"));
}

fn tempfile(content: &str) -> Image {
    let file = Image::new(content.len() as u64);
    file.write(0, content.as_bytes());
    file
}

#[test]
fn a_hundred_thousand_files_and_large_ones() {
    let wanted = Wanted { sparse: 5 << 30, many: 100_000, large: 40_000_003, ..WANTED };
    let image = made(1 << 30, "-b size=1024");
    let mounted = image.mounted("xfs", "nouuid");
    wanted.fill(mounted.folder());
    // Every other block of a file, whose map is a tree of three levels.
    let file = File::create(mounted.folder().join("pieces")).unwrap();
    file.set_len(40_000_000).unwrap();
    for number in 0..10_000_u64 {
        file.write_all_at(&number.to_le_bytes(), number * 4000).unwrap();
    }
    // Space that was promised and never written, with a few bytes in its midst and some beyond the end.
    let path = mounted.folder().join("promised");
    in_use::run("fallocate", &["-l", "3000000"], &path);
    in_use::run("fallocate", &["-n", "-l", "9000000"], &path);
    File::options().write(true).open(&path).unwrap().write_all_at(b"written", 1_234_567).unwrap();
    drop(file);
    let tree = Tree::of(mounted.folder());
    drop(mounted);
    let (info, found) = read(&image);
    assert!(info.warnings.is_empty(), "{info:?}");
    tree.compare(&found, ALL, "large");
    for time in [i64::MIN..0, 2_500_000_000_000_000_000..i64::MAX] {
        assert!(found.0.values().any(|item| item.modified_ns.is_some_and(|at| time.contains(&at))));
    }

    let volume = opened(image.disk()).unwrap();
    let stat = volume.lookup(volume.root(), b"pieces".to_vec()).unwrap();
    let inode = Opened::new(image.disk()).unwrap().inode(stat.node).unwrap();
    assert!(
        inode.extents > 9000 && inode.fork().starts_with(&[0, 2]),
        "{} {:?}",
        inode.extents,
        inode.fork().first_chunk::<2>()
    );
}
