//! Carries out what Tidemark is for: jobs that back machines up, restore them and keep the repositories true.
//!
//! Here the mechanisms meet that do not know each other: NBD, QCOW2, the plugin runtime and the catalog. A backup
//! begins in [`Engine::submit_backup`], is claimed in `queue`, and runs through `backup` from top to bottom; its
//! bytes go through `source` ▶ `mover` ▶ `store`; what fails or dies is undone by `recovery`.

mod backup;
mod chain;
mod check;
mod clock;
mod connections;
mod copy;
mod delete;
mod digest;
mod engine;
mod error;
mod export;
mod flatten;
mod flows;
mod image_file;
mod import;
mod inventory;
mod layout;
mod manifest;
mod merge;
mod mounts;
mod mover;
mod plugins;
mod policies;
mod queue;
mod ranges;
mod raw;
mod recovery;
mod requests;
mod restore;
mod retention;
mod secrets;
mod slots;
mod source;
mod space;
mod step;
mod store;
mod synthesize;
mod throttle;
mod tokens;
mod verify;
mod vms;

pub use clock::Clock;
pub use copy::{Changed, CopyOptions, CopyReport, copy_disk};
pub use engine::{AtMaxDepth, Engine, EngineOptions, Limits};
pub use error::{Error, ErrorKind, Result};
pub use export::{Export, ExportStream};
pub use flatten::{FlattenOptions, FlattenReport, flatten_chain};
pub use flows::{
    BackupRule, CopyRule, FlowChange, FlowDefinition, FlowStatus, HookRule, Hooks, NewFlow, NotifyRule,
    OnFailure, Preview, PreviewVm, RetentionLevel, RetentionRule, ScheduleRule, SelectRule, UnprotectedVm,
    VerifyRule,
};
pub use merge::{MergeChainOptions, MergeChainReport, merge_chain};
pub use mounts::{
    ArchiveFormat, Download, FileEntry, FileStream, FoundStream, Listing, MountView, PartitionView,
};
pub use plugins::{NewPlugin, PluginOptions, Trust, TrustError};
pub use policies::{PolicyPut, PutPolicy};
pub use requests::{
    BackupRequest, BackupView, Bounds, ConnectionChange, Event, ImageFormat, NewConnection, RestoreRequest,
    SubmittedBackup,
};
pub use retention::{Backtest, BacktestVm};
pub use secrets::KEY_VARIABLE;
pub use space::RepositorySpace;
pub use store::FileSystemSpace;
pub use tidemark_notify::{Address, Login, MailSettings, Secret, Security};
pub use tidemark_plugins::{
    CompileLimits, Compiler, Finding, NodeKind, NodeStat, Product, Severity, VirtualDisk, VirtualMachine,
};
pub use tidemark_policy::{Diagnostic, Severity as DiagnosticSeverity};
pub use tokens::ADMIN_TOKEN_FILE;
pub use verify::{VerifyChainOptions, VerifyChainReport, verify_chain};
pub use vms::TestedConnector;
