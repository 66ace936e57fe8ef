//! Makes one merged image with its range digests: the pieces that [`Merger`] yields, written in order, hashed as they
//! pass. Blocks.
//!
//! A packed image goes the way of any image ([`ImageFile`]). A shared one takes over whole runs of the layers' files, in
//! another order than the guest's; the chaining value of each cluster of the file is therefore kept aside (24 bytes each,
//! in a file without a name) until the guest's order comes to it.

use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use tidemark_model::{ByteLen, GuestOffset, HostOffset};
use tidemark_qcow2::{CLUSTER_SIZE, FinishedImage, MergedCluster, Merger, Piece};
use tokio_util::sync::CancellationToken;

use super::Progress;
use crate::chain::LayerFile;
use crate::digest::{LEAF_LEN, TailFirstDigest};
use crate::error::{Error, Result};
use crate::image_file::{ImageFile, RangesFile, StoredImage};
use crate::ranges::{RangeDigest, RangeIndex, RangeScan};
use crate::store::{SharedObject, nameless};

/// How much of a layer is read at a time to be hashed.
const BLOCK: u64 = 1 << 20;

/// What one merged image is made of.
pub(super) struct Job<'a> {
    pub(super) merger: Merger,
    /// The merged layers, the top first.
    pub(super) files: &'a [LayerFile],
    /// Their range digests, where the result gets some.
    pub(super) ranges: Option<&'a [Arc<File>]>,
    pub(super) progress: &'a Progress,
    pub(super) cancel: &'a CancellationToken,
}

impl Job<'_> {
    /// Makes a packed image.
    pub(super) fn pack(mut self, mut image: ImageFile) -> Result<StoredImage> {
        let indexes = open_ranges(self.ranges)?;
        let mut known = Known::new(indexes.as_deref())?;
        while let Some(pieces) = self.merger.next()? {
            self.check_cancelled()?;
            for cluster in self.merger.take_mapped() {
                match cluster {
                    MergedCluster::Plain { guest, host, .. } => image.note(guest, Some(host), None),
                    MergedCluster::Compressed { guest, layer } => {
                        image.note(guest, None, known.find(layer, guest, self.files)?);
                    }
                }
            }
            let bytes = pieces.into_iter().map(|piece| match piece {
                Piece::Bytes(bytes) => Ok(bytes),
                Piece::Copy { .. } => Err(Error::internal("a packed merge wants to share a range")),
            });
            let bytes = bytes.collect::<Result<Vec<Bytes>>>()?;
            self.count(bytes.iter().map(|bytes| bytes.len() as u64).sum());
            image.append(bytes)?;
        }
        let FinishedImage { tail, header, .. } = self.merger.finish()?;
        image.append(tail)?;
        image.seal(header)
    }

    /// Makes an image that shares extents with its layers. `scratch` is a folder of the same file system.
    pub(super) fn share(
        mut self,
        mut object: SharedObject,
        mut ranges: Option<RangesFile>,
        scratch: &Path,
    ) -> Result<StoredImage> {
        let indexes = open_ranges(self.ranges)?;
        let mut known = Known::new(indexes.as_deref())?;
        let mut passed = Passed::new(scratch)?;
        while let Some(pieces) = self.merger.next()? {
            for piece in pieces {
                self.check_cancelled()?;
                match piece {
                    Piece::Bytes(bytes) => {
                        passed.add(&bytes)?;
                        self.count(bytes.len() as u64);
                        object.append(&bytes)?;
                    }
                    Piece::Copy { layer, host, length } => {
                        let layer = &self.files[layer];
                        self.hash_range(layer, host, length, &mut passed)?;
                        object.append_range(&layer.file, host, length)?;
                        self.progress.shared.fetch_add(length.0, Ordering::Relaxed);
                    }
                }
            }
            for cluster in self.merger.take_mapped() {
                let Some(ranges) = &mut ranges else { continue };
                let (guest, digest) = match cluster {
                    MergedCluster::Plain { guest, host, .. } => (guest, Some(passed.value_at(host)?)),
                    MergedCluster::Compressed { guest, layer } => {
                        (guest, known.find(layer, guest, self.files)?)
                    }
                };
                if let Some(digest) = digest {
                    ranges.add(guest, digest)?;
                }
            }
        }
        let FinishedImage { tail, header, .. } = self.merger.finish()?;
        for bytes in &tail {
            passed.add(bytes)?;
            object.append(bytes)?;
        }
        let ranges = ranges.map(RangesFile::seal).transpose()?;
        Ok(StoredImage { digest: passed.digest.finish(&header), object: object.seal(&header)?, ranges })
    }

    fn hash_range(
        &self,
        layer: &LayerFile,
        host: HostOffset,
        length: ByteLen,
        passed: &mut Passed,
    ) -> Result<()> {
        let mut buffer = vec![0; usize::try_from(BLOCK.min(length.0)).unwrap_or(0)];
        let mut done = 0;
        while done < length.0 {
            self.check_cancelled()?;
            let part = &mut buffer[..usize::try_from(BLOCK.min(length.0 - done)).unwrap_or(0)];
            layer
                .file
                .read_exact_at(part, host.0 + done)
                .map_err(|e| Error::io(format!("reading {}", layer.key), e))?;
            passed.add(part)?;
            done += part.len() as u64;
        }
        Ok(())
    }

    fn count(&self, bytes: u64) {
        self.progress.written.fetch_add(bytes, Ordering::Relaxed);
    }

    fn check_cancelled(&self) -> Result<()> {
        if self.cancel.is_cancelled() { Err(Error::cancelled()) } else { Ok(()) }
    }
}

fn open_ranges(files: Option<&[Arc<File>]>) -> Result<Option<Vec<RangeIndex>>> {
    let Some(files) = files else { return Ok(None) };
    let open =
        |file: &Arc<File>| RangeIndex::open(file.try_clone().map_err(|e| Error::io("range digests", e))?);
    files.iter().map(open).collect::<Result<Vec<_>>>().map(Some)
}

/// The digests of compressed clusters, which a merge takes over with them: those of each layer by ascending guest offset.
struct Known<'a> {
    layers: Option<Vec<KnownLayer<'a>>>,
}

struct KnownLayer<'a> {
    scan: RangeScan<'a>,
    next: Option<(GuestOffset, RangeDigest)>,
}

impl<'a> Known<'a> {
    fn new(indexes: Option<&'a [RangeIndex]>) -> Result<Self> {
        let Some(indexes) = indexes else { return Ok(Self { layers: None }) };
        let layer = |index: &'a RangeIndex| {
            let mut scan = index.scan(GuestOffset(0))?;
            let next = scan.next()?;
            Ok(KnownLayer { scan, next })
        };
        Ok(Self { layers: Some(indexes.iter().map(layer).collect::<Result<_>>()?) })
    }

    /// The digest of a cluster that `layer` stores; none where the result gets no digests.
    fn find(&mut self, layer: usize, guest: GuestOffset, files: &[LayerFile]) -> Result<Option<RangeDigest>> {
        let Some(layers) = &mut self.layers else { return Ok(None) };
        let KnownLayer { scan, next } = &mut layers[layer];
        while next.is_some_and(|(at, _)| at < guest) {
            *next = scan.next()?;
        }
        match *next {
            Some((at, digest)) if at == guest => Ok(Some(digest)),
            _ => Err(Error::damaged(format!(
                "the range digests of {} have none for the cluster at {guest}",
                files[layer].key
            ))),
        }
    }
}

/// The file's digest as it grows, and every cluster's chaining value for later.
struct Passed {
    digest: TailFirstDigest,
    values: BufWriter<File>,
    /// Clusters that passed, the blank first one too.
    clusters: u64,
    /// How many of their values are in the file and not only in memory.
    flushed: u64,
}

const VALUE_LEN: usize = 24;

impl Passed {
    fn new(scratch: &Path) -> Result<Self> {
        let file = nameless(scratch).map_err(scratch_failed)?;
        let values = BufWriter::with_capacity(64 << 10, file);
        Ok(Self { digest: TailFirstDigest::default(), values, clusters: 0, flushed: 0 })
    }

    fn add(&mut self, bytes: &[u8]) -> Result<()> {
        for cluster in bytes.chunks(LEAF_LEN) {
            // The blank first cluster is hashed at the end, when it holds the header.
            let value = if self.clusters == 0 { [0; 32] } else { self.digest.add(cluster) };
            self.values.write_all(&value[..VALUE_LEN]).map_err(scratch_failed)?;
            self.clusters += 1;
        }
        Ok(())
    }

    fn value_at(&mut self, host: HostOffset) -> Result<RangeDigest> {
        let cluster = host.0 / CLUSTER_SIZE;
        if cluster >= self.clusters {
            return Err(Error::internal(format!("the merged cluster at {host} has not been written yet")));
        }
        if cluster >= self.flushed {
            self.values.flush().map_err(scratch_failed)?;
            self.flushed = self.clusters;
        }
        let mut value = [0; VALUE_LEN];
        self.values
            .get_ref()
            .read_exact_at(&mut value, cluster * VALUE_LEN as u64)
            .map_err(scratch_failed)?;
        Ok(RangeDigest::from_stored(value))
    }
}

fn scratch_failed(error: io::Error) -> Error {
    Error::io("keeping digests aside", error)
}
