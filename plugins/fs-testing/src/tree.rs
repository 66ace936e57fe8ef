//! A tree of files, written into a real file system and read back through a reader.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs::File;
use std::hash::{DefaultHasher, Hasher};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::Path;
use std::time::{Duration, SystemTime};

use tidemark_plugin::disk::CachedDisk;
use tidemark_plugin::guest_filesystem::{GuestVolume, NodeKind, Stat};
use tidemark_plugin::placement::{Placement, Run};
use tidemark_plugin::{Error, Result};

/// What a file holds is compared in blocks of this size, so that holes cost nothing.
const BLOCK: usize = 4096;
/// What is asked of a reader at once.
const PIECE: u32 = 1 << 20;
/// Nothing in a test's tree is deeper or has more; a damaged one may seem to.
const MAX_DEPTH: usize = 40;
const MAX_ITEMS: usize = 250_000;
/// Data of one file that a damaged volume may make a test read.
const MAX_DATA: u64 = 64 << 20;

/// What a file system can hold of the tree.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    /// Symbolic links, and files with two names.
    pub links: bool,
    /// Owners and permissions.
    pub owners: bool,
    /// Times before 1970 and after 2038.
    pub times: bool,
    /// The longest name in bytes; file systems that count UTF-16 units get one of as many units.
    pub longest_name: usize,
    /// A file that is a hole of this size with bytes at its beginning, in its midst and at its end; 0 for none.
    pub sparse: u64,
    /// Files in one folder.
    pub many: usize,
    /// Bytes of the large file; those of the others go with them, within bounds.
    pub large: usize,
}

/// What is compared beside names, kinds and contents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checks {
    /// The coarsest time the file system keeps, in nanoseconds; 0 leaves times out.
    pub time_step_ns: i64,
    /// Owners and permissions.
    pub owners: bool,
    /// How many names a file has.
    pub links: bool,
}

/// What is in a file or a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// A folder.
    Folder,
    /// A file by size and a digest.
    File(u64, u64),
    /// Where a link leads.
    Link(Vec<u8>),
    /// A device, a pipe, a socket; or what a reader shows without reading it.
    Other,
    /// A reader's refusal.
    Refused(String),
}

/// One item of a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// What is in it.
    pub content: Content,
    /// When it was modified.
    pub modified_ns: Option<i64>,
    /// Permission bits.
    pub mode: Option<u32>,
    /// Owner and group.
    pub owner: (Option<String>, Option<String>),
    /// Its names.
    pub links: u64,
}

/// All items by their paths, which begin with `/`.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Tree(pub BTreeMap<Vec<u8>, Item>);

impl Wanted {
    /// Writes the tree into a folder.
    pub fn fill(&self, folder: &Path) {
        let deep = folder.join("a/b/c/d/e/f/g/h/i/j");
        std::fs::create_dir_all(&deep).unwrap();
        std::fs::create_dir_all(folder.join("empty")).unwrap();
        std::fs::create_dir_all(folder.join("many")).unwrap();
        std::fs::write(deep.join("deep"), b"down here").unwrap();
        std::fs::write(folder.join("none"), b"").unwrap();
        std::fs::write(folder.join("few"), b"x").unwrap();
        let odd = (self.large / 3).clamp(5001, 300_001);
        for (name, length) in [("block", BLOCK), ("small", 700), ("odd", odd), ("large", self.large)] {
            std::fs::write(folder.join(name), noise(length, length as u64)).unwrap();
        }
        for name in ["grüße", "ελληνικά", "日本語", "emoji 🦀", "with  spaces", "UPPER and lower", "x.tar.gz"]
        {
            std::fs::write(folder.join(name), name.as_bytes()).unwrap();
        }
        std::fs::write(folder.join("n".repeat(self.longest_name)), b"a long name").unwrap();
        for number in 0..self.many {
            let name = format!("many/file-{number:06}");
            std::fs::write(folder.join(&name), &name.as_bytes()[..name.len() * (number % 3) / 2]).unwrap();
        }
        self.fragments(folder);
        if self.sparse > 0 {
            let file = File::create(folder.join("sparse")).unwrap();
            file.set_len(self.sparse).unwrap();
            for at in [0, self.sparse / 2 + 12_345, self.sparse - 7] {
                file.write_all_at(b"7 bytes", at).unwrap();
            }
        }
        if self.links {
            symlink("few", folder.join("link")).unwrap();
            symlink("../../nowhere/".repeat(20), folder.join("long link")).unwrap();
            symlink("/etc/passwd", folder.join("a/absolute")).unwrap();
            std::fs::hard_link(folder.join("odd"), folder.join("a/second name")).unwrap();
        }
        if self.owners {
            let odd = folder.join("odd");
            std::os::unix::fs::chown(&odd, Some(1234), Some(70_000)).unwrap();
            std::fs::set_permissions(&odd, std::os::unix::fs::PermissionsExt::from_mode(0o4751)).unwrap();
        }
        if self.times {
            for (name, seconds, part) in [
                // ntfs-3g shows fractions before 1970 wrongly.
                ("few", -86_400 * 400_i64, 0_u32),
                ("small", 2_534_023_000, 123_456_700),
                ("none", 4_000_000_000, 0),
            ] {
                let whole = Duration::from_secs(seconds.unsigned_abs());
                let epoch = SystemTime::UNIX_EPOCH;
                let time = if seconds < 0 { epoch - whole } else { epoch + whole } + Duration::new(0, part);
                File::options().write(true).open(folder.join(name)).unwrap().set_modified(time).unwrap();
            }
        }
    }

    /// Two files that grow by turns.
    fn fragments(&self, folder: &Path) {
        let open = |name: &str| File::create(folder.join(name)).unwrap();
        let (one, two) = (open("fragments one"), open("fragments two"));
        let length = (self.large / 100).clamp(600, 6000);
        for piece in 0..40_u64 {
            for (file, seed) in [(&one, 1), (&two, 2)] {
                file.write_all_at(&noise(length, piece * 2 + seed), piece * length as u64).unwrap();
                file.sync_data().unwrap();
            }
        }
    }
}

impl Tree {
    /// What a folder of this machine has.
    #[must_use]
    pub fn of(folder: &Path) -> Self {
        let mut tree = Self::default();
        let mut waiting = vec![folder.to_path_buf()];
        while let Some(at) = waiting.pop() {
            for entry in std::fs::read_dir(&at).unwrap() {
                let path = entry.unwrap().path();
                let metadata = path.symlink_metadata().unwrap();
                let kind = metadata.file_type();
                let content = if kind.is_dir() {
                    waiting.push(path.clone());
                    Content::Folder
                } else if kind.is_symlink() {
                    Content::Link(std::fs::read_link(&path).unwrap().as_os_str().as_bytes().to_vec())
                } else if kind.is_file() {
                    Content::File(metadata.len(), digest_of(&path))
                } else {
                    Content::Other
                };
                let key = [b"/", path.strip_prefix(folder).unwrap().as_os_str().as_bytes()].concat();
                let item = Item {
                    content,
                    modified_ns: Some(metadata.mtime() * 1_000_000_000 + metadata.mtime_nsec()),
                    mode: Some(metadata.mode() & 0o7777),
                    owner: (Some(metadata.uid().to_string()), Some(metadata.gid().to_string())),
                    links: metadata.nlink(),
                };
                tree.0.insert(key, item);
            }
        }
        tree
    }

    /// What a reader gives, as a host asks: pages of folders, pieces of files, holes left out.
    #[must_use]
    pub fn read(volume: &impl Placement) -> Self {
        Self::walked(volume, |stat| {
            // Not of interest here but for what damage does to it.
            drop(volume.runs(stat.node, 0));
            digest(volume, stat)
        })
    }

    /// The same for a reader that tells where files lie, which fails where other bytes lie there.
    #[must_use]
    pub fn read_placed(volume: &impl Placement, disk: &CachedDisk) -> Self {
        let count = Cell::new(0);
        let placed = Self::walked(volume, |stat| match digest_placed(volume, disk, stat)? {
            Some(digest) => {
                count.set(count.get() + 1);
                Ok(digest)
            }
            None => digest(volume, stat),
        });
        let read = Self::read(volume);
        read.compare(&placed, Checks { time_step_ns: 0, owners: false, links: false }, "where files lie");
        assert!(count.get() > 0, "no file lies anywhere");
        read
    }

    fn walked<V: GuestVolume>(volume: &V, digest: impl Fn(&Stat) -> Result<u64>) -> Self {
        let mut tree = Self::default();
        let mut waiting = vec![(Vec::new(), volume.root(), 0)];
        while let Some((above, node, depth)) = waiting.pop() {
            let mut cursor = Some(0);
            while let Some(at) = cursor {
                let page = match volume.list(node, at, 1000) {
                    Ok(page) => page,
                    Err(error) => {
                        let item = item(Content::Refused(error.message), None);
                        tree.0.insert([above.as_slice(), b"/"].concat(), item);
                        break;
                    }
                };
                for entry in page.entries {
                    let path = [above.as_slice(), b"/", &entry.name].concat();
                    let content = match entry.stat.kind {
                        NodeKind::Directory => {
                            if depth < MAX_DEPTH {
                                waiting.push((path.clone(), entry.stat.node, depth + 1));
                            }
                            Ok(Content::Folder)
                        }
                        NodeKind::File => {
                            digest(&entry.stat).map(|digest| Content::File(entry.stat.size_bytes, digest))
                        }
                        NodeKind::Symlink => volume.readlink(entry.stat.node).map(Content::Link),
                        NodeKind::Other => Ok(Content::Other),
                    };
                    let content = content.unwrap_or_else(|error| Content::Refused(error.message));
                    tree.0.insert(path, item(content, Some(&entry.stat)));
                }
                cursor = page.next;
                if tree.0.len() > MAX_ITEMS {
                    return tree;
                }
            }
        }
        tree
    }

    /// Everything that was refused or cannot be read.
    pub fn refused(&self) -> impl Iterator<Item = (&[u8], &str)> {
        self.0.iter().filter_map(|(path, item)| match &item.content {
            Content::Refused(why) => Some((path.as_slice(), why.as_str())),
            _ => None,
        })
    }

    /// Fails where what a reader found is not what is there.
    pub fn compare(&self, found: &Self, checks: Checks, what: &str) {
        let shown = |path: &[u8]| String::from_utf8_lossy(path).into_owned();
        for (path, item) in &self.0 {
            let Some(read) = found.0.get(path) else { panic!("{what}: {} was not found", shown(path)) };
            let path = shown(path);
            assert_eq!(item.content, read.content, "{what}: {path}");
            if checks.time_step_ns > 0 {
                let step = |time: Option<i64>| time.map(|time| time.div_euclid(checks.time_step_ns));
                assert_eq!(step(item.modified_ns), step(read.modified_ns), "{what}: the time of {path}");
            }
            if checks.owners {
                assert_eq!(
                    (&item.mode, &item.owner),
                    (&read.mode.map(|mode| mode & 0o7777), &read.owner),
                    "{what}: the owner of {path}"
                );
            }
            if checks.links && matches!(item.content, Content::File(..)) {
                assert_eq!(item.links, read.links, "{what}: the names of {path}");
            }
        }
        let strange = found.0.keys().find(|path| !self.0.contains_key(*path));
        assert!(strange.is_none(), "{what}: {} is not there", shown(strange.unwrap()));
    }
}

fn item(content: Content, stat: Option<&Stat>) -> Item {
    Item {
        content,
        modified_ns: stat.and_then(|stat| stat.modified_ns),
        mode: stat.and_then(|stat| stat.mode),
        owner: (stat.and_then(|stat| stat.owner.clone()), stat.and_then(|stat| stat.group.clone())),
        links: stat.map_or(0, |stat| u64::from(stat.links)),
    }
}

/// Bytes that do not compress, the same for the same seed.
fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// Takes in blocks that are not all zeros, with their places, so that a hole and written zeros are the same.
#[derive(Debug, Clone, Default)]
pub struct Digest(DefaultHasher);

impl Digest {
    /// Everything but the last piece has to be taken in multiples of this.
    pub const BLOCK: usize = BLOCK;

    /// The digest of all that was taken.
    #[must_use]
    pub fn finish(&self) -> u64 {
        self.0.finish()
    }

    /// Takes in what lies at an offset, which is a multiple of a block.
    pub fn take(&mut self, offset: u64, bytes: &[u8]) {
        for (block, at) in bytes.chunks(BLOCK).zip((offset..).step_by(BLOCK)) {
            if block != &[0; BLOCK][..block.len()] {
                self.0.write_u64(at);
                self.0.write(block);
            }
        }
    }
}

fn digest_of(path: &Path) -> u64 {
    let file = File::open(path).unwrap();
    let size = file.metadata().unwrap().len();
    let mut digest = Digest::default();
    let mut at = 0;
    let mut piece = vec![0; PIECE as usize];
    while at < size {
        let length = usize::try_from((size - at).min(u64::from(PIECE))).unwrap();
        file.read_exact_at(&mut piece[..length], at).unwrap();
        digest.take(at, &piece[..length]);
        at += length as u64;
    }
    digest.finish()
}

/// The digest of a file by its runs; none where the reader keeps them to itself.
fn digest_placed(volume: &impl Placement, disk: &CachedDisk, stat: &Stat) -> Result<Option<u64>> {
    let mut digest = Digest::default();
    let (mut at, mut taken) = (0, 0);
    let mut gathered = Vec::new();
    while at < stat.size_bytes {
        let Some(runs) = volume.runs(stat.node, at)? else { return Ok(None) };
        assert!(!runs.is_empty() && runs.iter().all(|run| run.length > 0), "nothing lies at {at}");
        for Run { mut length, mut offset } in runs {
            at += length;
            while length > 0 {
                if gathered.is_empty() && offset.is_none() {
                    // Whole blocks of a hole say nothing.
                    let skipped = length - length % BLOCK as u64;
                    (taken, length) = (taken + skipped, length - skipped);
                }
                let count = usize::try_from(length).unwrap().min(PIECE as usize - gathered.len());
                let start = gathered.len();
                gathered.resize(start + count, 0);
                if let Some(offset) = &mut offset {
                    disk.read(*offset, &mut gathered[start..])?;
                    *offset += count as u64;
                }
                length -= count as u64;
                if gathered.len() == PIECE as usize {
                    digest.take(taken, &gathered);
                    taken += gathered.len() as u64;
                    gathered.clear();
                }
            }
        }
    }
    digest.take(taken, &gathered);
    assert_eq!(taken + gathered.len() as u64, stat.size_bytes, "the runs are the file's");
    Ok(Some(digest.finish()))
}

fn digest(volume: &impl GuestVolume, stat: &Stat) -> Result<u64> {
    let mut digest = Digest::default();
    let (mut at, mut read) = (0, 0);
    while let Some(data) = volume.next_data(stat.node, at)? {
        // Whole blocks, whatever the reader's own are.
        at = data - data % BLOCK as u64;
        let wanted = u32::try_from(stat.size_bytes - at).unwrap_or(PIECE).min(PIECE);
        let bytes = volume.read(stat.node, None, at, wanted)?;
        if bytes.len() != wanted as usize {
            return Err(Error::corrupt(format!("{} bytes for {wanted} at {at}", bytes.len())));
        }
        digest.take(at, &bytes);
        at += u64::from(wanted);
        read += u64::from(wanted);
        if read > MAX_DATA || wanted == 0 {
            return Err(Error::corrupt("more data than a test has"));
        }
    }
    Ok(digest.finish())
}
