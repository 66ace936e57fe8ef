//! A running guest and the one way to call it.
//!
//! ```text
//! ready ──begin──▶ in a call ──settle──▶ ready
//!                     │ trap, deadline, limit, nonsense              future dropped
//!                     └──────────────▶ ended(why) ◀── seen by the next begin ┘
//! ```
//! Whatever stops a call ends the session, as wasmtime gives no promise about an instance after that. Errors that
//! the guest itself returns do not.

use std::time::{Duration, Instant};

use tidemark_model::DiskKey;
use wasmtime::{Store, Trap};
use wasmtime_wasi::I32Exit;

use crate::bindings::host::tidemark::plugin::types;
use crate::error::{Error, ErrorKind};
use crate::offered::log::printable;
use crate::state::State;

/// What the outer clock gives beyond the deadline, so that the inner one speaks first.
const GRACE: Duration = Duration::from_millis(500);
/// Calls that say nothing of how a plugin works.
const STARTING: [&str; 2] = ["describe", "configure"];

/// An instance with its store.
pub(crate) struct Guest<B> {
    pub(crate) bindings: B,
    pub(crate) store: Store<State>,
    progress: Progress,
    /// Whether it did more than start.
    worked: bool,
    /// What it alone is to blame for.
    fault: Option<Error>,
}

enum Progress {
    Ready,
    InCall(&'static str),
    Ended(Error),
}

/// Calls an export of the guest's interface, or of another one that was taken from its bindings, and settles what becomes
/// of it.
macro_rules! call_guest {
    ($guest:expr, $operation:literal, $interface:ident.$function:ident($($argument:expr),*)) => {
        call_guest!($guest, $operation, $guest.bindings.$interface() => interface.$function($($argument),*))
    };
    ($guest:expr, $operation:literal, $from:expr => $interface:ident.$function:ident($($argument:expr),*)) => {{
        let limit = $guest.begin($operation)?;
        let $interface = $from;
        let outcome = tokio::time::timeout(limit, $interface.$function(&mut $guest.store, $($argument),*)).await;
        $guest.settle($operation, outcome)?
    }};
}
pub(crate) use call_guest;

impl<B> Guest<B> {
    pub(crate) fn new(bindings: B, store: Store<State>) -> Self {
        Self { bindings, store, progress: Progress::Ready, worked: false, fault: None }
    }

    /// Opens a call: refuses where the session has ended, refills allowances, starts the clock.
    pub(crate) fn begin(&mut self, operation: &'static str) -> Result<Duration, Error> {
        if let Progress::InCall(earlier) = self.progress {
            let message = format!("the session ended when {earlier} was given up half-way");
            self.progress = Progress::Ended(self.error(ErrorKind::Cancelled, earlier, message));
        }
        if let Progress::Ended(why) = &self.progress {
            let message = format!("the session has ended: {}: {}", why.operation(), why.message());
            return Err(self.error(why.kind().clone(), operation, message));
        }
        self.progress = Progress::InCall(operation);
        Ok(arm(&mut self.store))
    }

    /// Closes a call. A guest that was stopped ends the session.
    pub(crate) fn settle<T>(
        &mut self,
        operation: &'static str,
        outcome: Result<wasmtime::Result<T>, tokio::time::error::Elapsed>,
    ) -> Result<T, Error> {
        let Stopped { kind, message, at_fault } = match outcome {
            Ok(Ok(value)) => {
                self.progress = Progress::Ready;
                self.worked |= !STARTING.contains(&operation);
                return Ok(value);
            }
            Ok(Err(error)) => Stopped::by(self.store.data_mut(), &error),
            Err(_) => Stopped::waiting(self.store.data()),
        };
        let error = self.error(kind, operation, message);
        self.fault = at_fault.then(|| error.clone());
        self.progress = Progress::Ended(error.clone());
        Err(error)
    }

    /// An error that the guest returned, as the host's.
    pub(crate) fn returned<T>(&self, operation: &str, result: Result<T, types::Error>) -> Result<T, Error> {
        let types::Error { kind, message, retry_after_ms, detail } = match result {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        let kind = match kind {
            types::ErrorKind::Config => ErrorKind::Config,
            types::ErrorKind::Auth => ErrorKind::Auth,
            types::ErrorKind::NotFound => ErrorKind::NotFound,
            types::ErrorKind::Conflict => ErrorKind::Conflict,
            types::ErrorKind::Unsupported => ErrorKind::Unsupported,
            types::ErrorKind::Throttled => ErrorKind::Throttled,
            types::ErrorKind::Unavailable => ErrorKind::Unavailable,
            types::ErrorKind::Cancelled => ErrorKind::Cancelled,
            types::ErrorKind::Corrupt => ErrorKind::Corrupt,
            types::ErrorKind::ChangeTrackingReset => reset(detail.as_deref()),
            types::ErrorKind::Other(word) if word == "denied" => ErrorKind::Denied,
            types::ErrorKind::Other(word) if word == "limit" => ErrorKind::Limit,
            types::ErrorKind::Other(word) => ErrorKind::Other(short(&word, 64)),
        };
        let error = self.error(kind, operation, printable(&message));
        Err(error.after(retry_after_ms.map(Duration::from_millis)))
    }

    /// Ends the session because of what the guest returned: it cannot be believed on anything else either.
    pub(crate) fn nonsense(&mut self, operation: &'static str, message: impl Into<String>) -> Error {
        let error = self.error(ErrorKind::Invalid, operation, printable(&message.into()));
        self.fault = Some(error.clone());
        self.progress = Progress::Ended(error.clone());
        error
    }

    pub(crate) fn error(&self, kind: ErrorKind, operation: &str, message: impl Into<String>) -> Error {
        let state = self.store.data();
        Error::new(kind, operation, message).of(&state.plugin, &state.version)
    }

    /// A list of the guest within the host's limit.
    pub(crate) fn bounded<T>(&mut self, operation: &'static str, list: Vec<T>) -> Result<Vec<T>, Error> {
        let limit = self.store.data().limits.list_items;
        if list.len() > limit {
            return Err(
                self.nonsense(operation, format!("a list of {} items; {limit} are allowed", list.len()))
            );
        }
        Ok(list)
    }

    /// Checks that a guest is who its manifest says.
    pub(crate) fn check_description(
        &mut self,
        said: types::Description,
        contract: &str,
    ) -> Result<(), Error> {
        let types::Description { name, version, contract: written } = said;
        let state = self.store.data();
        if (&name, &version, written.as_str()) == (&state.plugin, &state.version, contract) {
            return Ok(());
        }
        Err(self.nonsense("describe", format!("it calls itself {name} {version}, contract {written}")))
    }
}

impl<B> Drop for Guest<B> {
    fn drop(&mut self) {
        let fault = self.fault.take();
        let well = self.worked && matches!(self.progress, Progress::Ready);
        if fault.is_some() || well {
            self.store.data().tell(fault);
        }
    }
}

/// Refills a store's allowances for one call and starts its clock; answers with the outer limit.
pub(crate) fn arm(store: &mut Store<State>) -> Duration {
    let state = store.data_mut();
    let timeout = state.limits.call_timeout;
    state.deadline = Instant::now() + timeout;
    state.busy_ticks = 0;
    state.host_calls_left = state.limits.host_calls;
    let fuel = state.limits.policy_fuel;
    store.set_epoch_deadline(1);
    // Only the policy engine counts fuel; the other answers with an error that means nothing.
    let _ = store.set_fuel(fuel);
    timeout + GRACE
}

/// Why a guest was stopped.
pub(crate) struct Stopped {
    pub(crate) kind: ErrorKind,
    pub(crate) message: String,
    /// Whether the guest alone is to blame, and not somebody else for whom it waited.
    pub(crate) at_fault: bool,
}

impl Stopped {
    /// By an error that unwound it. One whose call took too long, though it never computed too long, waited: calls of the
    /// host end with the guest's own time, so that it is stopped right after one in which it waited.
    pub(crate) fn by(state: &mut State, error: &wasmtime::Error) -> Self {
        let at_fault = |kind, message| Self { kind, message, at_fault: true };
        if let Some((kind, message)) = state.stopped.take() {
            return at_fault(kind, message);
        }
        match error.downcast_ref::<Trap>() {
            Some(Trap::Interrupt) => Self::waiting(state),
            Some(Trap::OutOfFuel) => {
                at_fault(ErrorKind::Limit, "it used up the instructions of one call".to_owned())
            }
            Some(trap) => at_fault(ErrorKind::Trap, format!("the guest crashed: {trap}")),
            None => {
                if let Some(I32Exit(status)) = error.downcast_ref::<I32Exit>() {
                    let message = format!("the guest ended itself with status {status}");
                    return at_fault(ErrorKind::Trap, message);
                }
                let text = format!("{error:#}");
                if text.contains("allocated for hostcalls") {
                    let limit = state.limits.transfer_bytes;
                    let message = format!("it passed more than {limit} bytes to the host at once");
                    return at_fault(ErrorKind::Limit, message);
                }
                let message = format!("the guest's answer cannot be read: {}", short(&text, 500));
                at_fault(ErrorKind::Invalid, message)
            }
        }
    }

    /// Because its time was over while it waited. Whoever is offered nobody to wait for waited for itself.
    pub(crate) fn waiting(state: &State) -> Self {
        let limit = state.limits.call_timeout.as_millis();
        let message = format!("the call did not end within {limit} ms");
        Self { kind: ErrorKind::Timeout, message, at_fault: !state.kind.waits_for_others() }
    }
}

fn reset(detail: Option<&str>) -> ErrorKind {
    let detail: serde_json::Value =
        detail.and_then(|detail| serde_json::from_str(detail).ok()).unwrap_or_default();
    let text = |name: &str| detail.get(name).and_then(serde_json::Value::as_str).map(|text| short(text, 128));
    ErrorKind::ChangeTrackingReset {
        code: text("code")
            .filter(|code| !code.is_empty())
            .unwrap_or_else(|| "change-tracking-reset".to_owned()),
        disk: DiskKey(text("disk").unwrap_or_default()),
    }
}

/// At most so many characters of what a guest says, all of them printable.
pub(crate) fn short(text: &str, limit: usize) -> String {
    printable(text).chars().take(limit).collect()
}
