//! The table of a disk, whichever kind it has.

use tidemark_plugin::Result;

use crate::bytes::{Bytes, says};
use crate::{content, gpt, mbr};

/// What is known of a partition before its content is looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Partition {
    /// As the guest's own tools count, from 1; none for a whole disk.
    pub(crate) number: Option<u32>,
    pub(crate) offset: u64,
    pub(crate) length: u64,
    /// Its name in the table; empty where it has none that says anything.
    pub(crate) label: String,
    /// What the table says it is for, where its content does not tell.
    pub(crate) purpose: Option<String>,
}

/// All partitions of a disk in the order of their numbers.
#[derive(Debug, Default)]
pub(crate) struct Table {
    pub(crate) partitions: Vec<Partition>,
    pub(crate) complaints: Vec<String>,
}

impl Table {
    /// GPT comes first, as its disks have an MBR too, which only protects it; then a file system that begins the disk, as
    /// its boot sector carries an MBR's signature.
    pub(crate) fn read(disk: &impl Bytes) -> Result<Self> {
        let mut table = match gpt::read(disk)? {
            Some(table) => table,
            None if content::of(disk, 0, disk.size())?.is_some() => Self::default(),
            None => mbr::read(disk)?.unwrap_or_default(),
        };
        if table.partitions.is_empty() && disk.size() > 0 {
            table.partitions.push(Partition {
                number: None,
                offset: 0,
                length: disk.size(),
                label: String::new(),
                purpose: None,
            });
        }
        Ok(table)
    }

    /// Takes a partition in where it lies on the disk, and shortens one that only ends beyond it.
    pub(crate) fn add(&mut self, disk: &impl Bytes, partition: Partition) {
        let Partition { number, offset, length, .. } = &partition;
        let number = number.unwrap_or(0);
        let left = disk.size().saturating_sub(*offset);
        if *length == 0 || left == 0 {
            self.complaints.push(format!("partition {number} lies beyond the end of the disk"));
            return;
        }
        if left < *length {
            self.complaints.push(format!("partition {number} ends beyond the end of the disk"));
        }
        let length = left.min(*length);
        self.partitions.push(Partition { length, ..partition });
    }
}

/// Whether a sector ends as boot sectors and partition tables do.
pub(crate) fn is_signed(sector: &[u8]) -> bool {
    says(sector, 510, &[0x55, 0xaa])
}
