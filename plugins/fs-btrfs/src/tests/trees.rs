//! What is read is what the kernel shows.

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use tidemark_fs_testing::Content;
use tidemark_plugin::attributes::Attributes;
use tidemark_plugin::guest_filesystem::{GuestVolume, NodeKind};

use super::*;

const MIB: u64 = 1 << 20;
/// Sizes with options of `mkfs.btrfs` and of `mount`.
const SETS: [(u64, &str, &str); 19] = [
    (160 * MIB, "", "defaults"),
    (160 * MIB, "-m single -d single", "defaults"),
    (256 * MIB, "-m dup -d dup", "compress-force=lzo"),
    (96 * MIB, "--mixed -m single -d single", "defaults"),
    (160 * MIB, "--mixed -m dup -d dup", "compress-force=zstd"),
    (160 * MIB, "--csum xxhash", "compress-force=zlib"),
    (160 * MIB, "--csum sha256", "compress-force=lzo"),
    (160 * MIB, "--csum blake2", "compress-force=zstd"),
    (160 * MIB, "-n 4096", "compress-force=zlib:9"),
    (160 * MIB, "-n 8192", "compress-force=zstd:15"),
    (160 * MIB, "-n 32768", "defaults"),
    (160 * MIB, "-n 65536", "compress-force=lzo"),
    (160 * MIB, "-n 65536 --csum sha256 -m single", "max_inline=4000"),
    (160 * MIB, "-O ^no-holes", "defaults"),
    (160 * MIB, "-O ^no-holes,^extref,^skinny-metadata", "compress-force=zstd"),
    (160 * MIB, "-R ^free-space-tree", "space_cache=v1"),
    (160 * MIB, "-R quota", "autodefrag,compress=zstd,max_inline=0"),
    (160 * MIB, "-d raid0 -m raid0", "nodatasum"),
    (160 * MIB, "-O ^no-holes", "nodatacow"),
];

/// What `Wanted` leaves out: text that compresses, room that was set aside, a device, and a file with a punched hole.
fn more(folder: &Path) {
    let text: String = (0..60_000).map(|line| format!("line {line} of a text that compresses\n")).collect();
    std::fs::write(folder.join("text"), &text).unwrap();
    std::fs::write(folder.join("short text"), &text[..1500]).unwrap();
    let tool = |program: &str, arguments: &[&str], name: &str| {
        let output = Command::new(program).args(arguments).arg(folder.join(name)).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    tool("fallocate", &["-l", "2M"], "set aside");
    let file = std::fs::File::options().write(true).open(folder.join("set aside")).unwrap();
    file.write_all_at(b"written into it", 1 << 20).unwrap();
    tool("fallocate", &["--keep-size", "-o", "4K", "-l", "1M"], "few");
    std::fs::write(folder.join("punched"), &text).unwrap();
    tool("fallocate", &["--punch-hole", "-o", "300000", "-l", "800000"], "punched");
    std::fs::write(folder.join("grown"), b"inline").unwrap();
    std::fs::File::options().write(true).open(folder.join("grown")).unwrap().set_len(1 << 20).unwrap();
    std::fs::write(folder.join("cut"), &text).unwrap();
    std::fs::File::options().write(true).open(folder.join("cut")).unwrap().set_len(200_123).unwrap();
    tool("mkfifo", &[], "pipe");
    std::fs::copy(folder.join("text"), folder.join("cloned")).unwrap();
    // Into the midst of what is compressed.
    let file = std::fs::File::options().write(true).open(folder.join("cloned")).unwrap();
    file.write_all_at(b"in the midst", 500_001).unwrap();
}

#[test]
fn every_option_set_gives_every_byte() {
    for (size, options, mount) in SETS {
        let image = made(size, options);
        let what = format!("{options} {mount}");
        let mounted = image.mounted("btrfs", &format!("nobarrier,{mount}"));
        WANTED.fill(mounted.folder());
        more(mounted.folder());
        drop(mounted);
        let mounted = image.mounted("btrfs", "ro");
        let tree = Tree::of(mounted.folder());
        drop(mounted);
        let volume = open(image.disk()).unwrap();
        let info = volume.info();
        assert_eq!((info.filesystem.as_str(), info.label.as_str()), ("btrfs", "label"), "{what}");
        assert_eq!((info.total_bytes, info.uuid.len()), (size, 36), "{what}");
        assert!(info.warnings.is_empty() && !info.journal_replayed, "{what}: {info:?}");
        let found = Tree::read(&volume);
        tree.compare(&found, CHECKS, &what);
        assert!(tree.0.len() > 320 && found.refused().next().is_none(), "{what}");
    }
}

#[test]
fn what_is_large_is_read_and_holes_cost_nothing() {
    let wanted = Wanted { many: 100_000, large: 40 << 20, sparse: 5 << 30, ..WANTED };
    let (image, tree) = filled(512 * MIB, "", "compress=zstd", &wanted);
    let volume = open(image.disk()).unwrap();
    tree.compare(&Tree::read(&volume), CHECKS, "large");
    let sparse = volume.lookup(volume.root(), b"sparse".to_vec()).unwrap();
    assert_eq!(sparse.size_bytes, 5 << 30);
    assert_eq!(volume.next_data(sparse.node, 4096).unwrap(), Some((5 << 29) + 12_345 - 57));
    assert_eq!(volume.next_data(sparse.node, 5 << 30).unwrap(), None);
    let few = volume.lookup(volume.root(), b"few".to_vec()).unwrap();
    assert_eq!(few.modified_ns, Some(-86_400 * 400 * 1_000_000_000));
    assert!(few.created_ns.is_some_and(|made| made > 1_700_000_000_000_000_000) && few.accessed_ns.is_some());
}

#[test]
fn subvolumes_and_snapshots_are_folders() {
    let image = made(160 * MIB, "");
    let mounted = image.mounted("btrfs", "defaults");
    let folder = mounted.folder();
    let btrfs = |arguments: &str| {
        let output = Command::new("btrfs").args(arguments.split(' ')).current_dir(folder).output().unwrap();
        assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
    };
    btrfs("subvolume create one");
    std::fs::write(folder.join("one/file"), b"in one").unwrap();
    btrfs("subvolume create one/two");
    std::fs::create_dir(folder.join("one/two/deep")).unwrap();
    std::fs::write(folder.join("one/two/deep/file"), vec![7; 100_000]).unwrap();
    std::fs::create_dir(folder.join("snapshots")).unwrap();
    btrfs("subvolume snapshot -r one snapshots/first");
    std::fs::write(folder.join("one/file"), b"in one, later").unwrap();
    for number in 0..50 {
        btrfs(&format!("subvolume snapshot one snapshots/{number}"));
    }
    btrfs("subvolume create gone");
    btrfs("subvolume delete gone");
    std::fs::rename(folder.join("one/two"), folder.join("moved")).unwrap();
    // Who mounts it without a word sees only this one.
    btrfs("subvolume set-default one");
    drop(mounted);
    let mounted = image.mounted("btrfs", "ro,subvolid=5");
    let mut tree = Tree::of(mounted.folder());
    drop(mounted);
    let volume = open(image.disk()).unwrap();
    let mut found = Tree::read(&volume);
    // The kernel makes up what the folder is that stands for a subvolume in a snapshot.
    for tree in [&mut tree, &mut found] {
        for (path, item) in &mut tree.0 {
            if path.starts_with(b"/snapshots/") && path.ends_with(b"/two") {
                (item.modified_ns, item.mode, item.owner) = (None, None, (None, None));
            }
        }
    }
    tree.compare(&found, CHECKS, "subvolumes");
    let content = |path: &[u8]| found.0.get(path).map(|item| item.content.clone());
    assert_eq!(content(b"/moved/deep"), Some(Content::Folder));
    assert_eq!(content(b"/snapshots/49/two"), Some(Content::Folder));
    assert!(content(b"/one/two").is_none() && content(b"/snapshots/first/two/deep").is_none());
    assert!(matches!(content(b"/snapshots/first/file"), Some(Content::File(6, _))));
    assert!(matches!(content(b"/snapshots/7/file"), Some(Content::File(13, _))));
}

#[test]
fn what_is_no_file_or_folder_is_shown_and_not_read() {
    let image = made(160 * MIB, "");
    let mounted = image.mounted("btrfs", "defaults");
    std::fs::write(mounted.folder().join("few"), b"x").unwrap();
    more(mounted.folder());
    drop(mounted);
    let volume = open(image.disk()).unwrap();
    let look = |name: &str| volume.lookup(volume.root(), name.as_bytes().to_vec()).unwrap();
    let pipe = look("pipe");
    assert_eq!(pipe.kind, NodeKind::Other);
    assert!(volume.read(pipe.node, None, 0, 1).is_err() && volume.list(pipe.node, 0, 1).is_err());
    let text = look("text");
    assert!(volume.read(text.node, Some(b"stream".to_vec()), 0, 1).is_err());
    assert_eq!(volume.read(text.node, None, 5, 10).unwrap(), b"0 of a tex");
    assert!(volume.lookup(volume.root(), b"no such".to_vec()).is_err() && volume.stat(1 << 50).is_err());
}

#[test]
fn what_is_set_for_a_file_is_told() {
    let image = made(160 * MIB, "");
    image.mounted("btrfs", "").mark("idAc");
    let volume = open(image.disk()).unwrap();
    let marked = volume.lookup(volume.root(), b"marked".to_vec()).unwrap();
    let attributes = volume.attributes(marked.node).unwrap();
    assert_eq!(attributes.flags, ["immutable", "no-dump", "no-access-time", "compressed"]);
    assert!(attributes.access_list.is_none());
    assert!(volume.attributes(volume.root()).unwrap().flags.is_empty());
}
