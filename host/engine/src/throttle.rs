//! Bounds how fast bytes are stored: one bucket a repository, shared by all jobs of this host, and one a job that
//! was given a bandwidth of its own.
//!
//! What is counted are stored bytes, headers, tables and digests included; reading a repository (restore, verify,
//! export) is not bounded. Each bucket serves whoever waits in the order of their coming, in slices, so that eight
//! disks share a rate evenly. A rate that is changed counts at once, also for those that wait.
//!
//! ```text
//! writer ─▶ job's bucket ─▶ repository's bucket ─▶ file       level < 0: wait until time has filled it again
//! ```

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tidemark_model::{ByteLen, RepositoryId};
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Result};

/// The slowest rate that still gets anything done, in bytes a second.
const SLOWEST: u64 = 64 << 10;
/// The fastest that is taken for a rate: a pebibyte a second is a mistake.
const FASTEST: u64 = 1 << 50;
/// What is taken out of a bucket at once.
const SLICE: u64 = 1 << 20;
/// How often whoever waits looks whether it is to stop.
const LOOK: Duration = Duration::from_millis(50);

/// A rate from outside; 0 is none.
///
/// # Errors
/// Invalid where nobody can mean it.
pub(crate) fn checked(rate: ByteLen) -> Result<Option<ByteLen>> {
    match rate.0 {
        0 => Ok(None),
        SLOWEST..=FASTEST => Ok(Some(rate)),
        bytes => {
            let message = format!(
                "bandwidth_bytes_per_second: {bytes} is out of range; {SLOWEST} to {FASTEST}, or 0 for no bound"
            );
            Err(Error::invalid_field("bandwidth_bytes_per_second", message))
        }
    }
}

/// The buckets of this host's repositories.
#[derive(Debug, Default)]
pub(crate) struct Throttles {
    buckets: Mutex<HashMap<RepositoryId, Arc<Bucket>>>,
}

impl Throttles {
    /// The repository's bucket, with the rate that the catalog says now.
    pub(crate) fn of(&self, repository: RepositoryId, rate: Option<ByteLen>) -> Arc<Bucket> {
        let bucket = Arc::clone(self.buckets().entry(repository).or_default());
        bucket.set_rate(rate);
        bucket
    }

    /// Gives a repository that somebody writes to, or wrote to, another rate.
    pub(crate) fn bound(&self, repository: RepositoryId, rate: Option<ByteLen>) {
        if let Some(bucket) = self.buckets().get(&repository) {
            bucket.set_rate(rate);
        }
    }

    fn buckets(&self) -> MutexGuard<'_, HashMap<RepositoryId, Arc<Bucket>>> {
        self.buckets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Everything that bounds one writer, and when it is to stop waiting.
#[derive(Debug, Clone, Default)]
pub(crate) struct Throttle {
    buckets: Vec<Arc<Bucket>>,
    stop: CancellationToken,
}

impl Throttle {
    /// Bounded by one bucket until `stop` fires.
    pub(crate) fn new(bucket: Arc<Bucket>, stop: CancellationToken) -> Self {
        Self { buckets: vec![bucket], stop }
    }

    /// Bounded by another bucket too, and stopped by another token.
    #[must_use]
    pub(crate) fn and(mut self, bucket: Option<&Arc<Bucket>>, stop: CancellationToken) -> Self {
        // The job's own comes first: what waits for it keeps nobody else from the repository's.
        self.buckets.splice(0..0, bucket.cloned());
        Self { stop, ..self }
    }

    /// Waits until so many bytes may be written; blocks.
    ///
    /// # Errors
    /// Cancelled.
    pub(crate) fn take(&self, bytes: u64) -> Result<()> {
        let mut left = bytes;
        while left > 0 {
            let slice = left.min(SLICE);
            for bucket in &self.buckets {
                bucket.take(slice, &self.stop)?;
            }
            left -= slice;
        }
        Ok(())
    }
}

/// A level that time fills and writers empty.
#[derive(Debug)]
pub(crate) struct Bucket {
    state: Mutex<State>,
    moved: Condvar,
}

#[derive(Debug)]
struct State {
    /// Bytes a second; none for no bound.
    rate: Option<u64>,
    /// Bytes that may be taken now. Below zero while a slice is paid off.
    level: f64,
    /// When the level was as it says.
    at: Instant,
    /// Who waits, in the order of their coming.
    waiting: VecDeque<u64>,
    tickets: u64,
}

impl Default for Bucket {
    fn default() -> Self {
        let state =
            State { rate: None, level: 0.0, at: Instant::now(), waiting: VecDeque::new(), tickets: 0 };
        Self { state: Mutex::new(state), moved: Condvar::new() }
    }
}

impl Bucket {
    /// A bucket of this rate.
    pub(crate) fn of(rate: Option<ByteLen>) -> Arc<Self> {
        let bucket = Self::default();
        bucket.set_rate(rate);
        Arc::new(bucket)
    }

    fn set_rate(&self, rate: Option<ByteLen>) {
        let rate = rate.map(|ByteLen(bytes)| bytes.max(1));
        let mut state = self.state();
        if state.rate != rate {
            // What the old rate left over, or owes, is nothing to the new one.
            (state.rate, state.level, state.at) = (rate, 0.0, Instant::now());
            self.moved.notify_all();
        }
    }

    fn take(&self, bytes: u64, stop: &CancellationToken) -> Result<()> {
        let mut state = self.state();
        let ticket = state.tickets;
        state.tickets += 1;
        state.waiting.push_back(ticket);
        loop {
            if stop.is_cancelled() {
                state.waiting.retain(|&waiting| waiting != ticket);
                self.moved.notify_all();
                return Err(Error::cancelled());
            }
            let pause = match state.waiting.front() {
                Some(&first) if first == ticket => state.pause(Instant::now()),
                _ => LOOK,
            };
            if pause.is_zero() {
                state.waiting.pop_front();
                state.spend(bytes);
                self.moved.notify_all();
                return Ok(());
            }
            state = self
                .moved
                .wait_timeout(state, pause.min(LOOK))
                .map_or_else(|poisoned| poisoned.into_inner().0, |(state, _)| state);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Adds what time has brought, up to a quarter of a second's worth: an idle bucket must not save up.
    fn fill(&mut self, now: Instant) {
        let gone = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = now;
        if let Some(rate) = self.rate.map(as_f64) {
            self.level = (self.level + gone * rate).min(rate / 4.0);
        }
    }

    /// How long until the next slice may go; nothing where it may go now.
    fn pause(&mut self, now: Instant) -> Duration {
        self.fill(now);
        match self.rate {
            Some(rate) if self.level < 0.0 => {
                Duration::from_secs_f64((-self.level / as_f64(rate)).clamp(0.001, 3600.0))
            }
            _ => Duration::ZERO,
        }
    }

    fn spend(&mut self, bytes: u64) {
        if self.rate.is_some() {
            self.level -= as_f64(bytes);
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "exact up to 2^53, which is more than any rate")]
fn as_f64(bytes: u64) -> f64 {
    bytes as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    const MIB: u64 = 1 << 20;

    fn rate(mib: u64) -> Option<ByteLen> {
        Some(ByteLen(mib * MIB))
    }

    fn seconds(work: impl FnOnce()) -> f64 {
        let begun = Instant::now();
        work();
        begun.elapsed().as_secs_f64()
    }

    #[test]
    fn many_writers_together_keep_the_rate_and_share_it() {
        let throttle = Throttle::new(Bucket::of(rate(20)), CancellationToken::new());
        let written: [AtomicU64; 4] = Default::default();
        let took = seconds(|| {
            std::thread::scope(|scope| {
                for mine in &written {
                    let throttle = &throttle;
                    scope.spawn(move || {
                        for _ in 0..6 {
                            throttle.take(MIB).unwrap();
                            mine.fetch_add(1, Ordering::Relaxed);
                        }
                    });
                }
                std::thread::sleep(Duration::from_millis(600));
                let now: Vec<u64> = written.iter().map(|mine| mine.load(Ordering::Relaxed)).collect();
                let (least, most) = (now.iter().min().unwrap(), now.iter().max().unwrap());
                // A thread that the machine does not run misses a turn; unfair would be one that gets none.
                assert!(*least >= 1 && most - least <= 2, "an even share: {now:?}");
            });
        });
        assert!((0.9..2.5).contains(&took), "24 MiB at 20 MiB/s took {took} s");
    }

    #[test]
    fn the_slower_of_two_buckets_counts() {
        let both = Throttle::new(Bucket::of(rate(1000)), CancellationToken::new());
        let both = both.and(Some(&Bucket::of(rate(10))), CancellationToken::new());
        let took = seconds(|| (0..6).for_each(|_| both.take(MIB).unwrap()));
        assert!((0.4..1.5).contains(&took), "6 MiB at 10 MiB/s took {took} s");
        let free = Throttle::default();
        assert!(seconds(|| free.take(1 << 40).unwrap()) < 0.5);
    }

    #[test]
    fn a_new_rate_frees_whoever_waits_and_so_does_a_stop() {
        let throttles = Throttles::default();
        let id = RepositoryId::random();
        let stop = CancellationToken::new();
        let throttle = Throttle::new(throttles.of(id, Some(ByteLen(SLOWEST))), stop.clone());
        let took = seconds(|| {
            std::thread::scope(|scope| {
                let writer = scope.spawn(|| throttle.take(8 * MIB));
                std::thread::sleep(Duration::from_millis(200));
                throttles.bound(id, None);
                writer.join().unwrap().unwrap();
                throttles.bound(id, Some(ByteLen(SLOWEST)));
                let writer = scope.spawn(|| throttle.take(8 * MIB));
                std::thread::sleep(Duration::from_millis(200));
                stop.cancel();
                assert_eq!(writer.join().unwrap().unwrap_err().kind(), crate::ErrorKind::Cancelled);
            });
        });
        assert!(took < 2.0, "it took {took} s");
        assert!(throttle.buckets[0].state().waiting.is_empty(), "nobody is left in the queue");
    }

    #[test]
    fn nonsense_is_no_rate() {
        assert_eq!(checked(ByteLen(0)).unwrap(), None);
        assert_eq!(checked(ByteLen(2 * MIB)).unwrap(), rate(2));
        for nonsense in [1, SLOWEST - 1, u64::MAX] {
            let error = checked(ByteLen(nonsense)).unwrap_err();
            assert_eq!(error.field(), Some("bandwidth_bytes_per_second"));
        }
    }
}
