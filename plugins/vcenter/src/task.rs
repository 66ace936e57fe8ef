//! Tasks: start one, wait for its end, and have patience with a virtual machine that is busy.
//!
//! A call of the contract may end before its task does. The next call finds that task by [`settle`] and waits on,
//! instead of starting the same work again.

use tidemark_plugin::{Error, ErrorKind, Result, info};

use crate::fault::Fault;
use crate::machine::Machine;
use crate::property;
use crate::session::{Repeat, Session};
use crate::xml::{Element, Ref, Xml};

const FIRST_POLL_MS: u64 = 100;
const LAST_POLL_MS: u64 = 2_000;
/// The pause before a task is tried again that another one stood in the way of.
const BUSY_PAUSE_MS: u64 = 5_000;

/// Starts a task and waits for its end: its result, or the fault it ended with. Where another task holds the
/// virtual machine it is tried again for as long as the call may take.
pub(crate) fn run(
    session: &mut Session,
    method: &str,
    this: &Ref,
    arguments: &dyn Fn(Xml) -> Xml,
) -> Result<Result<Option<Element>, Fault>> {
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
        if !fault.is("TaskInProgress") {
            return Ok(Err(fault));
        }
        info!("{method} waits for another task on {}", this.id);
        session.wait_ms(BUSY_PAUSE_MS, method)?;
    }
}

fn wait(session: &mut Session, method: &str, task: &Ref) -> Result<Result<Option<Element>, Fault>> {
    let doing = format!("waiting for the end of {method}");
    let mut pause = FIRST_POLL_MS;
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
        session.wait_ms(pause, method)?;
        pause = (pause * 2).min(LAST_POLL_MS);
    }
}

/// Waits for tasks on the machine's snapshots that an earlier call has left behind. Says whether there were any, as
/// the machine is then another one.
pub(crate) fn settle(session: &mut Session, machine: &Machine) -> Result<bool> {
    if machine.recent_tasks.is_empty() {
        return Ok(false);
    }
    let doing = format!("looking at the tasks of {}", machine.name);
    let tasks = match property::of_objects(session, &machine.recent_tasks, &["info"], &doing) {
        Ok(tasks) => tasks,
        // One of them was forgotten between the two questions: none of that age is still running.
        Err(error) if error.kind == ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    let mut waited = false;
    for task in tasks {
        let Some(info) = task.get("info") else { continue };
        let under_way = matches!(info.text_of("state"), Some("queued" | "running"));
        let name = info.text_of("descriptionId").unwrap_or_default().to_ascii_lowercase();
        if under_way && (name.contains("snapshot") || name.contains("consolidate")) {
            info!("waiting for {name} on {}, which was begun earlier", machine.name);
            // How it ends is for its own caller; what counts here is what is there afterwards.
            let _ended = wait(session, &name, &task.of)?;
            waited = true;
        }
    }
    Ok(waited)
}
