//! Merging against qemu's own tools: random stacks of our images and qemu's, both layouts. The merged image over what
//! remains below shows what the chain showed, `qemu-img check` finds neither errors nor leaks, no layer is touched.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;
use tempfile::TempDir;
use tidemark_model::{Extent, GuestOffset};
use tidemark_qcow2::{
    BackingFile, CLUSTER_SIZE, Compression, Image, ImageWriter, MergeLayout, MergedCluster, Merger, Piece,
};

use crate::images::{
    CLUSTER, Sink, ZSTD, assert_clean, noise, open, open_chain, prose, read_all, spec, text, tool,
};

pub(crate) const LAYOUTS: [MergeLayout; 2] = [MergeLayout::Packed, MergeLayout::Shared];

/// Merges the first `merged` of a chain of files, the top first, into `to`, and checks what the merger told.
pub(crate) fn merge(paths: &[PathBuf], merged: usize, layout: MergeLayout, to: &Path) {
    let layers: Vec<Image> = paths[..merged].iter().map(|path| open(path)).collect();
    let below: Vec<Image> = paths[merged..].iter().map(|path| open(path)).collect();
    let backing = paths.get(merged).map(|path| BackingFile {
        name: path.file_name().unwrap().to_str().unwrap().to_owned(),
        format: "qcow2".to_owned(),
    });
    let mut merger = Merger::over(layers, below, backing, layout).unwrap();
    let estimate = merger.estimate();
    let (mut fresh, mut sink, mut mapped) = (0, Sink::create(to), Vec::new());
    while let Some(pieces) = merger.next().unwrap() {
        for piece in pieces {
            match piece {
                Piece::Bytes(bytes) => {
                    fresh += bytes.len() as u64;
                    sink.append(&[bytes]);
                }
                Piece::Copy { layer, host, length } => {
                    assert!(layout == MergeLayout::Shared && host.0 % CLUSTER_SIZE == 0);
                    let mut bytes = vec![0; usize::try_from(length.0).unwrap()];
                    assert!(bytes.len() % CLUSTER == 0 && !bytes.is_empty());
                    File::open(&paths[layer]).unwrap().read_exact_at(&mut bytes, host.0).unwrap();
                    sink.append(&[Bytes::from(bytes)]);
                }
            }
        }
        mapped.extend(merger.take_mapped());
    }
    let image = merger.finish().unwrap();
    fresh += image.tail.iter().map(|bytes| bytes.len() as u64).sum::<u64>();
    assert!(image.file_size <= estimate.total, "{estimate:?} for {}", image.file_size);
    assert!(fresh <= estimate.fresh.0, "{estimate:?} for {fresh} new bytes");
    let plain = mapped.iter().filter(|cluster| matches!(cluster, MergedCluster::Plain { .. })).count();
    assert_eq!(
        (plain as u64, mapped.len() as u64),
        (image.plain_clusters, image.plain_clusters + image.compressed_clusters)
    );
    sink.finish(&image);
    assert_mapped(to, &mapped, &open_chain(paths_of(paths, merged, to).as_slice()));
}

fn paths_of(paths: &[PathBuf], merged: usize, to: &Path) -> Vec<PathBuf> {
    std::iter::once(to.to_owned()).chain(paths[merged..].iter().cloned()).collect()
}

/// What the merger said of each cluster is what a reader of its result finds.
fn assert_mapped(to: &Path, mapped: &[MergedCluster], chain: &tidemark_qcow2::Chain) {
    use tidemark_qcow2::MappingKind;
    let mut last = None;
    let file = File::open(to).unwrap();
    for cluster in mapped {
        let (MergedCluster::Plain { guest, .. } | MergedCluster::Compressed { guest, .. }) = *cluster;
        assert!(last.is_none_or(|last| last < guest), "{guest} comes after {last:?}");
        last = Some(guest);
        let length = CLUSTER_SIZE.min(chain.virtual_size().0 - guest.0);
        let map = chain.map(Extent::new(guest.0, length).unwrap()).unwrap();
        match (*cluster, map[0].kind) {
            (MergedCluster::Plain { host, .. }, MappingKind::Data { layer: 0, host: found }) => {
                assert_eq!(host, found);
                let mut tail = vec![0; CLUSTER];
                file.read_exact_at(&mut tail, host.0).unwrap();
                let beyond = &tail[usize::try_from(length).unwrap()..];
                assert!(beyond.iter().all(|&byte| byte == 0), "bytes beyond the disk's end at {guest}");
            }
            (MergedCluster::Compressed { .. }, MappingKind::Compressed { layer: 0 }) => {}
            (told, found) => panic!("{told:?} is {found:?}"),
        }
    }
}

/// Both layouts and every way to cut the stack, against the chain as it was.
pub(crate) fn assert_merges(paths: &[PathBuf], disk: &[u8]) {
    let before: Vec<Vec<u8>> = paths.iter().map(|path| std::fs::read(path).unwrap()).collect();
    let raw = paths[0].with_extension("raw");
    std::fs::write(&raw, disk).unwrap();
    for layout in LAYOUTS {
        for first in 0..paths.len() {
            for merged in 1..=paths.len() - first {
                let stack = &paths[first..];
                let to = paths[0].with_file_name("merged.qcow2");
                merge(stack, merged, layout, &to);
                assert_clean(&to);
                if first > 0 {
                    assert_same(&to, &stack[0]);
                    continue;
                }
                tool("qemu-img", &["compare", "-f", "qcow2", "-F", "raw", text(&to), text(&raw)]);
                assert!(
                    read_all(&open_chain(&paths_of(stack, merged, &to))) == disk,
                    "{layout:?} of {merged}"
                );
            }
        }
    }
    for (path, bytes) in paths.iter().zip(before) {
        assert!(std::fs::read(path).unwrap() == bytes, "{} was touched", path.display());
    }
}

fn assert_same(merged: &Path, original: &Path) {
    tool("qemu-img", &["compare", "-f", "qcow2", "-F", "qcow2", text(merged), text(original)]);
}

/// What happens to the disk between two images.
#[derive(Debug, Clone)]
struct Layer {
    sectors: u64,
    maker: Maker,
    steps: Vec<Step>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Maker {
    Ours(Compression),
    /// qemu, with clusters of this size and either compression.
    Qemu {
        cluster: &'static str,
        zstd: bool,
    },
}

#[derive(Debug, Clone)]
struct Step {
    kind: u8,
    at: u64,
    length: usize,
    seed: u64,
}

fn layer() -> impl Strategy<Value = Layer> {
    let qemu = |cluster| any::<bool>().prop_map(move |zstd| Maker::Qemu { cluster, zstd });
    let maker = prop_oneof![
        2 => Just(Maker::Ours(Compression::None)),
        3 => Just(Maker::Ours(ZSTD)),
        3 => qemu("64k"),
        1 => prop_oneof![qemu("512"), qemu("4k"), qemu("256k")],
    ];
    let sectors = prop_oneof![(1..24_u64).prop_map(|clusters| clusters * 128), 1..3000_u64];
    let length = prop_oneof![1..2000_usize, Just(CLUSTER), 1..6 * CLUSTER];
    let step = (0..6_u8, 0..1000_u64, length, 1..u64::MAX).prop_map(|(kind, at, length, seed)| Step {
        kind,
        at,
        length,
        seed,
    });
    (sectors, maker, proptest::collection::vec(step, 0..7)).prop_map(|(sectors, maker, steps)| Layer {
        sectors,
        maker,
        steps,
    })
}

fn bytes_of(step: &Step, length: usize) -> Vec<u8> {
    match step.kind {
        0 | 1 => vec![0; length],
        2 | 3 => prose(step.seed, length),
        4 => prose(step.seed, 512).into_iter().cycle().take(length).collect(),
        _ => noise(step.seed, length),
    }
}

/// The range of a step on a disk of this size, on sectors for qemu's sake.
fn range(step: &Step, size: usize) -> (usize, usize) {
    let start = usize::try_from(step.at).unwrap() * size / 1000 / 512 * 512;
    (start, (start + step.length).next_multiple_of(512).min(size))
}

fn write_ours(path: &Path, layer: &Layer, compression: Compression, backing: Option<&str>, disk: &mut [u8]) {
    let mut changed = std::collections::BTreeSet::new();
    for step in &layer.steps {
        let (start, end) = range(step, disk.len());
        disk[start..end].copy_from_slice(&bytes_of(step, end - start));
        changed.extend(start / CLUSTER..end.div_ceil(CLUSTER));
    }
    let mut writer = ImageWriter::new(spec(disk.len() as u64, compression, backing)).unwrap();
    let mut encoder = writer.encoder();
    let mut sink = Sink::create(path);
    for index in changed {
        let bytes = &disk[index * CLUSTER..((index + 1) * CLUSTER).min(disk.len())];
        let cluster = encoder.encode(Bytes::copy_from_slice(bytes));
        writer.push(GuestOffset(index as u64 * CLUSTER_SIZE), cluster).unwrap();
        sink.append(&writer.take_output());
    }
    sink.finish(&writer.finish().unwrap());
}

fn write_qemu(
    path: &Path,
    layer: &Layer,
    cluster: &str,
    zstd: bool,
    backing: Option<&Path>,
    disk: &mut [u8],
) {
    let kind = if zstd { "zstd" } else { "zlib" };
    let options = format!("cluster_size={cluster},compression_type={kind}");
    let size = disk.len().to_string();
    let mut arguments = vec!["create", "-q", "-f", "qcow2", "-o", &options];
    if let Some(backing) = backing {
        arguments.extend(["-F", "qcow2", "-b", text(backing)]);
    }
    arguments.extend([text(path), &size]);
    tool("qemu-img", &arguments);
    let mut commands = Vec::new();
    for step in &layer.steps {
        let (start, end) = range(step, disk.len());
        let bytes = bytes_of(step, end - start);
        disk[start..end].copy_from_slice(&bytes);
        let source = path.with_extension(format!("step-{}", commands.len()));
        std::fs::write(&source, &bytes).unwrap();
        let data = format!("write -q -s {} {start} {}", text(&source), end - start);
        commands.push(match step.kind {
            0 | 1 => format!("write -q -z -u {start} {}", end - start),
            // Compressed writes want whole clusters that nothing was written to; where they fail, plain ones follow.
            2 | 4 => format!("write -q -c -s {} {start} {}", text(&source), end - start),
            _ => data.clone(),
        });
        commands.push(data);
        if step.kind <= 1 {
            commands.pop();
        }
    }
    for command in &commands {
        // A compressed write that is refused is followed by a plain one.
        let compressed = command.contains(" -c ");
        let output =
            crate::images::run("qemu-io", &["-f", "qcow2", "-d", "unmap", "-c", command, text(path)]);
        assert!(compressed || output.status.success(), "{command}: {output:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 24,
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct("tests/qcow2/merging.regressions"))),
        ..ProptestConfig::default()
    })]

    #[test]
    fn merged_stacks_equal_their_chain(layers in proptest::collection::vec(layer(), 1..=6)) {
        let folder = TempDir::new().unwrap();
        let mut disk: Vec<u8> = Vec::new();
        let mut paths: Vec<PathBuf> = Vec::new();
        for (index, layer) in layers.iter().enumerate() {
            disk.resize(usize::try_from(layer.sectors).unwrap() * 512, 0);
            let path = folder.path().join(format!("{index}.qcow2"));
            let below = paths.first().cloned();
            let name = below.as_deref().map(|path| path.file_name().unwrap().to_str().unwrap());
            match layer.maker {
                Maker::Ours(compression) => write_ours(&path, layer, compression, name, &mut disk),
                Maker::Qemu { cluster, zstd } => {
                    write_qemu(&path, layer, cluster, zstd, below.as_deref(), &mut disk);
                }
            }
            paths.insert(0, path);
        }
        prop_assert!(read_all(&open_chain(&paths)) == disk, "the chain is wrong before any merge");
        assert_merges(&paths, &disk);
    }
}
