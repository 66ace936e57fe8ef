//! Exports in memory for the server under test.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex};

use tidemark_model::{ByteLen, Extent, GuestOffset};
use tidemark_nbd::{AllocationExtent, Export, ExportSource};

/// The size of the runs that `allocation` describes.
pub(crate) const RUN: usize = 64 << 10;

/// A disk in memory; runs of zeroes are holes.
pub(crate) struct MemoryExport(pub(crate) Vec<u8>);

impl Export for MemoryExport {
    fn size(&self) -> ByteLen {
        ByteLen(self.0.len() as u64)
    }

    fn read_at(&self, offset: GuestOffset, buffer: &mut [u8]) -> io::Result<()> {
        let start = usize::try_from(offset.0).unwrap();
        buffer.copy_from_slice(&self.0[start..start + buffer.len()]);
        Ok(())
    }

    fn allocation(&self, range: Extent) -> io::Result<Vec<AllocationExtent>> {
        let (mut at, end) =
            (usize::try_from(range.offset.0).unwrap(), usize::try_from(range.end().0).unwrap());
        let mut extents = Vec::new();
        while at < end {
            // Beyond the range on purpose: whole runs, clipped only by the disk's end.
            let next = (at / RUN * RUN + RUN).min(self.0.len());
            let length = ByteLen((next - at) as u64);
            let zero = self.0[at..next].iter().all(|byte| *byte == 0);
            extents.push(if zero { AllocationExtent::hole(length) } else { AllocationExtent::data(length) });
            at = next;
        }
        Ok(extents)
    }
}

/// Exports by name that may come and go.
#[derive(Default)]
pub(crate) struct Shelf(Mutex<HashMap<String, Arc<dyn Export>>>);

impl Shelf {
    pub(crate) fn with(name: &str, disk: Vec<u8>) -> Arc<Self> {
        let shelf = Arc::new(Self::default());
        shelf.put(name, disk);
        shelf
    }

    pub(crate) fn put(&self, name: &str, disk: Vec<u8>) {
        self.0.lock().unwrap().insert(name.to_owned(), Arc::new(MemoryExport(disk)));
    }

    pub(crate) fn remove(&self, name: &str) {
        self.0.lock().unwrap().remove(name);
    }
}

impl ExportSource for Shelf {
    fn find(&self, name: &str) -> Option<Arc<dyn Export>> {
        self.0.lock().unwrap().get(name).cloned()
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = self.0.lock().unwrap().keys().cloned().collect();
        names.sort();
        names
    }
}
