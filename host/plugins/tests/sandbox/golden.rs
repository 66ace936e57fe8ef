//! Plugins of every released contract go on running as they were built then: `tests/golden/contract-VERSION` holds one of
//! each kind that the contract touched, and nobody builds them again.

use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};
use tidemark_plugins::conformance::{Check, Trial, try_out};
use tidemark_plugins::{CONTRACTS, Limits, PluginKind, ReadOnlyDisk as _, Session, read_manifest};

use crate::filesystem::Bytes;
use crate::guests::runtime;

/// What the templates' settings have to be; none of it is reached.
fn settings(kind: PluginKind) -> Value {
    match kind {
        PluginKind::Connector => json!({ "nbd_url": "nbd://127.0.0.1:10809/disk", "size_bytes": 1 << 20 }),
        _ => json!({}),
    }
}

/// The golden components of a contract.
fn components(contract: &str) -> Vec<Vec<u8>> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden");
    let entries = std::fs::read_dir(folder.join(format!("contract-{contract}"))).unwrap();
    entries.map(|entry| std::fs::read(entry.unwrap().path()).unwrap()).collect()
}

/// An archive, which is what the template of file-system readers knows.
fn archive() -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("motd"), "hello\n").unwrap();
    let mut tar = Command::new("tar");
    tar.args(["--format=ustar", "--create", "--directory"]).arg(folder.path()).arg("motd");
    let made = tar.output().unwrap();
    assert!(made.status.success(), "tar makes the disk");
    made.stdout
}

#[tokio::test]
async fn plugins_of_every_released_contract_do_their_duties() {
    let disk = Bytes::of(archive());
    let mut kinds = Vec::new();
    for contract in CONTRACTS {
        for component in components(contract) {
            let manifest = read_manifest(&component).unwrap();
            assert_eq!(manifest.contract, contract, "{}", manifest.name);
            let settings = settings(manifest.kind).as_object().cloned().unwrap_or_default();
            let trial = Trial { settings, disk: Some(disk.clone()), ..Trial::default() };
            let checks = try_out(&component, &trial).await;
            let failed: Vec<&Check> = checks.iter().filter(|check| check.problem.is_some()).collect();
            let least = if manifest.kind == PluginKind::VolumeReader { 3 } else { 6 };
            assert!(failed.is_empty() && checks.len() >= least, "{contract} {}: {failed:?}", manifest.name);
            kinds.push((contract, manifest.kind));
        }
    }
    for kind in [
        PluginKind::Connector,
        PluginKind::StorageTarget,
        PluginKind::GuestFilesystem,
        PluginKind::VolumeReader,
        PluginKind::Policy,
    ] {
        assert!(kinds.contains(&("0.1.0", kind)), "no {kind} of contract 0.1.0 in {kinds:?}");
    }
    for later in [("0.2.0", PluginKind::Connector), ("0.3.0", PluginKind::GuestFilesystem)] {
        assert!(kinds.contains(&later), "{kinds:?}");
    }
}

#[tokio::test]
async fn a_volume_reader_of_the_first_contract_reads() {
    let runtime = runtime(Limits::default());
    let mut read = 0;
    for component in components("0.1.0") {
        let plugin = runtime.load(&component).await.unwrap();
        if plugin.manifest().kind == PluginKind::VolumeReader {
            let disk = Bytes::saying("no table");
            let mut reader =
                runtime.volume_reader(&plugin, Session::bare("golden"), vec![disk]).await.unwrap();
            let volumes = reader.scan().await.unwrap();
            assert_eq!((volumes.len(), volumes[0].size.0), (1, 4 << 20));
            read += 1;
        }
    }
    assert_eq!(read, 1);
}

#[tokio::test]
async fn where_files_lie_is_told_since_the_third_contract() {
    let runtime = runtime(Limits::default());
    let disk = Bytes::of(archive());
    let mut told = Vec::new();
    for contract in CONTRACTS {
        for component in components(contract) {
            let plugin = runtime.load(&component).await.unwrap();
            if plugin.manifest().kind == PluginKind::GuestFilesystem {
                let session = Session::bare(contract);
                let mut reader =
                    runtime.guest_filesystem(&plugin, session, vec![disk.clone()]).await.unwrap();
                let volume = reader.open(0).await.unwrap();
                let root = reader.root(volume).await.unwrap();
                let file = reader.lookup(volume, root, b"motd").await.unwrap();
                let runs = reader.placed(volume, file.node, 1, disk.size()).await.unwrap();
                told.push((contract, runs.map(|runs| (runs.len(), runs[0].length.0))));
                // Nobody has to tell everything.
                let attributes = reader.attributes(volume, file.node).await.unwrap();
                assert!(attributes.is_none(), "{contract}: {attributes:?}");
            }
        }
    }
    assert_eq!(told, [("0.1.0", None), ("0.3.0", Some((1, 5)))]);
}

#[tokio::test]
async fn an_optional_interface_is_found_where_it_is_and_not_missed_where_it_is_not() {
    // One host, connectors of two contracts at the same time.
    let runtime = runtime(Limits::default());
    let mut running = Vec::new();
    for contract in CONTRACTS {
        for component in components(contract) {
            let plugin = runtime.load(&component).await.unwrap();
            if plugin.manifest().kind == PluginKind::Connector {
                let settings_json = settings(PluginKind::Connector).to_string();
                let session = Session { settings_json, ..Session::bare(contract) };
                running.push((contract, runtime.connector(&plugin, session).await.unwrap()));
            }
        }
    }
    assert_eq!(running.len(), 2);
    for (contract, connector) in &mut running {
        let product = connector.identify().await.unwrap();
        assert_eq!(product.is_some(), *contract == "0.2.0", "{contract}: {product:?}");
        // The session goes on, whichever it is.
        assert_eq!(connector.list_all_vms().await.unwrap().len(), 1);
    }
}
