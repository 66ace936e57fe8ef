//! The client against nbdkit: servers that fail, dawdle, die, and come back the same, another, or not at all.

use std::path::Path;
use std::time::Duration;

use bytes::BytesMut;
use tidemark_model::ByteLen;
use tidemark_nbd::{Client, Errno, ErrorKind, NbdUri};

use crate::process::{Daemon, extent, quick, read_all, text};

fn nbdkit(socket: &Path, arguments: &[&str]) -> Daemon {
    // What a killed predecessor left behind.
    let _ = std::fs::remove_file(socket);
    let mut all = vec!["-f", "-r", "-U", text(socket)];
    all.extend(arguments);
    Daemon::start("nbdkit", &all, socket)
}

/// What nbdkit's pattern plugin shows: each 8 bytes are their own offset.
fn pattern(offset: u64, length: u64) -> Vec<u8> {
    (offset..offset + length).step_by(8).flat_map(u64::to_be_bytes).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn data_in_a_sparse_sea() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("s");
    // Offsets beyond any 32-bit number, and more than one block status request.
    let _server = nbdkit(&socket, &["data", "@0x400000000 0x55 @0x500000000 0xaa", "size=64G"]);
    let client = Client::connect(quick(NbdUri::unix(&socket, ""))).await.unwrap();
    assert_eq!(client.size(), ByteLen(64 << 30));
    let data = client.allocated(extent(0, 64 << 30)).await.unwrap();
    assert_eq!(data.len(), 2);
    for (range, byte) in data.iter().zip([0x55, 0xaa]) {
        let content = client.read(extent(range.offset.0, 4096), BytesMut::new()).await.unwrap();
        assert!(content.contains(&byte), "at {}", range.offset);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_structured_replies_all_counts_as_data() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("s");
    let _server = nbdkit(&socket, &["--no-sr", "pattern", "size=3M"]);
    let client = Client::connect(quick(NbdUri::unix(&socket, ""))).await.unwrap();
    assert!(!client.info().structured_replies && client.info().contexts.is_empty());
    assert_eq!(client.allocated(extent(0, 3 << 20)).await.unwrap().total(), ByteLen(3 << 20));
    assert!(read_all(&client, 64 << 10).await == pattern(0, 3 << 20));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_knows_only_the_old_option() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("s");
    let _server = nbdkit(&socket, &["--mask-handshake=1", "pattern", "size=1M"]);
    let client = Client::connect(quick(NbdUri::unix(&socket, ""))).await.unwrap();
    assert!(read_all(&client, 64 << 10).await == pattern(0, 1 << 20));
    drop(client);

    let socket = folder.path().join("old");
    let _server = nbdkit(&socket, &["--oldstyle", "pattern", "size=1M"]);
    let error = Client::connect(quick(NbdUri::unix(&socket, ""))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_from_the_disk_names_the_place_and_harms_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let (socket, trigger) = (folder.path().join("s"), folder.path().join("fail"));
    let file = format!("error-pread-file={}", text(&trigger));
    let _server = nbdkit(
        &socket,
        &["--filter=error", "pattern", "size=1M", "error-pread=EIO", "error-pread-rate=100%", &file],
    );
    let client = Client::connect(quick(NbdUri::unix(&socket, ""))).await.unwrap();
    std::fs::write(&trigger, "").unwrap();
    let error = client.read(extent(65536, 4096), BytesMut::new()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Remote(Errno::IO));
    let message = error.to_string();
    assert!(message.contains("read of 4096 bytes at guest offset 65536"), "{message}");
    std::fs::remove_file(&trigger).unwrap();
    assert!(read_all(&client, 64 << 10).await == pattern(0, 1 << 20));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_never_answers_is_given_up() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("s");
    let _server = nbdkit(&socket, &["--filter=delay", "pattern", "size=1M", "rdelay=600"]);
    let mut options = quick(NbdUri::unix(&socket, ""));
    options.request_timeout = Duration::from_millis(200);
    options.reconnect.attempts = 2;
    let client = Client::connect(options).await.unwrap();
    let error = client.read(extent(0, 4096), BytesMut::new()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(error.is_retryable());
}

/// Reads on and on in eight tasks until told to stop; every byte is checked.
async fn read_under(
    client: &Client,
    size: u64,
    disturb: impl Future<Output = ()>,
) -> Vec<Result<u64, ErrorKind>> {
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let readers: Vec<_> = (0..8_u64)
        .map(|reader| {
            let (client, stop) = (client.clone(), stop.clone());
            tokio::spawn(async move {
                let (mut count, mut buffer) = (0, BytesMut::new());
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    let offset = (count * 8 + reader) * 65536 % size;
                    buffer = client.read(extent(offset, 65536), buffer).await.map_err(|e| e.kind())?;
                    assert!(buffer[..] == pattern(offset, 65536), "wrong bytes at {offset}");
                    count += 1;
                }
                Ok(count)
            })
        })
        .collect();
    disturb.await;
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let mut outcomes = Vec::new();
    for reader in readers {
        outcomes.push(reader.await.unwrap());
    }
    outcomes
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_dies_and_comes_back_is_read_on() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("s");
    let mut server = Some(nbdkit(&socket, &["pattern", "size=64M"]));
    let mut options = quick(NbdUri::unix(&socket, ""));
    options.reconnect.attempts = 200;
    let client = Client::connect(options).await.unwrap();
    assert!(client.info().connections > 1);
    let outcomes = read_under(&client, 64 << 20, async {
        for _ in 0..3 {
            tokio::time::sleep(Duration::from_millis(150)).await;
            server.take().unwrap().kill();
            server = Some(nbdkit(&socket, &["pattern", "size=64M"]));
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    });
    for outcome in outcomes.await {
        assert!(outcome.unwrap() > 0);
    }
    // Each connection has come back, the one for block status too.
    assert_eq!(client.allocated(extent(0, 64 << 20)).await.unwrap().total(), ByteLen(64 << 20));
    client.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stays_away_fails_after_the_attempts() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("s");
    let server = nbdkit(&socket, &["pattern", "size=1M"]);
    let client = Client::connect(quick(NbdUri::unix(&socket, ""))).await.unwrap();
    server.kill();
    let error = client.read(extent(0, 4096), BytesMut::new()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable);
    assert!(error.to_string().contains("6 attempts"), "{error}");
    // For good, and at once.
    let _server = nbdkit(&socket, &["pattern", "size=1M"]);
    assert_eq!(
        client.read(extent(0, 4096), BytesMut::new()).await.unwrap_err().kind(),
        ErrorKind::Unreachable
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_of_another_size_is_not_read_on() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("s");
    let server = nbdkit(&socket, &["pattern", "size=1M"]);
    let client = Client::connect(quick(NbdUri::unix(&socket, ""))).await.unwrap();
    server.kill();
    let _server = nbdkit(&socket, &["pattern", "size=2M"]);
    let error = client.read(extent(0, 4096), BytesMut::new()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Changed);
    assert!(!error.is_retryable());
    assert!(error.to_string().contains("was 1048576 bytes and is 2097152 bytes"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_without_its_contexts_is_not_read_on() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("s");
    let server = nbdkit(&socket, &["pattern", "size=1M"]);
    let client = Client::connect(quick(NbdUri::unix(&socket, ""))).await.unwrap();
    server.kill();
    let _server = nbdkit(&socket, &["--no-sr", "pattern", "size=1M"]);
    let error = client.allocated(extent(0, 4096)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Changed, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_that_is_gone_is_a_permanent_error() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("s");
    let strict = ["--filter=exportname", "pattern", "size=1M", "exportname-strict=true"];
    let serving = |name: &'static str| nbdkit(&socket, &[&strict[..], &[name]].concat());
    let server = serving("exportname=monday");
    let client = Client::connect(quick(NbdUri::unix(&socket, "monday"))).await.unwrap();
    server.kill();
    let _server = serving("exportname=tuesday");
    let error = client.read(extent(0, 4096), BytesMut::new()).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::ExportGone), "{error:?}");
    assert!(!error.is_retryable());
}
