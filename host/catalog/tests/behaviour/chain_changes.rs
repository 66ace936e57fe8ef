//! Backups that leave a chain while others take up what they held.

use std::collections::BTreeSet;
use std::time::Duration;

use tidemark_catalog::{Backup, ChainChange, ErrorKind, Lease, RangeDigests, Verification};
use tidemark_model::{BackupId, BackupStatus, BackupType, ByteLen, RepositoryId, VerifyLevel};

use crate::engines::{Fixture, START, backup, refused};
use crate::on_both_engines;

on_both_engines!(
    a_merge_changes_the_chain_and_dooms_what_it_leaves,
    several_that_need_each_other_leave_at_once,
    what_is_pinned_or_needed_stays,
    a_source_that_is_not_as_it_was_is_refused,
    a_change_that_contradicts_itself_is_refused,
    an_abandoned_change_never_happened,
    of_two_changes_one_wins,
    a_change_and_a_new_child_do_not_cross,
    staged_names_are_forgotten_once,
);

/// A full and incrementals, each on the one before.
async fn chain(fixture: &Fixture, length: i64) -> Vec<Backup> {
    let (vm, store) = fixture.protected_vm().await;
    let mut backups: Vec<Backup> = Vec::new();
    for minutes in 0..length {
        let next = backup(&vm, &store, backups.last(), minutes);
        assert!(fixture.catalog.import_backup(&next).await.unwrap());
        backups.push(next);
    }
    backups
}

/// The backup as a merge of job `job` would make it, on the new parent.
fn merged(backup: &Backup, parent: Option<&Backup>, job: &str) -> Backup {
    let mut merged = backup.clone();
    merged.backup_type = if parent.is_some() { BackupType::Incremental } else { BackupType::Full };
    merged.parent_id = parent.map(|parent| parent.id);
    merged.reason_code = "merged".to_owned();
    merged.consolidated_at = Some(START.plus_millis(77));
    merged.staged_manifest_key = Some(format!("{}.{job}", backup.manifest_key));
    for disk in &mut merged.disks {
        disk.stored = ByteLen(7 << 20);
        disk.digest = "ef".repeat(32);
        disk.staged_key = Some(format!("{}.{job}", disk.object_key));
        disk.ranges = Some(RangeDigests {
            object_key: format!("{}.{job}.digests", disk.object_key),
            stored: ByteLen(128),
            digest: "01".repeat(32),
        });
    }
    merged
}

fn ids(backups: &[&Backup]) -> Vec<BackupId> {
    backups.iter().map(|backup| backup.id).collect()
}

fn keys(backup: &Backup) -> BTreeSet<String> {
    let mut keys = BTreeSet::from([backup.manifest_key.clone()]);
    for disk in &backup.disks {
        keys.extend([disk.object_key.clone(), disk.ranges.as_ref().unwrap().object_key.clone()]);
    }
    keys
}

async fn doomed(fixture: &Fixture, of: &Backup) -> BTreeSet<String> {
    let objects = fixture.catalog.doomed_objects(of.repository_id).await.unwrap();
    objects.into_iter().map(|object| object.object_key).collect()
}

/// Takes the middle of a chain of three out.
fn middle_out(chain: &[Backup]) -> ChainChange {
    ChainChange {
        sources: chain[1..].to_vec(),
        merged: vec![merged(&chain[2], Some(&chain[0]), "m1")],
        removed: vec![chain[1].id],
    }
}

async fn a_merge_changes_the_chain_and_dooms_what_it_leaves(fixture: Fixture) {
    let (catalog, lease) = (&fixture.catalog, fixture.lease().await);
    let chain = chain(&fixture, 4).await;
    let verified = Verification {
        level: VerifyLevel::Deep,
        at: START,
        whole: vec![chain[2].id],
        damaged: vec![],
        read: [].into(),
    };
    catalog.record_verification(&verified).await.unwrap();
    catalog.set_pinned(chain[2].id, true).await.unwrap();
    let change = middle_out(&chain);
    catalog.commit_chain_change(&lease, &change, START).await.unwrap();
    refused(catalog.backup(chain[1].id).await, ErrorKind::NotFound);
    let expected = Backup { pinned: true, ..change.merged[0].clone() };
    assert_eq!(catalog.backup(chain[2].id).await.unwrap(), expected, "pinned still, verified no more");
    let ancestry = catalog.ancestry(chain[3].id).await.unwrap();
    assert_eq!(ids(&ancestry.iter().collect::<Vec<_>>()), ids(&[&chain[0], &chain[2], &chain[3]]));
    let mut left = keys(&chain[1]);
    let sizes = 4 * (1 << 20) + 2 * (7 << 20) + 4 * 96 + 2 * 128;
    assert_eq!(catalog.stored_bytes(chain[0].repository_id).await.unwrap(), ByteLen(sizes));
    assert_eq!(catalog.stored_bytes(RepositoryId::random()).await.unwrap(), ByteLen(0));
    left.extend(chain[2].disks.iter().map(|disk| disk.ranges.as_ref().unwrap().object_key.clone()));
    assert_eq!(
        doomed(&fixture, &chain[0]).await,
        left,
        "the merged one's images and manifest are replaced by name"
    );

    // The head of what is left goes too: its child becomes a full.
    catalog.unstage(&catalog.backup(chain[2].id).await.unwrap()).await.unwrap();
    let now = catalog.backup(chain[2].id).await.unwrap();
    let head = ChainChange {
        sources: vec![chain[0].clone(), now.clone()],
        merged: vec![merged(&now, None, "m2")],
        removed: vec![chain[0].id],
    };
    catalog.commit_chain_change(&lease, &head, START).await.unwrap();
    let full = catalog.backup(chain[2].id).await.unwrap();
    assert_eq!((full.backup_type, full.parent_id), (BackupType::Full, None));
    assert_eq!(catalog.ancestry(chain[3].id).await.unwrap().len(), 2);
}

async fn several_that_need_each_other_leave_at_once(fixture: Fixture) {
    let (catalog, lease) = (&fixture.catalog, fixture.lease().await);
    let chain = chain(&fixture, 4).await;
    catalog.set_backup_status(chain[2].id, BackupStatus::Damaged).await.unwrap();
    let removed = ids(&[&chain[1], &chain[3], &chain[2]]);
    let change = ChainChange { removed, ..ChainChange::default() };
    catalog.commit_chain_change(&lease, &change, START).await.unwrap();
    assert_eq!((fixture.count("backups").await, fixture.count("backup_disks").await), (1, 2));
    let left = chain[1..].iter().flat_map(keys).collect::<BTreeSet<_>>();
    assert_eq!(doomed(&fixture, &chain[0]).await, left);
    refused(catalog.commit_chain_change(&lease, &change, START).await, ErrorKind::NotFound);
}

async fn what_is_pinned_or_needed_stays(fixture: Fixture) {
    let (catalog, lease) = (&fixture.catalog, fixture.lease().await);
    let chain = chain(&fixture, 3).await;
    let change = middle_out(&chain);
    let stale = Lease { epoch: lease.epoch - 1, ..lease.clone() };
    refused(catalog.commit_chain_change(&stale, &change, START).await, ErrorKind::LeaseLost);
    catalog.set_pinned(chain[1].id, true).await.unwrap();
    refused(catalog.commit_chain_change(&lease, &change, START).await, ErrorKind::Conflict);
    catalog.set_pinned(chain[1].id, false).await.unwrap();
    let unmerged = ChainChange { removed: change.removed.clone(), ..ChainChange::default() };
    refused(catalog.commit_chain_change(&lease, &unmerged, START).await, ErrorKind::Conflict);
    let mut unmoved = change.clone();
    unmoved.merged[0].parent_id = Some(chain[1].id);
    refused(catalog.commit_chain_change(&lease, &unmoved, START).await, ErrorKind::Conflict);
    assert_eq!(fixture.count("backups").await, 3);
    assert_eq!(fixture.count("doomed_objects").await, 0);
    assert_eq!(catalog.backup(chain[2].id).await.unwrap(), chain[2]);
}

async fn a_source_that_is_not_as_it_was_is_refused(fixture: Fixture) {
    let (catalog, lease) = (&fixture.catalog, fixture.lease().await);
    let chain = chain(&fixture, 3).await;
    let change = middle_out(&chain);
    let refuse = async |change: &ChainChange| {
        refused(catalog.commit_chain_change(&lease, change, START).await, ErrorKind::Conflict);
    };
    let mut other = change.clone();
    other.sources[0].disks[1].digest = "00".repeat(32);
    refuse(&other).await;
    let mut other = change.clone();
    other.sources[1].consolidated_at = Some(START);
    refuse(&other).await;
    let mut absent = change.clone();
    absent.sources.push(Backup { id: BackupId::random(), ..chain[0].clone() });
    refuse(&absent).await;
    for damaged in [&chain[2], &chain[1]] {
        catalog.set_backup_status(damaged.id, BackupStatus::Damaged).await.unwrap();
        refuse(&change).await;
    }
    catalog.set_backup_status(chain[1].id, BackupStatus::Completed).await.unwrap();
    catalog.set_backup_status(chain[2].id, BackupStatus::Completed).await.unwrap();
    // An object that is to be deleted is nobody's.
    let doom = format!(
        "INSERT INTO doomed_objects VALUES ('{}', '{}', 'b', 0)",
        chain[0].repository_id,
        change.merged[0].disks[1].staged_key.as_ref().unwrap()
    );
    fixture.raw(&doom).await.unwrap();
    refuse(&change).await;
    fixture.raw("DELETE FROM doomed_objects").await.unwrap();
    catalog.commit_chain_change(&lease, &change, START).await.unwrap();
    // The merge still waits for its names.
    let waiting = catalog.backup(chain[2].id).await.unwrap();
    let again = ChainChange {
        sources: vec![chain[0].clone(), waiting.clone()],
        merged: vec![merged(&waiting, None, "m2")],
        removed: vec![chain[0].id],
    };
    refuse(&again).await;
}

async fn a_change_that_contradicts_itself_is_refused(fixture: Fixture) {
    let (catalog, lease) = (&fixture.catalog, fixture.lease().await);
    let chain = chain(&fixture, 3).await;
    let change = middle_out(&chain);
    let mut wrong = vec![change.clone(); 6];
    wrong[0].removed.push(chain[1].id);
    wrong[1].removed.push(chain[2].id);
    wrong[2].merged.push(change.merged[0].clone());
    wrong[3].sources.remove(1);
    wrong[4].merged[0].parent_id = None;
    wrong[5].merged[0].disks[1].object_key.push('x');
    for change in &wrong {
        refused(catalog.commit_chain_change(&lease, change, START).await, ErrorKind::Invalid);
    }
    assert_eq!(catalog.backup(chain[2].id).await.unwrap(), chain[2]);
}

async fn an_abandoned_change_never_happened(fixture: Fixture) {
    let (catalog, lease) = (&fixture.catalog, fixture.lease().await);
    let (vm, store) = fixture.protected_vm().await;
    for step in 0..30 {
        let full = backup(&vm, &store, None, step);
        let dropped = backup(&vm, &store, Some(&full), step);
        let kept = backup(&vm, &store, Some(&dropped), step);
        let chain = [full, dropped, kept];
        for one in &chain {
            catalog.import_backup(one).await.unwrap();
        }
        let before = doomed(&fixture, &chain[0]).await.len();
        let change = middle_out(&chain);
        let commit = catalog.commit_chain_change(&lease, &change, START);
        let patience = Duration::from_micros(200 * u64::try_from(step).unwrap());
        let ended = tokio::time::timeout(patience, commit).await;
        // Waits for the row's lock: what was dropped may still be on its way through the database.
        catalog.unstage(&chain[2]).await.unwrap();
        let now = catalog.backup(chain[2].id).await.unwrap();
        let gone = catalog.backup(chain[1].id).await.is_err();
        let left = doomed(&fixture, &chain[0]).await.len() - before;
        if ended.is_ok() {
            assert!(gone, "a change that was answered stands");
        }
        match gone {
            true => assert_eq!((&now, left), (&change.merged[0], 7)),
            false => assert_eq!((&now, left), (&chain[2], 0)),
        }
    }
}

async fn of_two_changes_one_wins(fixture: Fixture) {
    let catalog = &fixture.catalog;
    let (vm, store) = fixture.protected_vm().await;
    let (one, other) = (fixture.lease().await, fixture.lease().await);
    for step in 0..12 {
        let full = backup(&vm, &store, None, step);
        let first = backup(&vm, &store, Some(&full), step);
        let second = backup(&vm, &store, Some(&first), step);
        for one in [&full, &first, &second] {
            catalog.import_backup(one).await.unwrap();
        }
        let middle = middle_out(&[full.clone(), first.clone(), second.clone()]);
        let head = ChainChange {
            sources: vec![full.clone(), first.clone()],
            merged: vec![merged(&first, None, "h")],
            removed: vec![full.id],
        };
        let (a, b) = tokio::join!(
            catalog.commit_chain_change(&one, &middle, START),
            catalog.commit_chain_change(&other, &head, START)
        );
        assert_ne!(a.is_ok(), b.is_ok(), "{a:?} {b:?}");
        let refusal = a.err().or(b.err()).unwrap();
        assert_eq!(refusal.kind(), ErrorKind::Conflict, "{refusal}");
        assert_eq!(catalog.ancestry(second.id).await.unwrap().len(), 2);
    }
}

async fn a_change_and_a_new_child_do_not_cross(fixture: Fixture) {
    let catalog = &fixture.catalog;
    let (vm, store) = fixture.protected_vm().await;
    let (committer, merger) = (fixture.lease().await, fixture.lease().await);
    for step in 0..12 {
        let full = backup(&vm, &store, None, step);
        let tail = backup(&vm, &store, Some(&full), step);
        let child = backup(&vm, &store, Some(&tail), step);
        catalog.import_backup(&full).await.unwrap();
        catalog.import_backup(&tail).await.unwrap();
        let change = ChainChange { removed: vec![tail.id], ..ChainChange::default() };
        let (committed, removed) = tokio::join!(
            catalog.commit_backup(&committer, &child),
            catalog.commit_chain_change(&merger, &change, START)
        );
        assert_ne!(committed.is_ok(), removed.is_ok(), "{committed:?} {removed:?}");
        assert_eq!(catalog.backup(tail.id).await.is_ok(), catalog.backup(child.id).await.is_ok());
    }
}

async fn staged_names_are_forgotten_once(fixture: Fixture) {
    let (catalog, lease) = (&fixture.catalog, fixture.lease().await);
    let chain = chain(&fixture, 3).await;
    let store = chain[0].repository_id;
    assert!(catalog.staged_backups(store).await.unwrap().is_empty());
    let change = middle_out(&chain);
    catalog.commit_chain_change(&lease, &change, START).await.unwrap();
    let staged = catalog.staged_backups(store).await.unwrap();
    assert_eq!(staged, change.merged);
    let mut other = staged[0].clone();
    other.staged_manifest_key = Some("of another merge".to_owned());
    other.disks[0].staged_key = None;
    catalog.unstage(&other).await.unwrap();
    let half = catalog.backup(chain[2].id).await.unwrap();
    assert!(half.staged_manifest_key.is_some() && half.disks[0].staged_key.is_some());
    assert_eq!(half.disks[1].staged_key, None);
    for _ in 0..2 {
        catalog.unstage(&staged[0]).await.unwrap();
        assert!(catalog.staged_backups(store).await.unwrap().is_empty());
    }
    // One that is gone with its names leaves both behind.
    catalog.unstage(&Backup { id: BackupId::random(), ..staged[0].clone() }).await.unwrap();
}
