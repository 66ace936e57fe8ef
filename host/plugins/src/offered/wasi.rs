//! WASI 0.2 for plugins that are written in a language whose runtime needs it. It grants nothing: no files, no network, no
//! environment, no arguments, an empty standard input, and clocks that stand still at 1970. What the guest prints goes into
//! the host's log, line by line. Chance is the machine's, but for policies, which always get the same numbers.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::io::AsyncWrite;
use wasmtime::component::ResourceTable;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::clocks::{HostMonotonicClock, HostWallClock};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamError, StreamResult};
use wasmtime_wasi::random::Deterministic;
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView, async_trait};

use super::log::{LogAllowance, MAX_MESSAGE_BYTES, printable};
use crate::manifest::PluginKind;
use crate::state::State;

/// The interfaces that are offered, all of them at 0.2.
const PACKAGES: [&str; 6] =
    ["wasi:cli/", "wasi:clocks/", "wasi:filesystem/", "wasi:io/", "wasi:random/", "wasi:sockets/"];
/// Streams, waits and the like that a guest may hold at once.
const MAX_RESOURCES: usize = 1000;
/// Bytes of chance in one call.
const MAX_RANDOM_BYTES: u64 = 64 << 10;
/// What a stream takes at once.
const WRITE_BYTES: usize = 4096;

/// Whether an import is of the WASI that is offered.
pub(crate) fn offers(import: &str) -> bool {
    PACKAGES.iter().any(|package| import.starts_with(package))
}

/// The WASI of one session.
pub(crate) struct LanguageWasi {
    ctx: WasiCtx,
    table: ResourceTable,
}

impl LanguageWasi {
    fn of(state: &State) -> Self {
        let printed = |stream| {
            let (plugin, version, job) = (&state.plugin, &state.version, &state.label);
            let speaker =
                Speaker { plugin: plugin.clone(), version: version.clone(), job: job.clone(), stream };
            let lines = Lines { line: Vec::new(), allowance: LogAllowance::new(state.limits.log_burst) };
            Printed { speaker: Arc::new(speaker), lines: Arc::new(Mutex::new(lines)) }
        };
        let mut builder = WasiCtx::builder();
        builder
            .stdout(printed("stdout"))
            .stderr(printed("stderr"))
            .wall_clock(StandingClock)
            .monotonic_clock(StandingClock)
            .allow_tcp(false)
            .allow_udp(false)
            .max_random_size(MAX_RANDOM_BYTES);
        if state.kind == PluginKind::Policy {
            builder.secure_random(Deterministic::new(vec![0])).insecure_random(Deterministic::new(vec![0]));
            builder.insecure_random_seed(0);
        }
        let mut table = ResourceTable::new();
        table.set_max_capacity(MAX_RESOURCES);
        Self { ctx: builder.build(), table }
    }
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        // Made at the first call: most plugins never make one.
        let known = self.wasi.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        let made = known.unwrap_or_else(|| Box::new(LanguageWasi::of(self)));
        let wasi = self.wasi.get_mut().unwrap_or_else(PoisonError::into_inner).insert(made);
        WasiCtxView { ctx: &mut wasi.ctx, table: &mut wasi.table }
    }
}

/// A clock that a decision cannot depend on.
struct StandingClock;

impl HostWallClock for StandingClock {
    fn resolution(&self) -> Duration {
        Duration::from_secs(1)
    }

    fn now(&self) -> Duration {
        Duration::ZERO
    }
}

impl HostMonotonicClock for StandingClock {
    fn resolution(&self) -> u64 {
        1_000_000_000
    }

    fn now(&self) -> u64 {
        0
    }
}

/// Who printed.
struct Speaker {
    plugin: String,
    version: String,
    job: String,
    stream: &'static str,
}

/// What was printed since the last end of a line.
struct Lines {
    line: Vec<u8>,
    allowance: LogAllowance,
}

/// A standard output whose lines are messages of the log.
#[derive(Clone)]
struct Printed {
    speaker: Arc<Speaker>,
    lines: Arc<Mutex<Lines>>,
}

impl Printed {
    fn take(&self, bytes: &[u8]) {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        for byte in bytes {
            match byte {
                b'\n' => self.end_line(&mut lines),
                _ if lines.line.len() < MAX_MESSAGE_BYTES => lines.line.push(*byte),
                // The rest of a line that is too long.
                _ => {}
            }
        }
    }

    fn end_line(&self, lines: &mut Lines) {
        let line = std::mem::take(&mut lines.line);
        let text = String::from_utf8_lossy(&line);
        if text.trim().is_empty() {
            return;
        }
        let Some(dropped) = lines.allowance.take(Instant::now()) else { return };
        let Speaker { plugin, version, job, stream } = &*self.speaker;
        if dropped > 0 {
            tracing::info!(%plugin, %version, %job, dropped, "lines of a plugin were dropped: too many");
        }
        tracing::info!(%plugin, %version, %job, stream, "{}", printable(&text));
    }
}

impl Drop for Printed {
    /// The last of them says what had no end of a line.
    fn drop(&mut self) {
        if Arc::strong_count(&self.lines) == 1 {
            self.take(b"\n");
        }
    }
}

impl IsTerminal for Printed {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Printed {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        // Of WASI 0.3 only, which is not offered.
        Box::new(tokio::io::sink())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

#[async_trait]
impl Pollable for Printed {
    async fn ready(&mut self) {}
}

impl OutputStream for Printed {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        if bytes.len() > WRITE_BYTES {
            let message = format!("it wrote {} bytes where {WRITE_BYTES} were allowed", bytes.len());
            return Err(StreamError::Trap(wasmtime::Error::msg(message)));
        }
        self.take(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(WRITE_BYTES)
    }
}
