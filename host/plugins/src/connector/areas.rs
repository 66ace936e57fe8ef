//! The changed-areas loop without the guest: pages in, one checked list out. Not looping to the end has silently
//! corrupted backups elsewhere, so a page that claims too much or too little is an error, never a guess.

use tidemark_model::{ByteLen, Extent, ExtentList};

/// A terabyte of one-cluster pages; no honest guest needs more.
const MAX_PAGES: usize = 1 << 20;
const MAX_EXTENTS: usize = 1 << 24;

/// What was gathered so far.
pub(super) struct Areas {
    capacity: ByteLen,
    complete_to: u64,
    pages: usize,
    extents: Vec<Extent>,
}

impl Areas {
    pub(super) fn new(capacity: ByteLen) -> Self {
        Self { capacity, complete_to: 0, pages: 0, extents: Vec::new() }
    }

    /// From where the next page is asked; none once the whole disk is covered. Asking at the capacity itself is an
    /// error for vSphere.
    pub(super) fn next_start(&self) -> Option<u64> {
        (self.complete_to < self.capacity.0).then_some(self.complete_to)
    }

    /// Takes a page that was asked from [`Areas::next_start`].
    pub(super) fn add(
        &mut self,
        page: impl ExactSizeIterator<Item = (u64, u64)>,
        complete_to: u64,
    ) -> Result<(), String> {
        let (start, capacity) = (self.complete_to, self.capacity.0);
        if complete_to <= start {
            return Err(format!(
                "the page from {start} is complete only to {complete_to}: it does not advance"
            ));
        }
        if complete_to > capacity {
            return Err(format!("a page complete to {complete_to} on a disk of {capacity} bytes"));
        }
        self.pages += 1;
        if self.pages > MAX_PAGES || self.extents.len() + page.len() > MAX_EXTENTS {
            return Err("more pages or extents than any disk has".to_owned());
        }
        let mut before = start;
        for (offset, length) in page {
            let end = offset.checked_add(length).filter(|&end| length > 0 && end <= complete_to);
            let Some(end) = end.filter(|_| offset >= before) else {
                return Err(format!(
                    "an extent of {length} bytes at {offset}, after {before} and in a page from {start} to \
                     {complete_to}: empty, out of order, overlapping or outside"
                ));
            };
            self.extents.push(Extent::new(offset, length).map_err(|error| error.to_string())?);
            before = end;
        }
        self.complete_to = complete_to;
        Ok(())
    }

    pub(super) fn finish(self) -> Result<ExtentList, String> {
        ExtentList::checked(self.extents, self.capacity).map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_joined_to_the_end() {
        let mut areas = Areas::new(ByteLen(100));
        areas.add([(0, 10), (20, 5)].into_iter(), 50).unwrap();
        assert_eq!(areas.next_start(), Some(50));
        areas.add([].into_iter(), 60).unwrap();
        areas.add([(60, 40)].into_iter(), 100).unwrap();
        assert_eq!(areas.next_start(), None);
        assert_eq!(areas.finish().unwrap().total(), ByteLen(55));
        assert_eq!(Areas::new(ByteLen(0)).next_start(), None);
    }

    #[test]
    fn nonsense_is_refused() {
        let cases: [(&[(u64, u64)], u64); 9] = [
            (&[(20, 5), (0, 10)], 100),
            (&[(0, 10), (5, 10)], 100),
            (&[(90, 20)], 100),
            (&[(60, 5)], 50),
            (&[(10, 0)], 100),
            (&[(u64::MAX, 2)], 100),
            (&[(45, 10)], 50),
            (&[], 0),
            (&[], 101),
        ];
        for (extents, complete_to) in cases {
            let mut areas = Areas::new(ByteLen(100));
            assert!(areas.add(extents.iter().copied(), complete_to).is_err(), "{extents:?} to {complete_to}");
        }
        let mut areas = Areas::new(ByteLen(100));
        areas.add([].into_iter(), 50).unwrap();
        assert!(areas.add([(40, 5)].into_iter(), 100).is_err(), "before its page");
    }
}
