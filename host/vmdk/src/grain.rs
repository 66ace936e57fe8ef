//! Turning one grain of the guest into what stands in the file for it. Pure computation, meant to run on many
//! threads: each takes a clone of the writer's encoder and keeps its own deflate context.

use std::fmt;

use bytes::Bytes;
use flate2::{Compress, Compression, FlushCompress, Status};
use tidemark_model::GuestOffset;

use crate::format::{GRAIN_BYTES, GRAIN_MARKER, SECTOR, SECTOR_BYTES};

/// Deflate's fastest level: at this one a core already compresses more slowly than a disk reads.
const LEVEL: u32 = 1;

/// What the file has for one grain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedGrain {
    pub(crate) guest: GuestOffset,
    /// Marker, data and padding; nothing for a grain of zeros, which is not stored.
    pub(crate) sectors: Option<Bytes>,
}

impl EncodedGrain {
    /// Whether all bytes of the grain are zero, so that nothing is stored for it.
    #[must_use]
    pub fn is_zero(&self) -> bool {
        self.sectors.is_none()
    }
}

/// Encodes grains. A clone shares nothing with its origin, so that each thread has its own.
pub struct GrainEncoder {
    // Made on first use: a clone that never encodes costs nothing.
    context: Option<Compress>,
    sectors: Vec<u8>,
    last: Vec<u8>,
}

impl GrainEncoder {
    pub(crate) fn new() -> Self {
        Self { context: None, sectors: Vec::new(), last: Vec::new() }
    }

    /// Encodes up to one grain of guest bytes; a shorter one, the last of a disk, is filled up with zeros.
    ///
    /// # Panics
    /// When `grain` is longer than [`GRAIN_SIZE`](crate::GRAIN_SIZE).
    pub fn encode(&mut self, guest: GuestOffset, grain: &[u8]) -> EncodedGrain {
        assert!(grain.len() <= GRAIN_BYTES, "a grain of {} bytes", grain.len());
        if is_zero(grain) {
            return EncodedGrain { guest, sectors: None };
        }
        if grain.len() == GRAIN_BYTES {
            self.compress(guest, grain);
        } else {
            let mut last = std::mem::take(&mut self.last);
            last.clear();
            last.extend_from_slice(grain);
            last.resize(GRAIN_BYTES, 0);
            self.compress(guest, &last);
            self.last = last;
        }
        EncodedGrain { guest, sectors: Some(Bytes::copy_from_slice(&self.sectors)) }
    }

    /// Leaves marker, zlib stream (RFC 1950) and padding in `sectors`. What does not compress grows by some bytes;
    /// the format has no other way to store it.
    fn compress(&mut self, guest: GuestOffset, grain: &[u8]) {
        let context = self.context.get_or_insert_with(|| Compress::new(Compression::new(LEVEL), true));
        context.reset();
        self.sectors.resize(GRAIN_MARKER, 0);
        loop {
            self.sectors.reserve(GRAIN_BYTES + SECTOR_BYTES);
            // What was taken so far is less than a grain.
            let taken = usize::try_from(context.total_in()).unwrap_or(grain.len());
            let status = context.compress_vec(&grain[taken..], &mut self.sectors, FlushCompress::Finish);
            match status {
                Ok(Status::StreamEnd) => break,
                Ok(Status::Ok | Status::BufError) => {}
                // Only a wrong use of the context fails, and it was reset above.
                Err(error) => unreachable!("deflate: {error}"),
            }
        }
        // A grain of 64 KiB never deflates to more than a few hundred bytes above its size.
        let length = u32::try_from(self.sectors.len() - GRAIN_MARKER).unwrap_or(u32::MAX);
        self.sectors[..8].copy_from_slice(&(guest.0 / SECTOR).to_le_bytes());
        self.sectors[8..GRAIN_MARKER].copy_from_slice(&length.to_le_bytes());
        self.sectors.resize(self.sectors.len().next_multiple_of(SECTOR_BYTES), 0);
    }
}

impl Clone for GrainEncoder {
    fn clone(&self) -> Self {
        Self::new()
    }
}

impl fmt::Debug for GrainEncoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrainEncoder").finish_non_exhaustive()
    }
}

/// Data nearly always differs from zero in its first bytes, so the scan stops early there.
fn is_zero(bytes: &[u8]) -> bool {
    let (chunks, rest) = bytes.as_chunks::<256>();
    chunks.iter().all(|chunk| chunk.iter().fold(0, |seen, byte| seen | byte) == 0)
        && rest.iter().all(|&byte| byte == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;

    fn decoded(encoded: &EncodedGrain) -> (u64, Vec<u8>) {
        let sectors = encoded.sectors.as_ref().unwrap();
        assert!(sectors.len().is_multiple_of(512));
        let lba = u64::from_le_bytes(*sectors.first_chunk().unwrap());
        let length = u32::from_le_bytes(*sectors[8..].first_chunk().unwrap()) as usize;
        assert!(sectors[12 + length..].iter().all(|&byte| byte == 0) && sectors.len() - 12 - length < 512);
        let mut grain = Vec::new();
        flate2::read::ZlibDecoder::new(&sectors[12..12 + length]).read_to_end(&mut grain).unwrap();
        (lba, grain)
    }

    #[test]
    fn grains_come_back_whatever_they_hold() {
        let mut state = 1_u64;
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            state.to_be_bytes()[0]
        })
        .take(GRAIN_BYTES)
        .collect();
        let mut encoder = GrainEncoder::new();
        for grain in [noise.as_slice(), &[7; GRAIN_BYTES], &noise] {
            let (lba, back) = decoded(&encoder.encode(GuestOffset(3 * 65536), grain));
            assert_eq!(lba, 3 * 128);
            assert!(back == grain);
        }
        let (_, back) = decoded(&encoder.encode(GuestOffset(0), &noise[..512]));
        assert_eq!(back.len(), GRAIN_BYTES);
        assert!(back.starts_with(&noise[..512]) && is_zero(&back[512..]));
    }

    #[test]
    fn zeros_are_not_stored() {
        let mut encoder = GrainEncoder::new();
        assert!(encoder.encode(GuestOffset(0), &[0; GRAIN_BYTES]).is_zero());
        assert!(encoder.encode(GuestOffset(0), &[]).is_zero());
        let mut grain = [0; GRAIN_BYTES];
        grain[GRAIN_BYTES - 1] = 1;
        assert!(!encoder.encode(GuestOffset(0), &grain).is_zero());
    }
}
