//! Jobs and the requests that start them.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tidemark_catalog::Job;
use tidemark_engine::ImageFormat;
use tidemark_model::VerifyLevel;

use super::{json_value, rfc3339};

/// The answer to a request for long work.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Accepted {
    /// The job that does it.
    pub job_id: String,
    /// The job's state.
    pub status: String,
    /// For people.
    pub message: String,
}

impl Accepted {
    /// The answer for this job.
    #[must_use]
    pub fn new(job: &Job) -> Self {
        Self {
            job_id: job.id.to_string(),
            status: job.state.as_str().to_owned(),
            message: format!("accepted as {} job {}", job.kind.as_str(), job.id),
        }
    }
}

/// Which backups are to be deleted.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DeleteBackups {
    /// Their ids; of any VM, anywhere in their chains.
    pub backup_ids: Vec<String>,
}

/// Deletions that were accepted.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct StartedDeletion {
    /// The first job.
    #[serde(flatten)]
    pub first: Accepted,
    /// All jobs: one a VM and repository.
    pub jobs: Vec<Accepted>,
}

impl StartedDeletion {
    /// The answer for these jobs.
    #[must_use]
    pub fn new(first: &Job, jobs: &[Job]) -> Self {
        Self { first: Accepted::new(first), jobs: jobs.iter().map(Accepted::new).collect() }
    }
}

/// A piece of work.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct JobEntry {
    /// Its id.
    pub job_id: String,
    /// `backup`, `restore-disk`, `verify`, `import-repository`, `delete-backup`, `synthesize-full` or `check-repository`.
    pub kind: String,
    /// `queued`, `running`, `succeeded`, `failed` or `cancelled`.
    pub status: String,
    /// What to do.
    pub request: Value,
    /// How far it is.
    pub progress: Value,
    /// What came of it.
    pub result: Option<Value>,
    /// Why it failed.
    pub error: Option<Value>,
    /// What the user must know.
    pub warnings: Vec<String>,
    /// Whether its end was asked for.
    pub cancel_requested: bool,
    /// The host that runs it.
    pub host: Option<String>,
    /// When it was submitted.
    pub created_at: String,
    /// When it was first begun.
    pub started_at: Option<String>,
    /// When it ended.
    pub ended_at: Option<String>,
}

/// One page of jobs, newest first.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct JobList {
    /// The jobs.
    pub jobs: Vec<JobEntry>,
    /// For the next page.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

impl From<&Job> for JobEntry {
    fn from(job: &Job) -> Self {
        let Job {
            id,
            kind,
            state,
            payload_json,
            progress_json,
            result_json,
            error_json,
            exclusive_key: _,
            cancel_requested,
            epoch: _,
            lease_owner,
            lease_until: _,
            created_at,
            started_at,
            ended_at,
        } = job;
        let result = result_json.as_deref().map(json_value);
        Self {
            job_id: id.to_string(),
            kind: kind.as_str().to_owned(),
            status: state.as_str().to_owned(),
            request: json_value(payload_json),
            progress: json_value(progress_json),
            warnings: warnings_of(result.as_ref()),
            result,
            error: error_json.as_deref().map(json_value),
            cancel_requested: *cancel_requested,
            host: lease_owner.clone(),
            created_at: rfc3339(*created_at),
            started_at: started_at.map(rfc3339),
            ended_at: ended_at.map(rfc3339),
        }
    }
}

/// A result's `warnings`, and what an import passed over.
fn warnings_of(result: Option<&Value>) -> Vec<String> {
    let list =
        |key: &str| result.and_then(|result| result.get(key)).and_then(Value::as_array).into_iter().flatten();
    let word = |value: &Value, key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
    let skipped = list("skipped").map(|entry| match (word(entry, "manifest"), word(entry, "reason")) {
        (Some(manifest), Some(reason)) => format!("{manifest} was not imported: {reason}"),
        _ => entry.to_string(),
    });
    let said =
        list("warnings").map(|warning| warning.as_str().map_or_else(|| warning.to_string(), str::to_owned));
    said.chain(skipped).collect()
}

/// What a restored disk looks like.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RestoreFormat {
    /// The disk's bytes, sparse.
    #[default]
    Raw,
    /// One QCOW2 image that stands alone.
    Qcow2,
    /// A stream-optimised VMDK.
    Vmdk,
}

impl From<RestoreFormat> for ImageFormat {
    fn from(wire: RestoreFormat) -> Self {
        match wire {
            RestoreFormat::Raw => Self::Raw,
            RestoreFormat::Qcow2 => Self::Qcow2,
            RestoreFormat::Vmdk => Self::Vmdk,
        }
    }
}

/// Restores one disk to a file on the server's machine.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RestoreDisk {
    /// Which disk of the backup.
    #[serde(alias = "disk")]
    pub disk_index: u32,
    /// An absolute path on the server's machine.
    pub to: PathBuf,
    /// `raw` where not given.
    #[serde(default)]
    pub format: RestoreFormat,
}

/// How much of a backup is verified.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum VerifyDepth {
    /// Present, sizes, structure.
    Quick,
    /// All stored bytes.
    #[default]
    Full,
    /// The guest's view through the chain.
    Deep,
}

impl From<VerifyDepth> for VerifyLevel {
    fn from(wire: VerifyDepth) -> Self {
        match wire {
            VerifyDepth::Quick => Self::Quick,
            VerifyDepth::Full => Self::Full,
            VerifyDepth::Deep => Self::Deep,
        }
    }
}

/// Verifies a backup and those it needs.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VerifyBackup {
    /// `full` where not given.
    #[serde(default)]
    pub level: VerifyDepth,
}

/// Compares a repository with the catalog.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CheckRepository {
    /// Deletes what belongs to no backup; needs the role admin.
    pub delete: bool,
    /// What is younger is never deleted; 24 where not given.
    pub grace_hours: u32,
}

impl Default for CheckRepository {
    fn default() -> Self {
        Self { delete: false, grace_hours: 24 }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_was_passed_over_is_a_warning() {
        let result =
            json!({ "warnings": ["w"], "skipped": [{ "manifest": "a/b.json", "reason": "damaged" }] });
        assert_eq!(warnings_of(Some(&result)), ["w", "a/b.json was not imported: damaged"]);
        assert!(warnings_of(Some(&json!({ "imported": 3 }))).is_empty());
        assert!(warnings_of(None).is_empty());
    }
}
