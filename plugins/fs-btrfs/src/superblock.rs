//! The superblock, which lies at 64 KiB, with copies at 64 MiB and 256 GiB where the device is large enough.

use tidemark_plugin::disk::CachedDisk;
use tidemark_plugin::fields::{array, byte, index, le16, le32, le64, slice, text, uuid};
use tidemark_plugin::{Error, Result};

use crate::checksum::{Checksum, FIELD};
use crate::tree::Pointer;

/// The first one and its copies.
const PLACES: [u64; 3] = [64 << 10, 64 << 20, 256 << 30];
const LENGTH: usize = 4096;
const MAGIC_AT: usize = 0x40;
const MAGIC: &[u8; 8] = b"_BHRfS_M";
/// The system chunks' place.
const SYSTEM_AT: usize = 0x32b;
const SYSTEM_LENGTH: usize = 2048;
const MAX_LEVEL: u8 = 7;

/// A device whose metadata has a UUID of its own.
const METADATA_UUID: u64 = 1 << 10;
/// Backward references of two kinds, the default subvolume, mixed groups, LZO, zstd, large metadata, extended references, RAID 5
/// and 6, skinny metadata, no holes, the UUID of metadata, RAID 1 with 3 and 4 copies, simple quotas. RAID is refused by the
/// chunks that have it.
const KNOWN: u64 = 0xfff | 1 << 16;
/// What else has a name.
const REFUSED: [(u64, &str); 3] = [
    (1 << 12, "zoned devices"),
    (1 << 13, "the second format of the extent tree"),
    (1 << 14, "the tree of RAID stripes"),
];
/// Flags of a dump without data, and of conversions that were not finished: fsid twice, data and metadata checksums.
const METADUMP: u64 = 1 << 33 | 1 << 34;
const CHANGING: u64 = 1 << 35 | 1 << 36 | 1 << 39 | 1 << 40;

/// What is known from the superblock.
#[derive(Debug, Clone)]
pub(crate) struct Superblock {
    pub(crate) label: String,
    pub(crate) uuid: String,
    pub(crate) total_bytes: u64,
    pub(crate) generation: u64,
    pub(crate) device: u64,
    pub(crate) node_bytes: usize,
    pub(crate) sector_bytes: usize,
    pub(crate) checksum: Checksum,
    /// What all blocks of metadata have.
    pub(crate) metadata_uuid: [u8; 16],
    pub(crate) root: Pointer,
    pub(crate) chunk_root: Pointer,
    /// There are changes that only a replay of the log would show.
    pub(crate) has_log: bool,
    /// The first superblock is damaged and this is a copy.
    pub(crate) is_copy: bool,
    /// The chunks that the chunk tree itself lies in.
    pub(crate) system_chunks: Vec<u8>,
}

impl Superblock {
    /// Whether there is one at its first place. Copies do not count: other file systems leave old ones behind.
    pub(crate) fn is_on(disk: &CachedDisk) -> Result<bool> {
        let bytes = at(disk, PLACES[0])?;
        Ok(bytes.is_some_and(|bytes| bytes.get(MAGIC_AT..).is_some_and(|rest| rest.starts_with(MAGIC))))
    }

    /// The first one, or else the newest copy.
    ///
    /// # Errors
    /// Corrupt where none is whole; unsupported for what is not read.
    pub(crate) fn read(disk: &CachedDisk) -> Result<Self> {
        let mut newest: Option<Self> = None;
        let mut damage = None;
        for place in PLACES {
            let Some(bytes) = at(disk, place)? else { continue };
            match whole(&bytes, place) {
                Ok(()) => {}
                Err(error) => {
                    damage.get_or_insert(error);
                    continue;
                }
            }
            let found = Self::parse(&bytes)?;
            if place == PLACES[0] {
                return Ok(found);
            }
            if newest.as_ref().is_none_or(|newest| newest.generation < found.generation) {
                newest = Some(Self { is_copy: true, ..found });
            }
        }
        let damage = || damage.unwrap_or_else(|| Error::corrupt("this is no btrfs file system"));
        newest.ok_or_else(damage)
    }

    fn parse(bytes: &[u8]) -> Result<Self> {
        let flags = le64(bytes, 0x38)?;
        let incompatible = le64(bytes, 0xbc)?;
        refuse(flags, incompatible, le64(bytes, 0x88)?)?;
        let node_bytes = size(le32(bytes, 0x94)?, "a block of metadata")?;
        let sector_bytes = size(le32(bytes, 0x90)?, "a sector")?;
        if node_bytes < sector_bytes {
            return Err(Error::corrupt(format!("blocks of {node_bytes} bytes in sectors of {sector_bytes}")));
        }
        let generation = le64(bytes, 0x48)?;
        let pointer = |logical, level, generation| {
            let level = byte(bytes, level)?;
            if level > MAX_LEVEL {
                return Err(Error::corrupt(format!("a tree of {level} levels")));
            }
            Ok(Pointer { logical: le64(bytes, logical)?, generation, level })
        };
        let filesystem = array(bytes, 0x20)?;
        let own = incompatible & METADATA_UUID != 0;
        let system = index(u64::from(le32(bytes, 0xa0)?))?;
        if system > SYSTEM_LENGTH {
            return Err(Error::corrupt(format!("{system} bytes of system chunks")));
        }
        Ok(Self {
            label: text(slice(bytes, 0x12b, 256)?),
            uuid: uuid(filesystem),
            total_bytes: le64(bytes, 0x70)?,
            generation,
            device: le64(bytes, 0xc9)?,
            node_bytes,
            sector_bytes,
            checksum: Checksum::numbered(le16(bytes, 0xc4)?)?,
            metadata_uuid: if own { array(bytes, 0x23b)? } else { filesystem },
            root: pointer(0x50, 0xc6, generation)?,
            chunk_root: pointer(0x58, 0xc7, le64(bytes, 0xa4)?)?,
            has_log: le64(bytes, 0x60)? != 0,
            is_copy: false,
            system_chunks: slice(bytes, SYSTEM_AT, system)?.to_vec(),
        })
    }
}

/// The bytes at one place; none where the device ends before.
fn at(disk: &CachedDisk, place: u64) -> Result<Option<Vec<u8>>> {
    if disk.size() < place + LENGTH as u64 {
        return Ok(None);
    }
    let mut bytes = vec![0; LENGTH];
    disk.read(place, &mut bytes)?;
    Ok(Some(bytes))
}

/// Whether a superblock is one, lies where it says, and has its checksum.
fn whole(bytes: &[u8], place: u64) -> Result<()> {
    if slice(bytes, MAGIC_AT, MAGIC.len())? != MAGIC {
        return Err(Error::corrupt("this is no btrfs file system"));
    }
    let checksum = Checksum::numbered(le16(bytes, 0xc4)?)?;
    if !checksum.fits(slice(bytes, FIELD, LENGTH - FIELD)?, bytes) {
        return Err(Error::corrupt(format!("the superblock at {place} does not have its checksum")));
    }
    let claimed = le64(bytes, 0x30)?;
    if claimed != place {
        return Err(Error::corrupt(format!("the superblock at {place} belongs to {claimed}")));
    }
    Ok(())
}

fn refuse(flags: u64, incompatible: u64, devices: u64) -> Result<()> {
    if devices != 1 {
        return Err(Error::unsupported(format!(
            "the file system spans {devices} devices, and only those on one are read: restore all its disks and mount it"
        )));
    }
    if flags & METADUMP != 0 {
        return Err(Error::unsupported(
            "this is a dump of metadata (btrfs-image): it has no files' contents",
        ));
    }
    if flags & CHANGING != 0 {
        return Err(Error::unsupported(
            "a conversion of the file system (btrfstune) was not finished: restore the disk and let it finish",
        ));
    }
    if let Some((_, what)) = REFUSED.iter().find(|(bit, _)| incompatible & bit != 0) {
        return Err(Error::unsupported(format!("{what} are not read: restore the disk and mount it")));
    }
    match incompatible & !KNOWN {
        0 => Ok(()),
        unknown => Err(Error::unsupported(format!(
            "the file system has features that are not known (bits {unknown:#x}): restore the disk and mount it"
        ))),
    }
}

fn size(bytes: u32, what: &str) -> Result<usize> {
    if bytes.is_power_of_two() && (512..=64 << 10).contains(&bytes) {
        return index(u64::from(bytes));
    }
    Err(Error::corrupt(format!("{what} of {bytes} bytes")))
}
