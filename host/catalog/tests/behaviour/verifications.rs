//! What verifications leave behind.

use tidemark_catalog::{StatusChanges, Verification};
use tidemark_model::{BackupId, BackupStatus, VerifyLevel};

use crate::engines::{Fixture, START, backup};
use crate::on_both_engines;

on_both_engines!(
    only_what_is_named_is_marked,
    only_as_thorough_a_verification_clears,
    what_a_merge_rewrote_meanwhile_is_passed_over,
    many_at_once
);

fn verification(level: VerifyLevel, whole: &[BackupId], damaged: &[BackupId]) -> Verification {
    Verification { level, at: START, whole: whole.to_vec(), damaged: damaged.to_vec(), read: [].into() }
}

async fn only_what_is_named_is_marked(fixture: Fixture) {
    let catalog = &fixture.catalog;
    let (vm, store) = fixture.protected_vm().await;
    let full = backup(&vm, &store, None, 0);
    let first = backup(&vm, &store, Some(&full), 1);
    let second = backup(&vm, &store, Some(&first), 2);
    for added in [&full, &first, &second] {
        assert!(catalog.import_backup(added).await.unwrap());
    }
    let gone = BackupId::random();
    let found = verification(VerifyLevel::Deep, &[second.id, gone], &[full.id, first.id, gone]);
    let changes = catalog.record_verification(&found).await.unwrap();
    assert_eq!(changes, StatusChanges { marked: vec![full.id, first.id], cleared: vec![] });
    // The second one's view is whole: it overwrote what is damaged below.
    let second = catalog.backup(second.id).await.unwrap();
    assert_eq!((second.status, second.verified_at), (BackupStatus::Completed, Some(START)));
    assert_eq!(second.verified_level, Some(VerifyLevel::Deep));
    for damaged in [full.id, first.id] {
        let seen = catalog.backup(damaged).await.unwrap();
        assert_eq!((seen.status, seen.verified_at), (BackupStatus::Damaged, None));
    }
    assert_eq!(catalog.record_verification(&found).await.unwrap(), StatusChanges::default());
    // Nor does a new backup on a whole parent count as damaged because of what lies below that.
    let lease = fixture.lease().await;
    catalog.commit_backup(&lease, &backup(&vm, &store, Some(&second), 3)).await.unwrap();
}

async fn only_as_thorough_a_verification_clears(fixture: Fixture) {
    let catalog = &fixture.catalog;
    let (vm, store) = fixture.protected_vm().await;
    let full = backup(&vm, &store, None, 0);
    catalog.import_backup(&full).await.unwrap();
    for (found, shallower) in
        [(VerifyLevel::Deep, VerifyLevel::Full), (VerifyLevel::Full, VerifyLevel::Quick)]
    {
        catalog.record_verification(&verification(found, &[], &[full.id])).await.unwrap();
        // A shallower one that finds damage too does not make the mark easier to take away.
        catalog.record_verification(&verification(shallower, &[], &[full.id])).await.unwrap();
        let changes = catalog.record_verification(&verification(shallower, &[full.id], &[])).await.unwrap();
        assert_eq!(changes, StatusChanges::default());
        let seen = catalog.backup(full.id).await.unwrap();
        assert_eq!((seen.status, seen.verified_at), (BackupStatus::Damaged, None));
        let changes = catalog.record_verification(&verification(found, &[full.id], &[])).await.unwrap();
        assert_eq!(changes.cleared, [full.id]);
        let seen = catalog.backup(full.id).await.unwrap();
        assert_eq!((seen.status, seen.verified_level), (BackupStatus::Completed, Some(found)));
        fixture.raw("UPDATE backups SET verified_at = NULL, verified_level = NULL").await.unwrap();
    }
    // A damage of which nobody said how it was found.
    catalog.set_backup_status(full.id, BackupStatus::Damaged).await.unwrap();
    let quick = verification(VerifyLevel::Quick, &[full.id], &[]);
    assert_eq!(catalog.record_verification(&quick).await.unwrap(), StatusChanges::default());
    let whole = verification(VerifyLevel::Full, &[full.id], &[]);
    assert_eq!(catalog.record_verification(&whole).await.unwrap().cleared, [full.id]);
    // The quick one reads no data: it says nothing about when all was last seen good.
    catalog.record_verification(&quick).await.unwrap();
    assert_eq!(catalog.backup(full.id).await.unwrap().verified_level, Some(VerifyLevel::Full));
}

async fn what_a_merge_rewrote_meanwhile_is_passed_over(fixture: Fixture) {
    let catalog = &fixture.catalog;
    let (vm, store) = fixture.protected_vm().await;
    let mut full = backup(&vm, &store, None, 0);
    full.consolidated_at = Some(START);
    catalog.import_backup(&full).await.unwrap();
    for (whole, damaged) in [(vec![full.id], vec![]), (vec![], vec![full.id])] {
        let read = [(full.id, None)].into();
        let stale = Verification { level: VerifyLevel::Deep, at: START, whole, damaged, read };
        assert_eq!(catalog.record_verification(&stale).await.unwrap(), StatusChanges::default());
        let seen = catalog.backup(full.id).await.unwrap();
        assert_eq!((seen.status, seen.verified_at), (BackupStatus::Completed, None));
        let read = [(full.id, Some(START))].into();
        let fresh = Verification { read, damaged: vec![], whole: vec![full.id], ..stale };
        catalog.record_verification(&fresh).await.unwrap();
        assert_eq!(catalog.backup(full.id).await.unwrap().verified_at, Some(START));
        fixture.raw("UPDATE backups SET verified_at = NULL, verified_level = NULL").await.unwrap();
    }
}

async fn many_at_once(fixture: Fixture) {
    let ids: Vec<BackupId> = (0..2500).map(|_| BackupId::random()).collect();
    let found = verification(VerifyLevel::Full, &ids, &ids);
    assert_eq!(fixture.catalog.record_verification(&found).await.unwrap(), StatusChanges::default());
}
