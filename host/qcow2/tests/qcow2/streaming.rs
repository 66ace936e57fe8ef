//! Images in the layout for streams against qemu-img: clean, equal to the disk, and as long as foretold.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;
use tempfile::TempDir;
use tidemark_model::{ByteLen, Extent, ExtentList};
use tidemark_qcow2::{CLUSTER_SIZE, StreamLayout};

use crate::images::{
    CLUSTER, Sink, assert_clean, assert_qemu_reads, noise, open_chain, read_all, text, tool,
};

/// Sends the data ranges of a disk's bytes as a stream would.
fn send(path: &Path, disk: &[u8], ranges: Vec<Extent>) {
    let size = ByteLen(disk.len() as u64);
    let data = ExtentList::checked(ranges, size).unwrap();
    let layout = Arc::new(StreamLayout::new(size, &data).unwrap());
    let mut file: Vec<u8> = StreamLayout::head(Arc::clone(&layout)).flatten().collect();
    for range in layout.data().iter() {
        let (from, to) = (range.offset.0, range.end().0);
        file.extend_from_slice(&disk[usize::try_from(from).unwrap()..usize::try_from(to).unwrap()]);
    }
    file.resize(file.len() + usize::try_from(layout.padding().0).unwrap(), 0);
    assert_eq!(file.len() as u64, layout.file_size().0);
    std::fs::write(path, file).unwrap();
}

#[test]
fn sizes_at_the_edges_are_clean() {
    let folder = TempDir::new().unwrap();
    for (size, data) in
        [(0, None), (512, None), (512, Some(0)), (CLUSTER + 512, Some(CLUSTER)), (CLUSTER, Some(0))]
    {
        let path = folder.path().join(format!("{size}-{data:?}.qcow2"));
        let mut disk = vec![0; size];
        let mut ranges = Vec::new();
        if let Some(at) = data {
            disk[at..].copy_from_slice(&noise(9, size - at));
            ranges.push(Extent::new(at as u64, (size - at) as u64).unwrap());
        }
        send(&path, &disk, ranges);
        assert_clean(&path);
        assert_qemu_reads(&path, &disk);
    }
}

#[test]
fn a_sparse_disk_of_many_tables_is_clean() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("sparse.qcow2");
    let size = ByteLen(6 << 40);
    // More than one cluster of L1 entries, the last of them used.
    let places: Vec<u64> = (0..30).map(|step| step * (200 << 30) + step * CLUSTER_SIZE).collect();
    let last = size.0 - 2 * CLUSTER_SIZE;
    let ranges = places.iter().chain([&last]).map(|&at| Extent::new(at, CLUSTER_SIZE).unwrap()).collect();
    let layout = Arc::new(StreamLayout::new(size, &ExtentList::checked(ranges, size).unwrap()).unwrap());
    let mut sink = Sink::create(&path);
    for cluster in StreamLayout::head(Arc::clone(&layout)) {
        sink.append(&[cluster]);
    }
    for range in layout.data().iter() {
        sink.append(&[Bytes::from(noise(range.offset.0, CLUSTER))]);
    }
    assert_clean(&path);
    for at in places.into_iter().chain([last]) {
        let found = tool("qemu-io", &["-r", "-f", "qcow2", "-c", &format!("read -v {at} 16"), text(&path)]);
        let expected: String = noise(at, 16).iter().map(|byte| format!("{byte:02x} ")).collect();
        assert!(found.contains(&expected), "at {at}: {expected} is not in\n{found}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 24,
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct("tests/qcow2/property.regressions"))),
        ..ProptestConfig::default()
    })]

    #[test]
    fn streamed_images_equal_the_disk(
        sectors in 1..6000_usize,
        runs in proptest::collection::vec((0..6000_usize, 1..400_usize), 0..12),
    ) {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("streamed.qcow2");
        let mut disk = vec![0; sectors * 512];
        let mut ranges = Vec::new();
        for (from, count) in runs {
            let (start, end) = (from.min(sectors) * 512, (from + count).min(sectors) * 512);
            if start < end {
                disk[start..end].copy_from_slice(&noise(from as u64, end - start));
                ranges.push(Extent::new(start as u64, (end - start) as u64).unwrap());
            }
        }
        send(&path, &disk, ranges);
        assert_clean(&path);
        assert_qemu_reads(&path, &disk);
        prop_assert!(read_all(&open_chain(&[path])) == disk, "our reader differs");
    }
}
