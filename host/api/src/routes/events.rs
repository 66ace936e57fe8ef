//! Progress and changes of state as server-sent events. A client that reads too slowly gets one `lagged` event
//! with the number it missed; the state itself is always in `/jobs`.

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::State;
use axum::response::IntoResponse;
use axum::response::sse::{Event as SseEvent, KeepAlive, Sse};
use futures_util::stream;
use schemars::JsonSchema;
use serde::Deserialize;
use tidemark_engine::Event;
use tidemark_model::JobId;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch;

use crate::extract::{Query, parse_id};
use crate::problem::Answer;
use crate::routing::{Routes, viewer};
use crate::server::stopped;
use crate::state::AppState;
use crate::wire::EventEntry;

/// Often enough for proxies that cut silent connections after a minute.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

pub(super) fn add(routes: Routes) -> Routes {
    let operation = viewer("events", "Progress and changes of state, as they happen")
        .query::<EventQuery>()
        .answers_text("text/event-stream");
    routes.get("/api/v1/events", operation, events)
}

#[derive(Debug, Deserialize, JsonSchema)]
struct EventQuery {
    /// Only what happens to this job.
    job_id: Option<String>,
}

struct Follower {
    events: Receiver<Event>,
    stopping: watch::Receiver<bool>,
    only: Option<JobId>,
}

async fn events(
    State(state): State<AppState>,
    Query(EventQuery { job_id }): Query<EventQuery>,
) -> Answer<impl IntoResponse> {
    let only = job_id.map(|text| parse_id("job_id", &text)).transpose()?;
    let follower = Follower { events: state.engine.events(), stopping: state.stopping.clone(), only };
    let stream = stream::unfold(follower, |mut follower| async move {
        let event = follower.next().await?;
        Some((Ok::<_, Infallible>(event), follower))
    });
    Ok(Sse::new(stream).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)))
}

impl Follower {
    /// The next event; none once the server stops.
    async fn next(&mut self) -> Option<SseEvent> {
        loop {
            let received = tokio::select! {
                () = stopped(&mut self.stopping) => return None,
                received = self.events.recv() => received,
            };
            match received {
                Ok(event) if self.only.is_some() && event.job_id != self.only => {}
                Ok(event) => {
                    let kind = event.kind;
                    return SseEvent::default().event(kind).json_data(EventEntry::from(event)).ok();
                }
                Err(RecvError::Lagged(missed)) => {
                    return Some(
                        SseEvent::default().event("lagged").data(format!("{{\"missed\":{missed}}}")),
                    );
                }
                Err(RecvError::Closed) => return None,
            }
        }
    }
}
