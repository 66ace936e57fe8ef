//! Slots for disks that are being moved: a bound over the whole host, one for each connector and one for each
//! repository.
//!
//! All of them are taken at once or not at all, so that nobody holds one while waiting for another: there is no
//! deadlock. Whoever came first is served first; one whose connector or repository is full is passed over and keeps its
//! place. As its two bounds might never have room at the same moment, whoever was passed over [`PATIENCE`] times holds
//! the later ones of its connector and its repository back: so nobody waits for ever.
//!
//! A job takes its first slot before its snapshot and hands its slots on to its own disks: what waits in the queue
//! with a snapshot behind it are further slots only, which make it faster and on which it does not depend.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use tidemark_model::{ConnectorId, RepositoryId};
use tokio::sync::oneshot;

/// How many later ones may be served before one that waits.
const PATIENCE: u32 = 16;

/// What has a bound of its own beside the host's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Lane {
    /// Disks that are read from a connector.
    Connector(ConnectorId),
    /// Disks that are written to a repository.
    Repository(RepositoryId),
}

/// The slots of a host.
#[derive(Debug, Clone)]
pub(crate) struct DiskSlots {
    table: Arc<Mutex<Table>>,
}

#[derive(Debug)]
struct Table {
    /// What the host still has.
    free: usize,
    lanes: HashMap<Lane, Use>,
    waiting: VecDeque<Waiting>,
}

#[derive(Debug, Default)]
struct Use {
    taken: u32,
    /// None for no bound of its own.
    most: Option<u32>,
}

#[derive(Debug)]
struct Waiting {
    lanes: Vec<Lane>,
    /// How many later ones were served before it.
    passed: u32,
    served: oneshot::Sender<Slot>,
}

/// The right to move one disk; dropping it passes it on.
#[derive(Debug)]
pub(crate) struct Slot {
    slots: DiskSlots,
    lanes: Vec<Lane>,
}

/// A place in the queue; dropping it leaves the queue.
#[derive(Debug)]
pub(crate) struct Queued(oneshot::Receiver<Slot>);

impl From<ConnectorId> for Lane {
    fn from(id: ConnectorId) -> Self {
        Self::Connector(id)
    }
}

impl From<RepositoryId> for Lane {
    fn from(id: RepositoryId) -> Self {
        Self::Repository(id)
    }
}

impl Future for Queued {
    type Output = Slot;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Slot> {
        match Pin::new(&mut self.0).poll(context) {
            Poll::Ready(Ok(slot)) => Poll::Ready(slot),
            // The sender is in the table, which lives as long as the host: nobody drops it unserved.
            Poll::Ready(Err(_)) | Poll::Pending => Poll::Pending,
        }
    }
}

impl DiskSlots {
    pub(crate) fn new(host: usize) -> Self {
        let table = Table { free: host.max(1), lanes: HashMap::new(), waiting: VecDeque::new() };
        Self { table: Arc::new(Mutex::new(table)) }
    }

    /// Sets the bound of a connector or a repository. Those who have a slot keep it.
    pub(crate) fn bound(&self, lane: Lane, most: Option<u32>) {
        self.table().lanes.entry(lane).or_default().most = most;
        self.serve();
    }

    /// Joins the queue for a slot of the host and of each of `lanes`.
    pub(crate) fn queue(&self, lanes: impl IntoIterator<Item = Lane>) -> Queued {
        let (served, receiver) = oneshot::channel();
        let waiting = Waiting { lanes: lanes.into_iter().collect(), passed: 0, served };
        self.table().waiting.push_back(waiting);
        self.serve();
        Queued(receiver)
    }

    fn serve(&self) {
        // One after the other and outside the lock: a slot whose receiver is gone comes back through its drop.
        loop {
            let next = self.table().next();
            let Some(Waiting { lanes, served, .. }) = next else { return };
            // Nobody there any more is no error: the slot returns itself.
            let _ = served.send(Slot { slots: self.clone(), lanes });
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// The first in the queue that can be served, whose slot is taken by that.
    fn next(&mut self) -> Option<Waiting> {
        self.waiting.retain(|waiting| !waiting.served.is_closed());
        if self.free == 0 {
            return None;
        }
        let index = self.first_served()?;
        self.waiting.iter_mut().take(index).for_each(|waiting| waiting.passed += 1);
        let waiting = self.waiting.remove(index)?;
        self.free -= 1;
        for lane in &waiting.lanes {
            self.lanes.entry(*lane).or_default().taken += 1;
        }
        Some(waiting)
    }

    fn first_served(&self) -> Option<usize> {
        let mut held_back: Vec<Lane> = Vec::new();
        for (index, waiting) in self.waiting.iter().enumerate() {
            let room = |lane: &Lane| self.lanes.get(lane).is_none_or(Use::has_room);
            if waiting.lanes.iter().all(|lane| room(lane) && !held_back.contains(lane)) {
                return Some(index);
            }
            if waiting.passed >= PATIENCE {
                held_back.extend(waiting.lanes.iter().filter(|lane| self.is_bounded(**lane)));
            }
        }
        None
    }

    fn is_bounded(&self, lane: Lane) -> bool {
        self.lanes.get(&lane).is_some_and(|lane| lane.most.is_some())
    }
}

impl Use {
    fn has_room(&self) -> bool {
        self.most.is_none_or(|most| self.taken < most)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        {
            let mut table = self.slots.table();
            table.free += 1;
            for lane in &self.lanes {
                if let Some(lane) = table.lanes.get_mut(lane) {
                    lane.taken = lane.taken.saturating_sub(1);
                }
            }
        }
        self.slots.serve();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn two() -> (Lane, Lane) {
        (ConnectorId::random().into(), ConnectorId::random().into())
    }

    fn served(queued: &mut Queued) -> Option<Slot> {
        queued.now_or_never()
    }

    #[test]
    fn a_full_connector_keeps_nobody_else_from_the_host() {
        let (a, b) = two();
        let slots = DiskSlots::new(2);
        slots.bound(a, Some(1));
        let first = served(&mut slots.queue([a])).unwrap();
        let mut second = slots.queue([a]);
        assert!(served(&mut second).is_none(), "the connector is full");
        let other = served(&mut slots.queue([b])).unwrap();
        let mut third = slots.queue([b]);
        assert!(served(&mut third).is_none(), "the host is full");
        drop(first);
        let second = served(&mut second).expect("it came before the third");
        assert!(served(&mut third).is_none());
        drop((second, other));
        assert!(served(&mut third).is_some());
    }

    #[test]
    fn a_full_repository_keeps_nobody_else_from_the_connector() {
        let (a, r) = (Lane::from(ConnectorId::random()), Lane::from(RepositoryId::random()));
        let slots = DiskSlots::new(8);
        slots.bound(r, Some(1));
        let first = served(&mut slots.queue([a, r])).unwrap();
        let mut second = slots.queue([a, r]);
        assert!(served(&mut second).is_none(), "the repository is full");
        let merge = slots.queue([r]);
        let other = served(&mut slots.queue([a, RepositoryId::random().into()])).unwrap();
        drop(first);
        assert!(served(&mut second).is_some(), "it came before the merge");
        drop((merge, other));
    }

    #[test]
    fn two_bounds_that_are_never_free_at_once_starve_nobody() {
        let (a, r) = (Lane::from(ConnectorId::random()), Lane::from(RepositoryId::random()));
        let slots = DiskSlots::new(8);
        slots.bound(a, Some(1));
        slots.bound(r, Some(1));
        let mut of_connector = served(&mut slots.queue([a]));
        let mut of_repository = served(&mut slots.queue([r]));
        let mut both = slots.queue([a, r]);
        for _ in 0..PATIENCE / 2 {
            // Whoever leaves has a successor waiting already.
            for (lane, slot) in [(a, &mut of_connector), (r, &mut of_repository)] {
                let mut next = slots.queue([lane]);
                assert!(served(&mut next).is_none());
                drop(slot.take());
                *slot = served(&mut next);
                assert!(slot.is_some(), "the other bound is full for whoever wants both");
            }
        }
        let mut next = slots.queue([a]);
        drop(of_connector);
        assert!(served(&mut next).is_none(), "it has been passed over often enough");
        drop(of_repository);
        assert!(served(&mut both).is_some());
        drop(both);
        assert!(served(&mut next).is_some());
    }

    #[test]
    fn a_bound_may_change_while_somebody_waits() {
        let (a, _) = two();
        let slots = DiskSlots::new(8);
        slots.bound(a, Some(1));
        let first = served(&mut slots.queue([a])).unwrap();
        let (mut second, mut third) = (slots.queue([a]), slots.queue([a]));
        slots.bound(a, Some(2));
        let second = served(&mut second).unwrap();
        assert!(served(&mut third).is_none());
        slots.bound(a, Some(1));
        drop(first);
        assert!(served(&mut third).is_none(), "one is still moved, and one is the bound now");
        slots.bound(a, None);
        assert!(served(&mut third).is_some());
        drop(second);
    }

    #[test]
    fn whoever_leaves_the_queue_takes_nothing_along() {
        let (a, b) = two();
        let slots = DiskSlots::new(1);
        let held = served(&mut slots.queue([a])).unwrap();
        let (gone, served_unseen) = (slots.queue([a]), slots.queue([b]));
        drop(gone);
        drop(held);
        // Served, but nobody looks before the place is given up.
        drop(served_unseen);
        assert!(served(&mut slots.queue([a])).is_some(), "no slot is lost");
        assert_eq!(slots.table().free, 1);
        assert!(slots.table().waiting.is_empty());
    }
}
