//! Real volumes of `mkntfs`, filled through ntfs-3g, whole and damaged.

use std::os::unix::fs::FileExt;
use std::path::Path;

use tidemark_fs_testing::{Checks, Damage, Image, Tree, Wanted, run_as_root};
use tidemark_plugin::ErrorKind;
use tidemark_plugin::attributes::Attributes;
use tidemark_plugin::guest_filesystem::{GuestVolume, NodeKind};
use tidemark_plugin::nodes::ByInode;

use super::*;

const SMALL: Wanted = Wanted {
    links: true,
    owners: false,
    times: true,
    longest_name: 255,
    sparse: 3 << 20,
    many: 700,
    large: 1 << 20,
};
const CHECKS: Checks = Checks { time_step_ns: 100, owners: false, links: true };

/// A volume, filled while it is mounted.
fn volume(size: u64, mkntfs: &str, options: &str, fill: impl FnOnce(&Path)) -> (Image, Tree) {
    let image = Image::new(size);
    image.run("mkntfs", &format!("-q -F -L label {mkntfs}"));
    let mounted = image.mounted("ntfs-3g", options);
    fill(mounted.folder());
    let tree = Tree::of(mounted.folder());
    drop(mounted);
    (image, tree)
}

fn opened(image: &Image) -> ByInode<Ntfs> {
    ByInode::new(Ntfs::open(image.disk()).unwrap())
}

#[test]
fn every_cluster_size_gives_every_byte() {
    for cluster in [512, 1024, 2048, 4096, 8192, 16_384, 32_768, 65_536] {
        let (image, tree) = volume(200 << 20, &format!("-c {cluster}"), "", |folder| SMALL.fill(folder));
        let reader = opened(&image);
        let info = GuestVolume::info(&reader);
        assert_eq!((info.filesystem.as_str(), info.label.as_str()), ("ntfs", "label"));
        assert!(info.warnings.is_empty() && info.uuid.len() == 16, "{info:?}");
        let found = Tree::read_placed(&reader, &image.disk());
        tree.compare(&found, CHECKS, &format!("clusters of {cluster}"));
    }
}

#[test]
fn thousands_of_files_and_five_gibibytes_of_nothing() {
    // A hundred thousand are read end to end.
    let wanted = Wanted { sparse: 5 << 30, many: 10_000, large: 20 << 20, ..SMALL };
    let (image, tree) = volume(8 << 30, "", "", |folder| wanted.fill(folder));
    tree.compare(&Tree::read_placed(&opened(&image), &image.disk()), CHECKS, "a large volume");
}

#[test]
fn compressed_files_are_read() {
    let text = |length: usize| -> Vec<u8> {
        (0..length / 8).flat_map(|at| format!("{:07} ", at / 3).into_bytes()).collect()
    };
    let (image, tree) = volume(200 << 20, "-C -c 4096", "compression", |folder| {
        SMALL.fill(folder);
        std::fs::write(folder.join("text"), text(3_000_000)).unwrap();
        std::fs::write(folder.join("zeros"), vec![0; 1_000_000]).unwrap();
        std::fs::write(folder.join("short text"), text(9000)).unwrap();
        // Units of text, of noise and of nothing by turns, and a hole of ten.
        let mixed = std::fs::File::create(folder.join("mixed")).unwrap();
        let noise = std::fs::read(folder.join("large")).unwrap();
        for unit in 0..10_u64 {
            let content = if unit % 2 == 0 { &text(1 << 16) } else { &noise[..1 << 16] };
            mixed.write_all_at(content, (unit * 3) << 16).unwrap();
        }
        mixed.write_all_at(b"the end", 40 << 16).unwrap();
    });
    let used = image.run("ntfsinfo", "-F text -q");
    assert!(used.contains("COMPRESSED"), "nothing was compressed: {used}");
    tree.compare(&Tree::read_placed(&opened(&image), &image.disk()), CHECKS, "compressed");
}

#[test]
fn a_file_in_thousands_of_pieces_is_whole() {
    let (image, tree) = volume(64 << 20, "-c 4096", "", |folder| {
        std::fs::create_dir(folder.join("d")).unwrap();
        for number in 0..10_000 {
            std::fs::write(folder.join(format!("d/{number}")), [7; 4096]).unwrap();
        }
        for number in (0..10_000).step_by(2) {
            std::fs::remove_file(folder.join(format!("d/{number}"))).unwrap();
        }
        // Larger than what is free in one piece.
        let content: Vec<u8> =
            (0..16_u32 << 18).flat_map(|at| (at.wrapping_mul(0x9e37_79b9)).to_le_bytes()).collect();
        let written = std::fs::write(folder.join("pieces"), &content);
        if written.is_err() {
            std::fs::write(folder.join("pieces"), &content[..12 << 20]).unwrap();
        }
    });
    let listed = image.run("ntfsinfo", "-F pieces");
    assert!(listed.contains("$ATTRIBUTE_LIST"), "the file has no list of attributes: {listed}");
    tree.compare(&Tree::read_placed(&opened(&image), &image.disk()), CHECKS, "thousands of pieces");
}

#[test]
fn streams_links_and_owners_are_told() {
    let (image, _) =
        volume(64 << 20, "", "streams_interface=windows,special_files=wsl,permissions", |folder| {
            std::fs::write(folder.join("file"), b"main").unwrap();
            std::fs::write(folder.join("file:extra"), b"beside it").unwrap();
            std::fs::write(folder.join("file:große"), vec![5; 100_000]).unwrap();
            std::os::unix::fs::symlink("file", folder.join("link")).unwrap();
        });
    let reader = opened(&image);
    let file = reader.lookup(reader.root(), b"file".to_vec()).unwrap();
    assert_eq!(file.owner.as_deref(), Some("S-1-5-32-544"));
    let mut streams: Vec<(Vec<u8>, u64)> = reader
        .streams(file.node)
        .unwrap()
        .into_iter()
        .map(|stream| (stream.name, stream.size_bytes))
        .collect();
    streams.sort();
    assert_eq!(streams, [(b"extra".to_vec(), 9), ("große".as_bytes().to_vec(), 100_000)]);
    assert_eq!(reader.read(file.node, Some(b"extra".to_vec()), 7, 10).unwrap(), b"it");
    let large = reader.read(file.node, Some("große".as_bytes().to_vec()), 99_990, 100).unwrap();
    assert_eq!((large, reader.read(file.node, None, 0, 100).unwrap()), (vec![5; 10], b"main".to_vec()));
    let missing = reader.read(file.node, Some(b"none".to_vec()), 0, 1).unwrap_err();
    assert_eq!(missing.kind, ErrorKind::NotFound);
    let link = reader.lookup(reader.root(), b"link".to_vec()).unwrap();
    assert_eq!((link.kind, reader.readlink(link.node).unwrap()), (NodeKind::Symlink, b"file".to_vec()));
}

#[test]
fn what_is_set_and_who_may_do_what_is_told() {
    // Owner and group are administrators and SYSTEM; the one may do all, the other is denied to write.
    let descriptor = "010004801400000024000000000000003000000001020000000000052000000020020000010100000000000512000000\
                      0200340002000000010014001601120001010000000000051200000000031800ff011f0001020000000000052000000020020000";
    let (image, _) = volume(64 << 20, "", "permissions", |folder| {
        std::fs::write(folder.join("marked"), vec![1; 9000]).unwrap();
        std::fs::write(folder.join("plain"), b"").unwrap();
        // Hidden, system, read-only, not to be indexed.
        for (name, value) in [("ntfs_attrib_be", "00002007"), ("ntfs_acl", descriptor)] {
            let marked = folder.join("marked").display().to_string();
            let set = "import os, sys; os.setxattr(sys.argv[1], 'system.' + sys.argv[2], bytes.fromhex(sys.argv[3]))";
            run_as_root("python3", ["-c", set, &marked, name, value]);
        }
    });
    let reader = opened(&image);
    let attributes = |name: &str| {
        let node = reader.lookup(reader.root(), name.into()).unwrap().node;
        reader.attributes(node).unwrap()
    };
    let marked = attributes("marked");
    assert_eq!(marked.flags, ["read-only", "hidden", "system", "not-content-indexed"]);
    assert_eq!(marked.access_list.as_deref(), Some("O:BAG:SYD:(D;;FW;;;SY)(A;OICI;FA;;;BA)"));
    assert!(attributes("plain").access_list.is_some_and(|list| list.starts_with("O:BA")));
}

#[test]
fn what_is_no_volume_is_not_known_and_damage_has_a_way_round() {
    let (image, tree) = volume(32 << 20, "", "", |folder| SMALL.fill(folder));
    assert!(
        Boot::find(&Image::new(1 << 20).disk()).is_none() && Boot::find(&Image::new(100).disk()).is_none()
    );
    // The boot sector is gone, and the first record of the table.
    let boot = Boot::find(&image.disk()).unwrap();
    image.write(0, &[0; 512]);
    image.write(boot.table_at, &[0; 1024]);
    let reader = opened(&image);
    let warnings = GuestVolume::info(&reader).warnings;
    assert!(warnings[0].contains("file table") && warnings[1].contains("boot sector"), "{warnings:?}");
    tree.compare(&Tree::read(&reader), CHECKS, "from the copies");
    // And the copy of the record.
    image.write(boot.mirror_at, &[0; 1024]);
    assert_eq!(Ntfs::open(image.disk()).unwrap_err().kind, ErrorKind::Corrupt);
}

#[test]
fn a_volume_in_use_says_so() {
    let image = Image::new(32 << 20);
    image.run("mkntfs", "-q -F");
    let mounted = image.mounted("ntfs-3g", "");
    SMALL.fill(mounted.folder());
    drop(mounted);
    let boot = Boot::find(&image.disk()).unwrap();
    // The flag in $Volume that Windows sets while it writes: record 3, attribute 0x70.
    let at = boot.table_at + 3 * boot.record_bytes;
    let mut record = image.bytes(at, 1024);
    let place = record.windows(4).position(|bytes| bytes == 0x70_u32.to_le_bytes()).unwrap();
    record[place + 24 + 10] |= 1;
    image.write(at, &record);
    let warnings = GuestVolume::info(&opened(&image)).warnings;
    assert!(warnings[0].contains("in use when it was backed up"), "{warnings:?}");
}

#[test]
fn damage_is_an_error_and_never_a_crash() {
    let wanted = Wanted { many: 50, large: 20_000, sparse: 1 << 20, ..SMALL };
    let (image, tree) = volume(8 << 20, "-c 1024", "", |folder| wanted.fill(folder));
    let damage = Damage { rounds: 9000, names_checked: false, contents_checked: false, may_panic: false };
    // Records and index blocks have a word at their beginning, and are 1 and 4 KiB.
    let image_bytes = image.bytes(0, 8 << 20);
    let begins = |sector: usize, word: &[u8]| image_bytes[sector * 512..].starts_with(word);
    let structure = |sector: usize| {
        let record = (sector.saturating_sub(1)..=sector).any(|sector| begins(sector, b"FILE"));
        record || (sector.saturating_sub(7)..=sector).any(|sector| begins(sector, b"INDX"))
    };
    let endured = damage.endure_at(&image, &tree, structure, |disk| Ntfs::open(disk).map(ByInode::new));
    assert!(endured.refused > 50 && endured.partly > 3000, "{endured:?}");
    let damage = Damage { rounds: 1000, ..damage };
    let anywhere = damage.endure(&image, &tree, |disk| Ntfs::open(disk).map(ByInode::new));
    eprintln!("{endured:?} {anywhere:?}");
    assert!(anywhere.whole > 100 && anywhere.partly > 10, "{anywhere:?}");
}

#[test]
fn an_index_that_lost_a_block_is_refused() {
    let (image, _) = volume(32 << 20, "-c 4096", "", |folder| SMALL.fill(folder));
    let reader = opened(&image);
    let many = reader.lookup(reader.root(), b"many".to_vec()).unwrap();
    assert_eq!(reader.list(many.node, 0, 1000).unwrap().entries.len(), 700);
    // The first entry of the folder's root no longer leads to the block below it, whose bit stays set.
    let boot = Boot::find(&image.disk()).unwrap();
    let at = boot.table_at + (many.node >> 16) * boot.record_bytes;
    let mut record = image.bytes(at, 1024);
    let place = record.windows(4).rposition(|bytes| bytes == 0x90_u32.to_le_bytes()).unwrap();
    let half = |at: usize| usize::from(u16::from_le_bytes([record[at], record[at + 1]]));
    let header = place + half(place + 20) + 16;
    let flags = header + half(header) + 12;
    assert_eq!(record[flags] & 1, 1, "the entry has a child");
    record[flags] &= !1;
    image.write(at, &record);
    let refused = opened(&image).list(many.node, 0, 1000).unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Corrupt, "{}", refused.message);
    assert!(refused.message.contains("names would be missing"), "{}", refused.message);
}

#[test]
fn what_was_made_over_an_older_volume_is_not_the_older_one() {
    let (image, _) = volume(32 << 20, "", "", |folder| SMALL.fill(folder));
    // The boot sector is gone, its copy is not.
    image.write(0, &[0; 512]);
    assert!(Boot::find(&image.disk()).is_some_and(|boot| boot.is_copy));
    for (at, word) in [(0, &b"XFSB"[..]), (0, b"LUKS\xba\xbe"), (4086, b"SWAPSPACE2"), (1080, b"\x53\xef")] {
        let before = image.bytes(at, word.len());
        image.write(at, word);
        assert!(Boot::find(&image.disk()).is_none(), "{word:?}");
        image.write(at, &before);
    }
}
