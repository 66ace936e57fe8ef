//! Random guests: writes, zeroes, discards and resizes over chains of up to six images, compared byte by byte
//! between a model in memory, our reader, and qemu-img.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;
use tempfile::TempDir;
use tidemark_model::{Extent, GuestOffset, HostOffset};
use tidemark_qcow2::{CLUSTER_SIZE, Chain, Compression, ImageWriter, MappingKind, ReadAt};

use crate::images::{
    CLUSTER, Sink, assert_clean, assert_qemu_reads, noise, open_chain, prose, read_all, spec,
};

/// What the guest does to its disk, in permille of its size, so that it fits whatever the size is.
#[derive(Debug, Clone)]
enum Guest {
    Write { at: u64, length: usize, seed: u64, compressible: bool },
    Zero { at: u64, length: usize },
    Discard { at: u64, length: usize },
}

#[derive(Debug, Clone)]
struct Layer {
    sectors: u64,
    compression: Compression,
    steps: Vec<Guest>,
}

fn guest() -> impl Strategy<Value = Guest> {
    let length = prop_oneof![1..2000_usize, Just(CLUSTER), 1..6 * CLUSTER];
    (0..1000_u64, length, 1..u64::MAX, 0..4_u8).prop_map(|(at, length, seed, kind)| match kind {
        0 => Guest::Zero { at, length },
        1 => Guest::Discard { at, length },
        kind => Guest::Write { at, length, seed, compressible: kind == 2 },
    })
}

fn layer() -> impl Strategy<Value = Layer> {
    let compression =
        prop_oneof![Just(Compression::None), (1..6_i32).prop_map(|level| Compression::Zstd { level })];
    let sectors = prop_oneof![1..4000_u64, (1..30_u64).prop_map(|clusters| clusters * 128), Just(2500)];
    (sectors, compression, proptest::collection::vec(guest(), 0..8))
        .prop_map(|(sectors, compression, steps)| Layer { sectors, compression, steps })
}

/// Which clusters changed, and which of those are known to be zero without reading.
#[derive(Default)]
struct Changed {
    written: BTreeSet<usize>,
    discarded: BTreeSet<usize>,
}

fn apply(disk: &mut [u8], step: &Guest, changed: &mut Changed) {
    let (Guest::Write { at, length, .. } | Guest::Zero { at, length } | Guest::Discard { at, length }) = step;
    let start = usize::try_from(*at).unwrap() * disk.len() / 1000;
    let end = (start + length).min(disk.len());
    match step {
        Guest::Write { seed, compressible: true, .. } => {
            disk[start..end].copy_from_slice(&prose(*seed, end - start))
        }
        Guest::Write { seed, .. } => disk[start..end].copy_from_slice(&noise(*seed, end - start)),
        Guest::Zero { .. } | Guest::Discard { .. } => disk[start..end].fill(0),
    }
    for index in start / CLUSTER..end.div_ceil(CLUSTER) {
        let whole = start <= index * CLUSTER && ((index + 1) * CLUSTER).min(disk.len()) <= end;
        if matches!(step, Guest::Discard { .. }) && whole {
            changed.written.remove(&index);
            changed.discarded.insert(index);
        } else {
            changed.discarded.remove(&index);
            changed.written.insert(index);
        }
    }
}

/// Writes what changed as a backup would: data pushed, discarded ranges zeroed, the rest left to the backing file.
fn write_layer(path: &Path, layer: &Layer, backing: Option<&str>, disk: &[u8], changed: &Changed) {
    let mut writer = ImageWriter::new(spec(disk.len() as u64, layer.compression, backing)).unwrap();
    let mut encoder = writer.encoder();
    let mut sink = Sink::create(path);
    for index in changed.written.union(&changed.discarded).copied() {
        let (start, end) = (index * CLUSTER, ((index + 1) * CLUSTER).min(disk.len()));
        if changed.discarded.contains(&index) {
            writer.zero(Extent::new(start as u64, (end - start) as u64).unwrap()).unwrap();
        } else {
            let cluster = encoder.encode(Bytes::copy_from_slice(&disk[start..end]));
            writer.push(GuestOffset(start as u64), cluster).unwrap();
        }
        sink.append(&writer.take_output());
    }
    sink.finish(&writer.finish().unwrap());
}

/// The map covers the disk without gaps, joins what belongs together, and tells the truth about each run.
fn assert_map_is_true(chain: &Chain, paths: &[PathBuf], disk: &[u8]) {
    let map = chain.map(Extent::new(0, disk.len() as u64).unwrap()).unwrap();
    let mut at = 0;
    for mapping in &map {
        assert_eq!(mapping.extent.offset.0, at);
        let start = usize::try_from(at).unwrap();
        at += mapping.extent.length.0;
        let guest = &disk[start..usize::try_from(at).unwrap()];
        match mapping.kind {
            MappingKind::Zero => assert!(guest.iter().all(|&byte| byte == 0), "{mapping:?} is not zero"),
            MappingKind::Data { layer, host } => {
                let mut stored = vec![0; guest.len()];
                let file = std::fs::File::open(&paths[layer]).unwrap();
                ReadAt::read_at(&file, HostOffset(host.0), &mut stored).unwrap();
                assert!(stored == guest, "{mapping:?} holds other bytes");
            }
            MappingKind::Compressed { layer } => assert!(layer < paths.len()),
        }
    }
    assert_eq!(at, disk.len() as u64);
    assert!(map.windows(2).all(|pair| pair[0].kind != pair[1].kind), "{map:?}");
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 32,
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct("tests/qcow2/property.regressions"))),
        ..ProptestConfig::default()
    })]

    #[test]
    fn chains_equal_the_guest(
        layers in proptest::collection::vec(layer(), 1..=6),
        reads in proptest::collection::vec((0..1000_usize, 1..3 * CLUSTER), 12),
    ) {
        let folder = TempDir::new().unwrap();
        let mut disk: Vec<u8> = Vec::new();
        let mut paths: Vec<PathBuf> = Vec::new();
        for (index, layer) in layers.iter().enumerate() {
            let mut changed = Changed::default();
            disk.resize(usize::try_from(layer.sectors).unwrap() * 512, 0);
            for step in &layer.steps {
                apply(&mut disk, step, &mut changed);
            }
            let backing = index.checked_sub(1).map(|below| format!("{below}.qcow2"));
            let path = folder.path().join(format!("{index}.qcow2"));
            write_layer(&path, layer, backing.as_deref(), &disk, &changed);
            assert_clean(&path);
            paths.insert(0, path);
        }
        let chain = open_chain(&paths);
        prop_assert!(read_all(&chain) == disk, "our reader differs from the model");
        assert_map_is_true(&chain, &paths, &disk);
        for (at, length) in reads {
            let start = at * disk.len() / 1000;
            let end = (start + length).min(disk.len());
            let mut part = vec![0xee; end - start];
            chain.read_at(GuestOffset(start as u64), &mut part).unwrap();
            prop_assert!(part == disk[start..end], "a read of {} bytes at {start} differs", end - start);
        }
        assert_qemu_reads(&paths[0], &disk);
        prop_assert!(chain.virtual_size().0 < 40 * CLUSTER_SIZE);
    }
}
