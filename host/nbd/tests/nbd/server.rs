//! The server against nbdinfo, nbdcopy and qemu-img, and against the client, with faults.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::BytesMut;
use tidemark_model::ByteLen;
use tidemark_nbd::{Client, Command, Errno, ErrorKind, Fault, FaultHook, NbdUri, Server, ServerOptions};

use crate::memory::{RUN, Shelf};
use crate::process::{extent, noise, quick, read_all, run_beside, text};

const NAME: &str = "web 01/disk-0";

/// 40 runs, every third of them zero, and an odd end.
fn disk() -> Vec<u8> {
    let mut disk = noise(40 * RUN + 512);
    for run in (0..40).step_by(3) {
        disk[run * RUN..(run + 1) * RUN].fill(0);
    }
    disk
}

fn data_bytes(disk: &[u8]) -> u64 {
    disk.chunks(RUN).filter(|run| run.iter().any(|byte| *byte != 0)).map(|run| run.len() as u64).sum()
}

async fn serve(options: ServerOptions) -> (Server, Arc<Shelf>, NbdUri) {
    let shelf = Shelf::with(NAME, disk());
    let server = Server::bind_tcp("127.0.0.1:0".parse().unwrap(), shelf.clone(), options).await.unwrap();
    let uri = server.uri(NAME);
    (server, shelf, uri)
}

#[tokio::test(flavor = "multi_thread")]
async fn nbdinfo_understands_it() {
    let (server, shelf, uri) = serve(ServerOptions::default()).await;
    shelf.put("other", vec![1; 1024]);
    let json = run_beside("nbdinfo", vec!["--json".into(), uri.to_string()]).await;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["structured"], true);
    let export = &json["exports"][0];
    assert_eq!(export["export-name"], NAME);
    assert_eq!(export["export-size"], disk().len());
    assert_eq!(export["contexts"][0], "base:allocation");
    for (flag, value) in [
        ("is_read_only", true),
        ("can_df", true),
        ("can_multi_conn", true),
        ("can_flush", true),
        ("can_trim", false),
        ("can_zero", false),
    ] {
        assert_eq!(export[flag], value, "{flag}");
    }

    let map = run_beside("nbdinfo", vec!["--map".into(), "--json".into(), uri.to_string()]).await;
    let map: serde_json::Value = serde_json::from_str(&map).unwrap();
    let runs = map.as_array().unwrap();
    assert_eq!(runs.iter().map(|run| run["length"].as_u64().unwrap()).sum::<u64>(), disk().len() as u64);
    let data = runs.iter().filter(|run| run["type"] == 0).map(|run| run["length"].as_u64().unwrap());
    assert_eq!(data.sum::<u64>(), data_bytes(&disk()));
    assert!(runs.iter().all(|run| run["type"] == 0 || run["type"] == 3));

    let list = run_beside("nbdinfo", vec!["--list".into(), "--json".into(), uri.to_string()]).await;
    assert!(list.contains("other") && list.contains(NAME), "{list}");
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nbdcopy_and_qemu_img_copy_it_bit_for_bit() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("s");
    let shelf = Shelf::with(NAME, disk());
    let server = Server::bind_unix(&socket, shelf, ServerOptions::default()).await.unwrap();
    let uri = server.uri(NAME).to_string();

    let copy = folder.path().join("copy.raw");
    for connections in ["1", "4"] {
        // A request size that ends inside runs, so that replies mix holes and data.
        let arguments = [
            "--connections",
            connections,
            "--request-size=1048576",
            "--destination-is-zero",
            uri.as_str(),
            text(&copy),
        ];
        std::fs::write(&copy, vec![0; disk().len()]).unwrap();
        run_beside("nbdcopy", arguments.map(str::to_owned).into()).await;
        assert!(std::fs::read(&copy).unwrap() == disk(), "{connections} connections");
    }

    let image = folder.path().join("copy.qcow2");
    let arguments = ["convert", "-f", "raw", "-O", "qcow2", uri.as_str(), text(&image)];
    run_beside("qemu-img", arguments.map(str::to_owned).into()).await;
    let arguments = ["compare", "-f", "raw", "-F", "qcow2", uri.as_str(), text(&image)];
    let verdict = run_beside("qemu-img", arguments.map(str::to_owned).into()).await;
    assert!(verdict.contains("identical"), "{verdict}");
    server.shutdown().await;
    assert!(!socket.exists(), "the socket is left behind");
}

#[tokio::test(flavor = "multi_thread")]
async fn our_client_reads_what_our_server_shows() {
    let (server, _shelf, uri) = serve(ServerOptions::default()).await;
    let client = Client::connect(quick(uri.clone())).await.unwrap();
    assert!(read_all(&client, 100_000).await == disk());
    let allocated = client.allocated(extent(0, client.size().0)).await.unwrap();
    assert_eq!(allocated.total(), ByteLen(data_bytes(&disk())));
    // Other clients are not disturbed by one that asks for nonsense.
    let error = client.write(tidemark_model::GuestOffset(0), vec![0; 512].into()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);

    let listed = tidemark_nbd::list_exports(&uri, None, Duration::from_secs(20)).await.unwrap();
    assert_eq!(listed[0].name, NAME);
    let again = client.clone();
    client.close().await;
    let error = again.read(extent(0, 512), BytesMut::new()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Closed);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_are_refused_by_the_server_itself() {
    let (server, _shelf, uri) = serve(ServerOptions::default()).await;
    let output = tokio::task::spawn_blocking(move || {
        let arguments = ["-f", "raw", "-c", "write 0 64k", &uri.to_string()];
        std::process::Command::new("qemu-io").args(arguments).output().unwrap()
    });
    assert!(!output.await.unwrap().status.success());
    server.shutdown().await;
}

fn hook(fault: impl Fn(u32) -> Fault + Send + Sync + 'static) -> FaultHook {
    let count = AtomicU32::new(0);
    Arc::new(move |request| {
        assert_eq!(request.export, NAME);
        if request.command == Command::READ {
            fault(count.fetch_add(1, Ordering::SeqCst))
        } else {
            Fault::None
        }
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn dropped_connections_and_delays_are_survived() {
    let faults = hook(|count| match count {
        count if count % 17 == 5 => Fault::Disconnect,
        count if count % 5 == 0 => Fault::Delay(Duration::from_millis(3)),
        _ => Fault::None,
    });
    let options = ServerOptions { fault_hook: Some(faults), ..ServerOptions::default() };
    let (server, _shelf, uri) = serve(options).await;
    let mut options = quick(uri);
    options.reconnect.attempts = 50;
    let client = Client::connect(options).await.unwrap();
    assert!(read_all(&client, 16 << 10).await == disk());
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_drops_every_request_is_given_up() {
    let options = ServerOptions { fault_hook: Some(hook(|_| Fault::Disconnect)), ..ServerOptions::default() };
    let (server, _shelf, uri) = serve(options).await;
    let client = Client::connect(quick(uri)).await.unwrap();
    let error = client.read(extent(0, 512), BytesMut::new()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Disconnected);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_request_is_answered_with_its_error() {
    let faults = hook(|count| if count == 0 { Fault::Fail(Errno::NO_SPACE) } else { Fault::None });
    let options = ServerOptions { fault_hook: Some(faults), multi_conn: false, ..ServerOptions::default() };
    let (server, shelf, uri) = serve(options).await;
    let client = Client::connect(quick(uri)).await.unwrap();
    assert_eq!(client.info().connections, 1);
    let error = client.read(extent(0, 512), BytesMut::new()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Remote(Errno::NO_SPACE));
    // An export that is removed stays with those who have it, until they must come back.
    shelf.remove(NAME);
    assert!(read_all(&client, 1 << 20).await == disk());
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_that_goes_while_the_connection_is_lost() {
    let faults = hook(|count| if count == 3 { Fault::Disconnect } else { Fault::None });
    let options = ServerOptions { fault_hook: Some(faults), multi_conn: false, ..ServerOptions::default() };
    let (server, shelf, uri) = serve(options).await;
    let client = Client::connect(quick(uri)).await.unwrap();
    for _ in 0..3 {
        client.read(extent(0, 512), BytesMut::new()).await.unwrap();
    }
    shelf.remove(NAME);
    let error = client.read(extent(0, 512), BytesMut::new()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ExportGone);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dropped_reads_leave_the_connection_sound() {
    let faults = hook(|_| Fault::Delay(Duration::from_millis(5)));
    let options = ServerOptions { fault_hook: Some(faults), multi_conn: false, ..ServerOptions::default() };
    let (server, _shelf, uri) = serve(options).await;
    let client = Client::connect(quick(uri)).await.unwrap();
    for round in 0..100_u64 {
        let read = client.read(extent(round * 512, 200_000), BytesMut::new());
        // Dropped unsent, on the wire, or while the payload arrives.
        let _ = tokio::time::timeout(Duration::from_micros(round * 80), read).await;
    }
    assert!(read_all(&client, 256 << 10).await == disk());
    server.shutdown().await;
}
