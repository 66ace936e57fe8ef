//! Ctrl-C and SIGTERM: whoever is being timed is killed, so that the round fails and everything is cleaned up on the
//! way out, as after any other failure.
//!
//! Timed processes form process groups of their own (a tracer takes its tracee along), so a terminal's Ctrl-C
//! reaches them only from here.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::signal::unix::{SignalKind, signal};

static STOPPED: AtomicBool = AtomicBool::new(false);
/// The groups that run now.
static GROUPS: Mutex<Vec<Pid>> = Mutex::new(Vec::new());

/// From now on these signals no longer end this process at once.
pub(crate) fn listen() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
    let runtime = runtime.context("cannot listen for signals")?;
    let guard = runtime.enter();
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    drop(guard);
    std::thread::spawn(move || {
        runtime.block_on(async {
            loop {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                STOPPED.store(true, Ordering::SeqCst);
                for group in &*GROUPS.lock().unwrap_or_else(PoisonError::into_inner) {
                    kill(*group);
                }
            }
        });
    });
    Ok(())
}

/// Fails once a signal has come.
pub(crate) fn check() -> Result<()> {
    ensure!(!STOPPED.load(Ordering::SeqCst), "stopped by a signal");
    Ok(())
}

/// A process group that a signal shall end; dropping this forgets it.
#[derive(Debug)]
pub(crate) struct Watched(Option<Pid>);

impl Watched {
    /// Watches the group that a process leads.
    pub(crate) fn new(leader: u32) -> Self {
        let group = i32::try_from(leader).ok().and_then(Pid::from_raw);
        GROUPS.lock().unwrap_or_else(PoisonError::into_inner).extend(group);
        Self(group)
    }

    /// Kills every process of the group.
    pub(crate) fn kill(&self) {
        self.0.into_iter().for_each(kill);
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        GROUPS.lock().unwrap_or_else(PoisonError::into_inner).retain(|group| Some(*group) != self.0);
    }
}

fn kill(group: Pid) {
    // It may have ended by itself; then there is nobody to kill.
    let _ = kill_process_group(group, Signal::KILL);
}
