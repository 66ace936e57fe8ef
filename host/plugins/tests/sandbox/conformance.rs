//! The conformance suites tell who keeps to the contract from who does not, and name the duty.

use serde_json::{Value, json};
use tidemark_plugins::conformance::{Check, Trial, try_out};

use crate::guests::{connector_bytes, filesystem_bytes, policy_bytes, storage_bytes};

/// The duties that a component does not do with these settings, each with the reason.
async fn failed(component: &[u8], settings: Value) -> Vec<(String, String)> {
    let settings = settings.as_object().cloned().unwrap_or_default();
    let checks = try_out(component, &Trial { settings, ..Trial::default() }).await;
    assert!(checks.len() > 3, "{checks:?}");
    checks.into_iter().filter_map(|Check { name, problem }| Some((name, problem?))).collect()
}

#[tokio::test]
async fn a_connector_that_guesses_or_crashes_is_named() {
    let url = "nbd://127.0.0.1:1/disk";
    // It answers for every change id: a connector must not.
    let found = failed(connector_bytes(), json!({ "nbd_url": url })).await;
    let [(name, why)] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!(name, "changed-areas of a foreign change id asks for a full");
    assert!(why.contains("it knows what changed"), "{why}");
    let found = failed(connector_bytes(), json!({ "nbd_url": url, "behave": "duplicate-vms" })).await;
    let [(name, why)] = found.as_slice() else { panic!("{found:?}") };
    assert!(name.starts_with("list-vms") && why.contains("comes twice"), "{name}: {why}");
    let trap = json!({ "nbd_url": url, "behave": "trap", "in": "create-snapshot" });
    let found = failed(connector_bytes(), trap).await;
    let [(name, why)] = found.as_slice() else { panic!("{found:?}") };
    assert!(name.starts_with("create-snapshot") && why.contains("(trap)"), "{name}: {why}");
}

#[tokio::test]
async fn a_policy_that_invents_a_backup_is_named() {
    let found = failed(policy_bytes(), json!({})).await;
    let [(name, why)] = found.as_slice() else { panic!("{found:?}") };
    assert!(name.starts_with("retain judges") && why.contains("'ghost'"), "{name}: {why}");
}

#[tokio::test]
async fn a_target_that_leads_out_of_its_folder_is_named() {
    let found = failed(storage_bytes(), json!({ "folder": "/srv/b", "path": "../{key}.partial" })).await;
    let last = found.last().unwrap();
    assert!(last.0 == "begin plans an object" && last.1.contains("(invalid)"), "{found:?}");
}

#[tokio::test]
async fn a_reader_that_takes_any_disk_for_its_own_is_named() {
    let found = failed(filesystem_bytes(), json!({})).await;
    assert!(found.iter().any(|(name, _)| name.starts_with("a disk of random bytes")), "{found:?}");
}
