//! The Wasm runtime of plugins: load, verify, grant, limit, and typed façades that believe no guest.
//!
//! ```text
//! bytes ─inspect─▶ Inspection        Runtime::load ─▶ Plugin ─▶ Runtime::connector(Session) ─▶ Connector
//! source ─build─▶ bytes                                        (a fresh store each)           StorageTarget, …
//! ```

mod audit;
mod bindings;
pub mod build;
mod cache;
mod check;
mod compile;
mod conduct;
pub mod conformance;
mod connector;
mod contract;
mod error;
mod filesystem;
mod grants;
mod guest;
mod http;
mod inspect;
mod limits;
mod manifest;
mod offered;
mod policy;
mod runtime;
mod secrets;
mod session;
mod state;
mod storage;
mod volumes;

pub use audit::{AuditEvent, AuditSink};
pub use check::{Checked, check_component, check_source};
pub use compile::{CompileLimits, Compiler, run_compiler};
pub use conduct::{ConductEvent, ConductSink};
pub use connector::{
    Connector, DiskLease, Finding, HttpSource, OwnSnapshot, PowerState, PreflightReport, Product, Severity,
    Since, Snapshot, SnapshotDisk, Transport, VddkSource, VirtualDisk, VirtualMachine,
};
pub use contract::{CONTRACT, CONTRACTS};
pub use error::{Error, ErrorKind};
pub use filesystem::{
    DirectoryEntry, EntryPage, GuestFilesystem, NamedStream, NodeAttributes, NodeKind, NodeStat, PlacedRun,
    VolumeId, VolumeInfo,
};
pub use grants::{Denied, Grant, Grants, ParseGrantError, Rights, Target, covers};
pub use http::{
    Conversation, Exchange, RangeReader, RecordedAnswer, RecordedPart, RecordedRequest, check_address,
};
pub use inspect::{Inspection, inspect};
pub use limits::Limits;
pub use manifest::{
    Capability, LanguageRuntime, MAX_COMPONENT_BYTES, Manifest, NAME_RULE, Network, PluginKind, SECTION,
    attach_manifest, digest, is_plugin_name, read_manifest,
};
pub use offered::disk::{DiskRead, ReadOnlyDisk};
pub use policy::Policy;
pub use runtime::{Plugin, Runtime, RuntimeOptions};
pub use secrets::Secrets;
pub use session::Session;
pub use storage::{
    ByteRange, FileAction, FileOperation, HttpOperation, MultipartLimits, Object, ObjectPage, Operation,
    Outcome, PartOutcome, PartRequest, StorageTarget, Upload, UploadStyle, Verdict,
};
pub use volumes::{FoundVolume, MappedExtent, VolumeReader};
