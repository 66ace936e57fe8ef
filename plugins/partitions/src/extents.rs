//! Where the bytes of a volume lie: runs on the disks, one after the other.

use tidemark_plugin::guest_filesystem::Mapped;
use tidemark_plugin::{Error, Result};

use crate::bytes::Bytes;

/// The runs of a volume in their order; neighbours that are one run on their disk are joined.
#[derive(Debug, Default, Clone)]
pub(crate) struct Map {
    runs: Vec<Mapped>,
    /// Where each run ends in the volume.
    ends: Vec<u64>,
}

impl Map {
    /// One run.
    pub(crate) fn of(run: Mapped) -> Self {
        Self { ends: vec![run.length], runs: vec![run] }
    }

    /// The volume's size.
    pub(crate) fn length(&self) -> u64 {
        self.ends.last().copied().unwrap_or(0)
    }

    /// How many runs there are.
    pub(crate) fn count(&self) -> usize {
        self.runs.len()
    }

    /// The last run.
    pub(crate) fn last(&self) -> Option<Mapped> {
        self.runs.last().copied()
    }

    /// The runs alone.
    pub(crate) fn into_runs(self) -> Vec<Mapped> {
        self.runs
    }

    /// Adds a run at the end; one without a length adds nothing.
    ///
    /// # Errors
    /// Corrupt where the volume becomes larger than any.
    pub(crate) fn push(&mut self, run: Mapped) -> Result<()> {
        if run.length == 0 {
            return Ok(());
        }
        let end =
            self.length().checked_add(run.length).ok_or_else(|| Error::corrupt("a volume without an end"))?;
        if let (Some(last), Some(last_end)) = (self.runs.last_mut(), self.ends.last_mut())
            && last.disk_index == run.disk_index
            && last.offset.checked_add(last.length) == Some(run.offset)
        {
            last.length += run.length;
            *last_end = end;
        } else {
            self.runs.push(run);
            self.ends.push(end);
        }
        Ok(())
    }

    /// The runs of a range, in their order.
    ///
    /// # Errors
    /// Corrupt where the range leads beyond the end.
    pub(crate) fn cut(&self, offset: u64, length: u64) -> Result<impl Iterator<Item = Mapped> + '_> {
        let end = offset.checked_add(length).filter(|end| *end <= self.length());
        let end = end.ok_or_else(|| {
            Error::corrupt(format!("{length} bytes at {offset} of a volume of {}", self.length()))
        })?;
        let first = self.ends.partition_point(|end| *end <= offset);
        let found = self.runs.iter().zip(&self.ends).skip(first).map(move |(run, run_end)| {
            let start = run_end - run.length;
            let (from, to) = (offset.max(start), end.min(*run_end));
            Mapped {
                offset: run.offset + from.saturating_sub(start),
                length: to.saturating_sub(from),
                ..*run
            }
        });
        Ok(found.take_while(|run| run.length > 0))
    }
}

/// A volume as it is read.
pub(crate) struct View<'a, D> {
    pub(crate) disks: &'a [D],
    pub(crate) map: &'a Map,
}

impl<D: Bytes> Bytes for View<'_, D> {
    fn size(&self) -> u64 {
        self.map.length()
    }

    fn read(&self, offset: u64, length: u32) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        for run in self.map.cut(offset, u64::from(length))? {
            let disk = usize::try_from(run.disk_index).ok().and_then(|index| self.disks.get(index));
            let disk = disk.ok_or_else(|| Error::corrupt(format!("there is no disk {}", run.disk_index)))?;
            let count = u32::try_from(run.length).map_err(|_| Error::corrupt("a run that is too long"))?;
            let found = disk.read_inside(run.offset, count)?;
            bytes.append(&mut found.ok_or_else(|| Error::corrupt("a run beyond the end of its disk"))?);
        }
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(disk_index: u32, offset: u64, length: u64) -> Mapped {
        Mapped { disk_index, offset, length }
    }

    #[test]
    fn runs_are_joined_cut_and_read() {
        let mut map = Map::default();
        for piece in [run(0, 4, 2), run(0, 6, 2), run(1, 0, 3), run(1, 9, 0), run(1, 5, 1)] {
            map.push(piece).unwrap();
        }
        assert_eq!((map.count(), map.length()), (3, 8));
        let cut = |offset, length| map.cut(offset, length).map(Iterator::collect::<Vec<_>>);
        assert_eq!(cut(1, 4).unwrap(), [run(0, 5, 3), run(1, 0, 1)]);
        assert_eq!(cut(7, 1).unwrap(), [run(1, 5, 1)]);
        assert_eq!(cut(8, 0).unwrap(), []);
        assert!(cut(7, 2).is_err() && cut(u64::MAX, 2).is_err());
        let disks = [b"abcdefgh".to_vec(), b"ABCDEFGH".to_vec()];
        let view = View { disks: &disks, map: &map };
        assert_eq!(view.read(1, 7).unwrap(), b"fghABCF");
        assert_eq!(view.read_inside(1, 8).unwrap(), None);
        assert!(map.push(run(0, 0, u64::MAX)).is_err());
    }
}
