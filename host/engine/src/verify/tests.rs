//! Images in every shape, read by several threads: what is whole is found whole and what is not is named.

use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use tidemark_model::{ByteLen, Extent, GuestOffset, HostOffset};
use tidemark_qcow2::{CLUSTER_SIZE, ClusterDecoder, Compression, Image, ImageSpec, ImageWriter, StoredKind};
use tokio_util::sync::CancellationToken;

use super::scan::{Depth, Flaw, Found, Layer, Work, scan};
use crate::ranges::{RangeDigest, RangeIndex, RangeRecorder};

const CLUSTER: usize = 65_536;
/// Of the sample disk, more than a few windows.
const CLUSTERS: u64 = 100;

/// An image of noise and text in turns, with a hole after every tenth cluster.
fn image() -> Vec<u8> {
    let spec = ImageSpec {
        virtual_size: ByteLen(2 * CLUSTERS * CLUSTER_SIZE),
        compression: Compression::Zstd { level: 1 },
        backing: None,
    };
    let mut writer = ImageWriter::new(spec).unwrap();
    let mut encoder = writer.encoder();
    let mut bytes = Vec::new();
    for guest in (0..CLUSTERS).filter(|guest| guest % 10 != 9) {
        let mut cluster = vec![0; CLUSTER];
        if guest % 3 == 0 {
            cluster.fill(u8::try_from(guest).unwrap() | 1);
        } else {
            blake3::Hasher::new().update(&guest.to_be_bytes()).finalize_xof().fill(&mut cluster);
        }
        writer.push(GuestOffset(guest * CLUSTER_SIZE), encoder.encode(Bytes::from(cluster))).unwrap();
    }
    let finished = writer.finish().unwrap();
    finished.tail.iter().for_each(|part| bytes.extend_from_slice(part));
    bytes[..CLUSTER].copy_from_slice(&finished.header[..CLUSTER]);
    bytes
}

fn file(bytes: &[u8]) -> std::fs::File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}

fn layer(bytes: &[u8], digests: Option<&[u8]>) -> Layer {
    let image = Image::open(Arc::new(bytes.to_vec())).unwrap();
    let digests = digests.map(|digests| RangeIndex::open(file(digests)).unwrap());
    Layer { file: Arc::new(file(bytes)), image, digests }
}

fn whole() -> Extent {
    Extent::new(0, 2 * CLUSTERS * CLUSTER_SIZE).unwrap()
}

/// The range digests of an image, made cluster by cluster.
fn digests_of(bytes: &[u8]) -> Vec<u8> {
    let image = Image::open(Arc::new(bytes.to_vec())).unwrap();
    let (mut recorder, mut decoder) = (RangeRecorder::new(), ClusterDecoder::new());
    for cluster in image.stored_clusters(whole()).map(Result::unwrap) {
        let part = |host: HostOffset, length: u64| {
            let from = usize::try_from(host.0).unwrap();
            &bytes[from..from + usize::try_from(length).unwrap()]
        };
        let digest = match cluster.kind {
            StoredKind::Zero => continue,
            StoredKind::Plain { host } => RangeDigest::of(part(host, CLUSTER_SIZE), Some(host)),
            StoredKind::Compressed { host, length } => {
                let mut decoded = vec![0; CLUSTER];
                decoder.decode(&image, part(host, length.0), &mut decoded).unwrap();
                RangeDigest::of(&decoded, None)
            }
        };
        recorder.known(cluster.guest, digest);
    }
    recorder.finish().unwrap()
}

fn scanned(layers: &[Layer], depth: Depth) -> Vec<Found> {
    let (read, cancel) = (AtomicU64::new(0), CancellationToken::new());
    let found = scan(layers, depth, &Work { threads: 3, read: &read, cancel: &cancel }).unwrap();
    let sizes: u64 = layers.iter().map(|layer| layer.image.file_size().0).sum();
    assert!(read.load(Ordering::Relaxed) >= sizes, "everything was read");
    found
}

fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// Where the only L2 table lies.
fn l2(bytes: &[u8]) -> usize {
    let l1 = usize::try_from(word(bytes, 40)).unwrap();
    usize::try_from(word(bytes, l1) & 0x00ff_ffff_ffff_fe00).unwrap()
}

#[test]
fn whole_images_are_whole_with_and_without_range_digests() {
    let bytes = image();
    let digests = digests_of(&bytes);
    let expected = blake3::hash(&bytes).to_hex().to_string();
    let layers = [layer(&bytes, Some(&digests)), layer(&bytes, None)];
    let found = scanned(&layers, Depth::Clusters);
    for one in &found {
        assert_eq!(one.digest.as_ref(), Some(&expected));
        assert!(one.damaged.is_empty() && one.problems.is_empty(), "{one:?}");
    }
    assert_eq!((found[0].compared, found[0].uncompared), (90, 0));
    assert_eq!((found[1].compared, found[1].uncompared), (0, 90));
    assert_eq!(scanned(&layers, Depth::Bytes)[1].digest.as_ref(), Some(&expected));
}

#[test]
fn clusters_in_any_order_of_the_file_are_proved() {
    let mut bytes = image();
    let table = l2(&bytes);
    // The guest sees its clusters from the file's end to its beginning.
    let mut entries: Vec<[u8; 8]> =
        (0..90).map(|n| bytes[table + n * 8..table + n * 8 + 8].try_into().unwrap()).collect();
    entries.reverse();
    for (n, entry) in entries.iter().enumerate() {
        bytes[table + n * 8..table + n * 8 + 8].copy_from_slice(entry);
    }
    let digests = digests_of(&bytes);
    let found = scanned(&[layer(&bytes, Some(&digests))], Depth::Clusters);
    assert_eq!((found[0].compared, found[0].flaws.len()), (90, 0));
    assert_eq!(found[0].digest.as_deref(), Some(blake3::hash(&bytes).to_hex().as_str()));
}

#[test]
fn each_flaw_is_named_where_it_is() {
    let bytes = image();
    let digests = digests_of(&bytes);
    let table = l2(&bytes);
    let host =
        |guest: usize| usize::try_from(word(&bytes, table + guest * 8) & ((1 << 54) - 1) & !511).unwrap();
    let damaged_at = |change: &dyn Fn(&mut Vec<u8>), flaw: Flaw, guest: u64| {
        let mut damaged = bytes.clone();
        change(&mut damaged);
        let found = scanned(&[layer(&damaged, Some(&digests))], Depth::Clusters).remove(0);
        assert_eq!(found.flaws.get(&flaw), Some(&1), "{flaw:?}: {found:?}");
        let ranges = found.damaged.list(ByteLen(2 * CLUSTERS * CLUSTER_SIZE));
        let ranges: Vec<_> = ranges.iter().collect();
        assert_eq!(ranges, [Extent::new(guest * CLUSTER_SIZE, CLUSTER_SIZE).unwrap()], "{flaw:?}");
    };
    damaged_at(&|bytes| bytes[host(1) + 77] ^= 1, Flaw::Differs, 1);
    let frame = usize::try_from(word(&bytes, table + 3 * 8) & ((1 << 54) - 1)).unwrap();
    damaged_at(&|bytes| bytes[frame] ^= 1, Flaw::Undecodable, 3);
    damaged_at(&|bytes| bytes[table + 4 * 8..table + 5 * 8].fill(0), Flaw::Missing, 4);
    damaged_at(&|bytes| bytes.copy_within(table + 5 * 8..table + 6 * 8, table + 9 * 8), Flaw::Unexpected, 9);
}

#[test]
fn a_stopped_scan_ends() {
    let bytes = image();
    let (read, cancel) = (AtomicU64::new(0), CancellationToken::new());
    cancel.cancel();
    let work = Work { threads: 2, read: &read, cancel: &cancel };
    let error = scan(&[layer(&bytes, None)], Depth::Bytes, &work).unwrap_err();
    assert_eq!(error.kind(), crate::ErrorKind::Cancelled);
    let unreadable = Layer { file: Arc::new(file(&bytes[..CLUSTER])), ..layer(&bytes, None) };
    let read_at = unreadable.file.read_at(&mut [0], CLUSTER_SIZE).unwrap();
    assert_eq!(read_at, 0, "the file ends before its tables say so");
    let live = CancellationToken::new();
    let work = Work { threads: 2, read: &read, cancel: &live };
    let found = scan(&[unreadable], Depth::Clusters, &work).unwrap().remove(0);
    assert!(found.flaws.contains_key(&Flaw::Unreadable), "{found:?}");
}
