//! Leases: keeping, losing, taking over. A lost lease has no effect whatsoever.

use tidemark_catalog::{ErrorKind, Job, JobOutcome, Lease, WorkKind};
use tidemark_model::JobState;

use crate::engines::{Fixture, START, refused};
use crate::on_both_engines;

on_both_engines!(
    a_lost_lease_has_no_effect,
    a_heartbeat_keeps_the_lease,
    an_expired_job_is_taken_over_with_its_steps,
    takeovers_at_once_never_double,
    a_restarted_host_takes_its_own_jobs_at_once,
    a_requeued_job_starts_afresh,
    a_requeued_job_that_was_to_end_ends,
    steps_keep_their_order,
);

/// Every effect that names a lease must be refused under this one.
async fn all_refused(fixture: &Fixture, lease: &Lease) {
    let catalog = &fixture.catalog;
    let before = (catalog.job(lease.job_id).await.unwrap(), catalog.steps(lease.job_id).await.unwrap());
    let done = JobOutcome::Succeeded { result_json: "{}".into() };
    refused(catalog.heartbeat(lease, 1_000, r#"{"x":1}"#, START).await, ErrorKind::LeaseLost);
    refused(catalog.record_step(lease, "late", "{}", START).await, ErrorKind::LeaseLost);
    refused(catalog.clear_steps(lease).await, ErrorKind::LeaseLost);
    refused(catalog.requeue_job(lease, START).await, ErrorKind::LeaseLost);
    refused(catalog.finish_job(lease, &done, START).await, ErrorKind::LeaseLost);
    let after = (catalog.job(lease.job_id).await.unwrap(), catalog.steps(lease.job_id).await.unwrap());
    assert_eq!(before, after);
}

async fn a_lost_lease_has_no_effect(fixture: Fixture) {
    let catalog = &fixture.catalog;
    let lease = fixture.lease().await;
    catalog.record_step(&lease, "snapshot-requested", "{}", START).await.unwrap();
    all_refused(&fixture, &Lease { epoch: lease.epoch + 1, ..lease.clone() }).await;
    all_refused(&fixture, &Lease { owner: "host-b".into(), ..lease.clone() }).await;

    let later = START.plus_millis(60_000);
    let (_, taken) = catalog.claim_expired("host-b", 1_000, later).await.unwrap().unwrap();
    all_refused(&fixture, &lease).await;
    // The same host again is a new epoch too.
    let (_, again) = catalog.claim_expired("host-a", 1_000, later.plus_millis(5_000)).await.unwrap().unwrap();
    all_refused(&fixture, &lease).await;
    all_refused(&fixture, &taken).await;
    catalog.finish_job(&again, &JobOutcome::Cancelled, later).await.unwrap();
    all_refused(&fixture, &again).await;
}

async fn a_heartbeat_keeps_the_lease(fixture: Fixture) {
    let catalog = &fixture.catalog;
    let lease = fixture.lease().await;
    let late = START.plus_millis(9_999);
    assert_eq!(catalog.claim_expired("host-b", 1_000, late).await.unwrap(), None);
    catalog.heartbeat(&lease, 10_000, r#"{"copied_bytes":7}"#, late).await.unwrap();
    let job = catalog.job(lease.job_id).await.unwrap();
    assert_eq!(job.lease_until, Some(late.plus_millis(10_000)));
    assert_eq!(job.progress_json, r#"{"copied_bytes":7}"#);
    assert_eq!(catalog.claim_expired("host-b", 1_000, START.plus_millis(19_999)).await.unwrap(), None);
    // Nobody took it yet: the lease still counts, and may even be renewed.
    let too_late = START.plus_millis(50_000);
    catalog.heartbeat(&lease, 10_000, "{}", too_late).await.unwrap();
    assert_eq!(catalog.claim_expired("host-b", 1_000, too_late).await.unwrap(), None);
    refused(catalog.heartbeat(&lease, 0, "{}", START).await, ErrorKind::Invalid);
}

async fn an_expired_job_is_taken_over_with_its_steps(fixture: Fixture) {
    let catalog = &fixture.catalog;
    let lease = fixture.lease().await;
    catalog.record_step(&lease, "snapshot-requested", r#"{"key":"k"}"#, START).await.unwrap();
    let later = START.plus_millis(10_001);
    let (job, taken) = catalog.claim_expired("host-b", 5_000, later).await.unwrap().unwrap();
    assert_eq!((job.id, job.state, job.epoch), (lease.job_id, JobState::Running, lease.epoch + 1));
    assert_eq!(
        (job.lease_owner.as_deref(), job.lease_until),
        (Some("host-b"), Some(later.plus_millis(5_000)))
    );
    assert_eq!(job.started_at, Some(START));
    assert_eq!(
        catalog.claim_job(WorkKind::Work, "host-c", 1_000, later).await.unwrap(),
        None,
        "it is not simply run again"
    );
    assert_eq!(catalog.claim_expired("host-c", 1_000, later).await.unwrap(), None);

    catalog.record_step(&taken, "recovery", "{}", later).await.unwrap();
    let steps = catalog.steps(job.id).await.unwrap();
    let told: Vec<_> = steps.iter().map(|step| (step.sequence, step.epoch, step.name.as_str())).collect();
    assert_eq!(told, [(1, 1, "snapshot-requested"), (2, 2, "recovery")]);
    assert_eq!((steps[0].detail_json.as_str(), steps[0].recorded_at), (r#"{"key":"k"}"#, START));
    let failed = JobOutcome::Failed { error_json: r#"{"kind":"interrupted"}"#.into() };
    catalog.finish_job(&taken, &failed, later).await.unwrap();
    assert_eq!(catalog.job(job.id).await.unwrap().state, JobState::Failed);
    assert_eq!(catalog.steps(job.id).await.unwrap().len(), 2, "what happened stays on record");
}

async fn takeovers_at_once_never_double(fixture: Fixture) {
    let catalog = &fixture.catalog;
    for _ in 0..24 {
        fixture.lease().await;
    }
    let later = START.plus_millis(10_001);
    let tasks = (0..8).map(|number| {
        let catalog = catalog.clone();
        tokio::spawn(async move {
            let (mut taken, owner) = (Vec::new(), format!("rescuer-{number}"));
            while let Some((job, lease)) = catalog.claim_expired(&owner, 60_000, later).await.unwrap() {
                assert_eq!((job.epoch, lease.epoch), (2, 2));
                taken.push(job.id);
            }
            taken
        })
    });
    let mut taken = Vec::new();
    for task in tasks.collect::<Vec<_>>() {
        taken.extend(task.await.unwrap());
    }
    taken.sort_unstable();
    taken.dedup();
    assert_eq!(taken.len(), 24);
}

async fn a_restarted_host_takes_its_own_jobs_at_once(fixture: Fixture) {
    let catalog = &fixture.catalog;
    let (first, second) = (fixture.lease().await, fixture.lease().await);
    fixture.submit(None).await;
    let (foreign, _) = catalog.claim_job(WorkKind::Work, "host-b", 10_000, START).await.unwrap().unwrap();
    let mut held: Vec<_> = catalog.owner_jobs("host-a").await.unwrap().iter().map(|job| job.id).collect();
    assert_eq!(held, [first.job_id, second.job_id]);

    let taken = catalog.claim_abandoned("host-a", 7_000, START.plus_millis(1)).await.unwrap();
    let mut ids: Vec<_> = taken.iter().map(|(job, _)| job.id).collect();
    ids.sort_unstable();
    held.sort_unstable();
    assert_eq!(ids, held);
    for (job, lease) in &taken {
        assert_eq!((job.state, job.epoch, lease.epoch), (JobState::Running, 2, 2));
        assert_eq!(job.lease_until, Some(START.plus_millis(7_001)));
    }
    all_refused(&fixture, &first).await;
    assert_eq!(catalog.job(foreign.id).await.unwrap(), foreign);
    assert!(catalog.claim_abandoned("host-z", 7_000, START).await.unwrap().is_empty());
}

async fn a_requeued_job_starts_afresh(fixture: Fixture) {
    let catalog = &fixture.catalog;
    let lease = fixture.lease().await;
    catalog.record_step(&lease, "snapshot-requested", "{}", START).await.unwrap();
    let job = catalog.requeue_job(&lease, START).await.unwrap();
    assert_eq!((job.state, job.epoch, job.lease_owner), (JobState::Queued, 1, None));
    assert!(catalog.steps(job.id).await.unwrap().is_empty());
    let (again, fresh) =
        catalog.claim_job(WorkKind::Work, "host-a", 1_000, START.plus_millis(9)).await.unwrap().unwrap();
    assert_eq!((again.id, again.epoch, again.started_at), (job.id, 2, Some(START)));
    all_refused(&fixture, &lease).await;
    catalog.record_step(&fresh, "snapshot-requested", "{}", START).await.unwrap();
}

async fn a_requeued_job_that_was_to_end_ends(fixture: Fixture) {
    let catalog = &fixture.catalog;
    let lease = fixture.lease().await;
    catalog.request_cancel(lease.job_id, START).await.unwrap();
    let job: Job = catalog.requeue_job(&lease, START.plus_millis(4)).await.unwrap();
    assert_eq!((job.state, job.ended_at), (JobState::Cancelled, Some(START.plus_millis(4))));
}

async fn steps_keep_their_order(fixture: Fixture) {
    let catalog = &fixture.catalog;
    let lease = fixture.lease().await;
    let other = fixture.lease().await;
    catalog.record_step(&other, "elsewhere", "{}", START).await.unwrap();
    for expected in 1..=3 {
        let sequence = catalog.record_step(&lease, &format!("step-{expected}"), "{}", START).await.unwrap();
        assert_eq!(sequence, expected);
    }
    // Disks move at the same time and record their steps so.
    let tasks = (0..6).map(|_| {
        let (catalog, lease) = (catalog.clone(), lease.clone());
        tokio::spawn(async move { catalog.record_step(&lease, "disk", "{}", START).await.unwrap() })
    });
    let mut numbers = Vec::new();
    for task in tasks.collect::<Vec<_>>() {
        numbers.push(task.await.unwrap());
    }
    numbers.sort_unstable();
    assert_eq!(numbers, [4, 5, 6, 7, 8, 9]);
    catalog.clear_steps(&lease).await.unwrap();
    assert!(catalog.steps(lease.job_id).await.unwrap().is_empty());
    assert_eq!(catalog.steps(other.job_id).await.unwrap().len(), 1);
}
