//! Writes a chain of image files as one raw disk, exactly as a restore does, without a job, a plugin or a catalog.
//! This is what the benchmarks time beside other tools.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Instant;

use tidemark_model::ByteLen;
use tidemark_qcow2::{Chain, Image};
use tokio_util::sync::CancellationToken;

use crate::engine::Limits;
use crate::error::{Error, Result};
use crate::raw;
use crate::store::{self, LocalFile};

/// What to flatten, and how.
#[derive(Debug, Clone)]
pub struct FlattenOptions {
    /// The images, the top first.
    pub layers: Vec<PathBuf>,
    /// The raw file to make; an absolute path that does not exist.
    pub to: PathBuf,
    /// The number of encoding threads, which decode here, is taken from here.
    pub limits: Limits,
}

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlattenReport {
    /// The disk's size.
    pub capacity: ByteLen,
    /// Bytes written; the rest of the file is holes.
    pub written: ByteLen,
    /// How long it took, in milliseconds.
    pub moved_ms: u64,
}

/// Flattens. The file is durable and whole when this returns, or does not exist.
///
/// # Errors
/// Whatever a restore of this chain would fail with.
pub async fn flatten_chain(options: FlattenOptions) -> Result<FlattenReport> {
    let FlattenOptions { layers, to, limits } = options;
    let begun = Instant::now();
    let file = LocalFile::new(&to)?;
    let place = file.partial.clone();
    let flattened = store::blocking("flattening a chain", move || {
        let disk = open(&layers)?;
        let written = AtomicU64::new(0);
        raw::write(&disk, &place, limits.encoders, &CancellationToken::new(), &written)?;
        Ok((disk.virtual_size(), ByteLen(written.into_inner())))
    })
    .await;
    match flattened {
        Ok((capacity, written)) => {
            file.publish().await?;
            let moved_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
            Ok(FlattenReport { capacity, written, moved_ms })
        }
        Err(error) => {
            file.discard().await?;
            Err(error)
        }
    }
}

/// The chain, each file named by the one above it.
fn open(layers: &[PathBuf]) -> Result<Chain> {
    let mut images: Vec<Image> = Vec::new();
    for path in layers {
        let file = File::open(path).map_err(|e| Error::io(format!("opening {}", path.display()), e))?;
        let image = Image::open(Arc::new(file))
            .map_err(|e| Error::from(e).context(format!("image {}", path.display())))?;
        let expected = path.file_name().and_then(|name| name.to_str());
        if let Some(above) = images.last()
            && above.backing_name() != expected
        {
            let message = format!("{} does not lie below the image before it", path.display());
            return Err(Error::invalid(message));
        }
        images.push(image);
    }
    Ok(Chain::new(images)?)
}
