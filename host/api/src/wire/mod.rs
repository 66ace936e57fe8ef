//! The documents that travel over REST: what clients send and get, apart from the catalog's records and the
//! engine's types, which are converted here field by field.
//!
//! Clients ignore fields they do not know; fields are added, never renamed. Times are RFC 3339 in UTC, sizes are
//! bytes. The command line reads the same structs.

mod backups;
mod connections;
mod flows;
mod inventory;
mod jobs;
mod mounts;
mod operations;
mod plugins;
mod policies;

pub use backups::{
    BackupChain, BackupDetail, BackupDiskEntry, BackupList, BackupSummary, ChangeIdAnswer,
    RequestedBackupType, StartBackup, StartedBackup,
};
pub(crate) use connections::is_vcenter;
pub use connections::{
    AddConnection, AddCredentials, ConnectionEntry, ConnectorList, CredentialsEntry, CredentialsList,
    RepositoryDetail, RepositoryList, SpaceEntry, UpdateConnection,
};
pub use flows::{
    BulkFlows, BulkOutcome, ExecutionEntry, ExecutionList, ExecutionVm, FiringEntry, FiringList, FlowEntry,
    FlowList, FlowPreview, FlowStanding, FlowSummary, PreviewEntry, StartedExecution, UnprotectedEntry,
    UnprotectedList, UnprotectedQuery, WriteFlow,
};
pub use inventory::{
    AddVms, AddedVms, DiscoverVms, DiscoveredDisk, DiscoveredVm, Discovery, FindingEntry, ProductEntry,
    TestReport, VmEntry, VmList,
};
pub use jobs::{
    Accepted, CheckRepository, DeleteBackups, JobEntry, JobList, RestoreDisk, RestoreFormat, StartedDeletion,
    VerifyBackup, VerifyDepth,
};
pub use mounts::{
    FileEntry, FileList, FoundFiles, MountBackup, MountEntry, MountList, PartitionEntry, StreamEntry,
};
pub use operations::{
    AuditLine, AuditList, CreateToken, CreatedToken, EventEntry, Health, TokenEntry, TokenList, TokenRole,
};
pub use plugins::{
    ActivatePlugin, GrantEntry, GrantPlugin, InstallQuery, PluginEntry, PluginList, ReleasePlugin,
};
pub use policies::{
    AcceptedJobs, ActivatePolicy, ApproveMarks, ApprovedMarks, BacktestEntry, BacktestPoint, BacktestPolicy,
    BacktestReport, CopyBackups, MarkEntry, MarkList, PolicyEntry, PolicyFinding, PolicyList, PolicyQuery,
    PolicySort, PolicyVersionEntry, PolicyVersions, PruneRepository, WritePolicy,
};

use serde_json::Value;
use tidemark_model::UtcMillis;
use time::OffsetDateTime;
use time::macros::format_description;

/// A moment as clients read it: RFC 3339 in UTC with milliseconds.
#[must_use]
pub fn rfc3339(at: UtcMillis) -> String {
    let format = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");
    let nanos = i128::from(at.0) * 1_000_000;
    OffsetDateTime::from_unix_timestamp_nanos(nanos)
        .ok()
        .and_then(|moment| moment.format(&format).ok())
        .unwrap_or_else(|| format!("{} ms", at.0))
}

/// JSON text of a record as a value. Text that is no JSON is a damaged catalog; it is shown as it is.
pub(crate) fn json_value(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_in_utc_with_milliseconds() {
        assert_eq!(rfc3339(UtcMillis(0)), "1970-01-01T00:00:00.000Z");
        assert_eq!(rfc3339(UtcMillis(1_700_000_000_042)), "2023-11-14T22:13:20.042Z");
    }
}
