//! The three compressions of data. What comes out beyond the wanted length is left out, and what is lacking is zeros, as the
//! format wants it.

use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::inflate_flags::{
    TINFL_FLAG_PARSE_ZLIB_HEADER, TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF,
};
use miniz_oxide::inflate::core::{DecompressorOxide, decompress};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};
use tidemark_plugin::fields::{index, le32, slice};
use tidemark_plugin::{Error, Result};

/// The most that is compressed together, and that it has afterwards.
pub(crate) const MOST: u64 = 128 << 10;

/// How data are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    Zlib,
    Lzo,
    Zstd,
}

impl Compression {
    /// By its number on disk; none for plain data.
    pub(crate) fn numbered(number: u8) -> Result<Option<Self>> {
        match number {
            0 => Ok(None),
            1 => Ok(Some(Self::Zlib)),
            2 => Ok(Some(Self::Lzo)),
            3 => Ok(Some(Self::Zstd)),
            _ => Err(Error::unsupported(format!("the unknown compression {number} is not read"))),
        }
    }

    /// What comes out of `packed`, `length` bytes.
    pub(crate) fn unpack(self, packed: &[u8], length: u64, sector: usize) -> Result<Vec<u8>> {
        if packed.len() as u64 > MOST || length > MOST {
            return Err(Error::corrupt(format!("{} bytes compressed from {length}", packed.len())));
        }
        let length = index(length)?;
        let mut into = match self {
            Self::Zlib => zlib(packed, length)?,
            Self::Lzo => lzo(packed, length, sector)?,
            Self::Zstd => zstd(packed, length)?,
        };
        into.resize(length, 0);
        Ok(into)
    }
}

fn zlib(packed: &[u8], length: usize) -> Result<Vec<u8>> {
    let mut into = vec![0; length];
    let flags = TINFL_FLAG_PARSE_ZLIB_HEADER | TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF;
    let (status, _, written) = decompress(&mut DecompressorOxide::new(), packed, &mut into, 0, flags);
    match status {
        TINFLStatus::Done => into.truncate(written),
        TINFLStatus::HasMoreOutput => {}
        _ => return Err(Error::corrupt(format!("what zlib compressed is damaged ({status:?})"))),
    }
    Ok(into)
}

/// The whole length, then pieces of one sector each behind their lengths, none of which lies across a sector's end.
fn lzo(packed: &[u8], length: usize, sector: usize) -> Result<Vec<u8>> {
    let damaged = || Error::corrupt("what LZO compressed is damaged");
    let packed = slice(packed, 0, index(u64::from(le32(packed, 0)?))?)?;
    let mut into = Vec::with_capacity(length);
    let mut piece = vec![0; sector];
    let mut at = 4;
    while into.len() < length && at < packed.len() {
        let left = sector - at % sector;
        if left < 4 {
            at += left;
            continue;
        }
        let count = index(u64::from(le32(packed, at)?))?;
        let bytes = slice(packed, at + 4, count)?;
        let written = lzokay::decompress::decompress(bytes, &mut piece).map_err(|_| damaged())?;
        let written = piece.get(..written.min(length - into.len())).ok_or_else(damaged)?;
        into.extend_from_slice(written);
        at += 4 + count;
    }
    Ok(into)
}

fn zstd(packed: &[u8], length: usize) -> Result<Vec<u8>> {
    let damaged = |error| Error::corrupt(format!("what zstd compressed is damaged ({error})"));
    let mut rest = packed;
    let mut into = Vec::with_capacity(length);
    let mut decoder = FrameDecoder::new();
    decoder.set_max_window_size(MOST);
    decoder.init(&mut rest).map_err(damaged)?;
    // Block by block, so that a few bytes do not become more than memory has.
    loop {
        let done = decoder.decode_blocks(&mut rest, BlockDecodingStrategy::UptoBlocks(1)).map_err(damaged)?;
        into.extend_from_slice(&decoder.collect().unwrap_or_default());
        if done || into.len() >= length {
            return Ok(into);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_damaged_is_an_error_or_as_long_as_wanted() {
        let mut state = 7_u64;
        for round in 0..3000_usize {
            let mut bytes: Vec<u8> = (0..round % 300)
                .map(|_| {
                    state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
                    (state >> 56) as u8
                })
                .collect();
            let length = u32::try_from(bytes.len()).unwrap().to_le_bytes();
            for (compression, head) in [
                (Compression::Zlib, &[0x78, 0x9c][..]),
                (Compression::Lzo, &length),
                (Compression::Zstd, &[0x28, 0xb5, 0x2f, 0xfd, 0, 0x38]),
            ] {
                for (byte, known) in bytes.iter_mut().zip(head) {
                    *byte = *known;
                }
                if let Ok(unpacked) = compression.unpack(&bytes, 5000, 4096) {
                    assert_eq!(unpacked.len(), 5000);
                }
            }
        }
        for compression in [Compression::Zlib, Compression::Lzo, Compression::Zstd] {
            assert!(compression.unpack(&[0; 8], MOST + 1, 4096).is_err());
            assert!(compression.unpack(&[], 10, 4096).is_err());
        }
    }

    #[test]
    fn few_bytes_of_zstd_do_not_fill_the_memory() {
        // A window of 128 KiB, and blocks that each repeat a byte as often.
        let mut bytes = vec![0x28, 0xb5, 0x2f, 0xfd, 0, 0x38];
        for _ in 0..10_000 {
            bytes.extend([0x02, 0, 0x10, b'x']);
        }
        assert_eq!(Compression::Zstd.unpack(&bytes, 5000, 4096).unwrap(), [b'x'; 5000]);
        // A window of 2 GiB.
        bytes[5] = 0xa8;
        assert!(Compression::Zstd.unpack(&bytes, 5000, 4096).is_err());
    }
}
