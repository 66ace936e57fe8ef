//! Merges images in a folder into one, exactly as a job does, without a job, a plugin or a catalog. This is what the
//! benchmarks time beside other tools.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tidemark_model::ByteLen;
use tidemark_qcow2::{BackingFile, Image, MergeLayout, Merger};
use tokio_util::sync::CancellationToken;

use super::sources::digest_of;
use super::{Progress, image};
use crate::chain::LayerFile;
use crate::engine::Limits;
use crate::error::{Error, Result};
use crate::image_file::{ImageFile, RangesFile, StoredImage};
use crate::store::{self, LocalFile, Location, PendingObject, SharedObject};

/// What to merge, and into what.
#[derive(Debug, Clone)]
pub struct MergeChainOptions {
    /// The images, the top first. Where all have range digests beside them (`….digests`), the result gets some, too.
    pub layers: Vec<PathBuf>,
    /// The file name of the image that remains below the last of them; none where that one stands alone.
    pub backing: Option<String>,
    /// The image to make, an absolute path `….qcow2`. Its folder decides whether extents are shared.
    pub to: PathBuf,
    /// Reading threads are taken from here.
    pub limits: Limits,
}

/// What was merged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MergeChainReport {
    /// Bytes of the sources, all of which were read and hashed as a job does before it trusts them.
    pub read: ByteLen,
    /// Bytes that were written.
    pub written: ByteLen,
    /// Bytes that were taken over by sharing extents.
    pub shared: ByteLen,
    /// The image's size.
    pub stored: ByteLen,
}

/// Merges. The image is durable and whole under its name when this returns, or does not exist.
///
/// # Errors
/// Whatever a job's merge of these images would fail with.
pub async fn merge_chain(options: MergeChainOptions) -> Result<MergeChainReport> {
    let MergeChainOptions { layers, backing, to, limits } = options;
    let (image, ranges) = (LocalFile::new(&to)?, LocalFile::new(&to.with_extension("digests"))?);
    let targets = (image.partial.clone(), ranges.partial.clone());
    let made = store::blocking("merging images", move || make(&layers, backing, &limits, targets)).await;
    match made {
        Ok((stored, report)) => {
            if stored.ranges.is_some() {
                ranges.publish().await?;
            }
            image.publish().await?;
            Ok(report)
        }
        Err(error) => {
            ranges.discard().await?;
            image.discard().await?;
            Err(error)
        }
    }
}

fn make(
    paths: &[PathBuf],
    backing: Option<String>,
    limits: &Limits,
    (image_at, ranges_at): (Location, Location),
) -> Result<(StoredImage, MergeChainReport)> {
    let progress = Progress::default();
    let files = paths.iter().map(|path| layer(path)).collect::<Result<Vec<_>>>()?;
    let beside = paths.iter().map(|path| File::open(path.with_extension("digests")).map(Arc::new).ok());
    let ranges: Option<Vec<Arc<File>>> = beside.collect();
    let cancel = CancellationToken::new();
    read_all(&files, limits.encoders.max(1), &progress, &cancel)?;
    let images = files.iter().map(|layer| Ok(Image::open(Arc::<File>::clone(&layer.file))?));
    let images = images.collect::<Result<Vec<_>>>()?;
    let backing = backing.map(|name| BackingFile { name, format: "qcow2".to_owned() });
    let shares = store::can_share(&image_at.folder);
    let layout = if shares { MergeLayout::Shared } else { MergeLayout::Packed };
    let merger = Merger::new(images, backing, layout)?;
    let digests = match ranges {
        Some(_) => Some(RangesFile::new(PendingObject::local(ranges_at)?)),
        None => None,
    };
    let job =
        image::Job { merger, files: &files, ranges: ranges.as_deref(), progress: &progress, cancel: &cancel };
    let stored = match layout {
        MergeLayout::Shared => {
            let folder = image_at.folder.clone();
            job.share(SharedObject::local(image_at)?, digests, &folder)?
        }
        MergeLayout::Packed => job.pack(ImageFile::new(PendingObject::local(image_at)?, digests))?,
    };
    let load = |counter: &std::sync::atomic::AtomicU64| ByteLen(counter.load(Ordering::Relaxed));
    let report = MergeChainReport {
        read: load(&progress.checked),
        written: load(&progress.written),
        shared: load(&progress.shared),
        stored: stored.object.size(),
    };
    Ok((stored, report))
}

fn layer(path: &Path) -> Result<LayerFile> {
    let file = File::open(path).map_err(|e| Error::io(path.display(), e))?;
    Ok(LayerFile { key: path.display().to_string(), file: Arc::new(file) })
}

/// What a job does to compare each source with its digest.
fn read_all(
    files: &[LayerFile],
    threads: usize,
    progress: &Progress,
    cancel: &CancellationToken,
) -> Result<()> {
    std::thread::scope(|scope| {
        let share = files.len().div_ceil(threads).max(1);
        let read = |files: &[LayerFile]| -> Result<()> {
            files.iter().try_for_each(|layer| digest_of(&layer.file, &progress.checked, cancel).map(drop))
        };
        let workers: Vec<_> = files.chunks(share).map(|part| scope.spawn(move || read(part))).collect();
        workers
            .into_iter()
            .try_for_each(|worker| worker.join().map_err(|_| Error::internal("a reading thread panicked"))?)
    })
}
