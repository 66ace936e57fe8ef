//! Hands one disk of a backup out as a single file: raw, a standalone QCOW2, or a VMDK for import elsewhere. The bytes
//! go to whoever asked ([`Engine::open_export`]) or into a file on this host (a restore job); nothing is stored between.
//!
//! ```text
//! open_export: catalog ─▶ chain (all objects open) ─▶ layout ─▶ Export ─▶ stream ─▶ bytes in order, or an error
//! ```
//! The objects are held open, so that retention may remove them meanwhile. A stream ends well only after its last byte:
//! whatever fails on the way is an error of the stream, and the receiver must take what it has for incomplete.

mod stream;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use futures_util::stream::BoxStream;
use serde_json::json;
use tidemark_catalog::Backup;
use tidemark_model::{BackupId, ByteLen, Extent, slug};
use tidemark_qcow2::{Chain, StreamLayout};
use tidemark_vmdk::{DiskSpec, StreamWriter};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use crate::chain;
use crate::engine::Engine;
use crate::error::{Error, ErrorKind, Result};
use crate::layout;
use crate::queue::JobContext;
use crate::requests::ImageFormat;
use crate::store::{self, Location, ObjectStore, PendingObject};

use stream::{DiskReader, Sending};

/// Streams that a host sends at once: each holds a block a core in memory for as long as its receiver likes.
pub(crate) const MAX_EXPORTS: usize = 16;
/// Pieces that may wait for the file.
const WRITER_QUEUE: usize = 4;

/// The bytes of an export in order. After an error nothing follows; dropping it ends the work.
pub type ExportStream = BoxStream<'static, Result<Bytes>>;

/// A disk that is ready to be sent.
pub struct Export {
    reader: DiskReader,
    content: Content,
    file_name: String,
    tag: Option<String>,
    sending: Sending,
}

enum Content {
    Raw,
    Qcow2(Arc<StreamLayout>),
    Vmdk(Box<StreamWriter>),
}

impl Engine {
    /// Opens a disk of a backup for sending. Nothing of its data is read yet.
    ///
    /// # Errors
    /// Not found for an unknown backup or disk; damaged where an object is not what the catalog says; unavailable
    /// while too many others are sent; invalid for a disk that the format cannot hold.
    pub async fn open_export(
        &self,
        actor: &str,
        backup_id: BackupId,
        disk_index: u32,
        format: ImageFormat,
    ) -> Result<Export> {
        let ancestry = chain::ancestry(&self.shared, backup_id).await?;
        chain::links(&ancestry, disk_index)?;
        let newest = ancestry.last().ok_or_else(|| Error::internal("an empty ancestry"))?;
        let slot = self.export_slot()?;
        let repository = self.shared.catalog.repository(newest.repository_id).await?;
        let (target, _) = self.shared.open_storage(&repository, None, None).await?;
        let mut store = ObjectStore::over(repository.name.clone(), target).await?;
        let disk = Arc::new(chain::open_disk(&self.shared, &mut store, backup_id, disk_index).await?);
        let reader = DiskReader::new(disk, self.shared.limits.encoders);
        let file_name = file_name(newest, disk_index, format);
        let content = match format {
            ImageFormat::Raw => Content::Raw,
            ImageFormat::Qcow2 => Content::Qcow2(reader.layout().await?),
            ImageFormat::Vmdk => {
                Content::Vmdk(Box::new(vmdk_writer(reader.capacity(), &file_name, backup_id, disk_index)?))
            }
        };
        let detail = json!({ "disk_index": disk_index, "format": format });
        self.shared.audit(actor, "backup.export", &backup_id.to_string(), detail).await;
        // What a backup holds never changes; how it is laid out in another format may.
        let tag = (format == ImageFormat::Raw).then(|| format!("{backup_id}-{disk_index}"));
        Ok(Export { reader, content, file_name, tag, sending: Sending::new(backup_id, disk_index, slot) })
    }

    fn export_slot(&self) -> Result<OwnedSemaphorePermit> {
        Arc::clone(&self.shared.export_slots).try_acquire_owned().map_err(|_| {
            let message = format!("{MAX_EXPORTS} disks are being sent already; try again later");
            Error::new(ErrorKind::Unavailable, message)
        })
    }
}

impl Export {
    /// A name for the file: the VM, the moment and the disk, in lower-case ASCII.
    #[must_use]
    pub fn file_name(&self) -> &str {
        &self.file_name
    }

    /// How many bytes the whole of it has, where that is known beforehand (a VMDK's is not).
    #[must_use]
    pub fn length(&self) -> Option<ByteLen> {
        match &self.content {
            Content::Raw => Some(self.reader.capacity()),
            Content::Qcow2(layout) => Some(layout.file_size()),
            Content::Vmdk(_) => None,
        }
    }

    /// What tells these bytes from all others, where the same request always gives the same bytes. Only then parts
    /// of it may be asked for.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// All bytes from the first to the last.
    #[must_use]
    pub fn stream(self) -> ExportStream {
        let Self { reader, content, sending, .. } = self;
        let bytes = match content {
            Content::Raw => reader.raw(reader.whole()),
            Content::Qcow2(layout) => reader.qcow2(layout),
            Content::Vmdk(writer) => reader.vmdk(*writer),
        };
        sending.watch(bytes)
    }

    /// A part of a raw disk.
    ///
    /// # Errors
    /// Invalid for another format and for a range beyond the disk.
    pub fn stream_range(self, range: Extent) -> Result<ExportStream> {
        let end = range.offset.0.checked_add(range.length.0);
        if self.tag.is_none() || end.is_none_or(|end| end > self.reader.capacity().0) {
            return Err(Error::invalid("a part can only be had of a raw disk, and inside it"));
        }
        Ok(self.sending.watch(self.reader.raw(range)))
    }
}

/// Writes the disk into a VMDK for a restore job.
pub(crate) async fn write_vmdk(
    job: &Arc<JobContext>,
    disk: &Arc<Chain>,
    backup: BackupId,
    disk_index: u32,
    target: &Location,
    partial: &Location,
) -> Result<ByteLen> {
    let reader = DiskReader::new(Arc::clone(disk), job.shared.limits.encoders);
    let capacity = reader.capacity();
    // A name that the descriptor cannot hold is only a name: nothing opens it.
    let writer = vmdk_writer(capacity, &target.path, backup, disk_index)
        .or_else(|_| vmdk_writer(capacity, "disk.vmdk", backup, disk_index))?;
    let done = reader.done();
    let shown = Arc::clone(&done);
    job.report_with(move || {
        json!({
            "phase": "restoring",
            "written_bytes": shown.load(Ordering::Relaxed),
            "capacity_bytes": capacity.0,
        })
    });
    let (sender, receiver) = mpsc::channel(WRITER_QUEUE);
    let place = partial.clone();
    let writing = tokio::spawn(store::blocking("writing a file", move || write_file(place, receiver)));
    let sent = tokio::select! {
        biased;
        () = job.cancel.cancelled() => Err(Error::cancelled()),
        sent = feed(reader.vmdk(writer), sender) => sent,
    };
    // The sender is gone by now. A failed write ends the feeding early and without an error of its own.
    let written = writing.await.map_err(|e| Error::internal(format!("a writing task ended: {e}")))?;
    sent?;
    let object = written?;
    store::blocking("sealing a file", move || object.seal(None).map(drop)).await?;
    Ok(ByteLen(done.load(Ordering::Relaxed)))
}

async fn feed(mut stream: ExportStream, sender: mpsc::Sender<Bytes>) -> Result<()> {
    while let Some(bytes) = stream.try_next().await? {
        if sender.send(bytes).await.is_err() {
            break;
        }
    }
    Ok(())
}

fn write_file(place: Location, mut pieces: mpsc::Receiver<Bytes>) -> Result<PendingObject> {
    let mut object = PendingObject::local(place)?;
    while let Some(bytes) = pieces.blocking_recv() {
        object.append(vec![bytes])?;
    }
    Ok(object)
}

fn vmdk_writer(capacity: ByteLen, name: &str, backup: BackupId, disk_index: u32) -> Result<StreamWriter> {
    let spec =
        DiskSpec { capacity, extent_name: name.to_owned(), content_id: content_id(backup, disk_index) };
    StreamWriter::new(&spec).map_err(Error::from)
}

/// The same disk of the same backup has the same content id, and hardly any other has it.
fn content_id(backup: BackupId, disk_index: u32) -> u32 {
    let digest = blake3::hash(format!("{backup}/{disk_index}").as_bytes());
    let id = digest.as_bytes().first_chunk().map_or(1, |bytes| u32::from_le_bytes(*bytes));
    // The two highest values stand for "no parent" and for a disk that nothing has written to.
    id.min(u32::MAX - 2)
}

fn file_name(backup: &Backup, disk_index: u32, format: ImageFormat) -> String {
    let extension = match format {
        ImageFormat::Raw => "raw",
        ImageFormat::Qcow2 => "qcow2",
        ImageFormat::Vmdk => "vmdk",
    };
    let (vm, moment) = (slug(&backup.vm_name), layout::stamp(backup.snapshot_at).to_lowercase());
    format!("{vm}-{moment}-disk-{disk_index}.{extension}")
}

impl From<tidemark_vmdk::Error> for Error {
    fn from(error: tidemark_vmdk::Error) -> Self {
        let message = format!("{error}; choose another format");
        Self::wrap(ErrorKind::Invalid, &message, error)
    }
}
