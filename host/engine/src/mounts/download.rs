//! A file as a stream of bytes. One that does not give every byte that its size promises ends with an error, never as if it
//! were whole.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::BoxStream;
use serde_json::json;
use tidemark_model::{ByteLen, Extent};
use tidemark_plugins::NodeKind;
use tokio::sync::mpsc;

use super::volume::Node;
use super::{Mount, archive, received};
use crate::engine::{Engine, Shared};
use crate::error::{Error, Result};

/// Pieces that may wait for the receiver, beside those that are read ahead.
const AHEAD: usize = 1;

/// The bytes of a download in order; after an error nothing follows.
pub type FileStream = BoxStream<'static, Result<Bytes>>;

/// A file that is ready to be sent.
pub struct Download {
    shared: Arc<Shared>,
    mount: Arc<Mount>,
    path: String,
    node: Node,
    /// Keeps the reader's session, which knows the node.
    _using: Arc<()>,
    /// Its name, as it is shown.
    pub file_name: String,
    /// How many bytes it has.
    pub size: ByteLen,
}

impl Engine {
    /// Opens a file for sending, of which nothing is read yet; none where the path leads to a folder, which goes as an archive.
    ///
    /// # Errors
    /// Not found; invalid for what is neither.
    pub async fn open_download(&self, actor: &str, id: &str, path: &str) -> Result<Option<Download>> {
        let mount = self.mounted(id).await?;
        let (volume, rest) = mount.volume(path)?;
        let mut held = volume.hold(&self.shared).await?;
        let stat = held.find(&rest).await.map_err(|error| error.context(format!("'{path}'")))?;
        let node = held.node(&stat);
        drop(held);
        let other = match stat.kind {
            NodeKind::File => None,
            NodeKind::Directory => return Ok(None),
            NodeKind::Symlink => Some("a link, which is not followed: ask for what it leads to"),
            NodeKind::Other => Some("no regular file"),
        };
        if let Some(word) = other {
            return Err(Error::invalid_field("path", format!("'{path}' is {word}")));
        }
        let detail = json!({ "mount_id": id, "path": path, "size_bytes": stat.size_bytes });
        self.shared.audit(actor, "restore.download", &mount.backup.to_string(), detail).await;
        Ok(Some(Download {
            shared: Arc::clone(&self.shared),
            file_name: rest.last().map_or_else(String::new, |name| (*name).to_owned()),
            path: path.to_owned(),
            node,
            _using: volume.using(),
            size: ByteLen(stat.size_bytes),
            mount,
        }))
    }

    /// Whether a path leads to a folder, or to a partition.
    ///
    /// # Errors
    /// Not found.
    pub async fn is_folder(&self, id: &str, path: &str) -> Result<bool> {
        let mount = self.mounted(id).await?;
        let (volume, rest) = mount.volume(path)?;
        let stat = volume.hold(&self.shared).await?.find(&rest).await;
        Ok(stat.map_err(|error| error.context(format!("'{path}'")))?.kind == NodeKind::Directory)
    }

    /// Folders and files as one archive.
    ///
    /// # Errors
    /// Not found; invalid for a path that names no partition.
    pub async fn open_archive(
        &self,
        actor: &str,
        id: &str,
        paths: &[String],
        format: archive::ArchiveFormat,
    ) -> Result<FileStream> {
        let mount = self.mounted(id).await?;
        for path in paths {
            let (volume, rest) = mount.volume(path)?;
            let stat = volume.hold(&self.shared).await?.find(&rest).await;
            stat.map_err(|error| error.context(format!("'{path}'")))?;
        }
        let detail = json!({ "mount_id": id, "paths": paths });
        self.shared.audit(actor, "restore.download", &mount.backup.to_string(), detail).await;
        Ok(archive::stream(Arc::clone(&self.shared), mount, paths.to_vec(), format))
    }
}

impl Download {
    /// All bytes.
    #[must_use]
    pub fn stream(self) -> FileStream {
        let whole = 0..self.size.0;
        self.range(whole)
    }

    /// A part, which has to lie inside the file.
    #[must_use]
    pub fn stream_range(self, part: Extent) -> FileStream {
        let end = part.offset.0.saturating_add(part.length.0).min(self.size.0);
        self.range(part.offset.0..end)
    }

    /// While one piece is sent, the next ones are read.
    fn range(self, range: Range<u64>) -> FileStream {
        let (sender, receiver) = mpsc::channel(AHEAD);
        let task = tokio::spawn(async move {
            // Nobody listens where the receiver went away.
            if let Err(error) = self.send(range, &sender).await {
                let _ = sender.send(Err(error.context(format!("'{}'", self.path)))).await;
            }
        });
        received(receiver, task)
    }

    /// Sends until the end, or until nobody takes it any more.
    async fn send(&self, range: Range<u64>, to: &mpsc::Sender<Result<Bytes>>) -> Result<()> {
        let (volume, _) = self.mount.volume(&self.path)?;
        let mut content = self.mount.content(&self.shared, volume, self.node, range);
        while let Some(piece) = content.next().await? {
            if to.send(Ok(piece)).await.is_err() {
                break;
            }
        }
        Ok(())
    }
}
