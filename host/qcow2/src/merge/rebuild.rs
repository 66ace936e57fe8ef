//! Clusters that cannot be copied: read through the chain and stored plain.

use bytes::Bytes;
use tidemark_model::GuestOffset;

use crate::chain::Chain;
use crate::encode::is_zero;
use crate::error::{Error, Result};
use crate::format::{CLUSTER_BYTES, CLUSTER_SIZE};
use crate::image::{Image, in_memory};

const TABLE_CACHE_BYTES: usize = 1 << 20;

/// Reads what the merged layers and those below show.
pub(super) struct Rebuilder {
    chain: Chain,
    /// Where the disk below ends, as far as that is known.
    below_size: Option<u64>,
}

impl Rebuilder {
    /// Over the merged layers and, when they are known, those below.
    pub(super) fn new(layers: &[Image], below: Vec<Image>, has_backing: bool) -> Self {
        let below_size = match below.first() {
            Some(first) => Some(first.virtual_size().0),
            None if has_backing => None,
            None => Some(0),
        };
        let stack = layers.iter().cloned().chain(below).collect();
        Self { chain: Chain::stacked(stack, TABLE_CACHE_BYTES), below_size }
    }

    pub(super) fn below_size(&self) -> Option<u64> {
        self.below_size
    }

    /// The cluster's bytes, padded with zeros at the disk's end; none when it is all zero.
    pub(super) fn cluster(&self, index: u64, below: bool) -> Result<Option<Bytes>> {
        let guest = index * CLUSTER_SIZE;
        if below && self.below_size.is_none() {
            return Err(Error::unsupported(format!(
                "the cluster at guest offset {guest} is partly in an image below the merged ones, which is not known"
            )));
        }
        let mut bytes = vec![0; CLUSTER_BYTES];
        let present = in_memory(self.chain.virtual_size().0 - guest).min(CLUSTER_BYTES);
        self.chain.read_at(GuestOffset(guest), &mut bytes[..present])?;
        Ok((!is_zero(&bytes)).then(|| Bytes::from(bytes)))
    }
}
