//! A file system that numbers everything itself.
//!
//! The listings of the last few directories are kept, as the host asks for them page by page and then for what is in them;
//! what is in a page is looked at when the page is asked for.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use super::{FileStat, MAX_ENTRIES, page_of, stat_of};
use crate::attributes::{Attributes, NodeAttributes};
use crate::guest_filesystem::{Entry, EntryPage, GuestVolume, NamedStream, NodeKind, Stat, VolumeInfo};
use crate::placement::{Placement, Run};
use crate::{Error, ErrorKind, Result, info};

/// What the listings that are kept may take together when another one is read, which may take twice as much.
const KEPT_BYTES: usize = 16 << 20;
/// What an entry takes beside its name's bytes.
const ENTRY_BYTES: usize = 48;

/// A name with the number of what it names.
type Named = (Vec<u8>, u64);

/// A reader that goes by the file system's own numbers. Links are never followed.
#[allow(clippy::missing_errors_doc, reason = "the errors are the contract's, described in the WIT")]
pub trait InodeReader: 'static {
    /// What the volume is.
    fn info(&self) -> VolumeInfo;
    /// The number of the root directory.
    fn root(&self) -> u64;
    /// What has a number.
    fn stat(&self, inode: u64) -> Result<FileStat>;
    /// What is in a directory, without `.` and `..`.
    fn list(&self, directory: u64) -> Result<Vec<(Vec<u8>, u64)>>;
    /// Bytes of a regular file, or of a named stream of it; fewer than asked for only at its end.
    fn read(&self, inode: u64, stream: Option<&[u8]>, offset: u64, length: u32) -> Result<Vec<u8>>;
    /// Where a link leads.
    fn readlink(&self, inode: u64) -> Result<Vec<u8>>;
    /// The named streams of a file.
    fn streams(&self, _inode: u64) -> Result<Vec<NamedStream>> {
        Ok(Vec::new())
    }
    /// What is known of a node beyond its stat.
    fn attributes(&self, _inode: u64) -> Result<NodeAttributes> {
        Ok(NodeAttributes::of(0, &[]))
    }
    /// The runs of a file of `size` bytes from `offset` on; none where its bytes are to be had from `read` only.
    fn placed(&self, _inode: u64, _offset: u64, _size: u64) -> Result<Option<Vec<Run>>> {
        Ok(None)
    }
    /// The first offset at or after `offset` that is not in a hole, in a file of `size` bytes; none where there is none.
    fn next_data(&self, _inode: u64, offset: u64, size: u64) -> Result<Option<u64>> {
        Ok(Some(offset).filter(|offset| *offset < size))
    }
}

/// The volume over such a reader.
#[derive(Debug)]
pub struct ByInode<R> {
    reader: R,
    kept: RefCell<VecDeque<(u64, Rc<Vec<Named>>)>>,
    /// What was looked at last, as it is likely to be read piece by piece.
    last: RefCell<Option<(u64, FileStat)>>,
}

impl<R: InodeReader> ByInode<R> {
    /// The volume.
    #[must_use]
    pub fn new(reader: R) -> Self {
        Self { reader, kept: RefCell::new(VecDeque::new()), last: RefCell::new(None) }
    }

    fn listing(&self, directory: u64) -> Result<Rc<Vec<Named>>> {
        let mut kept = self.kept.borrow_mut();
        if let Some(at) = kept.iter().position(|(known, _)| *known == directory)
            && let Some(found) = kept.remove(at)
        {
            let listing = Rc::clone(&found.1);
            kept.push_back(found);
            return Ok(listing);
        }
        self.expect(directory, NodeKind::Directory, "directory")?;
        let mut bytes: usize = kept.iter().map(|(_, listing)| bytes_of(listing)).sum();
        while bytes > KEPT_BYTES {
            bytes -= kept.pop_front().map_or(bytes, |(_, listing)| bytes_of(&listing));
        }
        let mut listing = self.reader.list(directory)?;
        if listing.len() > MAX_ENTRIES {
            return Err(Error::unsupported(format!("a directory of more than {MAX_ENTRIES} entries")));
        }
        let mut names: Vec<&[u8]> = listing.iter().map(|(name, _)| name.as_slice()).collect();
        names.sort_unstable();
        if names.windows(2).any(|pair| matches!(pair, [a, b] if a == b)) {
            return Err(Error::corrupt(format!("the directory {directory} has a name twice")));
        }
        // What lies together is looked at together.
        listing.sort_by_key(|(_, inode)| *inode);
        let listing = Rc::new(listing);
        kept.push_back((directory, Rc::clone(&listing)));
        Ok(listing)
    }

    fn expect(&self, inode: u64, kind: NodeKind, word: &str) -> Result<FileStat> {
        let known =
            self.last.borrow().as_ref().filter(|(known, _)| *known == inode).map(|(_, stat)| stat.clone());
        let stat = match known {
            Some(stat) => stat,
            None => self.reader.stat(inode)?,
        };
        if stat.kind != kind {
            return Err(Error::config(format!("node {inode} is no {word}")));
        }
        *self.last.borrow_mut() = Some((inode, stat.clone()));
        Ok(stat)
    }

    /// What is in a listing: damage costs the damaged and nothing else of its directory.
    fn entry(&self, name: &[u8], inode: u64) -> Result<Entry> {
        let stat = match self.reader.stat(inode) {
            Err(error)
                if matches!(
                    error.kind,
                    ErrorKind::Corrupt | ErrorKind::NotFound | ErrorKind::Unsupported
                ) =>
            {
                info!("{}: {}", String::from_utf8_lossy(name), error.message);
                FileStat::UNREADABLE
            }
            stat => stat?,
        };
        Ok(Entry { name: name.to_vec(), stat: stat_of(inode, stat) })
    }
}

fn bytes_of(listing: &[Named]) -> usize {
    listing.iter().map(|(name, _)| name.len() + ENTRY_BYTES).sum()
}

impl<R: InodeReader> GuestVolume for ByInode<R> {
    fn info(&self) -> VolumeInfo {
        self.reader.info()
    }

    fn root(&self) -> u64 {
        self.reader.root()
    }

    fn lookup(&self, directory: u64, name: Vec<u8>) -> Result<Stat> {
        let listing = self.listing(directory)?;
        let found = listing.iter().find(|(known, _)| *known == name);
        let shown = String::from_utf8_lossy(&name);
        let (_, inode) = found.ok_or_else(|| Error::not_found(format!("there is no '{shown}'")))?;
        self.stat(*inode)
    }

    fn list(&self, directory: u64, cursor: u64, limit: u32) -> Result<EntryPage> {
        let listing = self.listing(directory)?;
        let (page, next) = page_of(listing.len(), cursor, limit);
        let page = listing.get(page).unwrap_or_default();
        let entries = page.iter().map(|(name, inode)| self.entry(name, *inode)).collect::<Result<_>>()?;
        Ok(EntryPage { entries, next })
    }

    fn stat(&self, node: u64) -> Result<Stat> {
        self.reader.stat(node).map(|stat| stat_of(node, stat))
    }

    fn read(&self, node: u64, stream: Option<Vec<u8>>, offset: u64, length: u32) -> Result<Vec<u8>> {
        if stream.is_some() {
            return self.reader.read(node, stream.as_deref(), offset, length);
        }
        let size = self.expect(node, NodeKind::File, "regular file")?.size_bytes;
        let wanted = u32::try_from(size.saturating_sub(offset)).unwrap_or(u32::MAX).min(length);
        if wanted == 0 {
            return Ok(Vec::new());
        }
        let bytes = self.reader.read(node, None, offset, wanted)?;
        if u32::try_from(bytes.len()) == Ok(wanted) {
            return Ok(bytes);
        }
        Err(Error::corrupt(format!("{} bytes came for {wanted} at {offset} of node {node}", bytes.len())))
    }

    fn readlink(&self, node: u64) -> Result<Vec<u8>> {
        self.expect(node, NodeKind::Symlink, "symbolic link")?;
        self.reader.readlink(node)
    }

    fn streams(&self, node: u64) -> Result<Vec<NamedStream>> {
        self.reader.streams(node)
    }

    fn next_data(&self, node: u64, offset: u64) -> Result<Option<u64>> {
        let size = self.expect(node, NodeKind::File, "regular file")?.size_bytes;
        self.reader.next_data(node, offset, size)
    }
}

impl<R: InodeReader> Attributes for ByInode<R> {
    fn attributes(&self, node: u64) -> Result<NodeAttributes> {
        self.reader.attributes(node)
    }
}

impl<R: InodeReader> Placement for ByInode<R> {
    fn runs(&self, node: u64, offset: u64) -> Result<Option<Vec<Run>>> {
        let size = self.expect(node, NodeKind::File, "regular file")?.size_bytes;
        self.reader.placed(node, offset, size)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on fails by panicking")]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// Directory 1 with 3,000 files of 4 bytes, of which number 77 is damaged; directory 2 with a name twice.
    #[derive(Default)]
    struct Small {
        listings: Cell<u32>,
    }

    impl InodeReader for Small {
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

        fn root(&self) -> u64 {
            1
        }

        fn stat(&self, inode: u64) -> Result<FileStat> {
            match inode {
                1 | 2 => Ok(FileStat::of(NodeKind::Directory)),
                77 => Err(Error::corrupt("the inode is damaged")),
                _ => Ok(FileStat { size_bytes: 4, links: 1, ..FileStat::of(NodeKind::File) }),
            }
        }

        fn list(&self, directory: u64) -> Result<Vec<(Vec<u8>, u64)>> {
            self.listings.set(self.listings.get() + 1);
            if directory == 2 {
                return Ok(vec![(b"a".to_vec(), 10), (b"a".to_vec(), 11)]);
            }
            Ok((10..3010_u64).rev().map(|inode| (inode.to_string().into_bytes(), inode)).collect())
        }

        fn read(&self, inode: u64, _: Option<&[u8]>, _: u64, length: u32) -> Result<Vec<u8>> {
            // File 88 is shorter than it says.
            Ok(vec![7; if inode == 88 { 1 } else { length as usize }])
        }

        fn readlink(&self, _: u64) -> Result<Vec<u8>> {
            Ok(Vec::new())
        }
    }

    #[test]
    fn a_listing_is_read_once_and_a_damaged_inode_costs_itself() {
        let volume = ByInode::new(Small::default());
        let (mut cursor, mut entries) = (0, Vec::new());
        loop {
            let page = volume.list(1, cursor, 700).unwrap();
            entries.extend(page.entries);
            let Some(next) = page.next else { break };
            cursor = next;
        }
        assert_eq!((entries.len(), volume.reader.listings.get()), (3000, 1));
        assert!(entries.windows(2).all(|pair| pair[0].stat.node < pair[1].stat.node));
        let others = entries.iter().filter(|entry| entry.stat.kind == NodeKind::Other);
        assert_eq!(others.map(|entry| entry.stat.node).collect::<Vec<_>>(), [77]);
        assert_eq!(volume.lookup(1, b"2000".to_vec()).unwrap().node, 2000);
        assert_eq!(volume.lookup(1, b"4000".to_vec()).unwrap_err().kind, ErrorKind::NotFound);
        assert_eq!(volume.list(2, 0, 10).unwrap_err().kind, ErrorKind::Corrupt);
    }

    /// Directories of long names without end.
    struct Wide;

    impl InodeReader for Wide {
        fn info(&self) -> VolumeInfo {
            Small::default().info()
        }

        fn root(&self) -> u64 {
            0
        }

        fn stat(&self, _: u64) -> Result<FileStat> {
            Ok(FileStat::of(NodeKind::Directory))
        }

        fn list(&self, directory: u64) -> Result<Vec<(Vec<u8>, u64)>> {
            let name = |at: u64| (format!("{at:0255}").into_bytes(), directory + at);
            Ok((1..40_000).map(name).collect())
        }

        fn read(&self, _: u64, _: Option<&[u8]>, _: u64, _: u32) -> Result<Vec<u8>> {
            Ok(Vec::new())
        }

        fn readlink(&self, _: u64) -> Result<Vec<u8>> {
            Ok(Vec::new())
        }
    }

    #[test]
    fn listings_are_kept_as_long_as_there_is_room_for_the_next() {
        let volume = ByInode::new(Wide);
        for directory in 0..5 {
            volume.list(directory, 0, 1).unwrap();
            let kept = volume.kept.borrow();
            let before: usize = kept.iter().rev().skip(1).map(|(_, listing)| bytes_of(listing)).sum();
            assert!(before <= KEPT_BYTES && kept.len() <= 2, "{directory}: {} kept", kept.len());
        }
    }

    #[test]
    fn bytes_are_the_file_s_or_an_error() {
        let volume = ByInode::new(Small::default());
        assert_eq!(volume.read(20, None, 1, 100).unwrap(), [7; 3]);
        assert!(volume.read(20, None, 4, 100).unwrap().is_empty());
        assert_eq!(volume.read(88, None, 0, 4).unwrap_err().kind, ErrorKind::Corrupt);
        assert!(volume.read(1, None, 0, 4).is_err() && volume.readlink(20).is_err());
        assert!(volume.list(20, 0, 1).is_err(), "a file is no directory");
        assert_eq!(super::super::nanoseconds(-1, 5), Some(-999_999_995));
        assert_eq!(super::super::nanoseconds(i64::MAX, 0), None);
    }
}
