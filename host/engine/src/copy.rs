//! Moves one NBD export into one standalone QCOW2 file, exactly as a backup does, without a job, a plugin or a
//! catalog. This is what the benchmarks time beside other tools.

use std::path::PathBuf;
use std::sync::Arc;

use tidemark_model::{ByteLen, ExtentList};
use tidemark_plugins::Transport;
use tidemark_qcow2::{CLUSTER_SIZE, Compression, ImageSpec};
use tokio_util::sync::CancellationToken;

use crate::engine::Limits;
use crate::error::Result;
use crate::mover::{self, MovePlan, MoveTuning};
use crate::source::{Source, SourceOptions};
use crate::store::{self, Location, PendingObject};

/// What to copy, and how.
#[derive(Debug, Clone)]
pub struct CopyOptions {
    /// The NBD address of the disk.
    pub uri: String,
    /// The image to make; an absolute path that does not exist.
    pub to: PathBuf,
    /// Compression level, reads in flight and encoding threads are taken from here.
    pub limits: Limits,
}

/// What was copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CopyReport {
    /// Bytes read from the source.
    pub read: ByteLen,
    /// The image's size.
    pub stored: ByteLen,
    /// How long it took, in milliseconds.
    pub moved_ms: u64,
}

/// Copies. The image is durable and whole when this returns, or does not exist.
///
/// # Errors
/// Whatever a backup's move of this disk would fail with.
pub async fn copy_disk(options: CopyOptions) -> Result<CopyReport> {
    let CopyOptions { uri, to, limits } = options;
    let transport = Transport::Nbd { uri };
    let source = Source::open(&transport, |_| None, &SourceOptions::default()).await?;
    let capacity = source.size();
    let allocated = source.allocated().await?.unwrap_or_else(|| ExtentList::whole(capacity));
    let plan = MovePlan { read: allocated.aligned(CLUSTER_SIZE, capacity), zero: ExtentList::empty() };
    let compression = limits.zstd_level.map_or(Compression::None, |level| Compression::Zstd { level });
    let spec = ImageSpec { virtual_size: capacity, compression, backing: None };
    let tuning = MoveTuning { reads: limits.reads.max(1), encoders: limits.encoders.max(1) };
    let target = Location::of(&to)?;
    let partial = Location { folder: target.folder, path: format!("{}.partial", target.path) };
    let object = PendingObject::local(partial.clone())?;
    let moved =
        mover::move_disk(&source, &plan, spec, object, tuning, &Arc::default(), &CancellationToken::new())
            .await;
    source.close().await;
    match moved {
        Ok(moved) => {
            store::publish_local(partial, target.path).await?;
            Ok(CopyReport { read: moved.read, stored: moved.stored, moved_ms: moved.moved_ms })
        }
        Err(error) => {
            store::remove_local(partial).await?;
            Err(error)
        }
    }
}
