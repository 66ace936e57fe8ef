//! What is large: a folder, a hole, and a file in many pieces.

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::*;

/// Nanoseconds that this thread had a core.
fn busy() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    text.split(' ').next().unwrap().parse().unwrap()
}

#[test]
fn a_large_folder_and_a_large_hole_are_read() {
    let image = made(3 << 30, "-t ext4 -N 120000");
    let mounted = image.mounted("ext4", "barrier=0");
    Wanted { many: 100_000, sparse: 0, large: 30 << 20, ..TREE }.fill(mounted.folder());
    drop(mounted);
    let tree = super::mounted(&image, "ext4");
    tree.compare(&Tree::read_placed(&opened(&image).unwrap(), &image.disk()), CHECKS, "large");
    let mounted = image.mounted("ext4", "barrier=0");
    let file = File::create(mounted.folder().join("sparse")).unwrap();
    let places = [0, 1 << 32, (5 << 30) - 7];
    for at in places {
        file.write_all_at(b"7 bytes", at).unwrap();
    }
    drop((file, mounted));

    let volume = opened(&image).unwrap();
    let many = volume.lookup(volume.root(), b"many".to_vec()).unwrap().node;
    let start = busy();
    let (mut cursor, mut count) = (Some(0), 0);
    while let Some(at) = cursor {
        let page = volume.list(many, at, 1000).unwrap();
        count += page.entries.len();
        cursor = page.next;
    }
    println!("{count} entries in {} µs", (busy() - start) / 1000);
    assert_eq!(count, 100_000);
    let file = volume.lookup(volume.root(), b"large".to_vec()).unwrap();
    let (start, mut at) = (busy(), 0);
    while at < file.size_bytes {
        at += volume.read(file.node, None, at, 1 << 20).unwrap().len() as u64;
    }
    println!("{at} bytes in {} µs", (busy() - start) / 1000);
    let sparse = volume.lookup(volume.root(), b"sparse".to_vec()).unwrap();
    assert_eq!(sparse.size_bytes, 5 << 30);
    let (mut at, mut found) = (0, Vec::new());
    while let Some(data) = volume.next_data(sparse.node, at).unwrap() {
        found.push(data);
        at = data + 4096;
    }
    assert_eq!(found, [0, 1 << 32, (5 << 30) - 4096]);
    for at in places {
        assert_eq!(volume.read(sparse.node, None, at, 7).unwrap(), b"7 bytes");
    }
    assert_eq!(volume.read(sparse.node, None, 1 << 31, 1 << 20).unwrap(), vec![0; 1 << 20]);
}

#[test]
fn maps_lead_over_holes_of_every_size() {
    for options in
        ["-t ext2 -b 1024", "-t ext3 -b 4096", "-t ext4 -b 1024", "-t ext4 -b 1024 -O ^metadata_csum,^64bit"]
    {
        let image = made(256 << 20, options);
        let mounted = image.mounted(options.get(3..7).unwrap(), "barrier=0");
        let file = File::create(mounted.folder().join("holes")).unwrap();
        // Around the first block of each level of pointers, and far beyond.
        let block = if options.contains("1024") { 1024 } else { 4096_u64 };
        let per_block = block / 4;
        let mut firsts = vec![12, 12 + per_block];
        if block == 1024 {
            firsts.extend([12 + per_block + per_block * per_block, per_block * per_block * 3]);
        }
        for first in firsts {
            for at in [first - 1, first, first + 1, first + per_block * 7] {
                file.write_all_at(&at.to_le_bytes(), at * block + 9).unwrap();
            }
        }
        file.set_len(if block == 1024 { 200 << 20 } else { 40 << 20 } + 5).unwrap();
        // More pieces than a window of the map has room for, in the third level of pointers.
        if block == 1024 {
            for number in 0..18_000_u64 {
                file.write_all_at(&number.to_le_bytes(), (70 << 20) + number * 2048).unwrap();
            }
        }
        drop((file, mounted));
        let tree = super::mounted(&image, options.get(3..7).unwrap());
        tree.compare(&Tree::read_placed(&opened(&image).unwrap(), &image.disk()), CHECKS, options);
    }
}
