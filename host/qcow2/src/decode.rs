//! Decoding compressed clusters, zlib and zstd, into exactly one cluster. The input may be followed by whatever
//! fills its last sector; a frame may ask for no more memory than a small window.

use flate2::{Decompress, FlushDecompress};
use zstd::zstd_safe::{DCtx, DParameter, InBuffer, OutBuffer, ResetDirective, get_error_name};

use crate::error::{Error, Result};
use crate::header::CompressionType;

/// Largest zstd window accepted, log2 of bytes: four of the largest clusters. A frame that claims more is damaged.
const WINDOW_LOG_MAX: u32 = 23;

/// Reusable decoding contexts of one thread.
pub(crate) struct Decoder {
    zstd: Option<DCtx<'static>>,
    zlib: Option<Decompress>,
}

impl Decoder {
    pub(crate) fn new() -> Self {
        Self { zstd: None, zlib: None }
    }

    /// Fills `cluster` from compressed bytes.
    pub(crate) fn decode(&mut self, kind: CompressionType, input: &[u8], cluster: &mut [u8]) -> Result<()> {
        match kind {
            CompressionType::Zstd => self.decode_zstd(input, cluster),
            CompressionType::Zlib => self.decode_zlib(input, cluster),
        }
    }

    fn decode_zstd(&mut self, input: &[u8], cluster: &mut [u8]) -> Result<()> {
        let failed = |code| Error::corrupt(format!("a compressed cluster: {}", get_error_name(code)));
        let context = match &mut self.zstd {
            Some(context) => context,
            None => {
                let mut context = DCtx::try_create().ok_or_else(|| Error::unsupported("no zstd context"))?;
                context.set_parameter(DParameter::WindowLogMax(WINDOW_LOG_MAX)).map_err(failed)?;
                self.zstd.insert(context)
            }
        };
        context.reset(ResetDirective::SessionOnly).map_err(failed)?;
        let mut source = InBuffer::around(input);
        let mut target = OutBuffer::around(cluster);
        loop {
            let before = (source.pos(), target.pos());
            let remaining = context.decompress_stream(&mut target, &mut source).map_err(failed)?;
            if remaining == 0 {
                break;
            }
            if (source.pos(), target.pos()) == before {
                return Err(Error::corrupt("a compressed cluster is cut short, or longer than a cluster"));
            }
        }
        let decoded = target.pos();
        if decoded != cluster.len() {
            return Err(Error::corrupt(format!("a compressed cluster of {decoded} bytes")));
        }
        Ok(())
    }

    fn decode_zlib(&mut self, input: &[u8], cluster: &mut [u8]) -> Result<()> {
        let context = self.zlib.get_or_insert_with(|| Decompress::new(false));
        context.reset(false);
        // qemu takes a full cluster as success whether or not the end mark was reached; so does this.
        let result = context.decompress(input, cluster, FlushDecompress::Finish);
        let decoded = context.total_out();
        if decoded == cluster.len() as u64 {
            return Ok(());
        }
        let reason = result.err().map_or_else(|| "cut short".to_owned(), |error| error.to_string());
        Err(Error::corrupt(format!("a compressed cluster of {decoded} bytes: {reason}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zstd(bytes: &[u8]) -> Vec<u8> {
        zstd::bulk::compress(bytes, 3).unwrap()
    }

    #[test]
    fn garbage_after_the_frame_does_no_harm() {
        let mut frame = zstd(&[7; 4096]);
        frame.extend_from_slice(&[0xaa; 300]);
        let mut cluster = [0; 4096];
        Decoder::new().decode(CompressionType::Zstd, &frame, &mut cluster).unwrap();
        assert_eq!(cluster, [7; 4096]);
    }

    #[test]
    fn a_frame_of_another_length_than_a_cluster_is_corrupt() {
        let mut decoder = Decoder::new();
        for length in [4095, 4097, 100_000] {
            let frame = zstd(&vec![7; length]);
            assert!(decoder.decode(CompressionType::Zstd, &frame, &mut [0; 4096]).is_err(), "{length} bytes");
        }
        let frame = zstd(&[7; 4096]);
        assert!(decoder.decode(CompressionType::Zstd, &frame[..frame.len() - 1], &mut [0; 4096]).is_err());
        // The context is as good as new afterwards.
        decoder.decode(CompressionType::Zstd, &frame, &mut [0; 4096]).unwrap();
    }

    #[test]
    fn a_frame_cannot_ask_for_a_huge_window() {
        use std::io::Write;
        let mut encoder = zstd::stream::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(27).unwrap();
        encoder.write_all(&[1; 4096]).unwrap();
        let frame = encoder.finish().unwrap();
        let error = Decoder::new().decode(CompressionType::Zstd, &frame, &mut [0; 4096]).unwrap_err();
        assert!(error.to_string().contains("memory"), "{error}");
    }
}
