//! FAT12, FAT16 and FAT32.

use std::path::Path;
use std::process::Command;

use tempfile::TempDir;
use tidemark_fs_testing::Damage;
use tidemark_plugin::attributes::Attributes;
use tidemark_plugin::guest_filesystem::GuestVolume;

use super::*;

const STEP: i64 = 2_000_000_000;

/// A tool of mtools on an image, with times as UTC and names as UTF-8.
pub(super) fn mtool(image: &Image, tool: &str, arguments: &[&str], files: &[&Path]) {
    let mut command = Command::new(tool);
    command.envs([("MTOOLS_SKIP_CHECK", "1"), ("TZ", "UTC"), ("LC_ALL", "C.UTF-8")]);
    command.arg("-i").arg(image.path()).args(arguments).args(files);
    if tool == "mcopy" {
        command.arg("::/");
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{tool}: {}", String::from_utf8_lossy(&output.stderr));
}

/// All that a folder has, copied into the root.
pub(super) fn fill(image: &Image, folder: &Path) {
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    mtool(image, "mcopy", &["-s", "-m", "-o"], &files.iter().map(|path| path.as_path()).collect::<Vec<_>>());
}

fn source(wanted: Wanted) -> (TempDir, Tree) {
    let home = tempfile::tempdir().unwrap();
    wanted.fill(home.path());
    // mtools writes letters beyond the first 65,536 wrongly.
    std::fs::remove_file(home.path().join("emoji 🦀")).unwrap();
    for name in ["small.txt", "BIG.TXT", "Mixed.Txt", "half.TXT", "a+b", ".hidden"] {
        std::fs::write(home.path().join(name), name).unwrap();
    }
    touch(&home.path().join("small.txt"), 315_532_802 * 1_000_000_000);
    touch(&home.path().join("BIG.TXT"), 4_354_819_198 * 1_000_000_000);
    let tree = Tree::of(home.path());
    (home, tree)
}

fn filled(options: &str, size: u64, folder: &Path) -> Image {
    let image = Image::new(size);
    image.run("mkfs.vfat", &format!("-n LABEL -i 1234abcd {options}"));
    fill(&image, folder);
    image
}

#[test]
fn every_cluster_size_gives_every_byte() {
    let (home, tree) = source(WANTED);
    // Sectors, the sizes of clusters in them, and how many clusters make it one of the three.
    let mut sets = Vec::new();
    for (sector, most) in [(512, 128), (1024, 64), (2048, 32), (4096, 16)] {
        for per_cluster in (0..8).map(|shift| 1 << shift).filter(|per_cluster| *per_cluster <= most) {
            // Of the larger sectors some are enough.
            if sector == 512 || matches!(per_cluster, 1 | 8) {
                sets.extend([(12, 4000), (16, 9000), (32, 66_600)].map(|kind| (kind, sector, per_cluster)));
            }
        }
    }
    for ((bits, clusters), sector, per_cluster) in sets {
        let options = format!("-F {bits} -S {sector} -s {per_cluster}");
        let (cluster_bytes, all) = (sector * per_cluster, WANTED.many as u64 * 2 / 3 + 30);
        let size = clusters * cluster_bytes;
        if size < 2 << 20 || bits == 12 && clusters < all {
            continue;
        }
        let image = filled(&options, size, home.path());
        let volume = opened(image.disk()).unwrap();
        let info = volume.info();
        assert_eq!(info.filesystem, format!("fat{bits}"), "{options}");
        assert_eq!(probed(&image.disk()).unwrap(), Some(info.filesystem.as_str()), "{options}");
        assert_eq!((info.label.as_str(), info.uuid.as_str()), ("LABEL", "1234-ABCD"), "{options}");
        assert!(
            info.warnings.is_empty() && info.total_bytes.abs_diff(size) < 256 << 10,
            "{options}: {info:?}"
        );
        tree.compare(&Tree::read_placed(&volume, &image.disk()), checks(STEP), &options);
    }
}

#[test]
fn whatever_mkfs_does_otherwise_is_read() {
    let (home, tree) = source(Wanted { many: 20, large: 20_000, ..WANTED });
    for (options, size, name) in [
        ("", 3 << 20, "fat12"),
        ("", 100 << 20, "fat16"),
        ("", 600 << 20, "fat32"),
        ("-a", 64 << 20, "fat16"),
        ("-f 1", 64 << 20, "fat16"),
        ("-f 4", 64 << 20, "fat16"),
        ("-f 1 -F 32", 64 << 20, "fat32"),
        ("-R 99 -F 32", 64 << 20, "fat32"),
        ("-r 1024 -F 16", 64 << 20, "fat16"),
        ("-h 2048 -g 255/63 -D 128", 64 << 20, "fat16"),
        ("-M 0xF0", 4 << 20, "fat12"),
    ] {
        let image = filled(options, size, home.path());
        let volume = opened(image.disk()).unwrap_or_else(|error| panic!("{options}: {}", error.message));
        assert_eq!((volume.info().filesystem.as_str(), volume.info().warnings), (name, vec![]), "{options}");
        tree.compare(&Tree::read(&volume), checks(STEP), options);
    }
}

#[test]
fn fat32_is_told_by_its_table_and_not_by_its_clusters() {
    let (home, tree) = source(Wanted { many: 20, large: 20_000, ..WANTED });
    // Small boot partitions have fewer clusters than FAT32 should have. mtools takes those for FAT16.
    let image = filled("-F 32 -s 1", 40 << 20, home.path());
    image.write(32, &30_000_u32.to_le_bytes());
    let volume = opened(image.disk()).unwrap();
    assert_eq!(volume.info().filesystem, "fat32");
    tree.compare(&Tree::read(&volume), checks(STEP), "few clusters");
}

#[test]
fn what_was_left_in_use_is_read_with_a_warning() {
    let (home, tree) = source(Wanted { many: 20, large: 20_000, ..WANTED });
    let warned = |image: &Image| {
        let volume = opened(image.disk()).unwrap();
        tree.compare(&Tree::read(&volume), checks(STEP), "in use");
        volume.info().warnings.join("; ")
    };
    let in_use =
        "the file system was in use when it was backed up: what was being written then may be incomplete";
    // By Windows in the table, by Linux in the boot sector.
    for (options, size, table_mark, clean, unhealthy, state) in [
        ("-F 16 -f 1", 64 << 20, 4 * 512 + 2, 0x7f_u8, 0xbf_u8, 0x25),
        ("-F 32 -f 1", 64 << 20, 32 * 512 + 4, 0x07, 0x0b, 0x41),
    ] {
        let image = filled(options, size, home.path());
        let table_mark =
            if options.contains("16") { u64::from(image.bytes(14, 1)[0]) * 512 + 2 } else { table_mark };
        let last = table_mark + if options.contains("16") { 1 } else { 3 };
        image.write(state, &[1]);
        assert_eq!(warned(&image), in_use, "{options}");
        image.write(state, &[0]);
        image.write(last, &[clean]);
        assert_eq!(warned(&image), in_use, "{options}");
        image.write(last, &[unhealthy]);
        assert_eq!(warned(&image), "the guest noted read or write errors of this volume's disk", "{options}");
    }
}

#[test]
fn the_table_in_force_is_read_and_a_differing_copy_told() {
    let (home, tree) = source(Wanted { many: 20, ..WANTED });
    let image = filled("-F 32", 64 << 20, home.path());
    let table_bytes = u64::from(u32::from_le_bytes(image.bytes(36, 4).try_into().unwrap())) * 512;
    let first = 32 * 512;
    image.write(first + 12, &[0; 4000]);
    let volume = opened(image.disk()).unwrap();
    let differ = "the copies of the allocation table differ: the one in force was read";
    assert_eq!(volume.info().warnings, [differ]);
    // The root's own chain may lead into what is free now.
    assert!(Tree::read(&volume).refused().next().is_some());
    // Bit 7: the table is not mirrored; the second one is in force.
    image.write(40, &[0x81]);
    let volume = opened(image.disk()).unwrap();
    assert!(volume.info().warnings.is_empty() && table_bytes > 4000);
    tree.compare(&Tree::read(&volume), checks(STEP), "the second table");
    image.write(40, &[0x82]);
    assert_eq!(probed(&image.disk()).unwrap(), None, "there is no third one");
}

#[test]
fn chains_that_cannot_be_are_errors() {
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("FILE"), vec![7; 512 * 10]).unwrap();
    std::fs::create_dir(home.path().join("FOLDER")).unwrap();
    let image = filled("-F 16 -s 1 -f 1", 8 << 20, home.path());
    let table = u64::from(image.bytes(14, 1)[0]) * 512;
    let entry = |name: &[u8; 11]| find(&image, name);
    let first = |at: u64| u16::from_le_bytes(image.bytes(at + 26, 2).try_into().unwrap());
    let (file, folder) = (entry(b"FILE       "), entry(b"FOLDER     "));
    let (start, of_folder) = (first(file), first(folder));
    let refused = |name: &str| {
        let read = Tree::read(&opened(image.disk()).unwrap());
        let refused = read.refused().find(|(path, _)| path.starts_with(name.as_bytes()));
        refused.map(|(_, why)| why.to_owned())
    };
    assert_eq!((refused("/FILE"), refused("/FOLDER")), (None, None));
    let fifth = table + u64::from(start + 5) * 2;
    let next = image.bytes(fifth, 2);
    for (number, why) in [
        (0xffff_u16, "a chain ends after 6 clusters, and the file has 10".to_owned()),
        (0, format!("a chain leads from cluster {} to a free one", start + 5)),
        (1, "cluster 1 is none of the volume's".to_owned()),
        (0xfff7, format!("a chain leads from cluster {} to one marked as bad", start + 5)),
        (0xffe0, "cluster 65504 is none of the volume's".to_owned()),
        (start + 2, "a chain of clusters leads in a circle".to_owned()),
    ] {
        image.write(fifth, &number.to_le_bytes());
        assert_eq!(refused("/FILE"), Some(why));
    }
    image.write(fifth, &next);
    // A folder that is another's bytes, or the root, or without an end.
    for (cluster, why) in [
        (start, "what should be a folder does not begin with an entry for itself".to_owned()),
        (of_folder + 1, format!("a chain leads from cluster {} to a free one", of_folder + 1)),
        (0, "two folders lie in the same place, or lead in a circle".to_owned()),
    ] {
        image.write(folder + 26, &cluster.to_le_bytes());
        assert_eq!(refused("/FOLDER"), Some(why), "{cluster}");
    }
    image.write(folder + 26, &of_folder.to_le_bytes());
    image.write(table + u64::from(of_folder) * 2, &of_folder.to_le_bytes());
    assert_eq!(refused("/FOLDER").as_deref(), Some("a chain of clusters leads in a circle"));
    image.write(table + u64::from(of_folder) * 2, &[0xff; 2]);
    // A second name for it is no second folder.
    image.write(file, &[b"SECOND     ".as_slice(), &image.bytes(folder + 11, 21)].concat());
    let why = "two folders lie in the same place, or lead in a circle";
    let both = [refused("/FOLDER"), refused("/SECOND")];
    assert!(both.iter().flatten().eq([why]), "{both:?}");
}

#[test]
fn what_is_not_read_is_said() {
    let image = Image::new(64 << 20);
    image.run("mkfs.vfat", "-F 32");
    image.write(424, b"\x3b\xd6\x67\x49\x29\x2e\xd8\x4a\x83\x99\xf6\xa3\x39\xe3\xd0\x01");
    let words = "the volume is encrypted (BitLocker To Go): only the guest has the key";
    assert_eq!(refusal(image.disk()), (ErrorKind::Unsupported, words.into()));
    let image = Image::new(64 << 20);
    image.run("mkfs.vfat", "-F 16");
    let volume = opened(of_bytes(image.bytes(0, 1 << 20))).unwrap();
    let warnings = volume.info().warnings;
    assert!(matches!(warnings.as_slice(), [one] if one.contains("beyond the end")), "{warnings:?}");
    assert!(opened(of_bytes(image.bytes(0, 1024))).is_err());
    assert!(volume.read(1, None, 0, 1).is_err() && volume.readlink(1).is_err() && volume.stat(77).is_err());
}

#[test]
fn a_lost_sector_of_a_folder_is_seen_where_long_names_follow_it() {
    let (home, tree) = source(Wanted { many: 200, large: 20_000, ..WANTED });
    let image = filled("-F 16 -s 4", 64 << 20, home.path());
    // Two sectors after the one with the folder's beginning.
    let at = find(&image, b"FILE-0~7   ") / 512 * 512 + 1024;
    image.write(at, &[0; 512]);
    let read = Tree::read(&opened(image.disk()).unwrap());
    let lost: Vec<_> = tree.0.keys().filter(|path| !read.0.contains_key(*path)).collect();
    assert!((4..=10).contains(&lost.len()), "{}", lost.len());
    let told = read.0.keys().filter(|path| path.starts_with(b"/many/damaged entries at "));
    assert_eq!(told.count(), 1);
}

#[test]
fn damage_is_an_error_and_never_a_crash() {
    let (home, _) = source(Wanted { many: 100, large: 0, ..WANTED });
    let tree = without_large(home.path());
    for (options, size) in
        [("-F 12 -s 4", 6 << 20), ("-F 16 -s 2 -f 1", 6 << 20), ("-F 32 -s 1 -f 1", 35 << 20)]
    {
        let image = filled(options, size, home.path());
        let damage = Damage { rounds: 5000, names_checked: false, contents_checked: false, may_panic: false };
        let endured = damage.endure(&image, &tree, opened);
        eprintln!("{options}: {endured:?}");
        // Nothing of FAT has a checksum: much damage passes as other names and other contents.
        assert!(
            endured.partly > 500 && endured.refused > 20 && endured.panicked == 0,
            "{options}: {endured:?}"
        );
    }
}

#[test]
fn what_is_set_for_a_file_is_told() {
    let (home, _) = source(Wanted { many: 20, large: 20_000, ..WANTED });
    let image = filled("", 16 << 20, home.path());
    mtool(&image, "mattrib", &["+h", "+s", "+r", "::/small"], &[]);
    let volume = opened(image.disk()).unwrap();
    let flags = |name: &str| {
        let node = volume.lookup(volume.root(), name.into()).unwrap().node;
        volume.attributes(node).unwrap().flags
    };
    assert_eq!(flags("small"), ["read-only", "hidden", "system", "archive"]);
    assert_eq!((flags("few"), flags("many")), (vec!["archive".to_owned()], vec![]));
}
