//! Making sense of block status: replies may stop short, go too far, and repeat themselves.

use tidemark_model::{ByteLen, Extent, ExtentList, GuestOffset};

use super::options::StatusExtent;
use crate::codec::{ContextId, STATE_ZERO, WireExtent};
use crate::error::{Error, ErrorKind, Result};

/// The most bytes to ask the status of at once: well below 32 bits and a multiple of every block size.
pub(super) const MAX_STATUS_REQUEST: u64 = 1 << 30;
/// The most extents of one answer to our caller, after merging; a server that goes beyond describes no disk.
const MAX_EXTENTS: usize = 16 << 20;

/// A range's status in several contexts, as it grows reply by reply.
pub(super) struct StatusMap {
    contexts: Vec<(ContextId, Vec<StatusExtent>)>,
}

impl StatusMap {
    pub(super) fn new(contexts: impl Iterator<Item = ContextId>) -> Self {
        Self { contexts: contexts.map(|context| (context, Vec::new())).collect() }
    }

    /// Takes a reply to a request for `asked` bytes; says how many of them all contexts cover now.
    pub(super) fn add(&mut self, reply: &[(ContextId, Vec<WireExtent>)], asked: u64) -> Result<u64> {
        let mut covered = asked;
        for (context, _) in &self.contexts {
            let extents = find(reply, *context)?;
            let described: u64 = extents.iter().map(|extent| u64::from(extent.length)).sum();
            covered = covered.min(described);
        }
        for (context, list) in &mut self.contexts {
            let mut room = covered;
            for extent in find(reply, *context)? {
                let length = u64::from(extent.length).min(room);
                push(list, length, extent.flags);
                room -= length;
            }
            if list.len() > MAX_EXTENTS {
                let context = format!("the server describes more than {MAX_EXTENTS} extents");
                return Err(Error::new(ErrorKind::Protocol, context));
            }
        }
        Ok(covered)
    }

    pub(super) fn into_list(self, context: ContextId) -> Option<Vec<StatusExtent>> {
        self.contexts.into_iter().find(|(known, _)| *known == context).map(|(_, list)| list)
    }
}

fn find(reply: &[(ContextId, Vec<WireExtent>)], context: ContextId) -> Result<&[WireExtent]> {
    let found = reply.iter().find(|(known, _)| *known == context);
    found
        .map(|(_, extents)| extents.as_slice())
        .ok_or_else(|| Error::new(ErrorKind::Protocol, "a block status lacks one of the negotiated contexts"))
}

fn push(list: &mut Vec<StatusExtent>, length: u64, flags: u32) {
    match list.last_mut() {
        _ if length == 0 => {}
        Some(last) if last.flags == flags => last.length.0 += length,
        _ => list.push(StatusExtent { length: ByteLen(length), flags }),
    }
}

/// The extents that `base:allocation` does not call zero, as ranges of the disk. A hole that is not known to read
/// as zeroes may hold anything, so it counts as data.
pub(super) fn data_ranges(
    start: GuestOffset,
    status: &[StatusExtent],
    capacity: ByteLen,
) -> Result<ExtentList> {
    let mut offset = start;
    let mut ranges = Vec::new();
    for extent in status {
        if extent.flags & STATE_ZERO == 0 {
            ranges.push(Extent { offset, length: extent.length });
        }
        offset.0 += extent.length.0;
    }
    ExtentList::checked(ranges, capacity).map_err(|source| {
        Error::caused(ErrorKind::Protocol, "the server's allocation map is not of this disk", source)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: ContextId = ContextId(1);
    const B: ContextId = ContextId(9);

    fn wire(extents: &[(u32, u32)]) -> Vec<WireExtent> {
        extents.iter().map(|&(length, flags)| WireExtent { length, flags }).collect()
    }

    fn pairs(list: &[StatusExtent]) -> Vec<(u64, u32)> {
        list.iter().map(|extent| (extent.length.0, extent.flags)).collect()
    }

    #[test]
    fn the_shortest_context_counts_and_the_rest_is_clipped() {
        let mut map = StatusMap::new([A, B].into_iter());
        let reply = [(B, wire(&[(100, 1), (50, 0)])), (A, wire(&[(4096, 3)]))];
        assert_eq!(map.add(&reply, 200).unwrap(), 150);
        let reply = [(A, wire(&[(10, 3), (400, 0)])), (B, wire(&[(50, 0)]))];
        assert_eq!(map.add(&reply, 50).unwrap(), 50);
        assert_eq!(pairs(&map.contexts[0].1), [(160, 3), (40, 0)]);
        assert_eq!(pairs(&map.into_list(B).unwrap()), [(100, 1), (100, 0)]);
    }

    #[test]
    fn a_reply_without_a_context_is_refused() {
        let mut map = StatusMap::new([A, B].into_iter());
        let error = map.add(&[(A, wire(&[(10, 0)]))], 10).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Protocol);
    }

    #[test]
    fn only_zeroes_are_left_out() {
        let status = [(10, 0), (10, 3), (10, 1), (10, 2)]
            .map(|(length, flags)| StatusExtent { length: ByteLen(length), flags });
        let ranges = data_ranges(GuestOffset(100), &status, ByteLen(140)).unwrap();
        let ranges: Vec<_> = ranges.iter().map(|range| (range.offset.0, range.length.0)).collect();
        assert_eq!(ranges, [(100, 10), (120, 10)]);
    }
}
