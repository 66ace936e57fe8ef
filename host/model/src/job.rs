//! The states of a job and the only moves between them.
//!
//! ```text
//!             claim                 succeed / fail
//!   queued ──────────▶ running ──────────────────────▶ succeeded │ failed
//!     │                 │   ▲
//!     │ cancel          │   │ expire: the lease ran out, another host may claim it
//!     ▼                 │   └───────────────── queued
//!  cancelled ◀── cancel ┘ (acknowledged by the runner once it has cleaned up)
//! ```

use std::fmt;
use std::str::FromStr;

/// What a job does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum JobKind {
    /// Backs a virtual machine up.
    Backup,
    /// Restores one disk to a file.
    RestoreDisk,
    /// Reads stored backups and compares them with what was recorded.
    Verify,
    /// Rebuilds the catalog from a repository's manifests.
    ImportRepository,
    /// Deletes backups and their objects, merging what newer ones need.
    DeleteBackup,
    /// Makes a full of an incremental by merging all it needs into it, without reading the guest.
    SynthesizeFull,
    /// Compares a repository with the catalog, both ways.
    CheckRepository,
    /// Copies backups of one VM to another repository.
    CopyBackup,
    /// Lets retention policies decide in one repository, and deletes what is due.
    Prune,
    /// Runs a protection flow: its backups are jobs of their own.
    RunFlow,
}

/// Where a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum JobState {
    /// Waits for a host.
    Queued,
    /// A host holds its lease.
    Running,
    /// Done.
    Succeeded,
    /// Ended by an error; what it had begun is undone.
    Failed,
    /// Ended on request; what it had begun is undone.
    Cancelled,
}

/// What can happen to a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobEvent {
    /// A host takes the lease.
    Claim,
    /// The work is done.
    Succeed,
    /// The work ended with an error.
    Fail,
    /// Its end was asked for and reached.
    Cancel,
    /// The lease ran out without a heartbeat.
    Expire,
}

/// Why an event was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum JobDenied {
    /// The job has ended; nothing happens to it any more.
    #[error("the job has already ended as {0}")]
    AlreadyEnded(JobState),
    /// Only a running job can end in success or failure, or expire.
    #[error("the job is not running")]
    NotRunning,
    /// Another host holds it.
    #[error("the job is already running")]
    AlreadyRunning,
}

impl JobState {
    /// The state after `event`.
    ///
    /// # Errors
    /// A [`JobDenied`] that names why the event does not fit.
    pub fn apply(self, event: JobEvent) -> Result<Self, JobDenied> {
        match (self, event) {
            (Self::Succeeded | Self::Failed | Self::Cancelled, _) => Err(JobDenied::AlreadyEnded(self)),
            (Self::Queued, JobEvent::Claim) => Ok(Self::Running),
            (Self::Queued | Self::Running, JobEvent::Cancel) => Ok(Self::Cancelled),
            (Self::Running, JobEvent::Succeed) => Ok(Self::Succeeded),
            (Self::Running, JobEvent::Fail) => Ok(Self::Failed),
            (Self::Running, JobEvent::Expire) => Ok(Self::Queued),
            (Self::Running, JobEvent::Claim) => Err(JobDenied::AlreadyRunning),
            (Self::Queued, JobEvent::Succeed | JobEvent::Fail | JobEvent::Expire) => {
                Err(JobDenied::NotRunning)
            }
        }
    }

    /// Whether nothing happens to the job any more.
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }

    /// The word the catalog and the API use.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

impl JobKind {
    /// Whether such a job mostly waits for jobs that it queued itself: it must not take a worker from them.
    #[must_use]
    pub fn waits_for_others(self) -> bool {
        matches!(self, Self::RunFlow | Self::Prune)
    }

    /// The word the catalog and the API use.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Backup => "backup",
            Self::RestoreDisk => "restore-disk",
            Self::Verify => "verify",
            Self::ImportRepository => "import-repository",
            Self::DeleteBackup => "delete-backup",
            Self::SynthesizeFull => "synthesize-full",
            Self::CheckRepository => "check-repository",
            Self::CopyBackup => "copy-backup",
            Self::Prune => "prune",
            Self::RunFlow => "run-flow",
        }
    }
}

/// A text that is no job state or kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no job state or kind")]
pub struct ParseJobError(pub String);

impl fmt::Display for JobState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for JobState {
    type Err = ParseJobError;

    fn from_str(text: &str) -> Result<Self, ParseJobError> {
        [Self::Queued, Self::Running, Self::Succeeded, Self::Failed, Self::Cancelled]
            .into_iter()
            .find(|state| state.as_str() == text)
            .ok_or_else(|| ParseJobError(text.to_owned()))
    }
}

impl FromStr for JobKind {
    type Err = ParseJobError;

    fn from_str(text: &str) -> Result<Self, ParseJobError> {
        [
            Self::Backup,
            Self::RestoreDisk,
            Self::Verify,
            Self::ImportRepository,
            Self::DeleteBackup,
            Self::SynthesizeFull,
            Self::CheckRepository,
            Self::CopyBackup,
            Self::Prune,
            Self::RunFlow,
        ]
        .into_iter()
        .find(|kind| kind.as_str() == text)
        .ok_or_else(|| ParseJobError(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ended_job_stays_ended() {
        for state in [JobState::Succeeded, JobState::Failed, JobState::Cancelled] {
            for event in
                [JobEvent::Claim, JobEvent::Succeed, JobEvent::Fail, JobEvent::Cancel, JobEvent::Expire]
            {
                assert_eq!(state.apply(event), Err(JobDenied::AlreadyEnded(state)));
            }
        }
    }

    #[test]
    fn only_a_queued_job_is_claimed() {
        assert_eq!(JobState::Queued.apply(JobEvent::Claim), Ok(JobState::Running));
        assert_eq!(JobState::Running.apply(JobEvent::Claim), Err(JobDenied::AlreadyRunning));
        assert_eq!(JobState::Running.apply(JobEvent::Expire), Ok(JobState::Queued));
        assert_eq!(JobState::Queued.apply(JobEvent::Succeed), Err(JobDenied::NotRunning));
    }
}
