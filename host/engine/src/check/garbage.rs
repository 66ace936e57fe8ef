//! Objects against rows: what lies in the repository and is in no row. Of that, garbage is what no manifest of a
//! whole backup describes and no running job has begun, under one of our names. Only garbage is ever deleted, and
//! only once it is older than the grace: a repository may be another installation's too.

use std::collections::HashSet;

use tidemark_catalog::ErrorKind as CatalogError;

use super::compare::{self, Stranger};
use super::rows::damage;
use super::{Check, Finding};
use crate::error::Result;
use crate::layout::{self, ObjectSort};
use crate::manifest;
use crate::store::REPOSITORY_MARK;

impl Check<'_> {
    pub(super) async fn compare_objects(&mut self) -> Result<()> {
        self.job.phase("looking for what nobody knows");
        let known: HashSet<&str> = self.rows.iter().flat_map(compare::keys_of).collect();
        let strange = |key: &&String| {
            !known.contains(key.as_str()) && !self.doomed.contains(*key) && !self.busy.contains(*key)
        };
        let mut strangers: Vec<String> = self.sizes.keys().filter(strange).cloned().collect();
        let mut unfinished: Vec<String> =
            self.unfinished.iter().filter(|key| !self.busy.contains(*key)).cloned().collect();
        // By name, manifests before what they describe: nothing is left that describes disks that are gone.
        strangers
            .sort_unstable_by_key(|key| (layout::sort_of(key) != Some(ObjectSort::Manifest), key.clone()));
        unfinished.sort_unstable();
        let (ours, others): (Vec<String>, Vec<String>) =
            strangers.into_iter().partition(|key| layout::sort_of(key).is_some());
        self.others = others.iter().filter(|key| *key != REPOSITORY_MARK).count() as u64;

        let (manifests, unreadable) = self.read_manifests(&ours).await?;
        let kept: HashSet<String> = compare::kept(&manifests).into_iter().map(str::to_owned).collect();
        self.report_strangers(&manifests).await?;
        // By origin too: what an interrupted merge left beside a whole backup may be the better half of it.
        let kept_origins: HashSet<_> = kept.iter().filter_map(|key| compare::origin(key)).collect();
        let unread: HashSet<_> = unreadable.iter().filter_map(|key| compare::origin(key)).collect();
        for key in ours.iter().filter(|key| !kept.contains(*key) && !unreadable.contains(*key)) {
            self.job.check_cancelled()?;
            match compare::origin(key) {
                Some(origin) if kept_origins.contains(&origin) => {}
                Some(origin) if unread.contains(&origin) => self.undescribed(key),
                _ => self.garbage(key).await?,
            }
        }
        for key in unfinished {
            self.job.check_cancelled()?;
            self.leftover(&key).await?;
        }
        Ok(())
    }

    /// The manifests among objects that no row names, and the keys of those that cannot be read.
    async fn read_manifests(&mut self, keys: &[String]) -> Result<(Vec<Stranger>, HashSet<String>)> {
        let (mut found, mut unreadable) = (Vec::new(), HashSet::new());
        for key in keys.iter().filter(|key| layout::sort_of(key) == Some(ObjectSort::Manifest)) {
            let read = self.store.read(key).await;
            match read.and_then(|bytes| manifest::read(key, &bytes, self.repository.id)) {
                Ok(one) if self.rows.iter().any(|row| row.id == one.backup.id) => {}
                Ok(one) => {
                    let whole = compare::is_whole(&one, &self.sizes);
                    found.push(Stranger { found: one, whole });
                }
                Err(error) => {
                    // It may be a newer version's: whatever it describes is left alone.
                    let message = damage(error)?;
                    self.findings.push(Finding::new("unreadable-manifest", key, message));
                    unreadable.insert(key.clone());
                }
            }
        }
        Ok((found, unreadable))
    }

    /// Whole backups that the catalog does not know are not garbage, whoever made them.
    async fn report_strangers(&mut self, strangers: &[Stranger]) -> Result<()> {
        for Stranger { found, .. } in strangers.iter().filter(|stranger| stranger.whole) {
            let backup = &found.backup;
            let elsewhere = match self.job.shared.catalog.backup(backup.id).await {
                Ok(_) => true,
                Err(error) if error.kind() == CatalogError::NotFound => false,
                Err(error) => return Err(error.into()),
            };
            let parent_here = match backup.parent_id {
                None => true,
                Some(parent) => {
                    let listed = strangers.iter().any(|one| one.whole && one.found.backup.id == parent);
                    listed || self.rows.iter().any(|row| row.id == parent)
                }
            };
            let name = &backup.vm_name;
            let (kind, message) = match (elsewhere, parent_here) {
                (true, _) => {
                    ("copy", format!("a backup of '{name}' that the catalog knows in another repository"))
                }
                (false, true) => ("importable", format!("a whole backup of '{name}' that can be imported")),
                (false, false) => ("orphan", format!("a whole backup of '{name}' whose parent is not there")),
            };
            let mut finding = Finding::new(kind, &backup.manifest_key, message);
            finding.backup = Some(backup.id);
            self.findings.push(finding);
        }
        Ok(())
    }

    fn undescribed(&mut self, key: &str) {
        let mut finding =
            Finding::new("undescribed", key, "its manifest cannot be read, so it is left alone");
        finding.size = self.sizes.get(key).copied();
        self.findings.push(finding);
    }

    async fn garbage(&mut self, key: &str) -> Result<()> {
        let Some(age) = self.store.age(key).await? else { return Ok(()) };
        let mut finding = Finding::new("garbage", key, "it belongs to no backup");
        finding.size = self.sizes.get(key).copied();
        if age < self.grace {
            finding.message.push_str("; it is younger than the grace and is left alone");
        } else if self.delete {
            self.store.remove(key).await?;
            finding.deleted = true;
        }
        self.findings.push(finding);
        Ok(())
    }

    async fn leftover(&mut self, key: &str) -> Result<()> {
        if layout::sort_of(key).is_none() {
            self.others += 1;
            return Ok(());
        }
        let Some(found) = self.store.unfinished(key).await? else { return Ok(()) };
        let mut finding = Finding::new("unfinished", key, "it is under construction and no job works on it");
        finding.size = Some(found.size);
        if found.age < self.grace {
            finding.message.push_str("; it is younger than the grace and is left alone");
        } else if self.delete {
            self.store.abandon(&found.reference).await?;
            finding.deleted = true;
        }
        self.findings.push(finding);
        Ok(())
    }
}
