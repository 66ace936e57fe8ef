//! What one image itself stores, cluster by cluster, without what shows through from below. For those who check or
//! copy images as they are stored; who wants the disk reads a [`Chain`](crate::Chain).

use std::sync::Arc;

use tidemark_model::{ByteLen, Extent, GuestOffset, HostOffset};

use crate::decode::Decoder;
use crate::error::{Error, Result};
use crate::image::{Image, Stored, in_memory};

/// One guest cluster that an image stores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredCluster {
    /// Where the guest sees it.
    pub guest: GuestOffset,
    /// How it is stored.
    pub kind: StoredKind,
}

/// How a cluster is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoredKind {
    /// As a mark that it reads as zero.
    Zero,
    /// As it is.
    Plain {
        /// Where it begins in the file.
        host: HostOffset,
    },
    /// Compressed.
    Compressed {
        /// Where its bytes begin in the file.
        host: HostOffset,
        /// Up to the end of its last sector, or of the file.
        length: ByteLen,
    },
}

/// See [`Image::stored_clusters`].
#[derive(Debug)]
pub struct StoredClusters<'a> {
    image: &'a Image,
    at: u64,
    end: u64,
    /// The L2 table in use, by its host offset.
    table: Option<(u64, Arc<[u64]>)>,
}

impl Image {
    /// The clusters of a guest range that this image stores, by ascending guest offset. After an error it goes on
    /// behind what could not be read, so that one damaged table does not hide the rest.
    ///
    /// # Errors
    /// Each item may be `Corrupt` or `Io` from the tables.
    #[must_use]
    pub fn stored_clusters(&self, extent: Extent) -> StoredClusters<'_> {
        let end = extent.offset.0.saturating_add(extent.length.0).min(self.virtual_size().0);
        let at = extent.offset.0 / self.header().cluster_size() * self.header().cluster_size();
        StoredClusters { image: self, at, end, table: None }
    }
}

impl StoredClusters<'_> {
    /// What is stored at the current position, which is inside an L2 table's range.
    fn look_up(&mut self, table_at: u64) -> Result<Stored> {
        if self.table.as_ref().is_none_or(|(known, _)| *known != table_at) {
            self.table = Some((table_at, self.image.read_l2(table_at)?));
        }
        let Some((_, table)) = &self.table else { return Ok(Stored::Nothing) };
        let cluster = self.image.header().cluster_size();
        self.image.stored(table, in_memory(self.at % self.image.l2_span() / cluster), 0)
    }
}

impl Iterator for StoredClusters<'_> {
    type Item = Result<StoredCluster>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.at < self.end {
            let table_at = match self.image.l2_offset(self.at) {
                Ok(Some(offset)) => offset,
                Ok(None) => {
                    self.at += self.image.run_without_l2(self.at, self.end - self.at);
                    continue;
                }
                Err(error) => {
                    self.at = self.end;
                    return Some(Err(error));
                }
            };
            let guest = GuestOffset(self.at);
            let found = self.look_up(table_at);
            let unread = found.is_err() && self.table.as_ref().is_none_or(|(known, _)| *known != table_at);
            let step = if unread { self.image.l2_span() } else { self.image.header().cluster_size() };
            self.at = (self.at / step + 1) * step;
            let kind = match found {
                Ok(Stored::Nothing) => continue,
                Ok(Stored::Zero) => StoredKind::Zero,
                Ok(Stored::Plain { host }) => StoredKind::Plain { host: HostOffset(host) },
                Ok(Stored::Compressed { host, length, .. }) => {
                    StoredKind::Compressed { host: HostOffset(host), length: ByteLen(length) }
                }
                Err(error) => return Some(Err(error.within(format_args!("at {guest}")))),
            };
            return Some(Ok(StoredCluster { guest, kind }));
        }
        None
    }
}

/// Decodes compressed clusters with contexts that are reused; one for each thread.
pub struct ClusterDecoder(Decoder);

impl ClusterDecoder {
    /// Nothing is allocated before the first cluster.
    #[must_use]
    pub fn new() -> Self {
        Self(Decoder::new())
    }

    /// Fills `cluster`, which has the length of one of the image's clusters, from its stored bytes.
    ///
    /// # Errors
    /// `Invalid` for a buffer of another length, `Corrupt` where the bytes are no frame of one cluster.
    pub fn decode(&mut self, image: &Image, stored: &[u8], cluster: &mut [u8]) -> Result<()> {
        let header = image.header();
        if cluster.len() as u64 != header.cluster_size() {
            return Err(Error::invalid(format!("a cluster of {} bytes", cluster.len())));
        }
        self.0.decode(header.compression, stored, cluster)
    }
}

impl Default for ClusterDecoder {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for ClusterDecoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClusterDecoder").finish_non_exhaustive()
    }
}
