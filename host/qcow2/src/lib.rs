//! The QCOW2 format: a streaming writer, and a reader, checker and merger of chains.
//!
//! The writer performs no I/O: clusters go in by ascending guest offset, bytes come out in host order, the header
//! last. The reader reads through [`ReadAt`] from sources that the caller chose; a backing file's name inside an
//! image is compared, never opened. Source of all rules: qemu, `docs/interop/qcow2.txt`.
//!
//! ```text
//! bytes ─▶ ClusterEncoder (any thread) ─▶ ImageWriter ─▶ host bytes in order … header for offset 0
//! ReadAt ─▶ Image (header, tables) ─▶ Chain (map, read_at) │ check │ Merger ─▶ pieces of a new image
//! ```

mod append;
mod cache;
mod chain;
mod check;
mod contents;
mod decode;
mod encode;
mod error;
mod format;
mod header;
mod image;
mod merge;
mod read;
mod refcounts;
mod references;
mod source;
mod stream;
mod tables;
mod writer;

pub use chain::{Chain, Mapping, MappingKind};
pub use check::{CheckReport, check};
pub use contents::{ClusterDecoder, StoredCluster, StoredClusters, StoredKind};
pub use encode::{ClusterEncoder, Compression, EncodedCluster, is_zero};
pub use error::{Error, ErrorKind, Result};
pub use format::CLUSTER_SIZE;
pub use header::{BackingFile, CompressionType, Header};
pub use image::Image;
pub use merge::{MergeEstimate, MergeLayout, MergedCluster, Merger, Piece};
pub use source::ReadAt;
pub use stream::{Head, StreamLayout};
pub use writer::{FinishedImage, ImageSpec, ImageWriter};
