//! Whom a finding concerns. An object that cannot be relied on concerns every backup that needs it; damaged clusters
//! concern the backups in whose view they are, which is found out by what the images above store themselves.

use std::sync::Arc;

use tidemark_catalog::{Backup, BackupDisk};
use tidemark_model::{ByteLen, DiskKey, Extent, ExtentList};
use tidemark_qcow2::{CLUSTER_SIZE, Image};

use super::finding::{Finding, Kind};
use crate::chain;
use crate::engine::Shared;
use crate::error::{ErrorKind, Result};
use crate::store::{self, ObjectStore};

/// Fills in each finding's affected backups, of the whole chain: newer ones than that which was verified too.
pub(super) async fn find_affected(
    shared: &Shared,
    store: &mut ObjectStore,
    findings: &mut [Finding],
) -> Result<()> {
    for finding in findings {
        if matches!(finding.kind, Kind::Manifest | Kind::RangeDigests) {
            continue;
        }
        finding.affected.insert(finding.backup_id);
        // Of an object that is damaged in itself the ranges only tell where it shows.
        let by_view = finding.ranges.clone().filter(|_| finding.kind == Kind::Data);
        let mut open = vec![(finding.backup_id, by_view)];
        while let Some((id, shown)) = open.pop() {
            for child in shared.catalog.children(id).await? {
                let visible = match (&shown, &finding.disk) {
                    (Some(ranges), Some((_, key))) => still_visible(store, &child, key, ranges).await?,
                    _ => None,
                };
                if visible.as_ref().is_none_or(|ranges| !ranges.is_empty()) {
                    finding.affected.insert(child.id);
                    open.push((child.id, visible));
                }
            }
        }
    }
    Ok(())
}

/// What of the damaged ranges a backup's own image does not hide. An image that cannot be read hides nothing.
async fn still_visible(
    store: &mut ObjectStore,
    backup: &Backup,
    disk: &DiskKey,
    damaged: &ExtentList,
) -> Result<Option<ExtentList>> {
    let all = || Ok(Some(damaged.clone()));
    let Some(disk) = backup.disks.iter().find(|link| link.disk_key == *disk) else { return all() };
    match hidden(store, disk, damaged).await {
        Ok(hidden) => {
            let inside = damaged.intersection(&ExtentList::whole(disk.capacity));
            Ok(Some(inside.difference(&hidden)))
        }
        Err(error) if matches!(error.kind(), ErrorKind::Damaged | ErrorKind::NotFound) => all(),
        Err(error) => Err(error),
    }
}

/// Which of the ranges an image stores itself.
async fn hidden(store: &mut ObjectStore, disk: &BackupDisk, damaged: &ExtentList) -> Result<ExtentList> {
    let file = chain::open_object(store, disk).await?;
    let (ranges, capacity): (Vec<Extent>, ByteLen) = (damaged.iter().collect(), disk.capacity);
    store::blocking("looking into an image", move || {
        let image = Image::open(Arc::new(file))?;
        let mut own = Vec::new();
        for range in ranges.into_iter().filter(|range| range.offset.0 < capacity.0) {
            for cluster in image.stored_clusters(range) {
                let guest = cluster?.guest;
                let length = ByteLen(CLUSTER_SIZE.min(capacity.0.saturating_sub(guest.0)));
                own.push(Extent { offset: guest, length });
            }
        }
        Ok(ExtentList::checked(own, capacity).unwrap_or_default())
    })
    .await
}
