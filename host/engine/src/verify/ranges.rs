//! Damaged guest ranges: clusters as they are found, in any order, joined to ranges.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tidemark_model::{ByteLen, Extent, ExtentList, GuestOffset};

/// More ranges than this become one from the first to the last: then nearly everything is damaged.
const MAX_RANGES: usize = 65_536;
/// Ranges told in a result; beyond them only the numbers grow.
const TOLD: usize = 64;

/// Ranges that neither overlap nor touch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct DamagedRanges(BTreeMap<u64, u64>);

impl DamagedRanges {
    pub(super) fn add(&mut self, range: Extent) {
        let (mut start, mut end) = (range.offset.0, range.end().0);
        if let Some((&before, &reaches)) = self.0.range(..=start).next_back()
            && reaches >= start
        {
            start = before;
            end = end.max(reaches);
        }
        while let Some((&next, &reaches)) = self.0.range(start..=end).next() {
            end = end.max(reaches);
            self.0.remove(&next);
        }
        self.0.insert(start, end);
        if self.0.len() > MAX_RANGES {
            let last = self.0.values().next_back().copied().unwrap_or(end);
            let first = self.0.keys().next().copied().unwrap_or(start);
            self.0 = BTreeMap::from([(first, last)]);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// As a list, cut off at the disk's end.
    pub(super) fn list(&self, capacity: ByteLen) -> ExtentList {
        let ranges = self.0.iter().filter(|(start, _)| **start < capacity.0).map(|(&start, &end)| Extent {
            offset: GuestOffset(start),
            length: ByteLen(end.min(capacity.0) - start),
        });
        ExtentList::checked(ranges.collect(), capacity).unwrap_or_default()
    }
}

/// Ranges in words: the first few and how many there are.
pub(super) fn in_words(ranges: &ExtentList) -> String {
    const NAMED: usize = 4;
    let mut named: Vec<String> =
        ranges.iter().take(NAMED).map(|range| format!("{}..{}", range.offset.0, range.end().0)).collect();
    if ranges.len() > NAMED {
        named.push(format!("… ({} ranges)", ranges.len()));
    }
    format!("guest bytes {} ({} in all)", named.join(", "), ranges.total())
}

/// Ranges for a document: a bounded list.
pub(super) fn document(ranges: &ExtentList) -> Value {
    let told = ranges.iter().take(TOLD);
    told.map(|range| json!({ "offset": range.offset.0, "length": range.length.0 })).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(ranges: &DamagedRanges) -> Vec<(u64, u64)> {
        ranges.0.iter().map(|(&start, &end)| (start, end)).collect()
    }

    #[test]
    fn neighbours_join_whatever_the_order() {
        let mut ranges = DamagedRanges::default();
        for (offset, length) in [(50, 10), (10, 10), (30, 10), (20, 10), (60, 5), (55, 1)] {
            ranges.add(Extent::new(offset, length).unwrap());
        }
        assert_eq!(pairs(&ranges), [(10, 40), (50, 65)]);
        ranges.add(Extent::new(0, 100).unwrap());
        assert_eq!(pairs(&ranges), [(0, 100)]);
        assert_eq!(ranges.list(ByteLen(64)).total(), ByteLen(64));
        assert!(ranges.list(ByteLen(0)).is_empty());
    }

    #[test]
    fn what_cannot_be_listed_any_more_is_one_range() {
        let mut ranges = DamagedRanges::default();
        for number in 0..=MAX_RANGES as u64 {
            ranges.add(Extent::new(number * 4, 2).unwrap());
        }
        assert_eq!(pairs(&ranges), [(0, MAX_RANGES as u64 * 4 + 2)]);
    }

    #[test]
    fn many_ranges_are_told_in_few_words() {
        let list = |count: u64| {
            let ranges = (0..count).map(|n| Extent::new(n * 20, 10).unwrap()).collect();
            ExtentList::checked(ranges, ByteLen(1 << 20)).unwrap()
        };
        assert_eq!(in_words(&list(1)), "guest bytes 0..10 (10 bytes in all)");
        assert!(in_words(&list(100)).contains("(100 ranges)"));
        assert_eq!(document(&list(100)).as_array().unwrap().len(), TOLD);
    }
}
