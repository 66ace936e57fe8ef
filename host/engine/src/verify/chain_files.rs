//! Verifies the files of one chain, exactly as a deep verification does, without a job, a plugin or a catalog. This is
//! what the benchmarks time beside other tools.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tidemark_model::{ByteLen, ExtentList};
use tidemark_qcow2::{Image, ReadAt};
use tokio_util::sync::CancellationToken;

use super::objects::MIN_THREADS;
use super::scan::{self, Depth, Layer, Work};
use crate::engine::Limits;
use crate::error::{Error, Result};
use crate::ranges::RangeIndex;
use crate::store;

/// What to verify.
#[derive(Debug, Clone)]
pub struct VerifyChainOptions {
    /// The images, the newest first, each `….qcow2` with its range digests (`….digests`) beside it where there are any.
    pub layers: Vec<PathBuf>,
    /// The number of threads is taken from here.
    pub limits: Limits,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifyChainReport {
    /// Bytes that were read, tables and digests apart.
    pub read: ByteLen,
    /// Clusters that were compared with a recorded digest.
    pub compared_clusters: u64,
    /// Clusters for which there was nothing to compare with.
    pub uncompared_clusters: u64,
    /// Each image's BLAKE3 digest in hexadecimal, in the order of the layers.
    pub digests: Vec<String>,
    /// Each image's damaged guest ranges, in the order of the layers.
    pub damaged: Vec<ExtentList>,
}

/// Verifies.
///
/// # Errors
/// Where a file cannot be read, or an image is not sound in structure.
pub async fn verify_chain(options: VerifyChainOptions) -> Result<VerifyChainReport> {
    store::blocking("verifying a chain", move || {
        let VerifyChainOptions { layers, limits } = options;
        let below = layers.iter().skip(1).map(Some).chain([None]);
        let layers = layers
            .iter()
            .zip(below)
            .map(|(path, below)| open(path, below.map(PathBuf::as_path)))
            .collect::<Result<Vec<Layer>>>()?;
        let (read, cancel) = (AtomicU64::new(0), CancellationToken::new());
        let work = Work { threads: limits.encoders.max(MIN_THREADS), read: &read, cancel: &cancel };
        let found = scan::scan(&layers, Depth::Clusters, &work)?;
        if let Some(problem) = found.iter().find_map(|found| found.problems.first()) {
            return Err(Error::damaged(problem.clone()));
        }
        Ok(VerifyChainReport {
            read: ByteLen(read.load(Ordering::Relaxed)),
            compared_clusters: found.iter().map(|found| found.compared).sum(),
            uncompared_clusters: found.iter().map(|found| found.uncompared).sum(),
            damaged: found
                .iter()
                .zip(&layers)
                .map(|(found, layer)| found.damaged.list(layer.image.virtual_size()))
                .collect(),
            digests: found.into_iter().map(|found| found.digest.unwrap_or_default()).collect(),
        })
    })
    .await
}

fn open(path: &Path, below: Option<&Path>) -> Result<Layer> {
    let context = |e: Error| e.context(format!("verifying {}", path.display()));
    let file = Arc::new(File::open(path).map_err(|e| Error::io(path.display(), e))?);
    let source: Arc<dyn ReadAt> = Arc::<File>::clone(&file);
    let image = Image::open(source).map_err(|e| context(e.into()))?;
    let expected = below.and_then(Path::file_name).and_then(|name| name.to_str());
    if image.backing_name() != expected {
        let names = image.backing_name();
        return Err(context(Error::damaged(format!("it names {names:?} instead of {expected:?}"))));
    }
    let report = tidemark_qcow2::check(&image).map_err(|e| context(e.into()))?;
    if !report.is_clean() {
        return Err(context(Error::damaged(report.problems.join(", "))));
    }
    let digests = match File::open(path.with_extension("digests")) {
        Ok(file) => Some(RangeIndex::open(file).map_err(context)?),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => return Err(context(Error::io("range digests", error))),
    };
    Ok(Layer { file, image, digests })
}
