//! A file system whose reader goes by paths, shown to the host by node numbers as the world `guest-filesystem` wants it.
//!
//! A node is a directory and a place in it, so that what was only listed takes no memory. Directories get a number when they
//! are listed; the listings of the last few are kept, as the host asks for them page by page and then for what is in them.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;

use super::{FileStat, MAX_ENTRIES, page_of, stat_of};
use crate::guest_filesystem::{Entry, EntryPage, GuestVolume, NamedStream, NodeKind, Stat, VolumeInfo};
use crate::{Error, Result};

/// Listings that are kept.
const KEPT: usize = 4;
/// Directories that may be looked into.
const MAX_DIRECTORIES: usize = 1 << 20;
/// A reader that goes by paths: absolute, `/` between the parts, no `.` or `..`, the root is `/`. Links are never followed.
#[allow(clippy::missing_errors_doc, reason = "the errors are the contract's, described in the WIT")]
pub trait PathReader: 'static {
    /// What the volume is.
    fn info(&self) -> VolumeInfo;
    /// What is in a directory, always in the same order, without `.` and `..`.
    fn list(&self, path: &[u8]) -> Result<Vec<(Vec<u8>, FileStat)>>;
    /// What the root is.
    fn root(&self) -> Result<FileStat>;
    /// Bytes of a file or of a named stream of it; fewer than asked for only at its end.
    fn read(&self, path: &[u8], stream: Option<&[u8]>, offset: u64, length: u32) -> Result<Vec<u8>>;
    /// Where a link leads.
    fn readlink(&self, path: &[u8]) -> Result<Vec<u8>>;
    /// The named streams of a file.
    fn streams(&self, _path: &[u8]) -> Result<Vec<NamedStream>> {
        Ok(Vec::new())
    }
    /// The first offset at or after `offset` that is not in a hole, in a file of `size` bytes; none where there is none.
    fn next_data(&self, _path: &[u8], offset: u64, size: u64) -> Result<Option<u64>> {
        Ok(Some(offset).filter(|offset| *offset < size))
    }
}

/// The volume over such a reader.
#[derive(Debug)]
pub struct ByPath<R> {
    reader: R,
    tree: RefCell<Tree>,
}

/// A listing with the place of each name in it.
#[derive(Debug)]
struct Listing {
    entries: Vec<(Vec<u8>, FileStat)>,
    places: HashMap<Vec<u8>, usize>,
}

#[derive(Debug)]
struct Tree {
    /// The paths of the directories that were looked into; the first is the root.
    directories: Vec<Rc<[u8]>>,
    numbers: HashMap<Rc<[u8]>, u32>,
    kept: VecDeque<(u32, Rc<Listing>)>,
}

/// The root's node. All others hold the number of their directory above, and their place in it, from 1.
const ROOT: u64 = 0;

impl<R: PathReader> ByPath<R> {
    /// The volume.
    #[must_use]
    pub fn new(reader: R) -> Self {
        let root: Rc<[u8]> = Rc::from(&b"/"[..]);
        let numbers = HashMap::from([(Rc::clone(&root), 0)]);
        let tree = Tree { directories: vec![root], numbers, kept: VecDeque::new() };
        Self { reader, tree: RefCell::new(tree) }
    }

    /// The path of a node, and what is known of it.
    fn found(&self, node: u64) -> Result<(Vec<u8>, FileStat)> {
        if node == ROOT {
            return Ok((b"/".to_vec(), self.reader.root()?));
        }
        let unknown = || Error::not_found(format!("there is no node {node}"));
        let directory = u32::try_from(node >> 32).map_err(|_| unknown())?;
        let place = usize::try_from(node & u64::from(u32::MAX)).map_err(|_| unknown())?;
        let above = usize::try_from(directory)
            .ok()
            .and_then(|number| self.tree.borrow().directories.get(number).map(Rc::clone));
        let above = above.ok_or_else(unknown)?;
        let listing = self.listing(directory, &above)?;
        let entry = place.checked_sub(1).and_then(|place| listing.entries.get(place));
        let (name, stat) = entry.ok_or_else(unknown)?;
        Ok((joined(&above, name), stat.clone()))
    }

    /// The number of a directory, which it gets when it is looked into.
    fn number(&self, path: &[u8]) -> Result<u32> {
        let mut tree = self.tree.borrow_mut();
        if let Some(number) = tree.numbers.get(path) {
            return Ok(*number);
        }
        let number = u32::try_from(tree.directories.len()).unwrap_or(u32::MAX);
        if tree.directories.len() >= MAX_DIRECTORIES {
            return Err(Error::unsupported(format!(
                "more than {MAX_DIRECTORIES} directories in one session"
            )));
        }
        let path: Rc<[u8]> = Rc::from(path);
        tree.directories.push(Rc::clone(&path));
        tree.numbers.insert(path, number);
        Ok(number)
    }

    fn listing(&self, number: u32, path: &[u8]) -> Result<Rc<Listing>> {
        let mut tree = self.tree.borrow_mut();
        if let Some(at) = tree.kept.iter().position(|(known, _)| *known == number)
            && let Some(kept) = tree.kept.remove(at)
        {
            let listing = Rc::clone(&kept.1);
            tree.kept.push_back(kept);
            return Ok(listing);
        }
        let entries = self.reader.list(path)?;
        if entries.len() > MAX_ENTRIES {
            return Err(Error::unsupported(format!("a directory of more than {MAX_ENTRIES} entries")));
        }
        let places: HashMap<Vec<u8>, usize> =
            entries.iter().enumerate().map(|(place, (name, _))| (name.clone(), place)).collect();
        if places.len() != entries.len() {
            let path = String::from_utf8_lossy(path);
            return Err(Error::corrupt(format!("the directory {path} has a name twice")));
        }
        let listing = Rc::new(Listing { entries, places });
        if tree.kept.len() >= KEPT {
            tree.kept.pop_front();
        }
        tree.kept.push_back((number, Rc::clone(&listing)));
        Ok(listing)
    }

    /// A directory's number and listing, by its node.
    fn directory(&self, node: u64) -> Result<(u32, Rc<Listing>)> {
        let (path, stat) = self.found(node)?;
        if stat.kind != NodeKind::Directory {
            let path = String::from_utf8_lossy(&path).into_owned();
            return Err(Error::config(format!("{path} is no directory")));
        }
        let number = self.number(&path)?;
        Ok((number, self.listing(number, &path)?))
    }
}

impl<R: PathReader> GuestVolume for ByPath<R> {
    fn info(&self) -> VolumeInfo {
        self.reader.info()
    }

    fn root(&self) -> u64 {
        ROOT
    }

    fn lookup(&self, directory: u64, name: Vec<u8>) -> Result<Stat> {
        let (number, listing) = self.directory(directory)?;
        let place = listing.places.get(&name).copied();
        let found = place.and_then(|place| Some((place, listing.entries.get(place)?)));
        let name = String::from_utf8_lossy(&name);
        let (place, (_, stat)) = found.ok_or_else(|| Error::not_found(format!("there is no '{name}'")))?;
        Ok(stat_of(node(number, place), stat.clone()))
    }

    fn list(&self, directory: u64, cursor: u64, limit: u32) -> Result<EntryPage> {
        let (number, listing) = self.directory(directory)?;
        let (page, next) = page_of(listing.entries.len(), cursor, limit);
        let entries = listing.entries.get(page.clone()).unwrap_or_default().iter().zip(page);
        let entry = |((name, stat), place): (&(Vec<u8>, FileStat), usize)| Entry {
            name: name.clone(),
            stat: stat_of(node(number, place), stat.clone()),
        };
        Ok(EntryPage { entries: entries.map(entry).collect(), next })
    }

    fn stat(&self, node: u64) -> Result<Stat> {
        self.found(node).map(|(_, stat)| stat_of(node, stat))
    }

    fn read(&self, node: u64, stream: Option<Vec<u8>>, offset: u64, length: u32) -> Result<Vec<u8>> {
        let (path, stat) = self.found(node)?;
        if stat.kind != NodeKind::File {
            let path = String::from_utf8_lossy(&path).into_owned();
            return Err(Error::config(format!("{path} is no regular file")));
        }
        self.reader.read(&path, stream.as_deref(), offset, length)
    }

    fn readlink(&self, node: u64) -> Result<Vec<u8>> {
        let (path, stat) = self.found(node)?;
        if stat.kind != NodeKind::Symlink {
            let path = String::from_utf8_lossy(&path).into_owned();
            return Err(Error::config(format!("{path} is no symbolic link")));
        }
        self.reader.readlink(&path)
    }

    fn streams(&self, node: u64) -> Result<Vec<NamedStream>> {
        self.reader.streams(&self.found(node)?.0)
    }

    fn next_data(&self, node: u64, offset: u64) -> Result<Option<u64>> {
        let (path, stat) = self.found(node)?;
        self.reader.next_data(&path, offset, stat.size_bytes)
    }
}

fn node(directory: u32, place: usize) -> u64 {
    (u64::from(directory) << 32) | (place as u64 + 1)
}

fn joined(directory: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = directory.to_vec();
    if path.last() != Some(&b'/') {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on fails by panicking")]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::ErrorKind;

    /// `/`, `/many` with 3,000 files of which each holds its own name, and `/many/link`.
    #[derive(Default)]
    struct Small {
        listings: Cell<u32>,
    }

    fn stat(kind: NodeKind) -> FileStat {
        FileStat {
            kind,
            size_bytes: 4,
            modified_ns: None,
            created_ns: None,
            accessed_ns: None,
            mode: None,
            owner: None,
            group: None,
            links: 1,
        }
    }

    impl PathReader for Small {
        fn info(&self) -> VolumeInfo {
            VolumeInfo {
                filesystem: "small".into(),
                label: String::new(),
                uuid: String::new(),
                total_bytes: 0,
                warnings: vec![],
                journal_replayed: false,
            }
        }

        fn list(&self, path: &[u8]) -> Result<Vec<(Vec<u8>, FileStat)>> {
            self.listings.set(self.listings.get() + 1);
            match path {
                b"/" => Ok(vec![(b"many".to_vec(), stat(NodeKind::Directory))]),
                b"/many" => {
                    let mut all: Vec<_> = (1000..4000_u32)
                        .map(|number| (number.to_string().into_bytes(), stat(NodeKind::File)))
                        .collect();
                    all.push((b"link".to_vec(), stat(NodeKind::Symlink)));
                    Ok(all)
                }
                b"/twice" => Ok(vec![(b"a".to_vec(), stat(NodeKind::File)); 2]),
                _ => Err(Error::not_found("no such path")),
            }
        }

        fn root(&self) -> Result<FileStat> {
            Ok(stat(NodeKind::Directory))
        }

        fn read(&self, path: &[u8], _: Option<&[u8]>, _: u64, _: u32) -> Result<Vec<u8>> {
            Ok(path.to_vec())
        }

        fn readlink(&self, path: &[u8]) -> Result<Vec<u8>> {
            Ok(path.to_vec())
        }
    }

    #[test]
    fn nodes_lead_back_to_their_paths_page_by_page() {
        let volume = ByPath::new(Small::default());
        let many = volume.lookup(volume.root(), b"many".to_vec()).unwrap();
        let (mut cursor, mut names) = (0, 0);
        loop {
            let page = volume.list(many.node, cursor, 700).unwrap();
            for Entry { name, stat } in &page.entries {
                let path = [b"/many/", name.as_slice()].concat();
                let held = match stat.kind {
                    NodeKind::Symlink => volume.readlink(stat.node),
                    _ => volume.read(stat.node, None, 0, 10),
                };
                assert_eq!(held.unwrap(), path);
                names += 1;
            }
            match page.next {
                Some(next) => cursor = next,
                None => break,
            }
        }
        assert_eq!(names, 3001);
        assert_eq!(volume.reader.listings.get(), 2, "each directory was read once");
        assert!(volume.list(many.node, 9000, 10).unwrap().entries.is_empty());
    }

    #[test]
    fn what_is_not_there_is_not_found() {
        let volume = ByPath::new(Small::default());
        let kind = |error: Error| error.kind;
        assert_eq!(kind(volume.lookup(ROOT, b"few".to_vec()).unwrap_err()), ErrorKind::NotFound);
        for wrong in [2, 1 << 32, u64::MAX] {
            assert_eq!(kind(volume.stat(wrong).unwrap_err()), ErrorKind::NotFound, "{wrong}");
        }
        let many = volume.lookup(ROOT, b"many".to_vec()).unwrap();
        assert!(volume.read(many.node, None, 0, 1).is_err(), "a directory is not read");
        assert!(volume.list(volume.lookup(many.node, b"1000".to_vec()).unwrap().node, 0, 1).is_err());
        assert_eq!(kind(volume.listing(9, b"/twice").unwrap_err()), ErrorKind::Corrupt);
    }
}
