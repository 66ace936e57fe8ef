//! A volume group as its metadata describes it: physical volumes, and logical volumes in segments (lvm2's
//! `lib/format_text/import_vsn1.c`). Sectors become bytes here.

use std::collections::{HashMap, HashSet};

use tidemark_plugin::{Error, Result};

use super::config::Section;

/// The metadata counts in these, whatever sectors a disk has.
const SECTOR: u64 = 512;

/// A volume group at one moment.
#[derive(Debug, PartialEq)]
pub(crate) struct Group {
    /// Its UUID, without hyphens.
    pub(crate) id: String,
    pub(crate) name: String,
    /// Counts its changes: the highest is in force.
    pub(crate) seqno: u64,
    /// Bytes of an extent.
    pub(crate) extent: u64,
    /// By the names that segments use.
    pub(crate) physical: HashMap<String, Physical>,
    /// In the metadata's order.
    pub(crate) logical: Vec<Logical>,
    /// Places in `logical` by name.
    places: HashMap<String, usize>,
    /// Logical volumes that hold what a snapshot keeps, with the origin's name.
    pub(crate) snapshots: HashMap<String, String>,
    /// Origins into which a snapshot is being merged.
    pub(crate) merging: HashSet<String>,
}

/// A physical volume of a group.
#[derive(Debug, PartialEq)]
pub(crate) struct Physical {
    /// Its UUID, without hyphens.
    pub(crate) id: String,
    /// What the guest called its device.
    pub(crate) device: String,
    /// Where its extents begin, in bytes.
    pub(crate) start: u64,
    /// How many extents it has.
    pub(crate) extents: u64,
    /// The group has gone on without it.
    pub(crate) lost: bool,
}

/// A logical volume.
#[derive(Debug, PartialEq)]
pub(crate) struct Logical {
    pub(crate) name: String,
    /// Parts of other volumes are not.
    pub(crate) visible: bool,
    /// Without gaps, from extent 0.
    pub(crate) segments: Vec<Segment>,
}

/// Some extents of a logical volume.
#[derive(Debug, PartialEq)]
pub(crate) struct Segment {
    /// How many.
    pub(crate) extents: u64,
    pub(crate) kind: Kind,
}

/// A name of a physical or logical volume, and an extent of it.
pub(crate) type Area = (String, u64);

/// How a segment's bytes lie.
#[derive(Debug, PartialEq)]
pub(crate) enum Kind {
    /// By turns in stripes of so many bytes; one area is linear.
    Stripes { stripe: u64, areas: Vec<Area> },
    /// The same in each.
    Mirror { areas: Vec<Area> },
    /// The same in each; pairs of the logical volumes of metadata and of data.
    Raid1 { images: Vec<(String, String)> },
    /// A device of a thin pool.
    Thin { pool: String, device: u64, external: bool },
    /// A thin pool: chunks of so many bytes.
    ThinPool { metadata: String, data: String, chunk: u64 },
    /// Another pool, whose volumes are shown instead.
    Pool(String),
    /// Something that is not read, by its name.
    Other(String),
    /// Something that was not understood, and why.
    Broken(String),
}

impl Group {
    /// Reads the text of a group's metadata.
    ///
    /// # Errors
    /// Corrupt where it is none, or does not fit itself.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let all = Section::parse(text)?;
        if all.text("contents")? != "Text Format Volume Group" || all.number("version")? != 1 {
            return Err(Error::unsupported("the metadata is of another version of LVM2"));
        }
        let (name, section) =
            all.sections().next().ok_or_else(|| Error::corrupt("the metadata holds no volume group"))?;
        let mut group = Self {
            id: id(section)?,
            name: checked(name)?,
            seqno: section.number("seqno")?,
            extent: bytes(section.number("extent_size")?)?,
            physical: HashMap::new(),
            logical: Vec::new(),
            places: HashMap::new(),
            snapshots: HashMap::new(),
            merging: HashSet::new(),
        };
        if group.extent == 0 {
            return Err(Error::corrupt("extents of no bytes"));
        }
        for (name, section) in section.section("physical_volumes").iter().flat_map(|all| all.sections()) {
            group.physical.insert(name.to_owned(), Physical::parse(section)?);
        }
        for (name, section) in section.section("logical_volumes").iter().flat_map(|all| all.sections()) {
            group.add(name, section).map_err(|error| error.during(&format!("logical volume '{name}'")))?;
        }
        Ok(group)
    }

    /// A logical volume by its name.
    pub(crate) fn logical(&self, name: &str) -> Option<&Logical> {
        self.places.get(name).and_then(|place| self.logical.get(*place))
    }

    fn add(&mut self, name: &str, section: &Section<'_>) -> Result<()> {
        for (_, part) in section.sections() {
            if part.text("type").is_ok_and(|kind| kind == "snapshot") {
                return self.add_snapshot(part);
            }
        }
        // What is not understood costs only what is made of it.
        let broken = |error: Error| vec![Segment { extents: 0, kind: Kind::Broken(error.message) }];
        let segments = segments(section).unwrap_or_else(broken);
        let visible = section.texts("status")?.contains(&"VISIBLE");
        if self.places.insert(name.to_owned(), self.logical.len()).is_some() {
            return Err(Error::corrupt("it comes twice"));
        }
        self.logical.push(Logical { name: checked(name)?, visible, segments });
        Ok(())
    }

    /// A snapshot is a hidden volume that names two others.
    fn add_snapshot(&mut self, part: &Section<'_>) -> Result<()> {
        let origin = part.text("origin")?.to_owned();
        let store = if part.has("merging_store") {
            self.merging.insert(origin.clone());
            part.text("merging_store")?
        } else {
            part.text("cow_store")?
        };
        self.snapshots.insert(store.to_owned(), origin);
        Ok(())
    }
}

impl Physical {
    fn parse(section: &Section<'_>) -> Result<Self> {
        let flags = if section.has("flags") { section.texts("flags")? } else { Vec::new() };
        let device = if section.has("device") { section.text("device")? } else { "" };
        Ok(Self {
            id: id(section)?,
            device: device.to_owned(),
            start: bytes(section.number("pe_start")?)?,
            extents: section.number("pe_count")?,
            lost: flags.contains(&"MISSING"),
        })
    }
}

impl Segment {
    fn parse(section: &Section<'_>) -> Result<Self> {
        let named = |key: &str| section.text(key).map(str::to_owned);
        let kind = match section.text("type")? {
            "striped" | "linear" => {
                let areas = section.pairs("stripes")?;
                let stripe = if areas.len() > 1 { bytes(section.number("stripe_size")?)? } else { 0 };
                Kind::Stripes { stripe, areas }
            }
            name @ ("raid0" | "raid0_meta") => {
                // With metadata, every other name is of an image.
                let (key, step) = if name == "raid0" { ("raid0_lvs", 1) } else { ("raids", 2) };
                let names = section.texts(key)?;
                let areas = names.iter().skip(step - 1).step_by(step).map(|name| ((*name).to_owned(), 0));
                Kind::Stripes { stripe: bytes(section.number("stripe_size")?)?, areas: areas.collect() }
            }
            "mirror" => Kind::Mirror { areas: section.pairs("mirrors")? },
            "raid1" => {
                let names = section.texts("raids")?;
                let (pairs, rest) = names.as_chunks::<2>();
                if pairs.is_empty() || !rest.is_empty() {
                    return Err(Error::corrupt("images without metadata"));
                }
                let images = pairs.iter().map(|[meta, image]| ((*meta).to_owned(), (*image).to_owned()));
                Kind::Raid1 { images: images.collect() }
            }
            "thin" => Kind::Thin {
                pool: named("thin_pool")?,
                device: section.number("device_id")?,
                external: section.has("external_origin"),
            },
            "thin-pool" => Kind::ThinPool {
                metadata: named("metadata")?,
                data: named("pool")?,
                chunk: bytes(section.number("chunk_size")?)?,
            },
            name if name.contains("pool") => Kind::Pool(name.to_owned()),
            name => Kind::Other(name.to_owned()),
        };
        Ok(Self { extents: section.number("extent_count")?, kind })
    }
}

/// The segments of a logical volume, one after the other.
fn segments(section: &Section<'_>) -> Result<Vec<Segment>> {
    let mut parts = Vec::new();
    for (_, part) in section.sections().filter(|(name, _)| name.starts_with("segment")) {
        parts.push((part.number("start_extent")?, Segment::parse(part)?));
    }
    parts.sort_by_key(|(start, _)| *start);
    let mut end = 0_u64;
    for (start, segment) in &parts {
        let next = end.checked_add(segment.extents).filter(|_| *start == end && segment.extents > 0);
        end = next.ok_or_else(|| Error::corrupt("its segments do not follow each other"))?;
    }
    if end == 0 || section.number("segment_count")? != parts.len() as u64 {
        return Err(Error::corrupt("it lacks segments"));
    }
    Ok(parts.into_iter().map(|(_, segment)| segment).collect())
}

/// A name as LVM2 allows them; others would be no part of a path.
fn checked(name: &str) -> Result<String> {
    let fits = name.len() <= 127
        && !matches!(name, "" | "." | "..")
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+_.-".contains(&byte));
    fits.then(|| name.to_owned())
        .ok_or_else(|| Error::corrupt(format!("'{}' is no name", name.escape_default())))
}

fn id(section: &Section<'_>) -> Result<String> {
    let id = section.text("id")?.replace('-', "");
    if id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return Ok(id);
    }
    Err(Error::corrupt("a UUID that is none"))
}

fn bytes(sectors: u64) -> Result<u64> {
    sectors.checked_mul(SECTOR).ok_or_else(|| Error::corrupt(format!("{sectors} sectors")))
}

/// A UUID as LVM2's tools write it.
pub(crate) fn shown(id: &str) -> String {
    let (mut text, mut left) = (String::new(), id);
    for length in [6, 4, 4, 4, 4, 4] {
        let Some((part, rest)) = left.split_at_checked(length) else { break };
        text.push_str(part);
        text.push('-');
        left = rest;
    }
    text + left
}
