//! Random damage to valid images, ours and qemu's: bytes flipped, files cut. Opening, mapping, reading and checking
//! may fail, but never panic, hang or take much memory. A binary of its own, so that the process's peak is its own.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on has failed"
)]

use std::process::Command;
use std::sync::Arc;

use bytes::Bytes;
use tidemark_model::{ByteLen, Extent, GuestOffset};
use tidemark_qcow2::{
    BackingFile, Chain, Compression, Image, ImageSpec, ImageWriter, MergeLayout, Merger, check,
};

const CLUSTER: usize = 65536;
const ROUNDS: usize = 1500;
/// Address space the whole run may add. The caches of a chain alone may take 48 MiB.
const MEMORY_KIB: u64 = 400 << 10;

/// A small deterministic generator: a failure names its round and comes again.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % below.max(1)
    }
}

fn disk() -> Vec<u8> {
    let mut dice = Dice(7);
    (0..12 * CLUSTER)
        .map(|at| if at / CLUSTER % 3 == 2 { dice.roll(256) } else { dice.roll(4) })
        .map(|byte| u8::try_from(byte).unwrap())
        .collect()
}

fn own_image(compression: Compression, backing: bool) -> Vec<u8> {
    let disk = disk();
    let backing = backing.then(|| BackingFile { name: "base".to_owned(), format: "qcow2".to_owned() });
    let spec = ImageSpec { virtual_size: ByteLen(disk.len() as u64), compression, backing };
    let mut writer = ImageWriter::new(spec).unwrap();
    let mut encoder = writer.encoder();
    for (index, cluster) in disk.chunks(CLUSTER).enumerate() {
        let cluster = encoder.encode(Bytes::copy_from_slice(cluster));
        writer.push(GuestOffset((index * CLUSTER) as u64), cluster).unwrap();
    }
    let mut file = writer.take_output().concat();
    let image = writer.finish().unwrap();
    file.extend(image.tail.concat());
    file[..CLUSTER].copy_from_slice(&image.header);
    file
}

fn qemu_image(options: &str) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let (raw, image) = (folder.path().join("raw"), folder.path().join("image"));
    std::fs::write(&raw, disk()).unwrap();
    let status = Command::new("qemu-img")
        .args(["convert", "-f", "raw", "-O", "qcow2", "-c", "-o", options])
        .args([&raw, &image])
        .status()
        .unwrap();
    assert!(status.success());
    std::fs::read(image).unwrap()
}

/// Where the tables are: damage there does more than in data.
fn tables(image: &[u8]) -> Vec<usize> {
    let word = |at: usize| {
        let bytes = image.get(at..at + 8).unwrap();
        usize::try_from(u64::from_be_bytes(bytes.try_into().unwrap()) & 0x00ff_ffff_ffff_fe00).unwrap()
    };
    let (l1, refcounts) = (word(40), word(48));
    vec![0, 0, l1, word(l1), word(l1), refcounts, word(refcounts)]
}

fn damage(image: &[u8], places: &[usize], dice: &mut Dice) -> Vec<u8> {
    let mut bytes = image.to_vec();
    if dice.roll(6) == 0 {
        bytes.truncate(dice.roll(image.len()));
    }
    for _ in 0..=dice.roll(6) {
        let at = match dice.roll(4) {
            0 => dice.roll(bytes.len()),
            _ => places[dice.roll(places.len())] + dice.roll(130),
        };
        if let Some(byte) = bytes.get_mut(at) {
            *byte = match dice.roll(3) {
                0 => *byte ^ (1 << dice.roll(8)),
                1 => 0xff,
                _ => u8::try_from(dice.roll(256)).unwrap(),
            };
        }
    }
    bytes
}

/// Everything a caller does with an image. Returns whether it was read to the end.
fn use_image(bytes: Vec<u8>, base: &Image) -> bool {
    let Ok(image) = Image::open(Arc::new(bytes)) else { return false };
    let _ = check(&image);
    let layers = match image.backing_name() {
        Some(_) => vec![image, base.clone()],
        None => vec![image],
    };
    merge_layers(&layers);
    let Ok(chain) = Chain::new(layers) else { return false };
    let size = chain.virtual_size().0;
    let window = size.min(1 << 20);
    let mut buffer = vec![0; usize::try_from(window).unwrap()];
    let mut good = true;
    for offset in [0, size - window] {
        good &= chain.map(Extent::new(offset, window).unwrap()).is_ok();
        good &= chain.read_at(GuestOffset(offset), &mut buffer).is_ok();
    }
    good && chain.map(Extent::new(0, size.min(1 << 36)).unwrap()).is_ok()
}

/// Merges what can be merged; the result does not matter, a panic would.
fn merge_layers(layers: &[Image]) {
    for layout in [MergeLayout::Packed, MergeLayout::Shared] {
        let Ok(mut merger) = Merger::new(layers.to_vec(), None, layout) else { return };
        // Damage that makes a disk of exabytes also makes a merge of as many zeros.
        if layers[0].virtual_size().0 > 1 << 36 {
            return;
        }
        while let Ok(Some(_)) = merger.next() {}
        let _ = merger.finish();
    }
}

fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmPeak:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn damaged_images_fail_cleanly() {
    let samples = [
        own_image(Compression::None, false),
        own_image(Compression::Zstd { level: 1 }, false),
        own_image(Compression::Zstd { level: 1 }, true),
        qemu_image("compat=0.10,cluster_size=512"),
        qemu_image("compat=1.1,cluster_size=4096,compression_type=zlib"),
        qemu_image("compat=1.1,cluster_size=2M,compression_type=zstd"),
    ];
    let base = Image::open(Arc::new(samples[0].clone())).unwrap();
    for sample in &samples {
        assert!(use_image(sample.clone(), &base), "a sample is bad before any damage");
    }
    let before = peak_kib();
    let mut dice = Dice(0x7469_6465);
    let mut survived = 0;
    for round in 0..ROUNDS {
        let sample = &samples[round % samples.len()];
        let bytes = damage(sample, &tables(sample), &mut dice);
        survived += usize::from(use_image(bytes, &base));
    }
    // Damage that hits nothing that is read is survived, most is not: both must occur, or nothing was tested.
    assert!(
        survived > ROUNDS / 50 && survived < ROUNDS * 9 / 10,
        "{survived} of {ROUNDS} were read to the end"
    );
    let grown = peak_kib() - before;
    assert!(grown < MEMORY_KIB, "the process grew by {grown} KiB");
}
