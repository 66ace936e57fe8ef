//! Digests of an image whose first cluster is written last, in one pass over the bytes: of the whole file, and of
//! each 64 KiB cluster in it.
//!
//! BLAKE3 is a binary tree over 1 KiB chunks, so every cluster of 64 KiB is a complete subtree, and its chaining
//! value is both a leaf of the file's digest and a digest of the cluster itself (one that depends on where the
//! cluster lies in the file). The first cluster's siblings on the way to the root cover `[2^k, 2^(k+1))` clusters;
//! each is folded as it streams by, and the first cluster joins them at the end. The result is the ordinary digest
//! that `b3sum` prints. Source of the tree's shape: the BLAKE3 paper, section 2.1.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicU64, Ordering};

use blake3::Hasher;
use blake3::hazmat::{ChainingValue, HasherExt as _, Mode, merge_subtrees_non_root, merge_subtrees_root};
use tidemark_model::HostOffset;
use tokio_util::sync::CancellationToken;

/// The length of a leaf, and of the part that comes last, in bytes: one cluster.
pub(crate) const LEAF_LEN: usize = 65536;
/// What is read of a file at a time.
const BLOCK: usize = 1 << 20;

/// The chaining value of up to one cluster that lies at `offset` of a file.
pub(crate) fn chaining_value(bytes: &[u8], offset: HostOffset) -> ChainingValue {
    let mut hasher = Hasher::new();
    hasher.set_input_offset(offset.0);
    hasher.update(bytes);
    hasher.finalize_non_root()
}

/// BLAKE3 of a whole file, in hexadecimal; none where it was cancelled. `read` counts the bytes.
pub(crate) fn of_file(
    file: &File,
    read: &AtomicU64,
    cancel: &CancellationToken,
) -> io::Result<Option<String>> {
    let (mut hasher, mut buffer, mut at) = (Hasher::new(), vec![0; BLOCK], 0);
    while !cancel.is_cancelled() {
        match file.read_at(&mut buffer, at) {
            Ok(0) => return Ok(Some(hasher.finalize().to_hex().to_string())),
            Ok(count) => {
                hasher.update(&buffer[..count]);
                at += count as u64;
                read.fetch_add(count as u64, Ordering::Relaxed);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// Hashes a file given cluster by cluster, the second one first and the first one last.
#[derive(Default)]
pub(crate) struct TailFirstDigest {
    /// Clusters that were added.
    added: u64,
    /// Complete siblings of the first cluster's path, the smallest first.
    siblings: Vec<ChainingValue>,
    /// Complete subtrees of the sibling being filled, the largest first.
    open: Vec<ChainingValue>,
}

impl TailFirstDigest {
    /// Adds the next cluster (only a file's last one may be short) and answers its chaining value.
    pub(crate) fn add(&mut self, cluster: &[u8]) -> ChainingValue {
        debug_assert!(!cluster.is_empty() && cluster.len() <= LEAF_LEN, "one cluster at a time");
        let value = chaining_value(cluster, HostOffset((self.added + 1) * LEAF_LEN as u64));
        self.added += 1;
        // The sibling that is being filled begins at a power of two, counted in clusters, and is as long.
        let begun = 1_u64 << self.added.ilog2();
        let mut filled = self.added - begun + 1;
        let mut folded = value;
        while filled.is_multiple_of(2) {
            let Some(left) = self.open.pop() else { break };
            folded = merge_subtrees_non_root(&left, &folded, Mode::Hash);
            filled /= 2;
        }
        self.open.push(folded);
        if self.added + 1 == begun * 2 {
            self.siblings.append(&mut self.open);
        }
        value
    }

    /// The digest of the whole, in hexadecimal. `head` is exactly the first cluster.
    ///
    /// # Panics
    /// When the head has another length, or nothing came after it: an image always has tables there.
    pub(crate) fn finish(mut self, head: &[u8]) -> String {
        assert_eq!(head.len(), LEAF_LEN, "the head of an image is one cluster");
        assert!(self.added > 0, "an image is more than its header");
        if let Some(mut last) = self.open.pop() {
            while let Some(left) = self.open.pop() {
                last = merge_subtrees_non_root(&left, &last, Mode::Hash);
            }
            self.siblings.push(last);
        }
        let mut left = chaining_value(head, HostOffset(0));
        let last = self.siblings.len() - 1;
        for sibling in &self.siblings[..last] {
            left = merge_subtrees_non_root(&left, sibling, Mode::Hash);
        }
        merge_subtrees_root(&left, &self.siblings[last], Mode::Hash).to_hex().to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equals_the_ordinary_digest_at_every_shape() {
        for extra in (1..=70).map(|n| n * LEAF_LEN).chain([1, 1023, 1024, 65535, 65537, 300_001, 3_000_000]) {
            let whole: Vec<u8> = (0..LEAF_LEN + extra).map(|i| u8::try_from(i * 31 % 251).unwrap()).collect();
            let mut digest = TailFirstDigest::default();
            whole[LEAF_LEN..].chunks(LEAF_LEN).for_each(|part| {
                digest.add(part);
            });
            let expected = blake3::hash(&whole).to_hex().to_string();
            assert_eq!(digest.finish(&whole[..LEAF_LEN]), expected, "{extra} bytes after the head");
        }
    }
}
