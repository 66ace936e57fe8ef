//! LZNT1, the compression of NTFS ([MS-XCA] 2.5): chunks of 4 KiB, each with its own window.

use tidemark_plugin::fields::{byte, le16, slice};
use tidemark_plugin::{Error, Result};

const CHUNK: usize = 4096;

/// Exactly `length` bytes out of compressed ones. What a chunk or the whole is short of is zeros, as the format has it.
pub(crate) fn decompress(compressed: &[u8], length: usize) -> Result<Vec<u8>> {
    let mut output = Vec::with_capacity(length);
    let mut at = 0;
    while output.len() < length {
        // The end is a header of zero, or of which there is no room.
        let header = le16(compressed, at).unwrap_or(0);
        if header == 0 {
            break;
        }
        let size = usize::from(header & 0xfff) + 1;
        let chunk = slice(compressed, at + 2, size)?;
        at += 2 + size;
        let start = output.len();
        if header & 0x8000 == 0 {
            output.extend_from_slice(chunk);
        } else {
            expand(chunk, &mut output)?;
        }
        if output.len() > start + CHUNK {
            return Err(Error::corrupt("a compressed chunk has more than 4096 bytes"));
        }
        output.resize(start + CHUNK, 0);
    }
    output.resize(length, 0);
    Ok(output)
}

/// Appends the bytes of one chunk.
fn expand(chunk: &[u8], output: &mut Vec<u8>) -> Result<()> {
    let start = output.len();
    let mut at = 0;
    while at < chunk.len() {
        let flags = byte(chunk, at)?;
        at += 1;
        for bit in 0..8 {
            if at >= chunk.len() {
                break;
            }
            if flags >> bit & 1 == 0 {
                output.push(byte(chunk, at)?);
                at += 1;
                continue;
            }
            let pair = le16(chunk, at)?;
            at += 2;
            let done = output.len() - start;
            // The further into the chunk, the more bits the distance has.
            let mut distance_bits = 4;
            while 1 << distance_bits < done && distance_bits < 12 {
                distance_bits += 1;
            }
            let distance = usize::from(pair >> (16 - distance_bits)) + 1;
            let length = usize::from(pair & 0xffff >> distance_bits) + 3;
            if distance > done || done + length > CHUNK {
                return Err(Error::corrupt("compressed data refer to what is not there"));
            }
            for _ in 0..length {
                let byte = output.get(output.len() - distance).copied().unwrap_or(0);
                output.push(byte);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_the_specification_is_read() {
        // [MS-XCA] 3.3: "F# F# G A# F# …" of its LZNT1 example.
        let compressed = [
            0x38, 0xb0, 0x88, 0x46, 0x23, 0x20, 0x00, 0x20, 0x47, 0x20, 0x41, 0x00, 0x10, 0xa2, 0x47, 0x01,
            0xa0, 0x45, 0x20, 0x44, 0x00, 0x08, 0x45, 0x01, 0x50, 0x79, 0x00, 0xc0, 0x45, 0x20, 0x05, 0x24,
            0x13, 0x88, 0x05, 0xb4, 0x02, 0x4a, 0x44, 0xef, 0x03, 0x58, 0x02, 0x8c, 0x09, 0x16, 0x01, 0x48,
            0x45, 0x00, 0xbe, 0x00, 0x9e, 0x00, 0x04, 0x01, 0x18, 0x90, 0x00,
        ];
        let text = decompress(&compressed, 142).unwrap();
        assert!(text.starts_with(b"F# F# G A A G F# E D D E F# F# E E F# F# G A A G F# E D D E F# E D D"));
    }

    #[test]
    fn wrong_pairs_are_damage_and_short_chunks_end_in_zeros() {
        assert_eq!(decompress(&[0, 0], 10).unwrap(), [0; 10]);
        assert_eq!(decompress(&[1, 0x30, b'a', b'b'], 5).unwrap(), *b"ab\0\0\0");
        // A pair before any byte; a chunk that is cut off.
        assert!(decompress(&[2, 0xb0, 1, 0, 0], 10).is_err());
        assert!(decompress(&[9, 0xb0, 0], 10).is_err());
        // One byte and then 4096 more of it.
        assert!(decompress(&[3, 0xb0, 2, b'a', 0xff, 0x0f], 4096).is_err());
    }
}
