//! Merging, case by case: what is copied and what is not, large disks, damage, and what is refused.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tempfile::TempDir;
use tidemark_model::{ByteLen, Extent};
use tidemark_qcow2::{
    BackingFile, CLUSTER_SIZE, Compression, ErrorKind, FinishedImage, Image, ImageWriter, MergeLayout,
    Merger, Piece,
};

use crate::images::{CLUSTER, Sink, ZSTD, noise, open, prose, spec, text, tool, write_clusters, write_full};
use crate::merging::{LAYOUTS, assert_merges};

fn backing(name: &str) -> Option<BackingFile> {
    Some(BackingFile { name: name.to_owned(), format: "qcow2".to_owned() })
}

/// A copied run: the layer, where it begins in its file, its length.
type Copied = (usize, u64, u64);

/// Everything a merge hands out, without keeping bytes: how many there are and which runs are copied.
fn drain(mut merger: Merger) -> tidemark_qcow2::Result<(u64, Vec<Copied>, FinishedImage)> {
    let (mut fresh, mut copies) = (0, Vec::new());
    while let Some(pieces) = merger.next()? {
        let mut bytes_now = 0;
        for piece in pieces {
            match piece {
                Piece::Bytes(bytes) => bytes_now += bytes.len() as u64,
                Piece::Copy { layer, host, length } => copies.push((layer, host.0, length.0)),
            }
        }
        assert!(bytes_now <= 16 << 20, "{bytes_now} bytes at once");
        fresh += bytes_now;
        merger.take_mapped();
    }
    merger.finish().map(|image| (fresh, copies, image))
}

/// A full and two overlays, all of it compressible or all of it not.
fn three_layers(folder: &Path, compression: Compression) -> (Vec<PathBuf>, Vec<u8>) {
    let paths: Vec<PathBuf> =
        ["2.qcow2", "1.qcow2", "0.qcow2"].iter().map(|name| folder.join(name)).collect();
    let mut disk = prose(1, 60 * CLUSTER);
    write_full(&paths[2], compression, &disk);
    for (index, (seed, range)) in [(2, 10..30), (3, 25..40)].into_iter().enumerate() {
        let bytes = prose(seed, range.len() * CLUSTER);
        disk[range.start * CLUSTER..range.end * CLUSTER].copy_from_slice(&bytes);
        let below = format!("{index}.qcow2");
        let path = &paths[1 - index];
        write_clusters(path, spec(disk.len() as u64, compression, Some(&below)), &disk, range);
    }
    (paths, disk)
}

#[test]
fn frames_are_copied_to_the_byte() {
    let folder = TempDir::new().unwrap();
    let (paths, disk) = three_layers(folder.path(), ZSTD);
    let layers = paths.iter().map(|path| open(path)).collect();
    let (_, _, image) = drain(Merger::new(layers, None, MergeLayout::Packed).unwrap()).unwrap();
    // The same as if the disk had been written at once: not a byte of the frames was lost or added.
    let direct = folder.path().join("direct.qcow2");
    write_full(&direct, ZSTD, &disk);
    assert_eq!(image.file_size.0, std::fs::metadata(&direct).unwrap().len());
    assert_eq!((image.plain_clusters, image.compressed_clusters), (0, 60));
    assert_merges(&paths, &disk);
}

#[test]
fn the_shared_layout_copies_long_runs_and_leaves_out_what_is_dead() {
    let folder = TempDir::new().unwrap();
    let (paths, disk) = three_layers(folder.path(), Compression::None);
    let layers = paths.iter().map(|path| open(path)).collect();
    let (fresh, copies, image) = drain(Merger::new(layers, None, MergeLayout::Shared).unwrap()).unwrap();
    let cluster = |count: u64| count * CLUSTER_SIZE;
    let first = CLUSTER_SIZE;
    let expected = [
        (0, first, cluster(15)),
        (1, first, cluster(15)),
        (2, first, cluster(10)),
        (2, cluster(41), cluster(20)),
    ];
    assert_eq!(copies, expected);
    // The header, one L2 table, L1, one refcount block and their table.
    assert_eq!(fresh, cluster(5));
    assert_eq!(image.file_size.0, fresh + cluster(60));
    assert_merges(&paths, &disk);
}

/// Tables of a wide disk come bounded, and nothing is looked for where there is nothing.
#[test]
fn a_wide_disk_is_merged_in_small_steps() {
    let size = 64 << 40;
    let folder = TempDir::new().unwrap();
    let (base, top) = (folder.path().join("0.qcow2"), folder.path().join("1.qcow2"));
    for (path, below) in [(&base, None), (&top, Some("0.qcow2"))] {
        let mut sink = Sink::create(path);
        let mut writer = ImageWriter::new(spec(size, ZSTD, below)).unwrap();
        if below.is_some() {
            writer.zero(Extent::new(1 << 40, 1 << 40).unwrap()).unwrap();
        }
        sink.append(&writer.take_output());
        sink.finish(&writer.finish().unwrap());
    }
    for layout in LAYOUTS {
        let stack = vec![open(&top), open(&base)];
        let (_, _, image) = drain(Merger::new(stack, None, layout).unwrap()).unwrap();
        assert!(image.file_size.0 < 4 << 20 && image.zero_clusters == 0, "{}", image.file_size);
        let (_, _, image) =
            drain(Merger::new(vec![open(&top)], backing("0.qcow2"), layout).unwrap()).unwrap();
        assert_eq!(image.zero_clusters, (1 << 40) / CLUSTER_SIZE);
    }
}

/// The lower layer's tables and frames damaged: the merge says which layer and where.
#[test]
fn damage_is_told_by_layer_and_offset() {
    let folder = TempDir::new().unwrap();
    let (paths, _) = three_layers(folder.path(), ZSTD);
    let good = std::fs::read(&paths[2]).unwrap();
    let word = |bytes: &[u8], at: usize| {
        let bytes: [u8; 8] = bytes[at..at + 8].try_into().unwrap();
        usize::try_from(u64::from_be_bytes(bytes) & 0x00ff_ffff_ffff_fe00).unwrap()
    };
    let l2 = word(&good, word(&good, 40));
    let damages: [(&str, usize, Vec<u8>); 4] = [
        ("a frame without its magic", CLUSTER, vec![0; 4]),
        ("an entry beyond the file", l2, (1_u64 << 63 | 1 << 40).to_be_bytes().to_vec()),
        ("an entry off the grid", l2, (1_u64 << 63 | 0x10200).to_be_bytes().to_vec()),
        ("compressed data beyond the file", l2, (1_u64 << 62 | 1 << 40).to_be_bytes().to_vec()),
    ];
    for layout in LAYOUTS {
        for (what, at, bytes) in &damages {
            // Shared copies host clusters; what is in a frame shows when it is read.
            if layout == MergeLayout::Shared && *at == CLUSTER {
                continue;
            }
            let mut bad = good.clone();
            bad[*at..*at + bytes.len()].copy_from_slice(bytes);
            let layers = vec![open(&paths[0]), open(&paths[1]), Image::open(Arc::new(bad)).unwrap()];
            let error = drain(Merger::new(layers, None, layout).unwrap()).map(|_| ()).expect_err(what);
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{what}: {error}");
            assert!(error.to_string().contains("layer 2"), "{what}: {error}");
            assert!(error.to_string().contains("offset"), "{what}: {error}");
        }
    }
    // A file that is cut, and two guest clusters in one place.
    let mut cut = good.clone();
    cut.truncate(l2 + 100);
    let error = Image::open(Arc::new(cut)).map(|_| ()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    write_full(&paths[2], Compression::None, &noise(5, 60 * CLUSTER));
    let mut twice = std::fs::read(&paths[2]).unwrap();
    let l2 = word(&twice, word(&twice, 40));
    twice.copy_within(l2..l2 + 8, l2 + 8);
    let layers = vec![open(&paths[0]), open(&paths[1]), Image::open(Arc::new(twice)).unwrap()];
    let error = drain(Merger::new(layers, None, MergeLayout::Shared).unwrap()).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("layer 2") && error.to_string().contains("more than once"), "{error}");
}

#[test]
fn wrong_stacks_are_refused() {
    let folder = TempDir::new().unwrap();
    let (paths, _) = three_layers(folder.path(), Compression::None);
    let stack =
        |range: std::ops::Range<usize>| paths[range].iter().map(|path| open(path)).collect::<Vec<_>>();
    for layout in LAYOUTS {
        let refused = |layers, backing| {
            let error = Merger::new(layers, backing, layout).map(|_| ()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        };
        refused(vec![], None);
        refused(stack(0..2), None);
        refused(stack(0..3), backing("x.qcow2"));
        refused(stack(0..2), backing("../x.qcow2"));
        refused(vec![open(&paths[2]), open(&paths[2])], None);
        assert!(Merger::over(stack(0..3), stack(2..3), None, layout).is_err());
        let merger = Merger::new(stack(0..3), None, layout).unwrap();
        assert_eq!(merger.finish().map(|_| ()).unwrap_err().kind(), ErrorKind::Invalid);
    }
}

/// Half a cluster from below needs the images below; they may be left out when none is cut.
#[test]
fn a_cluster_cut_by_a_layers_end_needs_what_is_below() {
    let folder = TempDir::new().unwrap();
    let names = ["2.qcow2", "1.qcow2", "0.qcow2"];
    let paths: Vec<PathBuf> = names.iter().map(|name| folder.path().join(name)).collect();
    let mut disk = prose(1, 8 * CLUSTER);
    write_full(&paths[2], ZSTD, &disk);
    let cut = 2 * CLUSTER + 1024;
    write_clusters(&paths[1], spec(cut as u64, ZSTD, Some("0.qcow2")), &disk, 0..1);
    write_clusters(&paths[0], spec(disk.len() as u64, ZSTD, Some("1.qcow2")), &disk, 7..8);
    disk[cut..7 * CLUSTER].fill(0);
    for layout in LAYOUTS {
        let stack = vec![open(&paths[0]), open(&paths[1])];
        let merger = Merger::new(stack, backing("0.qcow2"), layout).unwrap();
        let error = drain(merger).map(|_| ()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    }
    assert_merges(&paths, &disk);
}

/// qemu's own commit of the same layers shows the same disk, and the merged image is no larger.
#[test]
fn qemu_commit_agrees() {
    let folder = TempDir::new().unwrap();
    let (paths, disk) = three_layers(folder.path(), Compression::None);
    let merged = folder.path().join("merged.qcow2");
    crate::merging::merge(&paths, 3, MergeLayout::Packed, &merged);
    tool("qemu-img", &["commit", "-q", "-f", "qcow2", "-b", "0.qcow2", "-d", text(&paths[0])]);
    tool("qemu-img", &["compare", "-f", "qcow2", "-F", "qcow2", text(&merged), text(&paths[2])]);
    let size = |path: &Path| ByteLen(std::fs::metadata(path).unwrap().len());
    assert!(size(&merged) <= size(&paths[2]), "{} for {}", size(&merged), size(&paths[2]));
    crate::images::assert_qemu_reads(&merged, &disk);
}
