//! Real images of `mke2fs`, whole and damaged.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use tidemark_plugin::ErrorKind;

use super::*;

/// Option sets of `mke2fs`, each with what the file system is called.
const SETS: [(&str, &str); 18] = [
    ("-t ext2", "ext2"),
    ("-t ext2 -b 1024", "ext2"),
    ("-t ext2 -b 4096 -I 128", "ext2"),
    ("-t ext2 -O ^dir_index", "ext2"),
    ("-t ext3", "ext3"),
    ("-t ext3 -b 2048", "ext3"),
    ("-t ext3 -I 128", "ext3"),
    ("-t ext4", "ext4"),
    ("-t ext4 -b 1024", "ext4"),
    ("-t ext4 -b 2048", "ext4"),
    ("-t ext4 -b 4096", "ext4"),
    ("-t ext4 -I 512", "ext4"),
    ("-t ext4 -O ^extents,^64bit", "ext4"),
    ("-t ext4 -O ^64bit", "ext4"),
    ("-t ext4 -O ^metadata_csum", "ext4"),
    ("-t ext4 -O ^has_journal", "ext4"),
    ("-t ext4 -O ^flex_bg", "ext4"),
    ("-t ext4 -O ^sparse_super,^resize_inode", "ext4"),
];

type Tree = BTreeMap<Vec<u8>, Vec<u8>>;

fn fill(folder: &Path) -> Tree {
    let mut tree = Tree::new();
    std::fs::create_dir_all(folder.join("many/deep")).unwrap();
    let long = "n".repeat(255);
    for (name, length) in [("a", 0), ("grüße", 5), ("many/noise", 300_001), (long.as_str(), 4096)] {
        let content: Vec<u8> =
            (0..length).map(|at: u32| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        std::fs::write(folder.join(name), &content).unwrap();
        tree.insert(format!("/{name}").into_bytes(), content);
    }
    for number in 0..400 {
        let name = format!("many/deep/file-{number}");
        std::fs::write(folder.join(&name), name.as_bytes()).unwrap();
        tree.insert(format!("/{name}").into_bytes(), name.into_bytes());
    }
    // A hole of a megabyte before a few bytes.
    let mut sparse = vec![0; 1 << 20];
    sparse.extend(b"the end");
    let file = std::fs::File::create(folder.join("sparse")).unwrap();
    file.set_len(sparse.len() as u64).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"the end", 1 << 20).unwrap();
    tree.insert(b"/sparse".to_vec(), sparse);
    std::os::unix::fs::symlink("many/noise", folder.join("link")).unwrap();
    tree.insert(b"/link".to_vec(), b"many/noise".to_vec());
    tree
}

fn image(options: &str, folder: &Path) -> Vec<u8> {
    let path = folder.with_extension("image");
    std::fs::write(&path, []).unwrap();
    std::fs::File::options().write(true).open(&path).unwrap().set_len(12 << 20).unwrap();
    let mut mke2fs = Command::new("mke2fs");
    // The file-system tools lie in /sbin, which an ordinary user's PATH lacks on Debian.
    mke2fs.env("PATH", format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default()));
    mke2fs.args(["-q", "-F", "-L", "label", "-d"]).arg(folder).args(options.split(' ')).arg(&path);
    let made = mke2fs.output().unwrap();
    assert!(made.status.success(), "{options}: {}", String::from_utf8_lossy(&made.stderr));
    std::fs::read(path).unwrap()
}

fn opened(image: Vec<u8>) -> Result<Opened> {
    let size = image.len() as u64;
    let image = Arc::new(image);
    Opened::new(CachedDisk::over(size, move |offset, length| {
        let start = usize::try_from(offset).unwrap();
        Ok(image[start..start + length as usize].to_vec())
    }))
}

/// Every file and link, with what it holds, and the names of what cannot be read.
fn walk(volume: &Opened) -> (Tree, Vec<Vec<u8>>) {
    let (mut found, mut refused, mut waiting) = (Tree::new(), Vec::new(), vec![b"/".to_vec()]);
    // Loops of folders are the host's to bound; here a bound is enough.
    for _ in 0..500 {
        let Some(folder) = waiting.pop() else { break };
        let Ok(entries) = volume.list(&folder) else {
            refused.push(folder);
            continue;
        };
        for (name, stat) in entries {
            let entry_name = name.clone();
            let path = [folder.strip_suffix(b"/").unwrap_or(&folder), b"/", &name].concat();
            let content = match stat.kind {
                NodeKind::Directory => {
                    waiting.push(path);
                    continue;
                }
                NodeKind::File if stat.size_bytes > 8 << 20 => volume.read(&path, None, 0, 1 << 20),
                NodeKind::File => {
                    let size = u32::try_from(stat.size_bytes).unwrap();
                    // In two pieces, as a host asks.
                    let first = volume.read(&path, None, 0, size / 2);
                    first.and_then(|mut first| {
                        first.extend(volume.read(&path, None, u64::from(size / 2), size)?);
                        Ok(first)
                    })
                }
                NodeKind::Symlink => volume.readlink(&path),
                NodeKind::Other => Err(Error::corrupt("shown only")),
            };
            match content {
                Ok(content) => drop(found.insert(path, content)),
                Err(_) => refused.push(entry_name),
            }
        }
    }
    (found, refused)
}

#[test]
fn every_option_set_gives_every_byte() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("tree");
    std::fs::create_dir(&folder).unwrap();
    let tree = fill(&folder);
    for (options, name) in SETS {
        let volume = opened(image(options, &folder)).unwrap();
        let info = volume.info();
        assert_eq!((info.filesystem.as_str(), info.label.as_str()), (name, "label"), "{options}");
        assert_eq!(info.total_bytes, 12 << 20, "{options}");
        assert!(info.warnings.is_empty() && info.uuid.len() == 36, "{options}: {info:?}");
        let (found, refused) = walk(&volume);
        // A hole that spans a whole indirect block is refused by the crate where files are mapped block by block.
        // The hole of these tests is that large where blocks have 1 KiB, as they have in so small a file system.
        let small = !options.contains("-b 2048") && !options.contains("-b 4096");
        let mapped = small && (name != "ext4" || options.contains("^extents"));
        let expected: &[&[u8]] = if mapped { &[b"sparse"] } else { &[] };
        assert_eq!(refused, expected, "{options}");
        for (path, content) in tree.iter().filter(|(path, _)| !mapped || path.as_slice() != b"/sparse") {
            let shown = String::from_utf8_lossy(path);
            assert!(found.get(path) == Some(content), "{options}: {shown}");
        }
        assert_eq!(found.len() + refused.len(), tree.len(), "{options}");
    }
}

#[test]
fn what_is_not_read_is_said() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("tree");
    std::fs::create_dir(&folder).unwrap();
    let error = opened(image("-t ext4 -O inline_data", &folder)).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unsupported, "{}", error.message);
    assert_eq!(opened(vec![0; 1 << 20]).unwrap_err().kind, ErrorKind::Corrupt);
    assert_eq!(opened(vec![7; 100]).unwrap_err().kind, ErrorKind::Corrupt);
}

#[test]
fn damage_is_an_error_and_never_a_crash() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("tree");
    std::fs::create_dir(&folder).unwrap();
    let tree = fill(&folder);
    let whole = image("-t ext4", &folder);
    // Where anything lies: flips elsewhere show nothing.
    let used: Vec<usize> = (0..whole.len() / 512)
        .filter(|at| whole[at * 512..(at + 1) * 512].iter().any(|byte| *byte != 0))
        .collect();
    let (mut seed, mut told) = (0x2545_f491_4f6c_dd1d_u64, 0);
    let mut random = |below: usize| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        usize::try_from(seed % below as u64).unwrap()
    };
    for round in 0..300 {
        let mut damaged = whole.clone();
        for _ in 0..=random(4) {
            let sector = used[random(used.len())] * 512;
            match round % 3 {
                0 => damaged[sector + random(512)] ^= 1 << random(8),
                1 => damaged[sector..sector + 512].fill(0),
                _ => {
                    let from = used[random(used.len())] * 512;
                    damaged.copy_within(from..from + 512, sector);
                }
            }
        }
        match opened(damaged) {
            Ok(volume) => {
                let (found, refused) = walk(&volume);
                told += usize::from(!refused.is_empty());
                // Names come from checked metadata: none is invented.
                let strange = found.keys().find(|path| !tree.contains_key(*path));
                assert!(strange.is_none(), "round {round}: {strange:?}");
            }
            Err(_) => told += 1,
        }
    }
    assert!(told > 50, "{told} of 300 were noticed");
}
