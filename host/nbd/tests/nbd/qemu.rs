//! The client against qemu-nbd: raw with holes, qcow2, several connections, dirty bitmaps, writes.

use std::os::unix::fs::FileExt;

use bytes::{Bytes, BytesMut};
use tidemark_model::{ByteLen, GuestOffset};
use tidemark_nbd::codec::{STATE_HOLE, STATE_ZERO};
use tidemark_nbd::{Client, ClientOptions, ErrorKind, NbdUri, StatusExtent};

use crate::process::{Daemon, extent, noise, quick, read_all, run, text};

const MIB: u64 = 1 << 20;

/// A raw file of 8 MiB and a bit whose first and sixth MiB hold data.
fn sparse_file(path: &std::path::Path) -> Vec<u8> {
    let size = 8 * MIB + 512;
    let file = std::fs::File::create(path).unwrap();
    file.set_len(size).unwrap();
    let mut expected = vec![0; usize::try_from(size).unwrap()];
    let data = noise(1 << 20);
    for offset in [0, 5 * MIB] {
        file.write_all_at(&data, offset).unwrap();
        let start = usize::try_from(offset).unwrap();
        expected[start..start + data.len()].copy_from_slice(&data);
    }
    expected
}

fn status(list: &[(u64, u32)]) -> Vec<StatusExtent> {
    list.iter().map(|&(length, flags)| StatusExtent { length: ByteLen(length), flags }).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_raw_file_with_holes_over_several_connections() {
    let folder = tempfile::tempdir().unwrap();
    let (disk, socket) = (folder.path().join("disk.raw"), folder.path().join("s"));
    let expected = sparse_file(&disk);
    let arguments = ["-r", "-t", "-e", "4", "-f", "raw", "-x", "disk a/1", "-k", text(&socket), text(&disk)];
    let _server = Daemon::start("qemu-nbd", &arguments, &socket);

    let options = ClientOptions { connections: 4, ..quick(NbdUri::unix(&socket, "disk a/1")) };
    let client = Client::connect(options).await.unwrap();
    assert_eq!(client.size(), ByteLen(8 * MIB + 512));
    assert_eq!(client.info().contexts, ["base:allocation"]);
    assert!(client.info().multi_conn && client.info().structured_replies);
    assert_eq!(client.info().connections, 4);
    assert!(read_all(&client, 256 << 10).await == expected);

    let map = client.block_status("base:allocation", extent(0, client.size().0)).await.unwrap();
    let hole = STATE_HOLE | STATE_ZERO;
    let tail = 2 * MIB + 512;
    // The file system may round the last hole's state; its beginning is certain.
    assert_eq!(map[..3], status(&[(MIB, 0), (4 * MIB, hole), (MIB, 0)]));
    assert_eq!(map[3..].iter().map(|extent| extent.length.0).sum::<u64>(), tail);

    let data = client.allocated(extent(MIB / 2, 5 * MIB)).await.unwrap();
    let data: Vec<_> = data.iter().map(|range| (range.offset.0, range.length.0)).collect();
    assert_eq!(data, [(MIB / 2, MIB / 2), (5 * MIB, MIB / 2)]);
    client.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_connection_where_the_server_allows_one() {
    let folder = tempfile::tempdir().unwrap();
    let (disk, socket) = (folder.path().join("disk.raw"), folder.path().join("s"));
    let expected = sparse_file(&disk);
    let image = folder.path().join("disk.qcow2");
    run("qemu-img", &["convert", "-f", "raw", "-O", "qcow2", "-c", text(&disk), text(&image)]);
    // Writable, one client: no CAN_MULTI_CONN.
    let arguments = ["-t", "-e", "1", "-f", "qcow2", "-k", text(&socket), text(&image)];
    let _server = Daemon::start("qemu-nbd", &arguments, &socket);

    let client = Client::connect(quick(NbdUri::unix(&socket, ""))).await.unwrap();
    assert_eq!(client.info().connections, 1);
    assert!(read_all(&client, MIB).await == expected);
    let allocated = client.allocated(extent(0, client.size().0)).await.unwrap();
    assert_eq!(allocated.total(), ByteLen(2 * MIB));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_buffer_is_used_again() {
    let folder = tempfile::tempdir().unwrap();
    let (disk, socket) = (folder.path().join("disk.raw"), folder.path().join("s"));
    let expected = sparse_file(&disk);
    let arguments = ["-r", "-t", "-f", "raw", "-k", text(&socket), text(&disk)];
    let _server = Daemon::start("qemu-nbd", &arguments, &socket);
    let client = Client::connect(quick(NbdUri::unix(&socket, ""))).await.unwrap();

    let mut buffer = BytesMut::with_capacity(1 << 20);
    let memory = buffer.as_ptr();
    for offset in [0, 4 * MIB, 5 * MIB] {
        buffer = client.read(extent(offset, MIB), buffer).await.unwrap();
        let start = usize::try_from(offset).unwrap();
        assert!(buffer[..] == expected[start..start + (1 << 20)]);
        assert_eq!(buffer.as_ptr(), memory, "the memory moved");
    }

    for (wrong, length) in [(client.size().0 - 10, 20), (0, 33 << 20), (10, 0)] {
        let error = client.read(extent(wrong, length), BytesMut::new()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidRequest, "{error}");
    }
    let error = client.block_status("qemu:dirty-bitmap:none", extent(0, MIB)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("nbd+unix:///?socket="), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dirty_bitmap_and_the_allocation_side_by_side() {
    let folder = tempfile::tempdir().unwrap();
    let (image, socket) = (folder.path().join("disk.qcow2"), folder.path().join("s"));
    run("qemu-img", &["create", "-q", "-f", "qcow2", text(&image), "64M"]);
    run("qemu-io", &["-f", "qcow2", "-c", "write -P 1 0 4M", text(&image)]);
    run("qemu-img", &["bitmap", "--add", "-g", "64K", text(&image), "since"]);
    run(
        "qemu-io",
        &[
            "-f",
            "qcow2",
            "-c",
            "write -P 2 1M 100k",
            "-c",
            "write -P 3 32M 64k",
            "-c",
            "discard 2M 64k",
            text(&image),
        ],
    );
    let arguments =
        ["-r", "-t", "-e", "2", "-B", "since", "-A", "-f", "qcow2", "-k", text(&socket), text(&image)];
    let _server = Daemon::start("qemu-nbd", &arguments, &socket);

    let bitmap = "qemu:dirty-bitmap:since";
    let mut options = quick(NbdUri::unix(&socket, ""));
    options.contexts = [bitmap, "base:allocation", "qemu:dirty-bitmap:other"].map(str::to_owned).into();
    let client = Client::connect(options).await.unwrap();
    assert_eq!(client.info().contexts, [bitmap, "base:allocation"]);
    // Four were wanted, but the server has room for two.
    assert_eq!(client.info().connections, 2);

    let dirty = client.block_status(bitmap, extent(0, 64 * MIB)).await.unwrap();
    let k64 = 64 << 10;
    let expected = status(&[
        (MIB, 0),
        (2 * k64, 1),
        (MIB - 2 * k64, 0),
        (k64, 1),
        (30 * MIB - k64, 0),
        (k64, 1),
        (32 * MIB - k64, 0),
    ]);
    assert_eq!(dirty, expected);
    let allocated = client.allocated(extent(0, 64 * MIB)).await.unwrap();
    assert_eq!(allocated.total(), ByteLen(4 * MIB - k64 + k64));
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_zeroes_trims_and_flushes_reach_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let (disk, socket) = (folder.path().join("disk.raw"), folder.path().join("s"));
    std::fs::write(&disk, vec![7; 4 << 20]).unwrap();
    let arguments = ["-t", "-e", "4", "--discard=unmap", "-f", "raw", "-k", text(&socket), text(&disk)];
    let _server = Daemon::start("qemu-nbd", &arguments, &socket);
    let client = Client::connect(quick(NbdUri::unix(&socket, ""))).await.unwrap();

    client.write(GuestOffset(MIB), Bytes::from(noise(300_000 / 512 * 512))).await.unwrap();
    client.write_zeroes(extent(2 * MIB, MIB)).await.unwrap();
    client.trim(extent(3 * MIB, MIB)).await.unwrap();
    client.flush().await.unwrap();
    let stored = std::fs::read(&disk).unwrap();
    let length = 300_000 / 512 * 512;
    assert!(stored[1 << 20..(1 << 20) + length] == noise(length));
    assert!(stored[..1 << 20].iter().chain(&stored[(1 << 20) + length..2 << 20]).all(|byte| *byte == 7));
    assert!(stored[2 << 20..3 << 20].iter().all(|byte| *byte == 0));
    assert!(read_all(&client, 512 << 10).await[..3 << 20] == stored[..3 << 20]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_that_is_not_there() {
    let folder = tempfile::tempdir().unwrap();
    let (disk, socket) = (folder.path().join("disk.raw"), folder.path().join("s"));
    sparse_file(&disk);
    let arguments = ["-r", "-t", "-x", "one", "-f", "raw", "-k", text(&socket), text(&disk)];
    let _server = Daemon::start("qemu-nbd", &arguments, &socket);

    let uri = NbdUri::unix(&socket, "two");
    let error = Client::connect(quick(uri.clone())).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ExportGone, "{error}");
    assert!(!error.is_retryable() && error.to_string().contains("/two?"), "{error}");

    let listed = tidemark_nbd::list_exports(&uri, None, std::time::Duration::from_secs(20)).await.unwrap();
    assert_eq!(listed.iter().map(|export| export.name.as_str()).collect::<Vec<_>>(), ["one"]);

    let nobody = NbdUri::unix(folder.path().join("nobody"), "");
    let error = Client::connect(quick(nobody)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable);
}
