//! Address spaces and ranges. A guest offset counts bytes of the virtual disk, a host offset bytes of the file
//! that stores it; the types keep the two apart.

use std::fmt;

/// A position on the virtual disk, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct GuestOffset(pub u64);

/// A position in a stored object or image file, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct HostOffset(pub u64);

/// A length in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct ByteLen(pub u64);

impl fmt::Display for GuestOffset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "guest offset {}", self.0)
    }
}

impl fmt::Display for HostOffset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "host offset {}", self.0)
    }
}

impl fmt::Display for ByteLen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0)
    }
}

/// A non-empty or empty run of guest bytes: `[offset, offset + length)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Extent {
    /// Where it begins.
    pub offset: GuestOffset,
    /// How long it is.
    pub length: ByteLen,
}

/// Why a list of ranges from outside was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExtentError {
    /// `offset + length` does not fit in 64 bits.
    #[error("a range at {offset} of {length} bytes overflows the address space")]
    Overflow {
        /// Its offset in bytes.
        offset: u64,
        /// Its length in bytes.
        length: u64,
    },
    /// The range goes beyond the end of the disk.
    #[error("a range at {offset} of {length} bytes lies outside a disk of {capacity} bytes")]
    OutOfBounds {
        /// Its offset in bytes.
        offset: u64,
        /// Its length in bytes.
        length: u64,
        /// The disk's capacity in bytes.
        capacity: u64,
    },
    /// A range of no bytes.
    #[error("an empty range at {offset}")]
    Empty {
        /// Its offset in bytes.
        offset: u64,
    },
}

impl Extent {
    /// A range from plain numbers of bytes.
    ///
    /// # Errors
    /// [`ExtentError::Overflow`] when the end does not fit in 64 bits.
    pub fn new(offset: u64, length: u64) -> Result<Self, ExtentError> {
        if offset.checked_add(length).is_none() {
            return Err(ExtentError::Overflow { offset, length });
        }
        Ok(Self { offset: GuestOffset(offset), length: ByteLen(length) })
    }

    /// The first byte after the range.
    #[must_use]
    pub fn end(&self) -> GuestOffset {
        GuestOffset(self.offset.0 + self.length.0)
    }
}

/// Ranges in ascending order that neither overlap nor touch.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ExtentList(Vec<Extent>);

impl ExtentList {
    /// No range at all.
    #[must_use]
    pub fn empty() -> Self {
        Self::default()
    }

    /// The whole of a disk of `capacity` bytes.
    #[must_use]
    pub fn whole(capacity: ByteLen) -> Self {
        if capacity.0 == 0 {
            return Self::default();
        }
        Self(vec![Extent { offset: GuestOffset(0), length: capacity }])
    }

    /// Sorts and joins ranges from a foreign source and checks each against the disk's capacity.
    ///
    /// # Errors
    /// A range that is empty, overflows or goes beyond `capacity` is refused: a source that reports one cannot
    /// be believed on the others either.
    pub fn checked(mut ranges: Vec<Extent>, capacity: ByteLen) -> Result<Self, ExtentError> {
        for range in &ranges {
            let (offset, length) = (range.offset.0, range.length.0);
            if length == 0 {
                return Err(ExtentError::Empty { offset });
            }
            let end = offset.checked_add(length).ok_or(ExtentError::Overflow { offset, length })?;
            if end > capacity.0 {
                return Err(ExtentError::OutOfBounds { offset, length, capacity: capacity.0 });
            }
        }
        ranges.sort_unstable();
        Ok(Self(join(ranges)))
    }

    /// The ranges widened to multiples of `granularity` bytes and clipped to `capacity`.
    ///
    /// # Panics
    /// When `granularity` is zero.
    #[must_use]
    pub fn aligned(&self, granularity: u64, capacity: ByteLen) -> Self {
        assert!(granularity > 0, "a granularity of zero bytes");
        let widened = self.0.iter().filter_map(|range| {
            let start = range.offset.0 / granularity * granularity;
            let end = range.end().0.div_ceil(granularity).saturating_mul(granularity).min(capacity.0);
            (end > start).then(|| Extent { offset: GuestOffset(start), length: ByteLen(end - start) })
        });
        Self(join(widened.collect()))
    }

    /// What both lists have in common, in time linear in their lengths.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        let (mut left, mut right) = (0, 0);
        let mut common = Vec::new();
        while let (Some(a), Some(b)) = (self.0.get(left), other.0.get(right)) {
            let start = a.offset.max(b.offset);
            let end = a.end().min(b.end());
            if start < end {
                common.push(Extent { offset: start, length: ByteLen(end.0 - start.0) });
            }
            if a.end() <= b.end() {
                left += 1;
            } else {
                right += 1;
            }
        }
        Self(common)
    }

    /// What this list covers and the other does not, in time linear in their lengths.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Self {
        let mut rest = Vec::new();
        let mut cut = 0;
        for range in &self.0 {
            let mut start = range.offset;
            while other.0.get(cut).is_some_and(|hole| hole.end() <= start) {
                cut += 1;
            }
            let mut next = cut;
            while let Some(hole) = other.0.get(next).filter(|hole| hole.offset < range.end()) {
                if hole.offset > start {
                    rest.push(Extent { offset: start, length: ByteLen(hole.offset.0 - start.0) });
                }
                start = start.max(hole.end());
                next += 1;
            }
            if start < range.end() {
                rest.push(Extent { offset: start, length: ByteLen(range.end().0 - start.0) });
            }
        }
        Self(rest)
    }

    /// How many bytes the ranges cover.
    #[must_use]
    pub fn total(&self) -> ByteLen {
        ByteLen(self.0.iter().map(|range| range.length.0).sum())
    }

    /// The ranges in ascending order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Extent> + '_ {
        self.0.iter().copied()
    }

    /// How many ranges there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Joins neighbours of an ascending list that overlap or touch.
fn join(sorted: Vec<Extent>) -> Vec<Extent> {
    let mut joined: Vec<Extent> = Vec::with_capacity(sorted.len());
    for range in sorted {
        match joined.last_mut() {
            Some(last) if range.offset <= last.end() => {
                let end = last.end().max(range.end());
                last.length = ByteLen(end.0 - last.offset.0);
            }
            _ => joined.push(range),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(ranges: &[(u64, u64)]) -> ExtentList {
        let ranges = ranges.iter().map(|&(o, l)| Extent::new(o, l).unwrap()).collect();
        ExtentList::checked(ranges, ByteLen(1 << 40)).unwrap()
    }

    fn pairs(list: &ExtentList) -> Vec<(u64, u64)> {
        list.iter().map(|range| (range.offset.0, range.length.0)).collect()
    }

    #[test]
    fn ranges_are_sorted_and_joined() {
        assert_eq!(pairs(&list(&[(10, 5), (0, 4), (4, 2), (12, 8)])), [(0, 6), (10, 10)]);
    }

    #[test]
    fn a_range_beyond_the_disk_is_refused() {
        let range = Extent::new(90, 20).unwrap();
        let error = ExtentList::checked(vec![range], ByteLen(100)).unwrap_err();
        assert_eq!(error, ExtentError::OutOfBounds { offset: 90, length: 20, capacity: 100 });
        assert!(Extent::new(u64::MAX, 2).is_err());
    }

    #[test]
    fn alignment_widens_joins_and_clips() {
        let aligned = list(&[(1, 1), (65, 10), (150, 1)]).aligned(64, ByteLen(160));
        assert_eq!(pairs(&aligned), [(0, 160)]);
    }

    #[test]
    fn intersection_is_what_both_cover() {
        let common = list(&[(0, 10), (20, 10), (40, 5)]).intersection(&list(&[(5, 20), (42, 100)]));
        assert_eq!(pairs(&common), [(5, 5), (20, 5), (42, 3)]);
    }

    #[test]
    fn difference_is_what_only_the_first_covers() {
        let rest =
            list(&[(0, 10), (20, 10), (40, 5)]).difference(&list(&[(2, 3), (8, 14), (24, 1), (30, 50)]));
        assert_eq!(pairs(&rest), [(0, 2), (5, 3), (22, 2), (25, 5)]);
        let (a, b) = (list(&[(0, 100)]), list(&[(10, 10), (30, 10)]));
        assert_eq!(a.difference(&b).total().0 + a.intersection(&b).total().0, 100);
    }
}
