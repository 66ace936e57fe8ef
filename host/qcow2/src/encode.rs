//! Turning one guest cluster into what is stored for it. Pure computation, meant to run on many threads: each
//! takes a clone of the writer's encoder and keeps its own zstd context.

use std::{fmt, io};

use bytes::{Bytes, BytesMut};
use zstd::zstd_safe::CParameter;

use crate::format::{CLUSTER_BYTES, SECTOR_BYTES};

/// Whether and how clusters are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Every cluster is stored as it is.
    None,
    /// Each cluster is a zstd frame of its own.
    Zstd {
        /// The zstd level, 1 (fast) to 22.
        level: i32,
    },
}

/// What is stored for one cluster of the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EncodedCluster {
    /// All bytes are zero: nothing is stored but, over a backing file, a mark.
    Zero,
    /// The cluster itself, exactly [`CLUSTER_SIZE`](crate::CLUSTER_SIZE) bytes.
    Plain(Bytes),
    /// One zstd frame that decodes to exactly one cluster, at least a sector shorter than it.
    Compressed(Bytes),
}

/// Encodes clusters. A clone shares nothing with its origin, so that each thread has its own.
pub struct ClusterEncoder {
    compression: Compression,
    // Made on first use: a clone that never encodes costs nothing.
    context: Option<zstd::bulk::Compressor<'static>>,
    frame: Vec<u8>,
}

impl ClusterEncoder {
    pub(crate) fn new(compression: Compression) -> Self {
        Self { compression, context: None, frame: Vec::new() }
    }

    /// Encodes up to one cluster of guest bytes; a shorter one, the last of a disk, is padded with zeros.
    ///
    /// A cluster that compression would not make at least one 512-byte sector shorter stays plain.
    ///
    /// # Panics
    /// When `cluster` is longer than [`CLUSTER_SIZE`](crate::CLUSTER_SIZE).
    pub fn encode(&mut self, cluster: Bytes) -> EncodedCluster {
        assert!(cluster.len() <= CLUSTER_BYTES, "a cluster of {} bytes", cluster.len());
        if is_zero(&cluster) {
            return EncodedCluster::Zero;
        }
        let cluster = padded(cluster);
        match self.compress(&cluster) {
            Some(frame) => EncodedCluster::Compressed(frame),
            None => EncodedCluster::Plain(cluster),
        }
    }

    /// The frame, or nothing when it saves too little. A failing zstd context also answers with nothing: plain
    /// is always right.
    fn compress(&mut self, cluster: &[u8]) -> Option<Bytes> {
        let Compression::Zstd { level } = self.compression else { return None };
        if self.context.is_none() {
            self.context = context(level).ok();
            // The bound keeps zstd on its fast path; a shorter buffer makes it check at every step.
            self.frame.resize(zstd::zstd_safe::compress_bound(CLUSTER_BYTES), 0);
        }
        let length = self.context.as_mut()?.compress_to_buffer(cluster, &mut self.frame[..]).ok()?;
        (length + SECTOR_BYTES <= CLUSTER_BYTES).then(|| Bytes::copy_from_slice(&self.frame[..length]))
    }
}

/// zstd chooses its tables for 64 KiB of input by the level alone. At level 1 they are so small that the result is
/// over 1 % larger than level 3's; a hash table of 2^14 entries over 5 bytes halves that and costs no time.
fn context(level: i32) -> io::Result<zstd::bulk::Compressor<'static>> {
    let mut context = zstd::bulk::Compressor::new(level)?;
    if level == 1 {
        context.set_parameter(CParameter::HashLog(14))?;
        context.set_parameter(CParameter::MinMatch(5))?;
    }
    Ok(context)
}

impl Clone for ClusterEncoder {
    fn clone(&self) -> Self {
        Self::new(self.compression)
    }
}

impl fmt::Debug for ClusterEncoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterEncoder").field("compression", &self.compression).finish_non_exhaustive()
    }
}

/// Whether every byte is zero. Data clusters nearly always differ in their first bytes, so the scan stops early
/// there and runs at memory speed over real zeros.
#[must_use]
pub fn is_zero(bytes: &[u8]) -> bool {
    let (chunks, rest) = bytes.as_chunks::<256>();
    chunks.iter().all(|chunk| chunk.iter().fold(0, |seen, byte| seen | byte) == 0)
        && rest.iter().all(|&b| b == 0)
}

fn padded(cluster: Bytes) -> Bytes {
    if cluster.len() == CLUSTER_BYTES {
        return cluster;
    }
    let mut whole = BytesMut::with_capacity(CLUSTER_BYTES);
    whole.extend_from_slice(&cluster);
    whole.resize(CLUSTER_BYTES, 0);
    whole.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_are_found_and_a_last_bit_is_not_missed() {
        let mut bytes = vec![0_u8; CLUSTER_BYTES + 3];
        assert!(is_zero(&bytes));
        for position in [0, 255, 256, CLUSTER_BYTES - 1, CLUSTER_BYTES + 2] {
            bytes[position] = 1;
            assert!(!is_zero(&bytes), "a one at {position}");
            bytes[position] = 0;
        }
    }

    #[test]
    fn a_short_cluster_is_padded() {
        let mut encoder = ClusterEncoder::new(Compression::None);
        let EncodedCluster::Plain(plain) = encoder.encode(Bytes::from_static(b"end")) else {
            panic!("not plain")
        };
        assert_eq!(plain.len(), CLUSTER_BYTES);
        assert!(plain.starts_with(b"end") && is_zero(&plain[3..]));
        assert_eq!(encoder.encode(Bytes::new()), EncodedCluster::Zero);
    }

    fn noise(length: usize) -> Vec<u8> {
        let mut state = 1_u64;
        let bytes = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            state.to_be_bytes()[0]
        });
        bytes.take(length).collect()
    }

    #[test]
    fn what_does_not_shrink_stays_plain() {
        let mut encoder = ClusterEncoder::new(Compression::Zstd { level: 1 });
        // The second would save about 300 bytes, less than a sector.
        for saved in [0, 350] {
            let mut bytes = noise(CLUSTER_BYTES - saved);
            bytes.resize(CLUSTER_BYTES, 0);
            assert_eq!(encoder.encode(Bytes::from(bytes.clone())), EncodedCluster::Plain(Bytes::from(bytes)));
        }
        let mut bytes = noise(CLUSTER_BYTES - 3000);
        bytes.resize(CLUSTER_BYTES, 0);
        assert!(matches!(encoder.encode(Bytes::from(bytes)), EncodedCluster::Compressed(_)));
        assert!(matches!(encoder.encode(Bytes::from_static(b"text")), EncodedCluster::Compressed(_)));
    }
}
