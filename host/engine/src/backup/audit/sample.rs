//! Which clusters are compared: drawn at random from what is called unchanged, data and zeros apart, the same again
//! for the same seed.

use std::collections::BTreeSet;

use tidemark_model::{ByteLen, Extent, ExtentList, GuestOffset, HostOffset};
use tidemark_qcow2::{CLUSTER_SIZE, MappingKind};

use super::Parent;
use crate::error::Result;
use crate::ranges::RangeDigest;

/// At least so many clusters of data a disk, where it has them.
const LEAST_DATA: u64 = 16;
/// At least so many clusters of zeros.
const LEAST_ZERO: u64 = 4;
/// At most so many clusters of either: 256 MiB.
const MOST: u64 = 4096;
/// How many are looked at for each that is wanted; the others changed, or are of the other sort.
const TRIES: u64 = 8;

/// What the parent's chain has at a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Content {
    Zero,
    Data {
        digest: RangeDigest,
        /// Where it is stored as it is; none where it is compressed.
        stored_at: Option<HostOffset>,
    },
}

/// A cluster that is to be compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sampled {
    pub(super) guest: GuestOffset,
    pub(super) content: Content,
}

/// What was drawn, by ascending guest offset.
#[derive(Debug, Default)]
pub(super) struct Sample {
    pub(super) clusters: Vec<Sampled>,
    /// Whether there is data of which no layer has digests.
    pub(super) without_digests: bool,
}

/// Draws `percent` of what the disk has outside `changed`, within the bounds; blocks.
pub(super) fn draw(parent: &Parent, changed: &ExtentList, percent: f64, seed: &str) -> Result<Sample> {
    let capacity = parent.view.virtual_size();
    let changed: Vec<Extent> = changed.iter().collect();
    let records: Vec<u64> =
        parent.digests.iter().map(|index| index.as_ref().map_or(0, |i| i.records())).collect();
    let stored: u64 = records.iter().sum();
    let all = capacity.0.div_ceil(CLUSTER_SIZE);
    let mut drawing = Drawing { parent, changed, capacity, seen: BTreeSet::new(), sample: Sample::default() };
    let mut random = Random::new(seed);
    let data = share(stored, percent, LEAST_DATA, MOST);
    drawing.gather(
        random.order(stored),
        data,
        |number| record(parent, &records, number).map(Some),
        Sort::Data,
    )?;
    let spare = all.saturating_sub(stored);
    // A sample of everything leaves nothing out; else a nearly empty disk is not read for its emptiness.
    let most = if percent < 100.0 { data.max(LEAST_DATA) } else { MOST };
    let zeros = share(spare, percent, LEAST_ZERO, most);
    let position = |number| Ok(Some(GuestOffset(number * CLUSTER_SIZE)));
    drawing.gather(random.order(all), zeros, position, Sort::Zero)?;
    let mut sample = drawing.sample;
    sample.without_digests = parent.digests.iter().all(Option::is_none);
    sample.clusters.sort_unstable_by_key(|cluster| cluster.guest);
    Ok(sample)
}

/// How many of `count` are wanted.
fn share(count: u64, percent: f64, least: u64, most: u64) -> u64 {
    // Figures of clusters are far below what a float holds exactly.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "bounded"
    )]
    let share = (count as f64 * percent / 100.0).ceil() as u64;
    share.clamp(least, most.max(least)).min(count)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sort {
    Data,
    Zero,
}

struct Drawing<'a> {
    parent: &'a Parent,
    changed: Vec<Extent>,
    capacity: ByteLen,
    seen: BTreeSet<u64>,
    sample: Sample,
}

impl Drawing<'_> {
    /// Takes clusters in a random order until there are enough. They are looked up in batches by ascending offset, as
    /// neighbours share their tables.
    fn gather(
        &mut self,
        order: Order,
        wanted: u64,
        guest_of: impl Fn(u64) -> Result<Option<GuestOffset>>,
        sort: Sort,
    ) -> Result<()> {
        let mut left = wanted;
        let tries = if wanted == MOST || order.count > wanted.saturating_mul(TRIES) {
            wanted.saturating_mul(TRIES)
        } else {
            order.count
        };
        let mut order = order.take(usize::try_from(tries).unwrap_or(usize::MAX));
        while left > 0 {
            let mut batch = Vec::new();
            for number in order.by_ref().take(usize::try_from(left).unwrap_or(usize::MAX)) {
                batch.extend(guest_of(number)?);
            }
            if batch.is_empty() {
                return Ok(());
            }
            batch.sort_unstable();
            for guest in batch {
                left -= u64::from(self.consider(guest, sort)?);
            }
        }
        Ok(())
    }

    /// Adds a cluster of the wanted sort that nobody called changed; says whether it did.
    fn consider(&mut self, guest: GuestOffset, sort: Sort) -> Result<bool> {
        if guest >= GuestOffset(self.capacity.0) || self.is_changed(guest) || !self.seen.insert(guest.0) {
            return Ok(false);
        }
        let length = ByteLen(CLUSTER_SIZE.min(self.capacity.0 - guest.0));
        let mapped = self.parent.view.map(Extent { offset: guest, length })?;
        let content = match mapped.first().map(|mapping| mapping.kind) {
            Some(MappingKind::Zero) | None => Some(Content::Zero),
            Some(MappingKind::Data { layer, host }) => self.data(layer, guest, Some(host))?,
            Some(MappingKind::Compressed { layer }) => self.data(layer, guest, None)?,
        };
        let Some(content) = content.filter(|content| (*content == Content::Zero) == (sort == Sort::Zero))
        else {
            // It may still be drawn as the other sort.
            self.seen.remove(&guest.0);
            return Ok(false);
        };
        self.sample.clusters.push(Sampled { guest, content });
        Ok(true)
    }

    fn data(
        &self,
        layer: usize,
        guest: GuestOffset,
        stored_at: Option<HostOffset>,
    ) -> Result<Option<Content>> {
        let Some(index) = self.parent.digests.get(layer).and_then(Option::as_ref) else { return Ok(None) };
        Ok(index.find(guest)?.map(|digest| Content::Data { digest, stored_at }))
    }

    fn is_changed(&self, guest: GuestOffset) -> bool {
        let before = self.changed.partition_point(|range| range.offset <= guest);
        before.checked_sub(1).and_then(|last| self.changed.get(last)).is_some_and(|range| guest < range.end())
    }
}

/// The cluster of one of all layers' records.
fn record(parent: &Parent, records: &[u64], mut number: u64) -> Result<GuestOffset> {
    for (index, count) in parent.digests.iter().zip(records) {
        match index {
            Some(index) if number < *count => return index.cluster(number),
            _ => number -= count,
        }
    }
    Err(crate::error::Error::internal("a record beyond all"))
}

/// Random numbers from a seed.
struct Random(blake3::OutputReader);

impl Random {
    fn new(seed: &str) -> Self {
        Self(
            blake3::Hasher::new_derive_key("tidemark audit of changed block tracking")
                .update(seed.as_bytes())
                .finalize_xof(),
        )
    }

    fn below(&mut self, bound: u64) -> u64 {
        let mut bytes = [0; 8];
        self.0.fill(&mut bytes);
        u64::from_be_bytes(bytes) % bound.max(1)
    }

    /// The numbers from 0 to `count` in an order of its own: from a random one on, by random steps that miss none.
    fn order(&mut self, count: u64) -> Order {
        let next = self.below(count);
        let mut step = self.below(count).max(1);
        while greatest_common_divisor(step, count.max(1)) != 1 {
            step += 1;
        }
        Order { next, step, count, given: 0 }
    }
}

struct Order {
    next: u64,
    step: u64,
    count: u64,
    given: u64,
}

impl Iterator for Order {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        if self.given == self.count {
            return None;
        }
        let number = self.next;
        self.given += 1;
        // Both are below 2^48: a disk of 2^64 bytes has no more clusters.
        self.next = (self.next + self.step) % self.count;
        Some(number)
    }
}

fn greatest_common_divisor(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_gives_every_number_once_and_the_same_again() {
        for count in [0, 1, 2, 7, 12, 1000] {
            let numbers = |seed: &str| Random::new(seed).order(count).collect::<Vec<u64>>();
            let mut sorted = numbers("a");
            assert_eq!(sorted, numbers("a"));
            sorted.sort_unstable();
            assert_eq!(sorted, (0..count).collect::<Vec<_>>());
        }
        let first = |seed: &str| Random::new(seed).order(1 << 40).next();
        assert_ne!(first("a"), first("b"));
    }

    #[test]
    fn a_share_keeps_its_bounds() {
        assert_eq!(share(100_000, 0.1, 16, 4096), 100);
        assert_eq!(share(1000, 0.1, 16, 4096), 16);
        assert_eq!(share(10, 0.1, 16, 4096), 10);
        assert_eq!(share(1 << 40, 0.1, 16, 4096), 4096);
        assert_eq!(share(700, 100.0, 16, 4096), 700);
        assert_eq!(share(0, 100.0, 16, 4096), 0);
    }
}
