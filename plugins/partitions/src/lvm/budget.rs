//! How much a scan may cost, over all groups: a sandbox has 64 MiB, and a call may ask the host so often.

use std::cell::Cell;

use tidemark_plugin::{Error, Result};

/// What is left.
pub(crate) struct Budget {
    /// Runs of all maps, those of parts of volumes too.
    runs: Cell<usize>,
    /// Areas of segments that are looked at.
    areas: Cell<u32>,
    /// Reads of the disks.
    reads: Cell<u32>,
    /// Nodes of the trees of thin pools.
    nodes: Cell<u32>,
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            runs: Cell::new(1_000_000),
            areas: Cell::new(1_000_000),
            reads: Cell::new(40_000),
            nodes: Cell::new(200_000),
        }
    }
}

impl Budget {
    /// Whether so many more runs may be made; nothing is taken.
    ///
    /// # Errors
    /// Unsupported where they are too many.
    pub(crate) fn has_runs(&self, count: u64) -> Result<()> {
        match u64::try_from(self.runs.get()) {
            Ok(left) if left >= count => Ok(()),
            _ => Err(Error::unsupported("it lies in more pieces than can be kept in mind")),
        }
    }

    pub(crate) fn take_runs(&self, count: usize) -> Result<()> {
        self.has_runs(count as u64)?;
        self.runs.set(self.runs.get().saturating_sub(count));
        Ok(())
    }

    pub(crate) fn take_area(&self) -> Result<()> {
        take(&self.areas, "it is made of more parts than can be looked at")
    }

    pub(crate) fn take_read(&self) -> Result<()> {
        take(&self.reads, "the disks' volumes are more than can be looked at")
    }

    pub(crate) fn take_node(&self) -> Result<()> {
        take(&self.nodes, "the map of its thin pool is larger than can be looked at")
    }
}

fn take(left: &Cell<u32>, or: &str) -> Result<()> {
    left.set(left.get().checked_sub(1).ok_or_else(|| Error::unsupported(or))?);
    Ok(())
}
