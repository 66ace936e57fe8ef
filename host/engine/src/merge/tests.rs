//! Merged images and their range digests against a model of the disk, in both layouts.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use tidemark_model::{ByteLen, Extent, GuestOffset};
use tidemark_qcow2::{
    BackingFile, CLUSTER_SIZE, Chain, Compression, EncodedCluster, Image, ImageSpec, ImageWriter,
    MappingKind, MergeLayout, Merger,
};
use tokio_util::sync::CancellationToken;

use super::local::{MergeChainOptions, merge_chain};
use super::{Progress, image};
use crate::chain::LayerFile;
use crate::engine::Limits;
use crate::image_file::{ImageFile, RangesFile, StoredImage};
use crate::ranges::{RangeDigest, RangeIndex};
use crate::store::{Location, PendingObject, SharedObject};

const CLUSTERS: u64 = 90;
/// The last cluster is cut short by the end of the disk.
const SIZE: ByteLen = ByteLen(CLUSTERS * CLUSTER_SIZE - 4096);

/// What a layer holds of a cluster: compressible, incompressible or zero bytes, told apart by a number.
type Layer = BTreeMap<u64, u8>;

fn content(number: u8, cluster: u64) -> Vec<u8> {
    let length = usize::try_from(CLUSTER_SIZE.min(SIZE.0 - cluster * CLUSTER_SIZE)).unwrap();
    match number % 3 {
        0 => vec![0; length],
        1 => vec![number; length],
        _ => {
            let mut noise = vec![0; length];
            let mut hasher = blake3::Hasher::new();
            hasher.update(&[number, u8::try_from(cluster).unwrap()]);
            hasher.finalize_xof().fill(&mut noise);
            noise
        }
    }
}

fn place(folder: &Path, name: &str) -> Location {
    Location { folder: folder.to_path_buf(), path: name.to_owned() }
}

/// Writes a layer as a backup would.
fn write(folder: &Path, name: &str, below: Option<&str>, layer: &Layer) {
    let backing = below.map(|name| BackingFile { name: name.to_owned(), format: "qcow2".to_owned() });
    let spec = ImageSpec { virtual_size: SIZE, compression: Compression::Zstd { level: 1 }, backing };
    let mut writer = ImageWriter::new(spec).unwrap();
    let mut encoder = writer.encoder();
    let object = PendingObject::local(place(folder, name)).unwrap();
    let ranges = PendingObject::local(place(folder, &name.replace("qcow2", "digests"))).unwrap();
    let mut file = ImageFile::new(object, Some(RangesFile::new(ranges)));
    for (cluster, number) in layer {
        let bytes = content(*number, *cluster);
        let encoded = encoder.encode(Bytes::from(bytes.clone()));
        let compressed = matches!(encoded, EncodedCluster::Compressed(_));
        let guest = GuestOffset(cluster * CLUSTER_SIZE);
        let plain_at = writer.push(guest, encoded).unwrap();
        file.note(guest, plain_at, compressed.then(|| RangeDigest::of(&bytes, None)));
        file.append(writer.take_output()).unwrap();
    }
    let finished = writer.finish().unwrap();
    file.append(finished.tail).unwrap();
    file.seal(finished.header).unwrap();
}

/// Layers of a chain, the oldest first: they overlap, mask and leave alone.
fn layers(seed: u64) -> Vec<Layer> {
    let mut state = seed;
    let mut next = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        u8::try_from(state >> 56).unwrap()
    };
    (0..4)
        .map(|_| {
            (0..CLUSTERS)
                .filter_map(|cluster| if next() % 3 == 0 { Some((cluster, next())) } else { None })
                .collect()
        })
        .collect()
}

fn open(path: &Path) -> Image {
    Image::open(Arc::new(File::open(path).unwrap())).unwrap()
}

fn name(number: usize) -> String {
    format!("layer-{number}.qcow2")
}

/// Merges the layers of `numbers` (the newest first) into `merged.qcow2`.
fn merge(folder: &Path, numbers: &[usize], below: Option<&str>, layout: MergeLayout) -> StoredImage {
    let files: Vec<LayerFile> = numbers
        .iter()
        .map(|number| LayerFile {
            key: name(*number),
            file: Arc::new(File::open(folder.join(name(*number))).unwrap()),
        })
        .collect();
    let ranges: Vec<Arc<File>> = numbers
        .iter()
        .map(|number| Arc::new(File::open(folder.join(name(*number).replace("qcow2", "digests"))).unwrap()))
        .collect();
    let images = numbers.iter().map(|number| open(&folder.join(name(*number)))).collect();
    let backing = below.map(|name| BackingFile { name: name.to_owned(), format: "qcow2".to_owned() });
    let (progress, cancel) = (Progress::default(), CancellationToken::new());
    let merger = Merger::new(images, backing, layout).unwrap();
    let job =
        image::Job { merger, files: &files, ranges: Some(&ranges), progress: &progress, cancel: &cancel };
    let to = place(folder, "merged.qcow2");
    let digests = RangesFile::new(PendingObject::local(place(folder, "merged.digests")).unwrap());
    match layout {
        MergeLayout::Packed => {
            job.pack(ImageFile::new(PendingObject::local(to).unwrap(), Some(digests))).unwrap()
        }
        MergeLayout::Shared => job.share(SharedObject::local(to).unwrap(), Some(digests), folder).unwrap(),
    }
}

fn hash(path: &Path) -> String {
    blake3::hash(&std::fs::read(path).unwrap()).to_hex().to_string()
}

/// The merged image shows what the layers showed, and each stored cluster has its digest.
fn check(folder: &Path, below: Option<&str>, merged: &[&Layer], view: &Layer) {
    let images = [Some(folder.join("merged.qcow2")), below.map(|name| folder.join(name))];
    let chain = Chain::new(images.into_iter().flatten().map(|path| open(&path)).collect()).unwrap();
    let index = RangeIndex::open(File::open(folder.join("merged.digests")).unwrap()).unwrap();
    for cluster in 0..CLUSTERS {
        let expected = content(view.get(&cluster).copied().unwrap_or(0), cluster);
        let mut seen = vec![0; expected.len()];
        let guest = GuestOffset(cluster * CLUSTER_SIZE);
        chain.read_at(guest, &mut seen).unwrap();
        assert!(seen == expected, "cluster {cluster}");
        let held = merged.iter().rev().find_map(|layer| layer.get(&cluster));
        let length = ByteLen(expected.len() as u64);
        let digest = match (held, chain.map(Extent { offset: guest, length }).unwrap()[0].kind) {
            (None, _) | (_, MappingKind::Zero) => None,
            (Some(_), MappingKind::Compressed { layer: 0 }) => Some(RangeDigest::of(&expected, None)),
            (Some(_), MappingKind::Data { layer: 0, host }) => Some(RangeDigest::of(&expected, Some(host))),
            (held, kind) => panic!("cluster {cluster}: {held:?} {kind:?}"),
        };
        assert_eq!(index.find(guest).unwrap(), digest, "cluster {cluster}");
    }
}

#[test]
fn merged_images_and_their_digests_are_right_in_both_layouts() {
    for (seed, layout) in (1..9).zip([MergeLayout::Packed, MergeLayout::Shared].into_iter().cycle()) {
        let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let layers = layers(seed * 7919);
        for (number, layer) in layers.iter().enumerate() {
            let below = number.checked_sub(1).map(name);
            write(folder.path(), &name(number), below.as_deref(), layer);
        }
        let mut view = Layer::new();
        layers.iter().for_each(|layer| view.extend(layer));
        // All of them into a full, and all but the lowest into an overlay of it.
        let bottom = name(0);
        let cases: [(&[usize], Option<&str>); 2] = [(&[3, 2, 1, 0], None), (&[3, 2, 1], Some(&bottom))];
        for (numbers, below) in cases {
            let stored = merge(folder.path(), numbers, below, layout);
            assert_eq!(stored.digest, hash(&folder.path().join("merged.qcow2")));
            assert_eq!(stored.ranges.unwrap().digest, hash(&folder.path().join("merged.digests")));
            let merged: Vec<&Layer> = numbers.iter().rev().map(|number| &layers[*number]).collect();
            check(folder.path(), below, &merged, &view);
            for made in ["merged.qcow2", "merged.digests"] {
                std::fs::remove_file(folder.path().join(made)).unwrap();
            }
        }
    }
}

#[tokio::test]
async fn images_in_a_folder_are_merged_as_a_job_does() {
    let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    let layers = layers(5);
    let mut view = Layer::new();
    for (number, layer) in layers.iter().enumerate() {
        let below = number.checked_sub(1).map(name);
        write(folder.path(), &name(number), below.as_deref(), layer);
        view.extend(layer);
    }
    let paths: Vec<_> = (0..4).rev().map(|number| folder.path().join(name(number))).collect();
    let to = folder.path().join("merged.qcow2");
    let options = |layers: Vec<_>| MergeChainOptions {
        layers,
        backing: None,
        to: to.clone(),
        limits: Limits::default(),
    };
    let report = merge_chain(options(paths.clone())).await.unwrap();
    assert!(report.stored.0 > 0 && report.read.0 > report.stored.0 && report.written.0 + report.shared.0 > 0);
    check(folder.path(), None, &layers.iter().collect::<Vec<_>>(), &view);
    let taken = merge_chain(options(paths.clone())).await.unwrap_err();
    assert_eq!(taken.kind(), crate::ErrorKind::Conflict);
    std::fs::remove_file(&to).unwrap();
    std::fs::remove_file(to.with_extension("digests")).unwrap();
    // A chain that does not end leaves nothing behind.
    assert!(merge_chain(options(paths[..2].to_vec())).await.is_err());
    let left = std::fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(left, 8);
}
