//! The BLAKE3 digest of an image whose first cluster is written last, in one pass over the bytes.
//!
//! BLAKE3 is a binary tree over 1 KiB chunks, so the first 64 KiB form one complete subtree. Its siblings on the
//! way to the root cover `[64 KiB·2^k, 64 KiB·2^(k+1))`; each is hashed as it streams by, and the first cluster's
//! subtree is folded with them at the end. The result is the ordinary digest that `b3sum` prints.
//! Source of the tree's shape: the BLAKE3 paper, section 2.1.

use blake3::Hasher;
use blake3::hazmat::{ChainingValue, HasherExt as _, Mode, merge_subtrees_non_root, merge_subtrees_root};

/// The length of the part that comes last, in bytes.
pub(crate) const HEAD_LEN: u64 = 65536;

/// Hashes a file given first from `HEAD_LEN` to its end, then its head.
pub(crate) struct TailFirstDigest {
    position: u64,
    sibling_end: u64,
    current: Hasher,
    siblings: Vec<ChainingValue>,
}

impl TailFirstDigest {
    pub(crate) fn new() -> Self {
        Self {
            position: HEAD_LEN,
            sibling_end: HEAD_LEN * 2,
            current: hasher_at(HEAD_LEN),
            siblings: Vec::new(),
        }
    }

    /// The next bytes after the head.
    pub(crate) fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.position == self.sibling_end {
                self.siblings.push(self.current.finalize_non_root());
                self.current = hasher_at(self.position);
                self.sibling_end *= 2;
            }
            let room = usize::try_from(self.sibling_end - self.position).unwrap_or(usize::MAX);
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.current.update(now);
            self.position += now.len() as u64;
            bytes = later;
        }
    }

    /// The digest of the whole, in hexadecimal. `head` is exactly the first cluster.
    ///
    /// # Panics
    /// When the head has another length, or nothing came after it: an image always has tables there.
    pub(crate) fn finish(mut self, head: &[u8]) -> String {
        assert_eq!(head.len() as u64, HEAD_LEN, "the head of an image is one cluster");
        assert!(self.position > HEAD_LEN, "an image is more than its header");
        self.siblings.push(self.current.finalize_non_root());
        let mut left = Hasher::new().update(head).finalize_non_root();
        let last = self.siblings.len() - 1;
        for sibling in &self.siblings[..last] {
            left = merge_subtrees_non_root(&left, sibling, Mode::Hash);
        }
        merge_subtrees_root(&left, &self.siblings[last], Mode::Hash).to_hex().to_string()
    }
}

fn hasher_at(offset: u64) -> Hasher {
    let mut hasher = Hasher::new();
    hasher.set_input_offset(offset);
    hasher
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equals_the_ordinary_digest_at_every_shape() {
        let head_len = usize::try_from(HEAD_LEN).unwrap();
        for extra in [1, 1023, 1024, 65535, 65536, 65537, 131_072, 196_608, 300_001, 1_048_576, 3_000_000] {
            let whole: Vec<u8> = (0..head_len + extra).map(|i| u8::try_from(i * 31 % 251).unwrap()).collect();
            for step in [977, 65536, 1 << 20] {
                let mut digest = TailFirstDigest::new();
                whole[head_len..].chunks(step).for_each(|part| digest.update(part));
                let expected = blake3::hash(&whole).to_hex().to_string();
                assert_eq!(digest.finish(&whole[..head_len]), expected, "{extra} bytes after the head");
            }
        }
    }
}
