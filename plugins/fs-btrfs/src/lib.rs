//! The reader `fs-btrfs`: btrfs on one device, from the published on-disk format. Nothing is written and no log is replayed.
//!
//! ```text
//! volume ─┬─▶ subvolumes ─┐
//!         ├─▶ items       ├─▶ tree ─▶ blocks ─┬─▶ chunks (logical to physical)
//!         └─▶ file ─▶ data┘                   └─▶ checksum
//!              └─▶ compression                     superblock
//! ```
//! Each block of metadata and each sector of data is held against its checksum; where there are two copies (DUP) and one is
//! damaged, the other is read. The root is the top level (subvolume 5), whatever the default subvolume is, so that all
//! subvolumes and snapshots are found in it as folders.

mod blocks;
mod checksum;
mod chunks;
mod compression;
mod data;
mod file;
mod items;
mod subvolumes;
mod superblock;
#[cfg(test)]
mod tests;
mod tree;
mod volume;

use tidemark_plugin::disk::CachedDisk;
use tidemark_plugin::guest_filesystem::{GuestFilesystem, Volume};
use tidemark_plugin::nodes::ByInode;
use tidemark_plugin::{Description, Result, description};

use crate::superblock::Superblock;
pub use crate::volume::Opened;

/// The reader.
#[derive(Debug)]
pub struct Btrfs;

impl GuestFilesystem for Btrfs {
    type Volume = ByInode<Opened>;

    fn describe() -> Description {
        description("fs-btrfs", env!("CARGO_PKG_VERSION"))
    }

    fn probe(disk_index: u32) -> Result<Option<String>> {
        let found = Superblock::is_on(&CachedDisk::open(disk_index)?)?;
        Ok(found.then(|| "btrfs".to_owned()))
    }

    fn open(disk_index: u32) -> Result<Volume> {
        Ok(Volume::new(ByInode::new(Opened::new(CachedDisk::open(disk_index)?)?)))
    }
}

tidemark_plugin::export_guest_filesystem!(Btrfs, attributes);
