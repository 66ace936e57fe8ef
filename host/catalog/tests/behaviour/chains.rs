//! Backups that need each other.

use tidemark_catalog::{Backup, Catalog, ErrorKind};
use tidemark_model::{BackupId, BackupStatus, VmId};

use crate::engines::{Fixture, START, backup, refused};
use crate::on_both_engines;

on_both_engines!(
    a_chain_is_its_newest_full_and_what_needs_it,
    a_chain_does_not_cross,
    damage_spreads_to_what_needs_it,
    a_parent_is_not_removed_under_its_child,
);

fn ids(backups: &[Backup]) -> Vec<BackupId> {
    backups.iter().map(|backup| backup.id).collect()
}

async fn add_all(catalog: &Catalog, backups: &[&Backup]) {
    for backup in backups {
        assert!(catalog.import_backup(backup).await.unwrap());
    }
}

async fn a_chain_is_its_newest_full_and_what_needs_it(fixture: Fixture) {
    let catalog = &fixture.catalog;
    let (vm, store) = fixture.protected_vm().await;
    let elsewhere = fixture.repository("elsewhere").await;
    assert!(catalog.chain(vm.id, None).await.unwrap().is_empty());
    let old = backup(&vm, &store, None, 0);
    let old_child = backup(&vm, &store, Some(&old), 1);
    let full = backup(&vm, &store, None, 2);
    let first = backup(&vm, &store, Some(&full), 3);
    let second = backup(&vm, &store, Some(&first), 4);
    let other = backup(&vm, &elsewhere, None, 5);
    add_all(catalog, &[&old, &old_child, &full, &first, &second, &other]).await;

    assert_eq!(
        catalog.chain(vm.id, Some(store.id)).await.unwrap(),
        [full.clone(), first.clone(), second.clone()]
    );
    assert_eq!(ids(&catalog.chain(vm.id, None).await.unwrap()), [other.id]);
    assert!(catalog.chain(VmId::random(), None).await.unwrap().is_empty());
    assert_eq!(ids(&catalog.ancestry(first.id).await.unwrap()), [full.id, first.id]);
    assert_eq!(ids(&catalog.ancestry(old.id).await.unwrap()), [old.id]);
    refused(catalog.ancestry(BackupId::random()).await, ErrorKind::NotFound);
    assert_eq!(ids(&catalog.children(full.id).await.unwrap()), [first.id]);
    assert_eq!(catalog.latest_backup(vm.id, store.id).await.unwrap(), Some(second));
}

async fn a_chain_does_not_cross(fixture: Fixture) {
    let catalog = &fixture.catalog;
    let (vm, store) = fixture.protected_vm().await;
    let elsewhere = fixture.repository("elsewhere").await;
    let connector = vm.connector_id.unwrap();
    let neighbour = catalog.upsert_vm(connector, "vm-8", "db01", "{}", START).await.unwrap();
    let lease = fixture.lease().await;
    let full = backup(&vm, &store, None, 0);
    let absent = backup(&vm, &store, Some(&full), 1);
    refused(catalog.commit_backup(&lease, &absent).await, ErrorKind::Conflict);
    catalog.commit_backup(&lease, &full).await.unwrap();
    let other_vm = backup(&neighbour, &store, Some(&full), 1);
    let other_repository = backup(&vm, &elsewhere, Some(&full), 1);
    for crossing in [other_vm, other_repository] {
        refused(catalog.commit_backup(&lease, &crossing).await, ErrorKind::Conflict);
        refused(catalog.import_backup(&crossing).await, ErrorKind::Conflict);
    }
    let itself = Backup { parent_id: Some(absent.id), ..absent.clone() };
    refused(catalog.commit_backup(&lease, &itself).await, ErrorKind::Conflict);
    catalog.set_backup_status(full.id, BackupStatus::Damaged).await.unwrap();
    refused(catalog.commit_backup(&lease, &absent).await, ErrorKind::Conflict);
    catalog.set_backup_status(full.id, BackupStatus::Completed).await.unwrap();
    catalog.commit_backup(&lease, &absent).await.unwrap();
}

async fn damage_spreads_to_what_needs_it(fixture: Fixture) {
    let catalog = &fixture.catalog;
    let (vm, store) = fixture.protected_vm().await;
    let full = backup(&vm, &store, None, 0);
    let first = backup(&vm, &store, Some(&full), 1);
    let second = backup(&vm, &store, Some(&first), 2);
    add_all(catalog, &[&full, &first, &second]).await;

    let mut spread = catalog.set_backup_status(first.id, BackupStatus::Damaged).await.unwrap();
    spread.sort_unstable();
    let mut expected = [first.id, second.id];
    expected.sort_unstable();
    assert_eq!(spread, expected);
    assert_eq!(catalog.backup(full.id).await.unwrap().status, BackupStatus::Completed);
    assert!(catalog.set_backup_status(first.id, BackupStatus::Damaged).await.unwrap().is_empty());

    refused(catalog.set_backup_status(second.id, BackupStatus::Completed).await, ErrorKind::Conflict);
    assert_eq!(catalog.set_backup_status(first.id, BackupStatus::Completed).await.unwrap(), [first.id]);
    assert_eq!(catalog.backup(second.id).await.unwrap().status, BackupStatus::Damaged);
    assert_eq!(catalog.set_backup_status(second.id, BackupStatus::Completed).await.unwrap(), [second.id]);
    refused(catalog.set_backup_status(BackupId::random(), BackupStatus::Damaged).await, ErrorKind::NotFound);
}

/// A removal and a commit of a child at the same moment: one of them is refused, whichever comes first.
async fn a_parent_is_not_removed_under_its_child(fixture: Fixture) {
    let catalog = &fixture.catalog;
    let (vm, store) = fixture.protected_vm().await;
    let (committer, remover) = (fixture.lease().await, fixture.lease().await);
    for step in 0..12 {
        let full = backup(&vm, &store, None, step);
        let child = backup(&vm, &store, Some(&full), step);
        catalog.import_backup(&full).await.unwrap();
        let (committed, removed) = tokio::join!(
            catalog.commit_backup(&committer, &child),
            catalog.remove_backup(&remover, full.id, START)
        );
        assert_ne!(committed.is_ok(), removed.is_ok(), "{committed:?} {removed:?}");
        let refusal = committed.err().or(removed.err()).unwrap();
        assert_eq!(refusal.kind(), ErrorKind::Conflict, "{refusal}");
        assert_eq!(catalog.backup(full.id).await.is_ok(), catalog.backup(child.id).await.is_ok());
    }
}
