//! The volume reader `partitions`: which partitions and logical volumes a machine's disks have, and what each looks like.
//!
//! ```text
//!   lib (the contract's function) ─┬─ table ─┬─ gpt    UEFI specification 2.10, chapter 5
//!                                  │         └─ mbr    primary and logical partitions
//!                                  ├─ lvm              volume groups among disks and partitions
//!                                  ├─ content          what a volume begins with
//!                                  └─ extents          where its bytes lie
//! ```
//! A disk without a table is one volume, whole. Tables are a guest's own bytes: whatever does not fit its disk is left out
//! with a word in the log, and nothing is followed in a circle.

mod bytes;
mod checksum;
mod content;
mod extents;
mod gpt;
mod lvm;
mod mbr;
mod table;

use tidemark_plugin::guest_filesystem::{FoundVolume, Mapped, VolumeReader};
use tidemark_plugin::{Result, disk, warn};

use crate::bytes::Bytes;
use crate::extents::{Map, View};
use crate::table::{Partition, Table};

/// The reader.
#[derive(Debug)]
pub struct Partitions;

impl VolumeReader for Partitions {
    fn scan(disk_count: u32) -> Result<Vec<FoundVolume>> {
        let open = |index| Ok(HostDisk { index, size: disk::size(index)? });
        let disks = (0..disk_count).map(open).collect::<Result<Vec<_>>>()?;
        let (found, complaints) = volumes(&disks)?;
        for complaint in complaints {
            warn!("{complaint}");
        }
        Ok(found)
    }
}

/// Partitions in the order of disks and numbers, then logical volumes; and what was left out.
fn volumes(disks: &[impl Bytes]) -> Result<(Vec<FoundVolume>, Vec<String>)> {
    let (mut found, mut complaints) = (Vec::new(), Vec::new());
    for (disk, index) in disks.iter().zip(0..) {
        let table = Table::read(disk)?;
        complaints.extend(table.complaints.iter().map(|complaint| format!("disk {index}: {complaint}")));
        for partition in table.partitions {
            found.push(volume(disks, index, partition, found.len())?);
        }
    }
    let is_physical = |volume: &FoundVolume| volume.content == content::PHYSICAL_VOLUME;
    let candidates: Vec<usize> =
        found.iter().enumerate().filter(|(_, volume)| is_physical(volume)).map(|(place, _)| place).collect();
    let runs: Vec<Mapped> =
        candidates.iter().filter_map(|place| found.get(*place)?.extents.first().copied()).collect();
    let groups = lvm::find(disks, &runs)?;
    complaints.extend(groups.complaints);
    for (place, group) in candidates.into_iter().zip(groups.groups) {
        if let (Some(volume), Some(group)) = (found.get_mut(place), group) {
            volume.content = format!("{} of volume group {group}", content::PHYSICAL_VOLUME);
        }
    }
    for lvm::Volume { name, content, runs, length } in groups.volumes {
        found.push(FoundVolume {
            index: u32::try_from(found.len()).unwrap_or(u32::MAX),
            name: format!("Volume {name}"),
            label: String::new(),
            content,
            size_bytes: length,
            extents: runs,
        });
    }
    Ok((found, complaints))
}

fn volume(disks: &[impl Bytes], disk_index: u32, partition: Partition, place: usize) -> Result<FoundVolume> {
    let Partition { number, offset, length, label, purpose } = partition;
    let extent = Mapped { disk_index, offset, length };
    let content = content::of(&View { disks, map: &Map::of(extent) })?.map(str::to_owned);
    Ok(FoundVolume {
        index: u32::try_from(place).unwrap_or(u32::MAX),
        name: number.map_or_else(|| "Disk".to_owned(), |number| format!("Partition {number}")),
        label,
        content: content.or(purpose).unwrap_or_default(),
        size_bytes: length,
        extents: vec![extent],
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
