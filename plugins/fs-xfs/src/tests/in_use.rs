//! Images taken while the file system was in use: what the kernel shows after its own replay is what has to be read.

use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;
use std::process::Command;

use super::*;

pub(super) fn run(program: &str, arguments: &[&str], path: &Path) {
    let mut command = Command::new(program);
    command.env("PATH", format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default()));
    let output = command.args(arguments).arg(path).output().unwrap();
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
}

/// The same image again.
pub(super) fn copy(image: &Image) -> Image {
    let copy = Image::new(image.size());
    let from = image.path().to_str().unwrap();
    run("cp", &["--sparse=always", from], copy.path());
    copy
}

/// Numbers that are the same in each run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// All that changes metadata: files that come, grow, shrink, move and go, in folders that do too.
fn work(folder: &Path, random: &mut Random, steps: u64) {
    for step in 0..steps {
        let one = folder.join(format!("folder {}", random.below(12)));
        let other = folder.join(format!("folder {}", random.below(12)));
        drop(std::fs::create_dir(&one));
        let name = "n".repeat(usize::try_from(random.below(120)).unwrap());
        let file = one.join(format!("{}{name}", random.below(300)));
        let open = || std::fs::File::options().create(true).truncate(false).write(true).open(&file);
        // What fails, fails for what is not there, or is already.
        match random.below(16) {
            0..=5 => {
                if let Ok(open) = open() {
                    let at = random.below(60) * 3000;
                    open.write_all_at(format!("step {step} ").repeat(300).as_bytes(), at).unwrap();
                    if random.below(80) == 0 {
                        open.sync_data().unwrap();
                    }
                }
            }
            6..=7 => drop(std::fs::remove_file(&file)),
            8..=9 => drop(std::fs::rename(&file, other.join(format!("{}", random.below(300))))),
            10 => drop(open().map(|file| file.set_len(random.below(200_000)))),
            11 => drop(symlink("to/".repeat(usize::try_from(1 + random.below(330)).unwrap()), &file)),
            12 => drop(std::fs::hard_link(&file, other.join(format!("second {}", random.below(50))))),
            13 => {
                for number in 0..random.below(80) {
                    std::fs::write(one.join(format!("small {number}")), vec![1; 100]).unwrap();
                }
            }
            14 if random.below(12) == 0 => drop(std::fs::remove_dir_all(&one)),
            _ => drop(std::os::unix::fs::chown(&file, Some(7), Some(u32::try_from(step).unwrap()))),
        }
    }
}

/// What a reader has of a dirty image is what the kernel has of it.
fn compare(image: &Image, what: &str) -> VolumeInfo {
    let (info, found) = read(image);
    let kernel = copy(image);
    let mounted = kernel.mounted("xfs", "nouuid");
    let tree = Tree::of(mounted.folder());
    tree.compare(&found, ALL, what);
    // The journal has nothing of what is in files.
    tree.compare(&Tree::read_placed(&opened(image.disk()).unwrap(), &image.disk()), ALL, what);
    info
}

#[test]
fn the_journal_is_replayed_as_the_kernel_does() {
    let sets = [
        ("", 1500, true),
        ("", 8000, true),
        ("", 3000, false),
        ("-b size=1024", 2500, true),
        ("-n size=16384", 2000, true),
        ("-m reflink=0,bigtime=0 -i nrext64=0", 2000, true),
        ("-m rmapbt=1 -i nrext64=1,sparse=1,size=1024 -l su=256k", 2000, false),
        ("-b size=2048 -s size=2048 -l sunit=32", 2000, false),
    ];
    let mut replayed = 0;
    for (number, (options, steps, flush)) in sets.into_iter().enumerate() {
        let image = made(if options.contains("su=") { 320 } else { 96 } * MIB, options);
        let mounted = image.mounted("xfs", "nouuid");
        let mut random = Random(0x9e37_79b9 + number as u64);
        work(mounted.folder(), &mut random, steps);
        let shutdown = if flush { "shutdown -f" } else { "shutdown" };
        run("xfs_io", &["-x", "-c", shutdown], mounted.folder());
        drop(mounted);
        let info = compare(&image, options);
        assert_eq!(info.warnings.len(), usize::from(info.journal_replayed), "{options}: {info:?}");
        replayed += u32::from(info.journal_replayed);
    }
    assert!(replayed >= 6, "{replayed}");
}

/// Free space in pieces of one block makes directories of as many pieces, in the midst of whose blocks the journal changes
/// something.
#[test]
fn directories_in_pieces_are_read_clean_and_dirty() {
    for options in ["-b size=1024", "-b size=1024 -n size=8192"] {
        let image = made(48 * MIB, options);
        let mounted = image.mounted("xfs", "nouuid");
        let (folder, file) = (mounted.folder().join("pieces"), mounted.folder().join("file"));
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(&file, b"a file of many names").unwrap();
        large::fragment(mounted.folder(), 6000);
        let names = |from, to| {
            for number in from..to {
                std::fs::hard_link(&file, folder.join(format!("{number:>0100}"))).unwrap();
            }
        };
        names(0, 1500);
        drop(mounted);
        let volume = Opened::new(image.disk()).unwrap();
        let pieces = volume.list(volume.root()).unwrap().into_iter().find(|(name, _)| name == b"pieces");
        let inode = volume.inode(pieces.unwrap().1).unwrap();
        let runs = extents::runs(&volume.disk, &volume.superblock, &inode).unwrap();
        assert!(inode.format == inode::Format::Tree && runs.len() > 150, "{options}: {}", runs.len());

        let mounted = image.mounted("xfs", "nouuid");
        let tree = Tree::of(mounted.folder());
        tree.compare(&read(&image).1, ALL, options);
        names(1500, 1540);
        for number in (0..300).step_by(7) {
            std::fs::remove_file(folder.join(format!("{number:>0100}"))).unwrap();
        }
        // The kernel itself (6.18) does not mount the one with blocks in pieces, whose checksums it cannot tell either.
        let tree = Tree::of(mounted.folder());
        run("xfs_io", &["-x", "-c", "shutdown -f"], mounted.folder());
        drop(mounted);
        let (info, found) = read(&image);
        assert!(info.journal_replayed, "{options}: {info:?}");
        tree.compare(&found, ALL, options);
        let unsummed = Opened::new(image.disk()).unwrap().journal.unsummed;
        assert!(!unsummed.is_empty(), "{options}");
    }
}

#[test]
fn a_copy_of_a_mounted_volume_is_read() {
    let image = made(64 * MIB, "");
    let mounted = image.mounted("xfs", "nouuid");
    Wanted { sparse: 0, many: 700, large: 100_000, ..WANTED }.fill(mounted.folder());
    run("sync", &["-f"], mounted.folder());
    let taken = copy(&image);
    let tree = Tree::of(mounted.folder());
    let (info, found) = read(&taken);
    assert!(info.journal_replayed && info.warnings[0].contains("was replayed"), "{info:?}");
    tree.compare(&found, ALL, "in use");

    // A frozen one holds nothing in its journal but the superblock.
    run("xfs_freeze", &["-f"], mounted.folder());
    let taken = copy(&image);
    run("xfs_freeze", &["-u"], mounted.folder());
    let (info, found) = read(&taken);
    assert!(!info.journal_replayed && info.warnings.is_empty(), "{info:?}");
    tree.compare(&found, ALL, "frozen");
}

#[test]
fn a_journal_that_cannot_be_replayed_is_said() {
    let image = made(32 * MIB, "");
    let mounted = image.mounted("xfs", "nouuid");
    work(mounted.folder(), &mut Random(77), 300);
    run("xfs_io", &["-x", "-c", "shutdown -f"], mounted.folder());
    drop(mounted);
    let superblock = Superblock::read(&image.disk()).unwrap();
    let (first, blocks) = superblock.journal;
    let at = superblock.blocks_at(first, blocks).unwrap();
    let whole = image.bytes(at, index(blocks * superblock.block_bytes).unwrap());
    let headers = whole
        .chunks(512)
        .zip((at..).step_by(512))
        .filter(|(block, _)| block.starts_with(b"\xfe\xed\xba\xbe"));
    for (header, at) in headers {
        image.write(at + 100, &[header[100] ^ 1]);
    }
    let (info, found) = read(&image);
    assert!(!info.journal_replayed && info.warnings[0].contains("could not be replayed"), "{info:?}");
    assert_eq!(found.refused().count(), 0, "the file system as it was before");

    let (image, beside) = (Image::new(320 * MIB), Image::new(64 * MIB));
    image.run("mkfs.xfs", &format!("-q -f -l size=64m,logdev={}", beside.path().display()));
    let info = read(&image).0;
    assert!(!info.journal_replayed && info.warnings[0].contains("another device"), "{info:?}");
}
