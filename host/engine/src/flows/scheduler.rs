//! Fires flows. Every host looks; the catalog lets one of them fire each time ([`tidemark_catalog::Catalog::fire`]).
//!
//! ```text
//! due? ─▶ one time passed: fire for it            ─▶ next time after it
//!      ─▶ several passed (nobody was there): fire once for the newest, say how many were missed
//!      ─▶ the same without catch-up: only say so
//! ```

use std::sync::Arc;

use serde_json::json;
use tidemark_catalog::{Flow, NewFiring, RunStatus};
use tidemark_model::{JobState, UtcMillis};
use tidemark_policy::Schedule;

use super::{FlowDefinition, definition_of};
use crate::engine::Shared;
use crate::error::{Error, Result};

/// A firing that is seen this late, in milliseconds, was missed: somebody would have seen it in time.
const LATE_MS: i64 = 120_000;
/// After so many looks the flows' next times are checked.
const CHECK_EVERY: u32 = 30;
/// The most missed firings that are counted.
const MOST_MISSED: u32 = 100_000;

/// Fires what is due until the host stops.
pub(crate) async fn watch(shared: Arc<Shared>) {
    let mut looks = 0_u32;
    while !shared.is_stopping() {
        let now = shared.clock.now();
        if looks.is_multiple_of(CHECK_EVERY)
            && let Err(error) = set_back(&shared, now).await
        {
            tracing::error!(error = %error.chain(), "looking at the flows' next times failed; it is tried again");
        }
        looks = looks.wrapping_add(1);
        if let Err(error) = tick(&shared, now).await {
            tracing::error!(error = %error.chain(), "looking for due flows failed; it is tried again");
        }
        tokio::select! {
            () = tokio::time::sleep(shared.clock.tick()) => {}
            () = shared.shutdown.cancelled() => {}
        }
    }
}

/// One look at the clock.
pub(crate) async fn tick(shared: &Arc<Shared>, now: UtcMillis) -> Result<()> {
    for flow in shared.catalog.due_flows(now).await? {
        // One flow that cannot fire does not keep the others.
        if let Err(error) = fire(shared, &flow, now).await {
            tracing::error!(flow = flow.name, error = %error.chain(), "a flow cannot fire");
        }
    }
    end_forgotten(shared, now).await
}

/// Sets back the next times that a clock which was ahead has left too far in the future.
async fn set_back(shared: &Shared, now: UtcMillis) -> Result<()> {
    for flow in shared.catalog.list_flows().await? {
        let Some(known) = flow.next_fire_at.filter(|_| flow.enabled) else { continue };
        let next = definition_of(&flow)?.timetable()?.and_then(|timetable| timetable.next_after(now));
        if let Some(next) = next.filter(|next| *next < known) {
            shared.catalog.set_next_fire(flow.id, flow.revision, known, next).await?;
            tracing::info!(
                flow = flow.name,
                "its next time lay too far ahead, as if a clock had been; it is set back"
            );
        }
    }
    Ok(())
}

async fn fire(shared: &Arc<Shared>, flow: &Flow, now: UtcMillis) -> Result<()> {
    let definition = definition_of(flow)?;
    let Some(timetable) = definition.timetable()? else {
        return Err(Error::damaged(format!("flow '{}' is due without a schedule", flow.name)));
    };
    let Some(firing) = firing_of(flow, &definition, &timetable, &shared.owner, now) else { return Ok(()) };
    let Some(fired) = shared.catalog.fire(&firing, now).await? else { return Ok(()) };
    match (&fired.job_id, &fired.skipped) {
        (Some(id), _) => {
            tracing::info!(flow = flow.name, job_id = %id, missed = fired.missed, "a flow fired");
            let job = shared.catalog.job(*id).await?;
            shared.emit("job-queued", &job, json!({ "flow": flow.name }));
            shared.wake.all();
        }
        (None, reason) => {
            tracing::info!(flow = flow.name, reason, missed = fired.missed, "a flow fired without a run");
        }
    }
    Ok(())
}

/// What a due flow's firing is; none where it is not due.
pub(crate) fn firing_of(
    flow: &Flow,
    definition: &FlowDefinition,
    timetable: &Schedule,
    owner: &str,
    now: UtcMillis,
) -> Option<NewFiring> {
    let mut fire_at = flow.next_fire_at.filter(|due| *due <= now)?;
    let mut missed = 0;
    let mut next = timetable.next_after(fire_at);
    while let Some(later) = next.filter(|later| *later <= now) {
        fire_at = later;
        missed += 1;
        next = timetable.next_after(fire_at);
        if missed >= MOST_MISSED {
            break;
        }
    }
    let late = now.0 - fire_at.0 > LATE_MS;
    let catch_up = definition.schedule.as_ref().is_some_and(|rule| rule.catch_up);
    let skipped = (late && !catch_up)
        .then(|| "its time passed while no host was there, and the flow does not catch up".to_owned());
    // A time that is only a little late was not missed, however many passed before it.
    Some(NewFiring {
        flow_id: flow.id,
        revision: flow.revision,
        fire_at,
        next_fire_at: next,
        missed: if late { missed + 1 } else { missed },
        skipped,
        priority: definition.backup.priority,
        owner: owner.to_owned(),
    })
}

/// Ends the runs whose job has ended without them: cancelled while they waited, or given up by recovery.
async fn end_forgotten(shared: &Shared, now: UtcMillis) -> Result<()> {
    for run in shared.catalog.unended_runs().await? {
        let status = match shared.catalog.job(run.job_id).await?.state {
            JobState::Cancelled => RunStatus::Cancelled,
            _ => RunStatus::Failed,
        };
        shared.catalog.end_orphan(run.job_id, status, now).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tidemark_model::FlowId;

    use super::*;

    const HOUR: i64 = 3_600_000;
    /// 2023-11-14T22:00:00Z.
    const TEN: i64 = 1_699_999_200_000;

    fn flow(catch_up: bool) -> (Flow, FlowDefinition, Schedule) {
        let text = format!(
            "repository = 'm'\n[select]\nvms = ['a']\n[schedule]\ncron = '0 * * * *'\ncatch_up = {catch_up}\n"
        );
        let definition: FlowDefinition = toml::from_str(&text).unwrap();
        let timetable = definition.timetable().unwrap().unwrap();
        let flow = Flow {
            id: FlowId::random(),
            name: "hourly".to_owned(),
            enabled: true,
            definition_json: String::new(),
            secrets_json: String::new(),
            revision: 7,
            next_fire_at: Some(UtcMillis(TEN)),
            created_at: UtcMillis(0),
            updated_at: UtcMillis(0),
        };
        (flow, definition, timetable)
    }

    #[test]
    fn in_time_it_fires_for_its_time() {
        let (flow, definition, timetable) = flow(true);
        let at = |now: i64| firing_of(&flow, &definition, &timetable, "h", UtcMillis(now));
        assert_eq!(at(TEN - 1), None);
        let firing = at(TEN + 900).unwrap();
        assert_eq!((firing.fire_at.0, firing.missed, firing.skipped), (TEN, 0, None));
        assert_eq!(firing.next_fire_at, Some(UtcMillis(TEN + HOUR)));
    }

    #[test]
    fn after_a_pause_it_fires_once_and_counts_what_was_missed() {
        let (flow, definition, timetable) = flow(true);
        let firing =
            firing_of(&flow, &definition, &timetable, "h", UtcMillis(TEN + 5 * HOUR + 600_000)).unwrap();
        assert_eq!((firing.fire_at.0, firing.missed), (TEN + 5 * HOUR, 6));
        assert_eq!(firing.next_fire_at, Some(UtcMillis(TEN + 6 * HOUR)));
        assert_eq!(firing.skipped, None);
    }

    #[test]
    fn without_catch_up_a_missed_time_is_only_told() {
        let (flow, definition, timetable) = flow(false);
        let late = firing_of(&flow, &definition, &timetable, "h", UtcMillis(TEN + HOUR / 2)).unwrap();
        assert!(late.skipped.is_some());
        let punctual = firing_of(&flow, &definition, &timetable, "h", UtcMillis(TEN + 5_000)).unwrap();
        assert_eq!(punctual.skipped, None);
    }
}
