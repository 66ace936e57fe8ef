//! A damage matrix for the structure check: which entry × which damage × what must be reported, with qemu-img as
//! the second opinion.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tempfile::TempDir;
use tidemark_model::Extent;
use tidemark_qcow2::{CheckReport, ClusterDecoder, Compression, Image, StoredKind, check};

use crate::images::{CLUSTER, ZSTD, noise, prose, run, text, write_full};

const COPIED: u64 = 1 << 63;

struct Sample {
    path: PathBuf,
    bytes: Vec<u8>,
    l1: usize,
    l2: usize,
    refcount_table: usize,
    refcount_block: usize,
}

impl Sample {
    fn make(folder: &Path, compression: Compression) -> Self {
        let path = folder.join("sample.qcow2");
        let disk = [prose(1, 4 * CLUSTER), noise(2, 4 * CLUSTER)].concat();
        write_full(&path, compression, &disk);
        let bytes = std::fs::read(&path).unwrap();
        let mut sample = Self { path, bytes, l1: 0, l2: 0, refcount_table: 0, refcount_block: 0 };
        sample.l1 = offset(sample.word(40));
        sample.l2 = offset(sample.word(sample.l1));
        sample.refcount_table = offset(sample.word(48));
        sample.refcount_block = offset(sample.word(sample.refcount_table));
        sample
    }

    fn word(&self, at: usize) -> u64 {
        u64::from_be_bytes(self.bytes[at..at + 8].try_into().unwrap())
    }

    fn check_with(&self, at: usize, bytes: &[u8]) -> CheckReport {
        let mut damaged = self.bytes.clone();
        damaged[at..at + bytes.len()].copy_from_slice(bytes);
        std::fs::write(&self.path, &damaged).unwrap();
        check(&Image::open(Arc::new(damaged)).unwrap()).unwrap()
    }

    /// Sets one table entry; both checkers must see a corruption.
    fn corrupt(&self, what: &str, at: usize, entry: u64) {
        let report = self.check_with(at, &entry.to_be_bytes());
        assert!(report.corruptions > 0, "{what}: {report:?}");
        assert!(!report.problems.is_empty());
        let qemu = run("qemu-img", &["check", "-f", "qcow2", text(&self.path)]);
        assert!(!qemu.status.success(), "{what}: qemu-img sees nothing wrong");
    }
}

fn offset(entry: u64) -> usize {
    usize::try_from(entry & 0x00ff_ffff_ffff_fe00).unwrap()
}

#[test]
fn damaged_tables_are_reported() {
    let folder = TempDir::new().unwrap();
    let sample = Sample::make(folder.path(), Compression::None);
    let size = sample.bytes.len() as u64;
    let (first, second) = (sample.word(sample.l2), sample.word(sample.l2 + 8));
    assert_eq!(sample.check_with(0, &[]).plain_clusters, 8);
    sample.corrupt("two entries, one cluster", sample.l2 + 8, first);
    sample.corrupt("an entry into the refcounts", sample.l2, COPIED | sample.refcount_block as u64);
    sample.corrupt("an entry into its own table", sample.l2, COPIED | sample.l2 as u64);
    sample.corrupt("an entry beyond the file", sample.l2, COPIED | size);
    sample.corrupt("an unaligned entry", sample.l2, first | 512);
    sample.corrupt("an entry that does not own its cluster", sample.l2, second & !COPIED);
    sample.corrupt("an L1 entry without ownership", sample.l1, sample.l2 as u64);
    sample.corrupt("an L1 entry that owns nothing", sample.l1, COPIED);
    sample.corrupt("an L1 entry beyond the file", sample.l1, COPIED | size);
    sample.corrupt("no refcount block", sample.refcount_table, 0);
    sample.corrupt("a refcount block beyond the file", sample.refcount_table, size);
    sample.corrupt("a refcount block that is the L1 table", sample.refcount_table, sample.l1 as u64);
}

#[test]
fn damage_that_qemu_does_not_look_for_is_reported_too() {
    let folder = TempDir::new().unwrap();
    let sample = Sample::make(folder.path(), Compression::None);
    for (what, at, bits) in [("L1", sample.l1, 0x100), ("L2", sample.l2, 0x10), ("L2", sample.l2, 1 << 57)] {
        let report = sample.check_with(at, &(sample.word(at) | bits).to_be_bytes());
        assert!(report.corruptions > 0, "reserved bits {bits:#x} of {what}: {report:?}");
    }
}

#[test]
fn compressed_entries_are_checked() {
    let folder = TempDir::new().unwrap();
    let sample = Sample::make(folder.path(), ZSTD);
    let report = sample.check_with(0, &[]);
    assert_eq!((report.compressed_clusters, report.plain_clusters), (4, 4));
    let first = sample.word(sample.l2);
    let data = sample.word(sample.l2 + 4 * 8);
    sample.corrupt("a compressed cluster that owns its cluster", sample.l2, first | COPIED);
    let further = first & !((1 << 54) - 1);
    let into_data = further | offset(data) as u64;
    sample.corrupt("compressed data inside a plain cluster", sample.l2, into_data);
    let report = sample.check_with(sample.l2, &(further | sample.bytes.len() as u64).to_be_bytes());
    assert!(report.corruptions > 0, "compressed data beyond the file: {report:?}");
}

#[test]
fn leaks_and_missing_counts_are_told_apart() {
    let folder = TempDir::new().unwrap();
    let sample = Sample::make(folder.path(), Compression::None);
    let clusters = sample.bytes.len() / CLUSTER;
    let report = sample.check_with(sample.refcount_block + 2 * clusters, &[0, 1]);
    assert_eq!((report.corruptions, report.leaks), (0, 1), "{report:?}");
    assert!(!report.is_clean());
    let report = sample.check_with(sample.refcount_block + 2, &[0, 2]);
    assert_eq!((report.corruptions, report.leaks), (0, 1), "{report:?}");
    let report = sample.check_with(sample.refcount_block + 2, &[0, 0]);
    assert_eq!((report.corruptions, report.leaks), (1, 0), "{report:?}");
}

#[test]
fn an_image_tells_what_it_stores_itself() {
    let folder = TempDir::new().unwrap();
    let sample = Sample::make(folder.path(), ZSTD);
    let whole = Extent::new(0, 8 * CLUSTER as u64).unwrap();
    let image = Image::open(Arc::new(sample.bytes.clone())).unwrap();
    let clusters: Vec<_> = image.stored_clusters(whole).map(Result::unwrap).collect();
    assert_eq!(clusters.len(), 8);
    for (cluster, number) in clusters.iter().zip(0_u64..) {
        assert_eq!(cluster.guest.0, number * CLUSTER as u64);
        assert_eq!(matches!(cluster.kind, StoredKind::Compressed { .. }), number < 4, "{cluster:?}");
    }
    let inside = Extent::new(3 * CLUSTER as u64 + 5, CLUSTER as u64).unwrap();
    assert_eq!(image.stored_clusters(inside).count(), 2);
    assert_eq!(image.stored_clusters(Extent::new(1 << 40, 1).unwrap()).count(), 0);

    let StoredKind::Compressed { host, length } = clusters[1].kind else { panic!("{:?}", clusters[1]) };
    let from = usize::try_from(host.0).unwrap();
    let stored = &sample.bytes[from..from + usize::try_from(length.0).unwrap()];
    let (mut decoder, mut cluster) = (ClusterDecoder::new(), vec![0; CLUSTER]);
    decoder.decode(&image, stored, &mut cluster).unwrap();
    assert_eq!(cluster, prose(1, 4 * CLUSTER)[CLUSTER..2 * CLUSTER]);
    assert!(decoder.decode(&image, &stored[1..], &mut cluster).is_err());
    assert!(decoder.decode(&image, stored, &mut cluster[1..]).is_err());

    // One damaged entry does not hide the others.
    let mut damaged = sample.bytes.clone();
    damaged[sample.l2 + 5 * 8..sample.l2 + 6 * 8].copy_from_slice(&(COPIED | 1 << 40).to_be_bytes());
    let image = Image::open(Arc::new(damaged)).unwrap();
    assert_eq!(image.stored_clusters(whole).filter(Result::is_err).count(), 1);
    assert_eq!(image.stored_clusters(whole).filter(Result::is_ok).count(), 7);
}
