//! Two ways to give the nodes of a file system their numbers, so that a reader only says what is where: [`ByInode`] for those
//! whose file system numbers everything itself, [`ByPath`] for readers that go by paths.

mod inodes;
mod names;
mod paths;

use std::ops::Range;

use crate::guest_filesystem::{NodeKind, Stat};

pub use inodes::{ByInode, InodeReader};
pub use names::Names;
pub use paths::{ByPath, PathReader};

/// What one listing may have.
const MAX_ENTRIES: usize = 1 << 20;
/// The most that one page has.
const MAX_PAGE: u32 = 10_000;

/// What is known of a file, a directory or a link, but for its number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileStat {
    /// What it is.
    pub kind: NodeKind,
    /// Its size.
    pub size_bytes: u64,
    /// Nanoseconds since 1970.
    pub modified_ns: Option<i64>,
    /// Likewise.
    pub created_ns: Option<i64>,
    /// Likewise.
    pub accessed_ns: Option<i64>,
    /// Unix permission bits.
    pub mode: Option<u32>,
    /// The owner, as the file system names it.
    pub owner: Option<String>,
    /// The group.
    pub group: Option<String>,
    /// How many names it has; 0 where the reader cannot tell.
    pub links: u32,
}

impl FileStat {
    /// Something of which no more is known than what it is.
    #[must_use]
    pub const fn of(kind: NodeKind) -> Self {
        Self {
            kind,
            size_bytes: 0,
            modified_ns: None,
            created_ns: None,
            accessed_ns: None,
            mode: None,
            owner: None,
            group: None,
            links: 0,
        }
    }

    /// What is shown of something that is too damaged to be described: that it is there.
    pub const UNREADABLE: Self = Self::of(NodeKind::Other);
}

/// Seconds since 1970 with their nanoseconds, as the contract counts; none beyond the years 1677 to 2262.
#[must_use]
pub fn nanoseconds(seconds: i64, nanoseconds: u32) -> Option<i64> {
    i64::try_from(i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds)).ok()
}

fn stat_of(node: u64, stat: FileStat) -> Stat {
    let FileStat { kind, size_bytes, modified_ns, created_ns, accessed_ns, mode, owner, group, links } = stat;
    Stat { node, kind, size_bytes, modified_ns, created_ns, accessed_ns, mode, owner, group, links }
}

/// The places of one page of a listing of `count` entries, and the cursor of the next; none after the last.
fn page_of(count: usize, cursor: u64, limit: u32) -> (Range<usize>, Option<u64>) {
    let start = usize::try_from(cursor).unwrap_or(usize::MAX).min(count);
    let limit = usize::try_from(limit.min(MAX_PAGE)).unwrap_or(usize::MAX);
    let end = start.saturating_add(limit).min(count);
    (start..end, (end < count && end > start).then_some(end as u64))
}
