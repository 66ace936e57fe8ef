//! The demo's virtual machine: what is on its two disks, and what its guest does between the two backups.
//!
//! Disk 0 holds ext4, disk 1 NTFS, each in a partition. The guest's work is done by the file systems' own tools on a
//! copy; the blocks that then differ are written into the running VM, as its guest would.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tidemark_tests::changes::{Write, between};
use tidemark_tests::disk::{Fill, RawDisk, bytes};
use tidemark_tests::filesystem::{
    PARTITION_START, check_ext4, collect_files, extract_partition, make_disk, make_ext4, make_ntfs, put_ext4,
    put_ntfs, read_ntfs, remove_ext4,
};
use tidemark_tests::site::files_below;

const GIB: u64 = 1 << 30;
const DATA: u64 = 300 << 20;
/// `ntfscp` runs once a file.
const NTFS_FILES: usize = 250;
const MBR_LINUX: u8 = 0x83;
const MBR_NTFS: u8 = 0x07;

/// One disk of the VM at one moment.
pub(crate) struct GuestDisk {
    /// What is on it, for the report.
    pub(crate) content: String,
    /// Its raw bytes.
    pub(crate) disk: RawDisk,
    partition: PathBuf,
}

/// Makes both disks in `folder`.
pub(crate) fn make_disks(folder: &Path) -> Result<Vec<GuestDisk>> {
    let files = folder.join("files");
    let count = collect_files(&files, DATA)?;
    fs::write(files.join("diary.txt"), diary("before"))?;

    let ext4 = folder.join("ext4.partition");
    make_ext4(&ext4, GIB - PARTITION_START, &files)?;
    let linux = GuestDisk {
        content: format!("ext4, {} files", count + 1),
        disk: make_disk(&folder.join("disk-0.raw"), GIB, MBR_LINUX, &ext4)?,
        partition: ext4,
    };
    let ntfs = folder.join("ntfs.partition");
    make_ntfs(&ntfs, GIB - PARTITION_START)?;
    let count = fill_ntfs(&ntfs, &files)?;
    let windows = GuestDisk {
        content: format!("NTFS, {count} files"),
        disk: make_disk(&folder.join("disk-1.raw"), GIB, MBR_NTFS, &ntfs)?,
        partition: ntfs,
    };
    fs::remove_dir_all(&files)?;
    Ok(vec![linux, windows])
}

fn fill_ntfs(image: &Path, files: &Path) -> Result<usize> {
    put_ntfs(image, &files.join("diary.txt"), "diary.txt")?;
    let mut sized = Vec::new();
    for path in files_below(files, "")? {
        sized.push((fs::metadata(&path)?.len(), path));
    }
    sized.sort_by(|a, b| b.cmp(a));
    let (mut count, mut bytes) = (1, 0);
    for (length, path) in sized.into_iter().take(NTFS_FILES) {
        if bytes + length > DATA {
            continue;
        }
        let name = path.file_name().and_then(|name| name.to_str()).context("a file name")?;
        put_ntfs(image, &path, &format!("{count:03}-{name}"))?;
        (count, bytes) = (count + 1, bytes + length);
    }
    Ok(count)
}

/// What the guest does between the backups: it rewrites a text, deletes a recording and writes new ones. Answers
/// the writes of each disk and how the disks are afterwards.
pub(crate) fn work(folder: &Path, before: &[GuestDisk]) -> Result<Vec<(Vec<Write>, RawDisk)>> {
    let (text, photo) = (folder.join("new-diary.txt"), folder.join("photo.bin"));
    fs::write(&text, diary("after"))?;
    fs::write(&photo, bytes(Fill::Noise(2026), 6 << 20))?;
    let mut done = Vec::new();
    for (index, guest) in before.iter().enumerate() {
        let changed = guest.partition.with_extension("after");
        RawDisk::open(&guest.partition)?.freeze(&changed)?;
        if index == 0 {
            remove_ext4(&changed, "diary.txt")?;
            put_ext4(&changed, &text, "diary.txt")?;
            put_ext4(&changed, &photo, "photo.bin")?;
        } else {
            put_ntfs(&changed, &text, "diary.txt")?;
            put_ntfs(&changed, &photo, "photo.bin")?;
        }
        let writes = between(&guest.partition, &changed, PARTITION_START)?;
        let after = guest.disk.freeze(&folder.join(format!("disk-{index}.after.raw")))?;
        for write in &writes {
            after.write(write.offset, &write.content)?;
        }
        fs::remove_file(&changed)?;
        done.push((writes, after));
    }
    Ok(done)
}

/// Looks into the restored disks as their guests would: ext4 is clean, and the NTFS diary has today's text.
pub(crate) fn look_inside(disk: usize, restored: &Path) -> Result<()> {
    let partition = restored.with_extension("partition");
    extract_partition(restored, &partition)?;
    let seen = match disk {
        0 => check_ext4(&partition),
        _ => read_ntfs(&partition, "diary.txt").and_then(|text| {
            anyhow::ensure!(text == diary("after"), "the diary has another text");
            Ok(())
        }),
    };
    fs::remove_file(&partition)?;
    seen
}

fn diary(when: &str) -> String {
    format!("What was written {when} the first backup.\n").repeat(500)
}
