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
    /// its boot sector carries an MBR's signature. A label of LVM2 counts only without partitions, as for LVM2 itself: it
    /// lies behind the first sector, and tools that write a table there leave it.
    pub(crate) fn read(disk: &impl Bytes) -> Result<Self> {
        let mut table = match gpt::read(disk)? {
            Some(table) => table,
            None => match content::of(disk)? {
                None => mbr::read(disk)?.unwrap_or_default(),
                Some(content::PHYSICAL_VOLUME) if mbr::is_meant(disk)? => {
                    mbr::read(disk)?.unwrap_or_default()
                }
                Some(_) => Self::default(),
            },
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

#[cfg(test)]
mod tests {
    use super::*;

    fn count(disk: &Vec<u8>) -> usize {
        Table::read(disk).unwrap().partitions.iter().filter(|found| found.number.is_some()).count()
    }

    #[test]
    fn a_table_hides_an_older_label_of_lvm2_and_a_file_system_a_table() {
        let mut disk = vec![0; 1 << 20];
        disk[446..462].copy_from_slice(&[0x80, 0, 0, 0, 0x83, 0, 0, 0, 8, 0, 0, 0, 16, 0, 0, 0]);
        disk[510..512].copy_from_slice(&[0x55, 0xaa]);
        assert_eq!(count(&disk), 1);
        disk[512..520].copy_from_slice(b"LABELONE");
        assert_eq!(count(&disk), 1);
        // Code where the table would be.
        disk[478] = 0x33;
        assert_eq!(count(&disk), 0);
        disk[478] = 0;
        disk[3..11].copy_from_slice(b"NTFS    ");
        assert_eq!(count(&disk), 0);
    }
}
