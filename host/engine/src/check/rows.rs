//! Rows against objects: what the catalog knows must be in the repository as it was recorded. An image that is
//! missing or of another size makes its backup, and all that need it, damaged, as a verification would.

use tidemark_catalog::{Backup, BackupDisk, Verification};
use tidemark_model::{BackupId, BackupStatus, ByteLen, UtcMillis, VerifyLevel};

use super::{Check, Finding, compare};
use crate::error::{Error, ErrorKind, Result};
use crate::manifest;

impl Check<'_> {
    pub(super) async fn compare_rows(&mut self) -> Result<()> {
        for index in 0..self.rows.len() {
            self.job.check_cancelled()?;
            let (done, all) = (index, self.rows.len());
            self.job.report_with(
                move || serde_json::json!({ "phase": "comparing backups", "checked": done, "of": all }),
            );
            let mut row = self.rows[index].clone();
            if !self.is_as_recorded(&row) {
                // A merge or a deletion may have changed it since the rows were read.
                row = match self.job.shared.catalog.backup(row.id).await {
                    Ok(now) => now,
                    Err(error) if error.kind() == tidemark_catalog::ErrorKind::NotFound => continue,
                    Err(error) => return Err(error.into()),
                };
                self.blame_images(&row).await?;
                self.blame_ranges(&row).await?;
            }
            self.compare_manifest(&row).await?;
        }
        Ok(())
    }

    /// Whether the listing has every image and every object of range digests with its size.
    fn is_as_recorded(&self, row: &Backup) -> bool {
        let has = |key: &str, size| self.sizes.get(key) == Some(&size);
        row.disks.iter().all(|disk| {
            let BackupDisk { object_key, staged_key, stored, ranges, .. } = disk;
            let image = has(object_key, *stored) || staged_key.as_ref().is_some_and(|key| has(key, *stored));
            image && ranges.as_ref().is_none_or(|ranges| has(&ranges.object_key, ranges.stored))
        })
    }

    async fn blame_images(&mut self, row: &Backup) -> Result<()> {
        for disk in &row.disks {
            let mut fault = None;
            for key in disk.staged_key.iter().chain([&disk.object_key]) {
                match self.store.size(key).await? {
                    Some(size) if size == disk.stored => {
                        fault = None;
                        break;
                    }
                    other => fault = Some(fault.flatten().or(other)),
                }
            }
            let Some(found) = fault else { continue };
            let mut finding = match found {
                None => Finding::new("missing-object", &disk.object_key, "the image is not there"),
                Some(size) => wrong_size(&disk.object_key, size, disk.stored),
            };
            finding.message.push_str("; its backup and those that need it are marked damaged");
            (finding.backup, finding.disk_index) = (Some(row.id), Some(disk.disk_index));
            finding.affected = compare::needing(&self.rows, row.id);
            self.mark(&finding.affected).await?;
            self.findings.push(finding);
        }
        Ok(())
    }

    /// As a quick verification does it, which sees no more than this. One that is damaged already is left as it is: it
    /// may have been found so by a closer look.
    async fn mark(&self, affected: &[BackupId]) -> Result<()> {
        let whole = |id: &&BackupId| {
            self.rows.iter().any(|row| row.id == **id && row.status == BackupStatus::Completed)
        };
        let damaged: Vec<BackupId> = affected.iter().filter(whole).copied().collect();
        let (level, at) = (VerifyLevel::Quick, UtcMillis::now());
        let read = self.rows.iter().map(|row| (row.id, row.consolidated_at)).collect();
        let verification = Verification { level, at, whole: Vec::new(), damaged, read };
        self.job.shared.catalog.record_verification(&verification).await?;
        Ok(())
    }

    /// Digests of ranges are needed to audit, not to restore.
    async fn blame_ranges(&mut self, row: &Backup) -> Result<()> {
        for disk in &row.disks {
            let Some(ranges) = &disk.ranges else { continue };
            let mut finding = match self.store.size(&ranges.object_key).await? {
                Some(size) if size == ranges.stored => continue,
                Some(size) => wrong_size(&ranges.object_key, size, ranges.stored),
                None => {
                    Finding::new("missing-digests", &ranges.object_key, "the range digests are not there")
                }
            };
            finding.kind = "missing-digests";
            finding.message.push_str("; the backup can be restored, but not audited by them");
            (finding.backup, finding.disk_index) = (Some(row.id), Some(disk.disk_index));
            self.findings.push(finding);
        }
        Ok(())
    }

    /// A backup whose manifest is gone or wrong can be restored, but not imported once the catalog is lost.
    async fn compare_manifest(&mut self, row: &Backup) -> Result<()> {
        let Some((kind, message)) = self.manifest_fault(row).await? else { return Ok(()) };
        // A merge writes manifest and row one after the other: only what stays is a fault.
        let row = match self.job.shared.catalog.backup(row.id).await {
            Ok(now) if now == *row => now,
            Ok(now) => match self.manifest_fault(&now).await? {
                Some(_) => now,
                None => return Ok(()),
            },
            Err(error) if error.kind() == tidemark_catalog::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let mut finding = Finding::new(kind, &row.manifest_key, message);
        finding.message.push_str("; the backup can be restored, but not imported should the catalog be lost");
        finding.backup = Some(row.id);
        self.findings.push(finding);
        Ok(())
    }

    async fn manifest_fault(&mut self, row: &Backup) -> Result<Option<(&'static str, String)>> {
        for key in row.staged_manifest_key.iter().chain([&row.manifest_key]) {
            let bytes = match self.store.read(key).await {
                Ok(bytes) => bytes,
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) if error.kind() == ErrorKind::Damaged => {
                    return Ok(Some(("bad-manifest", error.chain())));
                }
                Err(error) => return Err(error),
            };
            return Ok(match manifest::read(key, &bytes, row.repository_id) {
                Ok(found) => {
                    let different = compare::differences(row, &found.backup);
                    let words = || format!("it differs from the catalog in: {}", different.join(", "));
                    (!different.is_empty()).then(|| ("manifest-differs", words()))
                }
                Err(error) => Some(("bad-manifest", error.chain())),
            });
        }
        Ok(Some(("missing-manifest", "the manifest is not there".to_owned())))
    }
}

fn wrong_size(key: &str, found: ByteLen, recorded: ByteLen) -> Finding {
    let message = format!("it has {} bytes instead of {}", found.0, recorded.0);
    Finding { size: Some(found), ..Finding::new("wrong-size", key, message) }
}

/// An error that only says that the repository's bytes are wrong, in words.
pub(super) fn damage(error: Error) -> Result<String> {
    match error.kind() {
        ErrorKind::Damaged | ErrorKind::NotFound => Ok(error.chain()),
        _ => Err(error),
    }
}
