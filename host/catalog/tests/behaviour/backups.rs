//! How backups come into the catalog and leave it.

use std::time::Duration;

use tidemark_catalog::{Backup, BackupFilter, ErrorKind, JobOutcome, Lease, PageRequest};
use tidemark_model::{BackupId, BackupStatus, BackupType, ByteLen, JobId};

use crate::engines::{Fixture, START, backup, refused};
use crate::on_both_engines;

on_both_engines!(
    a_backup_comes_back_as_it_went_in,
    a_failing_disk_leaves_no_backup,
    an_abandoned_commit_is_all_or_nothing,
    only_a_held_lease_commits,
    an_incomplete_backup_is_refused,
    object_keys_are_unique,
    removal_remembers_its_objects,
    an_import_is_repeatable,
    lists_page_while_backups_arrive,
    marks_are_kept,
);

async fn a_backup_comes_back_as_it_went_in(fixture: Fixture) {
    let catalog = &fixture.catalog;
    let (vm, store) = fixture.protected_vm().await;
    let lease = fixture.lease().await;
    let mut full = backup(&vm, &store, None, 0);
    full.job_id = Some(lease.job_id);
    full.warnings_json = r#"["not quiesced — ‘ü’"]"#.into();
    full.disks[1].capacity = ByteLen(u64::try_from(i64::MAX).unwrap());
    catalog.commit_backup(&lease, &full).await.unwrap();
    assert_eq!(catalog.backup(full.id).await.unwrap(), full);
    assert_eq!(catalog.latest_backup(vm.id, store.id).await.unwrap(), Some(full.clone()));
    refused(catalog.backup(BackupId::random()).await, ErrorKind::NotFound);
    refused(catalog.commit_backup(&lease, &full).await, ErrorKind::Conflict);
}

async fn a_failing_disk_leaves_no_backup(fixture: Fixture) {
    let catalog = &fixture.catalog;
    let (vm, store) = fixture.protected_vm().await;
    let lease = fixture.lease().await;
    let mut full = backup(&vm, &store, None, 0);
    full.disks[1].disk_key = full.disks[0].disk_key.clone();
    refused(catalog.commit_backup(&lease, &full).await, ErrorKind::Conflict);
    full.disks[1].disk_key.0 = "2001".into();
    full.disks[1].stored = ByteLen(u64::MAX);
    refused(catalog.commit_backup(&lease, &full).await, ErrorKind::Invalid);
    assert_eq!((fixture.count("backups").await, fixture.count("backup_disks").await), (0, 0));
    full.disks[1].stored = ByteLen(0);
    catalog.commit_backup(&lease, &full).await.unwrap();
    assert_eq!((fixture.count("backups").await, fixture.count("backup_disks").await), (1, 2));
}

async fn an_abandoned_commit_is_all_or_nothing(fixture: Fixture) {
    let catalog = &fixture.catalog;
    let (vm, store) = fixture.protected_vm().await;
    let lease = fixture.lease().await;
    for step in 0..40 {
        let full = backup(&vm, &store, None, step);
        let commit = catalog.commit_backup(&lease, &full);
        let patience = Duration::from_micros(150 * u64::try_from(step).unwrap());
        let ended = tokio::time::timeout(patience, commit).await;
        let found = catalog.backup(full.id).await;
        match (ended, found) {
            (Ok(Ok(())) | Err(_), Ok(found)) => assert_eq!(found, full),
            (Err(_), Err(error)) => assert_eq!(error.kind(), ErrorKind::NotFound),
            (ended, found) => panic!("commit {ended:?}, found {found:?}"),
        }
    }
    assert_eq!(fixture.count("backup_disks").await, 2 * fixture.count("backups").await);
}

async fn only_a_held_lease_commits(fixture: Fixture) {
    let catalog = &fixture.catalog;
    let (vm, store) = fixture.protected_vm().await;
    let lease = fixture.lease().await;
    let full = backup(&vm, &store, None, 0);
    for stale in [
        Lease { epoch: lease.epoch - 1, ..lease.clone() },
        Lease { owner: "host-b".into(), ..lease.clone() },
        Lease { job_id: JobId::random(), ..lease.clone() },
    ] {
        refused(catalog.commit_backup(&stale, &full).await, ErrorKind::LeaseLost);
    }
    let foreign = Backup { job_id: Some(JobId::random()), ..full.clone() };
    refused(catalog.commit_backup(&lease, &foreign).await, ErrorKind::Invalid);
    catalog.finish_job(&lease, &JobOutcome::Cancelled, START).await.unwrap();
    refused(catalog.commit_backup(&lease, &full).await, ErrorKind::LeaseLost);
    assert_eq!(fixture.count("backups").await, 0);
}

async fn an_incomplete_backup_is_refused(fixture: Fixture) {
    let catalog = &fixture.catalog;
    let (vm, store) = fixture.protected_vm().await;
    let lease = fixture.lease().await;
    let full = backup(&vm, &store, None, 0);
    let mut diskless = full.clone();
    diskless.disks.clear();
    let mut disordered = full.clone();
    disordered.disks.reverse();
    let mut shared = full.clone();
    shared.manifest_key = shared.disks[0].object_key.clone();
    let orphan = Backup { backup_type: BackupType::Incremental, ..full.clone() };
    let child = Backup { parent_id: Some(BackupId::random()), ..full.clone() };
    for wrong in [diskless, disordered, shared, orphan, child] {
        refused(catalog.commit_backup(&lease, &wrong).await, ErrorKind::Invalid);
        refused(catalog.import_backup(&wrong).await, ErrorKind::Invalid);
    }
}

async fn object_keys_are_unique(fixture: Fixture) {
    let catalog = &fixture.catalog;
    let (vm, store) = fixture.protected_vm().await;
    let elsewhere = fixture.repository("elsewhere").await;
    let lease = fixture.lease().await;
    let full = backup(&vm, &store, None, 0);
    catalog.commit_backup(&lease, &full).await.unwrap();

    let mut same_disk = backup(&vm, &store, None, 1);
    same_disk.disks[1].object_key = full.disks[0].object_key.clone();
    refused(catalog.commit_backup(&lease, &same_disk).await, ErrorKind::Conflict);
    let same_manifest = Backup { manifest_key: full.manifest_key.clone(), ..backup(&vm, &store, None, 1) };
    refused(catalog.commit_backup(&lease, &same_manifest).await, ErrorKind::Conflict);
    assert_eq!(fixture.count("backups").await, 1);
    // Another repository is another name space.
    let copy = Backup { id: BackupId::random(), repository_id: elsewhere.id, ..full.clone() };
    catalog.commit_backup(&lease, &copy).await.unwrap();
}

async fn removal_remembers_its_objects(fixture: Fixture) {
    let catalog = &fixture.catalog;
    let (vm, store) = fixture.protected_vm().await;
    let lease = fixture.lease().await;
    let full = backup(&vm, &store, None, 0);
    let incremental = backup(&vm, &store, Some(&full), 1);
    catalog.commit_backup(&lease, &full).await.unwrap();
    catalog.commit_backup(&lease, &incremental).await.unwrap();

    refused(catalog.remove_backup(&lease, full.id, START).await, ErrorKind::Conflict);
    catalog.set_pinned(incremental.id, true).await.unwrap();
    refused(catalog.remove_backup(&lease, incremental.id, START).await, ErrorKind::Conflict);
    catalog.set_pinned(incremental.id, false).await.unwrap();
    let stale = Lease { epoch: 0, ..lease.clone() };
    refused(catalog.remove_backup(&stale, incremental.id, START).await, ErrorKind::LeaseLost);
    assert!(catalog.doomed_objects(store.id).await.unwrap().is_empty());

    assert_eq!(catalog.remove_backup(&lease, incremental.id, START).await.unwrap(), incremental);
    refused(catalog.remove_backup(&lease, incremental.id, START).await, ErrorKind::NotFound);
    assert_eq!(fixture.count("backup_disks").await, 2, "the disks go with their backup");
    let doomed = catalog.doomed_objects(store.id).await.unwrap();
    let keys: Vec<&str> = doomed.iter().map(|object| object.object_key.as_str()).collect();
    let mut objects = Vec::new();
    for disk in &incremental.disks {
        objects.extend([disk.ranges.as_ref().unwrap().object_key.as_str(), disk.object_key.as_str()]);
    }
    assert_eq!(
        keys,
        [&[incremental.manifest_key.as_str()], objects.as_slice()].concat(),
        "the manifest is first"
    );
    assert!(doomed.iter().all(|object| object.backup_id == incremental.id && object.doomed_at == START));

    // As long as its objects are to be deleted, neither an import nor a commit may use them again.
    refused(catalog.import_backup(&incremental).await, ErrorKind::Conflict);
    refused(catalog.commit_backup(&lease, &incremental).await, ErrorKind::Conflict);
    let mut other = backup(&vm, &store, Some(&full), 2);
    other.disks[0].ranges.clone_from(&incremental.disks[0].ranges);
    refused(catalog.commit_backup(&lease, &other).await, ErrorKind::Conflict);
    for object in &doomed {
        catalog.forget_doomed(store.id, &object.object_key).await.unwrap();
        catalog.forget_doomed(store.id, &object.object_key).await.unwrap();
    }
    assert!(catalog.doomed_objects(store.id).await.unwrap().is_empty());
    assert!(catalog.import_backup(&incremental).await.unwrap());
}

async fn an_import_is_repeatable(fixture: Fixture) {
    let catalog = &fixture.catalog;
    let (vm, store) = fixture.protected_vm().await;
    let full = Backup { job_id: Some(JobId::random()), ..backup(&vm, &store, None, 0) };
    let incremental = backup(&vm, &store, Some(&full), 1);
    refused(catalog.import_backup(&incremental).await, ErrorKind::Conflict);
    assert!(catalog.import_backup(&full).await.unwrap());
    assert!(catalog.import_backup(&incremental).await.unwrap());
    assert!(!catalog.import_backup(&incremental).await.unwrap());
    assert_eq!(catalog.backup(full.id).await.unwrap(), Backup { job_id: None, ..full.clone() });

    catalog.set_backup_status(full.id, BackupStatus::Damaged).await.unwrap();
    let late = backup(&vm, &store, Some(&full), 2);
    assert!(catalog.import_backup(&late).await.unwrap());
    assert_eq!(catalog.backup(late.id).await.unwrap().status, BackupStatus::Damaged);
}

async fn lists_page_while_backups_arrive(fixture: Fixture) {
    let catalog = &fixture.catalog;
    let (vm, store) = fixture.protected_vm().await;
    let mut known = Vec::new();
    for step in 0..7 {
        // Some share their moment, so that the id has to break the tie.
        let full = backup(&vm, &store, None, 10 + step / 3);
        catalog.import_backup(&full).await.unwrap();
        known.push(full.id);
    }
    let (all, mut request) = (BackupFilter::default(), PageRequest { limit: 2, cursor: None });
    let mut seen = Vec::new();
    for minutes in 0.. {
        let page = catalog.list_backups(&all, &request).await.unwrap();
        assert!(page.items.len() <= 2);
        seen.extend(page.items);
        // A newer and an older one arrive between two pages.
        catalog.import_backup(&backup(&vm, &store, None, 100 + minutes)).await.unwrap();
        request.cursor = page.next;
        if request.cursor.is_none() {
            break;
        }
    }
    assert!(seen.windows(2).all(|pair| pair[0].snapshot_at >= pair[1].snapshot_at));
    let mut ids: Vec<BackupId> = seen.iter().map(|backup| backup.id).collect();
    ids.sort_unstable();
    known.sort_unstable();
    assert_eq!(ids, known, "each once, and none that came later");

    let damaged = BackupFilter { status: Some(BackupStatus::Damaged), ..all };
    assert!(catalog.list_backups(&damaged, &PageRequest::default()).await.unwrap().items.is_empty());
    catalog.set_backup_status(known[0], BackupStatus::Damaged).await.unwrap();
    let here = BackupFilter { vm_id: Some(vm.id), repository_id: Some(store.id), ..damaged };
    assert_eq!(catalog.list_backups(&here, &PageRequest::default()).await.unwrap().items[0].id, known[0]);
    for wrong in [PageRequest { limit: 0, cursor: None }, PageRequest { limit: 9, cursor: Some("x".into()) }]
    {
        refused(catalog.list_backups(&here, &wrong).await, ErrorKind::Invalid);
    }
}

async fn marks_are_kept(fixture: Fixture) {
    let catalog = &fixture.catalog;
    let (vm, store) = fixture.protected_vm().await;
    let full = backup(&vm, &store, None, 0);
    catalog.import_backup(&full).await.unwrap();
    catalog.set_pinned(full.id, true).await.unwrap();
    let marked = Backup { pinned: true, ..full };
    assert_eq!(catalog.backup(marked.id).await.unwrap(), marked);
    refused(catalog.set_pinned(BackupId::random(), true).await, ErrorKind::NotFound);
}
