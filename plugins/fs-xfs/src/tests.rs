//! Real images of `mkfs.xfs`, filled by the kernel and by `mkfs.xfs` itself, whole, in use and damaged.

mod damage;
mod in_use;
mod large;
mod version_4;

use tidemark_fs_testing::{Checks, Image, Tree, Wanted};
use tidemark_plugin::ErrorKind;
use tidemark_plugin::attributes::Attributes;
use tidemark_plugin::guest_filesystem::GuestVolume;

use super::*;

const MIB: u64 = 1 << 20;
const ALL: Checks = Checks { time_step_ns: 1, owners: true, links: true };
const WANTED: Wanted = Wanted {
    links: true,
    owners: true,
    times: true,
    longest_name: 255,
    sparse: 64 * MIB,
    many: 1200,
    large: 3_000_001,
};

/// Option sets of `mkfs.xfs`: sizes of blocks, of directories' blocks, inodes and sectors, and what each feature changes.
const SETS: [&str; 16] = [
    "",
    "-b size=1024",
    "-b size=1024 -n size=65536 -d agcount=16",
    "-b size=2048 -n size=8192 -i size=1024",
    "-b size=16384 -n size=32768",
    "-b size=65536",
    "-n size=16384",
    "-n size=65536 -i size=1024",
    "-m reflink=0,rmapbt=0,finobt=0,inobtcount=0 -i sparse=0",
    "-m reflink=1,rmapbt=1",
    "-m bigtime=0",
    "-i nrext64=1",
    "-i nrext64=0 -i maxpct=90",
    "-s size=4096 -l sunit=64",
    "-d su=64k,sw=4 -l su=256k",
    "-d agcount=12 -l agnum=7",
];

/// An image with a file system.
fn made(size: u64, options: &str) -> Image {
    let image = Image::new(size);
    image.run("mkfs.xfs", &format!("--unsupported -q -f -L label {options}"));
    image
}

/// An image with a file system that the kernel filled, and what it shows of it.
fn filled(size: u64, options: &str, wanted: &Wanted) -> (Image, Tree) {
    let image = made(size, options);
    let mounted = image.mounted("xfs", "nouuid");
    wanted.fill(mounted.folder());
    let tree = Tree::of(mounted.folder());
    drop(mounted);
    (image, tree)
}

fn opened(disk: CachedDisk) -> Result<ByInode<Opened>> {
    Opened::new(disk).map(ByInode::new)
}

fn read(image: &Image) -> (VolumeInfo, Tree) {
    let volume = opened(image.disk()).unwrap();
    (volume.info(), Tree::read(&volume))
}

#[test]
fn every_option_set_gives_every_byte() {
    for options in SETS {
        let (image, tree) = filled(320 * MIB, options, &WANTED);
        assert!(Superblock::probe(&image.disk()).unwrap(), "{options}");
        let volume = opened(image.disk()).unwrap();
        let info = volume.info();
        assert_eq!((info.filesystem.as_str(), info.label.as_str()), ("xfs", "label"), "{options}");
        // Of stripes only whole ones are used.
        assert_eq!((info.uuid.len(), info.total_bytes.div_ceil(MIB)), (36, 320), "{options}");
        assert!(info.warnings.is_empty() && !info.journal_replayed, "{options}: {info:?}");
        tree.compare(&Tree::read_placed(&volume, &image.disk()), ALL, options);
    }
}

#[test]
fn another_uuid_changes_no_metadata() {
    let (image, tree) = filled(32 * MIB, "", &Wanted { many: 300, large: 100_000, ..WANTED });
    let uuid = "12345678-9abc-def0-1234-56789abcdef0";
    image.run("xfs_admin", &format!("-U {uuid}"));
    let (info, found) = read(&image);
    assert_eq!((info.uuid.as_str(), info.warnings.len()), (uuid, 0));
    tree.compare(&found, ALL, "another uuid");
}

#[test]
fn what_is_not_read_is_said() {
    for foreign in [vec![], vec![7; 100], vec![0; 1 << 20], b"XFSB".repeat(300)] {
        let size = foreign.len() as u64;
        let disk = move || {
            let foreign = foreign.clone();
            CachedDisk::over(size, move |offset, length| {
                let start = index(offset)?;
                Ok(foreign[start..start + length as usize].to_vec())
            })
        };
        assert!(!Superblock::probe(&disk()).unwrap());
        assert_eq!(opened(disk()).unwrap_err().kind, ErrorKind::Corrupt);
    }
    for (bits, words) in [
        (0x10_u32, "run xfs_repair"),
        (0x100, "metadata directories"),
        (0x600, "zones, gaps between zones"),
        (0x8000_0200, "zones, feature bits 0x80000000"),
    ] {
        let image = made(32 * MIB, "");
        let mut sector = image.bytes(0, 512);
        for (byte, bits) in sector[216..220].iter_mut().zip(bits.to_be_bytes()) {
            *byte |= bits;
        }
        checksum::set(&mut sector, superblock::CRC_AT);
        image.write(0, &sector);
        let error = opened(image.disk()).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unsupported);
        assert!(error.message.contains(words), "{}", error.message);
        sector[40] ^= 1;
        image.write(0, &sector);
        let error = opened(image.disk()).unwrap_err();
        assert!(error.message.contains("checksum"), "{}", error.message);
    }
}

#[test]
fn bytes_on_a_realtime_device_and_beyond_the_end_are_refused() {
    let (image, _) = filled(32 * MIB, "", &Wanted { many: 10, large: 100_000, ..WANTED });
    let volume = opened(image.disk()).unwrap();
    let node = volume.lookup(volume.root(), b"odd".to_vec()).unwrap().node;
    let at = Superblock::read(&image.disk()).unwrap().inode_at(node).unwrap();
    let mut inode = image.bytes(at, 512);
    inode[91] |= 1;
    checksum::set(&mut inode, inode::CRC_AT);
    image.write(at, &inode);
    let error = opened(image.disk()).unwrap().read(node, None, 0, 1).unwrap_err();
    assert!(error.kind == ErrorKind::Unsupported && error.message.contains("realtime"), "{error:?}");

    let bytes = image.bytes(0, 16 << 20);
    let short = CachedDisk::over(16 * MIB, move |offset, length| {
        let start = index(offset)?;
        Ok(bytes[start..start + length as usize].to_vec())
    });
    let volume = opened(short).unwrap();
    assert!(volume.info().warnings.iter().any(|warning| warning.contains("ends early")));
}

#[test]
fn what_is_set_for_a_file_is_told() {
    let image = made(32 * MIB, "");
    image.mounted("xfs", "").mark("iadAS");
    let volume = opened(image.disk()).unwrap();
    let marked = volume.lookup(volume.root(), b"marked".to_vec()).unwrap();
    let attributes = volume.attributes(marked.node).unwrap();
    assert_eq!(attributes.flags, ["immutable", "append-only", "synchronous", "no-access-time", "no-dump"]);
    assert!(attributes.access_list.is_none());
    assert!(volume.attributes(volume.root()).unwrap().flags.is_empty());
}
