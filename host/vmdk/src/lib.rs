//! The VMDK format in its streamOptimized form: a streaming writer.
//!
//! No I/O: encoded grains go in by ascending guest offset, the file's bytes come out in order, nothing is ever
//! written twice. Source of all rules: VMware, "Virtual Disk Format 5.0" (technical note), cited by section.
//!
//! ```text
//! bytes ─▶ GrainEncoder (any thread) ─▶ StreamWriter ─▶ the file's bytes in order
//! ```

mod descriptor;
mod error;
mod format;
mod grain;
mod writer;

pub use error::{Error, ErrorKind, Result};
pub use format::GRAIN_SIZE;
pub use grain::{EncodedGrain, GrainEncoder};
pub use writer::{DiskSpec, StreamWriter};
