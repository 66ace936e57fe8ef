//! A reader of partition tables or volume managers, typed: disks in, extent maps out, each extent inside its disk.

use tidemark_model::{ByteLen, GuestOffset};

use crate::bindings::volumes as wit;
use crate::bindings::volumes::exports::tidemark::plugin::volumes as vol;
use crate::error::Error;
use crate::guest::{Guest, call_guest};
use crate::offered::log::printable;

/// A run of a volume's bytes on a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MappedExtent {
    /// Which of the session's disks.
    pub disk_index: u32,
    /// Where on it.
    pub offset: GuestOffset,
    /// How long.
    pub length: ByteLen,
}

/// A volume that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundVolume {
    /// The reader's number for it, unique.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its label.
    pub label: String,
    /// What it looks like, where it is no file system.
    pub content: String,
    /// Its size: the sum of its extents.
    pub size: ByteLen,
    /// Where its bytes are, in order.
    pub extents: Vec<MappedExtent>,
}

/// A running volume reader.
pub struct VolumeReader {
    guest: Guest<wit::VolumeReader>,
    sizes: Vec<ByteLen>,
}

impl VolumeReader {
    pub(crate) fn new(guest: Guest<wit::VolumeReader>, sizes: Vec<ByteLen>) -> Self {
        Self { guest, sizes }
    }

    /// All volumes on the session's disks.
    ///
    /// # Errors
    /// See [`crate::ErrorKind`]; `Invalid` where an extent lies outside its disk.
    pub async fn scan(&mut self) -> Result<Vec<FoundVolume>, Error> {
        let guest = &mut self.guest;
        let count = u32::try_from(self.sizes.len()).unwrap_or(u32::MAX);
        let result = call_guest!(guest, "scan", tidemark_plugin_volumes.call_scan(count));
        let volumes = guest.returned("scan", result)?;
        let mut found: Vec<FoundVolume> = Vec::new();
        for volume in guest.bounded("scan", volumes)? {
            match checked(volume, &self.sizes) {
                Ok(volume) if found.iter().all(|other| other.index != volume.index) => found.push(volume),
                Ok(volume) => {
                    return Err(guest.nonsense("scan", format!("volume {} comes twice", volume.index)));
                }
                Err(problem) => return Err(guest.nonsense("scan", problem)),
            }
        }
        Ok(found)
    }
}

fn checked(volume: vol::FoundVolume, sizes: &[ByteLen]) -> Result<FoundVolume, String> {
    let vol::FoundVolume { index, name, label, content, size_bytes, extents } = volume;
    let mut mapped = Vec::with_capacity(extents.len());
    let mut total = 0_u64;
    for vol::Mapped { disk_index, offset, length } in extents {
        let size = usize::try_from(disk_index).ok().and_then(|disk| sizes.get(disk));
        let inside = size.is_some_and(|size| offset.checked_add(length).is_some_and(|end| end <= size.0));
        let sum = total.checked_add(length).filter(|_| inside && length > 0);
        total =
            sum.ok_or_else(|| format!("volume {index}: {length} bytes at {offset} of disk {disk_index}"))?;
        mapped.push(MappedExtent { disk_index, offset: GuestOffset(offset), length: ByteLen(length) });
    }
    if total != size_bytes {
        return Err(format!("volume {index}: {size_bytes} bytes, its extents have {total}"));
    }
    let (name, label, content) = (printable(&name), printable(&label), printable(&content));
    Ok(FoundVolume { index, name, label, content, size: ByteLen(size_bytes), extents: mapped })
}

impl std::fmt::Debug for VolumeReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = self.guest.store.data();
        write!(f, "VolumeReader({} {})", state.plugin, state.version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(extents: Vec<(u32, u64, u64)>, size_bytes: u64) -> vol::FoundVolume {
        let extents = extents
            .into_iter()
            .map(|(disk_index, offset, length)| vol::Mapped { disk_index, offset, length })
            .collect();
        vol::FoundVolume {
            index: 1,
            name: "a".into(),
            label: "b".into(),
            content: "c".into(),
            size_bytes,
            extents,
        }
    }

    #[test]
    fn extents_lie_inside_their_disks() {
        let sizes = [ByteLen(100), ByteLen(50)];
        assert_eq!(checked(volume(vec![(0, 10, 90), (1, 0, 50)], 140), &sizes).unwrap().extents.len(), 2);
        for (extents, size) in [
            (vec![(0, 10, 91)], 91),
            (vec![(2, 0, 1)], 1),
            (vec![(0, u64::MAX, 2)], 2),
            (vec![(0, 0, 0)], 0),
            (vec![(0, 0, 10)], 11),
        ] {
            assert!(checked(volume(extents.clone(), size), &sizes).is_err(), "{extents:?}");
        }
    }
}
