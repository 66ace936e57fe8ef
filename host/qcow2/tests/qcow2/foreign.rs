//! Images that qemu made: every cluster size, both versions, both compressions, backing files and snapshots read as
//! qemu reads them; what this crate does not support is refused with its reason.

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use tempfile::TempDir;
use tidemark_qcow2::{CompressionType, ErrorKind, Image, check};

use crate::images::{CLUSTER, assert_clean, noise, open, open_chain, prose, read_all, text, tool};

/// 3 MiB and an odd end: text, zeros, noise.
fn source_disk() -> Vec<u8> {
    let mut disk = prose(1, 16 * CLUSTER);
    disk.extend(vec![0; 16 * CLUSTER]);
    disk.extend(noise(2, 16 * CLUSTER));
    disk.extend(prose(3, 7 * 512));
    disk
}

fn qemu_reads(path: &Path) -> Vec<u8> {
    let raw = path.with_extension("raw");
    tool("qemu-img", &["convert", "-f", "qcow2", "-O", "raw", text(path), text(&raw)]);
    std::fs::read(raw).unwrap()
}

#[test]
fn every_cluster_size_and_compression_reads() {
    let folder = TempDir::new().unwrap();
    let raw = folder.path().join("source.raw");
    let disk = source_disk();
    std::fs::write(&raw, &disk).unwrap();
    for bits in 9..=21 {
        for options in ["compat=0.10", "compat=1.1,compression_type=zlib", "compat=1.1,compression_type=zstd"]
        {
            for compress in [true, false] {
                let path = folder.path().join("image.qcow2");
                let options = format!("{options},cluster_size={}", 1 << bits);
                let mut arguments = vec!["convert", "-f", "raw", "-O", "qcow2", "-o", &options];
                arguments.extend(compress.then_some("-c"));
                arguments.extend([text(&raw), text(&path)]);
                tool("qemu-img", &arguments);
                let image = open(&path);
                assert_eq!(image.header().cluster_bits, bits);
                let report = check(&image).unwrap();
                assert!(report.is_clean(), "{arguments:?}: {report:?}");
                assert_eq!(compress, report.compressed_clusters > 0, "{arguments:?}: {report:?}");
                let read = read_all(&open_chain(std::slice::from_ref(&path)));
                assert!(read == disk, "{arguments:?} reads differently");
            }
        }
    }
}

#[test]
fn a_chain_that_qemu_wrote_reads() {
    let folder = TempDir::new().unwrap();
    let name = |index: usize| folder.path().join(format!("{index}.qcow2"));
    let setups = [
        ("cluster_size=65536", "8M"),
        ("cluster_size=4096,compression_type=zstd", "8M"),
        ("cluster_size=2M", "12M"),
        ("cluster_size=512", "9000448"),
    ];
    let writes: [&[&str]; 4] = [
        &["write -P 1 0 5M", "write -c -P 2 5M 64k", "write -P 3 7000000 1000"],
        &["write -z 64k 128k", "write -P 4 1000 90000", "write -c -P 5 4M 4k", "discard 3M 64k"],
        &["write -P 6 11M 1M", "write -z 0 2M", "write -P 7 2500000 33"],
        &["write -P 8 512 512", "discard 4M 1M", "write -z 8M 1k", "write -P 9 8999936 512"],
    ];
    for (index, ((options, size), steps)) in setups.iter().zip(writes).enumerate() {
        let path = name(index);
        let mut arguments = vec!["create", "-q", "-f", "qcow2", "-o", options];
        let backing = index.checked_sub(1).map(name);
        if let Some(backing) = &backing {
            arguments.extend(["-F", "qcow2", "-b", text(backing)]);
        }
        arguments.extend([text(&path), size]);
        tool("qemu-img", &arguments);
        for step in steps {
            tool("qemu-io", &["-f", "qcow2", "-d", "unmap", "-c", step, text(&path)]);
        }
        assert_clean(&path);
        let paths: Vec<_> = (0..=index).rev().map(name).collect();
        assert!(
            read_all(&open_chain(&paths)) == qemu_reads(&path),
            "a chain of {} reads differently",
            index + 1
        );
    }
}

/// The state now is read; the snapshot's tables are not followed, so a check says that it cannot tell.
#[test]
fn internal_snapshots_do_not_disturb_reading() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("snapshot.qcow2");
    tool("qemu-img", &["create", "-q", "-f", "qcow2", text(&path), "4M"]);
    tool("qemu-io", &["-c", "write -P 1 0 2M", text(&path)]);
    tool("qemu-img", &["snapshot", "-c", "then", text(&path)]);
    tool("qemu-io", &["-c", "write -P 2 1M 2M", text(&path)]);
    let image = open(&path);
    assert_eq!(image.header().snapshots, 1);
    assert_eq!(check(&image).unwrap_err().kind(), ErrorKind::Unsupported);
    assert!(read_all(&open_chain(std::slice::from_ref(&path))) == qemu_reads(&path));
}

#[test]
fn preallocated_and_dirty_images_read() {
    let folder = TempDir::new().unwrap();
    for options in ["preallocation=metadata", "preallocation=falloc", "lazy_refcounts=on", "refcount_bits=1"]
    {
        let path = folder.path().join("image.qcow2");
        tool("qemu-img", &["create", "-q", "-f", "qcow2", "-o", options, text(&path), "5000192"]);
        tool("qemu-io", &["-c", "write -P 3 70000 100000", text(&path)]);
        assert_clean(&path);
        assert!(read_all(&open_chain(std::slice::from_ref(&path))) == qemu_reads(&path), "{options}");
    }
    // The dirty bit says that refcounts may be stale; nothing that is read depends on them.
    let path = folder.path().join("image.qcow2");
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(&[1], 79).unwrap();
    assert!(open(&path).header().dirty);
}

#[test]
fn what_is_not_supported_is_refused_with_its_reason() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("image.qcow2");
    let data = folder.path().join("data.raw");
    let external = format!("data_file={}", text(&data));
    let cases: [(&[&str], &str); 3] = [
        (&["-o", "extended_l2=on"], "extended L2"),
        (&["-o", &external], "external data"),
        (
            &[
                "--object",
                "secret,id=s,data=abc",
                "-o",
                "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10",
            ],
            "encrypted",
        ),
    ];
    for (options, reason) in cases {
        let mut arguments = vec!["create", "-q", "-f", "qcow2"];
        arguments.extend(options);
        arguments.extend([text(&path), "4M"]);
        tool("qemu-img", &arguments);
        let error = Image::open(Arc::new(std::fs::read(&path).unwrap())).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains(reason), "{error}");
    }
}

/// Bytes of a good header overwritten, and what must be said.
#[test]
fn lying_headers_are_refused() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("image.qcow2");
    tool("qemu-img", &["create", "-q", "-f", "qcow2", "-o", "compression_type=zstd", text(&path), "4M"]);
    let good = std::fs::read(&path).unwrap();
    let header = Image::open(Arc::new(good.clone())).unwrap().header().clone();
    assert_eq!(header.compression, CompressionType::Zstd);
    let cases: [(&str, usize, &[u8], ErrorKind); 15] = [
        ("magic", 0, b"QED\0", ErrorKind::Corrupt),
        ("version 1", 7, &[1], ErrorKind::Unsupported),
        ("version 4", 7, &[4], ErrorKind::Unsupported),
        ("tiny clusters", 23, &[8], ErrorKind::Unsupported),
        ("huge clusters", 23, &[60], ErrorKind::Unsupported),
        ("AES", 35, &[1], ErrorKind::Unsupported),
        ("a virtual size beyond any L1", 24, &[0xff; 8], ErrorKind::Unsupported),
        ("a virtual size beyond this L1", 24, &[0, 0, 1], ErrorKind::Corrupt),
        ("an L1 of 32 GiB", 36, &[0xff; 4], ErrorKind::Unsupported),
        ("an L1 beyond the file", 40, &[0, 0x10], ErrorKind::Corrupt),
        ("an L1 off the grid", 47, &[8], ErrorKind::Corrupt),
        ("refcounts of 2^99 bits", 99, &[99], ErrorKind::Corrupt),
        ("an unknown feature", 72, &[0x80], ErrorKind::Unsupported),
        ("marked corrupt", 79, &[0b1010], ErrorKind::Corrupt),
        ("a compression without its bit", 79, &[0], ErrorKind::Corrupt),
    ];
    for (what, at, bytes, kind) in cases {
        let mut bad = good.clone();
        bad[at..at + bytes.len()].copy_from_slice(bytes);
        let error = Image::open(Arc::new(bad)).expect_err(what);
        assert_eq!(error.kind(), kind, "{what}: {error}");
    }
    for length in [0, 3, 71, 100, 300] {
        assert!(Image::open(Arc::new(good[..length].to_vec())).is_err(), "{length} bytes");
    }
}
