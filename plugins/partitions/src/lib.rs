//! The volume reader `partitions`: which partitions a disk has, and what each looks like.
//!
//! ```text
//!   lib (the contract's function) ── table ─┬─ gpt    UEFI specification 2.10, chapter 5
//!                                   │       └─ mbr    primary and logical partitions
//!                                   └─ content        what a partition begins with
//! ```
//! A disk without a table is one volume, whole. Tables are a guest's own bytes: whatever does not fit its disk is left out
//! with a word in the log, and nothing is followed in a circle.

mod bytes;
mod content;
mod gpt;
mod mbr;
mod table;

use tidemark_plugin::guest_filesystem::{FoundVolume, Mapped, VolumeReader};
use tidemark_plugin::{Result, disk, warn};

use crate::bytes::Bytes;
use crate::table::{Partition, Table};

/// The reader.
#[derive(Debug)]
pub struct Partitions;

impl VolumeReader for Partitions {
    fn scan(disk_count: u32) -> Result<Vec<FoundVolume>> {
        let mut found = Vec::new();
        for index in 0..disk_count {
            let disk = HostDisk { index, size: disk::size(index)? };
            let table = Table::read(&disk)?;
            for complaint in &table.complaints {
                warn!("disk {index}: {complaint}");
            }
            for partition in table.partitions {
                found.push(volume(&disk, partition, found.len())?);
            }
        }
        Ok(found)
    }
}

fn volume(disk: &HostDisk, partition: Partition, place: usize) -> Result<FoundVolume> {
    let Partition { number, offset, length, label, purpose } = partition;
    let content = content::of(disk, offset, length)?.map(str::to_owned).or(purpose).unwrap_or_default();
    Ok(FoundVolume {
        index: u32::try_from(place).unwrap_or(u32::MAX),
        name: number.map_or_else(|| "Disk".to_owned(), |number| format!("Partition {number}")),
        label,
        content,
        size_bytes: length,
        extents: vec![Mapped { disk_index: disk.index, offset, length }],
    })
}

/// A disk of the session.
struct HostDisk {
    index: u32,
    size: u64,
}

impl Bytes for HostDisk {
    fn size(&self) -> u64 {
        self.size
    }

    fn read(&self, offset: u64, length: u32) -> Result<Vec<u8>> {
        disk::read_at(self.index, offset, length)
    }
}

tidemark_plugin::export_volume_reader!(Partitions);
