//! The catalog: what is configured, what is protected, what was backed up, and which host does which job.
//!
//! The only SQL of Tidemark. SQLite is embedded by default; several hosts share one PostgreSQL. Each query is
//! written once for both. Times are passed in, never taken from the database's clock, so that one host's clock
//! rules a lease from its grant to its expiry.
//!
//! What it promises:
//! - a backup appears with all of its disks and change ids in one transaction, under a lease that still holds;
//! - an effect under a lost lease is refused ([`ErrorKind::LeaseLost`]);
//! - a chain never crosses from one VM or repository to another, and no backup that another one needs is removed;
//! - a merge changes all rows of a chain at once ([`Catalog::commit_chain_change`]), or none;
//! - a flow fires once for each of its times, with its job, whichever host was first ([`Catalog::fire`]);
//! - what a removed backup stored is remembered until its objects are deleted ([`Catalog::doomed_objects`]).
//!
//! It stores no bytes of disks, opens no repository and keeps no secret in the clear.

mod audit;
mod backup_changes;
mod backup_rows;
mod backups;
mod chain_changes;
mod connections;
mod database;
mod error;
mod flow_records;
mod flow_runs;
mod flows;
mod jobs;
mod leases;
mod pages;
mod plugins;
mod policies;
mod records;
mod retention;
mod statement;
mod steps;
mod tokens;
mod verifications;
mod vms;

pub use error::{Error, ErrorKind, Result};
pub use flow_records::{
    Firing, Flow, FlowMember, FlowRun, FlowRunVm, KeptBackup, NewFiring, NewPolicyVersion, ParseRunError,
    Policy, PolicyVersion, RetentionMark, RunCause, RunStatus, RunVmState, SeenVm, VmStanding,
};
pub use records::{
    AuditEntry, Backup, BackupDisk, BackupFilter, CancelRequested, ChainChange, Connector, DoomedObject,
    Grant, Job, JobFilter, JobOutcome, JobStep, Lease, NewJob, Page, PageRequest, ParseRoleError,
    PluginVersion, RangeDigests, Repository, Role, StatusChanges, Token, Verification, Vm, WorkKind,
};

/// A handle on the catalog; clones share its connections.
#[derive(Debug, Clone)]
pub struct Catalog {
    database: database::Database,
}

impl Catalog {
    /// Opens the catalog at `sqlite:///path/catalog.db` (created when missing) or `postgres://…` (an existing
    /// database; a unix socket by `?host=/folder`), and brings its schema to this version.
    ///
    /// # Errors
    /// `Invalid` for a URL of another form, `Unavailable` when it cannot be reached, `Corrupt` when it is no
    /// catalog or one that a newer version wrote.
    pub async fn open(url: &str) -> Result<Self> {
        Ok(Self { database: database::Database::open(url).await? })
    }

    /// Waits for what runs and closes all connections; later calls fail as `Unavailable`.
    pub async fn close(&self) {
        self.database.close().await;
    }

    /// Whether it was closed, as a host does at its end.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.database.is_closed()
    }
}
