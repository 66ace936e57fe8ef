//! The chain reader as a shared object: many threads, small reads, layers of different sizes, and what it refuses.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tempfile::TempDir;
use tidemark_model::{ByteLen, Extent, GuestOffset, HostOffset};
use tidemark_qcow2::{CLUSTER_SIZE, Chain, Compression, ErrorKind, Image, MappingKind, ReadAt};

use crate::images::{
    CLUSTER, ZSTD, noise, open, open_chain, prose, read_all, spec, write_clusters, write_full,
};

/// A source that counts its reads and can be made to fail.
struct Watched {
    bytes: Vec<u8>,
    reads: AtomicU64,
    fail: AtomicU64,
}

impl ReadAt for Watched {
    fn read_at(&self, offset: HostOffset, buffer: &mut [u8]) -> io::Result<()> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        if self.fail.load(Ordering::SeqCst) != 0 {
            return Err(io::Error::other("the wire is cut"));
        }
        self.bytes.read_at(offset, buffer)
    }

    fn size(&self) -> io::Result<ByteLen> {
        self.bytes.size()
    }
}

fn watched(disk: &[u8], compression: Compression) -> (Arc<Watched>, Chain) {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("disk.qcow2");
    write_full(&path, compression, disk);
    let bytes = std::fs::read(path).unwrap();
    let source = Arc::new(Watched { bytes, reads: AtomicU64::new(0), fail: AtomicU64::new(0) });
    let image = Image::open(Arc::<Watched>::clone(&source)).unwrap();
    (source, Chain::new(vec![image]).unwrap())
}

#[test]
fn many_threads_read_the_same_chain() {
    let folder = TempDir::new().unwrap();
    let paths: Vec<PathBuf> =
        ["top.qcow2", "base.qcow2"].iter().map(|name| folder.path().join(name)).collect();
    let mut disk = prose(3, 40 * CLUSTER);
    write_full(&paths[1], ZSTD, &disk);
    disk[7 * CLUSTER..12 * CLUSTER].copy_from_slice(&noise(4, 5 * CLUSTER));
    write_clusters(&paths[0], spec(disk.len() as u64, ZSTD, Some("base.qcow2")), &disk, 7..12);
    let chain = open_chain(&paths);
    std::thread::scope(|scope| {
        for thread in 0..8_usize {
            let (chain, disk) = (&chain, &disk);
            scope.spawn(move || {
                for step in 0..60 {
                    let start = (thread * 7919 + step * 104_729) % (disk.len() - 5000);
                    let mut part = vec![0; 5000];
                    chain.read_at(GuestOffset(start as u64), &mut part).unwrap();
                    assert!(part == disk[start..start + 5000], "thread {thread} at {start}");
                }
            });
        }
    });
}

#[test]
fn neighbours_are_read_together() {
    let disk = prose(8, 64 * CLUSTER);
    for compression in [Compression::None, ZSTD] {
        let (source, chain) = watched(&disk, compression);
        assert!(read_all(&chain) == disk);
        let before = source.reads.load(Ordering::SeqCst);
        assert!(read_all(&chain) == disk);
        let reads = source.reads.load(Ordering::SeqCst) - before;
        // 4 MiB of the guest, its tables known: one read when plain, a few of up to 1 MiB when compressed.
        assert!(reads <= 4, "{compression:?}: {reads} reads");
    }
}

#[test]
fn small_reads_of_a_compressed_cluster_decode_it_once() {
    let disk = prose(9, 2 * CLUSTER);
    let (source, chain) = watched(&disk, ZSTD);
    let before = source.reads.load(Ordering::SeqCst);
    for start in (0..CLUSTER).step_by(4096) {
        let mut part = vec![0; 4096];
        chain.read_at(GuestOffset(start as u64), &mut part).unwrap();
        assert!(part == disk[start..start + 4096]);
    }
    // The L2 table and the cluster.
    assert_eq!(source.reads.load(Ordering::SeqCst) - before, 2);
}

#[test]
fn a_failing_source_may_be_tried_again() {
    let disk = prose(10, 4 * CLUSTER);
    let (source, chain) = watched(&disk, ZSTD);
    let mut part = vec![0; 100];
    source.fail.store(1, Ordering::SeqCst);
    let error = chain.read_at(GuestOffset(0), &mut part).unwrap_err();
    assert!(error.kind() == ErrorKind::Io && error.kind().is_retryable());
    assert!(std::error::Error::source(&error).unwrap().to_string().contains("the wire is cut"));
    assert!(!error.to_string().contains("the wire is cut"), "the source is told twice");
    source.fail.store(0, Ordering::SeqCst);
    chain.read_at(GuestOffset(0), &mut part).unwrap();
    assert!(part == disk[..100]);
}

/// What lies in a lower layer beyond the end of the one above it is gone, even when the top is larger again.
#[test]
fn a_smaller_layer_cuts_off_what_lies_below() {
    let folder = TempDir::new().unwrap();
    let paths: Vec<PathBuf> =
        ["2.qcow2", "1.qcow2", "0.qcow2"].iter().map(|name| folder.path().join(name)).collect();
    let disk = prose(11, 10 * CLUSTER);
    write_full(&paths[2], Compression::None, &disk);
    let cut = 3 * CLUSTER + 512;
    write_clusters(&paths[1], spec(cut as u64, Compression::None, Some("0.qcow2")), &disk, 0..0);
    write_clusters(&paths[0], spec(disk.len() as u64, Compression::None, Some("1.qcow2")), &disk, 9..10);
    let mut expected = disk.clone();
    expected[cut..9 * CLUSTER].fill(0);
    let chain = open_chain(&paths);
    assert!(read_all(&chain) == expected);
    crate::images::assert_qemu_reads(&paths[0], &expected);
    let map = chain.map(Extent::new(0, disk.len() as u64).unwrap()).unwrap();
    assert!(matches!(map[0].kind, MappingKind::Data { layer: 2, .. }), "{map:?}");
    assert_eq!((map[1].kind, map[1].extent.offset.0), (MappingKind::Zero, cut as u64));
    assert!(matches!(map[2].kind, MappingKind::Data { layer: 0, .. }), "{map:?}");
}

#[test]
fn chains_that_do_not_fit_are_refused() {
    let folder = TempDir::new().unwrap();
    let (base, top) = (folder.path().join("base.qcow2"), folder.path().join("top.qcow2"));
    let disk = prose(12, CLUSTER);
    write_full(&base, Compression::None, &disk);
    write_clusters(&top, spec(CLUSTER_SIZE, Compression::None, Some("base.qcow2")), &disk, 0..1);
    let refused = |layers: Vec<Image>| assert_eq!(Chain::new(layers).unwrap_err().kind(), ErrorKind::Invalid);
    refused(vec![]);
    refused(vec![open(&top)]);
    refused(vec![open(&base), open(&base)]);
    let chain = Chain::new(vec![open(&top), open(&base)]).unwrap();
    let mut buffer = [0; 512];
    for offset in [CLUSTER_SIZE, CLUSTER_SIZE - 1, u64::MAX] {
        assert_eq!(chain.read_at(GuestOffset(offset), &mut buffer).unwrap_err().kind(), ErrorKind::Invalid);
    }
    assert!(chain.map(Extent::new(0, CLUSTER_SIZE + 1).unwrap()).is_err());
    chain.read_at(GuestOffset(CLUSTER_SIZE), &mut []).unwrap();
}
