//! exFAT (Microsoft's "exFAT file system specification", revision 1.00). A file is a set of entries with a checksum: one for
//! what it is, one for where it lies, and its name.

mod boot;
mod sets;

use tidemark_plugin::disk::{CachedDisk, Runs};
use tidemark_plugin::fields::{byte, index, slice, text, units_le, wtf8};
use tidemark_plugin::guest_filesystem::{NodeKind, VolumeInfo};
use tidemark_plugin::nodes::{FileStat, Names};
use tidemark_plugin::{Error, Result};

use crate::clusters::{Clusters, Place};
use crate::exfat::boot::Boot;
use crate::exfat::sets::{IN_USE, Set, Sets};
use crate::folder::{ENTRY, each_entry};
use crate::volume::{Item, Layout, ROOT, serial, shortened};

/// The entry of the root that holds the volume's label.
const LABEL: u8 = 0x83;
/// Bit of a node: its folder lies in clusters one after another, which the table does not chain.
const TOGETHER: u64 = 2;

/// What is needed of an exFAT volume beside its clusters.
#[derive(Debug)]
pub(crate) struct Exfat {
    root: Place,
}

impl Exfat {
    /// Whether it lies on a disk.
    pub(crate) fn probed(disk: &CachedDisk) -> Result<bool> {
        Boot::probed(disk)
    }

    /// Opens it.
    pub(crate) fn open(disk: CachedDisk) -> Result<(Clusters, Self, VolumeInfo)> {
        let boot = Boot::read(&disk)?;
        let mut warnings: Vec<String> = shortened(&disk, boot.total_bytes).into_iter().collect();
        warnings.extend(boot.warnings());
        let root = Place::Chain(boot.root, None);
        let (total_bytes, uuid) = (boot.total_bytes, serial(boot.serial));
        let clusters = boot.clusters(disk)?;
        let label = label(&clusters, root)?;
        let filesystem = "exfat".to_owned();
        let info = VolumeInfo { filesystem, label, uuid, total_bytes, warnings, journal_replayed: false };
        Ok((clusters, Self { root }, info))
    }

    /// The entries of the set at a place, which may go on in the folder's next cluster.
    fn set(clusters: &Clusters, node: u64) -> Result<Set> {
        let mut place = node & !(ENTRY as u64 - 1);
        if node & (ENTRY as u64 - 1) & !TOGETHER != 0 {
            return Err(Error::not_found(format!("there is no node {node}")));
        }
        let mut cluster = clusters.holding(place)?;
        let mut end = clusters.at(cluster)? + clusters.cluster_bytes;
        // Three entries are most sets.
        let mut entries = vec![0; index((end - place).min(3 * ENTRY as u64))?];
        clusters.disk.read(place, &mut entries)?;
        let (first, more) =
            entries.split_first_chunk().ok_or_else(|| Error::corrupt("an entry is too short"))?;
        if first[0] & IN_USE == 0 && first[0] != 0 {
            return Err(Error::not_found(format!("nothing has the node {node}")));
        }
        let mut set = Set::begin(first);
        let more = &more[..more.len().min(set.missing() * ENTRY)];
        set.push(more);
        place += (ENTRY + more.len()) as u64;
        while set.missing() > 0 {
            if place >= end {
                let next =
                    if node & TOGETHER == 0 { clusters.after(cluster)? } else { cluster.checked_add(1) };
                cluster = next.ok_or_else(|| Error::corrupt("a folder ends within an entry"))?;
                place = clusters.at(cluster)?;
                end = place + clusters.cluster_bytes;
            }
            let mut entry = [0; ENTRY];
            clusters.disk.read(place, &mut entry)?;
            set.push(&entry);
            place += ENTRY as u64;
        }
        Ok(set)
    }
}

/// The volume's label, in the root. A damaged root has none.
fn label(clusters: &Clusters, root: Place) -> Result<String> {
    let Ok(runs) = clusters.runs(root) else { return Ok(String::new()) };
    let mut label = String::new();
    each_entry(&clusters.disk, &runs, |_, entry| {
        if entry[0] == LABEL {
            let bytes = slice(entry, 2, usize::from(byte(entry, 1)?.min(11)) * 2)?;
            label = text(&wtf8(units_le(bytes)));
        }
        Ok(entry[0] != 0 && entry[0] != LABEL)
    })
    .or_else(|error| if error.is_unavailable() { Err(error) } else { Ok(()) })?;
    Ok(label)
}

impl Layout for Exfat {
    fn item(&self, clusters: &Clusters, node: u64) -> Result<Item> {
        if node == ROOT {
            let stat = FileStat { links: 1, ..FileStat::of(NodeKind::Directory) };
            return Ok(Item { stat, place: self.root, written: u64::MAX, marks: 0 });
        }
        Self::set(clusters, node)?.item()
    }

    fn names(&self, clusters: &Clusters, folder: &Item, _: u64, runs: &Runs) -> Result<Vec<(Vec<u8>, u64)>> {
        let together = if matches!(folder.place, Place::Together(..)) { TOGETHER } else { 0 };
        let mut names = Names::default();
        let mut sets = Sets::new(|place, name| names.push(name, place, place | together));
        each_entry(&clusters.disk, runs, |place, entry| sets.take(place, entry))?;
        sets.end()?;
        Ok(names.into_all())
    }
}
