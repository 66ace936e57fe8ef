//! How much of the host one plugin may use. Generous for honest work, small beside what the host has.

use std::time::Duration;

use wasmtime::ResourceLimiter;

use crate::error::ErrorKind;
use crate::state::State;

/// The limits of every session of a runtime.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bytes of memory, over all memories of an instance.
    pub memory_bytes: usize,
    /// Elements of one table.
    pub table_elements: usize,
    /// How long one call may take, waiting for the host included. Longer work is begun in one call and asked for
    /// again in later ones.
    pub call_timeout: Duration,
    /// How long a guest may compute without asking the host for anything.
    pub run_timeout: Duration,
    /// What one call may ask of the host: a log line, a digest or a disk read costs 1, a request 50.
    pub host_calls: u32,
    /// Bytes that cross from the guest to the host in one call or answer.
    pub transfer_bytes: usize,
    /// Bytes of one HTTP answer.
    pub response_bytes: usize,
    /// Items of one returned list.
    pub list_items: usize,
    /// Log messages at once; the allowance refills at a tenth of it a second.
    pub log_burst: u32,
    /// Instructions of one call of a policy, roughly.
    pub policy_fuel: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory_bytes: 64 << 20,
            table_elements: 100_000,
            call_timeout: Duration::from_secs(60),
            run_timeout: Duration::from_secs(10),
            host_calls: 50_000,
            transfer_bytes: 32 << 20,
            response_bytes: 16 << 20,
            list_items: 100_000,
            log_burst: 1000,
            policy_fuel: 1_000_000_000,
        }
    }
}

impl ResourceLimiter for State {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let total = self.memory_bytes.saturating_sub(current).saturating_add(desired);
        if total > self.limits.memory_bytes {
            let message = format!("it wants more than {} MiB of memory", self.limits.memory_bytes >> 20);
            return Err(self.stop(ErrorKind::Limit, message));
        }
        self.memory_bytes = total;
        Ok(true)
    }

    fn table_growing(
        &mut self,
        _current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        if desired > self.limits.table_elements {
            let message = format!("it wants a table of more than {} elements", self.limits.table_elements);
            return Err(self.stop(ErrorKind::Limit, message));
        }
        Ok(true)
    }

    fn instances(&self) -> usize {
        64
    }

    fn tables(&self) -> usize {
        32
    }

    fn memories(&self) -> usize {
        8
    }
}
