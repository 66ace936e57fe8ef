//! What differs between two states of a disk, block by block: the writes that a guest did in between.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, ensure};

/// A guest writes at least so much at a time.
const BLOCK: usize = 4096;

/// The granularity of change tracking, and the backup's cluster.
pub const CLUSTER: u64 = 64 << 10;

/// One write of a guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// Where on the disk, in bytes.
    pub offset: u64,
    /// What.
    pub content: Vec<u8>,
}

/// The writes that turn `before` into `after`, at most 1 MiB each, their offsets moved up by `shift` bytes (a
/// partition's start, where the two files are a partition's content).
///
/// # Errors
/// Where the files differ in size or cannot be read.
pub fn between(before: &Path, after: &Path, shift: u64) -> Result<Vec<Write>> {
    let (mut old, mut new) = (open(before)?, open(after)?);
    let size = old.metadata()?.len();
    ensure!(new.metadata()?.len() == size, "{} and {} differ in size", before.display(), after.display());
    let (mut a, mut b) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    let (mut writes, mut position) = (Vec::new(), 0);
    while position < size {
        let count = usize::try_from((size - position).min(a.len() as u64))?;
        old.read_exact(&mut a[..count])?;
        new.read_exact(&mut b[..count])?;
        if a[..count] != b[..count] {
            collect(&a[..count], &b[..count], shift + position, &mut writes);
        }
        position += count as u64;
    }
    Ok(writes)
}

fn collect(old: &[u8], new: &[u8], base: u64, writes: &mut Vec<Write>) {
    let mut run: Option<Write> = None;
    for (index, (x, y)) in old.chunks(BLOCK).zip(new.chunks(BLOCK)).enumerate() {
        if x == y {
            writes.extend(run.take());
            continue;
        }
        let offset = base + (index * BLOCK) as u64;
        run.get_or_insert_with(|| Write { offset, content: Vec::new() }).content.extend_from_slice(y);
    }
    writes.extend(run);
}

/// How many bytes the writes change when each is rounded to whole clusters: what an incremental has to move.
#[must_use]
pub fn rounded_to_clusters(writes: &[Write], capacity: u64) -> u64 {
    let mut clusters = BTreeSet::new();
    for write in writes.iter().filter(|write| !write.content.is_empty()) {
        let last = (write.offset + write.content.len() as u64 - 1) / CLUSTER;
        clusters.extend(write.offset / CLUSTER..=last);
    }
    clusters.into_iter().map(|cluster| CLUSTER.min(capacity - cluster * CLUSTER)).sum()
}

fn open(path: &Path) -> Result<File> {
    File::open(path).with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::RawDisk;

    #[test]
    fn the_writes_are_exactly_the_difference() {
        let folder = tempfile::tempdir().unwrap();
        let before = RawDisk::create(&folder.path().join("before"), 2 << 20).unwrap();
        let after = before.freeze(&folder.path().join("after")).unwrap();
        after.write(8192, &[7; 5000]).unwrap();
        after.write((2 << 20) - 1, &[7]).unwrap();
        let writes = between(before.path(), after.path(), 512).unwrap();
        let shapes: Vec<_> = writes.iter().map(|write| (write.offset, write.content.len())).collect();
        assert_eq!(shapes, [(8192 + 512, 8192), ((2 << 20) - 4096 + 512, 4096)]);
    }

    #[test]
    fn a_cluster_counts_once_and_the_last_one_is_short() {
        let write = |offset, length| Write { offset, content: vec![1; length] };
        let capacity = 2 * CLUSTER + 512;
        let writes = [write(0, 1), write(100, 1), write(CLUSTER - 1, 2), write(2 * CLUSTER, 512)];
        assert_eq!(rounded_to_clusters(&writes, capacity), capacity);
        assert_eq!(rounded_to_clusters(&writes[..2], capacity), CLUSTER);
    }
}
