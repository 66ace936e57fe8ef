//! The queue: submitting, listing, cancelling, and the order of claims.

use std::collections::HashSet;
use std::time::Duration;

use sqlx::{Connection, PgConnection};
use tidemark_catalog::{ErrorKind, JobFilter, JobOutcome, NewJob, PageRequest, WorkKind};
use tidemark_model::{JobId, JobKind, JobState};

use crate::engines::{Fixture, START, new_job, refused};
use crate::on_both_engines;

on_both_engines!(
    a_submission_is_idempotent,
    equal_submissions_at_once_make_one_job,
    jobs_are_claimed_in_order,
    claims_at_once_never_double,
    exclusive_jobs_take_turns,
    exclusive_claims_at_once_never_double,
    a_job_ends_on_request,
    lists_page_while_jobs_arrive,
);

async fn a_submission_is_idempotent(fixture: Fixture) {
    let catalog = &fixture.catalog;
    let new = new_job(Some("vm:1"), Some("key-1"));
    let job = catalog.submit_job(&new, START).await.unwrap();
    assert_eq!((job.state, job.epoch, job.created_at), (JobState::Queued, 0, START));
    let spaced = NewJob { payload_json: r#"{ "vm": "web01" }"#.into(), ..new.clone() };
    assert_eq!(catalog.submit_job(&spaced, START.plus_millis(9)).await.unwrap(), job);

    let others = [
        NewJob { payload_json: r#"{"vm":"web02"}"#.into(), ..new.clone() },
        NewJob { kind: JobKind::Verify, ..new.clone() },
        NewJob { exclusive_key: None, ..new.clone() },
    ];
    for other in others {
        refused(catalog.submit_job(&other, START).await, ErrorKind::Conflict);
    }
    refused(
        catalog.submit_job(&NewJob { payload_json: "{".into(), ..new_job(None, None) }, START).await,
        ErrorKind::Invalid,
    );
    assert_eq!(fixture.count("jobs").await, 1);
    // Also once it has ended.
    let (_, lease) = catalog.claim_job(WorkKind::Work, "host-a", 1_000, START).await.unwrap().unwrap();
    let done = JobOutcome::Succeeded { result_json: r#"{"n":1}"#.into() };
    catalog.finish_job(&lease, &done, START.plus_millis(5)).await.unwrap();
    let ended = catalog.submit_job(&new, START).await.unwrap();
    assert_eq!((ended.id, ended.state), (job.id, JobState::Succeeded));
    assert_eq!(ended.result_json.as_deref(), Some(r#"{"n":1}"#));
    assert_eq!((ended.lease_owner, ended.lease_until), (None, None));
    assert_eq!((ended.started_at, ended.ended_at), (Some(START), Some(START.plus_millis(5))));
}

async fn equal_submissions_at_once_make_one_job(fixture: Fixture) {
    let tasks = (0..8).map(|_| {
        let catalog = fixture.catalog.clone();
        tokio::spawn(async move { catalog.submit_job(&new_job(None, Some("same")), START).await })
    });
    let mut ids = HashSet::new();
    for task in tasks.collect::<Vec<_>>() {
        ids.insert(task.await.unwrap().unwrap().id);
    }
    assert_eq!((ids.len(), fixture.count("jobs").await), (1, 1));
}

async fn jobs_are_claimed_in_order(fixture: Fixture) {
    let catalog = &fixture.catalog;
    assert_eq!(catalog.claim_job(WorkKind::Work, "host-a", 1_000, START).await.unwrap(), None);
    let mut submitted = Vec::new();
    for _ in 0..5 {
        submitted.push(fixture.submit(None).await.id);
    }
    for expected in submitted {
        let (job, lease) = catalog.claim_job(WorkKind::Work, "host-a", 1_000, START).await.unwrap().unwrap();
        assert_eq!((job.id, job.state, job.epoch), (expected, JobState::Running, 1));
        assert_eq!((lease.job_id, lease.epoch, lease.owner.as_str()), (job.id, 1, "host-a"));
        assert_eq!(job.lease_until, Some(START.plus_millis(1_000)));
    }
    assert_eq!(catalog.claim_job(WorkKind::Work, "host-a", 1_000, START).await.unwrap(), None);
    refused(catalog.claim_job(WorkKind::Work, "", 1_000, START).await, ErrorKind::Invalid);
    refused(catalog.claim_job(WorkKind::Work, "host-a", 0, START).await, ErrorKind::Invalid);
}

/// What each of eight tasks claims until nothing is left.
async fn claim_all(fixture: &Fixture) -> Vec<JobId> {
    let tasks = (0..8).map(|number| {
        let catalog = fixture.catalog.clone();
        tokio::spawn(async move {
            let (mut claimed, owner) = (Vec::new(), format!("host-{number}"));
            while let Some((job, lease)) =
                catalog.claim_job(WorkKind::Work, &owner, 60_000, START).await.unwrap()
            {
                assert_eq!(lease.owner, owner);
                claimed.push(job.id);
            }
            claimed
        })
    });
    let mut claimed = Vec::new();
    for task in tasks.collect::<Vec<_>>() {
        claimed.extend(task.await.unwrap());
    }
    claimed
}

async fn claims_at_once_never_double(fixture: Fixture) {
    let mut submitted = HashSet::new();
    for _ in 0..60 {
        submitted.insert(fixture.submit(None).await.id);
    }
    let claimed = claim_all(&fixture).await;
    assert_eq!(claimed.len(), 60);
    assert_eq!(claimed.into_iter().collect::<HashSet<_>>(), submitted);
}

async fn exclusive_jobs_take_turns(fixture: Fixture) {
    let catalog = &fixture.catalog;
    let first = fixture.submit(Some("vm:1")).await;
    let second = fixture.submit(Some("vm:1")).await;
    let other = fixture.submit(Some("vm:2")).await;
    let (job, lease) = catalog.claim_job(WorkKind::Work, "host-a", 1_000, START).await.unwrap().unwrap();
    assert_eq!(job.id, first.id);
    let (job, _) = catalog.claim_job(WorkKind::Work, "host-b", 1_000, START).await.unwrap().unwrap();
    assert_eq!(job.id, other.id, "the second waits for the first, which does not hold up others");
    assert_eq!(catalog.claim_job(WorkKind::Work, "host-b", 1_000, START).await.unwrap(), None);
    let failed = JobOutcome::Failed { error_json: r#"{"kind":"x"}"#.into() };
    catalog.finish_job(&lease, &failed, START).await.unwrap();
    assert_eq!(catalog.job(first.id).await.unwrap().error_json.as_deref(), Some(r#"{"kind":"x"}"#));
    let (job, _) = catalog.claim_job(WorkKind::Work, "host-b", 1_000, START).await.unwrap().unwrap();
    assert_eq!(job.id, second.id);
}

async fn exclusive_claims_at_once_never_double(fixture: Fixture) {
    for number in 0..40 {
        fixture.submit(Some(&format!("vm:{}", number % 5))).await;
    }
    let claimed = claim_all(&fixture).await;
    let mut keys = HashSet::new();
    for id in &claimed {
        assert!(
            keys.insert(fixture.catalog.job(*id).await.unwrap().exclusive_key),
            "two jobs of one key run"
        );
    }
    assert_eq!(keys.len(), 5);
}

async fn a_job_ends_on_request(fixture: Fixture) {
    let catalog = &fixture.catalog;
    let waiting = fixture.submit(None).await;
    let ended = catalog.request_cancel(waiting.id, START.plus_millis(3)).await.unwrap();
    assert_eq!((ended.state, ended.ended_at), (JobState::Cancelled, Some(START.plus_millis(3))));
    refused(catalog.request_cancel(waiting.id, START).await, ErrorKind::Conflict);
    refused(catalog.request_cancel(JobId::random(), START).await, ErrorKind::NotFound);
    assert_eq!(catalog.claim_job(WorkKind::Work, "host-a", 1_000, START).await.unwrap(), None);

    let lease = fixture.lease().await;
    assert!(!catalog.heartbeat(&lease, 1_000, "{}", START).await.unwrap().0);
    let running = catalog.request_cancel(lease.job_id, START).await.unwrap();
    assert_eq!((running.state, running.cancel_requested), (JobState::Running, true));
    assert!(catalog.heartbeat(&lease, 1_000, "{}", START).await.unwrap().0);
    catalog.finish_job(&lease, &JobOutcome::Cancelled, START).await.unwrap();
    assert_eq!(catalog.job(lease.job_id).await.unwrap().state, JobState::Cancelled);
}

async fn lists_page_while_jobs_arrive(fixture: Fixture) {
    let catalog = &fixture.catalog;
    let mut expected = Vec::new();
    for _ in 0..5 {
        expected.insert(0, fixture.submit(None).await.id);
    }
    let (all, mut request, mut seen) =
        (JobFilter::default(), PageRequest { limit: 2, cursor: None }, Vec::new());
    loop {
        let page = catalog.list_jobs(&all, &request).await.unwrap();
        seen.extend(page.items.into_iter().map(|job| job.id));
        fixture.submit(None).await;
        request.cursor = page.next;
        if request.cursor.is_none() {
            break;
        }
    }
    assert_eq!(seen, expected);

    catalog.claim_job(WorkKind::Work, "host-a", 1_000, START).await.unwrap();
    let running = JobFilter { state: Some(JobState::Running), kind: Some(JobKind::Backup) };
    let page = catalog.list_jobs(&running, &PageRequest::default()).await.unwrap();
    assert_eq!(page.items.iter().map(|job| job.id).collect::<Vec<_>>(), [expected[4]]);
    let verifying = JobFilter { state: None, kind: Some(JobKind::Verify) };
    assert!(catalog.list_jobs(&verifying, &PageRequest::default()).await.unwrap().items.is_empty());
    refused(catalog.list_jobs(&all, &PageRequest { limit: 1001, cursor: None }).await, ErrorKind::Invalid);
}

/// Only PostgreSQL lets two claims run at the same time; neither waits for the other's row.
#[tokio::test]
async fn a_claim_passes_over_a_row_that_another_is_taking() {
    let fixture = Fixture::postgres().await;
    let (oldest, second) = (fixture.submit(None).await, fixture.submit(None).await);
    let mut connection = PgConnection::connect(&fixture.url).await.unwrap();
    let mut other = connection.begin().await.unwrap();
    let lock = "SELECT id FROM jobs WHERE id = $1 FOR UPDATE";
    sqlx::query(lock).bind(oldest.id.to_string()).execute(&mut *other).await.unwrap();
    let claim = fixture.catalog.claim_job(WorkKind::Work, "host-a", 1_000, START);
    let claimed = tokio::time::timeout(Duration::from_secs(60), claim).await.expect("it waits for the other");
    assert_eq!(claimed.unwrap().unwrap().0.id, second.id);
    other.rollback().await.unwrap();
}
