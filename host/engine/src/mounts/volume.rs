//! One volume of a mount: which reader knows it, and that reader in a sandbox of its own. A reader that misbehaves costs only
//! this volume, and only its session: the next call begins a fresh one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tidemark_model::ByteLen;
use tidemark_plugins::{
    DirectoryEntry, Error as PluginError, ErrorKind as PluginErrorKind, FoundVolume, GuestFilesystem,
    NodeAttributes, NodeKind, NodeStat, PlacedRun, PluginKind, ReadOnlyDisk, VolumeId, VolumeInfo,
};
use tokio::sync::{Mutex, MutexGuard};

use super::disk::{Buffers, ChainDisk, Part, Reading, VolumeDisk};
use super::path::{self, shown};
use crate::engine::Shared;
use crate::error::{Error, ErrorKind, Result};

/// Entries of a directory that are asked for at once.
const PAGE: u32 = 2000;
/// The most that a directory may have.
const MAX_ENTRIES: usize = 5_000_000;
/// The only disk of a reader's session.
const DISK: u32 = 0;

/// A volume of a mounted disk.
pub(super) struct Volume {
    /// What the table of partitions says of it.
    pub(super) found: FoundVolume,
    /// The first part of the paths of what is in it.
    pub(super) segment: String,
    /// What the file system is; none where no reader knows it.
    pub(super) info: Option<VolumeInfo>,
    /// Why it is not read, though a reader knows it.
    pub(super) problem: Option<String>,
    reader: Option<Reader>,
    /// Held by whoever needs the nodes of the reader's session for longer than one question.
    users: Arc<()>,
}

struct Reader {
    plugin: String,
    disk: Arc<VolumeDisk>,
    open: Mutex<Option<Open>>,
    /// What its sandbox has taken; 0 where it has none.
    memory: AtomicU64,
}

/// A node of one session of a reader. In another session the same number may mean something else.
#[derive(Debug, Clone, Copy)]
pub(super) struct Node {
    pub(super) number: u64,
    pub(super) session: u64,
}

/// A reader at work.
pub(super) struct Open {
    /// Counts the sessions of all readers.
    session: u64,
    filesystem: GuestFilesystem,
    volume: VolumeId,
    root: u64,
}

/// A volume whose reader answers nobody else meanwhile.
pub(super) struct Held<'a> {
    guard: MutexGuard<'a, Option<Open>>,
    memory: &'a AtomicU64,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let taken = self.guard.as_ref().map_or(0, |open| open.filesystem.memory().0);
        self.memory.store(taken, Ordering::Relaxed);
    }
}

impl Volume {
    /// Finds the reader of a volume and opens it. One that cannot be read is shown all the same.
    pub(super) async fn open(shared: &Shared, found: FoundVolume, disks: &[Arc<ChainDisk>]) -> Result<Self> {
        let size = found.size;
        let disk = Arc::new(VolumeDisk::new(disks.to_vec(), found.extents.clone(), size));
        let mut volume = Self {
            found,
            segment: String::new(),
            info: None,
            problem: None,
            reader: None,
            users: Arc::default(),
        };
        // Of what lies nowhere nothing is known but why; what is encrypted or holds something else holds no files, though
        // older ones may still lie below it.
        let readers = match volume.found.extents.is_empty() || is_container(&volume.found.content) {
            true => Vec::new(),
            false => shared.active_readers(PluginKind::GuestFilesystem).await?,
        };
        for plugin in readers {
            let mut is_known = false;
            match known(shared, &plugin, &disk, &mut is_known).await {
                Ok(None) => {}
                Ok(Some((open, info))) => {
                    volume.info = Some(info);
                    let memory = AtomicU64::new(open.filesystem.memory().0);
                    volume.reader = Some(Reader { plugin, disk, open: Mutex::new(Some(open)), memory });
                    break;
                }
                Err(error) => {
                    volume.problem = Some(error.chain());
                    // Another one would only find what lay here before.
                    if is_known {
                        break;
                    }
                }
            }
        }
        if volume.reader.is_some() {
            volume.problem = None;
        }
        volume.segment = volume.name();
        Ok(volume)
    }

    /// `Partition 1 - Recovery (1.5 GB)`, as vSphere and Windows count; without a size where it is not known.
    fn name(&self) -> String {
        let label = self.label();
        let label = if label.is_empty() { String::new() } else { format!(" - {label}") };
        let size = match self.found.size {
            ByteLen(0) => String::new(),
            size => format!(" ({})", gigabytes(size)),
        };
        format!("{}{}{size}", path::segment(&self.found.name), path::segment(&label))
    }

    /// The file system's own label, else the table's.
    pub(super) fn label(&self) -> String {
        let own = self.info.as_ref().map(|info| info.label.trim()).filter(|label| !label.is_empty());
        own.unwrap_or(self.found.label.trim()).to_owned()
    }

    /// The file system's name, or what the volume looks like where it cannot be read.
    pub(super) fn filesystem(&self) -> String {
        match &self.info {
            Some(info) => info.filesystem.clone(),
            None if self.found.content.is_empty() => "unknown".to_owned(),
            None => self.found.content.clone(),
        }
    }

    /// The reader, begun again where its last session has ended.
    pub(super) async fn hold(&self, shared: &Shared) -> Result<Held<'_>> {
        let Some(reader) = &self.reader else {
            let why = match &self.problem {
                Some(problem) => problem.clone(),
                None => format!("its content ({}) is known to no installed plugin", self.filesystem()),
            };
            return Err(Error::new(ErrorKind::Invalid, format!("{} cannot be read: {why}", self.segment)));
        };
        let mut guard = reader.open.lock().await;
        if guard.is_none() {
            let (open, _) =
                known(shared, &reader.plugin, &reader.disk, &mut false).await?.ok_or_else(|| {
                    Error::damaged(format!("plugin {} no longer knows {}", reader.plugin, self.segment))
                })?;
            *guard = Some(open);
        }
        Ok(Held { guard, memory: &reader.memory })
    }

    /// The memory that the reader's sandbox takes.
    pub(super) fn memory(&self) -> ByteLen {
        ByteLen(self.reader.as_ref().map_or(0, |reader| reader.memory.load(Ordering::Relaxed)))
    }

    /// Keeps the reader's session while it is held, as far as that is ours to say.
    pub(super) fn using(&self) -> Arc<()> {
        Arc::clone(&self.users)
    }

    /// Ends the reader's session where nobody needs it; the next question begins another.
    pub(super) fn rest(&self) {
        if Arc::strong_count(&self.users) == 1
            && let Some(reader) = &self.reader
            && let Ok(mut open) = reader.open.try_lock()
        {
            *open = None;
            reader.memory.store(0, Ordering::Relaxed);
        }
    }

    /// The same, for a node that was found before; an error where the session that found it has ended.
    pub(super) async fn hold_for(&self, shared: &Shared, node: Node) -> Result<Held<'_>> {
        let held = self.hold(shared).await?;
        match held.guard.as_ref() {
            Some(open) if open.session == node.session => Ok(held),
            _ => {
                let message = format!("the reader of {} had to be begun again; ask once more", self.segment);
                Err(Error::new(ErrorKind::Unavailable, message))
            }
        }
    }

    /// Where the bytes of a file from `at` on lie in the volume; none where they are to be had from its reader only.
    pub(super) async fn placed(
        &self,
        shared: &Shared,
        node: Node,
        at: u64,
    ) -> Result<Option<Vec<PlacedRun>>> {
        self.hold_for(shared, node).await?.placed(node.number, at, self.found.size).await
    }

    /// Begins to read bytes of the volume itself.
    pub(super) fn begin_read(&self, parts: &[Part], buffers: &Arc<Buffers>) -> Result<Reading> {
        let reader = self.reader.as_ref().ok_or_else(gone)?;
        reader.disk.begin(parts, buffers).map_err(|error| Error::damaged(error.to_string()))
    }

    /// Exactly so many bytes of a file.
    pub(super) async fn exactly(&self, shared: &Shared, node: Node, at: u64, length: u32) -> Result<Vec<u8>> {
        let bytes = self.hold_for(shared, node).await?.read(node.number, at, length).await?;
        if u32::try_from(bytes.len()) == Ok(length) {
            return Ok(bytes);
        }
        let message = format!("{} bytes came for {length} at {at}: the file is not whole", bytes.len());
        Err(Error::damaged(message))
    }
}

/// Whether a volume holds another volume, or nothing that could be read.
fn is_container(content: &str) -> bool {
    const WORDS: [&str; 5] = ["LUKS", "BitLocker", "swap", "Linux RAID member", "LVM2 physical volume"];
    WORDS.iter().any(|word| content.starts_with(word))
}

/// Begins a reader's session over a volume, and opens the volume where it knows it.
async fn known(
    shared: &Shared,
    plugin: &str,
    disk: &Arc<VolumeDisk>,
    is_known: &mut bool,
) -> Result<Option<(Open, VolumeInfo)>> {
    let disk: Arc<dyn ReadOnlyDisk> = Arc::<VolumeDisk>::clone(disk);
    let mut filesystem = shared.open_filesystem(plugin, vec![disk]).await?;
    if filesystem.probe(DISK).await?.is_none() {
        return Ok(None);
    }
    *is_known = true;
    let volume = filesystem.open(DISK).await?;
    let info = filesystem.info(volume).await?;
    let root = filesystem.root(volume).await?;
    static SESSIONS: AtomicU64 = AtomicU64::new(0);
    let session = SESSIONS.fetch_add(1, Ordering::Relaxed);
    Ok(Some((Open { session, filesystem, volume, root }, info)))
}

/// Asks the reader, and ends its session where it has ended itself.
macro_rules! ask {
    ($held:ident, $method:ident($($argument:expr),*)) => {{
        let open = $held.guard.as_mut().ok_or_else(gone)?;
        let answer = open.filesystem.$method(open.volume, $($argument),*).await;
        $held.settled(answer)
    }};
}

impl Held<'_> {
    /// What a path inside the volume leads to. Links on the way are not followed.
    pub(super) async fn find(&mut self, parts: &[&str]) -> Result<NodeStat> {
        let mut at = self.root().await?;
        for part in parts {
            if at.kind != NodeKind::Directory {
                return Err(Error::new(
                    ErrorKind::NotFound,
                    format!("there is nothing below a file ('{part}')"),
                ));
            }
            at = self.child(at.node, part).await?;
        }
        Ok(at)
    }

    /// Something that was found, for later.
    pub(super) fn node(&self, stat: &NodeStat) -> Node {
        // A session that has just ended has no node that anybody finds again.
        let session = self.guard.as_ref().map_or(u64::MAX, |open| open.session);
        Node { number: stat.node, session }
    }

    async fn root(&mut self) -> Result<NodeStat> {
        let root = self.guard.as_ref().ok_or_else(gone)?.root;
        ask!(self, stat(root))
    }

    /// What has this name; a name with `\xHH` in it is found by how it is shown.
    async fn child(&mut self, directory: u64, part: &str) -> Result<NodeStat> {
        if !path::has_escapes(part) {
            return ask!(self, lookup(directory, part.as_bytes()));
        }
        let entries = self.entries(directory).await?;
        let found = entries.into_iter().find(|entry| shown(&entry.name) == part).map(|entry| entry.stat);
        found.ok_or_else(|| Error::new(ErrorKind::NotFound, format!("there is no '{part}'")))
    }

    pub(super) async fn stat(&mut self, node: u64) -> Result<NodeStat> {
        ask!(self, stat(node))
    }

    /// All of a directory.
    pub(super) async fn entries(&mut self, directory: u64) -> Result<Vec<DirectoryEntry>> {
        let mut all = Vec::new();
        let take = |mut entries: Vec<DirectoryEntry>| {
            all.append(&mut entries);
            Ok(())
        };
        self.each_page(directory, take).await?;
        Ok(all)
    }

    /// The same, part by part.
    pub(super) async fn each_page(
        &mut self,
        directory: u64,
        mut take: impl FnMut(Vec<DirectoryEntry>) -> Result<()>,
    ) -> Result<()> {
        let (mut count, mut cursor) = (0, Some(0));
        while let Some(at) = cursor {
            let (entries, next) = self.page(directory, at).await?;
            count += entries.len();
            if count > MAX_ENTRIES {
                let message = format!("a directory of more than {MAX_ENTRIES} entries");
                return Err(Error::new(ErrorKind::Invalid, message));
            }
            take(entries)?;
            cursor = next;
        }
        Ok(())
    }

    /// A part of a directory, and where the next one begins.
    pub(super) async fn page(
        &mut self,
        directory: u64,
        cursor: u64,
    ) -> Result<(Vec<DirectoryEntry>, Option<u64>)> {
        let page = ask!(self, list(directory, cursor, PAGE))?;
        Ok((page.entries, page.next))
    }

    pub(super) async fn read(&mut self, node: u64, offset: u64, length: u32) -> Result<Vec<u8>> {
        ask!(self, read(node, None, offset, length))
    }

    pub(super) async fn placed(
        &mut self,
        node: u64,
        offset: u64,
        size: ByteLen,
    ) -> Result<Option<Vec<PlacedRun>>> {
        ask!(self, placed(node, offset, size))
    }

    /// What is known of a node beyond its stat; nothing where the reader tells nothing.
    pub(super) async fn attributes(&mut self, node: u64) -> Result<NodeAttributes> {
        Ok(ask!(self, attributes(node))?.unwrap_or_default())
    }

    pub(super) async fn link(&mut self, node: u64) -> Result<Vec<u8>> {
        ask!(self, readlink(node))
    }

    pub(super) async fn streams(&mut self, node: u64) -> Result<Vec<tidemark_plugins::NamedStream>> {
        ask!(self, streams(node))
    }

    fn settled<T>(&mut self, answer: std::result::Result<T, PluginError>) -> Result<T> {
        if let Err(error) = &answer
            && (error.is_misbehaviour() || *error.kind() == PluginErrorKind::Cancelled)
        {
            *self.guard = None;
        }
        Ok(answer?)
    }
}

fn gone() -> Error {
    Error::new(ErrorKind::Unavailable, "the reader's session has ended; ask again")
}

/// One decimal, and the unit that leaves at least one before it.
fn gigabytes(size: ByteLen) -> String {
    const UNITS: [(&str, u64); 4] = [("TB", 1 << 40), ("GB", 1 << 30), ("MB", 1 << 20), ("KB", 1 << 10)];
    match UNITS.into_iter().find(|(_, unit)| size.0 >= *unit) {
        // Tenths, rounded down: no volume is shown larger than it is.
        Some((name, unit)) => {
            let tenths = (u128::from(size.0) * 10) / u128::from(unit);
            format!("{}.{} {name}", tenths / 10, tenths % 10)
        }
        None => format!("{} bytes", size.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short() {
        for (size, text) in [
            (1_610_612_736, "1.5 GB"),
            (100 << 30, "100.0 GB"),
            ((1 << 30) - 1, "1023.9 MB"),
            (3 << 40, "3.0 TB"),
            (512, "512 bytes"),
        ] {
            assert_eq!(gigabytes(ByteLen(size)), text);
        }
    }
}
