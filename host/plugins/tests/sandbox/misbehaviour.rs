//! Guests that loop, crash, hoard or lie.

use std::time::Duration;

use serde_json::json;
use tidemark_model::{
    BackupId, BackupType, ByteLen, ChangeId, DiskKey, KeepVerdict, PolicyContext, Ranks, RetentionPoint,
    UtcMillis,
};
use tidemark_plugins::{Connector, Error, ErrorKind, Limits, Session, Since, Transport};

use crate::guests::{Lab, policy_bytes, quick, runtime};

const CAPACITY: ByteLen = ByteLen(1 << 20);

fn names_the_plugin(error: &Error) {
    assert_eq!((error.plugin(), error.version()), ("hostile", "0.1.0"), "{error}");
    assert!(error.to_string().starts_with("plugin hostile 0.1.0: "), "{error}");
}

async fn areas(connector: &mut Connector) -> Result<tidemark_model::ExtentList, Error> {
    let since = Since::ChangeId(ChangeId("static/1".into()));
    connector.changed_areas("vm-1", "s", &DiskKey("2000".into()), &since, CAPACITY).await
}

/// A session that behaves still works, on the same runtime and the same loaded plugin.
async fn the_next_session_works(lab: &Lab) {
    let mut connector = lab.open(json!({ "nbd_url": "nbd://127.0.0.1:10809/x" }), &["nbd"]).await.unwrap();
    assert!(connector.check().await.unwrap().is_empty());
    let vms = connector.list_all_vms().await.unwrap();
    assert_eq!(vms.len(), 1);
    assert!(connector.preflight(&vms[0].key).await.unwrap().findings.is_empty());
    let snapshot = connector.create_snapshot("vm-1", "key", true).await.unwrap();
    assert_eq!((snapshot.token.as_str(), snapshot.disks.len()), ("key", 1));
    let changed = areas(&mut connector).await.unwrap();
    assert_eq!((changed.len(), changed.total()), (2, ByteLen(8192)));
    let lease = connector.open_disk("vm-1", "key", &DiskKey("2000".into()), false).await.unwrap();
    assert_eq!(lease.transport, Transport::Nbd { uri: "nbd://127.0.0.1:10809/x".into() });
    connector.close_disk(&lease.token).await.unwrap();
    connector.remove_snapshot("vm-1", "key").await.unwrap();
    connector.close().await.unwrap();
}

#[tokio::test]
async fn whatever_stops_a_call_ends_the_session_and_nothing_else() {
    for (behave, kind) in [
        ("loop", ErrorKind::Timeout),
        ("sleep", ErrorKind::Timeout),
        ("memory", ErrorKind::Limit),
        ("trap", ErrorKind::Trap),
        ("stack", ErrorKind::Trap),
    ] {
        let lab = Lab::connectors(quick()).await;
        let mut connector = lab.open(json!({ "behave": behave, "in": "list-vms" }), &[]).await.unwrap();
        let error = connector.list_all_vms().await.unwrap_err();
        names_the_plugin(&error);
        assert_eq!((error.kind(), error.operation()), (&kind, "list-vms"), "{behave}: {error}");
        assert!(error.is_misbehaviour());
        let later = connector.keep_alive().await.unwrap_err();
        names_the_plugin(&later);
        assert_eq!(later.kind(), &kind, "{later}");
        assert!(later.message().contains("the session has ended: list-vms"), "{later}");
        the_next_session_works(&lab).await;
    }
}

#[tokio::test]
async fn a_plugin_that_fails_at_the_start_is_named() {
    let lab = Lab::connectors(quick()).await;
    let error = lab.open(json!({ "behave": "loop", "in": "configure" }), &[]).await.unwrap_err();
    names_the_plugin(&error);
    assert_eq!((error.kind(), error.operation()), (&ErrorKind::Timeout, "configure"));
    let error = lab.open(json!([]), &[]).await.unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::Config);
    the_next_session_works(&lab).await;
}

#[tokio::test]
async fn a_loop_ends_soon_where_waiting_may_take_long() {
    let lab = Lab::connectors(Limits { run_timeout: Duration::from_millis(200), ..Limits::default() }).await;
    lab.runtime.self_check(&lab.plugin).await.unwrap();
    let mut connector = lab.open(json!({ "behave": "loop", "in": "keep-alive" }), &[]).await.unwrap();
    let error = connector.keep_alive().await.unwrap_err();
    names_the_plugin(&error);
    assert_eq!(error.kind(), &ErrorKind::Timeout);
    assert!(error.message().contains("computed"), "{error}");
    the_next_session_works(&lab).await;
}

#[tokio::test]
async fn asking_the_host_too_often_is_stopped() {
    let lab = Lab::connectors(Limits { host_calls: 100, log_burst: 5, ..Limits::default() }).await;
    let mut connector = lab.open(json!({ "behave": "log", "in": "keep-alive" }), &[]).await.unwrap();
    let error = connector.keep_alive().await.unwrap_err();
    names_the_plugin(&error);
    assert_eq!(error.kind(), &ErrorKind::Limit, "{error}");
    the_next_session_works(&lab).await;
}

#[tokio::test]
async fn a_huge_result_is_refused() {
    let lab = Lab::connectors(Limits { transfer_bytes: 8 << 20, ..Limits::default() }).await;
    let mut connector = lab.open(json!({ "behave": "huge-result" }), &[]).await.unwrap();
    let error = connector.list_all_vms().await.unwrap_err();
    names_the_plugin(&error);
    assert_eq!(error.kind(), &ErrorKind::Limit, "{error}");
    the_next_session_works(&lab).await;
}

#[tokio::test]
async fn nonsense_areas_are_refused() {
    let lab = Lab::connectors(Limits::default()).await;
    for behave in [
        "unsorted",
        "overlapping",
        "beyond",
        "overflow",
        "empty-extent",
        "complete-beyond",
        "outside-page",
        "stuck-page",
    ] {
        let mut connector = lab.open(json!({ "behave": behave }), &[]).await.unwrap();
        let error = areas(&mut connector).await.unwrap_err();
        names_the_plugin(&error);
        assert_eq!(
            (error.kind(), error.operation()),
            (&ErrorKind::Invalid, "changed-areas"),
            "{behave}: {error}"
        );
        assert_eq!(connector.keep_alive().await.unwrap_err().kind(), &ErrorKind::Invalid);
    }
    the_next_session_works(&lab).await;
}

#[tokio::test]
async fn an_inventory_that_repeats_itself_is_refused() {
    let lab = Lab::connectors(Limits::default()).await;
    for behave in ["duplicate-vms", "stuck-cursor", "circling-cursor"] {
        let mut connector = lab.open(json!({ "behave": behave }), &[]).await.unwrap();
        let error = connector.list_all_vms().await.unwrap_err();
        names_the_plugin(&error);
        assert_eq!(error.kind(), &ErrorKind::Invalid, "{behave}: {error}");
    }
}

#[tokio::test]
async fn an_error_of_the_guest_keeps_its_sort_and_the_session() {
    let lab = Lab::connectors(Limits::default()).await;
    let mut connector = lab.open(json!({ "behave": "reset" }), &[]).await.unwrap();
    let error = areas(&mut connector).await.unwrap_err();
    let expected =
        ErrorKind::ChangeTrackingReset { code: "change-id-foreign".into(), disk: DiskKey("2000".into()) };
    assert_eq!(error.kind(), &expected);
    assert!(!error.is_retryable() && !error.is_misbehaviour());
    connector.keep_alive().await.unwrap();
    let mut connector = lab.open(json!({ "behave": "error" }), &[]).await.unwrap();
    let error = connector.list_all_vms().await.unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::Throttled);
    assert!(error.is_retryable());
}

#[tokio::test]
async fn a_dropped_call_ends_the_session() {
    let lab = Lab::connectors(Limits::default()).await;
    let mut connector = lab.open(json!({ "behave": "sleep", "in": "keep-alive" }), &[]).await.unwrap();
    let given_up = tokio::time::timeout(Duration::from_millis(50), connector.keep_alive()).await;
    assert!(given_up.is_err());
    let error = connector.list_all_vms().await.unwrap_err();
    names_the_plugin(&error);
    assert_eq!(error.kind(), &ErrorKind::Cancelled, "{error}");
    the_next_session_works(&lab).await;
}

#[tokio::test]
async fn a_transport_needs_its_grant() {
    let lab = Lab::connectors(Limits::default()).await;
    let settings = json!({ "nbd_url": "nbd://127.0.0.1:10809/x" });
    let disk = DiskKey("2000".into());
    for grants in [&[][..], &["http"], &["nbd:127.0.0.2"]] {
        let mut connector = lab.open(settings.clone(), grants).await.unwrap();
        let error = connector.open_disk("vm-1", "s", &disk, false).await.unwrap_err();
        names_the_plugin(&error);
        assert_eq!(error.kind(), &ErrorKind::Denied, "{error}");
        connector.keep_alive().await.unwrap();
    }
    let events = lab.audit.events();
    assert_eq!(events.len(), 3);
    assert_eq!((events[0].capability.as_str(), events[0].target.as_str()), ("nbd", "127.0.0.1:10809"));
    for wrong in ["nbd+unix:///x?socket=/etc/s", "file:///etc/passwd", "127.0.0.1:1", "nbd://127.0.0.1/\u{7}"]
    {
        let mut connector = lab.open(json!({ "nbd_url": wrong }), &["nbd"]).await.unwrap();
        let error = connector.open_disk("vm-1", "s", &disk, false).await.unwrap_err();
        assert_eq!(error.kind(), &ErrorKind::Invalid, "{wrong}: {error}");
    }
}

#[tokio::test]
async fn a_policy_is_bounded_and_its_gaps_keep() {
    let runtime = runtime(Limits { policy_fuel: 5_000_000, ..Limits::default() });
    let plugin = runtime.load(policy_bytes()).await.unwrap();
    let point = |size: u64| RetentionPoint {
        id: BackupId::random(),
        created_at: UtcMillis(0),
        age_days: 1.5,
        rank: Ranks::default(),
        backup_type: BackupType::Full,
        verified: true,
        damaged: false,
        pinned: false,
        size: ByteLen(size),
    };
    let points = [point(1), point(2), point(3)];
    let context = |settings: &str| PolicyContext {
        now: UtcMillis(0),
        time_zone: "UTC".into(),
        settings_json: settings.into(),
        vm: None,
    };
    let mut policy = runtime.policy(&plugin, Session::bare("simulation")).await.unwrap();
    let verdicts = policy.retain(&points, &context("{}")).await.unwrap();
    assert_eq!(verdicts[..2], [KeepVerdict::Keep("asked".into()), KeepVerdict::MayGo]);
    assert!(matches!(&verdicts[2], KeepVerdict::Keep(_)));
    let error = policy.retain(&points, &context("{\"loop\":1}")).await.unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::Limit, "{error}");
}
