//! Which host clusters an image's tables refer to, and how often; finds overlaps as they are added. Memory grows
//! with the clusters that are referred to, never with what a file claims to be.

use std::collections::BTreeMap;

use crate::check::CheckReport;
use crate::error::{Error, Result};
use crate::image::in_memory;

/// Host clusters in one page of counts.
const PAGE: u64 = 1024;
/// At most 256 MiB of counts: a file of 8 TiB at 64 KiB clusters.
const MAX_PAGES: usize = 128 << 10;
/// Mark on a count: the cluster belongs to one owner.
const EXCLUSIVE: u16 = 1 << 15;

pub(crate) struct References {
    /// The file's size in whole clusters, in bytes.
    file_size: u64,
    cluster_size: u64,
    pages: BTreeMap<u64, Box<[u16]>>,
}

impl References {
    pub(crate) fn new(file_size: u64, cluster_size: u64) -> Self {
        Self { file_size, cluster_size, pages: BTreeMap::new() }
    }

    /// Takes whole clusters for one owner. Says whether they may be read: aligned, inside the file and not taken.
    pub(crate) fn exclusive(
        &mut self,
        offset: u64,
        length: u64,
        owner: &'static str,
        report: &mut CheckReport,
    ) -> Result<bool> {
        if length == 0 {
            return Ok(true);
        }
        if !offset.is_multiple_of(self.cluster_size) || !self.inside(offset, length) {
            report.corruption(|| format!("{owner} at host offset {offset} is unaligned or beyond the file"));
            return Ok(false);
        }
        let mut free = true;
        for number in offset / self.cluster_size..=(offset + length - 1) / self.cluster_size {
            let count = self.count(number)?;
            free &= *count == 0;
            *count = (*count & !EXCLUSIVE).saturating_add(1).min(EXCLUSIVE - 1) | EXCLUSIVE;
        }
        if !free {
            report.corruption(|| format!("{owner} at host offset {offset} overlaps something else"));
        }
        Ok(free)
    }

    /// Takes the clusters that compressed data touches; other compressed data may touch them too.
    pub(crate) fn shared(&mut self, offset: u64, length: u64, report: &mut CheckReport) -> Result<()> {
        if !self.inside(offset, length) {
            report.corruption(|| format!("compressed data at host offset {offset} lies beyond the file"));
            return Ok(());
        }
        let mut free = true;
        for number in offset / self.cluster_size..=(offset + length - 1) / self.cluster_size {
            let count = self.count(number)?;
            free &= *count & EXCLUSIVE == 0;
            *count = (*count & !EXCLUSIVE).saturating_add(1).min(EXCLUSIVE - 1) | *count & EXCLUSIVE;
        }
        if !free {
            report.corruption(|| format!("compressed data at host offset {offset} overlaps something else"));
        }
        Ok(())
    }

    /// How often a host cluster is referred to; it counts as dealt with from now on.
    pub(crate) fn take(&mut self, number: u64) -> u16 {
        let page = self.pages.get_mut(&(number / PAGE));
        page.map_or(0, |page| std::mem::take(&mut page[in_memory(number % PAGE)]) & !EXCLUSIVE)
    }

    /// Host clusters that are referred to and were not taken.
    pub(crate) fn remaining(&self) -> impl Iterator<Item = (u64, u16)> {
        let counts = self.pages.iter().flat_map(|(page, counts)| (page * PAGE..).zip(counts.iter()));
        counts.filter(|(_, count)| **count != 0).map(|(number, count)| (number, count & !EXCLUSIVE))
    }

    fn inside(&self, offset: u64, length: u64) -> bool {
        offset.checked_add(length).is_some_and(|end| end <= self.file_size)
    }

    fn count(&mut self, number: u64) -> Result<&mut u16> {
        let full = self.pages.len() >= MAX_PAGES;
        let page = match self.pages.entry(number / PAGE) {
            std::collections::btree_map::Entry::Occupied(page) => page.into_mut(),
            std::collections::btree_map::Entry::Vacant(_) if full => {
                return Err(Error::unsupported("a check of a file with this many clusters"));
            }
            std::collections::btree_map::Entry::Vacant(place) => {
                place.insert(vec![0; in_memory(PAGE)].into_boxed_slice())
            }
        };
        Ok(&mut page[in_memory(number % PAGE)])
    }
}
