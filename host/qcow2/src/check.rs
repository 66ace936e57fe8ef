//! A quick check of one image's structure: refcounts equal references, nothing overlaps, no entry leads beyond the
//! file, no reserved bit is set. It reads tables only, never data, and knows nothing of the backing file.

use tidemark_model::HostOffset;

use crate::error::{Error, Result};
use crate::format::{COMPRESSED, COPIED, L2Entry, OFFSET_MASK, ZERO, parse_l2};
use crate::image::{Image, in_memory};
use crate::references::References;

/// Problems told in words; beyond them only the numbers grow.
const TOLD: usize = 64;
const L1_RESERVED: u64 = !(OFFSET_MASK | COPIED);

/// What a check found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// Places where the image contradicts itself; data may be lost.
    pub corruptions: u64,
    /// Host clusters that are counted but not used: wasted space, no harm.
    pub leaks: u64,
    /// The first problems in words.
    pub problems: Vec<String>,
    /// Guest clusters stored as they are.
    pub plain_clusters: u64,
    /// Guest clusters stored compressed.
    pub compressed_clusters: u64,
    /// Guest clusters marked as zero.
    pub zero_clusters: u64,
}

impl CheckReport {
    /// No corruption and no leak.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.corruptions == 0 && self.leaks == 0
    }

    pub(crate) fn corruption(&mut self, problem: impl FnOnce() -> String) {
        self.corruptions += 1;
        self.tell(problem);
    }

    pub(crate) fn leak(&mut self, problem: impl FnOnce() -> String) {
        self.leaks += 1;
        self.tell(problem);
    }

    fn tell(&mut self, problem: impl FnOnce() -> String) {
        if self.problems.len() < TOLD {
            self.problems.push(problem());
        }
    }
}

/// Checks one image's structure.
///
/// # Errors
/// `Unsupported` for images with internal snapshots or bitmaps (their tables are not followed) and for files too
/// large to count; `Io` when the source fails. Damage is no error: it is in the report.
pub fn check(image: &Image) -> Result<CheckReport> {
    let header = image.header();
    if header.snapshots != 0 || header.bitmaps {
        return Err(Error::unsupported("a check of an image with internal snapshots or bitmaps"));
    }
    let mut report = CheckReport::default();
    let mut references = References::new(image.padded_size(), header.cluster_size());
    let l1_bytes = u64::from(header.l1_entries) * 8;
    references.exclusive(0, header.cluster_size(), "the header", &mut report)?;
    references.exclusive(header.l1_offset.0, l1_bytes, "the L1 table", &mut report)?;
    for (index, &entry) in image.l1().iter().enumerate() {
        if entry & L1_RESERVED != 0 {
            report.corruption(|| format!("L1 entry {index} has reserved bits: {entry:#018x}"));
        }
        let offset = entry & OFFSET_MASK;
        if (entry & COPIED != 0) != (offset != 0) {
            report.corruption(|| format!("L1 entry {index} does not say rightly whether it owns a table"));
        }
        if offset == 0 {
            continue;
        }
        if references.exclusive(offset, header.cluster_size(), "an L2 table", &mut report)? {
            check_l2(image, offset, &mut references, &mut report)?;
        }
    }
    check_refcounts(image, &mut references, &mut report)?;
    Ok(report)
}

fn check_l2(image: &Image, offset: u64, references: &mut References, report: &mut CheckReport) -> Result<()> {
    let header = image.header();
    let table = match image.read_l2(offset) {
        Ok(table) => table,
        Err(error) => return damage_or_fail(error, report),
    };
    let zero_flag = if header.version >= 3 { ZERO } else { 0 };
    let reserved = !(OFFSET_MASK | COPIED | COMPRESSED | zero_flag);
    for (index, &entry) in table.iter().enumerate() {
        let place = || format!("entry {index} of the L2 table at host offset {offset}");
        let parsed = parse_l2(entry, header.cluster_bits, header.version);
        if let L2Entry::Compressed { host, length } = parsed {
            report.compressed_clusters += 1;
            if entry & COPIED != 0 {
                report.corruption(|| format!("{} is compressed and says that it owns its cluster", place()));
            }
            references.shared(host, length, report)?;
            continue;
        }
        if entry & reserved != 0 {
            report.corruption(|| format!("{} has reserved bits: {entry:#018x}", place()));
        }
        let host = match parsed {
            L2Entry::Zero { host } => {
                report.zero_clusters += 1;
                host
            }
            L2Entry::Plain { host } => {
                report.plain_clusters += 1;
                Some(host)
            }
            _ => None,
        };
        if (entry & COPIED != 0) != host.is_some() {
            report.corruption(|| format!("{} does not say rightly whether it owns a cluster", place()));
        }
        if let Some(host) = host {
            references.exclusive(host, header.cluster_size(), "a data cluster", report)?;
        }
    }
    Ok(())
}

/// Compares the counts in the file with the references found. The refcount structures are references themselves, so
/// all of them are taken in before anything is compared.
fn check_refcounts(image: &Image, references: &mut References, report: &mut CheckReport) -> Result<()> {
    let header = image.header();
    let cluster = header.cluster_size();
    let table_bytes = u64::from(header.refcount_table_clusters) * cluster;
    let at = header.refcount_table_offset.0;
    if !references.exclusive(at, table_bytes, "the refcount table", report)? {
        return Ok(());
    }
    let table = match image.read_words(at, table_bytes) {
        Ok(table) => table,
        Err(error) => return damage_or_fail(error, report),
    };
    let mut blocks = Vec::new();
    for (index, &entry) in table.iter().enumerate().filter(|(_, entry)| **entry != 0) {
        if references.exclusive(entry, cluster, "a refcount block", report)? {
            blocks.push((index as u64, entry));
        }
    }
    let per_block = (cluster * 8) >> header.refcount_order;
    let mut bytes = vec![0; in_memory(cluster)];
    for &(index, offset) in &blocks {
        if let Err(error) = image.read_host(offset, &mut bytes) {
            damage_or_fail(error, report)?;
            continue;
        }
        for slot in 0..per_block {
            let count = refcount(&bytes, in_memory(slot), header.refcount_order);
            let number = index * per_block + slot;
            let used = u64::from(references.take(number));
            let place = || format!("host cluster {number}: {used} references, refcount {count}");
            if count < used {
                report.corruption(place);
            } else if count > used {
                report.leak(place);
            }
        }
    }
    for (number, used) in references.remaining() {
        report.corruption(|| format!("host cluster {number}: {used} references, no refcount block"));
    }
    Ok(())
}

/// One count out of a block; the narrow ones are packed from the least significant bit on.
fn refcount(block: &[u8], index: usize, order: u32) -> u64 {
    if order >= 3 {
        let width = 1 << (order - 3);
        let bytes = block.get(index * width..(index + 1) * width).unwrap_or_default();
        return bytes.iter().fold(0, |count, &byte| count << 8 | u64::from(byte));
    }
    let width = 1 << order;
    let bit = index * width;
    let byte = block.get(bit / 8).copied().unwrap_or(0);
    u64::from(byte >> (bit % 8)) & ((1 << width) - 1)
}

/// Damage belongs in the report, a failing source does not.
fn damage_or_fail(error: Error, report: &mut CheckReport) -> Result<()> {
    if error.kind().is_retryable() {
        return Err(error);
    }
    report.corruption(|| error.to_string());
    Ok(())
}

impl Image {
    fn read_words(&self, offset: u64, length: u64) -> Result<Vec<u64>> {
        let mut bytes = vec![0; in_memory(length)];
        self.read_host(HostOffset(offset).0, &mut bytes)?;
        let (words, _) = bytes.as_chunks::<8>();
        Ok(words.iter().map(|word| u64::from_be_bytes(*word)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::refcount;

    #[test]
    fn refcounts_of_every_width() {
        let block = [0b1110_0100, 0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07];
        assert_eq!((refcount(&block, 2, 0), refcount(&block, 3, 0)), (1, 0));
        assert_eq!((refcount(&block, 1, 1), refcount(&block, 3, 1)), (1, 3));
        assert_eq!((refcount(&block, 0, 2), refcount(&block, 1, 2)), (4, 14));
        assert_eq!(refcount(&block, 1, 3), 1);
        assert_eq!(refcount(&block, 1, 4), 0x0203);
        assert_eq!(refcount(&block, 0, 6), 0xe401_0203_0405_0607);
    }
}
