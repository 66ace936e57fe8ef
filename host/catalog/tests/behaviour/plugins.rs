//! Plugin versions, their activation and their grants.

use tidemark_catalog::{ErrorKind, Grant, PluginVersion};

use crate::engines::{Fixture, START, refused};
use crate::on_both_engines;

on_both_engines!(
    one_version_is_active,
    a_rollback_returns_to_what_was_active,
    a_quarantined_version_is_not_used,
    a_plugin_in_use_is_not_removed,
    rights_are_given_and_taken,
);

/// Bytes that no text has.
const COMPONENT: &[u8] = b"\0asm\xff\0";

fn plugin(version: &str) -> PluginVersion {
    PluginVersion {
        name: "vcenter".into(),
        version: version.into(),
        kind: "connector".into(),
        digest: "cd".repeat(32),
        manifest_json: "{}".into(),
        installed_at: START,
        active: false,
        quarantine: None,
        signed_by: None,
        strikes: 0,
    }
}

async fn install(fixture: &Fixture, versions: &[&str]) {
    for version in versions {
        fixture.catalog.add_plugin_version(&plugin(version), COMPONENT).await.unwrap();
    }
}

async fn active(fixture: &Fixture) -> Option<String> {
    fixture.catalog.active_plugin("vcenter").await.unwrap().map(|plugin| plugin.version)
}

async fn one_version_is_active(fixture: Fixture) {
    let catalog = &fixture.catalog;
    let signed = PluginVersion { active: true, signed_by: Some("key".into()), ..plugin("1.0.0") };
    catalog.add_plugin_version(&signed, COMPONENT).await.unwrap();
    assert_eq!(active(&fixture).await, None, "installing does not activate");
    refused(catalog.add_plugin_version(&plugin("1.0.0"), COMPONENT).await, ErrorKind::Conflict);
    let reader = PluginVersion { name: "lvm".into(), kind: "volume-reader".into(), ..plugin("1.0.0") };
    catalog.add_plugin_version(&reader, COMPONENT).await.unwrap();
    catalog.remove_plugin_version("lvm", "1.0.0").await.unwrap();
    let odd = PluginVersion { kind: "screensaver".into(), ..plugin("1.1.0") };
    refused(catalog.add_plugin_version(&odd, COMPONENT).await, ErrorKind::Invalid);
    install(&fixture, &["2.0.0"]).await;
    for version in ["1.0.0", "2.0.0", "2.0.0"] {
        let now = catalog.activate_plugin("vcenter", version, START).await.unwrap();
        assert!(now.active);
        assert_eq!(active(&fixture).await.as_deref(), Some(version));
    }
    let listed = catalog.list_plugins().await.unwrap();
    assert_eq!(listed.iter().filter(|plugin| plugin.active).count(), 1);
    assert_eq!(listed.len(), 2);
    refused(catalog.activate_plugin("vcenter", "9.9.9", START).await, ErrorKind::NotFound);
    assert_eq!(
        catalog.plugin_version("vcenter", "1.0.0").await.unwrap(),
        PluginVersion { active: false, ..signed }
    );
    refused(catalog.plugin_version("vcenter", "9.9.9").await, ErrorKind::NotFound);
}

async fn a_rollback_returns_to_what_was_active(fixture: Fixture) {
    let catalog = &fixture.catalog;
    install(&fixture, &["1.0.0", "2.0.0", "3.0.0"]).await;
    refused(catalog.rollback_plugin("vcenter", START).await, ErrorKind::NotFound);
    catalog.activate_plugin("vcenter", "1.0.0", START).await.unwrap();
    refused(catalog.rollback_plugin("vcenter", START).await, ErrorKind::NotFound);
    catalog.activate_plugin("vcenter", "3.0.0", START).await.unwrap();
    assert_eq!(catalog.previous_plugin("vcenter").await.unwrap().unwrap().version, "1.0.0");
    assert_eq!(catalog.rollback_plugin("vcenter", START).await.unwrap().version, "1.0.0");
    assert_eq!(active(&fixture).await.as_deref(), Some("1.0.0"));
    assert_eq!(catalog.rollback_plugin("vcenter", START).await.unwrap().version, "3.0.0");
    assert_eq!(active(&fixture).await.as_deref(), Some("3.0.0"));
}

async fn a_quarantined_version_is_not_used(fixture: Fixture) {
    let catalog = &fixture.catalog;
    install(&fixture, &["1.0.0", "2.0.0"]).await;
    catalog.activate_plugin("vcenter", "1.0.0", START).await.unwrap();
    catalog.activate_plugin("vcenter", "2.0.0", START).await.unwrap();
    let struck = |job, reason: &'static str| catalog.strike_plugin("vcenter", "2.0.0", job, reason);
    assert_eq!(struck(Some("job-1"), "trapped").await.unwrap().0.quarantine, None, "once is never");
    assert_eq!(struck(Some("job-1"), "trapped").await.unwrap().0.strikes, 1, "a job counts once");
    catalog.absolve_plugin("vcenter", "2.0.0", Some("job-1")).await.unwrap();
    catalog.absolve_plugin("vcenter", "2.0.0", None).await.unwrap();
    assert_eq!(struck(Some("job-1"), "trapped").await.unwrap().0.strikes, 1, "clearing up is no proof");
    catalog.absolve_plugin("vcenter", "2.0.0", Some("job-2")).await.unwrap();
    assert_eq!(struck(None, "trapped").await.unwrap().0.strikes, 1, "outside of jobs");
    catalog.absolve_plugin("vcenter", "2.0.0", None).await.unwrap();
    assert_eq!(struck(Some("job-1"), "trapped").await.unwrap().0.strikes, 1, "what counts is in a row");
    assert_eq!(active(&fixture).await.as_deref(), Some("2.0.0"));
    let (out, now) = struck(None, "trapped twice").await.unwrap();
    assert!(now);
    assert_eq!((out.active, out.quarantine.as_deref()), (false, Some("trapped twice")));
    let (again, now) = struck(None, "and again").await.unwrap();
    assert_eq!((again.quarantine, now), (out.quarantine, false), "the first reason stays");
    let last = catalog.last_activated_plugin("vcenter").await.unwrap();
    assert_eq!(last.unwrap().version, "2.0.0", "in quarantine or not");
    assert_eq!(active(&fixture).await, None);
    let held = catalog.plugin_version("vcenter", "2.0.0").await.unwrap();
    assert_eq!(held.quarantine.as_deref(), Some("trapped twice"));
    refused(catalog.activate_plugin("vcenter", "2.0.0", START).await, ErrorKind::Conflict);
    assert_eq!(catalog.rollback_plugin("vcenter", START).await.unwrap().version, "1.0.0");
    assert_eq!(catalog.previous_plugin("vcenter").await.unwrap(), None);
    catalog.release_plugin("vcenter", "2.0.0").await.unwrap();
    catalog.activate_plugin("vcenter", "2.0.0", START).await.unwrap();
    assert_eq!(catalog.plugin_version("vcenter", "2.0.0").await.unwrap().strikes, 0);
    refused(catalog.strike_plugin("vcenter", "9.9.9", None, "x").await, ErrorKind::NotFound);
    refused(catalog.release_plugin("vcenter", "9.9.9").await, ErrorKind::NotFound);
}

async fn a_plugin_in_use_is_not_removed(fixture: Fixture) {
    let catalog = &fixture.catalog;
    install(&fixture, &["1.0.0", "2.0.0"]).await;
    catalog.activate_plugin("vcenter", "1.0.0", START).await.unwrap();
    catalog.activate_plugin("vcenter", "2.0.0", START).await.unwrap();
    let grant = Grant {
        plugin: "vcenter".into(),
        capability: "http".into(),
        granted_by: "admin".into(),
        granted_at: START,
    };
    catalog.add_grant(&grant).await.unwrap();
    let connector = fixture.connector("vc").await;
    refused(catalog.remove_plugin_version("vcenter", "2.0.0").await, ErrorKind::Conflict);
    catalog.remove_plugin_version("vcenter", "1.0.0").await.unwrap();
    let digest = plugin("1.0.0").digest;
    assert_eq!(
        catalog.plugin_component(&digest).await.unwrap().as_deref(),
        Some(COMPONENT),
        "2.0.0 has it too"
    );
    assert_eq!(catalog.previous_plugin("vcenter").await.unwrap(), None);
    assert_eq!(catalog.list_grants("vcenter").await.unwrap().len(), 1);
    catalog.remove_connector(connector.id).await.unwrap();
    assert_eq!(catalog.remove_plugin_version("vcenter", "2.0.0").await.unwrap().version, "2.0.0");
    assert_eq!(catalog.plugin_component(&digest).await.unwrap(), None);
    assert!(catalog.list_grants("vcenter").await.unwrap().is_empty(), "a namesake starts without rights");
    refused(catalog.remove_plugin_version("vcenter", "2.0.0").await, ErrorKind::NotFound);
}

async fn rights_are_given_and_taken(fixture: Fixture) {
    let catalog = &fixture.catalog;
    let grant = |capability: &str| Grant {
        plugin: "vcenter".into(),
        capability: capability.into(),
        granted_by: "admin".into(),
        granted_at: START,
    };
    catalog.add_grant(&grant("http")).await.unwrap();
    catalog.add_grant(&grant("clock")).await.unwrap();
    catalog.add_grant(&Grant { granted_by: "other".into(), ..grant("http") }).await.unwrap();
    assert_eq!(catalog.list_grants("vcenter").await.unwrap(), [grant("clock"), grant("http")]);
    assert!(catalog.list_grants("local").await.unwrap().is_empty());
    catalog.remove_grant("vcenter", "http").await.unwrap();
    refused(catalog.remove_grant("vcenter", "http").await, ErrorKind::NotFound);
    assert_eq!(catalog.list_grants("vcenter").await.unwrap(), [grant("clock")]);
}
