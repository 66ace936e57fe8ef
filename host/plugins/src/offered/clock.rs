//! Time for guests. Sleeping is bounded by the deadline of the call that sleeps.

use std::time::{Duration, Instant};

use tidemark_model::UtcMillis;

use crate::bindings::host::tidemark::plugin::clock::Host;
use crate::state::State;

impl Host for State {
    async fn now_ms(&mut self) -> wasmtime::Result<u64> {
        self.spend(1)?;
        Ok(u64::try_from(UtcMillis::now().0).unwrap_or(0))
    }

    async fn monotonic_ms(&mut self) -> wasmtime::Result<u64> {
        self.spend(1)?;
        Ok(u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    async fn sleep_ms(&mut self, duration: u64) -> wasmtime::Result<()> {
        self.spend(1)?;
        let left = self.deadline.saturating_duration_since(Instant::now());
        tokio::time::sleep(Duration::from_millis(duration).min(left)).await;
        Ok(())
    }
}
