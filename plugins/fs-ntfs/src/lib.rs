//! The reader `fs-ntfs`: NTFS from its own structures.
//!
//! ```text
//! lib (the contract) ─▶ volume ─┬─ boot        where everything is
//!                               ├─ table       records of the MFT ─▶ record ─▶ attribute
//!                               ├─ stream      a file's bytes ─▶ mapping (run lists), lznt1
//!                               ├─ index       directories, and the index of security descriptors
//!                               ├─ security    who owns a file, and sddl: who may do what with it
//!                               ├─ reparse     links, and contents that lie elsewhere
//!                               └─ log         whether Windows had finished
//! ```
//! The structures are those of NTFS 3.0 and 3.1 (Windows 2000 and later). They carry no checksums, only the update sequences
//! by which a torn write shows; so everything else that can be held against something is. A node's number is its record's
//! number with the record's sequence number below it, so that a reference to a file that is gone leads nowhere.

mod attribute;
mod boot;
mod index;
mod log;
mod lznt1;
mod mapping;
mod record;
mod reparse;
mod sddl;
mod security;
mod stream;
mod table;
#[cfg(test)]
mod tests;
mod volume;

use tidemark_plugin::disk::CachedDisk;
use tidemark_plugin::guest_filesystem::{GuestFilesystem, Volume};
use tidemark_plugin::nodes::ByInode;
use tidemark_plugin::{Description, Result, description};

pub use crate::volume::Ntfs;

use crate::boot::Boot;

/// The reader.
#[derive(Debug)]
pub struct Reader;

impl GuestFilesystem for Reader {
    type Volume = ByInode<Ntfs>;

    fn describe() -> Description {
        description("fs-ntfs", env!("CARGO_PKG_VERSION"))
    }

    fn probe(disk_index: u32) -> Result<Option<String>> {
        Ok(Boot::find(&CachedDisk::open(disk_index)?).map(|_| "ntfs".to_owned()))
    }

    fn open(disk_index: u32) -> Result<Volume> {
        Ok(Volume::new(ByInode::new(Ntfs::open(CachedDisk::open(disk_index)?)?)))
    }
}

tidemark_plugin::export_guest_filesystem!(Reader, attributes, placement);
