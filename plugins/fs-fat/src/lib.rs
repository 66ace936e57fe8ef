//! The reader `fs-fat`: FAT12, FAT16, FAT32 and exFAT. Nothing is written, and nothing of a volume in use is repaired.
//!
//! ```text
//! volume   any of the four as nodes: which file is read, which folders were seen
//!   ├─ fat      boot sector, folders of 32-byte entries, names (long and 8.3)
//!   ├─ exfat    boot region, folders of entry sets
//!   ├─ folder   a folder's entries, piece by piece
//!   ├─ stamps   dates and times
//!   └─ clusters what lies where: clusters, and the table that chains them
//! ```
//! A node is the place of an entry on the disk, which is a multiple of 32: the low bits are free for what else is needed.

mod clusters;
mod exfat;
mod fat;
mod folder;
mod stamps;
#[cfg(test)]
mod tests;
mod volume;

use tidemark_plugin::disk::CachedDisk;
use tidemark_plugin::guest_filesystem::{GuestFilesystem, Volume};
use tidemark_plugin::nodes::ByInode;
use tidemark_plugin::{Description, Result, description};

pub use volume::Opened;

/// The reader.
#[derive(Debug)]
pub struct Fat;

impl GuestFilesystem for Fat {
    type Volume = ByInode<Opened>;

    fn describe() -> Description {
        description("fs-fat", env!("CARGO_PKG_VERSION"))
    }

    fn probe(disk_index: u32) -> Result<Option<String>> {
        Ok(volume::probed(&CachedDisk::open(disk_index)?)?.map(str::to_owned))
    }

    fn open(disk_index: u32) -> Result<Volume> {
        Ok(Volume::new(ByInode::new(Opened::new(CachedDisk::open(disk_index)?)?)))
    }
}

tidemark_plugin::export_guest_filesystem!(Fat, attributes, placement);
