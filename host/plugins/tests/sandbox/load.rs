//! What is loaded, and what is not.

use tidemark_plugins::{
    ErrorKind, Limits, Manifest, Runtime, RuntimeOptions, attach_manifest, inspect, read_manifest,
};

use crate::guests::{connector_bytes, runtime};

fn manifest(kind: &str) -> Manifest {
    let json = format!(r#"{{"name":"odd","version":"1.0.0","kind":"{kind}","contract":"0.1.0"}}"#);
    Manifest::from_json(json.as_bytes()).unwrap()
}

fn with_manifest(wat: &str, kind: &str) -> Vec<u8> {
    attach_manifest(&wat::parse_str(wat).unwrap(), &manifest(kind)).unwrap()
}

#[tokio::test]
async fn damaged_components_are_refused() {
    let runtime = runtime(Limits::default());
    let good = connector_bytes();
    let mut flipped = good.to_vec();
    let middle = flipped.len() / 2;
    flipped[middle..middle + 64].fill(0xff);
    let cases: [(&str, &[u8]); 5] = [
        ("empty", b""),
        ("no wasm", b"#!/bin/sh\n"),
        ("a core module", b"\0asm\x01\0\0\0"),
        ("cut", &good[..good.len() / 2]),
        ("overwritten", &flipped),
    ];
    for (what, bytes) in cases {
        let error = runtime.load(bytes).await.map(|_| ()).unwrap_err();
        assert_eq!(error.kind(), &ErrorKind::Load, "{what}: {error}");
    }
    assert!(runtime.load(good).await.is_ok());
}

#[tokio::test]
async fn imports_outside_the_world_are_refused() {
    let runtime = runtime(Limits::default());
    for (wat, kind, word) in [
        (r#"(component (import "wasi:filesystem/types@0.2.0" (instance)))"#, "connector", "wasi:filesystem"),
        (r#"(component (import "tidemark:plugin/http@0.1.0" (instance)))"#, "storage-target", "plugin/http"),
        (r#"(component (import "tidemark:plugin/clock@0.1.0" (instance)))"#, "policy", "plugin/clock"),
        (r#"(component (import "tidemark:plugin/log@0.2.0" (instance)))"#, "policy", "log@0.2.0"),
        ("(component)", "policy", "does not export"),
    ] {
        let component = with_manifest(wat, kind);
        let problem = inspect(&component).unwrap().problem.unwrap();
        assert!(problem.contains(word), "{problem}");
        let error = runtime.load(&component).await.map(|_| ()).unwrap_err();
        assert_eq!((error.kind(), error.plugin(), error.version()), (&ErrorKind::Load, "odd", "1.0.0"));
        assert!(error.message().contains(word), "{error}");
    }
}

#[tokio::test]
async fn a_plugin_of_another_kind_or_name_is_refused() {
    let runtime = runtime(Limits::default());
    let original = read_manifest(connector_bytes()).unwrap();
    let renamed = Manifest { name: "somebody-else".into(), ..original };
    let component = attach_manifest(connector_bytes(), &renamed).unwrap();
    let plugin = runtime.load(&component).await.unwrap();
    let session = tidemark_plugins::Session::bare("job-1");
    let error = runtime.connector(&plugin, session.clone()).await.unwrap_err();
    assert_eq!((error.kind(), error.operation()), (&ErrorKind::Invalid, "describe"));
    let error = runtime.storage_target(&plugin, session).await.unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::Unsupported);
}

#[test]
fn an_inspection_says_what_is_inside() {
    let inspection = inspect(connector_bytes()).unwrap();
    assert_eq!(inspection.problem, None);
    assert_eq!(inspection.manifest.name, "hostile");
    assert_eq!(inspection.size, connector_bytes().len());
    assert!(
        inspection.imports.contains(&"tidemark:plugin/http@0.1.0".to_owned()),
        "{:?}",
        inspection.imports
    );
    assert_eq!(inspection.exports, ["tidemark:plugin/hypervisor@0.1.0"]);
    assert!(inspection.imports.iter().all(|import| import.starts_with("tidemark:plugin/")));
}

#[tokio::test]
async fn the_second_load_takes_compiled_code_and_never_damaged_one() {
    let folder = tempfile::tempdir().unwrap();
    let fresh = || {
        let cache_dir = Some(folder.path().join("compiled"));
        Runtime::new(RuntimeOptions { cache_dir, ..RuntimeOptions::default() }).unwrap()
    };
    assert!(!fresh().load(connector_bytes()).await.unwrap().from_cache());
    assert!(fresh().load(connector_bytes()).await.unwrap().from_cache());
    for entry in std::fs::read_dir(folder.path().join("compiled")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "cwasm") {
            let mut code = std::fs::read(&path).unwrap();
            let middle = code.len() / 2;
            code[middle] ^= 0xff;
            std::fs::write(&path, code).unwrap();
        }
    }
    let again = fresh().load(connector_bytes()).await.unwrap();
    assert!(!again.from_cache(), "damaged code was compiled again");
    assert!(fresh().load(connector_bytes()).await.unwrap().from_cache());
}
