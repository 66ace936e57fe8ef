//! From logical volumes to runs on the disks.

use std::collections::HashMap;

use tidemark_plugin::guest_filesystem::Mapped;
use tidemark_plugin::{Error, Result, fields};

use super::budget::Budget;
use super::group::{Area, Group, Kind, Logical, Physical, Segment, shown};
use super::thin;
use super::zeros::Zeros;
use crate::bytes::{Bytes, says};
use crate::extents::{Map, View};

/// Volumes in volumes: thin on a mirror on a moved extent are four.
const MAX_DEPTH: u32 = 8;
const NO_FAULT: u64 = u64::MAX;

/// Where a physical volume was found.
#[derive(Debug, Clone)]
pub(crate) enum Place {
    At(Map),
    /// Several disks or partitions have its UUID.
    Several,
}

/// What a group's volumes are mapped with.
pub(crate) struct Mapper<'a, D> {
    pub(crate) disks: &'a [D],
    /// By UUID.
    pub(crate) places: &'a HashMap<String, Place>,
    pub(crate) group: &'a Group,
    pub(crate) budget: &'a Budget,
    pub(crate) zeros: &'a Zeros,
}

impl<'a, D: Bytes> Mapper<'a, D> {
    /// Where a logical volume lies.
    ///
    /// # Errors
    /// Unsupported for what is not read, not found where a disk is missing, corrupt where it leads beyond one: the words say
    /// what the volume is.
    pub(crate) fn map(&self, volume: &Logical, depth: u32) -> Result<Map> {
        if depth > MAX_DEPTH {
            return Err(Error::corrupt("volumes that lie in each other without an end"));
        }
        let mut map = Map::default();
        for segment in &volume.segments {
            self.segment(segment, depth, &mut map)?;
        }
        Ok(map)
    }

    fn segment(&self, segment: &Segment, depth: u32, map: &mut Map) -> Result<()> {
        let extents = segment.extents;
        match &segment.kind {
            Kind::Stripes { stripe, areas } => self.stripes(*stripe, areas, extents, depth, map),
            Kind::Mirror { areas } => {
                // The first image is the one that is written first, and what is moved is moved from there.
                let first = areas.first().ok_or_else(|| Error::corrupt("a mirror without images"))?;
                self.append(&self.area(first, extents, depth)?, map)
            }
            Kind::Raid1 { images } => self.append(&self.raid1(images, extents, depth)?, map),
            Kind::Thin { external: true, .. } => {
                Err(Error::unsupported("LVM2 thin volume with an external origin, which is not read"))
            }
            Kind::Thin { pool, device, .. } => self.thin(pool, *device, extents, depth, map),
            Kind::ThinPool { .. } => {
                Err(Error::unsupported("LVM2 thin pool, whose volumes are shown instead"))
            }
            Kind::Pool(name) => {
                Err(Error::unsupported(format!("LVM2 {name}, whose volumes are shown instead")))
            }
            Kind::Broken(why) => Err(Error::corrupt(why.clone())),
            Kind::Other(name) => Err(Error::unsupported(format!("LVM2 {name} volume, which is not read"))),
        }
    }

    fn stripes(&self, stripe: u64, areas: &[Area], extents: u64, depth: u32, map: &mut Map) -> Result<()> {
        let count = areas.len() as u64;
        let each = extents.checked_div(count).filter(|each| each.checked_mul(count) == Some(extents));
        let each = each.ok_or_else(|| Error::corrupt("stripes of different lengths"))?;
        if let [only] = areas {
            return self.append(&self.area(only, each, depth)?, map);
        }
        let maps = areas.iter().map(|area| self.area(area, each, depth)).collect::<Result<Vec<_>>>()?;
        let length = self.bytes(each)?;
        if stripe == 0 || length % stripe != 0 {
            return Err(Error::corrupt(format!("stripes of {stripe} bytes")));
        }
        self.budget.has_runs((length / stripe).saturating_mul(count))?;
        let mut at = 0;
        while at < length {
            for area in &maps {
                for run in area.cut(at, stripe)? {
                    self.push(run, map)?;
                }
            }
            at += stripe;
        }
        Ok(())
    }

    /// Some extents of a physical or logical volume.
    fn area(&self, (name, first): &Area, extents: u64, depth: u32) -> Result<Map> {
        self.budget.take_area()?;
        let (offset, length) = (self.bytes(*first)?, self.bytes(extents)?);
        let whole = match self.group.physical.get(name) {
            Some(physical) => return self.physical(physical, *first, extents),
            None => self.named(name, depth)?,
        };
        let mut map = Map::default();
        for run in whole.cut(offset, length)? {
            self.push(run, &mut map)?;
        }
        Ok(map)
    }

    fn physical(&self, physical: &Physical, first: u64, extents: u64) -> Result<Map> {
        let who = || format!("physical volume {} ({})", shown(&physical.id), physical.device);
        let place = match self.places.get(&physical.id) {
            Some(Place::At(place)) if !physical.lost => place,
            Some(Place::Several) => {
                let message = format!("LVM2 volume on {}, which is there more than once", who());
                return Err(Error::unsupported(message));
            }
            Some(Place::At(_)) => {
                let message = format!("LVM2 volume on {}, which its group has given up", who());
                return Err(Error::unsupported(message));
            }
            None => {
                let message = format!("LVM2 volume on {}, which is on no disk of the backup", who());
                return Err(Error::not_found(message));
            }
        };
        let inside = first.checked_add(extents).is_some_and(|end| end <= physical.extents);
        let offset = self.bytes(first)?.checked_add(physical.start);
        let length = self.bytes(extents)?;
        let run = offset.filter(|_| inside).and_then(|offset| place.cut(offset, length).ok()?.next());
        // A place is one run.
        let run = run.filter(|run| run.length == length);
        run.map(Map::of)
            .ok_or_else(|| Error::corrupt(format!("LVM2 volume that leads beyond the end of {}", who())))
    }

    /// All of another logical volume.
    fn named(&self, name: &str, depth: u32) -> Result<Map> {
        let part = self.group.logical(name);
        let part =
            part.ok_or_else(|| Error::corrupt(format!("LVM2 volume on '{name}', which there is not")))?;
        self.map(part, depth + 1)
    }

    /// The first image that is as new as any, and not being rebuilt.
    fn raid1(&self, images: &[(String, String)], extents: u64, depth: u32) -> Result<Map> {
        let mut known = Vec::new();
        for (meta, image) in images {
            let area = self.area(&(image.clone(), 0), extents, depth)?;
            known
                .push((area, Superblock::read(&View { disks: self.disks, map: &self.named(meta, depth)? })?));
        }
        // Without any it was never used.
        let newest =
            known.iter().filter_map(|(_, superblock)| superblock.as_ref()).map(|known| known.events).max();
        let failed = known.iter().filter_map(|(_, superblock)| superblock.as_ref());
        let failed =
            failed.filter(|known| Some(known.events) == newest).fold(0, |all, known| all | known.failed);
        let sound = |place: usize, superblock: &Option<Superblock>| match superblock {
            Some(superblock) => {
                let bit = u32::try_from(place).ok().and_then(|place| 1_u64.checked_shl(place)).unwrap_or(0);
                Some(superblock.events) == newest && superblock.recovered == NO_FAULT && failed & bit == 0
            }
            None => newest.is_none(),
        };
        let mut known = known.into_iter().enumerate();
        let found = known.find(|(place, (_, superblock))| sound(*place, superblock));
        found
            .map(|(_, (map, _))| map)
            .ok_or_else(|| Error::unsupported("LVM2 raid1 volume without an image that is known to be whole"))
    }

    fn thin(&self, pool: &str, device: u64, extents: u64, depth: u32, map: &mut Map) -> Result<()> {
        let found = self.group.logical(pool).and_then(|pool| pool.segments.first());
        let Some(Segment { kind: Kind::ThinPool { metadata, data, chunk }, .. }) = found else {
            return Err(Error::corrupt(format!("LVM2 thin volume in '{pool}', which is no thin pool")));
        };
        let (metadata, data) = (self.named(metadata, depth)?, self.named(data, depth)?);
        let view = View { disks: self.disks, map: &metadata };
        let holes = self.zeros.find(self.disks, &data, self.budget)?;
        let thin =
            thin::Device { pool: &view, data: &data, chunk: *chunk, device, holes, budget: self.budget };
        thin.map(self.bytes(extents)?, map).map_err(|error| error.during("LVM2 thin volume"))
    }

    fn append(&self, runs: &Map, map: &mut Map) -> Result<()> {
        runs.cut(0, runs.length())?.try_for_each(|run| self.push(run, map))
    }

    fn push(&self, run: Mapped, map: &mut Map) -> Result<()> {
        let before = map.count();
        map.push(run)?;
        self.budget.take_runs(map.count() - before)
    }

    fn bytes(&self, extents: u64) -> Result<u64> {
        extents.checked_mul(self.group.extent).ok_or_else(|| Error::corrupt(format!("{extents} extents")))
    }
}

/// What the kernel keeps of an image (`struct dm_raid_superblock` in Linux' `drivers/md/dm-raid.c`).
struct Superblock {
    /// Grows with each change of the array's state.
    events: u64,
    /// A bit for each image that had failed.
    failed: u64,
    /// How far the image is rebuilt; all ones where it is.
    recovered: u64,
}

impl Superblock {
    fn read(meta: &impl Bytes) -> Result<Option<Self>> {
        let found = meta.read_inside(0, 512)?.filter(|bytes| says(bytes, 0, b"DmRd"));
        let Some(bytes) = found else { return Ok(None) };
        Ok(Some(Self {
            events: fields::le64(&bytes, 16)?,
            failed: fields::le64(&bytes, 24)?,
            recovered: fields::le64(&bytes, 32)?,
        }))
    }
}
