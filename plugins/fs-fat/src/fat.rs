//! FAT12, FAT16 and FAT32 (Microsoft's "FAT: General Overview of On-Disk Format", 1.03). A folder begins with an entry for
//! itself, which is checked: it is all that tells a folder from any other bytes.

mod boot;
mod names;

use tidemark_plugin::disk::{CachedDisk, Runs};
use tidemark_plugin::fields::{array, byte, le16, le32};
use tidemark_plugin::guest_filesystem::{NodeKind, VolumeInfo};
use tidemark_plugin::nodes::{FileStat, Names};
use tidemark_plugin::{Error, Result};

use crate::clusters::{Clusters, Place, Width};
use crate::fat::boot::Boot;
use crate::fat::names::{Long, short};
use crate::folder::{AFTER_END, ENTRY, each_entry};
use crate::stamps::stamp;
use crate::volume::{Item, Layout, ROOT, serial, shortened};

/// Attributes of entries.
const LABEL: u8 = 0x08;
const FOLDER: u8 = 0x10;
/// Read-only, hidden, system and label at once: a part of a long name.
const LONG: u8 = 0x0f;
/// First bytes of entries.
const END: u8 = 0;
const DELETED: u8 = 0xe5;
/// Tables up to this size are compared with their copies: all but those of large volumes.
const COMPARED: u64 = 2 << 20;

/// What is needed of a FAT volume beside its clusters.
#[derive(Debug)]
pub(crate) struct FatVolume {
    root: Place,
}

impl FatVolume {
    /// Which FAT lies on a disk; none for anything else.
    pub(crate) fn probed(disk: &CachedDisk) -> Result<Option<&'static str>> {
        let Some(boot) = Boot::read(disk)? else { return Ok(None) };
        // Where no text says what it is, the table's first number does: it repeats the medium.
        let mut mark = [0; 3];
        if !boot.named && (boot.table_at + 3 > disk.size() || disk.read(boot.table_at, &mut mark).is_err()) {
            return Ok(None);
        }
        let known = boot.named || (mark[0] == boot.medium && mark[1..] == [0xff; 2]);
        Ok(known.then(|| boot.name()))
    }

    /// Opens it.
    pub(crate) fn open(disk: CachedDisk) -> Result<(Clusters, Self, VolumeInfo)> {
        let boot = Boot::read(&disk)?.ok_or_else(|| Error::corrupt("this is no FAT file system"))?;
        if boot.encrypted {
            let words = "the volume is encrypted (BitLocker To Go): only the guest has the key";
            return Err(Error::unsupported(words));
        }
        let mut warnings: Vec<String> = shortened(&disk, boot.total_bytes).into_iter().collect();
        if boot.copies_differ(&disk)? {
            warnings.push("the copies of the allocation table differ: the one in force was read".into());
        }
        let clusters = boot.clusters(disk)?;
        let volume = Self { root: boot.root };
        warnings.extend(in_use(&clusters, &boot)?);
        let label = volume.label(&clusters)?.or(boot.label.clone()).unwrap_or_default();
        let info = VolumeInfo {
            filesystem: boot.name().to_owned(),
            label,
            uuid: boot.serial.map(serial).unwrap_or_default(),
            total_bytes: boot.total_bytes,
            warnings,
            journal_replayed: false,
        };
        Ok((clusters, volume, info))
    }

    /// The label in the root, which is the one that people change. A damaged root has none.
    fn label(&self, clusters: &Clusters) -> Result<Option<String>> {
        let Ok(runs) = clusters.runs(self.root) else { return Ok(None) };
        let mut label = None;
        each_entry(&clusters.disk, &runs, |_, entry| {
            let [first, attributes] = [entry[0], entry[11] & 0x3f];
            if first != DELETED && attributes != LONG && attributes & (LABEL | FOLDER) == LABEL {
                label = Some(names::label(array(entry, 0)?));
            }
            Ok(first != END && label.is_none())
        })
        .or_else(|error| if error.is_unavailable() { Err(error) } else { Ok(()) })?;
        Ok(label)
    }
}

/// What the volume says of how it was left: by the table's second number (clear bits: in use, errors seen), and by a bit in
/// the boot sector that Linux and Windows set.
fn in_use(clusters: &Clusters, boot: &Boot) -> Result<Option<String>> {
    let (clean, healthy) = match clusters.width {
        Width::Fat16 => (0x8000, 0x4000),
        Width::Fat32 => (0x0800_0000, 0x0400_0000),
        _ => (0, 0),
    };
    let mark = clusters.mark(1)?;
    Ok(if mark & clean != clean || boot.in_use {
        Some(
            "the file system was in use when it was backed up: what was being written then may be incomplete"
                .into(),
        )
    } else if mark & healthy != healthy {
        Some("the guest noted read or write errors of this volume's disk".into())
    } else {
        None
    })
}

impl Layout for FatVolume {
    fn item(&self, clusters: &Clusters, node: u64) -> Result<Item> {
        if node == ROOT {
            let stat = FileStat { links: 1, ..FileStat::of(NodeKind::Directory) };
            return Ok(Item { stat, place: self.root, written: u64::MAX, marks: 0 });
        }
        let in_root = matches!(self.root, Place::Fixed(at, length) if node >= at && node - at < length);
        if !node.is_multiple_of(ENTRY as u64) || !(in_root || clusters.holding(node).is_ok()) {
            return Err(Error::not_found(format!("there is no node {node}")));
        }
        let mut entry = [0; ENTRY];
        clusters.disk.read(node, &mut entry)?;
        if matches!(entry[0], END | DELETED) || entry[11] & LABEL != 0 {
            return Err(Error::not_found(format!("nothing has the node {node}")));
        }
        item(&entry, clusters.width == Width::Fat32)
    }

    fn names(
        &self,
        clusters: &Clusters,
        folder: &Item,
        node: u64,
        runs: &Runs,
    ) -> Result<Vec<(Vec<u8>, u64)>> {
        let (mut names, mut long, mut first) = (Names::default(), Long::default(), node != ROOT);
        // Where the folder ended, and how many entries were seen since.
        let mut end: Option<(u64, u32)> = None;
        each_entry(&clusters.disk, runs, |place, entry| {
            if std::mem::take(&mut first) {
                is_itself(entry, folder.place, clusters.width == Width::Fat32)?;
            }
            match (entry[0], entry[11]) {
                (END, _) => {
                    end.get_or_insert((place, 0));
                    long = Long::default();
                }
                (DELETED, _) => long = Long::default(),
                (_, attributes) if attributes & 0x3f == LONG => long.take(entry)?,
                (_, attributes) if attributes & LABEL != 0 => long = Long::default(),
                (b'.', _) if matches!(&entry[..11], b".          " | b"..         ") => {}
                _ => {
                    let name = std::mem::take(&mut long).name(entry);
                    // Anything may lie after the end, but a name whose sum is right tells that names are missing there.
                    if let Some((place, _)) = end.take_if(|_| name.is_some()) {
                        names.missing(place)?;
                    }
                    if end.is_none() {
                        names.push(name.or_else(|| Some(short(entry))), place, place)?;
                    }
                }
            }
            Ok(end.as_mut().is_none_or(|(_, after)| {
                *after += 1;
                *after <= AFTER_END
            }))
        })?;
        Ok(names.into_all())
    }
}

/// The first cluster of an entry. What lies at 20 has another meaning where it is not needed.
fn first_cluster(entry: &[u8; ENTRY], wide: bool) -> Result<u32> {
    let high = if wide { u32::from(le16(entry, 20)?) } else { 0 };
    Ok((high << 16) | u32::from(le16(entry, 26)?))
}

fn is_itself(entry: &[u8; ENTRY], place: Place, wide: bool) -> Result<()> {
    let itself = &entry[..11] == b".          " && entry[11] & FOLDER != 0;
    if itself && Some(first_cluster(entry, wide)?) == place.beginning() {
        return Ok(());
    }
    Err(Error::corrupt("what should be a folder does not begin with an entry for itself"))
}

fn item(entry: &[u8; ENTRY], wide: bool) -> Result<Item> {
    let folder = entry[11] & FOLDER != 0;
    let first = first_cluster(entry, wide)?;
    let size = if folder { 0 } else { u64::from(le32(entry, 28)?) };
    let place = match (folder, size) {
        (true, _) => Place::Chain(first, None),
        (false, 0) => Place::Nothing,
        (false, _) => Place::Chain(first, Some(size)),
    };
    let kind = if folder { NodeKind::Directory } else { NodeKind::File };
    let stat = FileStat {
        size_bytes: size,
        modified_ns: stamp(le16(entry, 24)?, le16(entry, 22)?, 0),
        created_ns: stamp(le16(entry, 16)?, le16(entry, 14)?, byte(entry, 13)?),
        accessed_ns: stamp(le16(entry, 18)?, 0, 0),
        links: 1,
        ..FileStat::of(kind)
    };
    let written = if folder { u64::MAX } else { size };
    Ok(Item { stat, place, written, marks: entry[11].into() })
}
