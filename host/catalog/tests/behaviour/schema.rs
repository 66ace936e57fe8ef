//! The schema by itself: it is applied once, refuses what no code should write, and cascades where it must.

use tidemark_catalog::{Catalog, ErrorKind, WorkKind};

use crate::engines::{Fixture, START, backup, new_job, refused};
use crate::on_both_engines;

on_both_engines!(
    opening_again_changes_nothing,
    two_hosts_open_a_fresh_catalog_at_once,
    a_newer_schema_is_left_alone,
    no_constraint_is_missing,
    rows_go_with_what_they_belong_to,
    a_row_that_cannot_be_is_corrupt,
    a_closed_catalog_is_unavailable,
);

/// How many files `migrations/` has.
const MIGRATIONS: i64 = 6;

async fn opening_again_changes_nothing(fixture: Fixture) {
    let connector = fixture.connector("vc").await;
    let again = Catalog::open(&fixture.url).await.unwrap();
    assert_eq!(again.connector(connector.id).await.unwrap(), connector);
    assert_eq!(fixture.count("_sqlx_migrations").await, MIGRATIONS);
    again.close().await;
}

async fn two_hosts_open_a_fresh_catalog_at_once(fixture: Fixture) {
    for _ in 0..5 {
        let url = fixture.fresh_url().await;
        let (one, other) = tokio::join!(
            tokio::spawn({
                let url = url.clone();
                async move { Catalog::open(&url).await }
            }),
            tokio::spawn(async move { Catalog::open(&url).await })
        );
        let (one, other) = (one.unwrap().unwrap(), other.unwrap().unwrap());
        let job = one.submit_job(&new_job(None, None), START).await.unwrap();
        assert_eq!(other.job(job.id).await.unwrap(), job);
        // Both write, so that the file's lock is contended beyond one process's queue.
        let (a, b) = tokio::join!(
            one.claim_job(WorkKind::Work, "a", 1_000, START),
            other.claim_job(WorkKind::Work, "b", 1_000, START)
        );
        assert_ne!(a.unwrap().is_some(), b.unwrap().is_some());
    }
}

async fn a_newer_schema_is_left_alone(fixture: Fixture) {
    let newest = format!("UPDATE _sqlx_migrations SET version = 9999 WHERE version = {MIGRATIONS}");
    fixture.raw(&newest).await.unwrap();
    refused(Catalog::open(&fixture.url).await, ErrorKind::Corrupt);
}

const OTHER: &str = "00000000-0000-4000-8000-000000000000";

/// Copies a row with some columns replaced, which only constraints can stop.
async fn copy_row(
    fixture: &Fixture,
    table: &str,
    columns: &[&str],
    changes: &[(&str, &str)],
) -> Result<u64, String> {
    let values = columns.iter().map(|column| {
        let change = changes.iter().find(|(changed, _)| changed == column);
        change.map_or((*column).to_owned(), |(_, value)| (*value).to_owned())
    });
    let values = values.collect::<Vec<_>>().join(", ");
    let columns = columns.join(", ");
    fixture.raw(&format!("INSERT INTO {table} ({columns}) SELECT {values} FROM {table} LIMIT 1")).await
}

const BACKUP: [&str; 18] = [
    "id",
    "vm_id",
    "vm_name",
    "repository_id",
    "backup_type",
    "parent_id",
    "status",
    "reason_code",
    "reason",
    "started_at",
    "snapshot_at",
    "completed_at",
    "manifest_key",
    "pinned",
    "plugins_json",
    "warnings_json",
    "job_id",
    "verified_at",
];
const DISK: [&str; 13] = [
    "backup_id",
    "repository_id",
    "disk_index",
    "disk_key",
    "label",
    "capacity_bytes",
    "change_id",
    "object_key",
    "stored_bytes",
    "read_bytes",
    "skipped_bytes",
    "moved_ms",
    "digest",
];
const JOB: [&str; 12] = [
    "id",
    "sequence",
    "kind",
    "state",
    "payload_json",
    "progress_json",
    "exclusive_key",
    "cancel_requested",
    "epoch",
    "lease_owner",
    "lease_until",
    "created_at",
];

/// Each copy breaks one rule; the last one of a table breaks none and shows that the copies as such are sound.
async fn no_constraint_is_missing(fixture: Fixture) {
    let (vm, store) = fixture.protected_vm().await;
    let elsewhere = format!("'{}'", fixture.repository("elsewhere").await.id);
    fixture.catalog.import_backup(&backup(&vm, &store, None, 0)).await.unwrap();
    fixture.submit(Some("vm:1")).await;
    fixture.catalog.claim_job(WorkKind::Work, "host-a", 1_000, START).await.unwrap().unwrap();
    let other = format!("'{OTHER}'");
    let (id, key) = (("id", other.as_str()), ("manifest_key", "'k.json'"));

    let backups: [&[(&str, &str)]; 12] = [
        &[key],
        &[id],
        &[id, key, ("vm_id", "'nobody'")],
        &[id, key, ("vm_id", "NULL")],
        &[id, key, ("repository_id", "'nowhere'")],
        &[id, key, ("backup_type", "'differential'")],
        &[id, key, ("backup_type", "'incremental'")],
        &[id, key, ("parent_id", "id")],
        &[id, key, ("backup_type", "'incremental'"), ("parent_id", "id"), ("repository_id", &elsewhere)],
        &[id, key, ("status", "'maybe'")],
        &[id, key, ("pinned", "2")],
        &[id, key, ("backup_type", "'incremental'"), ("parent_id", "id")],
    ];
    check_copies(&fixture, "backups", &BACKUP, &backups).await;

    let new = [("disk_index", "7"), ("disk_key", "'2007'"), ("object_key", "'new'")];
    let disks: [&[(&str, &str)]; 10] = [
        &[new[1], new[2]],
        &[new[0], new[2]],
        &[new[0], new[1]],
        &[new[0], new[1], new[2], ("backup_id", "'nobody'")],
        &[new[0], new[1], new[2], ("repository_id", &elsewhere)],
        &[("disk_index", "-1"), new[1], new[2]],
        &[new[0], new[1], ("object_key", "''")],
        &[new[0], new[1], new[2], ("stored_bytes", "-1")],
        &[new[0], new[1], new[2], ("digest", "NULL")],
        &new,
    ];
    check_copies(&fixture, "backup_disks", &DISK, &disks).await;

    let free = [id, ("sequence", "77"), ("exclusive_key", "'vm:2'")];
    let jobs: [&[(&str, &str)]; 8] = [
        &[free[1], free[2]],
        &[free[0], free[2]],
        &[free[0], free[1]],
        &[free[0], free[1], free[2], ("state", "'paused'")],
        &[free[0], free[1], free[2], ("state", "'queued'")],
        &[free[0], free[1], free[2], ("lease_owner", "NULL")],
        &[free[0], free[1], free[2], ("state", "'failed'"), ("lease_owner", "NULL"), ("lease_until", "NULL")],
        &free,
    ];
    check_copies(&fixture, "jobs", &JOB, &jobs).await;
    single_rows_are_refused(&fixture).await;
}

async fn check_copies(fixture: &Fixture, table: &str, columns: &[&str], copies: &[&[(&str, &str)]]) {
    let (sound, broken) = copies.split_last().unwrap();
    for changes in broken {
        let outcome = copy_row(fixture, table, columns, changes).await;
        assert!(outcome.is_err(), "{table} took a row with {changes:?}");
    }
    assert_eq!(copy_row(fixture, table, columns, sound).await, Ok(1), "{table} with {sound:?}");
}

async fn single_rows_are_refused(fixture: &Fixture) {
    let plugin = "INSERT INTO plugin_versions (name, version, kind, digest, manifest_json, installed_at, active, \
                  quarantine) VALUES";
    fixture.raw(&format!("{plugin} ('p', '1', 'policy', 'd', '{{}}', 0, 1, NULL)")).await.unwrap();
    let refused = [
        format!("{plugin} ('p', '1', 'policy', 'd', '{{}}', 0, 0, NULL)"),
        format!("{plugin} ('p', '2', 'policy', 'd', '{{}}', 0, 1, NULL)"),
        format!("{plugin} ('q', '1', 'policy', 'd', '{{}}', 0, 1, 'bad')"),
        "INSERT INTO plugin_activations VALUES (1, 'q', '1', 0)".to_owned(),
        format!("INSERT INTO tokens VALUES ('{OTHER}', 'x', 'root', 'd', 0, NULL)"),
        format!("INSERT INTO vms VALUES ('{OTHER}', 'nobody', 'k', 'n', '{{}}', 0)"),
        "INSERT INTO doomed_objects VALUES ('nowhere', 'k', 'b', 0)".to_owned(),
        "INSERT INTO job_steps VALUES ('nobody', 1, 1, 's', '{}', 0)".to_owned(),
        "INSERT INTO counters VALUES ('jobs', 0)".to_owned(),
        "DELETE FROM vms".to_owned(),
        "DELETE FROM repositories".to_owned(),
        "DELETE FROM connectors".to_owned(),
    ];
    for sql in refused {
        assert!(fixture.raw(&sql).await.is_err(), "{sql}");
    }
}

async fn rows_go_with_what_they_belong_to(fixture: Fixture) {
    let catalog = &fixture.catalog;
    let (vm, store) = fixture.protected_vm().await;
    let lease = fixture.lease().await;
    let mut full = backup(&vm, &store, None, 0);
    full.job_id = Some(lease.job_id);
    catalog.commit_backup(&lease, &full).await.unwrap();
    catalog.record_step(&lease, "snapshot-requested", "{}", START).await.unwrap();
    fixture.raw("DELETE FROM jobs").await.unwrap();
    assert_eq!(fixture.count("job_steps").await, 0);
    assert_eq!(
        catalog.backup(full.id).await.unwrap().job_id,
        None,
        "a backup outlives the record of its job"
    );
    fixture.raw("DELETE FROM backups").await.unwrap();
    assert_eq!(fixture.count("backup_disks").await, 0);
}

async fn a_row_that_cannot_be_is_corrupt(fixture: Fixture) {
    let connector = fixture.connector("vc").await;
    fixture.raw("UPDATE connectors SET id = 'no id at all'").await.unwrap();
    refused(fixture.catalog.list_connectors().await, ErrorKind::Corrupt);
    refused(fixture.catalog.connector(connector.id).await, ErrorKind::NotFound);
    let error = fixture.catalog.list_connectors().await.unwrap_err();
    assert!(!error.is_retryable());
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(!error.to_string().contains(&source), "Display does not repeat its source: {error}");
}

async fn a_closed_catalog_is_unavailable(fixture: Fixture) {
    fixture.catalog.close().await;
    let error = fixture.catalog.list_vms().await.unwrap_err();
    assert!(error.is_retryable(), "{error}");
    let revoked = fixture.catalog.revoke_token("x", START).await;
    refused(revoked, ErrorKind::Unavailable);
}
