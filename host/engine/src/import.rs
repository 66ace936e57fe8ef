//! Rebuilds the catalog from a repository's manifests. Nothing in the repository is changed, nothing already known
//! is overwritten, and a backup whose objects or parent are missing or contradict its manifest is left out with its
//! reason. A merge that was interrupted may have left a backup's objects and manifest under the names it gave them first:
//! they are taken from there, and the next sweep finishes their names.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde_json::{Value, json};
use tidemark_catalog::{Backup, Job};
use tidemark_model::{BackupId, ByteLen, DiskKey, JobKind, RepositoryId, UtcMillis};
use tidemark_qcow2::Image;

use crate::engine::Engine;
use crate::error::{Error, ErrorKind, Result};
use crate::layout;
use crate::manifest::{self, Found};
use crate::queue::JobContext;
use crate::requests::ImportPayload;
use crate::store::{self, ObjectStore};

impl Engine {
    /// Queues the import of a repository.
    ///
    /// # Errors
    /// Not found.
    pub async fn submit_import(
        &self,
        actor: &str,
        repository: &str,
        idempotency_key: Option<String>,
    ) -> Result<Job> {
        let repository = self.repository(repository).await?;
        let payload = ImportPayload { repository_id: repository.id.to_string() };
        let exclusive = Some(format!("import:{}", repository.id));
        let job = self.shared.submit(JobKind::ImportRepository, &payload, exclusive, idempotency_key).await?;
        self.shared.audit(actor, "repository.import", &repository.name, json!({})).await;
        Ok(job)
    }
}

/// Runs an import job.
pub(crate) async fn run(job: &Arc<JobContext>) -> Result<Value> {
    let payload: ImportPayload = job.payload()?;
    let id = payload.repository_id.parse().map_err(|e| Error::damaged(format!("{e}")))?;
    let repository = job.shared.catalog.repository(id).await?;
    let (store, _) = ObjectStore::open(&job.shared, &repository, &job.job, None).await?;
    let mut import =
        Import { job, store, sizes: HashMap::new(), parents: HashMap::new(), report: Report::default() };
    job.phase("listing the repository");
    import.sizes = import.store.list("").await?.into_iter().collect();
    for candidates in import.read_manifests(id).await? {
        job.check_cancelled()?;
        import.add(candidates).await?;
    }
    let Report { imported, known, skipped, warnings } = import.report;
    Ok(json!({ "imported": imported, "already_known": known, "skipped": skipped, "warnings": warnings }))
}

/// What came of an import.
#[derive(Default)]
struct Report {
    imported: u64,
    known: u64,
    skipped: Vec<Value>,
    warnings: Vec<String>,
}

impl Report {
    fn skip(&mut self, manifest: &str, reason: &str) {
        self.skipped.push(json!({ "manifest": manifest, "reason": reason }));
    }
}

struct Import<'a> {
    job: &'a Arc<JobContext>,
    store: ObjectStore,
    sizes: HashMap<String, ByteLen>,
    /// The backups that are known by now, as far as their children need them: the objects of their disks.
    parents: HashMap<BackupId, Vec<(DiskKey, String)>>,
    report: Report,
}

impl Import<'_> {
    /// All manifests that can be read, those of one backup together, parents before the backups that need them. A merge
    /// that did not come to its end leaves two of a backup: the one under its final name is preferred.
    async fn read_manifests(&mut self, repository_id: RepositoryId) -> Result<Vec<Vec<Candidate>>> {
        let mut keys: Vec<String> = self.sizes.keys().filter(|key| is_manifest(key)).cloned().collect();
        keys.sort_unstable();
        let mut found: BTreeMap<(UtcMillis, BackupId), Vec<Candidate>> = BTreeMap::new();
        for key in keys {
            self.job.check_cancelled()?;
            let bytes = self.store.read(&key).await?;
            match manifest::read(&key, &bytes, repository_id) {
                Ok(one) => {
                    let order = (one.backup.snapshot_at, one.backup.id);
                    found.entry(order).or_default().push(Candidate::new(key, one));
                }
                Err(error) => self.report.skip(&key, &error.chain()),
            }
        }
        let mut all: Vec<_> = found.into_values().collect();
        for candidates in &mut all {
            candidates.sort_by_key(|candidate| candidate.mark.is_some());
        }
        Ok(all)
    }

    /// Imports the first of a backup's manifests whose objects are all there.
    async fn add(&mut self, candidates: Vec<Candidate>) -> Result<()> {
        let mut refused = Vec::new();
        for candidate in candidates {
            let key = candidate.key.clone();
            match self.try_add(candidate).await {
                Ok(()) => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Unavailable => return Err(error),
                Err(error) => refused.push((key, error.chain())),
            }
        }
        for (key, reason) in &refused {
            self.report.skip(key, reason);
        }
        Ok(())
    }

    async fn try_add(&mut self, candidate: Candidate) -> Result<()> {
        let catalog = &self.job.shared.catalog;
        let id = candidate.found.backup.id;
        // A backup that is being made or deleted right now is not what its manifest says. Asked anew for each, as such a
        // job may begin at any time.
        let text = id.to_string();
        let in_progress = self.job.shared.jobs_in_progress().await?;
        if in_progress.iter().any(|other| other.id.to_string() == text || other.payload_json.contains(&text))
        {
            return Err(Error::new(ErrorKind::Conflict, "a job is making or deleting it right now"));
        }
        if let Ok(known) = catalog.backup(id).await {
            self.remember(&known);
            self.report.known += 1;
            return Ok(());
        }
        let parent = match candidate.found.backup.parent_id {
            Some(parent) => Some(self.parent(parent).await?),
            None => None,
        };
        let (found, notes) = self.locate(candidate, parent.as_deref()).await?;
        let catalog = &self.job.shared.catalog;
        catalog.import_vm(&found.vm).await?;
        if catalog.import_backup(&found.backup).await? {
            self.report.imported += 1;
        } else {
            self.report.known += 1;
        }
        self.report.warnings.extend(notes);
        self.remember(&found.backup);
        Ok(())
    }

    fn remember(&mut self, backup: &Backup) {
        let disks = backup.disks.iter().map(|disk| (disk.disk_key.clone(), disk.object_key.clone()));
        self.parents.insert(backup.id, disks.collect());
    }

    async fn parent(&mut self, id: BackupId) -> Result<Vec<(DiskKey, String)>> {
        if !self.parents.contains_key(&id) {
            let missing = |_| Error::not_found("backup it needs with complete objects", &id.to_string());
            let known = self.job.shared.catalog.backup(id).await.map_err(missing)?;
            self.remember(&known);
        }
        Ok(self.parents.get(&id).cloned().unwrap_or_default())
    }

    /// Finds every object, under its final name or the one that a merge gave it, and sees that it is what the manifest
    /// says it is: of its size, on top of the parent's image.
    async fn locate(
        &mut self,
        candidate: Candidate,
        parent: Option<&[(DiskKey, String)]>,
    ) -> Result<(Found, Vec<String>)> {
        let Candidate { key, mark, mut found } = candidate;
        let mut notes = Vec::new();
        for disk in &mut found.backup.disks {
            let expected = match parent {
                None => None,
                Some(disks) => {
                    let below = disks.iter().find(|(key, _)| *key == disk.disk_key);
                    let (_, object) = below.ok_or_else(|| {
                        Error::damaged(format!("the backup it needs has no disk {}", disk.disk_key))
                    })?;
                    Some(layout::file_name(object).to_owned())
                }
            };
            let staged = mark.as_ref().map(|mark| layout::marked_key(&disk.object_key, mark));
            let mut refused = None;
            for name in [Some(disk.object_key.clone()), staged].into_iter().flatten() {
                match self.image_is(&name, disk.stored, expected.as_deref()).await {
                    Ok(()) => {
                        refused = None;
                        disk.staged_key = (name != disk.object_key).then_some(name);
                        break;
                    }
                    Err(error) => refused = refused.or(Some(error)),
                }
            }
            if let Some(error) = refused {
                return Err(error);
            }
            if let Some(ranges) = &disk.ranges
                && self.sizes.get(&ranges.object_key) != Some(&ranges.stored)
            {
                notes.push(format!(
                    "{key}: the range digests {} are missing or incomplete",
                    ranges.object_key
                ));
                disk.ranges = None;
            }
        }
        if let Some((final_key, _)) = layout::unmerged_key(&key) {
            found.backup.manifest_key = final_key;
            found.backup.staged_manifest_key = Some(key);
        }
        Ok((found, notes))
    }

    async fn image_is(&mut self, key: &str, stored: ByteLen, backing: Option<&str>) -> Result<()> {
        match self.sizes.get(key) {
            Some(size) if *size == stored => {}
            Some(size) => {
                let words = format!("object {key} has {} bytes instead of {}", size.0, stored.0);
                return Err(Error::damaged(words));
            }
            None => return Err(Error::damaged(format!("object {key} is missing"))),
        }
        let file = Arc::new(self.store.open_object(key).await?);
        let (key, backing) = (key.to_owned(), backing.map(str::to_owned));
        store::blocking("looking at an image", move || {
            let image = Image::open(file).map_err(|e| Error::from(e).context(format!("object {key}")))?;
            if image.backing_name() != backing.as_deref() {
                return Err(Error::damaged(format!(
                    "object {key} names the backing file {:?}, by its manifest it needs {backing:?}",
                    image.backing_name()
                )));
            }
            Ok(())
        })
        .await
    }
}

/// A manifest that was found.
struct Candidate {
    key: String,
    /// What the merge that made it added to names; none under its final name.
    mark: Option<String>,
    found: Found,
}

impl Candidate {
    fn new(key: String, found: Found) -> Self {
        let mark = layout::unmerged_key(&key).map(|(_, mark)| mark.to_owned());
        Self { key, mark, found }
    }
}

fn is_manifest(key: &str) -> bool {
    // Exactly one folder deep, as the layout has it.
    key.strip_suffix(".json").is_some_and(|stem| stem.matches('/').count() == 1)
}
