//! Files of this crate against qemu's own reader: `qemu-img info`, `check`, `compare` and `convert` judge them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on has failed"
)]

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use bytes::Bytes;
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;
use tempfile::TempDir;
use tidemark_model::{ByteLen, GuestOffset};
use tidemark_vmdk::{DiskSpec, GRAIN_SIZE, StreamWriter};

const GRAIN: usize = 65536;

/// Runs of bytes of a disk that is zero elsewhere, each inside one grain.
type Runs = Vec<(u64, Vec<u8>)>;

fn qemu_img(arguments: &[&str]) -> String {
    let output = Command::new("qemu-img").args(arguments).output().expect("qemu-img");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "qemu-img {arguments:?}: {}\n{text}{errors}", output.status);
    text
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.flatten().take(length).collect()
}

/// The disk as a sparse raw file, and as our VMDK. Runs ascend, one a grain.
fn write_both(folder: &Path, capacity: u64, runs: &Runs) -> (PathBuf, PathBuf) {
    let (raw, vmdk) = (folder.join("disk.raw"), folder.join("disk.vmdk"));
    let model = File::create(&raw).unwrap();
    model.set_len(capacity).unwrap();
    let spec = DiskSpec {
        capacity: ByteLen(capacity),
        extent_name: "disk.vmdk".to_owned(),
        content_id: 0x1234_5678,
    };
    let mut writer = StreamWriter::new(&spec).unwrap();
    let mut encoder = writer.encoder();
    let mut out: Vec<Bytes> = Vec::new();
    for (offset, bytes) in runs {
        model.write_all_at(bytes, *offset).unwrap();
        let start = offset / GRAIN_SIZE * GRAIN_SIZE;
        let mut grain = vec![0; usize::try_from(GRAIN_SIZE.min(capacity - start)).unwrap()];
        let inside = usize::try_from(offset - start).unwrap();
        grain[inside..inside + bytes.len()].copy_from_slice(bytes);
        writer.push(encoder.encode(GuestOffset(start), &grain)).unwrap();
        out.extend(writer.take_output());
    }
    out.extend(writer.finish().unwrap());
    std::fs::write(&vmdk, out.concat()).unwrap();
    (raw, vmdk)
}

fn assert_equal(raw: &Path, vmdk: &Path) {
    qemu_img(&["check", "-f", "vmdk", text(vmdk)]);
    qemu_img(&["compare", "-f", "raw", "-F", "vmdk", text(raw), text(vmdk)]);
    let capacity = std::fs::metadata(raw).unwrap().len();
    let info = qemu_img(&["info", "--output=json", "-f", "vmdk", text(vmdk)]);
    assert!(info.contains(&format!("\"virtual-size\": {capacity}")), "{info}");
}

#[test]
fn qemu_reads_what_was_written() {
    let folder = TempDir::new().unwrap();
    let capacity = 70 * (1 << 20) + 512;
    let runs: Runs = vec![
        (0, noise(1, GRAIN)),
        (GRAIN_SIZE, vec![b'x'; GRAIN]),
        (3 * GRAIN_SIZE + 100, noise(2, 999)),
        (32 << 20, noise(3, GRAIN)),
        (70 << 20, noise(4, 512)),
    ];
    let (raw, vmdk) = write_both(folder.path(), capacity, &runs);
    assert_equal(&raw, &vmdk);
    let info = qemu_img(&["info", "--output=json", "-f", "vmdk", text(&vmdk)]);
    for part in ["\"virtual-size\": 73400832", "\"create-type\": \"streamOptimized\"", "\"cid\": 305419896"] {
        assert!(info.contains(part), "{part} is missing in\n{info}");
    }
    let converted = folder.path().join("converted.raw");
    qemu_img(&["convert", "-f", "vmdk", "-O", "raw", text(&vmdk), text(&converted)]);
    assert!(std::fs::read(&converted).unwrap() == std::fs::read(&raw).unwrap());
}

#[test]
fn disks_at_the_edges_are_read() {
    for capacity in [512, GRAIN_SIZE, GRAIN_SIZE + 512, 32 << 20, (32 << 20) + 512, 3 << 30] {
        for filled in [false, true] {
            let folder = TempDir::new().unwrap();
            let last: Runs = if filled { vec![(capacity - 512, noise(capacity, 512))] } else { Vec::new() };
            let (raw, vmdk) = write_both(folder.path(), capacity, &last);
            assert_equal(&raw, &vmdk);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 24,
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct("tests/qemu.regressions"))),
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_disk_equals_its_model(
        sectors in 1..200_000_u64,
        grains in proptest::collection::btree_map(0..1600_u64, (0..128_usize, 1..128_usize, 0..3_u8), 0..40),
    ) {
        let folder = TempDir::new().unwrap();
        let capacity = sectors * 512;
        let mut runs = Runs::new();
        for (grain, (from, count, kind)) in grains {
            let start = grain * GRAIN_SIZE + from as u64 * 512;
            let end = (start + count as u64 * 512).min((grain + 1) * GRAIN_SIZE).min(capacity);
            if start < end {
                let length = usize::try_from(end - start).unwrap();
                runs.push((start, match kind {
                    0 => vec![0; length],
                    1 => vec![b'a' + u8::try_from(grain % 26).unwrap(); length],
                    _ => noise(grain, length),
                }));
            }
        }
        let (raw, vmdk) = write_both(folder.path(), capacity, &runs);
        assert_equal(&raw, &vmdk);
    }
}
