//! Real images, whole and damaged. FAT is filled by mtools, exFAT by exfat-fuse: not every kernel can mount them.

mod exfat;
mod fat;
mod large;

use tidemark_fs_testing::{Checks, Image, Tree, Wanted};
use tidemark_plugin::disk::CachedDisk;
use tidemark_plugin::nodes::ByInode;
use tidemark_plugin::{Error, ErrorKind, Result};

use crate::Opened;
use crate::volume::probed;

/// What FAT and exFAT can hold; their times are from 1980 to 2107.
const WANTED: Wanted = Wanted {
    links: false,
    owners: false,
    times: false,
    longest_name: 255,
    sparse: 0,
    many: 100,
    large: 200_000,
};

fn opened(disk: CachedDisk) -> Result<ByInode<Opened>> {
    Opened::new(disk).map(ByInode::new)
}

fn checks(time_step_ns: i64) -> Checks {
    Checks { time_step_ns, owners: false, links: false }
}

/// Sets a file's time of modification, in nanoseconds since 1970.
fn touch(path: &std::path::Path, nanoseconds: u64) {
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_nanos(nanoseconds);
    std::fs::File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
}

/// Takes the large files out of a folder, so that damage hits other things; gives what is left.
fn without_large(folder: &std::path::Path) -> Tree {
    for name in ["odd", "large", "fragments one", "fragments two"] {
        std::fs::remove_file(folder.join(name)).unwrap();
    }
    Tree::of(folder)
}

/// A disk of a few bytes.
fn of_bytes(bytes: Vec<u8>) -> CachedDisk {
    CachedDisk::over(bytes.len() as u64, move |offset, length| {
        let start = usize::try_from(offset).unwrap();
        Ok(bytes[start..start + length as usize].to_vec())
    })
}

fn refusal(disk: CachedDisk) -> (ErrorKind, String) {
    let Error { kind, message, .. } = Opened::new(disk).unwrap_err();
    (kind, message)
}

/// The place in an image of some bytes that are in it once.
fn find(image: &Image, what: &[u8]) -> u64 {
    let bytes = image.bytes(0, usize::try_from(image.size().min(64 << 20)).unwrap());
    let mut places = bytes.windows(what.len()).enumerate().filter(|(_, window)| *window == what);
    let place = places.next().unwrap().0 as u64;
    assert_eq!(places.count(), 0, "{what:?} is there twice");
    place
}

#[test]
fn what_is_neither_is_not_probed() {
    let ext = Image::new(4 << 20);
    ext.run("mke2fs", "-q -F");
    let mut code = vec![0; 4096];
    code[..3].copy_from_slice(b"\xeb\x3c\x90");
    code[510..512].copy_from_slice(b"\x55\xaa");
    for disk in
        [ext.disk(), of_bytes(code), of_bytes(vec![0; 1 << 20]), of_bytes(vec![7; 100]), of_bytes(vec![])]
    {
        assert_eq!(probed(&disk).unwrap(), None);
        assert_eq!(refusal(disk), (ErrorKind::Corrupt, "this is no FAT or exFAT file system".into()));
    }
}
