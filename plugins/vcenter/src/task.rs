//! Tasks: start one, wait for its end, and have patience with a virtual machine that is busy.

use tidemark_plugin::{Error, ErrorKind, Result, info};

use crate::fault::Fault;
use crate::property;
use crate::session::{Repeat, Session};
use crate::xml::{Element, Ref, Xml};

const FIRST_POLL_MS: u64 = 100;
const LAST_POLL_MS: u64 = 2_000;
/// The pause before a task is tried again that another one stood in the way of, and how often.
const BUSY_PAUSE_MS: u64 = 5_000;
const BUSY_REPEATS: u32 = 24;

/// How long a task may take before the caller is told to come back.
pub(crate) const PATIENCE_MS: u64 = 30 * 60 * 1000;

/// Starts a task and waits for its end: its result, or the fault it ended with. Where another task holds the
/// virtual machine it is tried again for two minutes.
pub(crate) fn run(
    session: &mut Session,
    method: &str,
    this: &Ref,
    arguments: &dyn Fn(Xml) -> Xml,
) -> Result<Result<Option<Element>, Fault>> {
    let mut busy = 0;
    loop {
        let fault = match session.try_call(method, this, Repeat::Never, arguments)? {
            Ok(answer) => {
                let task = answer
                    .ref_of("returnval")
                    .ok_or_else(|| Error::corrupt(format!("{method} was answered without a task")))?;
                match wait(session, method, &task)? {
                    Ok(result) => return Ok(Ok(result)),
                    Err(fault) => fault,
                }
            }
            Err(fault) => fault,
        };
        if !fault.is("TaskInProgress") || busy == BUSY_REPEATS {
            return Ok(Err(fault));
        }
        busy += 1;
        info!("{method} waits for another task on {}", this.id);
        session.sleep_ms(BUSY_PAUSE_MS);
    }
}

fn wait(session: &mut Session, method: &str, task: &Ref) -> Result<Result<Option<Element>, Fault>> {
    let doing = format!("waiting for the end of {method}");
    let (mut pause, mut waited) = (FIRST_POLL_MS, 0);
    loop {
        let object =
            property::of_object(session, task, &["info"], &doing).map_err(|error| match error.kind {
                // The server forgets tasks some minutes after their end; what came of it has to be looked up.
                ErrorKind::NotFound => {
                    Error::unavailable(format!("{doing}: the server has forgotten the task"))
                }
                _ => error,
            })?;
        let info =
            object.get("info").ok_or_else(|| Error::corrupt(format!("{doing}: the task has no info")))?;
        match info.text_of("state").unwrap_or_default() {
            "success" => return Ok(Ok(info.child("result").cloned())),
            "error" => {
                let error = info.child("error").cloned().unwrap_or_default();
                return Ok(Err(Fault::from_task(&error)));
            }
            "queued" | "running" => {}
            state => return Err(Error::corrupt(format!("{doing}: the task's state is '{state}'"))),
        }
        if waited >= PATIENCE_MS {
            return Err(Error::unavailable(format!(
                "{doing}: still running after {} minutes",
                waited / 60_000
            )));
        }
        session.sleep_ms(pause);
        waited += pause;
        pause = (pause * 2).min(LAST_POLL_MS);
    }
}
