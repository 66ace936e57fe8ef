//! The reader `fs-iso`: ISO 9660, with the names of Rock Ridge or Joliet where a disc has them.
//!
//! ```text
//! volume        a disc as nodes: which file is read, which folders were seen
//!   ├─ descriptors  what the disc says of itself, and which of its trees tells most
//!   ├─ folder       a folder's records, sector by sector
//!   ├─ record       one record: a name, and where a file lies
//!   ├─ rock         what Rock Ridge adds to a record
//!   └─ times        dates of seven and of seventeen bytes
//! ```
//! A node is the place of a record on the disk; those are even, and the root's number is odd.

mod descriptors;
mod folder;
mod record;
mod rock;
#[cfg(test)]
mod tests;
mod times;
mod volume;

use tidemark_plugin::disk::CachedDisk;
use tidemark_plugin::guest_filesystem::{GuestFilesystem, Volume};
use tidemark_plugin::nodes::ByInode;
use tidemark_plugin::{Description, Result, description};

use crate::descriptors::Descriptors;

pub use volume::Opened;

/// The reader.
#[derive(Debug)]
pub struct Iso;

impl GuestFilesystem for Iso {
    type Volume = ByInode<Opened>;

    fn describe() -> Description {
        description("fs-iso", env!("CARGO_PKG_VERSION"))
    }

    fn probe(disk_index: u32) -> Result<Option<String>> {
        let found = Descriptors::probed(&CachedDisk::open(disk_index)?)?;
        Ok(found.then(|| "iso9660".to_owned()))
    }

    fn open(disk_index: u32) -> Result<Volume> {
        Ok(Volume::new(ByInode::new(Opened::new(CachedDisk::open(disk_index)?)?)))
    }
}

tidemark_plugin::export_guest_filesystem!(Iso, attributes, placement);
