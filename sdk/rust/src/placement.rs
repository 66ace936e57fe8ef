//! The optional interface `placement` of file-system readers, since contract 0.3.0: where the bytes of a file lie, so that the
//! host reads them by itself.
//!
//! A reader whose volumes have it implements [`Placement`] for them and says so in the macro:
//! `export_guest_filesystem!(Mine, placement)`.

use crate::Result;
use crate::guest_filesystem::GuestVolume;

pub use crate::guest_filesystem::bindings::exports::tidemark::plugin0_3_0::placement::Run;

/// Runs that are told at once.
pub const MOST_RUNS: usize = 10_000;

/// A volume whose files lie on the disk as they are, at least some of them.
pub trait Placement: GuestVolume {
    /// The runs of a regular file from an offset on, without a gap and not necessarily all; none where its bytes are to be had
    /// from `read` only.
    ///
    /// # Errors
    /// Those of the contract, described in the WIT.
    fn runs(&self, node: u64, offset: u64) -> Result<Option<Vec<Run>>>;
}
