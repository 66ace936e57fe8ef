//! Byte streams of any kind behind one type, so that negotiation may swap a plain one for TLS in the middle.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};

/// A stream that reads and writes.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// A TCP, Unix or TLS stream.
pub(crate) type Stream = Box<dyn Duplex>;

/// Reads exactly `N` bytes.
pub(crate) async fn read_array<const N: usize>(source: &mut (impl AsyncRead + Unpin)) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    source.read_exact(&mut bytes).await?;
    Ok(bytes)
}

/// Reads exactly `length` bytes into fresh memory that grows with what has really arrived, so that a lying
/// length costs the liar the bytes.
pub(crate) async fn read_growing(
    source: &mut (impl AsyncRead + Unpin),
    length: usize,
) -> io::Result<Vec<u8>> {
    const FIRST: usize = 64 << 10;
    let mut bytes = Vec::with_capacity(length.min(FIRST));
    let read = source.take(length as u64).read_to_end(&mut bytes).await?;
    if read < length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(bytes)
}
