//! Tries again what may help, with growing pauses, and stops at once where it cannot.
//!
//! Blocking, and without a clock of its own: the caller says how to pause, [`Cancellation`] being the way that ends
//! early. It does not outlive the process: what must be delivered in the end is to be kept by the caller, who can ask
//! any error whether it is worth it.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};

/// How often, and how far apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// All attempts, the first one included; none counts as one.
    pub attempts: u32,
    /// The pause after the first attempt.
    pub first: Duration,
    /// By how much each pause is longer than the one before.
    pub factor: u32,
    /// The longest pause, also where the other side asks for a longer one.
    pub most: Duration,
}

impl Default for RetryPolicy {
    /// Five attempts within three minutes, if each is answered at once.
    fn default() -> Self {
        Self { attempts: 5, first: Duration::from_secs(2), factor: 4, most: Duration::from_secs(120) }
    }
}

impl RetryPolicy {
    /// The pause after attempt number `attempt` (from 1), which failed with `error`.
    fn pause(&self, attempt: u32, error: &Error) -> Duration {
        let growth = self.factor.max(1).saturating_pow(attempt.saturating_sub(1));
        let own = self.first.saturating_mul(growth);
        own.max(error.retry_after().unwrap_or_default()).min(self.most)
    }
}

/// How a pause ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pause {
    /// After its time.
    Over,
    /// Before it, as the caller gave up: there is no further attempt.
    Cancelled,
}

/// Calls `op` with the attempt's number, from 1, until it succeeds, fails for good, or `policy` has no attempt left.
///
/// # Errors
/// The last attempt's error, with the number of attempts where there were several; [`ErrorKind::Cancelled`] over it
/// where a pause was cancelled.
pub fn deliver_with_retries<T>(
    policy: &RetryPolicy,
    mut pause: impl FnMut(Duration) -> Pause,
    mut op: impl FnMut(u32) -> Result<T>,
) -> Result<T> {
    let mut attempt = 1;
    loop {
        let error = match op(attempt) {
            Ok(done) => return Ok(done),
            Err(error) => error,
        };
        if !error.is_retryable() || attempt >= policy.attempts {
            return Err(if attempt == 1 { error } else { error.during(format!("attempt {attempt}")) });
        }
        if pause(policy.pause(attempt, &error)) == Pause::Cancelled {
            let context = format!("cancelled after attempt {attempt}");
            return Err(Error::caused(ErrorKind::Cancelled, context, error));
        }
        attempt += 1;
    }
}

/// Ends the pauses of everyone who holds a clone of it.
#[derive(Debug, Clone, Default)]
pub struct Cancellation(Arc<(Mutex<bool>, Condvar)>);

impl Cancellation {
    /// One that was not cancelled yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Ends every pause, those to come included.
    pub fn cancel(&self) {
        let (cancelled, changed) = &*self.0;
        *cancelled.lock().unwrap_or_else(PoisonError::into_inner) = true;
        changed.notify_all();
    }

    /// Sleeps for `length`, or until it is cancelled.
    #[must_use]
    pub fn pause(&self, length: Duration) -> Pause {
        let (cancelled, changed) = &*self.0;
        let guard = cancelled.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = changed.wait_timeout_while(guard, length, |cancelled| !*cancelled);
        let (guard, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if *guard { Pause::Cancelled } else { Pause::Over }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn policy() -> RetryPolicy {
        RetryPolicy { attempts: 4, first: SECOND, factor: 3, most: 5 * SECOND }
    }

    /// Runs with errors of these kinds, one after the other, then success; the pauses that were taken.
    fn run(policy: &RetryPolicy, errors: Vec<Error>) -> (Result<u32>, Vec<Duration>) {
        let (mut errors, mut pauses) = (errors.into_iter(), Vec::new());
        let outcome = deliver_with_retries(
            policy,
            |length| {
                pauses.push(length);
                Pause::Over
            },
            |attempt| errors.next().map_or(Ok(attempt), Err),
        );
        (outcome, pauses)
    }

    fn unreachable() -> Error {
        Error::new(ErrorKind::Unreachable, "gone")
    }

    #[test]
    fn pauses_grow_up_to_the_longest() {
        let (outcome, pauses) = run(&policy(), vec![unreachable(), unreachable(), unreachable()]);
        assert_eq!(outcome.unwrap(), 4);
        assert_eq!(pauses, [SECOND, 3 * SECOND, 5 * SECOND]);
        let (outcome, pauses) = run(&policy(), (0..4).map(|_| unreachable()).collect());
        assert_eq!(outcome.unwrap_err().to_string(), "attempt 4: gone");
        assert_eq!(pauses.len(), 3);
    }

    #[test]
    fn what_a_retry_cannot_mend_is_not_tried_again() {
        let (outcome, pauses) = run(&policy(), vec![Error::new(ErrorKind::Rejected, "HTTP 404")]);
        assert_eq!(outcome.unwrap_err().to_string(), "HTTP 404");
        assert!(pauses.is_empty());
    }

    #[test]
    fn a_wish_of_the_other_side_lengthens_a_pause_up_to_the_longest() {
        let asking = |pause| Error::new(ErrorKind::Throttled, "HTTP 429").asking_for(Some(pause));
        let (_, pauses) = run(&policy(), vec![asking(2 * SECOND), asking(SECOND), asking(3600 * SECOND)]);
        assert_eq!(pauses, [2 * SECOND, 3 * SECOND, 5 * SECOND]);
    }

    #[test]
    fn odd_policies_end_too() {
        let none = RetryPolicy { attempts: 0, ..policy() };
        assert!(run(&none, vec![unreachable()]).1.is_empty());
        let steep = RetryPolicy { attempts: 60, factor: u32::MAX, most: Duration::MAX, ..policy() };
        assert_eq!(run(&steep, (0..59).map(|_| unreachable()).collect()).0.unwrap(), 60);
        let flat = RetryPolicy { factor: 0, ..policy() };
        assert_eq!(run(&flat, vec![unreachable(), unreachable()]).1, [SECOND, SECOND]);
    }

    #[test]
    fn a_cancelled_pause_is_the_last() {
        let cancellation = Cancellation::new();
        let other = cancellation.clone();
        let mut attempts = 0;
        let outcome: Result<()> = deliver_with_retries(
            &RetryPolicy { first: 3600 * SECOND, most: 3600 * SECOND, ..policy() },
            |length| cancellation.pause(length),
            |attempt| {
                attempts = attempt;
                other.cancel();
                Err(unreachable())
            },
        );
        let error = outcome.unwrap_err();
        assert_eq!((error.kind(), attempts), (ErrorKind::Cancelled, 1));
        assert_eq!(std::error::Error::source(&error).unwrap().to_string(), "gone");
        assert_eq!(Cancellation::new().pause(Duration::ZERO), Pause::Over);
    }
}
