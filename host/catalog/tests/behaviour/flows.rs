//! Policies and their versions; flows that fire once for each time, whoever is first; runs and marks.

use tidemark_catalog::{
    Backup, ErrorKind, Flow, FlowMember, FlowRunVm, Lease, NewFiring, NewPolicyVersion, PageRequest,
    RetentionMark, RunCause, RunStatus, RunVmState, SeenVm, WorkKind,
};
use tidemark_model::{FlowId, JobKind, PolicyKind, UtcMillis};

use crate::engines::{Fixture, START, backup, refused};
use crate::on_both_engines;

const HOUR: i64 = 3_600_000;

fn flow(name: &str, due: Option<UtcMillis>) -> Flow {
    Flow {
        id: FlowId::random(),
        name: name.to_owned(),
        enabled: due.is_some(),
        definition_json: "{}".to_owned(),
        secrets_json: "{}".to_owned(),
        revision: 1,
        next_fire_at: due,
        created_at: START,
        updated_at: START,
    }
}

fn firing(flow: &Flow, owner: &str) -> NewFiring {
    let fire_at = flow.next_fire_at.unwrap();
    NewFiring {
        flow_id: flow.id,
        revision: flow.revision,
        fire_at,
        next_fire_at: Some(fire_at.plus_millis(HOUR)),
        missed: 0,
        skipped: None,
        priority: 5,
        owner: owner.to_owned(),
    }
}

async fn policies_have_versions_that_come_back(fixture: Fixture) {
    let catalog = &fixture.catalog;
    let put = |source: &str, activate: bool| {
        let (source, digest) = (source.to_owned(), format!("digest of {source}"));
        let catalog = catalog.clone();
        async move {
            let new = NewPolicyVersion {
                name: "gfs".into(),
                kind: PolicyKind::Retention,
                source,
                digest,
                created_by: "ada".into(),
            };
            catalog.put_policy(&new, activate, START).await
        }
    };
    let first = put("one", true).await.unwrap();
    assert_eq!((first.version, first.active), (1, true));
    let second = put("two", false).await.unwrap();
    assert_eq!((second.version, second.active), (2, false));
    assert_eq!(put("two", false).await.unwrap().version, 2, "the same script is the same version");
    assert_eq!(catalog.policy_version("gfs", None).await.unwrap().source, "one");
    catalog.activate_policy("gfs", 2, "ada", START).await.unwrap();
    assert_eq!(catalog.policy_version("gfs", None).await.unwrap().source, "two");
    let back = catalog.rollback_policy("gfs", "ada", START).await.unwrap();
    assert_eq!((back.version, back.active), (1, true));
    assert_eq!(catalog.rollback_policy("gfs", "ada", START).await.unwrap().version, 2, "and forth again");
    refused(catalog.activate_policy("gfs", 9, "ada", START).await, ErrorKind::NotFound);
    refused(catalog.rollback_policy("none", "ada", START).await, ErrorKind::NotFound);
    let other_kind = NewPolicyVersion {
        name: "gfs".into(),
        kind: PolicyKind::Group,
        source: "x".into(),
        digest: "x".into(),
        created_by: "ada".into(),
    };
    refused(catalog.put_policy(&other_kind, true, START).await, ErrorKind::Conflict);
    let listed = catalog.list_policies().await.unwrap();
    assert_eq!((listed.len(), listed[0].active, listed[0].newest), (1, Some(2), 2));
    assert_eq!(catalog.policy_versions("gfs").await.unwrap().len(), 2);
    catalog.remove_policy("gfs").await.unwrap();
    refused(catalog.policy_version("gfs", None).await, ErrorKind::NotFound);
}

async fn of_many_hosts_one_fires(fixture: Fixture) {
    let catalog = &fixture.catalog;
    let nightly = flow("nightly", Some(START));
    catalog.add_flow(&nightly).await.unwrap();
    assert_eq!(catalog.due_flows(START.plus_millis(-1)).await.unwrap(), []);
    let due = catalog.due_flows(START).await.unwrap();
    assert_eq!(due, std::slice::from_ref(&nightly));
    let hosts: Vec<_> = (0..6)
        .map(|host| {
            let (catalog, firing) = (catalog.clone(), firing(&nightly, &format!("host-{host}")));
            tokio::spawn(async move { catalog.fire(&firing, START).await.unwrap() })
        })
        .collect();
    let mut fired = Vec::new();
    for host in hosts {
        fired.extend(host.await.unwrap());
    }
    assert_eq!(fired.len(), 1, "one host");
    let run = catalog.flow_run(fired[0].job_id.unwrap()).await.unwrap();
    assert_eq!((run.cause, run.fire_at, run.status), (RunCause::Schedule, Some(START), None));
    let job = catalog.job(run.job_id).await.unwrap();
    assert_eq!(job.kind, JobKind::RunFlow);
    assert_eq!(catalog.due_flows(START).await.unwrap(), [], "the next time is set with it");
    let later = catalog.flow(nightly.id).await.unwrap();
    assert_eq!(later.next_fire_at, Some(START.plus_millis(HOUR)));

    // The first run still waits: the next firing is recorded, and says why it has none.
    let next = catalog.fire(&firing(&later, "host-1"), START.plus_millis(HOUR)).await.unwrap().unwrap();
    assert_eq!(next.job_id, None);
    assert!(next.skipped.unwrap().contains("still waits"));
    refused(catalog.run_flow(nightly.id, 0, None, START).await, ErrorKind::Conflict);

    // Runs and work are taken by workers of their own.
    assert_eq!(catalog.claim_job(WorkKind::Work, "a", 1_000, START).await.unwrap(), None);
    let (claimed, lease) = catalog.claim_job(WorkKind::Waiting, "a", 60_000, START).await.unwrap().unwrap();
    assert_eq!(claimed.id, run.job_id);
    let manual = catalog.run_flow(nightly.id, 0, Some("key"), START).await.unwrap();
    assert_eq!(catalog.run_flow(nightly.id, 0, Some("key"), START).await.unwrap().id, manual.id);
    let beside = catalog.claim_job(WorkKind::Waiting, "b", 1_000, START).await.unwrap();
    assert_eq!(beside, None, "runs of one flow never overlap");
    refused(catalog.remove_flow(nightly.id).await, ErrorKind::Conflict);
    drop(lease);
    assert_eq!(catalog.list_firings(nightly.id, &PageRequest::default()).await.unwrap().items.len(), 2);
}

async fn a_changed_flow_does_not_fire_by_its_old_schedule(fixture: Fixture) {
    let catalog = &fixture.catalog;
    let nightly = flow("nightly", Some(START));
    catalog.add_flow(&nightly).await.unwrap();
    refused(catalog.add_flow(&flow("nightly", None)).await, ErrorKind::Conflict);
    let seen = firing(&nightly, "slow-host");
    let off = Flow { enabled: false, next_fire_at: None, ..nightly.clone() };
    let off = catalog.update_flow(&off).await.unwrap();
    assert_eq!((off.revision, off.enabled), (2, false));
    assert_eq!(catalog.fire(&seen, START).await.unwrap(), None);
    refused(catalog.update_flow(&nightly).await, ErrorKind::Conflict);
    catalog.remove_flow(nightly.id).await.unwrap();
    refused(catalog.flow(nightly.id).await, ErrorKind::NotFound);
}

async fn a_run_keeps_its_decisions(fixture: Fixture) {
    let catalog = &fixture.catalog;
    let (vm, repository) = fixture.protected_vm().await;
    let nightly = flow("nightly", None);
    catalog.add_flow(&nightly).await.unwrap();
    catalog.run_flow(nightly.id, 0, None, START).await.unwrap();
    let claimed = catalog.claim_job(WorkKind::Waiting, "host-a", 60_000, START).await.unwrap();
    let (job, lease) = claimed.unwrap();
    let decided = FlowRunVm {
        vm_id: vm.id,
        vm_name: vm.name.clone(),
        state: RunVmState::Waiting,
        plan: "incremental".into(),
        reason: "tag prod".into(),
        error: None,
        attempts: 0,
        backup_id: None,
        detail_json: "{}".into(),
    };
    catalog.add_run_vms(&lease, std::slice::from_ref(&decided)).await.unwrap();
    let other = FlowRunVm { plan: "full".into(), ..decided.clone() };
    catalog.add_run_vms(&lease, &[other]).await.unwrap();
    let standing = catalog.run_vms(job.id).await.unwrap();
    assert_eq!(standing, std::slice::from_ref(&decided), "the first decision stays");
    let done = FlowRunVm { state: RunVmState::Failed, error: Some("gone".into()), attempts: 2, ..decided };
    catalog.update_run_vm(&lease, &done).await.unwrap();
    assert_eq!(catalog.run_vms(job.id).await.unwrap(), std::slice::from_ref(&done));
    catalog.report_run(&lease, r#"{"a":1}"#).await.unwrap();
    // Whoever lost the run to another host changes nothing of it any more.
    let lost = Lease { epoch: lease.epoch + 1, ..lease.clone() };
    let late = FlowRunVm { state: RunVmState::Succeeded, ..done.clone() };
    refused(catalog.update_run_vm(&lost, &late).await, ErrorKind::LeaseLost);
    refused(catalog.add_run_vms(&lost, &[late]).await, ErrorKind::LeaseLost);
    refused(catalog.report_run(&lost, "{}").await, ErrorKind::LeaseLost);
    refused(catalog.set_flow_members(&lost, nightly.id, &[], START).await, ErrorKind::LeaseLost);
    refused(catalog.end_run(&lost, RunStatus::Succeeded, START).await, ErrorKind::LeaseLost);
    assert_eq!(catalog.run_vms(job.id).await.unwrap(), [done]);
    assert!(catalog.end_run(&lease, RunStatus::Partly, START).await.unwrap());
    assert!(!catalog.end_run(&lease, RunStatus::Failed, START).await.unwrap(), "the first word counts");
    let runs = catalog.list_flow_runs(nightly.id, &PageRequest::default()).await.unwrap().items;
    assert_eq!((runs.len(), runs[0].status), (1, Some(RunStatus::Partly)));
    assert_eq!(catalog.count_flow_runs(nightly.id).await.unwrap(), [(Some(RunStatus::Partly), 1)]);

    let connector_id = vm.connector_id.unwrap();
    let seen = |key: &str| SeenVm {
        connector_id,
        vm_key: key.into(),
        name: key.into(),
        inventory_json: "{}".into(),
        seen_at: START,
    };
    catalog.set_seen_vms(connector_id, &[seen("vm-7"), seen("vm-8")]).await.unwrap();
    let member = FlowMember {
        connector_id,
        vm_key: "vm-7".into(),
        vm_name: "web01".into(),
        protect: true,
        reason: "tag".into(),
    };
    catalog.set_flow_members(&lease, nightly.id, &[member], START).await.unwrap();
    assert_eq!(catalog.unprotected_vms().await.unwrap().len(), 2, "a disabled flow protects nothing");
    let on = Flow { enabled: true, ..catalog.flow(nightly.id).await.unwrap() };
    catalog.update_flow(&on).await.unwrap();
    assert_eq!(catalog.unprotected_vms().await.unwrap(), [seen("vm-8")]);
    assert_eq!(catalog.stored_since(repository.id, START).await.unwrap().0, 0);
}

async fn marks_follow_the_policy_and_go_with_their_backup(fixture: Fixture) {
    let catalog = &fixture.catalog;
    let (vm, repository) = fixture.protected_vm().await;
    let old = backup(&vm, &repository, None, 0);
    let new = Backup { ..backup(&vm, &repository, None, 60) };
    for backup in [&old, &new] {
        let lease = fixture.lease().await;
        catalog.commit_backup(&lease, backup).await.unwrap();
    }
    let kept = catalog.kept_backups(vm.id, repository.id).await.unwrap();
    assert_eq!(kept.iter().map(|kept| kept.id).collect::<Vec<_>>(), [old.id, new.id]);
    assert_eq!(kept[0].stored.0, old.disks.iter().map(|disk| disk.stored.0).sum::<u64>());
    assert_eq!(catalog.vms_in_repository(repository.id, None, 10).await.unwrap(), [vm.id]);
    assert_eq!(catalog.vms_in_repository(repository.id, Some(vm.id), 10).await.unwrap(), []);
    let mark = |backup: &Backup, at: UtcMillis| RetentionMark {
        backup_id: backup.id,
        vm_id: vm.id,
        repository_id: repository.id,
        policy: "gfs 1".into(),
        marked_at: at,
        due_at: at.plus_millis(HOUR),
        approved: false,
        approved_by: None,
    };
    let marked = [mark(&old, START), mark(&new, START)];
    catalog.set_marks(vm.id, repository.id, &marked).await.unwrap();
    let again = [RetentionMark { policy: "gfs 2".into(), ..mark(&old, START.plus_millis(5)) }];
    catalog.set_marks(vm.id, repository.id, &again).await.unwrap();
    let standing = catalog.marks(repository.id, Some(vm.id)).await.unwrap();
    let expected = RetentionMark { policy: "gfs 2".into(), ..mark(&old, START) };
    assert_eq!(standing, [expected], "an older mark keeps its time; one that is kept again is gone");
    assert_eq!(catalog.approve_marks(repository.id, None, "ada").await.unwrap(), 1);
    assert_eq!(catalog.approve_marks(repository.id, None, "ada").await.unwrap(), 0);
    let lease = fixture.lease().await;
    catalog.remove_backup(&lease, old.id, START).await.unwrap();
    assert_eq!(catalog.marks(repository.id, None).await.unwrap(), []);
    assert_eq!(catalog.last_look(vm.id, repository.id).await.unwrap(), None);
    catalog.record_look(vm.id, repository.id, START).await.unwrap();
    catalog.record_look(vm.id, repository.id, START.plus_millis(1)).await.unwrap();
    assert_eq!(catalog.last_look(vm.id, repository.id).await.unwrap(), Some(START.plus_millis(1)));
    let standings = catalog.vm_standings().await.unwrap();
    assert_eq!((standings.len(), standings[0].last_good), (1, Some(new.snapshot_at)));
    assert_eq!(standings[0].last_verified, None);
    assert_eq!(catalog.failures_since(START).await.unwrap(), []);
}

async fn priority_comes_before_age(fixture: Fixture) {
    let catalog = &fixture.catalog;
    let old = fixture.submit(None).await;
    let urgent = tidemark_catalog::NewJob { priority: 9, ..crate::engines::new_job(None, None) };
    let urgent = catalog.submit_job(&urgent, START).await.unwrap();
    for expected in [urgent.id, old.id] {
        let (job, _) = catalog.claim_job(WorkKind::Work, "a", 60_000, START).await.unwrap().unwrap();
        assert_eq!(job.id, expected);
    }
}

on_both_engines!(
    policies_have_versions_that_come_back,
    of_many_hosts_one_fires,
    a_changed_flow_does_not_fire_by_its_old_schedule,
    a_run_keeps_its_decisions,
    marks_follow_the_policy_and_go_with_their_backup,
    priority_comes_before_age,
);
