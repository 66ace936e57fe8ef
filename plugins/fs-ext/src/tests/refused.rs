//! What is not read, and the words for it.

use tidemark_plugin::ErrorKind;

use super::*;

/// The error of an image that is refused.
fn refusal(image: &Image) -> Error {
    opened(image).err().unwrap()
}

#[test]
fn what_is_no_ext_is_none() {
    for image in [Image::new(1 << 20), Image::new(100), Image::new(0)] {
        assert!(Superblock::probe(&image.disk()).unwrap().is_none());
        assert_eq!(refusal(&image).kind, ErrorKind::Corrupt);
    }
    let journal = Image::new(16 << 20);
    journal.run("mke2fs", "-q -F -b 4096 -O journal_dev");
    assert!(Superblock::probe(&journal.disk()).unwrap().is_none());
    let foreign = Image::new(1 << 20);
    foreign.write(0, &[0x53; 1 << 20]);
    assert!(Superblock::probe(&foreign.disk()).unwrap().is_none());
}

#[test]
fn unknown_features_are_refused_by_name() {
    let image = made(8 << 20, "-t ext4 -O ^metadata_csum");
    for (bit, name) in [(1_u32, "compression"), (0x1000, "dirdata"), (0x4_0000, "0x40000")] {
        let before: [u8; 4] = image.bytes(1024 + 0x60, 4).try_into().unwrap();
        image.write(1024 + 0x60, &(u32::from_le_bytes(before) | bit).to_le_bytes());
        let error = refusal(&image);
        image.write(1024 + 0x60, &before);
        assert_eq!(error.kind, ErrorKind::Unsupported);
        assert!(
            error.message.contains(name) && error.message.contains("restore the disk"),
            "{}",
            error.message
        );
    }
    read(&image, "as before");
}

#[test]
fn what_is_encrypted_is_shown_and_refused() {
    let image = made(8 << 20, "-t ext4 -O encrypt");
    let mounted = image.mounted("ext4", "");
    for name in ["folder", "other"] {
        std::fs::create_dir(mounted.folder().join(name)).unwrap();
        std::fs::write(mounted.folder().join(name).join("file"), "secret").unwrap();
    }
    std::os::unix::fs::symlink("secret", mounted.folder().join("link")).unwrap();
    drop(mounted);
    debugfs(&image, "sif folder flags 0x80800\nsif other/file flags 0x80800\nsif link flags 0x800\n");
    let tree = read(&image, "encrypted");
    let refused: Vec<_> = tree.refused().map(|(path, why)| (String::from_utf8_lossy(path), why)).collect();
    assert_eq!(
        refused.iter().map(|(path, _)| path.as_ref()).collect::<Vec<_>>(),
        ["/folder/", "/link", "/other/file"]
    );
    assert!(
        refused.iter().all(|(_, why)| why.ends_with("encrypted (fscrypt): only the guest has the key")),
        "{refused:?}"
    );
    let volume = opened(&image).unwrap();
    let folder = volume.lookup(volume.root(), b"folder".to_vec()).unwrap();
    assert_eq!(volume.list(folder.node, 0, 10).unwrap_err().kind, ErrorKind::Unsupported);
}

#[test]
fn nodes_that_are_nobody_s_are_not_found() {
    let volume = opened(&made(8 << 20, "-t ext4")).unwrap();
    for node in [0, 1, 3, 8, 1 << 20, u64::from(u32::MAX), 1 << 40] {
        assert_eq!(volume.stat(node).unwrap_err().kind, ErrorKind::NotFound, "{node}");
    }
    let root = volume.root();
    assert!(volume.read(root, None, 0, 1).is_err() && volume.readlink(root).is_err());
    assert!(
        volume.read(root, Some(b"stream".to_vec()), 0, 1).is_err()
            && volume.streams(root).unwrap().is_empty()
    );
}

#[test]
fn what_an_administrator_must_know_is_said() {
    let warned = |image: &Image, words: &str| {
        let warnings = opened(image).unwrap().info().warnings;
        assert!(warnings.len() == 1 && warnings[0].contains(words), "{words}: {warnings:?}");
    };
    let image = made(8 << 20, "-t ext2");
    debugfs(&image, "ssv state 0\n");
    warned(&image, "has no journal");
    debugfs(&image, "ssv state 3\n");
    warned(&image, "the guest found errors");
    let image = made(8 << 20, "-t ext4");
    debugfs(&image, "feature needs_recovery\nssv journal_inum 0\n");
    warned(&image, "its journal lies on another disk");
    let image = made(8 << 20, "-t ext4");
    debugfs(&image, "feature needs_recovery\n");
    warned(&image, "nothing that is not in its place");
    let image = made(8 << 20, "-t ext4");
    let disk = image.disk();
    let short = CachedDisk::over(7 << 20, move |offset, length| {
        let mut bytes = vec![0; length as usize];
        disk.read(offset, &mut bytes)?;
        Ok(bytes)
    });
    assert!(Opened::new(short).unwrap().info().warnings[0].contains("larger than its volume"));
}
