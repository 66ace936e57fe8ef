//! The vocabulary of Tidemark: identifiers, address spaces, extents, virtual machines, backups and job states.
//!
//! Nothing here performs I/O, knows a wire format or a database. Every other crate speaks in these types and
//! converts its own wire structs and rows to them explicitly.

mod backup;
mod extent;
mod id;
mod job;
mod policy;
mod time;
mod vm;

pub use backup::{
    BackupStatus, BackupType, ChangeId, FullReason, ParseBackupTypeError, ParseLevelError, ParseStatusError,
    RequestedType, VerifyLevel,
};
pub use extent::{ByteLen, Extent, ExtentError, ExtentList, GuestOffset, HostOffset};
pub use id::{
    BackupId, ConnectorId, DiskId, FlowId, IdParseError, JobId, MountId, RepositoryId, TokenId, VmId,
};
pub use job::{JobDenied, JobEvent, JobKind, JobState, ParseJobError};
pub use policy::{
    Candidate, CandidateDisk, History, KeepVerdict, ParsePolicyKindError, PlanDecision, PlanType,
    PolicyContext, PolicyKind, Ranks, RetentionPoint, Selection,
};
pub use time::UtcMillis;
pub use vm::{DiskKey, slug};
