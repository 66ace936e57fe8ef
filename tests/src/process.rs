//! Child processes that never outlive their owner, and tools that either work or say why not.

use std::ffi::OsStr;
use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

/// How long an orderly stop may take before it is no longer one.
const STOP_DEADLINE: Duration = Duration::from_secs(30);

/// A running process; dropping it kills it.
#[derive(Debug)]
pub struct Guarded {
    name: String,
    child: Option<Child>,
}

impl Guarded {
    /// Starts `command` with its messages going to `log`.
    ///
    /// # Errors
    /// Where the program or the log cannot be opened.
    pub fn start(name: &str, command: &mut Command, log: &Path) -> Result<Self> {
        let messages = File::options().create(true).append(true).open(log);
        let messages = messages.with_context(|| format!("cannot open {}", log.display()))?;
        command.stdin(Stdio::null()).stderr(messages);
        let child = command.spawn().with_context(|| format!("cannot start {name}"))?;
        Ok(Self { name: name.to_owned(), child: Some(child) })
    }

    /// The process, for its pipes.
    ///
    /// # Errors
    /// Where it was given away.
    pub fn child(&mut self) -> Result<&mut Child> {
        let name = &self.name;
        self.child.as_mut().with_context(|| format!("{name} was given away"))
    }

    /// Its number.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Fails as soon as the process has ended by itself.
    ///
    /// # Errors
    /// Where it has ended.
    pub fn still_running(&mut self) -> Result<()> {
        let name = self.name.clone();
        match self.child()?.try_wait()? {
            Some(status) => bail!("{name} has ended by itself ({status})"),
            None => Ok(()),
        }
    }

    /// Whether it has not ended yet.
    #[must_use]
    pub fn is_running(&mut self) -> bool {
        self.still_running().is_ok()
    }

    /// The hard death of a power cut: SIGKILL, nothing is cleaned up.
    ///
    /// # Errors
    /// Where there is nothing to kill.
    pub fn kill(&mut self) -> Result<()> {
        let child = self.child()?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Asks it to end and waits until it has.
    ///
    /// # Errors
    /// Where it does not end in time.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        let name = self.name.clone();
        let child = self.child()?;
        terminate(child.id())?;
        let asked = Instant::now();
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(status);
            }
            ensure!(asked.elapsed() < STOP_DEADLINE, "{name} does not stop when asked to");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Lets the process live on when its owner goes; answers its number.
    #[must_use]
    pub fn leave_running(mut self) -> Option<u32> {
        self.child.take().map(|child| child.id())
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        if let Some(child) = self.child.as_mut() {
            // The process may be gone already; there is nobody to tell.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Sends SIGTERM to a process.
///
/// # Errors
/// Where there is no such process.
pub fn terminate(pid: u32) -> Result<()> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).context("not a process number")?;
    kill_process(pid, Signal::TERM).context("cannot send SIGTERM")
}

/// Runs a tool to its end and answers its standard output.
///
/// # Errors
/// Where it cannot be started or ends with another code than 0; its messages are in the error.
pub fn tool<I, S>(program: &str, args: I) -> Result<String>
where
    I: IntoIterator<Item = S>,
    S: AsRef<OsStr>,
{
    let mut command = Command::new(program);
    command.args(args);
    // The file-system tools live in /sbin, which an ordinary user's PATH lacks on Debian.
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:/usr/sbin:/sbin"));
    let output = command.output().with_context(|| format!("cannot start {program} (run `make build`)"))?;
    let words: Vec<_> = command.get_args().map(OsStr::to_string_lossy).collect();
    ensure!(
        output.status.success(),
        "`{program} {}` ended with {}: {}{}",
        words.join(" "),
        output.status,
        String::from_utf8_lossy(&output.stderr),
        String::from_utf8_lossy(&output.stdout)
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Waits until `ready` answers something, checking often.
///
/// # Errors
/// Where it has not within `deadline`; `what` says for what one waited.
pub fn wait_for<T>(
    what: &str,
    deadline: Duration,
    mut ready: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let begun = Instant::now();
    loop {
        if let Some(value) = ready()? {
            return Ok(value);
        }
        ensure!(begun.elapsed() < deadline, "waited {} s in vain for {what}", deadline.as_secs());
        thread::sleep(Duration::from_millis(25));
    }
}
