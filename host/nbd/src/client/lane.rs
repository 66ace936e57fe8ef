//! Connections that come back: each lane holds one at a time and replaces it when it is lost.
//!
//! ```text
//!            lost                     same size, flags, contexts
//!   alive ─────────▶ reconnecting ──────────────────────────────▶ alive
//!                        │ attempts used up │ export gone │ another export │ unflushed writes
//!                        ▼
//!                      failed: for the whole client, for good
//! ```
//! One task reconnects while the others of the lane wait for it, so that a dead server sees one attempt at a time.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::{Mutex as AsyncMutex, Semaphore};

use super::connection::{Connection, closed};
use super::negotiate::negotiate;
use super::options::{ClientOptions, ReconnectPolicy};
use super::tls::TlsUpgrade;
use crate::codec::TransmissionFlags;
use crate::error::{Error, ErrorKind, Result};

impl ReconnectPolicy {
    /// The pause before attempt `number`, counted from zero.
    pub(super) fn pause(&self, number: u32) -> Duration {
        match number.checked_sub(1) {
            None => Duration::ZERO,
            Some(doublings) => {
                let factor = 1_u32.checked_shl(doublings).unwrap_or(u32::MAX);
                self.first_backoff.saturating_mul(factor).min(self.max_backoff)
            }
        }
    }
}

/// What is needed to open connections to the export.
pub(super) struct Dialer {
    pub(super) options: ClientOptions,
    pub(super) tls: Option<TlsUpgrade>,
}

impl Dialer {
    /// Opens one beside the first. A server may allow several and still have no room for this one (`qemu-nbd -e`):
    /// then it leaves us in its queue, which is not worth the whole of the patience.
    pub(super) async fn dial_further(&self) -> Result<Connection> {
        const PATIENCE: Duration = Duration::from_secs(3);
        tokio::time::timeout(PATIENCE, self.dial(false))
            .await
            .unwrap_or_else(|_| Err(Error::new(ErrorKind::Timeout, "the server left the connection waiting")))
    }

    /// Opens one; only the first lane asks for contexts, and with them for structured replies.
    pub(super) async fn dial(&self, with_contexts: bool) -> Result<Connection> {
        let contexts = if with_contexts { self.options.contexts.as_slice() } else { &[] };
        let timeout = self.options.connect_timeout;
        let negotiation = negotiate(&self.options.uri, self.tls.as_ref(), contexts);
        let negotiated = tokio::time::timeout(timeout, negotiation).await.map_err(|_| {
            Error::new(ErrorKind::Timeout, format!("the negotiation took longer than {timeout:?}"))
        })??;
        Ok(Connection::start(negotiated, self.options.in_flight))
    }
}

/// What all lanes of a client share.
pub(super) struct Fate {
    failed: OnceLock<Error>,
    /// Counts writes at their beginning and again at their end, so that a flush covers only those that ended
    /// before it began.
    written: AtomicU64,
    /// What `written` was when the last successful flush began. While the two differ, a reconnect could hide the
    /// loss of an answered write.
    flushed: AtomicU64,
}

impl Fate {
    pub(super) fn new() -> Self {
        Self { failed: OnceLock::new(), written: AtomicU64::new(0), flushed: AtomicU64::new(0) }
    }

    pub(super) fn note_write(&self) {
        self.written.fetch_add(1, Ordering::SeqCst);
    }

    /// To be taken before a flush is sent, and given back once it is answered.
    pub(super) fn before_flush(&self) -> u64 {
        self.written.load(Ordering::SeqCst)
    }

    pub(super) fn note_flush(&self, before: u64) {
        self.flushed.fetch_max(before, Ordering::SeqCst);
    }

    fn has_unflushed(&self) -> bool {
        self.written.load(Ordering::SeqCst) != self.flushed.load(Ordering::SeqCst)
    }

    /// Fails the whole client; the first reason counts.
    pub(super) fn fail(&self, error: Error) -> Error {
        self.failed.get_or_init(|| error).clone()
    }

    fn check(&self) -> Result<()> {
        self.failed.get().map_or(Ok(()), |error| Err(error.clone()))
    }
}

/// One connection's place.
pub(super) struct Lane {
    dialer: Arc<Dialer>,
    fate: Arc<Fate>,
    with_contexts: bool,
    /// Bounds the requests in flight, over reconnects.
    pub(super) slots: Arc<Semaphore>,
    current: Mutex<Arc<Connection>>,
    reconnecting: AsyncMutex<()>,
}

impl Lane {
    pub(super) fn new(
        dialer: Arc<Dialer>,
        fate: Arc<Fate>,
        with_contexts: bool,
        connection: Connection,
    ) -> Self {
        let slots = Arc::new(Semaphore::new(dialer.options.in_flight.max(1)));
        Self {
            dialer,
            fate,
            with_contexts,
            slots,
            current: Mutex::new(Arc::new(connection)),
            reconnecting: AsyncMutex::new(()),
        }
    }

    fn current(&self) -> Arc<Connection> {
        Arc::clone(&self.current.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A connection that is alive, reconnected if need be.
    pub(super) async fn connection(&self) -> Result<Arc<Connection>> {
        self.fate.check()?;
        let current = self.current();
        if current.is_alive() {
            return Ok(current);
        }
        drop(current);
        let _only_one = self.reconnecting.lock().await;
        self.fate.check()?;
        let lost = self.current();
        if lost.is_alive() {
            return Ok(lost);
        }
        let fresh = Arc::new(self.reconnect(&lost).await.map_err(|error| self.fate.fail(error))?);
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&fresh);
        // The client may have been closed meanwhile; then this connection must not outlive it.
        if let Err(error) = self.fate.check() {
            fresh.end(error.clone());
            return Err(error);
        }
        Ok(fresh)
    }

    async fn reconnect(&self, lost: &Connection) -> Result<Connection> {
        if self.fate.has_unflushed() {
            let context = "the connection ended before earlier writes were flushed; they may be lost";
            return Err(Error::new(ErrorKind::Disconnected, context));
        }
        let policy = self.dialer.options.reconnect;
        let mut last = None;
        for attempt in 0..policy.attempts {
            tokio::time::sleep(policy.pause(attempt)).await;
            self.fate.check()?;
            match self.dialer.dial(self.with_contexts).await {
                Ok(fresh) => {
                    check_same(lost, &fresh)?;
                    tracing::debug!(uri = %self.dialer.options.uri, attempt, "reconnected");
                    return Ok(fresh);
                }
                Err(error) if error.is_retryable() => last = Some(error),
                Err(error) => return Err(error.during("while reconnecting")),
            }
        }
        Err(match last {
            Some(error) => {
                let context =
                    format!("the connection was lost and {} attempts did not bring it back", policy.attempts);
                Error::caused(ErrorKind::Unreachable, context, error)
            }
            None => Error::new(ErrorKind::Disconnected, "the connection was lost"),
        })
    }

    /// Says goodbye.
    pub(super) async fn close(&self) {
        self.fate.fail(closed());
        self.current().close().await;
    }
}

/// Whether a connection that replaces another shows the same export, by everything that was negotiated; resuming
/// against another point in time would mix two disks.
fn check_same(old: &Connection, new: &Connection) -> Result<()> {
    let names = |connection: &Connection| {
        let names: Vec<_> = connection.contexts.iter().map(|(_, name)| name.as_str()).collect();
        format!("[{}]", names.join(", "))
    };
    same("use of structured replies", &old.structured, &new.structured)?;
    same("set of flags", &old.flags, &new.flags)?;
    same("set of contexts", &names(old), &names(new))?;
    check_sibling(old, new)
}

/// Whether a further connection, with simple replies, shows the same export as the first.
pub(super) fn check_sibling(first: &Connection, further: &Connection) -> Result<()> {
    same("size", &first.size, &further.size)?;
    // Servers offer the DF flag only where structured replies were negotiated.
    let without_df = |flags: TransmissionFlags| TransmissionFlags(flags.0 & !TransmissionFlags::SEND_DF.0);
    same("set of flags", &without_df(first.flags), &without_df(further.flags))?;
    let (old, new) = (first.block_sizes, further.block_sizes);
    same("smallest block", &old.minimum, &new.minimum)?;
    same("largest request", &old.maximum, &new.maximum)
}

fn same<T: PartialEq + fmt::Display>(what: &str, old: &T, new: &T) -> Result<()> {
    if old == new {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Changed, format!("the export changed: its {what} was {old} and is {new}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_limit() {
        let policy = ReconnectPolicy {
            attempts: 5,
            first_backoff: Duration::from_millis(100),
            max_backoff: Duration::from_millis(350),
        };
        let pauses: Vec<_> = [0, 1, 2, 3, 60].map(|number| policy.pause(number).as_millis()).into();
        assert_eq!(pauses, [0, 100, 200, 350, 350]);
    }
}
