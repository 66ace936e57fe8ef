//! A file's BLAKE3 digest from windows that are hashed on several threads, in whatever order they end.
//!
//! Each window of [`WINDOW`] bytes is a complete subtree of BLAKE3's tree (only the file's last one may be short), so
//! its chaining value is all that the file's digest needs of it. Memory is that of the windows which are ahead.

use std::collections::BTreeMap;

use blake3::hazmat::{ChainingValue, Mode, merge_subtrees_non_root, merge_subtrees_root};

/// The length of a window in bytes: a power of two, many clusters long.
pub(super) const WINDOW: u64 = 1 << 20;

/// The chaining value of what lies below consecutive subtrees of equal length, of which the last may be short.
pub(super) fn join(values: &[ChainingValue]) -> Option<ChainingValue> {
    match values {
        [] => None,
        [one] => Some(*one),
        several => {
            let (left, right) = several.split_at(several.len().next_power_of_two() / 2);
            Some(merge_subtrees_non_root(&join(left)?, &join(right)?, Mode::Hash))
        }
    }
}

/// The digest of a file of more than one window.
#[derive(Debug, Default)]
pub(super) struct WindowedDigest {
    /// Windows that came before an earlier one.
    early: BTreeMap<u64, ChainingValue>,
    /// Complete subtrees, the largest first, of `taken` windows.
    open: Vec<ChainingValue>,
    taken: u64,
    /// The newest window in order, which may be the last one.
    last: Option<ChainingValue>,
}

impl WindowedDigest {
    pub(super) fn add(&mut self, window: u64, value: ChainingValue) {
        self.early.insert(window, value);
        while let Some(next) = self.early.remove(&(self.taken + u64::from(self.last.is_some()))) {
            if let Some(before) = self.last.replace(next) {
                self.take(before);
            }
        }
    }

    fn take(&mut self, value: ChainingValue) {
        self.taken += 1;
        let (mut folded, mut filled) = (value, self.taken);
        while filled.is_multiple_of(2) {
            let Some(left) = self.open.pop() else { break };
            folded = merge_subtrees_non_root(&left, &folded, Mode::Hash);
            filled /= 2;
        }
        self.open.push(folded);
    }

    /// In hexadecimal; none where windows are missing or there is only one.
    pub(super) fn finish(mut self) -> Option<String> {
        let mut right = self.last.filter(|_| self.early.is_empty())?;
        let first = if self.open.is_empty() { return None } else { self.open.remove(0) };
        while let Some(left) = self.open.pop() {
            right = merge_subtrees_non_root(&left, &right, Mode::Hash);
        }
        Some(merge_subtrees_root(&first, &right, Mode::Hash).to_hex().to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::{LEAF_LEN, chaining_value};
    use tidemark_model::HostOffset;

    fn value(bytes: &[u8], at: usize) -> ChainingValue {
        let leaves: Vec<_> = bytes
            .chunks(LEAF_LEN)
            .zip(0..)
            .map(|(leaf, n): (_, usize)| chaining_value(leaf, HostOffset((at + n * LEAF_LEN) as u64)))
            .collect();
        join(&leaves).unwrap()
    }

    #[test]
    fn windows_in_any_order_make_the_ordinary_digest() {
        let window = usize::try_from(WINDOW).unwrap();
        for (count, rest) in [(1, 1), (2, 0), (2, 70_000), (3, 65_536), (5, 1023), (8, 0), (9, 300_001)] {
            let bytes: Vec<u8> =
                (0..count * window + rest).map(|i| u8::try_from(i * 31 % 251).unwrap()).collect();
            let mut parts: Vec<_> = bytes.chunks(window).zip(0_u64..).collect();
            parts.reverse();
            parts.swap(0, count / 2);
            let mut digest = WindowedDigest::default();
            for (part, number) in parts {
                digest.add(number, value(part, usize::try_from(number).unwrap() * window));
            }
            assert_eq!(
                digest.finish().unwrap(),
                blake3::hash(&bytes).to_hex().as_str(),
                "{count} and {rest}"
            );
        }
    }

    #[test]
    fn a_missing_window_makes_no_digest() {
        let mut digest = WindowedDigest::default();
        digest.add(0, [1; 32]);
        digest.add(2, [2; 32]);
        assert!(digest.finish().is_none());
        assert!(WindowedDigest::default().finish().is_none());
    }
}
