//! Files out of backups, without a kernel mount: a disk is opened read-only through its chain, its volumes are found, and each
//! is served by a file-system reader in a sandbox of its own. Nothing is mounted and no process is started.
//!
//! ```text
//! mount: catalog ─▶ chains of all disks ─▶ volume reader (partitions) ─▶ for each volume the reader that knows it
//! files, search: path ─▶ volume ─▶ reader ─▶ block cache ─▶ chain
//! download, archive: path ─▶ volume ─▶ reader: where the bytes lie ─▶ chain; else as above
//! ```
//! A mount belongs to the host that made it and ends with it: what it holds is open files and memory. It ends too when its
//! backup is deleted, and when nobody asked for an hour.

mod archive;
mod content;
mod disk;
mod download;
mod folder;
mod path;
mod search;
mod volume;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use serde_json::json;
use tidemark_model::{BackupId, ByteLen, UtcMillis};
use tidemark_plugins::{DirectoryEntry, NodeAttributes, NodeKind, NodeStat, PluginKind, ReadOnlyDisk};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::chain;
use crate::engine::{Engine, Shared};
use crate::error::{Error, ErrorKind, Result};
use crate::store::ObjectStore;

pub use archive::ArchiveFormat;
pub use download::{Download, FileStream};
pub use search::FoundStream;

use disk::ChainDisk;
use path::{below, normal, parts, shown};
use volume::Volume;

/// How often idle mounts are looked for.
const LOOK: Duration = Duration::from_secs(5);
/// Mounts of a host at once: each holds memory and open files.
const MAX_MOUNTS: usize = 32;
/// The most that the paths of a folder's files may take: a guest makes as many as it likes, each as long as it likes.
const MAX_LISTING: usize = 256 << 20;
/// Above this, the readers of a mount that nobody waits for end: with one more at its own limit and the blocks of the disks,
/// a mount stays below 256 MiB.
const MAX_READERS_MEMORY: u64 = 128 << 20;

/// The mounts of a host.
#[derive(Default)]
pub(crate) struct Mounts {
    open: Mutex<HashMap<String, Arc<Mount>>>,
    /// Disks that some mount has, so that all mounts of a backup share what was read.
    disks: Mutex<HashMap<(BackupId, u32), Weak<ChainDisk>>>,
}

/// A disk of a backup whose files can be read.
pub(crate) struct Mount {
    id: String,
    backup: BackupId,
    disk_index: u32,
    vm_name: String,
    opened_at: UtcMillis,
    used_at: Mutex<UtcMillis>,
    volumes: Vec<Volume>,
    disks: Vec<Arc<ChainDisk>>,
}

/// A mount as it is shown.
#[derive(Debug, Clone)]
pub struct MountView {
    /// Its id, for all further questions.
    pub id: String,
    /// The backup.
    pub backup_id: BackupId,
    /// Which of its disks.
    pub disk_index: u32,
    /// The VM.
    pub vm_name: String,
    /// Since when.
    pub opened_at: UtcMillis,
    /// When it was asked last; it ends some time after that.
    pub used_at: UtcMillis,
    /// When it ends unless it is asked for something.
    pub ends_at: UtcMillis,
    /// The memory that blocks and readers take now.
    pub memory: ByteLen,
    /// The disk's partitions.
    pub partitions: Vec<PartitionView>,
}

/// A partition as it is shown.
#[derive(Debug, Clone)]
pub struct PartitionView {
    /// Its place.
    pub index: u32,
    /// What it is called, and the first part of its paths.
    pub name: String,
    /// Its label.
    pub label: String,
    /// Its file system, or what it looks like.
    pub filesystem: String,
    /// Whether its files can be read.
    pub readable: bool,
    /// Its size.
    pub size: ByteLen,
    /// What the user must know: why it cannot be read, that a journal was replayed.
    pub warnings: Vec<String>,
}

/// A file, folder or link.
#[derive(Debug, Clone)]
pub struct FileEntry {
    /// Its name.
    pub name: String,
    /// Where it is.
    pub path: String,
    /// What is known of it; none for a partition.
    pub stat: Option<NodeStat>,
    /// Where a link leads; only where one file was asked for.
    pub target: Option<String>,
    /// Named streams; only where one file was asked for.
    pub streams: Vec<(String, u64)>,
    /// What the file system keeps of it beside that; only where one was asked for.
    pub attributes: NodeAttributes,
}

/// The files of a folder, as whoever asked wants them shown.
#[derive(Debug, Clone)]
pub struct Listing<T> {
    /// The folder.
    pub path: String,
    /// What is in it, by name.
    pub files: Vec<T>,
}

impl Mounts {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<Mount>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The disk of a backup where a mount has it already.
    fn disk(&self, backup: BackupId, disk: u32) -> Option<Arc<ChainDisk>> {
        self.disks.lock().unwrap_or_else(PoisonError::into_inner).get(&(backup, disk))?.upgrade()
    }

    fn keep(&self, backup: BackupId, disk: u32, opened: &Arc<ChainDisk>) {
        let mut disks = self.disks.lock().unwrap_or_else(PoisonError::into_inner);
        disks.retain(|_, known| known.strong_count() > 0);
        disks.insert((backup, disk), Arc::downgrade(opened));
    }

    fn get(&self, id: &str) -> Result<Arc<Mount>> {
        self.lock().get(id).map(Arc::clone).ok_or_else(|| {
            let message =
                format!("there is no mount '{id}' on this host; it may have ended: mount the backup again");
            Error::new(ErrorKind::NotFound, message)
        })
    }

    /// Ends the mounts of backups that are gone.
    pub(crate) fn end_of(&self, backups: &[BackupId]) {
        self.lock().retain(|_, mount| !backups.contains(&mount.backup));
    }
}

impl Mount {
    fn touch(&self, now: UtcMillis) {
        *self.used_at.lock().unwrap_or_else(PoisonError::into_inner) = now;
    }

    fn memory(&self) -> ByteLen {
        let blocks = self.disks.iter().map(|disk| disk.memory().0);
        ByteLen(blocks.sum::<u64>() + self.readers_memory())
    }

    fn readers_memory(&self) -> u64 {
        self.volumes.iter().map(|volume| volume.memory().0).sum()
    }

    fn used_at(&self) -> UtcMillis {
        *self.used_at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn view(&self, idle: Duration) -> MountView {
        let used_at = self.used_at();
        let idle = i64::try_from(idle.as_millis()).unwrap_or(i64::MAX);
        MountView {
            id: self.id.clone(),
            backup_id: self.backup,
            disk_index: self.disk_index,
            vm_name: self.vm_name.clone(),
            opened_at: self.opened_at,
            used_at,
            ends_at: used_at.plus_millis(idle),
            memory: self.memory(),
            partitions: self.volumes.iter().map(partition).collect(),
        }
    }

    /// The volume that a path leads into, and the rest of the path.
    fn volume<'a>(&self, path: &'a str) -> Result<(&Volume, Vec<&'a str>)> {
        let parts = parts(path).ok_or_else(|| Error::invalid_field("path", "a path has no '.' and '..'"))?;
        let Some((first, rest)) = parts.split_first() else {
            return Err(Error::invalid_field("path", "name a partition, as the mount lists them"));
        };
        let found = self.volumes.iter().find(|volume| volume.segment == *first);
        let found = found.ok_or_else(|| not_found(path, &format!("there is no partition '{first}'")))?;
        if self.readers_memory() > MAX_READERS_MEMORY {
            self.volumes.iter().filter(|volume| !std::ptr::eq(*volume, found)).for_each(Volume::rest);
        }
        Ok((found, rest.to_vec()))
    }
}

fn partition(volume: &Volume) -> PartitionView {
    let mut warnings: Vec<String> = volume.problem.iter().cloned().collect();
    warnings.extend(volume.info.iter().flat_map(|info| info.warnings.iter().cloned()));
    PartitionView {
        index: volume.found.index,
        name: volume.segment.clone(),
        label: volume.label(),
        filesystem: volume.filesystem(),
        readable: volume.info.is_some(),
        size: volume.found.size,
        warnings,
    }
}

fn not_found(path: &str, why: &str) -> Error {
    Error::new(ErrorKind::NotFound, format!("there is no '{path}': {why}"))
}

impl Engine {
    /// Opens a disk of a backup for reading its files.
    ///
    /// # Errors
    /// Not found for an unknown backup or disk; damaged where an object is not what the catalog says; unavailable while
    /// too many are open.
    pub async fn mount(&self, actor: &str, backup_id: BackupId, disk_index: u32) -> Result<MountView> {
        let shared = &self.shared;
        if shared.mounts.lock().len() >= MAX_MOUNTS {
            return Err(too_many());
        }
        let ancestry = chain::ancestry(shared, backup_id).await?;
        chain::links(&ancestry, disk_index)?;
        let newest = ancestry.last().ok_or_else(|| Error::internal("an empty ancestry"))?;
        let repository = shared.catalog.repository(newest.repository_id).await?;
        let (target, _) = shared.open_storage(&repository, None, None).await?;
        let mut store = ObjectStore::over(repository.name.clone(), target).await?;
        // All of them: what a volume manager makes may lie on several.
        let mut disks = Vec::new();
        let mut asked = None;
        for (place, disk) in newest.disks.iter().enumerate() {
            if disk.disk_index == disk_index {
                asked = u32::try_from(place).ok();
            }
            let opened = match shared.mounts.disk(backup_id, disk.disk_index) {
                Some(opened) => opened,
                None => {
                    let chain = chain::open_disk(shared, &mut store, backup_id, disk.disk_index).await?;
                    Arc::new(ChainDisk::new(chain, newest.disks.len())?)
                }
            };
            shared.mounts.keep(backup_id, disk.disk_index, &opened);
            disks.push(opened);
        }
        let asked = asked.ok_or_else(|| Error::internal("a disk that was found is gone"))?;
        let volumes = volumes(shared, &disks, asked).await?;
        let now = shared.clock.now();
        let mount = Arc::new(Mount {
            id: hex::encode(rand::random::<[u8; 8]>()),
            backup: backup_id,
            disk_index,
            vm_name: newest.vm_name.clone(),
            opened_at: now,
            used_at: Mutex::new(now),
            volumes,
            disks,
        });
        let detail = json!({ "mount_id": mount.id, "disk_index": disk_index });
        shared.audit(actor, "restore.mount", &backup_id.to_string(), detail).await;
        {
            let mut open = shared.mounts.lock();
            // Others may have come meanwhile.
            if open.len() >= MAX_MOUNTS {
                return Err(too_many());
            }
            open.insert(mount.id.clone(), Arc::clone(&mount));
        }
        Ok(mount.view(shared.limits.mount_idle))
    }

    /// All mounts of this host, the newest first.
    #[must_use]
    pub fn mounts(&self) -> Vec<MountView> {
        let idle = self.shared.limits.mount_idle;
        let mut all: Vec<MountView> =
            self.shared.mounts.lock().values().map(|mount| mount.view(idle)).collect();
        all.sort_by_key(|mount| std::cmp::Reverse(mount.opened_at));
        all
    }

    /// Ends a mount. Downloads from it that still run are broken off.
    ///
    /// # Errors
    /// Not found.
    pub async fn unmount(&self, actor: &str, id: &str) -> Result<()> {
        let mount = self.shared.mounts.get(id)?;
        self.shared.mounts.lock().remove(id);
        let detail = json!({ "mount_id": id });
        self.shared.audit(actor, "restore.unmount", &mount.backup.to_string(), detail).await;
        Ok(())
    }

    /// A mount that is about to be asked, if its backup still exists.
    pub(crate) async fn mounted(&self, id: &str) -> Result<Arc<Mount>> {
        let mount = self.shared.mounts.get(id)?;
        if let Err(error) = self.shared.catalog.backup(mount.backup).await {
            if error.kind() == tidemark_catalog::ErrorKind::NotFound {
                self.shared.mounts.end_of(&[mount.backup]);
                let message = format!("mount '{id}' has ended: its backup was deleted");
                return Err(Error::new(ErrorKind::NotFound, message));
            }
            return Err(error.into());
        }
        mount.touch(self.shared.clock.now());
        Ok(mount)
    }

    /// What is in a folder, by name, each as `show` makes it; at the root the partitions.
    ///
    /// # Errors
    /// Not found; unsupported for a partition that cannot be read; what the reader says of damage.
    pub async fn files<T: Send + 'static>(
        &self,
        id: &str,
        path: &str,
        show: fn(FileEntry) -> T,
    ) -> Result<Listing<T>> {
        let mount = self.mounted(id).await?;
        if parts(path).is_some_and(|parts| parts.is_empty()) {
            let files = mount.volumes.iter().map(root_of).map(show).collect();
            return Ok(Listing { path: "/".to_owned(), files });
        }
        let (volume, rest) = mount.volume(path)?;
        let mut held = volume.hold(&self.shared).await?;
        let folder = held.find(&rest).await.map_err(|error| error.context(format!("'{path}'")))?;
        if folder.kind != NodeKind::Directory {
            return Err(Error::invalid_field("path", format!("'{path}' is no folder")));
        }
        let path = normal(path);
        let (mut pages, mut bytes) = (Vec::new(), 0);
        held.each_page(folder.node, |entries| {
            bytes += entries.iter().map(|entry| path.len() + entry.name.len()).sum::<usize>();
            if bytes > MAX_LISTING {
                let message = format!("the names in '{path}' are longer than {MAX_LISTING} bytes together");
                return Err(Error::new(ErrorKind::Invalid, message));
            }
            // Made presentable and put in order while the reader goes on.
            let path = path.clone();
            pages.push(tokio::task::spawn_blocking(move || {
                let named = |entry| {
                    let entry = file(&path, entry);
                    (entry.name.clone(), show(entry))
                };
                let mut page: Vec<(String, T)> = entries.into_iter().map(named).collect();
                page.sort_by(|(a, _), (b, _)| a.cmp(b));
                page
            }));
            Ok(())
        })
        .await?;
        drop(held);
        let mut files = Vec::new();
        for page in pages {
            files.append(&mut page.await.map_err(|error| Error::internal(error.to_string()))?);
        }
        // Pages are in order already, which this makes use of.
        files.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok(Listing { path, files: files.into_iter().map(|(_, shown)| shown).collect() })
    }

    /// Everything that is known of one file, folder or link.
    ///
    /// # Errors
    /// As [`Engine::files`].
    pub async fn file_info(&self, id: &str, path: &str) -> Result<FileEntry> {
        let mount = self.mounted(id).await?;
        let (volume, rest) = mount.volume(path)?;
        let mut held = volume.hold(&self.shared).await?;
        let stat = held.find(&rest).await.map_err(|error| error.context(format!("'{path}'")))?;
        let target = match stat.kind {
            NodeKind::Symlink => Some(shown(&held.link(stat.node).await?)),
            _ => None,
        };
        let streams = match stat.kind {
            NodeKind::File => held.streams(stat.node).await?,
            _ => Vec::new(),
        };
        let streams = streams.into_iter().map(|stream| (shown(&stream.name), stream.size_bytes)).collect();
        let attributes = held.attributes(stat.node).await?;
        let path = normal(path);
        let name = path.rsplit('/').next().unwrap_or_default().to_owned();
        Ok(FileEntry { name, path, stat: Some(stat), target, streams, attributes })
    }
}

/// The volumes of a disk, each with its reader.
async fn volumes(shared: &Shared, disks: &[Arc<ChainDisk>], asked: u32) -> Result<Vec<Volume>> {
    let mut found = Vec::new();
    for plugin in shared.active_readers(PluginKind::VolumeReader).await? {
        let session: Vec<Arc<dyn ReadOnlyDisk>> =
            disks.iter().map(|disk| Arc::clone(disk) as Arc<dyn ReadOnlyDisk>).collect();
        let mut reader = shared.open_volume_reader(&plugin, session).await?;
        // What cannot be read lies nowhere: it is shown with each disk, with what its reader says of it.
        let on_disk = |volume: &tidemark_plugins::FoundVolume| {
            volume.extents.is_empty() || volume.extents.iter().any(|extent| extent.disk_index == asked)
        };
        for volume in reader.scan().await?.into_iter().filter(on_disk) {
            found.push(Volume::open(shared, volume, disks).await?);
        }
    }
    if found.is_empty() {
        let message = "no volume was found on the disk; is a plugin of the kind volume-reader active?";
        return Err(Error::new(ErrorKind::Invalid, message));
    }
    Ok(found)
}

fn too_many() -> Error {
    let message = format!("{MAX_MOUNTS} mounts are open on this host already; end one first");
    Error::new(ErrorKind::Unavailable, message)
}

/// What a task sends, as a stream. A task that broke down must not look like one that has sent everything.
fn received<T: Send + 'static>(
    receiver: mpsc::Receiver<Result<T>>,
    task: JoinHandle<()>,
) -> BoxStream<'static, Result<T>> {
    stream::unfold((receiver, Some(task)), |(mut receiver, task)| async move {
        if let Some(next) = receiver.recv().await {
            return Some((next, (receiver, task)));
        }
        let broken = task?.await.err()?;
        let error = Error::internal(format!("the task that reads broke down: {broken}"));
        Some((Err(error), (receiver, None)))
    })
    .boxed()
}

fn root_of(volume: &Volume) -> FileEntry {
    let name = volume.segment.clone();
    let (streams, attributes) = (Vec::new(), NodeAttributes::default());
    FileEntry { path: below("", &name), name, stat: None, target: None, streams, attributes }
}

fn file(folder: &str, entry: DirectoryEntry) -> FileEntry {
    let name = shown(&entry.name);
    let (streams, attributes) = (Vec::new(), NodeAttributes::default());
    FileEntry { path: below(folder, &name), name, stat: Some(entry.stat), target: None, streams, attributes }
}

/// Ends mounts whose backup was deleted, by whichever host.
async fn end_orphans(shared: &Shared) -> Result<()> {
    let mut backups: Vec<BackupId> = shared.mounts.lock().values().map(|mount| mount.backup).collect();
    backups.dedup();
    for backup in backups {
        match shared.catalog.backup(backup).await {
            Err(error) if error.kind() == tidemark_catalog::ErrorKind::NotFound => {
                shared.mounts.end_of(&[backup]);
            }
            found => drop(found?),
        }
    }
    Ok(())
}

/// Ends mounts that nobody asked for anything, and those of backups that are gone, until the host stops.
pub(crate) async fn watch(shared: Arc<Shared>) {
    loop {
        tokio::select! {
            biased;
            () = shared.shutdown.cancelled() => break,
            () = tokio::time::sleep(LOOK.min(shared.limits.mount_idle)) => {}
        }
        if let Err(error) = end_orphans(&shared).await {
            tracing::warn!(error = %error.chain(), "it is unknown whether the backups of mounts still exist");
        }
        let now = shared.clock.now();
        let idle = i64::try_from(shared.limits.mount_idle.as_millis()).unwrap_or(i64::MAX);
        shared.mounts.lock().retain(|id, mount| {
            let ends = mount.used_at().plus_millis(idle) <= now;
            if ends {
                tracing::info!(mount = id, backup = %mount.backup, "a mount that nobody used has ended");
            }
            !ends
        });
    }
    shared.mounts.lock().clear();
}
