//! Listens to the server's events as a client of the stream does.

use std::io::{BufRead, BufReader};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;
use tidemark_tests::site::Site;

const DEADLINE: Duration = Duration::from_secs(60);

/// Gathers events from its start on.
pub(crate) struct Listener(Receiver<Value>);

impl Listener {
    pub(crate) fn start(site: &Site) -> Result<Self> {
        let stream = site.rest().stream("/api/v1/events")?;
        let (sender, receiver) = channel();
        thread::spawn(move || {
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                let event =
                    line.strip_prefix("data:").and_then(|data| serde_json::from_str(data.trim()).ok());
                if event.is_some_and(|event| sender.send(event).is_err()) {
                    return;
                }
            }
        });
        Ok(Self(receiver))
    }

    /// The next event of a kind.
    pub(crate) fn wait_for(&self, kind: &str) -> Result<Value> {
        loop {
            let event = self.0.recv_timeout(DEADLINE).with_context(|| format!("no event '{kind}' came"))?;
            if event["kind"] == kind {
                return Ok(event);
            }
        }
    }
}
