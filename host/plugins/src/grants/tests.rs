//! What grants cover, and what only looks as if they did.

use serde_json::json;

use super::*;
use crate::contract::CONTRACT;
use crate::manifest::{Capability, PluginKind};

fn grants(texts: &[&str]) -> Grants {
    Grants::parse(texts).unwrap()
}

fn manifest(name: &str, targets: &[&str]) -> Manifest {
    Manifest {
        name: "p".into(),
        version: "0.1.0".into(),
        kind: PluginKind::Connector,
        contract: CONTRACT.into(),
        description: String::new(),
        settings: json!({ "type": "object", "properties": { "port": { "default": 443 } } }),
        capabilities: vec![Capability {
            name: name.into(),
            targets: targets.iter().map(|&target| target.into()).collect(),
            networks: vec![Network::Private],
            reason: "test".into(),
        }],
        runtime: None,
    }
}

#[test]
fn a_grant_covers_its_host_and_port_only() {
    let grants = grants(&["http:vc.example:443", "nbd:10.0.0.5", "http:*.lab.example"]);
    assert!(grants.check_http("VC.example.", 443).is_ok());
    assert!(grants.check_http("a.lab.example", 8443).is_ok());
    for (host, port) in
        [("vc.example", 80), ("xvc.example", 443), ("vc.example.evil", 443), ("lab.example", 443)]
    {
        assert!(grants.check_http(host, port).is_err(), "{host}:{port}");
    }
    assert!(grants.check_nbd("10.0.0.5", 10809).is_ok());
    assert!(grants.check_nbd("10.0.0.50", 10809).is_err());
    assert!(grants.check_vddk("vc.example").is_err());
}

#[test]
fn a_folder_is_granted_with_what_is_below() {
    let grants = grants(&["path:/srv/backup"]);
    assert!(grants.check_path(Path::new("/srv/backup")).is_ok());
    assert!(grants.check_path(Path::new("/srv/backup/a/b")).is_ok());
    for path in ["/srv/backup2", "/srv", "/srv/backup/../x", "srv/backup", "/"] {
        assert!(grants.check_path(Path::new(path)).is_err(), "{path}");
    }
}

#[test]
fn all_folders_are_those_that_the_settings_name() {
    let settings = json!({ "path": "/srv/backup/" });
    let rights = Rights::new(&manifest("path", &["${config.path}"]), &settings, grants(&["path"]));
    assert!(rights.check_path(Path::new("/srv/backup")).is_ok());
    assert!(rights.check_path(Path::new("/srv/other")).unwrap_err().reason.contains("manifest"));
    assert!(rights.check_path(Path::new("/srv/backup/../other")).is_err());
}

#[test]
fn manifest_and_grant_must_both_agree() {
    let settings = json!({ "host": "vc.example", "url": "http://plain.example/x" });
    let manifest = manifest("http", &["${config.host}:${config.port}", "${config.url}", "${config.missing}"]);
    let all = Rights::new(&manifest, &settings, grants(&["http"]));
    assert_eq!(all.check_http("vc.example", 443, false).unwrap(), [Network::Private]);
    assert!(all.check_http("vc.example", 443, true).is_err(), "plain HTTP is not part of it");
    assert!(all.check_http("plain.example", 80, true).is_ok());
    assert!(all.check_http("other.example", 443, false).unwrap_err().reason.contains("manifest"));
    let none = Rights::new(&manifest, &settings, Grants::default());
    assert!(none.check_http("vc.example", 443, false).unwrap_err().reason.contains("not granted"));
    let other = Rights::new(&manifest, &settings, grants(&["http:evil.example"]));
    assert!(other.check_http("evil.example", 443, false).is_err(), "a grant adds nothing to the manifest");
}

#[test]
fn only_grants_parse() {
    for wrong in
        ["", "https", "path:", "path:relative", "path:/a/../b", "vddk:x", "http:", "http:a b", "nbd:h:99999"]
    {
        assert!(wrong.parse::<Grant>().is_err(), "{wrong}");
    }
    let v6 = Target::parse("[fe80::1]:443").unwrap();
    assert_eq!(v6.to_string(), "[fe80::1]:443");
    assert_eq!(Target::parse("nbds://u@h/x").unwrap().to_string(), "h:10809");
}
