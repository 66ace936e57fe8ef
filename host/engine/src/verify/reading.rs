//! Reads of whole windows that leave the page cache as they found it: what was there stays, what was not goes again.
//! A sector that the medium cannot give is a finding, not the end of the work.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::num::NonZeroU64;
use std::os::unix::fs::FileExt as _;

use rustix::fs::Advice;
use rustix::io::ReadWriteFlags;

use crate::digest::LEAF_LEN;
use crate::error::is_bad_medium;

/// Fills `buffer` from `offset` on and answers the offsets, within it, of the clusters that could not be read; they
/// are zeros.
///
/// # Errors
/// Whatever is not the medium's fault.
pub(super) fn read_window(file: &File, offset: u64, buffer: &mut [u8]) -> io::Result<Vec<usize>> {
    let cached = read_cached(file, offset, buffer);
    if cached == buffer.len() {
        return Ok(Vec::new());
    }
    let rest = &mut buffer[cached..];
    let unreadable = match file.read_exact_at(rest, offset + cached as u64) {
        Ok(()) => Vec::new(),
        Err(error) if is_bad_medium(&error) => read_piecewise(file, offset, buffer)?,
        Err(error) => return Err(error),
    };
    // Refused or not: it only keeps the cache for others.
    let _ = rustix::fs::fadvise(file, offset, NonZeroU64::new(buffer.len() as u64), Advice::DontNeed);
    Ok(unreadable)
}

/// How many bytes from the beginning on are in memory already; they are in the buffer then.
fn read_cached(file: &File, offset: u64, buffer: &mut [u8]) -> usize {
    let read = rustix::io::preadv2(file, &mut [IoSliceMut::new(buffer)], offset, ReadWriteFlags::NOWAIT);
    read.unwrap_or(0)
}

fn read_piecewise(file: &File, offset: u64, buffer: &mut [u8]) -> io::Result<Vec<usize>> {
    let mut unreadable = Vec::new();
    for (number, part) in buffer.chunks_mut(LEAF_LEN).enumerate() {
        let at = number * LEAF_LEN;
        match file.read_exact_at(part, offset + at as u64) {
            Ok(()) => {}
            Err(error) if is_bad_medium(&error) => {
                part.fill(0);
                unreadable.push(at);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(unreadable)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::Errno;

    #[test]
    fn a_window_is_read_whether_or_not_it_is_in_memory() {
        let file = tempfile::tempfile().unwrap();
        let bytes: Vec<u8> = (0..300_000_u32).map(|n| u8::try_from(n % 251).unwrap()).collect();
        file.write_all_at(&bytes, 0).unwrap();
        file.sync_all().unwrap();
        for advice in [Advice::WillNeed, Advice::DontNeed] {
            rustix::fs::fadvise(&file, 0, None, advice).unwrap();
            let mut buffer = vec![0; 200_000];
            assert!(read_window(&file, 65_536, &mut buffer).unwrap().is_empty());
            assert_eq!(buffer, &bytes[65_536..265_536]);
        }
    }

    #[test]
    fn only_what_the_medium_lost_is_its_fault() {
        let medium = io::Error::from_raw_os_error(Errno::IO.raw_os_error());
        assert!(is_bad_medium(&medium));
        assert!(is_bad_medium(&crate::Error::io("reading", medium)));
        assert!(!is_bad_medium(&io::Error::from_raw_os_error(Errno::STALE.raw_os_error())));
        assert!(!is_bad_medium(&crate::Error::cancelled()));
    }
}
