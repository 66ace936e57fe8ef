//! How fast clusters are encoded and read back on this machine: `cargo run --release --example encoder_throughput`.
//! Prints MiB of guest data a second; asserts nothing.

use std::io::Write;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use tidemark_model::{ByteLen, GuestOffset};
use tidemark_qcow2::{CLUSTER_SIZE, Chain, Compression, Image, ImageSpec, ImageWriter, Result};

const CLUSTERS: u64 = 4096;

/// A kind of data: random bits in, one byte out.
type Kind = fn(u64) -> u8;

fn main() -> Result<()> {
    let kinds: [(&str, Kind); 3] = [
        ("zeros", |_| 0),
        // Words of a small alphabet with runs: about what a system disk's files compress to.
        ("text", |state| if state & 0x30 == 0 { b' ' } else { b'a' + (state >> 60).to_le_bytes()[0] % 8 }),
        ("noise", |state| (state >> 56).to_le_bytes()[0]),
    ];
    for (name, byte) in kinds {
        let clusters: Vec<Bytes> = (0..64).map(|seed| cluster(seed, byte)).collect();
        for compression in [Compression::None, Compression::Zstd { level: 1 }, Compression::Zstd { level: 3 }]
        {
            measure(name, &clusters, compression)?;
        }
    }
    Ok(())
}

fn cluster(seed: u64, byte: Kind) -> Bytes {
    let mut state = seed.wrapping_add(1);
    (0..CLUSTER_SIZE)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            byte(state)
        })
        .collect()
}

fn measure(name: &str, clusters: &[Bytes], compression: Compression) -> Result<()> {
    let size = ByteLen(CLUSTERS * CLUSTER_SIZE);
    let mut writer = ImageWriter::new(ImageSpec { virtual_size: size, compression, backing: None })?;
    let mut encoder = writer.encoder();
    let mut file = Vec::new();
    let started = Instant::now();
    for (index, cluster) in (0..CLUSTERS).zip(clusters.iter().cycle()) {
        let encoded = encoder.encode(cluster.clone());
        writer.push(GuestOffset(index * CLUSTER_SIZE), encoded)?;
        file.append(&mut writer.take_output());
    }
    let image = writer.finish()?;
    let encoding = started.elapsed().as_secs_f64();

    file.extend(image.tail);
    let mut bytes = file.concat();
    bytes[..image.header.len()].copy_from_slice(&image.header);
    let chain = Chain::new(vec![Image::open(Arc::new(bytes))?])?;
    let mut buffer = vec![0; 1 << 20];
    let started = Instant::now();
    for offset in (0..size.0).step_by(buffer.len()) {
        chain.read_at(GuestOffset(offset), &mut buffer)?;
    }
    let reading = started.elapsed().as_secs_f64();
    let mib = f64::from(u32::try_from(size.0 >> 20).unwrap_or(u32::MAX));
    let stored = image.file_size.0 >> 20;
    // A closed pipe is no reason to fail a measurement.
    let _ = writeln!(
        std::io::stdout(),
        "{name:6} {:24} encode+write {:7.0} MiB/s   read {:7.0} MiB/s   {mib} → {stored} MiB",
        format!("{compression:?}"),
        mib / encoding,
        mib / reading,
    );
    Ok(())
}
