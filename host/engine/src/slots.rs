//! Slots for disks that are being moved: a bound over the whole host and one for each connector.
//!
//! Both are taken at once or not at all, so that nobody holds one while waiting for the other: there is no deadlock.
//! Whoever came first is served first; one whose connector is full is passed over and keeps its place, and as the
//! slot it waits for is one of its own connector's, nobody passed over waits for ever.
//!
//! A job takes its first slot before its snapshot and hands its slots on to its own disks: what waits in the queue
//! with a snapshot behind it are further slots only, which make it faster and on which it does not depend.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use tidemark_model::ConnectorId;
use tokio::sync::oneshot;

/// The slots of a host.
#[derive(Debug, Clone)]
pub(crate) struct DiskSlots {
    table: Arc<Mutex<Table>>,
}

#[derive(Debug)]
struct Table {
    /// What the host still has.
    free: usize,
    connectors: HashMap<ConnectorId, Lane>,
    waiting: VecDeque<Waiting>,
}

#[derive(Debug, Default)]
struct Lane {
    taken: u32,
    /// None for no bound of its own.
    most: Option<u32>,
}

#[derive(Debug)]
struct Waiting {
    connector: Option<ConnectorId>,
    served: oneshot::Sender<Slot>,
}

/// The right to move one disk; dropping it passes it on.
#[derive(Debug)]
pub(crate) struct Slot {
    slots: DiskSlots,
    connector: Option<ConnectorId>,
}

/// A place in the queue; dropping it leaves the queue.
#[derive(Debug)]
pub(crate) struct Queued(oneshot::Receiver<Slot>);

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
        let table = Table { free: host.max(1), connectors: HashMap::new(), waiting: VecDeque::new() };
        Self { table: Arc::new(Mutex::new(table)) }
    }

    /// Sets a connector's bound. Those who have a slot keep it.
    pub(crate) fn bound(&self, connector: ConnectorId, most: Option<u32>) {
        self.table().connectors.entry(connector).or_default().most = most;
        self.serve();
    }

    /// Joins the queue for a slot of the host and of the connector.
    pub(crate) fn queue(&self, connector: ConnectorId) -> Queued {
        self.join(Some(connector))
    }

    /// Joins the queue for a slot of the host alone: for work that no connector has a part in.
    pub(crate) fn queue_for_host(&self) -> Queued {
        self.join(None)
    }

    fn join(&self, connector: Option<ConnectorId>) -> Queued {
        let (served, receiver) = oneshot::channel();
        self.table().waiting.push_back(Waiting { connector, served });
        self.serve();
        Queued(receiver)
    }

    fn serve(&self) {
        // One after the other and outside the lock: a slot whose receiver is gone comes back through its drop.
        loop {
            let next = self.table().next();
            let Some(Waiting { connector, served }) = next else { return };
            // Nobody there any more is no error: the slot returns itself.
            let _ = served.send(Slot { slots: self.clone(), connector });
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
        let room = |connector: &ConnectorId| {
            self.connectors.get(connector).is_none_or(|lane| lane.most.is_none_or(|most| lane.taken < most))
        };
        let index = self.waiting.iter().position(|waiting| waiting.connector.as_ref().is_none_or(room))?;
        let waiting = self.waiting.remove(index)?;
        self.free -= 1;
        if let Some(connector) = waiting.connector {
            self.connectors.entry(connector).or_default().taken += 1;
        }
        Some(waiting)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        {
            let mut table = self.slots.table();
            table.free += 1;
            let lane = self.connector.and_then(|connector| table.connectors.get_mut(&connector));
            if let Some(lane) = lane {
                lane.taken = lane.taken.saturating_sub(1);
            }
        }
        self.slots.serve();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn two() -> (ConnectorId, ConnectorId) {
        (ConnectorId::random(), ConnectorId::random())
    }

    fn served(queued: &mut Queued) -> Option<Slot> {
        queued.now_or_never()
    }

    #[test]
    fn a_full_connector_keeps_nobody_else_from_the_host() {
        let (a, b) = two();
        let slots = DiskSlots::new(2);
        slots.bound(a, Some(1));
        let first = served(&mut slots.queue(a)).unwrap();
        let mut second = slots.queue(a);
        assert!(served(&mut second).is_none(), "the connector is full");
        let other = served(&mut slots.queue(b)).unwrap();
        let mut third = slots.queue(b);
        assert!(served(&mut third).is_none(), "the host is full");
        drop(first);
        let second = served(&mut second).expect("it came before the third");
        assert!(served(&mut third).is_none());
        drop((second, other));
        assert!(served(&mut third).is_some());
    }

    #[test]
    fn a_bound_may_change_while_somebody_waits() {
        let (a, _) = two();
        let slots = DiskSlots::new(8);
        slots.bound(a, Some(1));
        let first = served(&mut slots.queue(a)).unwrap();
        let (mut second, mut third) = (slots.queue(a), slots.queue(a));
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
        let held = served(&mut slots.queue(a)).unwrap();
        let (gone, served_unseen) = (slots.queue(a), slots.queue(b));
        drop(gone);
        drop(held);
        // Served, but nobody looks before the place is given up.
        drop(served_unseen);
        assert!(served(&mut slots.queue(a)).is_some(), "no slot is lost");
        assert_eq!(slots.table().free, 1);
        assert!(slots.table().waiting.is_empty());
    }
}
