//! One process, or two that work together, from start to end: wall time, processor time and peak memory; or, in a
//! run of its own that is not timed, the system calls.
//!
//! The kernel counts a child's peak from the moment it is forked, so the peak of this process is a floor under all
//! figures: it keeps its own memory small and never reads a disk at once.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tidemark_tests::process::tool;
use wait4::{ResourceUsage, Wait4};

use crate::stop::{self, Watched};

/// What one run of a contender took.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    /// From the first start to the last end.
    pub(crate) wall: Duration,
    /// User and system time of its processes, their children included. The source server is not in it.
    pub(crate) cpu: Duration,
    /// Peak resident memory in bytes; the sum over processes that run together.
    pub(crate) peak_bytes: u64,
    /// The bytes that the result takes up.
    pub(crate) stored_bytes: u64,
}

/// Adds up what a contender's processes used.
#[derive(Debug)]
pub(crate) struct Meter {
    started: Instant,
    cpu: Duration,
    peak_bytes: u64,
    /// In a run that counts system calls: where the tracers leave their counts, and how many there are.
    traces: Option<(PathBuf, u32)>,
}

impl Meter {
    /// Starts the clock.
    pub(crate) fn start() -> Self {
        Self { started: Instant::now(), cpu: Duration::ZERO, peak_bytes: 0, traces: None }
    }

    /// Counts system calls instead; tracing slows everything down, so the times of such a run mean nothing.
    pub(crate) fn tracing(dir: &Path) -> Self {
        Self { traces: Some((dir.to_path_buf(), 0)), ..Self::start() }
    }

    /// Runs a process to its end.
    pub(crate) fn run(&mut self, command: &mut Command) -> Result<()> {
        let name = command.get_program().to_string_lossy().into_owned();
        let process = self.begin(command)?;
        self.reap(process).with_context(|| format!("{name} failed"))
    }

    /// Starts a process that runs beside another.
    pub(crate) fn begin(&mut self, command: &mut Command) -> Result<Measured> {
        let Some((dir, count)) = &mut self.traces else { return Measured::start(command) };
        let mut traced = Command::new("strace");
        traced.args(["-f", "-c", "-o"]).arg(trace(dir, *count)).arg("--");
        *count += 1;
        Measured::start(traced.arg(command.get_program()).args(command.get_args()))
    }

    /// Waits for a process that was begun.
    pub(crate) fn reap(&mut self, mut measured: Measured) -> Result<()> {
        let child = measured.child.take().context("a process is waited for once")?;
        let ended = child.wait4().context("cannot wait for a process")?;
        let ResourceUsage { utime, stime, maxrss } = ended.rusage;
        self.cpu += utime + stime;
        self.peak_bytes += maxrss;
        stop::check()?;
        ensure!(ended.status.success(), "ended with {}", ended.status);
        Ok(())
    }

    /// Stops the clock. How much the result takes up is found out afterwards.
    pub(crate) fn stop(&self) -> Sample {
        let Self { started, cpu, peak_bytes, traces: _ } = *self;
        Sample { wall: started.elapsed(), cpu, peak_bytes, stored_bytes: 0 }
    }

    /// The system calls of all processes of a tracing run.
    pub(crate) fn syscalls(self) -> Result<u64> {
        let (dir, count) = self.traces.context("this run was not traced")?;
        let mut calls = 0;
        for number in 0..count {
            let path = trace(&dir, number);
            let text = std::fs::read_to_string(&path).context("strace left no counts")?;
            calls +=
                counted_calls(&text).with_context(|| format!("strace's counts have no total: {text}"))?;
            std::fs::remove_file(path)?;
        }
        Ok(calls)
    }
}

/// Whether system calls can be counted on this machine.
pub(crate) fn can_trace() -> bool {
    // A container may have the tool and not the right to trace.
    tool("strace", ["-f", "-c", "-o", "/dev/null", "--", "true"]).is_ok()
}

fn trace(dir: &Path, number: u32) -> PathBuf {
    dir.join(format!("syscalls-{number}"))
}

/// The calls in the last line of `strace -c`: per cent, seconds, microseconds a call, calls, perhaps errors, "total".
fn counted_calls(counts: &str) -> Option<u64> {
    let total = counts.lines().rfind(|line| line.trim_end().ends_with(" total"))?;
    total.split_whitespace().nth(3)?.parse().ok()
}

/// A running process and what it started; dropping it kills them.
#[derive(Debug)]
pub(crate) struct Measured {
    child: Option<Child>,
    watched: Watched,
}

impl Measured {
    fn start(command: &mut Command) -> Result<Self> {
        stop::check()?;
        command.stdin(Stdio::null()).stdout(Stdio::null()).process_group(0);
        let child = command.spawn().with_context(|| {
            let name = command.get_program().to_string_lossy().into_owned();
            format!("cannot start {name} (scripts/setup bench installs what is missing)")
        })?;
        let watched = Watched::new(child.id());
        let measured = Self { child: Some(child), watched };
        // A signal that came before it was watched missed it.
        stop::check()?;
        Ok(measured)
    }
}

impl Drop for Measured {
    fn drop(&mut self) {
        if let Some(child) = self.child.as_mut() {
            self.watched.kill();
            // It was killed; there is nobody to tell how it ended.
            let _ = child.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_calls_are_read_from_the_total() {
        let counts = "% time     seconds  usecs/call     calls    errors syscall\n\
                      ------ ----------- ----------- --------- --------- ----------------\n\
                      \x20 0.00    0.000000           0         5           read\n\
                      ------ ----------- ----------- --------- --------- ----------------\n\
                      100.00    0.000000           0        42         3 total\n";
        assert_eq!(counted_calls(counts), Some(42));
        assert_eq!(counted_calls("nothing"), None);
    }
}
