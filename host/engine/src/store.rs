//! A repository's objects: the storage-target plugin plans each operation, this carries it out.
//!
//! ```text
//! begin ─▶ PlannedObject ─create─▶ PendingObject ─append…─▶ seal ─▶ SealedObject ─▶ publish
//!  (nothing exists)          (.partial, no header)       (durable)              (its name, durable)
//! ```
//! Whatever is not published is garbage; who began it records that before, and [`ObjectStore::discard`] removes it.

mod direct;
mod folder;
mod local;
mod shared;
mod survey;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use serde_json::json;
use tidemark_catalog::{Job, Repository};
use tidemark_model::ByteLen;
use tidemark_plugins::{
    FileAction, FileOperation, ObjectPage, Operation, Outcome, StorageTarget, UploadStyle,
};
use tokio_util::sync::CancellationToken;

use crate::engine::Shared;
use crate::error::{Error, ErrorKind, Result};
use crate::step::{ObjectRef, PluginPin};
use crate::throttle::{Bucket, Throttle};

pub(crate) use direct::aligned_memory;
use folder::AppendFile;
pub use folder::FileSystemSpace;
pub(crate) use folder::{Location, create_file, open_direct};
pub(crate) use local::LocalFile;
pub(crate) use shared::{SharedObject, can_share, nameless};

/// The file that tells a repository's folder from an empty mount point.
pub(crate) const REPOSITORY_MARK: &str = ".tidemark-repository";
/// A manifest larger than this is none.
const MANIFEST_LIMIT: ByteLen = ByteLen(64 << 20);
/// A backup neither begins nor goes on with less free space than this.
const SPACE_RESERVE: ByteLen = ByteLen(8 << 20);
/// How often the free space is looked at, in appended bytes.
const SPACE_CHECK: u64 = 64 << 20;

/// One repository, for the length of a job.
pub(crate) struct ObjectStore {
    name: String,
    target: StorageTarget,
    watched: Option<PathBuf>,
    throttle: Throttle,
}

impl ObjectStore {
    /// Opens the repository with the active version of its plugin, or the pinned one.
    pub(crate) async fn open(
        shared: &Arc<Shared>,
        repository: &Repository,
        job: &Job,
        pin: Option<&PluginPin>,
    ) -> Result<(Self, PluginPin)> {
        let (target, pin) = shared.open_storage(repository, Some(job.id), pin).await?;
        let bucket = shared.throttles.of(repository.id, repository.bandwidth);
        let throttle = Throttle::new(bucket, shared.stop_of(job.id));
        Ok((Self { throttle, ..Self::over(repository.name.clone(), target).await? }, pin))
    }

    /// Over an open plugin.
    ///
    /// # Errors
    /// Unavailable where the folder does not bear the repository's mark: an empty mount point must never pass for an
    /// empty repository.
    pub(crate) async fn over(name: String, mut target: StorageTarget) -> Result<Self> {
        let watched = target.watch_space().await?;
        check_mark(watched.as_deref())?;
        Ok(Self { name, target, watched, throttle: Throttle::default() })
    }

    /// Over an open plugin whose place becomes a repository now: a folder is made and marked.
    pub(crate) async fn establish(name: String, mut target: StorageTarget) -> Result<Self> {
        if let Some(folder) = target.watch_space().await? {
            blocking("marking a repository", move || folder::mark(&folder, REPOSITORY_MARK)).await?;
        }
        Self::over(name, target).await
    }

    /// Plans a new object. Nothing exists yet.
    pub(crate) async fn begin(&mut self, key: &str, size_hint: u64) -> Result<PlannedObject> {
        let upload = self.target.begin(key, ByteLen(size_hint)).await?;
        let UploadStyle::Append(operation) = upload.style else {
            return Err(Error::invalid(format!(
                "repository '{}' wants multipart uploads, which this version does not send",
                self.name
            )));
        };
        Ok(PlannedObject {
            key: key.to_owned(),
            token: upload.token,
            location: checked(operation, FileAction::Create)?,
            watched: self.watched.clone(),
            throttle: self.throttle.clone(),
        })
    }

    /// Gives a sealed object its name.
    pub(crate) async fn publish(&mut self, sealed: SealedObject) -> Result<()> {
        let SealedObject { key, token, .. } = sealed;
        self.check_mounted()?;
        for operation in self.target.finish(&key, &token, &[]).await? {
            self.execute(operation).await?;
        }
        Ok(())
    }

    /// Stores a small object in one go.
    pub(crate) async fn put(&mut self, key: &str, bytes: Bytes) -> Result<()> {
        let planned = self.begin(key, bytes.len() as u64).await?;
        let mut pending = planned.create(ByteLen(0)).await?;
        let sealed = blocking("storing an object", move || {
            pending.append(vec![bytes])?;
            pending.seal(None)
        })
        .await?;
        self.publish(sealed).await
    }

    /// Gives a published object the name of another one, which goes; who reads that one keeps what is open. Answers
    /// `false` where nothing has the first name: then it was done before.
    ///
    /// This is the host's own doing, between two places that the plugin names for reading: no plugin plans it.
    pub(crate) async fn replace(&mut self, from: &str, to: &str) -> Result<bool> {
        self.check_mounted()?;
        let (from, to) = (self.place(from).await?, self.place(to).await?);
        blocking("replacing an object", move || folder::replace(&from, &to)).await
    }

    /// An error where the repository is not there any more: a job may be long, and the folder unmounted meanwhile.
    pub(crate) fn check_mounted(&self) -> Result<()> {
        check_mark(self.watched.as_deref())
    }

    /// What may still be stored; none where nobody knows.
    pub(crate) async fn free_space(&self) -> Result<Option<ByteLen>> {
        let Some(folder) = self.watched.clone() else { return Ok(None) };
        blocking("asking for free space", move || folder::free_space(&folder).map(Some)).await
    }

    /// The file system that holds the repository; none where it is no folder.
    pub(crate) async fn file_system(&self) -> Result<Option<FileSystemSpace>> {
        let Some(folder) = self.watched.clone() else { return Ok(None) };
        blocking("asking for space", move || folder::space(&folder).map(Some)).await
    }

    /// An error where less than `needed` may still be stored, beside the reserve.
    pub(crate) async fn check_space(&self, needed: ByteLen) -> Result<()> {
        let Some(folder) = self.watched.clone() else { return Ok(()) };
        let needed = ByteLen(needed.0.saturating_add(SPACE_RESERVE.0));
        blocking("asking for free space", move || check_space(&folder, needed)).await
    }

    /// The repository's folder, where it is one.
    pub(crate) fn folder(&self) -> Option<&Path> {
        self.watched.as_deref()
    }

    /// Whether copies of a range can share its extents in this repository: tried on two files that nobody sees.
    pub(crate) async fn shares_extents(&self) -> Result<bool> {
        let Some(folder) = self.watched.clone() else { return Ok(false) };
        blocking("trying to share extents", move || Ok(can_share(&folder))).await
    }

    /// Removes an object in whatever state it is, and what it was made of. Done too where nothing exists.
    pub(crate) async fn discard(&mut self, object: &ObjectRef) -> Result<()> {
        self.abandon(object).await?;
        self.remove(&object.key).await
    }

    /// Removes a published object. Done too where it does not exist.
    pub(crate) async fn remove(&mut self, key: &str) -> Result<()> {
        let operation = self.target.remove(key).await?;
        self.execute(operation).await
    }

    /// The object's size; none where it does not exist.
    pub(crate) async fn size(&mut self, key: &str) -> Result<Option<ByteLen>> {
        let Some(file) = found(self.open_object(key).await)? else { return Ok(None) };
        let metadata = file.metadata().map_err(|e| Error::io(format!("object {key}"), e))?;
        Ok(Some(ByteLen(metadata.len())))
    }

    /// The whole of a small object.
    pub(crate) async fn read(&mut self, key: &str) -> Result<Vec<u8>> {
        let place = self.place(key).await?;
        blocking("reading an object", move || folder::read(&place, MANIFEST_LIMIT)).await
    }

    /// A handle for reading at any offset. It stays good when the object is removed meanwhile.
    pub(crate) async fn open_object(&mut self, key: &str) -> Result<File> {
        let place = self.place(key).await?;
        blocking("opening an object", move || folder::open(&place)).await
    }

    /// Every published object with its size, below `prefix`.
    pub(crate) async fn list(&mut self, prefix: &str) -> Result<Vec<(String, ByteLen)>> {
        let page = self.page(prefix).await?;
        Ok(page.objects.into_iter().map(|object| (object.key, object.size)).collect())
    }

    async fn page(&mut self, prefix: &str) -> Result<ObjectPage> {
        let Operation::File(operation) = self.target.list_op(prefix, None).await? else {
            return Err(self.no_http());
        };
        let place = checked(operation, FileAction::List)?;
        let found =
            blocking("listing a repository", move || folder::list(&place.folder, &place.path)).await?;
        let entries: Vec<_> =
            found.iter().map(|(path, size)| json!({ "path": path, "size": size.0 })).collect();
        let body = json!(entries).to_string().into_bytes();
        let outcome = Outcome { status: 200, headers: Vec::new(), body };
        Ok(self.target.list_parse(prefix, &outcome).await?)
    }

    async fn place(&mut self, key: &str) -> Result<Location> {
        match self.target.get(key, None).await? {
            Operation::File(operation) => checked(operation, FileAction::Read),
            Operation::Http(_) => Err(self.no_http()),
        }
    }

    async fn execute(&mut self, operation: Operation) -> Result<()> {
        let Operation::File(operation) = operation else { return Err(self.no_http()) };
        self.check_mounted()?;
        let FileOperation { action, folder, path, to } = operation;
        let place = Location { folder, path };
        blocking("carrying out a storage operation", move || match (action, to) {
            (FileAction::Publish, Some(to)) => folder::publish(&place, &to),
            (FileAction::Remove, None) => folder::remove(&place),
            (action, _) => Err(Error::new(
                ErrorKind::Plugin,
                format!("the storage target planned {action:?} where it makes no sense"),
            )),
        })
        .await
    }

    fn no_http(&self) -> Error {
        Error::invalid(format!(
            "repository '{}' wants HTTP operations, which this version does not send",
            self.name
        ))
    }
}

/// An object that is planned; nothing exists yet.
#[derive(Debug)]
pub(crate) struct PlannedObject {
    key: String,
    token: String,
    location: Location,
    watched: Option<PathBuf>,
    throttle: Throttle,
}

impl PlannedObject {
    pub(crate) fn key(&self) -> &str {
        &self.key
    }

    pub(crate) fn token(&self) -> &str {
        &self.token
    }

    pub(crate) fn reference(&self) -> ObjectRef {
        ObjectRef { key: self.key.clone(), token: self.token.clone() }
    }

    /// Bounds its writing by a bucket more, and lets `stop` end its waiting.
    #[must_use]
    pub(crate) fn bounded(self, bucket: Option<&Arc<Bucket>>, stop: CancellationToken) -> Self {
        Self { throttle: self.throttle.and(bucket, stop), ..self }
    }

    /// Makes it, under its name for unfinished objects, where there is room for at least a tenth of `expected`
    /// (compression rarely gains more) beside the reserve.
    pub(crate) async fn create(self, expected: ByteLen) -> Result<PendingObject> {
        blocking("creating an object", move || {
            let Self { key, token, location, watched, throttle } = self;
            let file = AppendFile::create(location)?;
            let object = PendingObject { key, token, file, space: SpaceWatch::new(watched), throttle };
            object.space.check(ByteLen(expected.0 / 10 + SPACE_RESERVE.0))?;
            Ok(object)
        })
        .await
    }
}

impl PlannedObject {
    /// As [`create`](Self::create), for an object that takes over ranges of others.
    pub(crate) async fn create_shared(self, fresh: ByteLen) -> Result<SharedObject> {
        blocking("creating an object", move || {
            let Self { key, token, location, watched, throttle } = self;
            if let Some(folder) = &watched {
                check_space(folder, ByteLen(fresh.0 + SPACE_RESERVE.0))?;
            }
            SharedObject::create(key, token, location, watched, throttle)
        })
        .await
    }
}

/// An object under construction.
#[derive(Debug)]
pub(crate) struct PendingObject {
    key: String,
    token: String,
    file: AppendFile,
    space: SpaceWatch,
    throttle: Throttle,
}

impl PendingObject {
    /// A file outside any repository, such as a restore's target.
    pub(crate) fn local(location: Location) -> Result<Self> {
        let key = location.path.clone();
        let space = SpaceWatch::new(Some(location.folder.clone()));
        let (token, file, throttle) = (String::new(), AppendFile::create(location)?, Throttle::default());
        Ok(Self { key, token, file, space, throttle })
    }

    /// Appends, not faster than the repository and the job may; blocks.
    pub(crate) fn append(&mut self, parts: Vec<Bytes>) -> Result<()> {
        self.throttle.take(parts.iter().map(|part| part.len() as u64).sum())?;
        self.file.append(parts)?;
        self.space.grown_to(self.file.written())
    }

    /// Makes all of it durable, the header over its blank start last; blocks.
    pub(crate) fn seal(mut self, header: Option<Bytes>) -> Result<SealedObject> {
        self.file.seal(header.as_ref())?;
        let Self { key, token, file, .. } = self;
        Ok(SealedObject { key, token, size: file.written() })
    }
}

/// Looks at the free space while an object grows.
#[derive(Debug)]
struct SpaceWatch {
    /// Whose file system is watched; none where nobody knows.
    folder: Option<PathBuf>,
    checked_at: u64,
}

impl SpaceWatch {
    fn new(folder: Option<PathBuf>) -> Self {
        Self { folder, checked_at: 0 }
    }

    /// An error where the reserve is touched; looked at now and then.
    fn grown_to(&mut self, written: ByteLen) -> Result<()> {
        if written.0 - self.checked_at < SPACE_CHECK {
            return Ok(());
        }
        self.checked_at = written.0;
        self.check(SPACE_RESERVE)
    }

    fn check(&self, needed: ByteLen) -> Result<()> {
        self.folder.as_deref().map_or(Ok(()), |folder| check_space(folder, needed))
    }
}

/// None for what does not exist.
fn found(opened: Result<File>) -> Result<Option<File>> {
    match opened {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// An error where a folder's file system has less free space than `needed`.
pub(crate) fn check_space(folder: &Path, needed: ByteLen) -> Result<()> {
    let free = folder::free_space(folder)?;
    if free < needed {
        return Err(Error::new(
            ErrorKind::NoSpace,
            format!(
                "{} has {} MiB left and {} MiB are needed; free some space or choose another repository",
                folder.display(),
                free.0 >> 20,
                needed.0.div_ceil(1 << 20)
            ),
        ));
    }
    Ok(())
}

/// An object whose bytes are durable and which has no name yet.
#[derive(Debug)]
pub(crate) struct SealedObject {
    key: String,
    token: String,
    size: ByteLen,
}

impl SealedObject {
    pub(crate) fn key(&self) -> &str {
        &self.key
    }

    pub(crate) fn size(&self) -> ByteLen {
        self.size
    }

    pub(crate) fn reference(&self) -> ObjectRef {
        ObjectRef { key: self.key.clone(), token: self.token.clone() }
    }
}

/// Gives a local file made with [`PendingObject::local`] its final name.
pub(crate) async fn publish_local(from: Location, to: String) -> Result<()> {
    blocking("publishing a file", move || folder::publish(&from, &to)).await
}

/// Removes a local file; done too where it does not exist.
pub(crate) async fn remove_local(location: Location) -> Result<()> {
    blocking("removing a file", move || folder::remove(&location)).await
}

/// Runs blocking work on a thread of its own.
pub(crate) async fn blocking<T: Send + 'static>(
    what: &'static str,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|e| Error::internal(format!("{what} panicked: {e}")))?
}

fn checked(operation: FileOperation, expected: FileAction) -> Result<Location> {
    let FileOperation { action, folder, path, to: _ } = operation;
    if action != expected {
        let message = format!("the storage target planned {action:?} where {expected:?} belongs");
        return Err(Error::new(ErrorKind::Plugin, message));
    }
    Ok(Location { folder, path })
}

/// An empty mount point bears no mark, and is no repository.
fn check_mark(folder: Option<&Path>) -> Result<()> {
    let Some(mark) = folder.map(|folder| folder.join(REPOSITORY_MARK)) else { return Ok(()) };
    if mark.is_file() {
        return Ok(());
    }
    let message = format!("{} is missing; is the repository's folder mounted?", mark.display());
    Err(Error::new(ErrorKind::Unavailable, message))
}
