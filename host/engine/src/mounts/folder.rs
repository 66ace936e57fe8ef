//! Folders on the way of a walk. What a guest's file system says leads nowhere without a bound: neither in circles, nor
//! deeper than people go, nor into paths that fill the host's memory.

use std::sync::Arc;

use super::path::below;
use crate::error::{Error, ErrorKind, Result};

/// Folders below folders that a search or an archive goes into.
const MAX_DEPTH: usize = 256;
/// The longest path.
const MAX_PATH: usize = 32 << 10;
/// What may wait to be looked at: as much as the largest folder has, and once more.
const MAX_WAITING: usize = 2 << 20;

/// A folder that is being walked, and those above it.
#[derive(Debug)]
pub(super) struct Folder {
    pub(super) path: String,
    node: u64,
    depth: usize,
    above: Option<Arc<Self>>,
}

impl Folder {
    /// Where a walk begins.
    pub(super) fn top(path: String, node: u64) -> Arc<Self> {
        Arc::new(Self { path, node, depth: 0, above: None })
    }

    /// A folder in this one.
    pub(super) fn inner(self: &Arc<Self>, name: &str, node: u64) -> Result<Arc<Self>> {
        let path = below(&self.path, name);
        let mut above = Some(self);
        while let Some(folder) = above {
            if folder.node == node {
                return Err(Error::damaged(format!("the folder '{path}' leads back to '{}'", folder.path)));
            }
            above = folder.above.as_ref();
        }
        if self.depth >= MAX_DEPTH || path.len() > MAX_PATH {
            let message =
                format!("'{}' is more than {MAX_DEPTH} folders or {MAX_PATH} bytes deep", self.path);
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        Ok(Arc::new(Self { path, node, depth: self.depth + 1, above: Some(Arc::clone(self)) }))
    }
}

/// That what waits still fits into memory.
pub(super) fn bounded<T>(waiting: &[T]) -> Result<()> {
    if waiting.len() <= MAX_WAITING {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Invalid,
        format!("more than {MAX_WAITING} files and folders at once; ask for less"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_walk_ends() {
        let top = Folder::top("/p".to_owned(), 1);
        let inner = top.inner("a", 2).unwrap();
        assert_eq!(inner.path, "/p/a");
        for node in [1, 2] {
            assert_eq!(inner.inner("b", node).unwrap_err().kind(), ErrorKind::Damaged);
        }
        let mut deep = inner;
        for node in 3..=257 {
            deep = deep.inner("x", node).unwrap();
        }
        assert_eq!(deep.inner("x", 999).unwrap_err().kind(), ErrorKind::Invalid);
        assert!(top.inner(&"n".repeat(MAX_PATH), 2).is_err());
        assert!(bounded(&[(); MAX_WAITING]).is_ok() && bounded(&[(); MAX_WAITING + 1]).is_err());
    }
}
