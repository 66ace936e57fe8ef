//! A disc as nodes.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use tidemark_plugin::attributes::NodeAttributes;
use tidemark_plugin::disk::{CachedDisk, Run, Runs};
use tidemark_plugin::fields::{index, wtf8};
use tidemark_plugin::guest_filesystem::{NodeKind, VolumeInfo};
use tidemark_plugin::nodes::{FileStat, InodeReader, Names};
use tidemark_plugin::{Error, ErrorKind, Result, placement};

use crate::descriptors::{Descriptor, Descriptors, units_be};
use crate::folder::{Found, each_record, record_at};
use crate::record::{Record, continued, identifier};
use crate::rock::{Area, Rock};

/// The root's node, which is no place of a record.
const ROOT: u64 = 1;
/// Folders of which is known who they are: enough for any real disc, and a few megabytes.
const MAX_KNOWN: usize = 1 << 17;
/// A file may be in so many parts: 4 TiB.
const MAX_PARTS: usize = 1024;
/// The most that a folder may have.
const MAX_FOLDER: u64 = 128 << 20;
/// The kinds in a mode.
const KIND: u32 = 0o170_000;

/// Which tree of the disc is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tree {
    Rock(Area),
    Joliet,
    Plain,
}

/// An open disc.
#[derive(Debug)]
pub struct Opened {
    disk: CachedDisk,
    tree: Tree,
    of: Descriptor,
    info: VolumeInfo,
    /// The file that was read last, where its next piece is asked for.
    last: RefCell<Option<(u64, Rc<Runs>)>>,
    /// The nodes of folders by their blocks: a folder with two nodes is a circle or shared.
    folders: RefCell<HashMap<u32, u64>>,
}

impl Opened {
    /// Opens the disc.
    ///
    /// # Errors
    /// Corrupt where there is none, or its descriptors are damaged.
    pub fn new(disk: CachedDisk) -> Result<Self> {
        if !Descriptors::probed(&disk)? {
            return Err(Error::corrupt("this is no ISO 9660 file system"));
        }
        let Descriptors { primary, joliet, joliet_damaged, udf } = Descriptors::read(&disk)?;
        let itself = record_at(&disk, u64::from(primary.root.block) * primary.block_bytes);
        let itself = itself.and_then(|(bytes, _)| Record::parse(&bytes));
        let area = itself.as_ref().ok().and_then(|itself| Area::of(&disk, &itself.more, primary.block_bytes));
        let (tree, of) = match (area, joliet) {
            (Some(area), _) => (Tree::Rock(area), primary),
            (None, Some(joliet)) => (Tree::Joliet, joliet),
            (None, None) => (Tree::Plain, primary),
        };
        let total_bytes = u64::from(of.blocks) * of.block_bytes;
        let short = disk.size() < total_bytes;
        let warnings = [
            (
                udf,
                "the disc holds a UDF file system too, which is not read: files may be missing here"
                    .to_owned(),
            ),
            (
                short,
                format!(
                    "the volume has {} bytes, the disc {total_bytes}: its end cannot be read",
                    disk.size()
                ),
            ),
            (
                joliet_damaged.is_some() && tree == Tree::Plain,
                format!("long names cannot be read: {}", joliet_damaged.unwrap_or_default()),
            ),
        ];
        let info = VolumeInfo {
            filesystem: "iso9660".to_owned(),
            label: of.label.clone(),
            uuid: of.made.clone(),
            total_bytes,
            warnings: warnings.into_iter().filter(|(is, _)| *is).map(|(_, words)| words).collect(),
            journal_replayed: false,
        };
        let folders = RefCell::new(HashMap::from([(of.root.block, ROOT)]));
        Ok(Self { disk, tree, of, info, last: RefCell::default(), folders })
    }

    fn rock(&self, record: &Record) -> (Rock, Result<()>) {
        match self.tree {
            Tree::Rock(area) => Rock::read(&self.disk, &record.more, area),
            Tree::Joliet | Tree::Plain => (Rock::default(), Ok(())),
        }
    }

    /// The record of a node, with the record of the folder itself where that lies elsewhere.
    fn record(&self, node: u64) -> Result<(Record, Rock)> {
        if node == ROOT {
            return self.itself(self.of.root.block);
        }
        let (bytes, _) = record_at(&self.disk, node)?;
        let record = Record::parse(&bytes)?;
        let (rock, whole) = self.rock(&record);
        whole?;
        match rock.child {
            Some(block) => self.itself(block),
            None => Ok((record, rock)),
        }
    }

    /// What a folder says of itself, in its first record.
    fn itself(&self, block: u32) -> Result<(Record, Rock)> {
        let (bytes, _) = record_at(&self.disk, u64::from(block) * self.of.block_bytes)?;
        let record = Record::parse(&bytes)?;
        if record.identifier != [0] || record.block != block || !record.folder {
            return Err(Error::corrupt("what should be a folder does not begin with a record for itself"));
        }
        let (rock, whole) = self.rock(&record);
        whole.map(|()| (record, rock))
    }

    /// The parts of a file, of which all but the last say that there are more.
    fn parts(&self, node: u64) -> Result<Vec<Record>> {
        let mut parts: Vec<Record> = Vec::new();
        let mut at = node;
        while parts.last().is_none_or(|part| part.continued) {
            let (bytes, next) = match record_at(&self.disk, at) {
                // A sector's end, or damage.
                Err(error) if error.kind == ErrorKind::Corrupt && !parts.is_empty() => {
                    record_at(&self.disk, at.next_multiple_of(crate::folder::SECTOR))?
                }
                found => found?,
            };
            let part = Record::parse(&bytes)?;
            if parts.first().is_some_and(|first| first.identifier != part.identifier)
                || parts.len() > MAX_PARTS
            {
                return Err(Error::corrupt("a file of several parts lacks its last one"));
            }
            parts.push(part);
            at = next;
        }
        Ok(parts)
    }

    fn stat_of(&self, node: u64, record: &Record, rock: Rock) -> Result<FileStat> {
        let kind = kind(record, &rock)?;
        let size_bytes = match (kind, &rock.target) {
            (NodeKind::Symlink, Some(target)) => target.len() as u64,
            (NodeKind::File, _) if record.continued => {
                self.parts(node)?.iter().map(|part| u64::from(part.size)).sum()
            }
            _ => u64::from(rock.unpacked.unwrap_or(record.size)),
        };
        let [mode, links, owner, group] = match rock.posix {
            Some(posix) => posix.map(Some),
            None => [None; 4],
        };
        Ok(FileStat {
            kind,
            size_bytes,
            modified_ns: rock.modified_ns.or(record.modified_ns),
            created_ns: rock.created_ns,
            accessed_ns: rock.accessed_ns,
            mode: mode.map(|mode| mode & !KIND),
            owner: owner.map(|owner| owner.to_string()),
            group: group.map(|group| group.to_string()),
            links: links.unwrap_or(1),
        })
    }

    fn runs(&self, node: u64) -> Result<Rc<Runs>> {
        if let Some((_, runs)) = self.last.borrow().as_ref().filter(|(known, _)| *known == node) {
            return Ok(Rc::clone(runs));
        }
        let (record, rock) = self.record(node)?;
        if rock.unpacked.is_some() || rock.sparse {
            let words = "the file is compressed (zisofs) or sparse in Rock Ridge's way: copy it in the guest";
            return Err(Error::unsupported(words));
        }
        let parts = if record.continued { self.parts(node)? } else { vec![record] };
        let (mut start, mut runs) = (0, Vec::new());
        for part in parts {
            if part.interleaved {
                return Err(Error::unsupported(
                    "the file's blocks are interleaved with others: copy it in the guest",
                ));
            }
            let (length, at) = (u64::from(part.size), u64::from(part.block) * self.of.block_bytes);
            runs.push(Run { start, length, at: Some(at) });
            start += length;
        }
        let runs = Rc::new(Runs::new(runs)?);
        *self.last.borrow_mut() = Some((node, Rc::clone(&runs)));
        Ok(runs)
    }

    /// Corrupt where the same folder is known by another node.
    fn known(&self, node: u64, block: u32) -> Result<()> {
        let mut folders = self.folders.borrow_mut();
        match folders.get(&block) {
            Some(known) if *known != node => {
                return Err(Error::corrupt("two folders lie in the same place, or lead in a circle"));
            }
            None if folders.len() < MAX_KNOWN => drop(folders.insert(block, node)),
            _ => {}
        }
        Ok(())
    }

    /// The name of a record; none for one that is not shown.
    fn name(&self, bytes: &[u8]) -> Result<Option<Vec<u8>>> {
        let plain = identifier(bytes)?;
        let Ok(record) = Record::parse(bytes) else { return Ok(Some(self.spelled(plain))) };
        let (rock, _) = self.rock(&record);
        if record.associated || rock.relocated {
            return Ok(None);
        }
        Ok(Some(rock.name.filter(|name| !name.is_empty()).unwrap_or_else(|| self.spelled(plain))))
    }

    /// A name without the version that each file has.
    fn spelled(&self, identifier: &[u8]) -> Vec<u8> {
        let name = if self.tree == Tree::Joliet { wtf8(units_be(identifier)) } else { identifier.to_vec() };
        let Some(name) = name.strip_suffix(b";1") else { return name };
        // Plain names have a point, whether anything follows it or not.
        let pointed = if self.tree == Tree::Joliet { None } else { name.strip_suffix(b".") };
        pointed.unwrap_or(name).to_vec()
    }
}

fn kind(record: &Record, rock: &Rock) -> Result<NodeKind> {
    let kind = match rock.posix.map(|[mode, ..]| mode & KIND) {
        None if rock.target.is_some() => NodeKind::Symlink,
        None if record.folder => NodeKind::Directory,
        None | Some(0o100_000) => NodeKind::File,
        Some(0o040_000) => NodeKind::Directory,
        Some(0o120_000) => NodeKind::Symlink,
        Some(_) => NodeKind::Other,
    };
    if (kind == NodeKind::Directory) == record.folder {
        return Ok(kind);
    }
    Err(Error::corrupt("ISO 9660 and Rock Ridge do not agree whether this is a folder"))
}

impl InodeReader for Opened {
    fn info(&self) -> VolumeInfo {
        self.info.clone()
    }

    fn root(&self) -> u64 {
        ROOT
    }

    fn stat(&self, node: u64) -> Result<FileStat> {
        let (record, rock) = self.record(node)?;
        self.stat_of(node, &record, rock)
    }

    fn list(&self, node: u64) -> Result<Vec<(Vec<u8>, u64)>> {
        let (record, _) = self.record(node)?;
        self.known(node, record.block)?;
        let (itself, _) = self.itself(record.block)?;
        if itself.size != record.size || u64::from(record.size) > MAX_FOLDER {
            return Err(Error::corrupt(format!(
                "a folder of {} bytes says that it has {}",
                record.size, itself.size
            )));
        }
        let (mut names, mut part_of) = (Names::default(), None::<Vec<u8>>);
        let at = u64::from(record.block) * self.of.block_bytes;
        each_record(&self.disk, at, u64::from(record.size), |place, found| {
            let Found::Record(bytes) = found else { return names.missing(place) };
            let identifier = identifier(bytes)?;
            if matches!(identifier, [0 | 1]) {
                return Ok(());
            }
            let goes_on = part_of.take().is_some_and(|known| known == identifier);
            part_of = continued(bytes).then(|| identifier.to_vec());
            if goes_on {
                return Ok(());
            }
            match self.name(bytes)? {
                Some(name) => names.push(Some(name), place, place),
                None => Ok(()),
            }
        })?;
        Ok(names.into_all())
    }

    fn read(&self, node: u64, stream: Option<&[u8]>, offset: u64, length: u32) -> Result<Vec<u8>> {
        if stream.is_some() {
            return Err(Error::not_found("files of ISO 9660 have no named streams"));
        }
        let mut bytes = vec![0; index(u64::from(length))?];
        self.runs(node)?.read(&self.disk, offset, &mut bytes)?;
        Ok(bytes)
    }

    fn attributes(&self, node: u64) -> Result<NodeAttributes> {
        let (record, _) = self.record(node)?;
        Ok(NodeAttributes::of(u64::from(record.hidden), &[(1, "hidden")]))
    }

    fn placed(&self, node: u64, offset: u64, size: u64) -> Result<Option<Vec<placement::Run>>> {
        Ok(Some(self.runs(node)?.placed(offset, size, size)))
    }

    fn readlink(&self, node: u64) -> Result<Vec<u8>> {
        let target = self.record(node)?.1.target;
        target.ok_or_else(|| Error::corrupt("a symbolic link that leads nowhere"))
    }
}
