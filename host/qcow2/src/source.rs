//! Where an image's bytes come from: a file, memory, or whatever the caller reads objects with.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use tidemark_model::{ByteLen, HostOffset};

/// Positioned reads, safe from many threads at once.
pub trait ReadAt: Send + Sync {
    /// Fills the whole buffer from `offset` on.
    ///
    /// # Errors
    /// `UnexpectedEof` when the source ends before the buffer is full; anything else as the source has it.
    fn read_at(&self, offset: HostOffset, buffer: &mut [u8]) -> io::Result<()>;

    /// How many bytes the source has.
    ///
    /// # Errors
    /// As the source has it.
    fn size(&self) -> io::Result<ByteLen>;
}

impl ReadAt for File {
    fn read_at(&self, offset: HostOffset, buffer: &mut [u8]) -> io::Result<()> {
        self.read_exact_at(buffer, offset.0)
    }

    fn size(&self) -> io::Result<ByteLen> {
        Ok(ByteLen(self.metadata()?.len()))
    }
}

impl ReadAt for Vec<u8> {
    fn read_at(&self, offset: HostOffset, buffer: &mut [u8]) -> io::Result<()> {
        let start = usize::try_from(offset.0).map_err(|_| io::ErrorKind::UnexpectedEof)?;
        let end = start.checked_add(buffer.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        let bytes = self.get(start..end).ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(bytes);
        Ok(())
    }

    fn size(&self) -> io::Result<ByteLen> {
        Ok(ByteLen(self.len() as u64))
    }
}
