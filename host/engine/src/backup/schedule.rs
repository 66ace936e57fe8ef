//! When the disks of one job are moved: as many at once as the job has slots. It begins with one, asks for more
//! while disks wait, and hands a slot on to its own next disk: once a snapshot stands, its job depends on no other.

use std::collections::VecDeque;
use std::future::Future;

use futures_util::StreamExt as _;
use futures_util::future::OptionFuture;
use futures_util::stream::FuturesUnordered;
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Result};
use crate::slots::{Queued, Slot};

/// Moves all `disks`. The first that fails stops the others, which `stop` tells them; what they say of that is not
/// the reason.
pub(super) async fn move_all<D, T, F>(
    queue: impl Fn() -> Queued,
    first: Slot,
    disks: Vec<D>,
    stop: &CancellationToken,
    start: impl Fn(D) -> F,
) -> Result<Vec<T>>
where
    F: Future<Output = Result<T>>,
{
    let (mut waiting, mut free) = (VecDeque::from(disks), vec![first]);
    let mut moves = FuturesUnordered::new();
    let mut queued: Option<Queued> = None;
    let (mut done, mut failed) = (Vec::new(), None);
    loop {
        if stop.is_cancelled() && !waiting.is_empty() {
            waiting.clear();
            failed.get_or_insert_with(Error::cancelled);
        }
        while let Some(slot) = free.pop() {
            // A slot that no disk waits for goes to whoever is next.
            let Some(disk) = waiting.pop_front() else { continue };
            let moving = start(disk);
            moves.push(async move { (moving.await, slot) });
        }
        if waiting.is_empty() {
            queued = None;
        } else if queued.is_none() {
            queued = Some(queue());
        }
        tokio::select! {
            Some((moved, slot)) = moves.next() => {
                free.push(slot);
                match moved {
                    Ok(disk) => done.push(disk),
                    Err(error) => {
                        stop.cancel();
                        failed.get_or_insert(error);
                    }
                }
            }
            Some(slot) = OptionFuture::from(queued.as_mut()) => {
                free.push(slot);
                queued = None;
            }
            () = stop.cancelled(), if !waiting.is_empty() => {}
            else => break,
        }
    }
    match failed {
        Some(error) => Err(error),
        None => Ok(done),
    }
}

/// Works, and makes calls meanwhile that neither wait for the work nor hold it up. A call that is under way when the
/// work ends is waited for: a plugin's call that is broken off ends its session.
pub(super) async fn beside<T, C>(
    work: impl Future<Output = T>,
    calls: impl FnOnce(CancellationToken) -> C,
) -> T
where
    C: Future<Output = ()>,
{
    let over = CancellationToken::new();
    let calls = calls(over.clone());
    let work = async {
        let result = work.await;
        over.cancel();
        result
    };
    tokio::join!(work, calls).0
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::{Duration, Instant};

    use tidemark_model::ConnectorId;

    use super::*;
    use crate::slots::DiskSlots;

    #[tokio::test]
    async fn a_job_keeps_its_slot_until_its_last_disk() {
        let slots = DiskSlots::new(1);
        let (mine, other) = (ConnectorId::random(), ConnectorId::random());
        let first = slots.queue([mine.into()]).await;
        let stranger = slots.queue([other.into()]);
        let (running, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let (running, most) = (&running, &most);
        let start = |disk: u32| async move {
            most.fetch_max(running.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(5)).await;
            running.fetch_sub(1, Ordering::Relaxed);
            Ok(disk)
        };
        let stop = CancellationToken::new();
        let mut moved =
            move_all(|| slots.queue([mine.into()]), first, (0..5).collect(), &stop, start).await.unwrap();
        moved.sort_unstable();
        assert_eq!(moved, [0, 1, 2, 3, 4]);
        assert_eq!(most.load(Ordering::Relaxed), 1, "one slot, one disk");
        stranger.await;
    }

    #[tokio::test]
    async fn more_slots_move_more_disks_and_the_first_failure_counts() {
        let slots = DiskSlots::new(3);
        let id = ConnectorId::random();
        let running = AtomicUsize::new(0);
        let stop = CancellationToken::new();
        let (running_now, stopped) = (&running, &stop);
        let start = |disk: u32| async move {
            running_now.fetch_add(1, Ordering::Relaxed);
            if disk == 1 {
                while running_now.load(Ordering::Relaxed) < 3 {
                    tokio::task::yield_now().await;
                }
                return Err(Error::damaged("the second disk"));
            }
            stopped.cancelled().await;
            Err::<u32, _>(Error::cancelled())
        };
        let first = slots.queue([id.into()]).await;
        let error =
            move_all(|| slots.queue([id.into()]), first, (0..9).collect(), &stop, start).await.unwrap_err();
        assert!(error.to_string().contains("second disk"), "{error}");
        assert_eq!(running.load(Ordering::Relaxed), 3, "what waited is not begun any more");
        // All slots are back.
        let _three =
            (slots.queue([id.into()]).await, slots.queue([id.into()]).await, slots.queue([id.into()]).await);
    }

    #[tokio::test]
    async fn a_slow_call_does_not_hold_the_work_up() {
        let begun = Instant::now();
        let work = async {
            for _ in 0..20 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            begun.elapsed()
        };
        let calls = |over: CancellationToken| async move {
            tokio::time::sleep(Duration::from_millis(500)).await;
            assert!(over.is_cancelled(), "the work ended while the call was under way");
        };
        let worked = beside(work, calls).await;
        assert!(worked < Duration::from_millis(400), "{worked:?}");
        assert!(begun.elapsed() >= Duration::from_millis(500), "the call is not broken off");
    }
}
