//! Disks as guests have them: a partition table, a real file system, real files. Made without root, by
//! `mke2fs -d` and `ntfscp`.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::disk::{RawDisk, copy_sparse};
use crate::process::tool;

/// Where the only partition begins, in bytes: 1 MiB, as every installer of today has it.
pub const PARTITION_START: u64 = 1 << 20;

const SECTOR: u64 = 512;

/// Collects about `budget` bytes of this machine's own files below `target`: documentation, licences and Python's
/// library, then noise that does not compress. Answers the number of files.
///
/// # Errors
/// Where a file cannot be written.
pub fn collect_files(target: &Path, budget: u64) -> Result<usize> {
    let (mut files, mut bytes) = (0, 0);
    let sources =
        ["/usr/share/common-licenses", "/usr/lib/python3", "/usr/share/doc", "/usr/share", "/usr/lib"];
    for source in sources.map(Path::new) {
        let into = target.join(source.strip_prefix("/").unwrap_or(source));
        copy_folder(source, &into, budget * 2 / 3, &mut files, &mut bytes)?;
    }
    let mut noise = SmallRng::seed_from_u64(budget);
    let folder = target.join("media");
    fs::create_dir_all(&folder)?;
    while bytes < budget {
        let length = (budget - bytes).min(8 << 20);
        let mut content = vec![0; usize::try_from(length)?];
        noise.fill_bytes(&mut content);
        fs::write(folder.join(format!("recording-{files}.bin")), content)?;
        files += 1;
        bytes += length;
    }
    Ok(files)
}

fn copy_folder(source: &Path, target: &Path, budget: u64, files: &mut usize, bytes: &mut u64) -> Result<()> {
    // What this user may not read, or what vanishes meanwhile, is not needed.
    let Ok(entries) = fs::read_dir(source) else { return Ok(()) };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        if *bytes >= budget {
            return Ok(());
        }
        let (Ok(about), Some(name)) = (fs::symlink_metadata(&path), path.file_name()) else { continue };
        let to = target.join(name);
        if about.is_dir() {
            copy_folder(&path, &to, budget, files, bytes)?;
        } else if about.is_file() && about.len() < 16 << 20 && File::open(&path).is_ok() && !to.exists() {
            fs::create_dir_all(target)?;
            *bytes += fs::copy(&path, &to).with_context(|| to.display().to_string())?;
            *files += 1;
        }
    }
    Ok(())
}

/// Makes an ext4 file system of `size` bytes that holds the files below `folder`.
///
/// # Errors
/// What `mke2fs` says.
pub fn make_ext4(image: &Path, size: u64, folder: &Path) -> Result<()> {
    RawDisk::create(image, size)?;
    let options = ["-q", "-F", "-t", "ext4", "-L", "data", "-E", "root_owner=0:0", "-d"].map(Path::new);
    tool("mke2fs", options.into_iter().chain([folder, image]))?;
    Ok(())
}

/// Writes a file into an ext4 file system.
///
/// # Errors
/// What `debugfs` says.
pub fn put_ext4(image: &Path, file: &Path, name: &str) -> Result<()> {
    let request = format!("write {} {name}", file.display());
    debugfs(image, &request)
}

/// Removes a file from an ext4 file system.
///
/// # Errors
/// What `debugfs` says.
pub fn remove_ext4(image: &Path, name: &str) -> Result<()> {
    debugfs(image, &format!("rm {name}"))
}

/// Checks an ext4 file system without changing it.
///
/// # Errors
/// What `e2fsck` found.
pub fn check_ext4(image: &Path) -> Result<()> {
    tool("e2fsck", [Path::new("-f"), Path::new("-n"), image])?;
    Ok(())
}

fn debugfs(image: &Path, request: &str) -> Result<()> {
    tool("debugfs", [Path::new("-w"), Path::new("-R"), Path::new(request), image])?;
    Ok(())
}

/// Makes an empty NTFS file system of `size` bytes for a partition at [`PARTITION_START`].
///
/// # Errors
/// What `mkntfs` says.
pub fn make_ntfs(image: &Path, size: u64) -> Result<()> {
    RawDisk::create(image, size)?;
    let start = (PARTITION_START / SECTOR).to_string();
    let options = ["-F", "-Q", "-q", "-L", "Data", "-s", "512", "-H", "255", "-S", "63", "-p"];
    let options = options.into_iter().chain([start.as_str()]).map(Path::new);
    tool("mkntfs", options.chain([image]))?;
    Ok(())
}

/// Writes a file into the root folder of an NTFS file system.
///
/// # Errors
/// What `ntfscp` says.
pub fn put_ntfs(image: &Path, file: &Path, name: &str) -> Result<()> {
    tool("ntfscp", [Path::new("-q"), image, file, Path::new(name)])?;
    Ok(())
}

/// Reads a file of an NTFS file system.
///
/// # Errors
/// What `ntfscat` says.
pub fn read_ntfs(image: &Path, name: &str) -> Result<String> {
    tool("ntfscat", [image, Path::new(name)])
}

/// Makes a disk of `size` bytes whose only partition, of MBR type `kind`, holds `content`.
///
/// # Errors
/// Where the files fail or the content does not fit.
pub fn make_disk(path: &Path, size: u64, kind: u8, content: &Path) -> Result<RawDisk> {
    let disk = RawDisk::create(path, size)?;
    disk.write(0, &master_boot_record(&[(kind, PARTITION_START, size - PARTITION_START)])?)?;
    copy_sparse(content, path, PARTITION_START)?;
    RawDisk::open(path)
}

/// Cuts the partition's content out of a disk again.
///
/// # Errors
/// Where the files fail.
pub fn extract_partition(disk: &Path, to: &Path) -> Result<()> {
    let mut source = File::open(disk).with_context(|| disk.display().to_string())?;
    let size = source.metadata()?.len();
    std::io::copy(&mut (&mut source).take(PARTITION_START), &mut std::io::sink())?;
    let mut target = File::create(to).with_context(|| to.display().to_string())?;
    target.set_len(size - PARTITION_START)?;
    std::io::copy(&mut source, &mut target)?;
    target.flush()?;
    Ok(())
}

/// Makes an empty disk with up to four partitions, each by its MBR type and its size; answers where they begin.
///
/// # Errors
/// Where the file fails or they do not fit a master boot record.
pub fn make_partitioned(path: &Path, partitions: &[(u8, u64)]) -> Result<Vec<u64>> {
    let mut starts = Vec::new();
    let mut end = PARTITION_START;
    for (_, size) in partitions {
        starts.push(end);
        end += size.next_multiple_of(PARTITION_START);
    }
    let disk = RawDisk::create(path, end)?;
    let entries: Vec<_> =
        partitions.iter().zip(&starts).map(|((kind, size), start)| (*kind, *start, *size)).collect();
    disk.write(0, &master_boot_record(&entries)?)?;
    Ok(starts)
}

/// A master boot record with partitions by type, start and size.
fn master_boot_record(partitions: &[(u8, u64, u64)]) -> Result<[u8; 512]> {
    ensure!(partitions.len() <= 4, "{} partitions in a master boot record", partitions.len());
    let mut sector = [0; 512];
    sector[440..444].copy_from_slice(b"TIDE");
    for (entry, (kind, start, size)) in sector[446..510].chunks_mut(16).zip(partitions) {
        let sectors =
            |bytes: u64| u32::try_from(bytes / SECTOR).context("too large for a master boot record");
        // Cylinders and heads end at their maximum: "use the sector numbers instead".
        entry[1..4].copy_from_slice(&[0xfe, 0xff, 0xff]);
        entry[4] = *kind;
        entry[5..8].copy_from_slice(&[0xfe, 0xff, 0xff]);
        entry[8..12].copy_from_slice(&sectors(*start)?.to_le_bytes());
        entry[12..16].copy_from_slice(&sectors(*size)?.to_le_bytes());
    }
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    Ok(sector)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_go_in_and_come_out() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("files")).unwrap();
        fs::write(at("files/diary.txt"), "before").unwrap();
        fs::write(at("new.txt"), "after").unwrap();

        make_ext4(&at("ext4"), 24 << 20, &at("files")).unwrap();
        remove_ext4(&at("ext4"), "diary.txt").unwrap();
        put_ext4(&at("ext4"), &at("new.txt"), "diary.txt").unwrap();
        check_ext4(&at("ext4")).unwrap();

        make_ntfs(&at("ntfs"), 24 << 20).unwrap();
        put_ntfs(&at("ntfs"), &at("files/diary.txt"), "diary.txt").unwrap();
        put_ntfs(&at("ntfs"), &at("new.txt"), "diary.txt").unwrap();
        make_disk(&at("disk"), 25 << 20, 7, &at("ntfs")).unwrap();
        extract_partition(&at("disk"), &at("back")).unwrap();
        crate::disk::identical(&at("ntfs"), &at("back")).unwrap();
        assert_eq!(read_ntfs(&at("back"), "diary.txt").unwrap(), "after");
    }
}
