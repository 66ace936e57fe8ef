//! One process, or two that work together, from start to end: wall time, processor time and peak memory.
//!
//! The kernel counts a child's peak from the moment it is forked, so the peak of this process is a floor under all
//! figures: it keeps its own memory small and never reads a disk at once.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use wait4::{ResourceUsage, Wait4};

/// What one run of a contender took.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    /// From the first start to the last end.
    pub(crate) wall: Duration,
    /// User and system time of its processes, their children included. The source server is not in it.
    pub(crate) cpu: Duration,
    /// Peak resident memory in bytes; the sum over processes that run together.
    pub(crate) peak_bytes: u64,
    /// The result's allocated bytes.
    pub(crate) stored_bytes: u64,
}

/// Adds up what a contender's processes used.
#[derive(Debug)]
pub(crate) struct Meter {
    started: Instant,
    cpu: Duration,
    peak_bytes: u64,
}

impl Meter {
    /// Starts the clock.
    pub(crate) fn start() -> Self {
        Self { started: Instant::now(), cpu: Duration::ZERO, peak_bytes: 0 }
    }

    /// Runs a process to its end.
    pub(crate) fn run(&mut self, command: &mut Command) -> Result<()> {
        let name = command.get_program().to_string_lossy().into_owned();
        self.reap(Measured::start(command)?).with_context(|| format!("{name} failed"))
    }

    /// Waits for a process that runs beside another.
    pub(crate) fn reap(&mut self, mut measured: Measured) -> Result<()> {
        let child = measured.child.take().context("a process is waited for once")?;
        let ended = child.wait4().context("cannot wait for a process")?;
        let ResourceUsage { utime, stime, maxrss } = ended.rusage;
        self.cpu += utime + stime;
        self.peak_bytes += maxrss;
        ensure!(ended.status.success(), "ended with {}", ended.status);
        Ok(())
    }

    /// Stops the clock.
    pub(crate) fn stop(self, stored_bytes: u64) -> Sample {
        let Self { started, cpu, peak_bytes } = self;
        Sample { wall: started.elapsed(), cpu, peak_bytes, stored_bytes }
    }
}

/// A running process; dropping it kills it.
#[derive(Debug)]
pub(crate) struct Measured {
    child: Option<Child>,
}

impl Measured {
    /// Starts it; its messages go where ours go.
    pub(crate) fn start(command: &mut Command) -> Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let child = command.spawn().with_context(|| {
            let name = command.get_program().to_string_lossy().into_owned();
            format!("cannot start {name} (scripts/setup test installs what is missing)")
        })?;
        Ok(Self { child: Some(child) })
    }

    /// Its number.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }
}

impl Drop for Measured {
    fn drop(&mut self) {
        if let Some(child) = self.child.as_mut() {
            // The process may be gone already; there is nobody to tell.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
