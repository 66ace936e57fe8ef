//! Where the bytes of a file lie.

use super::CachedDisk;
use crate::fields::index;
use crate::{Error, Result};

/// Bytes of a file that lie together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// Where in the file they begin.
    pub start: u64,
    /// How many they are.
    pub length: u64,
    /// Where on the disk; none for bytes that were never written, which read as zeros.
    pub at: Option<u64>,
}

/// A file as its runs, in order. What no run has is a hole, and reads as zeros.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Runs(Vec<Run>);

impl Runs {
    /// The runs in any order.
    ///
    /// # Errors
    /// Corrupt where two have the same bytes of the file, or one has impossible ones.
    pub fn new(mut runs: Vec<Run>) -> Result<Self> {
        runs.retain(|run| run.length > 0);
        runs.sort_by_key(|run| run.start);
        let mut end = 0;
        for run in &runs {
            if run.start < end {
                return Err(Error::corrupt(format!("byte {} of a file lies in two places", run.start)));
            }
            let past = |start: u64| start.checked_add(run.length);
            end = past(run.start).ok_or_else(|| Error::corrupt("a file that ends beyond all bounds"))?;
            if run.at.is_some_and(|at| past(at).is_none()) {
                return Err(Error::corrupt("a part of a file lies beyond all bounds"));
            }
        }
        // Few calls are better than many small ones.
        runs.dedup_by(|next, last| {
            let follows = last.start + last.length == next.start
                && match (last.at, next.at) {
                    (Some(last_at), Some(at)) => last_at + last.length == at,
                    (last_at, at) => last_at == at,
                };
            if follows {
                last.length += next.length;
            }
            follows
        });
        Ok(Self(runs))
    }

    /// All of them, by their place in the file.
    #[must_use]
    pub fn as_slice(&self) -> &[Run] {
        &self.0
    }

    /// Fills `into` with what the file has at `offset`.
    ///
    /// # Errors
    /// Corrupt where a run leads beyond the disk; what the disk says.
    pub fn read(&self, disk: &CachedDisk, offset: u64, into: &mut [u8]) -> Result<()> {
        let wanted = offset.checked_add(into.len() as u64);
        let wanted = wanted.ok_or_else(|| Error::corrupt("a range beyond all bounds"))?;
        let mut at = offset;
        for run in self.0.get(self.first(offset)..).unwrap_or_default() {
            if run.start >= wanted {
                break;
            }
            fill(into, offset, at, run.start.max(at))?.fill(0);
            at = run.start.max(at);
            let end = (run.start + run.length).min(wanted);
            let part = fill(into, offset, at, end)?;
            match run.at {
                Some(on_disk) => disk.read(on_disk + (at - run.start), part)?,
                None => part.fill(0),
            }
            at = end;
        }
        fill(into, offset, at, wanted)?.fill(0);
        Ok(())
    }

    /// The first offset at or after `offset` that is not in a hole, in a file of `size` bytes; none where there is none.
    #[must_use]
    pub fn next_data(&self, offset: u64, size: u64) -> Option<u64> {
        let runs = self.0.get(self.first(offset)..).unwrap_or_default();
        let run = runs.iter().find(|run| run.at.is_some())?;
        Some(run.start.max(offset)).filter(|found| *found < size)
    }

    /// The runs from `offset` on as the contract's `placement` tells them, in a file of `size` bytes of which those from `written`
    /// on read as zeros.
    #[cfg(feature = "guest-filesystem")]
    #[must_use]
    pub fn placed(&self, offset: u64, written: u64, size: u64) -> Vec<crate::placement::Run> {
        let (mut placed, mut at) = (Vec::new(), offset);
        let mut add = |until: u64, lies: Option<u64>| {
            if until > at && placed.len() < crate::placement::MOST_RUNS {
                placed.push(crate::placement::Run { length: until - at, offset: lies });
                at = until;
            }
            at
        };
        let written = written.min(size);
        for run in self.0.get(self.first(offset)..).unwrap_or_default() {
            let at = add(run.start.min(written), None);
            let lies = run.at.map(|on_disk| on_disk.saturating_add(at.saturating_sub(run.start)));
            if at >= run.start {
                add((run.start + run.length).min(written), lies);
            }
        }
        add(size, None);
        placed
    }

    /// How many bytes of a range of the file lie somewhere.
    #[must_use]
    pub fn allocated(&self, range: std::ops::Range<u64>) -> u64 {
        let runs = self.0.get(self.first(range.start)..).unwrap_or_default();
        let inside = runs.iter().take_while(|run| run.start < range.end).filter(|run| run.at.is_some());
        inside.map(|run| (run.start + run.length).min(range.end) - run.start.max(range.start)).sum()
    }

    /// The first run that ends after an offset.
    fn first(&self, offset: u64) -> usize {
        self.0.partition_point(|run| run.start + run.length <= offset)
    }
}

/// The part of `into`, which begins at `offset` of the file, from one place of the file to another.
fn fill(into: &mut [u8], offset: u64, from: u64, to: u64) -> Result<&mut [u8]> {
    let (from, to) = (index(from - offset)?, index(to.saturating_sub(offset))?);
    Ok(into.get_mut(from..to).unwrap_or_default())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on fails by panicking")]
mod tests {
    use super::*;

    fn run(start: u64, length: u64, at: Option<u64>) -> Run {
        Run { start, length, at }
    }

    fn disk() -> CachedDisk {
        CachedDisk::over(256, |offset, length| {
            (offset..offset + u64::from(length))
                .map(|at| u8::try_from(at).map_err(|_| Error::corrupt("beyond")))
                .collect()
        })
    }

    #[test]
    fn a_file_is_its_runs_and_zeros_between() {
        // Out of order, with a hole at 10..20, a run that was never written at 30..40 and nothing after 50.
        let runs = vec![
            run(20, 10, Some(200)),
            run(0, 10, Some(100)),
            run(30, 10, None),
            run(45, 5, Some(25)),
            run(40, 5, Some(20)),
        ];
        let runs = Runs::new(runs).unwrap();
        assert_eq!(runs.as_slice().len(), 4, "two were one");
        let mut expected: Vec<u8> = (100..110).collect();
        expected.extend([0; 10]);
        expected.extend(200..210);
        expected.extend([0; 10]);
        expected.extend(20..30);
        expected.extend([0; 10]);
        for start in 0..60 {
            for end in start..60 {
                let mut into = vec![9; end - start];
                runs.read(&disk(), start as u64, &mut into).unwrap();
                assert_eq!(into, expected[start..end], "{start}..{end}");
            }
        }
        let next = |offset| runs.next_data(offset, 60);
        assert_eq!([next(0), next(12), next(29), next(33), next(49)], [0, 20, 29, 40, 49].map(Some));
        assert_eq!([runs.allocated(5..25), runs.allocated(30..40), runs.allocated(0..99)], [10, 0, 30]);
        assert_eq!((next(50), runs.next_data(45, 42), Runs::default().next_data(0, 9)), (None, None, None));
    }

    #[cfg(feature = "guest-filesystem")]
    #[test]
    fn placed_runs_give_what_is_read() {
        let runs = Runs::new(vec![run(0, 10, Some(100)), run(20, 10, Some(200)), run(30, 5, None)]).unwrap();
        for (offset, written, size) in
            [(0, 60, 60), (0, 25, 60), (5, 28, 28), (12, 60, 40), (22, 23, 50), (60, 60, 60)]
        {
            let mut expected = vec![0; (size - offset) as usize];
            runs.read(&disk(), offset, &mut expected).unwrap();
            let unwritten = (written - offset.min(written)).min(size - offset) as usize;
            expected[unwritten..].fill(0);
            let mut got = Vec::new();
            for crate::placement::Run { length, offset } in runs.placed(offset, written, size) {
                assert!(length > 0);
                let bytes =
                    (0..length).map(|byte| offset.map_or(0, |offset| u8::try_from(offset + byte).unwrap()));
                got.extend(bytes);
            }
            assert_eq!(got, expected, "{offset} {written} {size}");
        }
        let many = Runs::new((0..20_000).map(|at| run(2 * at, 1, Some(7 * at))).collect()).unwrap();
        let placed = many.placed(1, u64::MAX, 40_000);
        assert_eq!((placed.len(), placed[0].offset, placed[1].offset), (10_000, None, Some(7)));
    }

    #[test]
    fn what_cannot_be_is_damage() {
        assert!(Runs::new(vec![run(0, 10, None), run(9, 2, None)]).is_err());
        assert!(Runs::new(vec![run(u64::MAX, 2, None)]).is_err());
        assert!(Runs::new(vec![run(0, 2, Some(u64::MAX))]).is_err());
        let beyond = Runs::new(vec![run(0, 10, Some(250))]).unwrap();
        assert!(beyond.read(&disk(), 0, &mut [0; 10]).is_err());
        assert!(beyond.read(&disk(), u64::MAX, &mut [0; 10]).is_err());
        beyond.read(&disk(), 0, &mut [0; 6]).unwrap();
    }
}
