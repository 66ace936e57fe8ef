//! A simulated year of flows on several hosts that die again and again: no firing is lost, none happens twice.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::time::Duration;

use tidemark_catalog::{Catalog, Flow, JobOutcome, NewFiring, PageRequest, WorkKind};
use tidemark_model::{FlowId, JobState, UtcMillis};

use crate::engines::{Fixture, START};

const HOUR: i64 = 3_600_000;
const HOSTS: usize = 3;
const RESTARTS: usize = 100;
/// Days that are played; all of them with `TIDEMARK_YEAR_DAYS=365`.
const DAYS: i64 = 60;

/// A flow every so many hours.
fn flow(name: &str, hours: i64) -> (Flow, i64) {
    let period = hours * HOUR;
    let first = (START.0 / period + 1) * period;
    let flow = Flow {
        id: FlowId::random(),
        name: name.to_owned(),
        enabled: true,
        definition_json: format!("{{\"period\":{period}}}"),
        secrets_json: "{}".to_owned(),
        revision: 1,
        next_fire_at: Some(UtcMillis(first)),
        created_at: START,
        updated_at: START,
    };
    (flow, period)
}

fn period_of(flow: &Flow) -> i64 {
    let document: serde_json::Value = serde_json::from_str(&flow.definition_json).unwrap();
    document["period"].as_i64().unwrap()
}

/// What every host does: fires what is due by the shared clock, and runs what was queued.
async fn host(catalog: Catalog, name: String, clock: Arc<AtomicI64>) {
    loop {
        let now = UtcMillis(clock.load(Ordering::SeqCst));
        for flow in catalog.due_flows(now).await.unwrap_or_default() {
            let Some(fire_at) = flow.next_fire_at else { continue };
            let firing = NewFiring {
                flow_id: flow.id,
                revision: flow.revision,
                fire_at,
                next_fire_at: Some(fire_at.plus_millis(period_of(&flow))),
                missed: 0,
                skipped: None,
                priority: 0,
                owner: name.clone(),
            };
            let _ = catalog.fire(&firing, now).await;
        }
        // A host that died under a lease leaves a running job; whoever sees it first takes it over and ends it.
        let real = UtcMillis::now();
        if let Ok(Some((_, lease))) = catalog.claim_expired(&name, 300, real).await {
            let _ = catalog.requeue_job(&lease, real).await;
        }
        if let Ok(Some((_, lease))) = catalog.claim_job(WorkKind::Waiting, &name, 300, real).await {
            let done = JobOutcome::Succeeded { result_json: "{}".to_owned() };
            let _ = catalog.finish_job(&lease, &done, UtcMillis::now()).await;
        }
        tokio::task::yield_now().await;
    }
}

/// Whether nothing is due or waits any more.
async fn settled(catalog: &Catalog, now: UtcMillis) -> bool {
    if !catalog.due_flows(now).await.unwrap().is_empty() {
        return false;
    }
    for state in [JobState::Queued, JobState::Running] {
        let filter = tidemark_catalog::JobFilter { state: Some(state), kind: None };
        let request = PageRequest { limit: 1, cursor: None };
        if !catalog.list_jobs(&filter, &request).await.unwrap().items.is_empty() {
            return false;
        }
    }
    true
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_firing_is_lost_or_doubled_while_hosts_die() {
    let fixture = Fixture::postgres().await;
    let days = std::env::var("TIDEMARK_YEAR_DAYS").ok().and_then(|days| days.parse().ok()).unwrap_or(DAYS);
    let flows = [flow("hourly", 1), flow("daily", 24), flow("six-hourly", 6)];
    for (flow, _) in &flows {
        fixture.catalog.add_flow(flow).await.unwrap();
    }
    let clock = Arc::new(AtomicI64::new(START.0));
    let names: Vec<String> = (0..HOSTS).map(|number| format!("host-{number}")).collect();
    let start = |number: usize| {
        let (catalog, clock) = (fixture.catalog.clone(), Arc::clone(&clock));
        tokio::spawn(host(catalog, names[number].clone(), clock))
    };
    let mut hosts: Vec<_> = (0..HOSTS).map(start).collect();
    let (hours, restarts) = (days * 24, AtomicUsize::new(0));
    for hour in 1..=hours {
        let now = UtcMillis(START.0 + hour * HOUR);
        clock.store(now.0, Ordering::SeqCst);
        // Deaths spread over the year, at any await of whoever it hits.
        let due = usize::try_from(hour).unwrap() * RESTARTS / usize::try_from(hours).unwrap();
        while restarts.load(Ordering::SeqCst) < due {
            let victim = restarts.fetch_add(1, Ordering::SeqCst) * 7 % HOSTS;
            tokio::time::sleep(Duration::from_micros(u64::try_from(hour * 37 % 900).unwrap())).await;
            hosts[victim].abort();
            hosts[victim] = start(victim);
        }
        while !settled(&fixture.catalog, now).await {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    for host in &hosts {
        host.abort();
    }
    assert_eq!(restarts.load(Ordering::SeqCst), RESTARTS);
    for (flow, period) in &flows {
        every_time_once(&fixture.catalog, flow, *period, START.0 + hours * HOUR).await;
    }
}

async fn every_time_once(catalog: &Catalog, flow: &Flow, period: i64, end: i64) {
    let (mut fired, mut jobs, mut cursor) = (Vec::new(), BTreeSet::new(), None);
    loop {
        let page = catalog.list_firings(flow.id, &PageRequest { limit: 1000, cursor }).await.unwrap();
        for firing in page.items {
            fired.push(firing.fire_at.0);
            let job = firing.job_id.unwrap_or_else(|| panic!("{}: {:?}", flow.name, firing.skipped));
            assert!(jobs.insert(job.to_string()), "one job a firing");
        }
        match page.next {
            Some(next) => cursor = Some(next),
            None => break,
        }
    }
    fired.reverse();
    let first = flow.next_fire_at.unwrap().0;
    let expected: Vec<i64> = (0..).map(|n| first + n * period).take_while(|at| *at <= end).collect();
    assert_eq!(fired, expected, "{}", flow.name);
}
