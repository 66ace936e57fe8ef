//! The features of a file system: which of them are read, and what it is called by them (ext4 disk layout, "The Super
//! Block": feature sets).

use tidemark_plugin::{Error, Result};

// Compatible.
const HAS_JOURNAL: u32 = 0x4;
const SPARSE_SUPER2: u32 = 0x200;
// Incompatible: all that changes what lies where.
const COMPRESSION: u32 = 0x1;
const FILE_TYPE: u32 = 0x2;
const NEEDS_RECOVERY: u32 = 0x4;
const JOURNAL_DEVICE: u32 = 0x8;
const META_BG: u32 = 0x10;
const EXTENTS: u32 = 0x40;
const WIDE: u32 = 0x80;
const MMP: u32 = 0x100;
const FLEX_BG: u32 = 0x200;
const EA_INODE: u32 = 0x400;
const CSUM_SEED: u32 = 0x2000;
const LARGE_DIRECTORY: u32 = 0x4000;
const INLINE_DATA: u32 = 0x8000;
const ENCRYPT: u32 = 0x1_0000;
const CASEFOLD: u32 = 0x2_0000;
/// What is read, or does not matter for reading.
const READ: u32 = FILE_TYPE
    | NEEDS_RECOVERY
    | META_BG
    | EXTENTS
    | WIDE
    | MMP
    | FLEX_BG
    | EA_INODE
    | CSUM_SEED
    | LARGE_DIRECTORY
    | INLINE_DATA
    | ENCRYPT
    | CASEFOLD;
// Compatible for reading. Unknown ones are, by their definition.
const SPARSE_SUPER: u32 = 0x1;
const GDT_CSUM: u32 = 0x10;
const BIGALLOC: u32 = 0x200;
const METADATA_CSUM: u32 = 0x400;
/// What neither ext2 nor ext3 has.
const EXT4_INCOMPATIBLE: u32 = READ & !(FILE_TYPE | NEEDS_RECOVERY | META_BG);
/// Huge files, checksums of groups, many subdirectories, large inodes, quotas, clusters, checksums of metadata, projects,
/// shared blocks, verity.
const EXT4_READ_ONLY: u32 =
    0x8 | GDT_CSUM | 0x20 | 0x40 | 0x100 | BIGALLOC | METADATA_CSUM | 0x2000 | 0x4000 | 0x8000;

/// The three sets of the superblock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Features {
    compatible: u32,
    incompatible: u32,
    read_only: u32,
}

impl Features {
    pub(crate) fn new(compatible: u32, incompatible: u32, read_only: u32) -> Self {
        Self { compatible, incompatible, read_only }
    }

    /// What its maker would call it.
    pub(crate) fn name(self) -> &'static str {
        if self.incompatible & EXT4_INCOMPATIBLE != 0 || self.read_only & EXT4_READ_ONLY != 0 {
            "ext4"
        } else if self.has_journal() {
            "ext3"
        } else {
            "ext2"
        }
    }

    /// Refuses what is not read, by its name.
    pub(crate) fn check(self) -> Result<()> {
        let unknown = self.incompatible & !READ;
        if unknown == 0 {
            return Ok(());
        }
        let names = (0..32).map(|bit| 1 << bit).filter(|bit| unknown & bit != 0).map(|bit| match bit {
            COMPRESSION => "compression".to_owned(),
            0x1000 => "dirdata".to_owned(),
            other => format!("number {other:#x}, which is unknown"),
        });
        let names = names.collect::<Vec<_>>().join(", ");
        Err(Error::unsupported(format!(
            "the file system has a feature that is not read ({names}): restore the disk and read it with the guest's system"
        )))
    }

    /// This is a journal for a file system that lies elsewhere.
    pub(crate) fn journal_device(self) -> bool {
        self.incompatible & JOURNAL_DEVICE != 0
    }

    pub(crate) fn has_journal(self) -> bool {
        self.compatible & HAS_JOURNAL != 0
    }

    /// The journal holds what is not in its place yet.
    pub(crate) fn needs_recovery(self) -> bool {
        self.has_journal() && self.incompatible & NEEDS_RECOVERY != 0
    }

    /// Directory entries say what they name.
    pub(crate) fn file_type(self) -> bool {
        self.incompatible & FILE_TYPE != 0
    }

    pub(crate) fn meta_bg(self) -> bool {
        self.incompatible & META_BG != 0
    }

    /// Block numbers have more than 32 bits.
    pub(crate) fn wide(self) -> bool {
        self.incompatible & WIDE != 0
    }

    pub(crate) fn csum_seed(self) -> bool {
        self.incompatible & CSUM_SEED != 0
    }

    /// Directories may be larger than 2 GiB.
    pub(crate) fn large_directory(self) -> bool {
        self.incompatible & LARGE_DIRECTORY != 0
    }

    pub(crate) fn bigalloc(self) -> bool {
        self.read_only & BIGALLOC != 0
    }

    pub(crate) fn metadata_csum(self) -> bool {
        self.read_only & METADATA_CSUM != 0
    }

    /// Group descriptors have a checksum of their own kind, and say what was never used.
    pub(crate) fn gdt_csum(self) -> bool {
        self.read_only & GDT_CSUM != 0
    }

    /// Copies of the superblock lie in a few groups only.
    pub(crate) fn sparse_super(self) -> bool {
        self.read_only & SPARSE_SUPER != 0
    }

    /// They lie in two groups.
    pub(crate) fn sparse_super2(self) -> bool {
        self.compatible & SPARSE_SUPER2 != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_systems_have_their_names_and_unknown_features_are_refused_by_name() {
        let name =
            |compatible, incompatible, read_only| Features::new(compatible, incompatible, read_only).name();
        assert_eq!(
            [name(0, 2, 3), name(4, 6, 3), name(4, 0x42, 3), name(0, 2, 0x400)],
            ["ext2", "ext3", "ext4", "ext4"]
        );
        Features::new(0, READ, u32::MAX).check().unwrap();
        let refused = Features::new(0, 0x1001 | 0x8000_0000, 0).check().unwrap_err().message;
        assert!(refused.contains("(compression, dirdata, number 0x80000000, which is unknown)"), "{refused}");
    }
}
