//! From logical addresses, which all of the file system goes by, to places on the device.

use tidemark_plugin::fields::{le16, le64, slice};
use tidemark_plugin::{Error, Result};

use crate::tree::Key;

/// The kind of a chunk's key.
pub(crate) const CHUNK_ITEM: u8 = 228;
/// The object of a chunk's key.
pub(crate) const CHUNKS: u64 = 256;
/// A key on disk.
const KEY: usize = 17;
/// A chunk without its stripes, and one stripe.
const CHUNK: usize = 48;
const STRIPE: usize = 32;
/// What 256 TiB have, in 10 MiB of memory.
const MAX_CHUNKS: usize = 1 << 18;

const RAID0: u64 = 1 << 3;
const DUP: u64 = 1 << 5;
/// The bits of all profiles, with their names.
const PROFILES: [(u64, &str); 8] = [
    (RAID0, "RAID0"),
    (1 << 4, "RAID1"),
    (DUP, "DUP"),
    (1 << 6, "RAID10"),
    (1 << 7, "RAID5"),
    (1 << 8, "RAID6"),
    (1 << 9, "RAID1C3"),
    (1 << 10, "RAID1C4"),
];

/// A range of logical addresses with the one or two places where it lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Chunk {
    logical: u64,
    length: u64,
    first: u64,
    second: Option<u64>,
}

/// All chunks, by their logical addresses.
#[derive(Debug, Default)]
pub(crate) struct Chunks(Vec<Chunk>);

impl Chunks {
    /// The chunks of the superblock: keys, each followed by its chunk.
    pub(crate) fn system(bytes: &[u8], device: u64) -> Result<Self> {
        let mut chunks = Self::default();
        let mut rest = bytes;
        while !rest.is_empty() {
            let key = Key::parse(rest, 0)?;
            let item = rest.get(KEY..).unwrap_or_default();
            chunks.add(key, item, device)?;
            let length = CHUNK + usize::from(le16(item, 44)?) * STRIPE;
            rest = item.get(length..).unwrap_or_default();
        }
        chunks.sorted()
    }

    /// Takes in an item of the chunk tree.
    pub(crate) fn add(&mut self, key: Key, item: &[u8], device: u64) -> Result<()> {
        if self.0.len() >= MAX_CHUNKS {
            return Err(Error::unsupported(format!("more than {MAX_CHUNKS} chunks are not read")));
        }
        self.0.push(Chunk::parse(key, item, device)?);
        Ok(())
    }

    /// All that were taken in, to be looked up.
    pub(crate) fn sorted(mut self) -> Result<Self> {
        self.0.sort_by_key(|chunk| chunk.logical);
        let overlap = |pair: &[Chunk]| matches!(pair, [a, b] if b.logical - a.logical < a.length);
        if self.0.windows(2).any(overlap) {
            return Err(Error::corrupt("two chunks have the same addresses"));
        }
        Ok(self)
    }

    /// Where a range lies: its first copy, and the second where there is one.
    pub(crate) fn places(&self, logical: u64, length: u64) -> Result<(u64, Option<u64>)> {
        let after = self.0.partition_point(|chunk| chunk.logical <= logical);
        let chunk = after.checked_sub(1).and_then(|at| self.0.get(at));
        let found = chunk.and_then(|chunk| {
            let within = logical - chunk.logical;
            let fits = within.checked_add(length)? <= chunk.length;
            fits.then(|| (chunk.first + within, chunk.second.map(|second| second + within)))
        });
        found.ok_or_else(|| Error::corrupt(format!("no chunk has the {length} bytes at {logical}")))
    }
}

impl Chunk {
    fn parse(key: Key, item: &[u8], device: u64) -> Result<Self> {
        if key.object != CHUNKS || key.kind != CHUNK_ITEM {
            return Err(Error::corrupt(format!("{key:?} is no chunk's")));
        }
        let (logical, length, kind) = (key.offset, le64(item, 0)?, le64(item, 24)?);
        let stripes = le16(item, 44)?;
        let profile: Vec<&str> =
            PROFILES.iter().filter(|(bit, _)| kind & bit != 0).map(|(_, name)| *name).collect();
        // A RAID0 of one stripe is a single copy.
        match (profile.as_slice(), stripes) {
            ([] | ["RAID0"], 1) | (["DUP"], 2) => {}
            ([] | ["DUP"], _) => return Err(Error::corrupt(format!("a chunk of {stripes} stripes"))),
            (names, _) => {
                return Err(Error::unsupported(format!(
                    "the profile {} is not read: restore the disks and mount the file system",
                    names.join(" and ")
                )));
            }
        }
        let mut places = [None; 2];
        for (number, place) in (0..usize::from(stripes)).zip(&mut places) {
            let stripe = slice(item, CHUNK + number * STRIPE, STRIPE)?;
            let (on, at) = (le64(stripe, 0)?, le64(stripe, 8)?);
            if on != device {
                return Err(Error::unsupported(format!(
                    "parts of the file system lie on another device (number {on}): restore all its disks and mount it"
                )));
            }
            *place = Some(at);
        }
        let ends = |at: u64| at.checked_add(length).is_some();
        let [Some(first), second] = places else { return Err(Error::corrupt("a chunk of no stripes")) };
        if length == 0 || !ends(logical) || !ends(first) || !second.is_none_or(ends) {
            return Err(Error::corrupt(format!("the chunk at {logical} has impossible bounds")));
        }
        Ok(Self { logical, length, first, second })
    }
}

#[cfg(test)]
mod tests {
    use tidemark_plugin::ErrorKind;

    use super::*;

    fn item(length: u64, kind: u64, stripes: &[(u64, u64)]) -> Vec<u8> {
        let mut item = vec![0; CHUNK + stripes.len() * STRIPE];
        item[..8].copy_from_slice(&length.to_le_bytes());
        item[24..32].copy_from_slice(&kind.to_le_bytes());
        item[44] = u8::try_from(stripes.len()).unwrap();
        for (number, (device, at)) in stripes.iter().enumerate() {
            let start = CHUNK + number * STRIPE;
            item[start..start + 8].copy_from_slice(&device.to_le_bytes());
            item[start + 8..start + 16].copy_from_slice(&at.to_le_bytes());
        }
        item
    }

    fn chunks(items: &[(u64, Vec<u8>)]) -> Result<Chunks> {
        let mut chunks = Chunks::default();
        for (logical, item) in items {
            chunks.add(Key { object: CHUNKS, kind: CHUNK_ITEM, offset: *logical }, item, 1)?;
        }
        chunks.sorted()
    }

    #[test]
    fn addresses_lead_to_their_places() {
        let all = [
            (1000, item(100, 1, &[(1, 5000)])),
            (2000, item(50, 4 | DUP, &[(1, 7000), (1, 9000)])),
            (500, item(10, 1 | RAID0, &[(1, 0)])),
        ];
        let chunks = chunks(&all).unwrap();
        assert_eq!(chunks.places(1000, 100).unwrap(), (5000, None));
        assert_eq!(chunks.places(2049, 1).unwrap(), (7049, Some(9049)));
        assert_eq!(chunks.places(505, 5).unwrap(), (5, None));
        for (logical, length) in [(999, 2), (1001, 100), (2050, 1), (0, 1), (1000, u64::MAX), (u64::MAX, 1)] {
            assert!(chunks.places(logical, length).is_err(), "{logical} {length}");
        }
    }

    #[test]
    fn what_cannot_be_is_damage_and_raid_is_refused() {
        let kind = |items: &[(u64, Vec<u8>)]| chunks(items).unwrap_err().kind;
        let raid1 = item(10, 1 | 1 << 4, &[(1, 0), (1, 100)]);
        assert_eq!(kind(&[(0, raid1)]), ErrorKind::Unsupported);
        assert_eq!(kind(&[(0, item(10, 1, &[(2, 0)]))]), ErrorKind::Unsupported);
        for wrong in [
            item(0, 1, &[(1, 0)]),
            item(10, 1, &[]),
            item(10, 1, &[(1, 0), (1, 10)]),
            item(10, 1, &[(1, u64::MAX)]),
            item(10, DUP, &[(1, 0)]),
            item(10, 1, &[(1, 0)])[..70].to_vec(),
        ] {
            assert_eq!(kind(&[(0, wrong)]), ErrorKind::Corrupt);
        }
        let twice = [(0, item(10, 1, &[(1, 0)])), (9, item(10, 1, &[(1, 50)]))];
        assert_eq!(kind(&twice), ErrorKind::Corrupt);
        assert!(Chunks::system(&[1; 40], 1).is_err() && Chunks::system(&[], 1).unwrap().0.is_empty());
    }
}
