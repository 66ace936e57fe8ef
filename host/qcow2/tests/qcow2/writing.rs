//! What the writer promises: images that qemu accepts, bounded memory, an order that is refused when it is wrong,
//! and no image at all before the header is written.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use tempfile::TempDir;
use tidemark_model::{ByteLen, Extent, GuestOffset};
use tidemark_qcow2::{
    BackingFile, CLUSTER_SIZE, Chain, Compression, EncodedCluster, ErrorKind, Image, ImageSpec, ImageWriter,
};

use crate::images::{
    CLUSTER, Sink, ZSTD, assert_clean, assert_qemu_reads, noise, open, open_chain, prose, read_all, run,
    spec, text, tool, write_clusters, write_full,
};

const TIB: u64 = 1 << 40;

/// Text, noise and zeros by turns, and a last cluster that is not whole.
fn mixed_disk() -> Vec<u8> {
    let mut disk = Vec::new();
    for turn in 0..40 {
        match turn % 4 {
            0 | 1 => disk.extend(prose(turn + 1, CLUSTER)),
            2 => disk.extend(noise(turn + 1, CLUSTER)),
            _ => disk.extend(vec![0; CLUSTER]),
        }
    }
    disk.extend(prose(99, 1536));
    disk
}

#[test]
fn full_images_are_clean_and_equal_their_source() {
    let folder = TempDir::new().unwrap();
    let disk = mixed_disk();
    for (name, compression) in
        [("plain", Compression::None), ("zstd", ZSTD), ("hard", Compression::Zstd { level: 19 })]
    {
        let path = folder.path().join(format!("{name}.qcow2"));
        write_full(&path, compression, &disk);
        assert_clean(&path);
        assert_qemu_reads(&path, &disk);
        assert!(read_all(&open_chain(&[path])) == disk, "{name}: our reader differs");
    }
}

#[test]
fn the_header_says_what_qemu_expects() {
    let folder = TempDir::new().unwrap();
    let base = folder.path().join("base.qcow2");
    write_full(&base, Compression::None, &prose(1, 3 * CLUSTER));
    let top = folder.path().join("top.qcow2");
    write_clusters(&top, spec(3 * CLUSTER_SIZE, ZSTD, Some("base.qcow2")), &prose(2, 3 * CLUSTER), 1..2);
    let info = tool("qemu-img", &["info", "--backing-chain", "-f", "qcow2", text(&top)]);
    for line in
        ["compression type: zstd", "backing file: base.qcow2", "backing file format: qcow2", "compat: 1.1"]
    {
        assert!(info.contains(line), "{line} is missing in\n{info}");
    }
    let info = tool("qemu-img", &["info", text(&base)]);
    assert!(info.contains("compression type: zlib"), "the zstd bit without a compressed cluster:\n{info}");
    let header = std::fs::read(&top).unwrap();
    assert_eq!(header[100..104], 112_u32.to_be_bytes(), "header length");
    assert_eq!((header[79], header[104]), (8, 1), "incompatible bit 3 and compression type");
    assert_eq!(open(&top).backing_name(), Some("base.qcow2"));
}

#[test]
fn sizes_at_the_edges_are_clean() {
    let folder = TempDir::new().unwrap();
    for size in [0, 512, CLUSTER_SIZE, CLUSTER_SIZE + 512, 512 << 20, (512 << 20) + 512] {
        let path = folder.path().join(format!("{size}.qcow2"));
        let disk = noise(size + 1, CLUSTER);
        let mut writer = ImageWriter::new(spec(size, ZSTD, None)).unwrap();
        let mut sink = Sink::create(&path);
        let last = size.saturating_sub(1) / CLUSTER_SIZE * CLUSTER_SIZE;
        if size > 0 {
            let tail = usize::try_from(size - last).unwrap();
            let cluster = writer.encoder().encode(Bytes::copy_from_slice(&disk[..tail]));
            writer.push(GuestOffset(last), cluster).unwrap();
        }
        sink.append(&writer.take_output());
        sink.finish(&writer.finish().unwrap());
        assert_clean(&path);
        let info = tool("qemu-img", &["info", "--output=json", text(&path)]);
        assert!(info.contains(&format!("\"virtual-size\": {size}")), "{info}");
        let chain = open_chain(&[path]);
        let mut read = vec![0; usize::try_from(size - last).unwrap()];
        chain.read_at(GuestOffset(last), &mut read).unwrap();
        assert!(read == disk[..read.len()], "{size} bytes");
    }
}

#[test]
fn no_prefix_of_the_output_is_an_image() {
    let folder = TempDir::new().unwrap();
    let disk = mixed_disk();
    let mut writer = ImageWriter::new(spec(disk.len() as u64, ZSTD, None)).unwrap();
    let mut encoder = writer.encoder();
    let mut output = Vec::new();
    for (index, cluster) in disk.chunks(CLUSTER).enumerate() {
        let cluster = encoder.encode(Bytes::copy_from_slice(cluster));
        writer.push(GuestOffset(index as u64 * CLUSTER_SIZE), cluster).unwrap();
        output.extend(writer.take_output());
    }
    let image = writer.finish().unwrap();
    output.extend(image.tail);
    let mut written = Vec::new();
    for bytes in output {
        written.extend_from_slice(&bytes);
        assert_eq!(written[..4], [0; 4], "the magic's place");
        let error = Image::open(Arc::new(written.clone())).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
    }
    let path = folder.path().join("crashed.qcow2");
    std::fs::write(&path, &written).unwrap();
    assert!(!run("qemu-img", &["info", "-f", "qcow2", text(&path)]).status.success());
    written[..CLUSTER].copy_from_slice(&image.header);
    std::fs::write(&path, &written).unwrap();
    assert_qemu_reads(&path, &disk);
}

/// A few clusters far apart on a disk of 8 TiB: memory stays a window and the file small.
#[test]
fn a_sparse_disk_of_8_tib_needs_little_memory() {
    let folder = TempDir::new().unwrap();
    let places =
        [0, 5 << 29, (5 << 29) - CLUSTER_SIZE, TIB, 3 * TIB + 7 * CLUSTER_SIZE, 8 * TIB - CLUSTER_SIZE];
    let mut places: Vec<u64> = places.into();
    places.extend((1..2000).map(|step| 4 * TIB + step * (513 << 20) / CLUSTER_SIZE * CLUSTER_SIZE));
    places.sort_unstable();
    let path = folder.path().join("sparse.qcow2");
    let mut writer = ImageWriter::new(spec(8 * TIB, ZSTD, None)).unwrap();
    let mut encoder = writer.encoder();
    let mut sink = Sink::create(&path);
    let mut highest = 0;
    for &place in &places {
        let cluster = encoder.encode(Bytes::from(prose(place | 1, CLUSTER)));
        writer.push(GuestOffset(place), cluster).unwrap();
        highest = highest.max(writer.pending());
        sink.append(&writer.take_output());
    }
    sink.finish(&writer.finish().unwrap());
    assert!(highest < 3 << 20, "{highest} bytes were pending");
    assert_clean(&path);
    let chain = open_chain(std::slice::from_ref(&path));
    for &place in &places {
        let mut read = vec![0; CLUSTER];
        chain.read_at(GuestOffset(place), &mut read).unwrap();
        assert!(read == prose(place | 1, CLUSTER), "differs at {place}");
    }
    let map = chain.map(Extent::new(0, 8 * TIB).unwrap()).unwrap();
    assert_eq!(map.iter().map(|mapping| mapping.extent.length.0).sum::<u64>(), 8 * TIB);
    let expected = folder.path().join("cluster");
    std::fs::write(&expected, prose(TIB | 1, CLUSTER)).unwrap();
    let script = format!("read -v {TIB} 64");
    let ours: String = prose(TIB | 1, 16).iter().map(|byte| format!("{byte:02x} ")).collect();
    let read = tool("qemu-io", &["-r", "-f", "qcow2", "-c", &script, text(&path)]);
    assert!(read.contains(ours.trim_end()), "{read}");
}

/// More than 4 GiB in the file: refcount blocks are streamed, and compressed clusters lie across their borders.
#[test]
fn refcount_blocks_are_streamed() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("large.qcow2");
    let zeros = Bytes::from(vec![0; CLUSTER]);
    let clusters = 70_000_u64;
    let mut writer = ImageWriter::new(spec(clusters * CLUSTER_SIZE, ZSTD, None)).unwrap();
    let mut encoder = writer.encoder();
    let mut sink = Sink::create(&path);
    let mut highest = 0;
    for index in 0..clusters {
        // Compressed in bursts, so that the borders at 2 and 4 GiB are met in both ways.
        let cluster = if index % 100 < 3 || (32_700..32_900).contains(&index) {
            encoder.encode(Bytes::from(prose(index + 1, 4096)))
        } else {
            EncodedCluster::Plain(zeros.clone())
        };
        writer.push(GuestOffset(index * CLUSTER_SIZE), cluster).unwrap();
        highest = highest.max(writer.pending());
        for bytes in writer.take_output() {
            if bytes.as_ptr() == zeros.as_ptr() {
                sink.skip(CLUSTER_SIZE);
            } else {
                sink.append(&[bytes]);
            }
        }
    }
    sink.finish(&writer.finish().unwrap());
    assert!(highest < 3 << 20, "{highest} bytes were pending");
    assert_clean(&path);
    let chain = open_chain(&[path]);
    for index in [0, 101, 32_768, 65_600] {
        let mut read = vec![0; 4096];
        chain.read_at(GuestOffset(index * CLUSTER_SIZE), &mut read).unwrap();
        assert!(read == prose(index + 1, 4096), "cluster {index}");
    }
}

#[test]
fn a_wide_zero_range_masks_the_backing_file() {
    let folder = TempDir::new().unwrap();
    let (base, top) = (folder.path().join("base.qcow2"), folder.path().join("top.qcow2"));
    let size = 3 * (512 << 20) + 5 * CLUSTER_SIZE + 512;
    let mut writer = ImageWriter::new(spec(size, Compression::None, None)).unwrap();
    let mut sink = Sink::create(&base);
    for index in [0, 1, 8191, 8192, 20_000, 24_580] {
        let cluster = EncodedCluster::Plain(Bytes::from(prose(index + 1, CLUSTER)));
        writer.push(GuestOffset(index * CLUSTER_SIZE), cluster).unwrap();
    }
    sink.append(&writer.take_output());
    sink.finish(&writer.finish().unwrap());

    let mut writer = ImageWriter::new(spec(size, Compression::None, Some("base.qcow2"))).unwrap();
    let mut sink = Sink::create(&top);
    writer.zero(Extent::new(CLUSTER_SIZE, size - CLUSTER_SIZE).unwrap()).unwrap();
    sink.append(&writer.take_output());
    let image = writer.finish().unwrap();
    assert_eq!(image.zero_clusters, size.div_ceil(CLUSTER_SIZE) - 1);
    sink.finish(&image);
    assert_clean(&top);
    let map = tool("qemu-img", &["map", "--output=json", "-f", "qcow2", text(&top)]);
    assert_eq!(map.matches("\"data\": true").count(), 1, "{map}");
    let chain = open_chain(&[top, base]);
    let map = chain.map(Extent::new(0, size).unwrap()).unwrap();
    assert_eq!(map.len(), 2, "{map:?}");
    assert_eq!(map[0].extent.length, ByteLen(CLUSTER_SIZE));
}

#[test]
fn without_a_backing_file_zeros_cost_nothing() {
    let mut writer = ImageWriter::new(spec(TIB, ZSTD, None)).unwrap();
    writer.push(GuestOffset(0), EncodedCluster::Zero).unwrap();
    writer.zero(Extent::new(CLUSTER_SIZE, TIB - CLUSTER_SIZE).unwrap()).unwrap();
    assert_eq!(writer.stored(), ByteLen(CLUSTER_SIZE));
    let image = writer.finish().unwrap();
    // Header, L1, one refcount block, the refcount table.
    assert_eq!((image.file_size.0, image.zero_clusters), (4 * CLUSTER_SIZE, 0));
}

#[test]
fn packing_wastes_little_when_kinds_alternate() {
    let disk = (0..400).flat_map(|turn| {
        if turn % 2 == 0 { noise(turn + 1, CLUSTER) } else { prose(turn + 1, CLUSTER / 8).repeat(8) }
    });
    let disk: Vec<u8> = disk.collect();
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("mixed.qcow2");
    write_full(&path, ZSTD, &disk);
    assert_clean(&path);
    let stored = std::fs::metadata(&path).unwrap().len();
    // 200 plain clusters and 200 of about 5 KiB; a cluster for each kind by itself would make 26 MiB.
    assert!(stored < 200 * CLUSTER_SIZE + 200 * 8192 + 8 * CLUSTER_SIZE, "{stored} bytes");
}

#[test]
fn wrong_calls_are_refused_by_kind() {
    fn refused<T: std::fmt::Debug>(result: tidemark_qcow2::Result<T>) {
        assert_eq!(result.unwrap_err().kind(), ErrorKind::Invalid);
    }
    let mut writer = ImageWriter::new(spec(10 * CLUSTER_SIZE + 512, Compression::None, None)).unwrap();
    let plain = || EncodedCluster::Plain(Bytes::from(vec![1; CLUSTER]));
    writer.push(GuestOffset(2 * CLUSTER_SIZE), plain()).unwrap();
    refused(writer.push(GuestOffset(2 * CLUSTER_SIZE), plain()));
    refused(writer.push(GuestOffset(CLUSTER_SIZE), plain()));
    refused(writer.push(GuestOffset(3 * CLUSTER_SIZE + 512), plain()));
    refused(writer.push(GuestOffset(11 * CLUSTER_SIZE), plain()));
    refused(writer.push(GuestOffset(3 * CLUSTER_SIZE), EncodedCluster::Plain(Bytes::from_static(b"short"))));
    refused(
        writer.push(GuestOffset(3 * CLUSTER_SIZE), EncodedCluster::Compressed(Bytes::from_static(b"frame"))),
    );
    refused(writer.zero(Extent::new(CLUSTER_SIZE, CLUSTER_SIZE).unwrap()));
    refused(writer.zero(Extent::new(3 * CLUSTER_SIZE, 512).unwrap()));
    refused(writer.zero(Extent::new(10 * CLUSTER_SIZE, CLUSTER_SIZE).unwrap()));
    writer.zero(Extent::new(10 * CLUSTER_SIZE, 512).unwrap()).unwrap();

    let made = |spec: ImageSpec| ImageWriter::new(spec).map(|_| ());
    refused(made(spec(1000, Compression::None, None)));
    refused(made(spec(u64::MAX / 512 * 512, Compression::None, None)));
    refused(made(spec(512, Compression::Zstd { level: 0 }, None)));
    let long = "x".repeat(1024);
    for name in ["", "..", "a/b.qcow2", "/etc/passwd", "nbd:localhost:10809", "json:{}", &long] {
        refused(made(spec(512, Compression::None, Some(name))));
    }
    made(spec(512, Compression::None, Some(&long[..1023]))).unwrap();
    let backing = BackingFile { name: "disk".to_owned(), format: "vmdk".to_owned() };
    refused(made(ImageSpec { backing: Some(backing), ..spec(512, Compression::None, None) }));
}

#[test]
fn the_longest_backing_name_and_a_raw_base_work() {
    let folder = TempDir::new().unwrap();
    let disk = prose(5, 4 * CLUSTER);
    std::fs::write(folder.path().join("base.raw"), &disk).unwrap();
    let top = folder.path().join("top.qcow2");
    let backing = BackingFile { name: "base.raw".to_owned(), format: "raw".to_owned() };
    let overlay = ImageSpec { backing: Some(backing), ..spec(disk.len() as u64, ZSTD, None) };
    let mut changed = disk.clone();
    changed[CLUSTER..2 * CLUSTER].fill(0);
    write_clusters(&top, overlay, &changed, 1..2);
    assert_clean(&top);
    assert_qemu_reads(&top, &changed);

    let long = "y".repeat(1023);
    let image = ImageWriter::new(spec(512, Compression::None, Some(&long))).unwrap().finish().unwrap();
    let file = [vec![0; CLUSTER], image.tail[1..].concat()].concat();
    let mut whole = file;
    whole[..CLUSTER].copy_from_slice(&image.header);
    let opened = Image::open(Arc::new(whole)).unwrap();
    assert_eq!(opened.backing_name(), Some(long.as_str()));
    assert_eq!(Chain::new(vec![opened]).unwrap_err().kind(), ErrorKind::Invalid);
    assert!(Path::new(&top).exists());
}
