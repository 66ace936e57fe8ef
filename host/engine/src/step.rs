//! The recorded steps of a job. Each is written to the catalog before its effect, so that whoever comes
//! after a crash knows what may exist and undoes it.
//!
//! ```text
//! pinned ▶ (preflight) ▶ snapshot-requested ▶ snapshot-taken ▶ planned ▶ objects-begun ▶ publishing ▶ committing
//!                                                                                   (catalog transaction)
//!        ▶ snapshot-removing ▶ (job succeeded)
//! ```
//! Up to `committing` everything is undone; after the transaction everything is finished. The same for a job that
//! changes a chain (`crate::merge`):
//!
//! ```text
//! merge-begun ▶ merge-publishing ▶ chain-committing (catalog transaction) ▶ chain-renaming ▶ chain-sweeping
//! ```

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use tidemark_catalog::JobStep;

use crate::error::{Error, Result};

/// A plugin version that a job started with and keeps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PluginPin {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) digest: String,
}

/// An object that may exist, under construction or published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ObjectRef {
    pub(crate) key: String,
    /// The storage target's word for the upload.
    pub(crate) token: String,
}

/// How to tell whether the catalog knows a changed chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ChangeRef {
    pub(crate) repository_id: String,
    /// Gone with the change.
    pub(crate) removed: Vec<String>,
    /// Merged with the change.
    pub(crate) merged: Vec<String>,
    /// The merged ones' time of merging, in milliseconds.
    pub(crate) merged_at: i64,
}

/// What is about to happen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "kebab-case")]
pub(crate) enum Step {
    /// These versions serve the job, whatever is activated meanwhile.
    Pinned { connector: PluginPin, storage: PluginPin },
    /// A snapshot with this key may exist from now on.
    SnapshotRequested { vm_key: String, idempotency_key: String },
    /// The snapshot exists.
    SnapshotTaken { vm_key: String, token: String },
    /// What kind of backup it becomes.
    Planned { backup_type: String, reason_code: String, reason: String, parent_id: Option<String> },
    /// These objects may exist, under construction.
    ObjectsBegun { objects: Vec<ObjectRef> },
    /// These objects may be published.
    Publishing { objects: Vec<ObjectRef> },
    /// The catalog may know the backup.
    Committing { backup_id: String },
    /// The snapshot may be gone.
    SnapshotRemoving { vm_key: String, token: String },
    /// This file of a restore may exist.
    TargetBegun { path: PathBuf },
    /// A merge begins: these objects may exist from now on, under construction or published.
    MergeBegun { repository_id: String, storage: PluginPin, objects: Vec<ObjectRef> },
    /// The merged objects may be published.
    MergePublishing,
    /// The catalog may know the changed chain.
    ChainCommitting(ChangeRef),
    /// The catalog knows the changed chain; merged objects may have their names.
    ChainRenaming,
    /// All names are final; objects that nobody needs any more may be gone.
    ChainSweeping,
    /// The job's process died, and what it left is looked for from now on.
    Recovering,
    /// The job failed of this, and undoing it is not complete.
    Failed { kind: String, message: String },
}

/// What a dead or failed job may have left, gathered from its steps.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Leftovers {
    /// The VM and the idempotency key of a snapshot that was asked for.
    pub(crate) snapshot: Option<(String, String)>,
    /// Its token, where the answer arrived.
    pub(crate) snapshot_token: Option<String>,
    /// Objects, under construction or published.
    pub(crate) objects: Vec<ObjectRef>,
    /// The plugin versions that the job used.
    pub(crate) pins: Option<(PluginPin, PluginPin)>,
    /// Whether the catalog's transaction may have happened.
    pub(crate) committing: bool,
    /// What a merge may have made: in which repository, through which plugin version, which objects.
    pub(crate) merge: Option<(String, PluginPin, Vec<ObjectRef>)>,
    /// A change of a chain that the catalog may know.
    pub(crate) change: Option<ChangeRef>,
    /// An unfinished file of a restore.
    pub(crate) target: Option<PathBuf>,
    /// Why the job failed, where it came to say so: kind and message.
    pub(crate) failure: Option<(String, String)>,
}

impl Step {
    /// The stable name, as the catalog and the fail point know it.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Pinned { .. } => "pinned",
            Self::SnapshotRequested { .. } => "snapshot-requested",
            Self::SnapshotTaken { .. } => "snapshot-taken",
            Self::Planned { .. } => "planned",
            Self::ObjectsBegun { .. } => "objects-begun",
            Self::Publishing { .. } => "publishing",
            Self::Committing { .. } => "committing",
            Self::SnapshotRemoving { .. } => "snapshot-removing",
            Self::TargetBegun { .. } => "target-begun",
            Self::MergeBegun { .. } => "merge-begun",
            Self::MergePublishing => "merge-publishing",
            Self::ChainCommitting(_) => "chain-committing",
            Self::ChainRenaming => "chain-renaming",
            Self::ChainSweeping => "chain-sweeping",
            Self::Recovering => "recovering",
            Self::Failed { .. } => "failed",
        }
    }

    pub(crate) fn to_json(&self) -> Result<String> {
        serde_json::to_string(self).map_err(|e| Error::internal(format!("writing step {}: {e}", self.name())))
    }
}

impl Leftovers {
    /// What `steps` began.
    ///
    /// # Errors
    /// Damaged where a step cannot be read: nothing is guessed about what to remove.
    pub(crate) fn from_steps(steps: &[JobStep]) -> Result<Self> {
        let mut left = Self::default();
        for step in steps {
            let step: Step = serde_json::from_str(&step.detail_json)
                .map_err(|e| Error::damaged(format!("recorded step '{}' cannot be read: {e}", step.name)))?;
            left.add(step);
        }
        Ok(left)
    }

    pub(crate) fn add(&mut self, step: Step) {
        match step {
            Step::Pinned { connector, storage } => self.pins = Some((connector, storage)),
            Step::SnapshotRequested { vm_key, idempotency_key } => {
                self.snapshot = Some((vm_key, idempotency_key))
            }
            Step::SnapshotTaken { token, .. } => self.snapshot_token = Some(token),
            Step::ObjectsBegun { objects } | Step::Publishing { objects } => {
                for object in objects {
                    if !self.objects.contains(&object) {
                        self.objects.push(object);
                    }
                }
            }
            Step::Committing { .. } => self.committing = true,
            Step::TargetBegun { path } => self.target = Some(path),
            Step::MergeBegun { repository_id, storage, objects } => {
                self.merge = Some((repository_id, storage, objects));
            }
            Step::ChainCommitting(change) => self.change = Some(change),
            Step::MergePublishing | Step::ChainRenaming | Step::ChainSweeping => {}
            Step::Failed { kind, message } => self.failure = Some((kind, message)),
            Step::Planned { .. } | Step::SnapshotRemoving { .. } | Step::Recovering => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidemark_model::UtcMillis;

    fn recorded(step: &Step) -> JobStep {
        JobStep {
            sequence: 1,
            epoch: 1,
            name: step.name().to_owned(),
            detail_json: step.to_json().unwrap(),
            recorded_at: UtcMillis(0),
        }
    }

    #[test]
    fn leftovers_are_what_the_steps_began() {
        let object = |key: &str| ObjectRef { key: key.to_owned(), token: format!("{key}.partial") };
        let steps = [
            Step::SnapshotRequested { vm_key: "vm-1".to_owned(), idempotency_key: "k".to_owned() },
            Step::ObjectsBegun { objects: vec![object("a"), object("b")] },
            Step::Publishing { objects: vec![object("a"), object("b"), object("m")] },
        ];
        let left = Leftovers::from_steps(&steps.iter().map(recorded).collect::<Vec<_>>()).unwrap();
        assert_eq!(left.snapshot, Some(("vm-1".to_owned(), "k".to_owned())));
        assert_eq!(left.snapshot_token, None);
        assert_eq!(left.objects, [object("a"), object("b"), object("m")]);
    }

    #[test]
    fn a_step_that_cannot_be_read_stops_the_undoing() {
        let mut step = recorded(&Step::Committing { backup_id: "x".to_owned() });
        step.detail_json = "{\"step\":\"of-a-newer-version\"}".to_owned();
        assert_eq!(Leftovers::from_steps(&[step]).unwrap_err().kind(), crate::ErrorKind::Damaged);
    }
}
