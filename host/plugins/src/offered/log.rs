//! Guests' messages in the host's log, each tagged with plugin, version and job; long ones cut, too many dropped.

use std::time::Instant;

use crate::bindings::host::tidemark::plugin::log::{Host, Level};
use crate::state::State;

pub(super) const MAX_MESSAGE_BYTES: usize = 8 << 10;

/// A bucket that a burst empties and time refills.
#[derive(Debug)]
pub(crate) struct LogAllowance {
    burst: u32,
    left: f64,
    refilled: Instant,
    dropped: u64,
}

impl LogAllowance {
    pub(crate) fn new(burst: u32) -> Self {
        Self { burst, left: f64::from(burst), refilled: Instant::now(), dropped: 0 }
    }

    /// Whether one more message may pass; with how many were dropped since the last that did.
    pub(super) fn take(&mut self, now: Instant) -> Option<u64> {
        let elapsed = now.saturating_duration_since(self.refilled).as_secs_f64();
        self.left = (self.left + elapsed * f64::from(self.burst) / 10.0).min(f64::from(self.burst));
        self.refilled = now;
        if self.left < 1.0 {
            self.dropped += 1;
            return None;
        }
        self.left -= 1.0;
        Some(std::mem::take(&mut self.dropped))
    }
}

impl Host for State {
    async fn write(&mut self, level: Level, message: String) -> wasmtime::Result<()> {
        self.spend(1)?;
        let Some(dropped) = self.log.take(Instant::now()) else { return Ok(()) };
        let (plugin, version, job) = (&self.plugin, &self.version, &self.label);
        if dropped > 0 {
            tracing::info!(%plugin, %version, %job, dropped, "messages of a plugin were dropped: too many");
        }
        let text = printable(&message);
        match level {
            Level::Trace => tracing::trace!(%plugin, %version, %job, "{text}"),
            Level::Debug => tracing::debug!(%plugin, %version, %job, "{text}"),
            Level::Info => tracing::info!(%plugin, %version, %job, "{text}"),
            Level::Warn => tracing::warn!(%plugin, %version, %job, "{text}"),
            Level::Error => tracing::error!(%plugin, %version, %job, "{text}"),
        }
        Ok(())
    }
}

/// Cut to the limit and without control characters, so that no guest forges lines of the log.
pub(crate) fn printable(message: &str) -> String {
    let mut end = message.len().min(MAX_MESSAGE_BYTES);
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    let kept = message.get(..end).unwrap_or_default();
    kept.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_flood_is_dropped_and_counted() {
        let mut allowance = LogAllowance::new(10);
        let now = allowance.refilled;
        assert_eq!((0..15).filter(|_| allowance.take(now).is_some()).count(), 10);
        assert_eq!(allowance.take(now + Duration::from_secs(2)), Some(5));
    }

    #[test]
    fn messages_stay_one_short_line() {
        assert_eq!(printable("a\nb\u{1b}[31m"), "a b [31m");
        assert_eq!(printable(&"é".repeat(8192)).len(), MAX_MESSAGE_BYTES);
    }
}
