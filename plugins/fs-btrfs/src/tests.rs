//! Real images of `mkfs.btrfs`, filled through the kernel, whole and damaged.

mod damage;
mod refused;
mod trees;

use tidemark_fs_testing::{Checks, Image, Tree, Wanted};
use tidemark_plugin::Result;
use tidemark_plugin::disk::CachedDisk;
use tidemark_plugin::nodes::ByInode;

use super::*;

const WANTED: Wanted = Wanted {
    links: true,
    owners: true,
    times: true,
    longest_name: 255,
    sparse: 64 << 20,
    many: 300,
    large: 3 << 20,
};
const CHECKS: Checks = Checks { time_step_ns: 1, owners: true, links: true };

fn open(disk: CachedDisk) -> Result<ByInode<Opened>> {
    Opened::new(disk).map(ByInode::new)
}

/// An empty file system.
fn made(size: u64, options: &str) -> Image {
    let image = Image::new(size);
    image.run("mkfs.btrfs", &format!("-q -f -L label {options}"));
    image
}

/// A file system with a tree in it, and that tree.
fn filled(size: u64, options: &str, mount: &str, wanted: &Wanted) -> (Image, Tree) {
    let image = made(size, options);
    let mounted = image.mounted("btrfs", &format!("nobarrier,{mount}"));
    wanted.fill(mounted.folder());
    drop(mounted);
    // What the kernel shows once all is written.
    let mounted = image.mounted("btrfs", "ro");
    let tree = Tree::of(mounted.folder());
    drop(mounted);
    (image, tree)
}

/// The same numbers in each run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % bound as u64).unwrap()
    }
}
