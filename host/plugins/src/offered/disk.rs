//! Read-only disks for file-system readers, every access checked against the disk's end.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;

use tidemark_model::{ByteLen, GuestOffset};

use crate::bindings::host::tidemark::plugin::disk::Host;
use crate::bindings::host::tidemark::plugin::types;
use crate::state::{State, guest_error};

/// What one read may give at most.
pub(crate) const MAX_READ_BYTES: u32 = 1 << 20;

/// A read that is under way.
pub type DiskRead<'a> = Pin<Box<dyn Future<Output = io::Result<Vec<u8>>> + Send + 'a>>;

/// Something that is read like a disk: a chain of images, or a file in tests.
pub trait ReadOnlyDisk: Send + Sync {
    /// Its size.
    fn size(&self) -> ByteLen;
    /// Exactly `length` bytes from `offset`; the range lies inside the disk.
    fn read_at(&self, offset: GuestOffset, length: u32) -> DiskRead<'_>;
    /// A hint that this range, which lies inside the disk, is read soon.
    fn read_ahead(&self, _offset: GuestOffset, _length: ByteLen) {}
}

impl State {
    fn disk(&self, index: u32) -> Result<Arc<dyn ReadOnlyDisk>, types::Error> {
        usize::try_from(index).ok().and_then(|index| self.disks.get(index)).map(Arc::clone).ok_or_else(|| {
            guest_error(types::ErrorKind::NotFound, format!("there is no disk {index} in this session"))
        })
    }
}

impl Host for State {
    async fn size(&mut self, index: u32) -> wasmtime::Result<Result<u64, types::Error>> {
        self.spend(1)?;
        Ok(self.disk(index).map(|disk| disk.size().0))
    }

    async fn read_at(
        &mut self,
        index: u32,
        offset: u64,
        length: u32,
    ) -> wasmtime::Result<Result<Vec<u8>, types::Error>> {
        self.spend(1)?;
        let disk = match self.disk(index) {
            Ok(disk) => disk,
            Err(error) => return Ok(Err(error)),
        };
        let size = disk.size().0;
        let inside = offset.checked_add(u64::from(length)).is_some_and(|end| end <= size);
        if length > MAX_READ_BYTES || !inside {
            let message = format!("{length} bytes at {offset} of a disk of {size} bytes cannot be read");
            return Ok(Err(guest_error(types::ErrorKind::Corrupt, message)));
        }
        let read = disk.read_at(GuestOffset(offset), length).await;
        Ok(match read {
            Ok(bytes) if u32::try_from(bytes.len()) == Ok(length) => Ok(bytes),
            Ok(bytes) => {
                let message = format!("the disk gave {} bytes instead of {length}", bytes.len());
                Err(guest_error(types::ErrorKind::Unavailable, message))
            }
            Err(error) => Err(guest_error(types::ErrorKind::Unavailable, error.to_string())),
        })
    }

    async fn read_ahead(&mut self, index: u32, offset: u64, length: u64) -> wasmtime::Result<()> {
        self.spend(1)?;
        if let Ok(disk) = self.disk(index) {
            let size = disk.size().0;
            if offset < size {
                disk.read_ahead(GuestOffset(offset), ByteLen(length.min(size - offset)));
            }
        }
        Ok(())
    }
}
