//! An image under construction as it reaches its object: appended, hashed as it passes, and with it the digests of
//! the guest's ranges in an object of their own. Whoever makes images (a backup, a merge) writes them through this.

use bytes::Bytes;
use tidemark_model::{GuestOffset, HostOffset};
use tidemark_qcow2::CLUSTER_SIZE;

use crate::digest::{LEAF_LEN, TailFirstDigest};
use crate::error::Result;
use crate::ranges::{RangeDigest, RangeRecorder};
use crate::store::{PendingObject, SealedObject};

/// Range digests are appended in pieces of this size.
const RANGES_APPEND: usize = 256 << 10;

/// An image that is durable and has no name yet, with its range digests.
#[derive(Debug)]
pub(crate) struct StoredImage {
    pub(crate) object: SealedObject,
    /// BLAKE3 of the object, in hexadecimal.
    pub(crate) digest: String,
    pub(crate) ranges: Option<StoredRanges>,
}

/// Range digests that are durable and have no name yet.
#[derive(Debug)]
pub(crate) struct StoredRanges {
    pub(crate) object: SealedObject,
    /// BLAKE3 of the object, in hexadecimal.
    pub(crate) digest: String,
}

/// The object of range digests, while it grows.
pub(crate) struct RangesFile {
    object: PendingObject,
    recorder: RangeRecorder,
    digest: blake3::Hasher,
}

/// The object of an image, while it grows.
pub(crate) struct ImageFile {
    object: PendingObject,
    digest: TailFirstDigest,
    position: u64,
    ranges: Option<RangesFile>,
}

impl ImageFile {
    pub(crate) fn new(object: PendingObject, ranges: Option<RangesFile>) -> Self {
        Self { object, digest: TailFirstDigest::default(), position: 0, ranges }
    }

    /// Bytes appended so far.
    pub(crate) fn written(&self) -> u64 {
        self.position
    }

    /// What was stored for a cluster of the guest: plain at a place of the file, or compressed with its digest.
    /// Guest offsets ascend; a plain cluster is noted before its bytes are appended.
    pub(crate) fn note(
        &mut self,
        guest: GuestOffset,
        plain_at: Option<HostOffset>,
        digest: Option<RangeDigest>,
    ) {
        let Some(ranges) = &mut self.ranges else { return };
        match (plain_at, digest) {
            (Some(host), _) => ranges.recorder.plain(guest, host),
            (None, Some(digest)) => ranges.recorder.known(guest, digest),
            (None, None) => {}
        }
    }

    /// Appends whole clusters, the blank first one first; blocks.
    pub(crate) fn append(&mut self, parts: Vec<Bytes>) -> Result<()> {
        for part in &parts {
            for cluster in part.chunks(LEAF_LEN) {
                // The blank first cluster is hashed at the end, when it holds the header.
                if self.position >= CLUSTER_SIZE {
                    let value = self.digest.add(cluster);
                    if let Some(ranges) = &mut self.ranges {
                        ranges.recorder.hashed(HostOffset(self.position), value);
                    }
                }
                self.position += cluster.len() as u64;
            }
        }
        self.object.append(parts)?;
        match &mut self.ranges {
            Some(ranges) if ranges.recorder.pending() >= RANGES_APPEND => ranges.append(),
            _ => Ok(()),
        }
    }

    /// Makes all of it durable, the header last; blocks.
    pub(crate) fn seal(self, header: Bytes) -> Result<StoredImage> {
        let Self { object, digest, ranges, .. } = self;
        let ranges = match ranges {
            Some(ranges) => Some(ranges.seal()?),
            None => None,
        };
        let digest = digest.finish(&header);
        Ok(StoredImage { object: object.seal(Some(header))?, digest, ranges })
    }
}

impl RangesFile {
    pub(crate) fn new(object: PendingObject) -> Self {
        Self { object, recorder: RangeRecorder::new(), digest: blake3::Hasher::new() }
    }

    /// Adds a digest that is known; guest offsets ascend. Blocks.
    pub(crate) fn add(&mut self, guest: GuestOffset, digest: RangeDigest) -> Result<()> {
        self.recorder.known(guest, digest);
        if self.recorder.pending() >= RANGES_APPEND { self.append() } else { Ok(()) }
    }

    fn append(&mut self) -> Result<()> {
        let bytes = self.recorder.take_output();
        self.digest.update(&bytes);
        self.object.append(vec![Bytes::from(bytes)])
    }

    /// Makes all of it durable; blocks.
    pub(crate) fn seal(self) -> Result<StoredRanges> {
        let Self { mut object, recorder, mut digest } = self;
        let rest = recorder.finish()?;
        digest.update(&rest);
        object.append(vec![Bytes::from(rest)])?;
        Ok(StoredRanges { object: object.seal(None)?, digest: digest.finalize().to_hex().to_string() })
    }
}
