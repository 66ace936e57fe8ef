//! Moves one NBD export into one QCOW2 file with its range digests, exactly as a backup does, without a job, a
//! plugin or a catalog. This is what the benchmarks time beside other tools.

use std::path::PathBuf;
use std::sync::Arc;

use tidemark_model::{ByteLen, ExtentList};
use tidemark_plugins::Transport;
use tidemark_qcow2::{BackingFile, Compression, ImageSpec};
use tokio_util::sync::CancellationToken;

use crate::engine::Limits;
use crate::error::Result;
use crate::mover::{self, MovePlan, MoveTarget, MoveTuning};
use crate::source::{Source, SourceOptions};
use crate::store::{LocalFile, PendingObject};

/// What to copy, and how.
#[derive(Debug, Clone)]
pub struct CopyOptions {
    /// The NBD address of the disk.
    pub uri: String,
    /// The image to make, an absolute path `….qcow2` that does not exist; range digests go beside it (`….digests`).
    pub to: PathBuf,
    /// What changed since the image below, for an incremental; none for a full.
    pub changed: Option<Changed>,
    /// Compression level, reads in flight and encoding threads are taken from here.
    pub limits: Limits,
}

/// What an incremental stores.
#[derive(Debug, Clone)]
pub struct Changed {
    /// The ranges that may differ.
    pub extents: ExtentList,
    /// The image below, in the same folder, by its file name.
    pub backing: String,
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
    let CopyOptions { uri, to, changed, limits } = options;
    let transport = Transport::Nbd { uri };
    let source = Source::open(&transport, |_| None, &SourceOptions::default()).await?;
    let allocated = source.allocated().await?;
    let (changed, backing) = match changed {
        Some(Changed { extents, backing }) => {
            (Some(extents), Some(BackingFile { name: backing, format: "qcow2".to_owned() }))
        }
        None => (None, None),
    };
    let plan = MovePlan::new(source.size(), changed.as_ref(), allocated);
    let compression = limits.zstd_level.map_or(Compression::None, |level| Compression::Zstd { level });
    let spec = ImageSpec { virtual_size: source.size(), compression, backing };
    let tuning = MoveTuning { reads: limits.reads.max(1), encoders: limits.encoders.max(1) };
    let [image, ranges] = [LocalFile::new(&to)?, LocalFile::new(&to.with_extension("digests"))?];
    let target = MoveTarget {
        image: PendingObject::local(image.partial.clone())?,
        ranges: Some(PendingObject::local(ranges.partial.clone())?),
    };
    let moved =
        mover::move_disk(&source, &plan, spec, target, tuning, &Arc::default(), &CancellationToken::new())
            .await;
    source.close().await;
    match moved {
        Ok(moved) => {
            ranges.publish().await?;
            image.publish().await?;
            let stored = moved.image.object.size();
            Ok(CopyReport { read: moved.read, stored, moved_ms: moved.moved_ms })
        }
        Err(error) => {
            ranges.discard().await?;
            image.discard().await?;
            Err(error)
        }
    }
}
