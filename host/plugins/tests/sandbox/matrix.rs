//! Every way to misbehave in one table: what was tried, and the typed error that it got, which names the plugin and its
//! version where there is one. After each, the next session on the same runtime works. `--nocapture` shows the table.
//!
//! The compiler that is kept busy for ever has a process of its own to lose; `tests/e2e/plugins.rs` tries that.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tidemark_model::{ByteLen, ChangeId, DiskKey};
use tidemark_plugins::{Connector, Error, Limits, Manifest, Network, Since, attach_manifest, read_manifest};

use crate::guests::{Audit, Lab, connector_bytes, runtime, session, storage_bytes};
use crate::http_server::Server;

/// How long a loop may compute in these tests.
const RUN: Duration = Duration::from_millis(200);

fn limits() -> Limits {
    Limits {
        call_timeout: Duration::from_millis(1500),
        run_timeout: RUN,
        transfer_bytes: 8 << 20,
        ..Limits::default()
    }
}

/// The table while it is filled.
struct Matrix {
    lab: Lab,
    rows: Vec<[String; 3]>,
}

impl Matrix {
    /// Notes an error of a plugin, which has to be of this kind, and sees that the next session works.
    async fn fails(&mut self, what: &str, kind: &str, error: Error) {
        assert_eq!(error.kind().as_str(), kind, "{what}: {error}");
        assert!(!error.plugin().is_empty() && !error.version().is_empty(), "{what}: {error}");
        self.row(what, &error);
        self.next_works(what).await;
    }

    /// The same for bytes that name no plugin.
    async fn refused(&mut self, what: &str, bytes: &[u8]) {
        let error = self.lab.runtime.load(bytes).await.map(|_| ()).unwrap_err();
        assert_eq!(error.kind().as_str(), "load", "{what}: {error}");
        self.row(what, &error);
        self.next_works(what).await;
    }

    fn row(&mut self, what: &str, error: &Error) {
        let words: String = error.to_string().chars().take(110).collect();
        self.rows.push([what.to_owned(), error.kind().as_str().to_owned(), words]);
    }

    async fn next_works(&self, what: &str) {
        let next = self.lab.open(json!({}), &[]).await;
        let mut next = next.unwrap_or_else(|error| panic!("after {what}: {error}"));
        assert_eq!(next.list_all_vms().await.unwrap().len(), 1, "after {what}");
    }

    async fn open(&self, settings: Value) -> Connector {
        self.lab.open(settings, &["http"]).await.unwrap()
    }
}

async fn areas(connector: &mut Connector) -> Error {
    let since = Since::ChangeId(ChangeId("static/1".into()));
    let disk = DiskKey("2000".into());
    connector.changed_areas("vm-1", "s", &disk, &since, ByteLen(1 << 20)).await.unwrap_err()
}

#[tokio::test]
async fn every_misdeed_gets_its_error_and_costs_nobody_else() {
    let mut matrix = Matrix { lab: Lab::connectors(limits()).await, rows: Vec::new() };
    calls(&mut matrix).await;
    answers(&mut matrix).await;
    reaching_out(&mut matrix).await;
    components(&mut matrix).await;
    println!("{:<44} {:<10} what is said", "what the plugin does", "error");
    for [what, kind, words] in &matrix.rows {
        println!("{what:<44} {kind:<10} {words}");
    }
    assert!(matrix.rows.len() >= 28, "{} rows", matrix.rows.len());
}

async fn calls(matrix: &mut Matrix) {
    for (what, behave, kind) in [
        ("loops in a call", "loop", "timeout"),
        ("hoards memory", "memory", "limit"),
        ("overflows its stack", "stack", "trap"),
        ("panics", "trap", "trap"),
        ("floods the log", "log", "limit"),
        ("waits for ever in a call of the host", "sleep", "timeout"),
    ] {
        let mut connector = matrix.open(json!({ "behave": behave, "in": "list-vms" })).await;
        let begun = Instant::now();
        let error = connector.list_all_vms().await.unwrap_err();
        if behave == "loop" {
            // Twice what it may: the machine of a test is busy, and no figure is asserted more closely.
            assert!(begun.elapsed() < RUN * 10, "{:?}", begun.elapsed());
        }
        matrix.fails(what, kind, error).await;
    }
    // Where the host's patience with one call is shorter than with a computation, the call's deadline stops it.
    let outer = Limits { call_timeout: Duration::from_millis(200), ..Limits::default() };
    let lab = Lab::connectors(outer).await;
    let mut connector = lab.open(json!({ "behave": "loop", "in": "list-vms" }), &[]).await.unwrap();
    let begun = Instant::now();
    let error = connector.list_all_vms().await.unwrap_err();
    let what = format!("loops, deadline 200 ms: ended after {} ms", begun.elapsed().as_millis());
    matrix.fails(&what, "timeout", error).await;

    let error = matrix.lab.open(json!({ "behave": "loop", "in": "configure" }), &[]).await.unwrap_err();
    matrix.fails("loops at its start", "timeout", error).await;

    let mut connector = matrix.open(json!({ "behave": "sleep", "in": "keep-alive" })).await;
    assert!(tokio::time::timeout(Duration::from_millis(50), connector.keep_alive()).await.is_err());
    let error = connector.list_all_vms().await.unwrap_err();
    matrix.fails("is cancelled in the middle of a call", "cancelled", error).await;

    let huge = json!({ "thumbprint": "x".repeat(80 << 20) });
    let error = matrix.lab.open(huge, &[]).await.unwrap_err();
    matrix.fails("is handed more than its memory holds", "limit", error).await;
}

async fn answers(matrix: &mut Matrix) {
    let mut connector = matrix.open(json!({ "behave": "huge-result" })).await;
    let error = connector.list_all_vms().await.unwrap_err();
    matrix.fails("answers with far too much", "limit", error).await;
    for (what, behave) in [
        ("answers with unsorted areas", "unsorted"),
        ("answers with overlapping areas", "overlapping"),
        ("answers with areas beyond the disk", "beyond"),
        ("answers with areas that overflow", "overflow"),
        ("says a page is complete beyond the disk", "complete-beyond"),
        ("never gets on with its pages", "stuck-page"),
    ] {
        let error = areas(&mut matrix.open(json!({ "behave": behave })).await).await;
        matrix.fails(what, "invalid", error).await;
    }
    for (what, behave) in [
        ("shows one VM twice", "duplicate-vms"),
        ("has a cursor that does not advance", "stuck-cursor"),
        ("has cursors in a circle", "circling-cursor"),
    ] {
        let mut connector = matrix.open(json!({ "behave": behave })).await;
        let error = connector.list_all_vms().await.unwrap_err();
        matrix.fails(what, "invalid", error).await;
    }
    let audit = Audit::default();
    let runtime = runtime(limits());
    let plugin = runtime.load(storage_bytes()).await.unwrap();
    let settings = json!({ "folder": "/srv/b", "path": "../{key}.partial" });
    let mut target =
        runtime.storage_target(&plugin, session(&settings, &["path:/srv/b"], &audit)).await.unwrap();
    let error = target.begin("a/b", ByteLen(1)).await.unwrap_err();
    matrix.fails("plans a path out of its folder", "invalid", error).await;
}

async fn reaching_out(matrix: &mut Matrix) {
    let server = Server::start().await;
    let fetch =
        |url: &str| json!({ "behave": "http", "in": "check", "url": url, "thumbprint": server.sha256 });
    let mut connector = matrix.lab.open(fetch(&server.url("/")), &["http:other.example"]).await.unwrap();
    let error = connector.check().await.unwrap_err();
    matrix.fails("asks for a host that was not granted", "denied", error).await;
    let error = matrix.open(fetch("https://169.254.169.254/")).await.check().await.unwrap_err();
    matrix.fails("asks for the address of a cloud's metadata", "denied", error).await;

    // A name that may be asked for and resolves to an address that may not, as after a change of its DNS record.
    let manifest = read_manifest(connector_bytes()).unwrap();
    let mut capabilities = manifest.capabilities.clone();
    capabilities.iter_mut().for_each(|wish| wish.networks = vec![Network::Public]);
    let public_only = Manifest { capabilities, ..manifest };
    let component = attach_manifest(connector_bytes(), &public_only).unwrap();
    let plugin = matrix.lab.runtime.load(&component).await.unwrap();
    let session = session(&fetch(&server.url("/")), &["http"], &matrix.lab.audit);
    let mut connector = matrix.lab.runtime.connector(&plugin, session).await.unwrap();
    let error = connector.check().await.unwrap_err();
    matrix.fails("has a name that resolves to an inner address", "denied", error).await;

    let findings = matrix.open(fetch(&server.url("/redirect"))).await.check().await.unwrap();
    assert!(findings[0].message.starts_with("302"), "{findings:?}");
    let row = ["is redirected elsewhere", "-", "the answer is 302; the host does not follow it"];
    matrix.rows.push(row.map(str::to_owned));
    matrix.next_works("a redirect").await;
}

async fn components(matrix: &mut Matrix) {
    let good = connector_bytes();
    matrix.refused("is cut in the middle", &good[..good.len() / 2]).await;
    matrix.refused("is garbage", b"#!/bin/sh\nexit 0\n").await;
    let mut huge = good.to_vec();
    huge.resize(100 << 20, 0);
    matrix.refused("has 100 MiB", &huge).await;
    let odd = r#"{"name":"odd","version":"1.0.0","kind":"connector","contract":"0.1.0"}"#;
    let odd = Manifest::from_json(odd.as_bytes()).unwrap();
    let wants = wat::parse_str(r#"(component (import "wasi:filesystem/types@0.2.0" (instance)))"#).unwrap();
    matrix.refused("imports what its world lacks", &attach_manifest(&wants, &odd).unwrap()).await;
    let renamed = Manifest { name: "somebody-else".into(), ..read_manifest(good).unwrap() };
    let plugin = matrix.lab.runtime.load(&attach_manifest(good, &renamed).unwrap()).await.unwrap();
    let session = session(&json!({}), &[], &matrix.lab.audit);
    let error = matrix.lab.runtime.connector(&plugin, session).await.unwrap_err();
    matrix.fails("calls itself another name than its manifest", "invalid", error).await;
}
