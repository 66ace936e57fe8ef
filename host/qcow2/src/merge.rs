//! Merging: one image out of several stacked layers, without decoding what is stored. The layers are read, never
//! changed; the result comes out as pieces in file order, the header last, so that whoever writes the file decides how.
//!
//! ```text
//! layers, top first          walk, top wins                     pieces ─▶ file ─▶ finish ─▶ header over cluster 0
//!  ┌ overlay 3 ┐             ┌ nothing here: below shows        Packed: data and tables as they come
//!  ├ overlay 2 ┤ ─▶ each ──▶ ├ zero: a mark, or nothing         Shared: blank │ host clusters of the layers │ tables
//!  └ overlay 1 ┘   cluster   ├ plain, frame: copied
//!    (below: backing file)   └ cut or foreign: rebuilt, plain
//! ```
//! *Rebuilt* are the few clusters that cannot be taken as they are: one that a layer's end cuts in two, one compressed
//! with zlib, one of another size than 64 KiB. They are read through the chain and stored plain.
//!
//! Memory: L1 and one L2 table (64 KiB) of each layer, a table cache of 4 MiB, and a window of at most 16 MiB, whatever
//! the disk's size. `Shared` also keeps a bit for each host cluster of the layers and two bytes for each one that holds
//! compressed data, in pages of 64 MiB of the file: 2 MiB for a TiB of plain data, at most 34 MiB for a TiB of frames.

mod hosts;
mod packed;
mod plan;
mod rebuild;
mod shared;

use std::fmt;

use bytes::Bytes;
use tidemark_model::{ByteLen, GuestOffset, HostOffset};

use crate::encode::Compression;
use crate::error::{Error, Result};
use crate::format::{CLUSTER_BITS, CLUSTER_SIZE, L2_SPAN, OFFSET_MASK};
use crate::header::BackingFile;
use crate::image::Image;
use crate::writer::{FinishedImage, ImageSpec};

use packed::Packed;
use rebuild::Rebuilder;
use shared::Shared;

/// How the result's file is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MergeLayout {
    /// As the [`ImageWriter`](crate::ImageWriter) lays out any image: the smallest file, every byte of it new.
    Packed,
    /// Whole host clusters of the layers in long runs, then new tables: for file systems where a copy of a range can
    /// share its extents. What overwritten frames left behind in a host cluster that is still needed stays in it.
    Shared,
}

/// A part of the result's file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// These bytes.
    Bytes(Bytes),
    /// A run of a layer's file as it is: whole 64 KiB clusters on the cluster grid of both files, inside the layer's
    /// file, at most 256 MiB. Only in [`MergeLayout::Shared`].
    Copy {
        /// 0 is the top.
        layer: usize,
        /// Where the run begins in the layer's file.
        host: HostOffset,
        /// How long it is.
        length: ByteLen,
    },
}

/// What a guest cluster that holds data became.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MergedCluster {
    /// Stored as it is.
    Plain {
        /// Where it is on the disk.
        guest: GuestOffset,
        /// The layer it came from, 0 is the top. For a cluster that was rebuilt: the topmost that it has bytes of.
        layer: usize,
        /// Where its 64 KiB lie in the result's file.
        host: HostOffset,
    },
    /// The same frame as in the layer.
    Compressed {
        /// Where it is on the disk.
        guest: GuestOffset,
        /// The layer it came from, 0 is the top.
        layer: usize,
    },
}

/// How large the result can become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MergeEstimate {
    /// The file's size.
    pub total: ByteLen,
    /// What of it is not a copied run: the new space where copying shares extents.
    pub fresh: ByteLen,
}

/// Makes one image of several. Call [`next`](Self::next) until it answers `None`, then [`finish`](Self::finish).
pub struct Merger {
    work: Work,
    layers: Vec<Image>,
    backing: bool,
}

enum Work {
    Packed(Box<Packed>),
    Shared(Box<Shared>),
}

impl Merger {
    /// Merges `layers`, the top first, all of them. `backing` is what remains below the last of them; none makes the
    /// result an image that stands alone. The result's disk has the size of the top. Nothing is read yet.
    ///
    /// # Errors
    /// `Invalid` for no layers, for one but the last without a backing file, when the last has one and `backing` is
    /// none or the other way round, and for a backing name that is more than a plain file name.
    pub fn new(layers: Vec<Image>, backing: Option<BackingFile>, layout: MergeLayout) -> Result<Self> {
        Self::over(layers, Vec::new(), backing, layout)
    }

    /// Like [`Merger::new`], knowing the images that remain below, the top first. They are read only for a cluster that
    /// the merged layers have no or half an answer for: where a layer ends inside a cluster, or has clusters smaller
    /// than 64 KiB. Without them such a merge fails as `Unsupported`.
    ///
    /// # Errors
    /// As for [`Merger::new`]; `Invalid` when images remain below and `backing` is none.
    pub fn over(
        layers: Vec<Image>,
        below: Vec<Image>,
        backing: Option<BackingFile>,
        layout: MergeLayout,
    ) -> Result<Self> {
        let Some((top, last)) = layers.first().zip(layers.last()) else {
            return Err(Error::invalid("a merge of no images"));
        };
        if let Some(index) =
            layers[..layers.len() - 1].iter().position(|image| image.backing_name().is_none())
        {
            return Err(Error::invalid(format!("layer {index} has no backing file but is not the last")));
        }
        if last.backing_name().is_some() != backing.is_some() || (backing.is_none() && !below.is_empty()) {
            return Err(Error::invalid(format!(
                "the last layer's backing file is {:?}, the result's is {:?}",
                last.backing_name(),
                backing.map(|backing| backing.name)
            )));
        }
        let has_backing = backing.is_some();
        // Any level will do: frames are taken as they are.
        let compression = Compression::Zstd { level: 1 };
        let spec = ImageSpec { virtual_size: top.virtual_size(), compression, backing };
        let rebuilder = Rebuilder::new(&layers, below, has_backing);
        let work = match layout {
            MergeLayout::Packed => Work::Packed(Box::new(Packed::new(&layers, rebuilder, spec)?)),
            MergeLayout::Shared => Work::Shared(Box::new(Shared::new(&layers, rebuilder, spec)?)),
        };
        Ok(Self { work, layers, backing: has_backing })
    }

    /// The next pieces of the file, in order, at most 16 MiB of bytes; none when only the end is missing. The first
    /// ones begin with the blank cluster 0. Now and then there are no pieces although the work goes on.
    ///
    /// # Errors
    /// `Corrupt` and `Io` from a layer, which is named with the offset; `Unsupported` where images below would be
    /// needed. After an error the merge is of no further use.
    #[expect(
        clippy::should_implement_trait,
        reason = "it fails, and what it yields is no item of a sequence"
    )]
    pub fn next(&mut self) -> Result<Option<Vec<Piece>>> {
        match &mut self.work {
            Work::Packed(packed) => packed.next(),
            Work::Shared(shared) => shared.next(),
        }
    }

    /// What the guest clusters with data became that were decided since the last call, by ascending guest offset.
    /// Their bytes were handed out before, or come with the very pieces that were just handed out, or (`Packed` only)
    /// a little later. Take them after each [`next`](Self::next) and after [`finish`](Self::finish) there are none.
    pub fn take_mapped(&mut self) -> Vec<MergedCluster> {
        match &mut self.work {
            Work::Packed(packed) => packed.take_mapped(),
            Work::Shared(shared) => shared.take_mapped(),
        }
    }

    /// Guest bytes below this offset are dealt with, for showing progress. `Shared` goes through the disk twice.
    #[must_use]
    pub fn position(&self) -> GuestOffset {
        match &self.work {
            Work::Packed(packed) => packed.position(),
            Work::Shared(shared) => shared.position(),
        }
    }

    /// A bound for the result's size, from sizes and L1 tables alone: nothing is read. Clusters compressed with zlib,
    /// which no backup has, are not foreseen.
    #[must_use]
    pub fn estimate(&self) -> MergeEstimate {
        let virtual_size = self.layers[0].virtual_size().0;
        let guest = virtual_size.next_multiple_of(CLUSTER_SIZE);
        let files = self.layers.iter().map(|image| image.file_size().0.next_multiple_of(CLUSTER_SIZE)).sum();
        // What is rebuilt is stored plain, so that the files' sizes bound nothing.
        let foreign = self.layers.iter().any(|image| image.header().cluster_bits != CLUSTER_BITS);
        let data = if foreign { guest } else { guest.min(files) };
        let tables = self.table_bytes(virtual_size) + self.layers.len() as u64 * CLUSTER_SIZE;
        let shared = matches!(self.work, Work::Shared(_));
        // Whole host clusters are copied for the sake of any byte in them.
        let total = tables + if shared { if foreign { guest + files } else { files } } else { data };
        let total = total + total / 32768 + 4 * CLUSTER_SIZE;
        let fresh = if shared && !foreign { tables + total / 32768 + 4 * CLUSTER_SIZE } else { total };
        MergeEstimate { total: ByteLen(total), fresh: ByteLen(fresh) }
    }

    /// Ends the image: what remains to be appended, and the header.
    ///
    /// # Errors
    /// `Invalid` before [`next`](Self::next) answered `None`.
    pub fn finish(self) -> Result<FinishedImage> {
        match self.work {
            Work::Packed(packed) => packed.finish(),
            Work::Shared(shared) => shared.finish(),
        }
    }

    /// L2 tables that the result may need, and L1.
    fn table_bytes(&self, virtual_size: u64) -> u64 {
        let shortest = self.layers.iter().map(|image| image.virtual_size().0).min().unwrap_or(0);
        let all = self.layers.iter().any(|image| image.header().cluster_bits != CLUSTER_BITS);
        let spans = virtual_size.div_ceil(L2_SPAN);
        let used = (0..spans).filter(|&span| {
            all || (self.backing && (span + 1) * L2_SPAN > shortest)
                || self.layers.iter().any(|image| {
                    usize::try_from(span)
                        .ok()
                        .and_then(|span| image.l1().get(span))
                        .is_some_and(|entry| entry & OFFSET_MASK != 0)
                })
        });
        used.count() as u64 * CLUSTER_SIZE + (spans.max(1) * 8).next_multiple_of(CLUSTER_SIZE)
    }
}

impl fmt::Debug for Merger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let layout = match self.work {
            Work::Packed(_) => MergeLayout::Packed,
            Work::Shared(_) => MergeLayout::Shared,
        };
        f.debug_struct("Merger")
            .field("layers", &self.layers)
            .field("layout", &layout)
            .finish_non_exhaustive()
    }
}
