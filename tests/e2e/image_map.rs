//! Where the parts of a stored QCOW2 image lie, read by its format's specification and not by the product's reader.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use tidemark_tests::changes::CLUSTER;

const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
const COMPRESSED: u64 = 1 << 62;

/// An image of 64 KiB clusters, in memory.
pub(crate) struct ImageMap {
    bytes: Vec<u8>,
}

/// A cluster that the image stores.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stored {
    /// The guest's cluster.
    pub(crate) guest: u64,
    /// Where its bytes begin in the file.
    pub(crate) host: u64,
    pub(crate) compressed: bool,
}

impl ImageMap {
    pub(crate) fn read(image: &Path) -> Result<Self> {
        Ok(Self { bytes: fs::read(image).with_context(|| image.display().to_string())? })
    }

    pub(crate) fn l1(&self) -> Result<u64> {
        self.word(40)
    }

    /// The first L2 table.
    pub(crate) fn l2(&self) -> Result<u64> {
        Ok(self.word(self.l1()?)? & OFFSET)
    }

    /// The first refcount block.
    pub(crate) fn refcounts(&self) -> Result<u64> {
        self.word(self.word(48)?)
    }

    /// The clusters of the first L2 table that hold data.
    pub(crate) fn stored(&self) -> Result<Vec<Stored>> {
        let (table, mut found) = (self.l2()?, Vec::new());
        for guest in 0..CLUSTER / 8 {
            let entry = self.word(table + guest * 8)?;
            let compressed = entry & COMPRESSED != 0;
            // 64 KiB clusters leave 54 bits for the offset of compressed data.
            let host = if compressed { entry & ((1 << 54) - 1) } else { entry & OFFSET };
            if host != 0 {
                found.push(Stored { guest, host, compressed });
            }
        }
        Ok(found)
    }

    /// Where the guest's cluster is stored in this way.
    pub(crate) fn cluster(&self, guest: u64, compressed: bool) -> Result<Stored> {
        let found = self.stored()?.into_iter().find(|cluster| cluster.guest == guest);
        let found = found.filter(|cluster| cluster.compressed == compressed);
        found.with_context(|| format!("guest cluster {guest} is not stored as it should be"))
    }

    fn word(&self, at: u64) -> Result<u64> {
        let at = usize::try_from(at)?;
        let bytes = self.bytes.get(at..at + 8).context("beyond the image")?;
        Ok(u64::from_be_bytes(bytes.try_into()?))
    }
}
