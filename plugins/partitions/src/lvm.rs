//! LVM2: volume groups over all disks of a machine.
//!
//! ```text
//!   labels of physical volumes ─▶ texts of metadata, the newest of each group ─▶ logical volumes as runs on the disks
//!         label                        config, group                                mapping ─┬─ thin    pools' trees
//!                                                                                            └─ zeros   for their holes
//! ```
//! Groups are told apart by UUID. What of a group is damaged, missing or not read costs only the volumes that need it.

mod budget;
mod config;
mod group;
mod label;
mod mapping;
#[cfg(test)]
mod tests;
mod thin;
mod zeros;

use std::collections::{HashMap, HashSet};

use tidemark_plugin::guest_filesystem::Mapped;
use tidemark_plugin::{Error, ErrorKind, Result};

use crate::bytes::Bytes;
use crate::content;
use crate::extents::{Map, View};

use budget::Budget;
use group::{Group, Kind, Logical};
use label::Label;
use mapping::{Mapper, Place};
use zeros::Zeros;

/// Areas of metadata of a physical volume; LVM2 makes two at most.
const MAX_AREAS: usize = 4;
/// Bytes of all groups' metadata that are kept in mind.
const MAX_TEXTS: usize = 8 << 20;
/// Volumes that are shown.
const MAX_VOLUMES: usize = 10_000;

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// For each candidate the group that it belongs to.
    pub(crate) groups: Vec<Option<String>>,
    pub(crate) volumes: Vec<Volume>,
    pub(crate) complaints: Vec<String>,
}

/// A logical volume.
#[derive(Debug, PartialEq)]
pub(crate) struct Volume {
    /// Group and volume as the device mapper writes them: `vg0-home`.
    pub(crate) name: String,
    /// What it looks like, or why it is not read.
    pub(crate) content: String,
    /// Where it lies; empty where it is not read.
    pub(crate) runs: Vec<Mapped>,
    pub(crate) length: u64,
}

/// A physical volume that was found.
struct Member {
    label: Label,
    map: Map,
    candidate: usize,
}

/// Looks for groups among disks and partitions that look like physical volumes.
///
/// # Errors
/// Only of the disks themselves.
pub(crate) fn find(disks: &[impl Bytes], candidates: &[Mapped]) -> Result<Found> {
    let mut found = Found { groups: vec![None; candidates.len()], ..Found::default() };
    let members = members(disks, candidates, &mut found.complaints)?;
    let groups = groups(disks, &members, &mut found.complaints)?;
    let mut places = HashMap::new();
    for member in &members {
        let place = Place::At(member.map.clone());
        let again = places.insert(member.label.id.clone(), place).is_some();
        if again {
            found
                .complaints
                .push(format!("physical volume {} is there twice", group::shown(&member.label.id)));
            places.insert(member.label.id.clone(), Place::Several);
        }
    }
    let budget = Budget::default();
    let zeros = Zeros::new(members.iter().filter_map(|member| member.map.last()).collect());
    for (group, name) in named(&groups) {
        for member in &members {
            let belongs = group.physical.values().any(|physical| physical.id == member.label.id);
            if let Some(of) = found.groups.get_mut(member.candidate).filter(|_| belongs) {
                *of = Some(name.clone());
            }
        }
        let mapper = Mapper { disks, places: &places, group, budget: &budget, zeros: &zeros };
        for logical in group.logical.iter().filter(|logical| is_shown(group, logical)) {
            if found.volumes.len() >= MAX_VOLUMES {
                found.complaints.push(format!("only {MAX_VOLUMES} logical volumes are shown"));
                return Ok(found);
            }
            let name = format!("{name}-{}", doubled(&logical.name));
            found.volumes.push(volume(&mapper, logical, name)?);
        }
    }
    Ok(found)
}

fn members(disks: &[impl Bytes], candidates: &[Mapped], complaints: &mut Vec<String>) -> Result<Vec<Member>> {
    let mut members = Vec::new();
    for (candidate, run) in candidates.iter().enumerate() {
        let map = Map::of(*run);
        let label = survived(Label::read(&View { disks, map: &map }), run, complaints)?.flatten();
        members.extend(label.map(|label| Member { label, map, candidate }));
    }
    Ok(members)
}

/// The newest metadata of each group.
fn groups(disks: &[impl Bytes], members: &[Member], complaints: &mut Vec<String>) -> Result<Vec<Group>> {
    let mut groups: HashMap<String, Group> = HashMap::new();
    let (mut seen, mut bytes) = (HashSet::new(), 0);
    for Member { label, map, .. } in members {
        let run = map.last().unwrap_or(Mapped { disk_index: 0, offset: 0, length: 0 });
        for area in label.areas.iter().take(MAX_AREAS) {
            let text = label::text(&View { disks, map }, *area);
            let text = text.map_err(|error| error.during("metadata of a volume group"));
            let Some(text) = survived(text, &run, complaints)?.flatten() else { continue };
            // Every member has it.
            if !seen.insert(digest(&text)) {
                continue;
            }
            bytes += text.len();
            if bytes > MAX_TEXTS {
                complaints
                    .push("there is more metadata of volume groups than can be kept in mind".to_owned());
                return Ok(groups.into_values().collect());
            }
            let group = Group::parse(&text).map_err(|error| error.during("metadata of a volume group"));
            let Some(group) = survived(group, &run, complaints)? else { continue };
            if groups.get(&group.id).is_none_or(|known| known.seqno < group.seqno) {
                groups.insert(group.id.clone(), group);
            }
        }
    }
    Ok(groups.into_values().collect())
}

fn digest(text: &str) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

/// Damage costs only what is damaged; a disk that cannot be read ends the scan.
fn survived<T>(result: Result<T>, at: &Mapped, complaints: &mut Vec<String>) -> Result<Option<T>> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind == ErrorKind::Unavailable => Err(error),
        Err(error) => {
            let Mapped { disk_index, offset, .. } = at;
            complaints.push(format!("disk {disk_index}, at {offset}: {}", error.message));
            Ok(None)
        }
    }
}

/// Groups in the order of their names; those of the same name with what tells them apart.
fn named(groups: &[Group]) -> Vec<(&Group, String)> {
    let mut sorted: Vec<&Group> = groups.iter().collect();
    sorted.sort_by(|a, b| (&a.name, &a.id).cmp(&(&b.name, &b.id)));
    let short = |group: &Group| group.id.get(..6).unwrap_or_default().to_owned();
    let same = |group: &Group, long: bool| {
        let alike = |other: &&&Group| other.name == group.name && (!long || short(other) == short(group));
        sorted.iter().filter(alike).count() > 1
    };
    let name = |group: &Group| match (same(group, false), same(group, true)) {
        (false, _) => doubled(&group.name),
        (true, false) => format!("{}@{}", doubled(&group.name), short(group)),
        (true, true) => format!("{}@{}", doubled(&group.name), group.id),
    };
    sorted.iter().map(|group| (*group, name(group))).collect()
}

/// As the device mapper keeps the hyphens of names apart from its own.
fn doubled(name: &str) -> String {
    name.replace('-', "--")
}

/// Not what others are made of.
fn is_shown(group: &Group, logical: &Logical) -> bool {
    let pool = logical.segments.iter().any(|part| matches!(part.kind, Kind::ThinPool { .. } | Kind::Pool(_)));
    group.snapshots.contains_key(&logical.name) || logical.visible && !pool
}

fn volume(mapper: &Mapper<'_, impl Bytes>, logical: &Logical, name: String) -> Result<Volume> {
    let mapped = match mapper.group.snapshots.get(&logical.name) {
        Some(origin) => Err(Error::unsupported(format!("LVM2 snapshot of {origin}, which is not read"))),
        None if mapper.group.merging.contains(&logical.name) => {
            let message = "LVM2 volume into which a snapshot is being merged, which is not read";
            Err(Error::unsupported(message))
        }
        None => mapper.map(logical, 0),
    };
    match mapped {
        Ok(map) => {
            let view = View { disks: mapper.disks, map: &map };
            let looks = mapper.budget.take_read().and_then(|()| content::of(&view));
            let content = match looks {
                Ok(content) => content.unwrap_or_default().to_owned(),
                Err(error) if error.kind == ErrorKind::Unavailable => return Err(error),
                Err(_) => String::new(),
            };
            Ok(Volume { name, content, length: map.length(), runs: map.into_runs() })
        }
        Err(error) if error.kind == ErrorKind::Unavailable => Err(error),
        Err(error) => {
            let told = error.message.starts_with("LVM2");
            let content = if told { error.message } else { format!("LVM2 volume: {}", error.message) };
            Ok(Volume { name, content, length: 0, runs: Vec::new() })
        }
    }
}
