//! Run lists ("mapping pairs"): pairs of a length and a distance, each with as few bytes as it needs.

use tidemark_plugin::disk::Run;
use tidemark_plugin::fields::{byte, slice};
use tidemark_plugin::{Error, Result};

use crate::attribute::Extent;

/// More runs than this do not fit into the sandbox's memory with what else is needed.
const MAX_RUNS: usize = 500_000;

/// Adds the runs of one piece of a value.
pub(crate) fn decode(extent: &Extent<'_>, cluster_bytes: u64, runs: &mut Vec<Run>) -> Result<()> {
    let (mut at, mut cluster, mut place) = (0, extent.first, 0_i64);
    loop {
        let header = byte(extent.pairs, at).unwrap_or(0);
        if header == 0 {
            break;
        }
        let (length_bytes, place_bytes) = (usize::from(header & 0xf), usize::from(header >> 4));
        let length = signed(slice(extent.pairs, at + 1, length_bytes)?)?;
        let distance = slice(extent.pairs, at + 1 + length_bytes, place_bytes)?;
        at += 1 + length_bytes + place_bytes;
        let length = u64::try_from(length).ok().filter(|length| *length > 0).ok_or_else(wrong)?;
        let start = cluster;
        cluster = cluster.checked_add(length).filter(|end| *end <= extent.end).ok_or_else(wrong)?;
        // No distance is a hole.
        let lies_at = if place_bytes == 0 {
            None
        } else {
            place = place.checked_add(signed(distance)?).ok_or_else(wrong)?;
            Some(u64::try_from(place).map_err(|_| wrong())?)
        };
        if runs.len() >= MAX_RUNS {
            return Err(Error::unsupported(format!("a file in more than {MAX_RUNS} pieces")));
        }
        let bytes = |clusters: u64| clusters.checked_mul(cluster_bytes).ok_or_else(wrong);
        runs.push(Run { start: bytes(start)?, length: bytes(length)?, at: lies_at.map(bytes).transpose()? });
    }
    if cluster == extent.end { Ok(()) } else { Err(wrong()) }
}

/// A number of one to eight bytes with its sign.
fn signed(bytes: &[u8]) -> Result<i64> {
    if bytes.is_empty() || bytes.len() > 8 {
        return Err(wrong());
    }
    let negative = bytes.last().is_some_and(|last| last & 0x80 != 0);
    let mut full = [if negative { 0xff } else { 0 }; 8];
    for (to, from) in full.iter_mut().zip(bytes) {
        *to = *from;
    }
    Ok(i64::from_le_bytes(full))
}

fn wrong() -> Error {
    Error::corrupt("a run list is impossible")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(pairs: &[u8], first: u64, end: u64) -> Result<Vec<Run>> {
        let mut runs = Vec::new();
        decode(&Extent { first, end, size: 0, initialized: 0, unit: 0, pairs }, 10, &mut runs)?;
        Ok(runs)
    }

    #[test]
    fn lengths_and_distances_add_up() {
        // 24 clusters at 13, 8 in a hole, 4 at 13 - 3.
        let runs = decoded(&[0x11, 24, 13, 0x01, 8, 0x11, 4, 0xfd, 0], 2, 38).unwrap();
        let expected = [(20, 240, Some(130)), (260, 80, None), (340, 40, Some(100))];
        assert_eq!(runs, expected.map(|(start, length, at)| Run { start, length, at }));
    }

    #[test]
    fn what_does_not_fit_is_damage() {
        for (pairs, end) in [
            (&[0x11, 24, 13, 0][..], 23), // too long
            (&[0x11, 24, 13, 0], 25),     // too short
            (&[0x11, 24, 0xf0, 0], 24),   // before the beginning
            (&[0x11, 0x80, 1, 0], 24),    // a negative length
            (&[0x11, 24], 24),            // cut off
            (&[0x9f, 24], 24),            // numbers of impossible sizes
            (&[0x10, 24, 0], 24),         // no length
        ] {
            assert!(decoded(pairs, 0, end).is_err(), "{pairs:?}");
        }
    }
}
