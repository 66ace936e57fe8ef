//! Clusters: where they lie, and the table that says which one follows which. FAT and exFAT differ in the width of the
//! table's numbers alone.

use tidemark_plugin::disk::{CachedDisk, Run, Runs};
use tidemark_plugin::fields::{index, le16, le32};
use tidemark_plugin::{Error, Result};

/// The table is read so much at once: whole pairs of 12-bit numbers, which share a byte.
const WINDOW: u64 = 12 << 10;
/// The most pieces one file may lie in: they are held in memory.
const MAX_PIECES: usize = 500_000;

/// How wide the table's numbers are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Width {
    Fat12,
    Fat16,
    /// 28 bits of 32 count.
    Fat32,
    /// 32 bits count.
    Exfat,
}

/// The clusters of a volume. The first one has the number 2.
#[derive(Debug)]
pub(crate) struct Clusters {
    pub(crate) disk: CachedDisk,
    pub(crate) width: Width,
    /// Where the table begins, and its length.
    pub(crate) table_at: u64,
    pub(crate) table_bytes: u64,
    /// Where cluster 2 lies.
    pub(crate) heap_at: u64,
    pub(crate) cluster_bytes: u64,
    /// How many there are, all with a number in the table.
    pub(crate) count: u32,
}

/// Where a file or a folder lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// Nowhere: it is empty.
    Nothing,
    /// At a place outside of the clusters, so many bytes: the root of FAT12 and FAT16.
    Fixed(u64, u64),
    /// In a chain, by its first cluster and its bytes; none for a folder that is as long as its chain.
    Chain(u32, Option<u64>),
    /// In clusters one after another, whatever the table says.
    Together(u32, u64),
}

/// Clusters that follow each other: the first, and how many.
type Piece = (u32, u32);

/// A part of the table.
#[derive(Default)]
struct Window {
    start: Option<u64>,
    bytes: Vec<u8>,
}

impl Width {
    /// How many numbers a table of so many bytes has.
    pub(crate) fn numbers(self, bytes: u64) -> u64 {
        match self {
            Self::Fat12 => bytes.saturating_mul(2) / 3,
            Self::Fat16 => bytes / 2,
            Self::Fat32 | Self::Exfat => bytes / 4,
        }
    }

    /// The bytes of so many numbers.
    pub(crate) fn bytes(self, numbers: u64) -> u64 {
        match self {
            Self::Fat12 => numbers.saturating_mul(3).div_ceil(2),
            Self::Fat16 => numbers.saturating_mul(2),
            Self::Fat32 | Self::Exfat => numbers.saturating_mul(4),
        }
    }

    /// The mark of a bad cluster. Those above it are the end of a chain, those below are clusters.
    fn bad(self) -> u32 {
        match self {
            Self::Fat12 => 0xff7,
            Self::Fat16 => 0xfff7,
            Self::Fat32 => 0x0fff_fff7,
            Self::Exfat => 0xffff_fff7,
        }
    }
}

impl Place {
    /// What tells folders apart; none for what lies nowhere.
    pub(crate) fn beginning(self) -> Option<u32> {
        match self {
            Self::Nothing => None,
            Self::Fixed(..) => Some(0),
            Self::Chain(first, _) | Self::Together(first, _) => Some(first),
        }
    }
}

impl Clusters {
    /// The bytes of a file or a folder.
    ///
    /// # Errors
    /// Corrupt where the chain breaks off, leads out of the volume or in a circle; unsupported where it has too many pieces.
    pub(crate) fn runs(&self, place: Place) -> Result<Runs> {
        let pieces = match place {
            Place::Nothing => Vec::new(),
            Place::Fixed(at, length) => return Runs::new(vec![Run { start: 0, length, at: Some(at) }]),
            Place::Chain(first, bytes) => {
                let needed = bytes.map(|bytes| self.needed(bytes)).transpose()?;
                if needed == Some(0) { Vec::new() } else { self.chain(first, needed)? }
            }
            Place::Together(first, bytes) => {
                let count = self.needed(bytes)?;
                if count > 0 {
                    self.at(first.checked_add(count - 1).ok_or_else(|| outside(first))?)?;
                }
                vec![(first, count)]
            }
        };
        let mut start = 0;
        let mut runs = Vec::with_capacity(pieces.len());
        for (first, count) in pieces {
            let length = u64::from(count) * self.cluster_bytes;
            runs.push(Run { start, length, at: Some(self.at(first)?) });
            start += length;
        }
        Runs::new(runs)
    }

    /// Where a cluster lies.
    pub(crate) fn at(&self, cluster: u32) -> Result<u64> {
        let number = cluster.checked_sub(2).filter(|number| *number < self.count);
        let number = number.ok_or_else(|| outside(cluster))?;
        Ok(self.heap_at + u64::from(number) * self.cluster_bytes)
    }

    /// The cluster in which a place of the disk lies.
    pub(crate) fn holding(&self, at: u64) -> Result<u32> {
        let number = at.checked_sub(self.heap_at).map(|within| within / self.cluster_bytes);
        let number =
            number.and_then(|number| u32::try_from(number).ok()).filter(|number| *number < self.count);
        number.map(|number| number + 2).ok_or_else(|| Error::not_found(format!("no cluster lies at {at}")))
    }

    /// The cluster after one, by the table; none after the last of a chain.
    pub(crate) fn after(&self, cluster: u32) -> Result<Option<u32>> {
        self.next(cluster, &mut Window::default())
    }

    /// The number of the table for a cluster or, below 2, a mark of the volume.
    pub(crate) fn mark(&self, number: u32) -> Result<u32> {
        self.number(number, &mut Window::default())
    }

    /// The clusters that so many bytes need.
    fn needed(&self, bytes: u64) -> Result<u32> {
        let needed =
            u32::try_from(bytes.div_ceil(self.cluster_bytes)).ok().filter(|needed| *needed <= self.count);
        needed.ok_or_else(|| Error::corrupt(format!("{bytes} bytes of a file are more than the volume has")))
    }

    /// A chain of `needed` clusters; of as many as there are where that is not known.
    fn chain(&self, first: u32, needed: Option<u32>) -> Result<Vec<Piece>> {
        let mut pieces: Vec<Piece> = Vec::new();
        let mut window = Window::default();
        let (mut cluster, mut seen) = (first, 0_u32);
        loop {
            self.at(cluster)?;
            match pieces.last_mut() {
                Some((start, count)) if *start + *count == cluster => *count += 1,
                _ => pieces.push((cluster, 1)),
            }
            seen += 1;
            if pieces.len() > MAX_PIECES || seen > self.count {
                without_circles(&pieces)?;
                let words = format!("a file that lies in more than {MAX_PIECES} pieces is not read");
                return Err(Error::unsupported(words));
            }
            // Asked for after the last one, too: a chain that ends in a free cluster is broken.
            match self.next(cluster, &mut window)? {
                Some(next) if needed != Some(seen) => cluster = next,
                None if needed.is_some_and(|needed| needed > seen) => {
                    let needed = needed.unwrap_or_default();
                    let words = format!("a chain ends after {seen} clusters, and the file has {needed}");
                    return Err(Error::corrupt(words));
                }
                _ => break,
            }
        }
        without_circles(&pieces)?;
        Ok(pieces)
    }

    fn next(&self, cluster: u32, window: &mut Window) -> Result<Option<u32>> {
        let number = self.number(cluster, window)?;
        let bad = self.width.bad();
        let words = match number {
            0 => "a free one",
            _ if number == bad => "one marked as bad",
            _ => return Ok(Some(number).filter(|number| *number < bad)),
        };
        Err(Error::corrupt(format!("a chain leads from cluster {cluster} to {words}")))
    }

    fn number(&self, cluster: u32, window: &mut Window) -> Result<u32> {
        let cluster_number = u64::from(cluster);
        let at = match self.width {
            Width::Fat12 => cluster_number + cluster_number / 2,
            Width::Fat16 => cluster_number * 2,
            Width::Fat32 | Width::Exfat => cluster_number * 4,
        };
        let start = at / WINDOW * WINDOW;
        if window.start != Some(start) {
            window.bytes.resize(index(self.table_bytes.saturating_sub(start).min(WINDOW))?, 0);
            window.start = None;
            self.disk.read(self.table_at + start, &mut window.bytes)?;
            window.start = Some(start);
        }
        let (within, bytes) = (index(at - start)?, &window.bytes);
        Ok(match self.width {
            Width::Fat12 if cluster % 2 == 1 => u32::from(le16(bytes, within)?) >> 4,
            Width::Fat12 => u32::from(le16(bytes, within)?) & 0xfff,
            Width::Fat16 => u32::from(le16(bytes, within)?),
            Width::Fat32 => le32(bytes, within)? & 0x0fff_ffff,
            Width::Exfat => le32(bytes, within)?,
        })
    }
}

fn outside(cluster: u32) -> Error {
    Error::corrupt(format!("cluster {cluster} is none of the volume's"))
}

/// Corrupt where a cluster is in a chain twice.
fn without_circles(pieces: &[Piece]) -> Result<()> {
    let mut sorted = pieces.to_vec();
    sorted.sort_unstable();
    let circle = sorted.windows(2).any(|pair| matches!(pair, [(a, count), (b, _)] if a + count > *b));
    if circle { Err(Error::corrupt("a chain of clusters leads in a circle")) } else { Ok(()) }
}
