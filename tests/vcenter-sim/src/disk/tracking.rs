//! Changed block tracking of one disk: which block was written last under which sequence number.
//!
//! ```text
//!   writes stamped 1   │ snapshot: id …/1 │  writes stamped 2   │ snapshot: id …/2 │ …
//! ```
//! What changed between two ids of the same tracker is what carries a stamp above the first in the map as it was
//! frozen with the second. A tracker that was reset has another uuid, and knows nothing of earlier ids.

use std::fmt;
use std::sync::Arc;

use uuid::Uuid;

/// A change id as vSphere writes it: the uuid in its spaced form, a slash, the sequence number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CbtId {
    uuid: Uuid,
    sequence: u32,
}

impl CbtId {
    /// Reads the wire form; `None` for anything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (uuid, sequence) = text.split_once('/')?;
        let compact: String = uuid.chars().filter(|&c| c != ' ' && c != '-').collect();
        Some(Self { uuid: Uuid::try_parse(&compact).ok()?, sequence: sequence.parse().ok()? })
    }
}

impl fmt::Display for CbtId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.uuid.as_bytes().iter().enumerate() {
            let separator = match index {
                0 => "",
                8 => "-",
                _ => " ",
            };
            write!(f, "{separator}{byte:02x}")?;
        }
        write!(f, "/{}", self.sequence)
    }
}

/// The tracker's map as it was at one moment.
#[derive(Debug, Clone)]
pub(super) struct Stamps {
    id: CbtId,
    stamps: Arc<Vec<u32>>,
}

impl Stamps {
    pub(super) fn id(&self) -> &CbtId {
        &self.id
    }

    /// Per block, whether it changed after `since`; `None` when `since` belongs to another tracker or to the future.
    pub(super) fn changed_since(&self, since: &CbtId) -> Option<impl Iterator<Item = bool> + '_> {
        let comparable = since.uuid == self.id.uuid && since.sequence <= self.id.sequence;
        let sequence = since.sequence;
        comparable.then(|| self.stamps.iter().map(move |&stamp| stamp > sequence))
    }
}

/// The running tracker of a disk.
#[derive(Debug)]
pub(super) struct Tracker {
    uuid: Uuid,
    sequence: u32,
    stamps: Arc<Vec<u32>>,
}

impl Tracker {
    /// A tracker that has seen no write yet.
    pub(super) fn start(blocks: usize) -> Self {
        Self { uuid: Uuid::new_v4(), sequence: 1, stamps: Arc::new(vec![0; blocks]) }
    }

    /// Notes a write or trim of one block.
    pub(super) fn touch(&mut self, block: usize) {
        // A frozen map may still share the vector; this takes a copy of it at most once a snapshot.
        Arc::make_mut(&mut self.stamps)[block] = self.sequence;
    }

    /// Follows a disk that grew; the new blocks count as changed.
    pub(super) fn grow(&mut self, blocks: usize) {
        let sequence = self.sequence;
        Arc::make_mut(&mut self.stamps).resize(blocks, sequence);
    }

    /// The map and id of this moment; later writes are stamped with the next number.
    pub(super) fn freeze(&mut self) -> Stamps {
        let frozen = self.now();
        self.sequence += 1;
        frozen
    }

    /// The map and id as they are, without a new epoch: what a running VM's configuration shows.
    pub(super) fn now(&self) -> Stamps {
        let id = CbtId { uuid: self.uuid, sequence: self.sequence };
        Stamps { id, stamps: Arc::clone(&self.stamps) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_id_reads_back_what_it_prints() {
        let id = CbtId { uuid: Uuid::new_v4(), sequence: 81 };
        let text = id.to_string();
        assert_eq!(text.len(), 47 + "/81".len());
        assert_eq!(CbtId::parse(&text), Some(id));
        assert_eq!(CbtId::parse("*"), None);
        assert_eq!(CbtId::parse("52 de c0/4"), None);
        assert_eq!(CbtId::parse("52 de c0 d9 b9 43 9d 10-61 d5 4c 1b e9 7b 65 63/x"), None);
    }

    #[test]
    fn only_later_stamps_of_the_same_tracker_count() {
        let mut tracker = Tracker::start(4);
        tracker.touch(0);
        let first = tracker.freeze();
        tracker.touch(2);
        let second = tracker.freeze();
        tracker.touch(3);
        let changed: Vec<bool> = second.changed_since(first.id()).unwrap().collect();
        assert_eq!(changed, [false, false, true, false]);
        assert!(first.changed_since(second.id()).is_none());
        assert!(second.changed_since(Tracker::start(4).freeze().id()).is_none());
    }
}
