//! One merged disk: planned, then made in the repository that it is planned for.

use std::path::Path;
use std::sync::Arc;

use tidemark_catalog::Repository;
use tidemark_model::ByteLen;
use tidemark_qcow2::{MergeLayout, Merger};

use super::sources::DiskSources;
use super::{Progress, image};
use crate::error::{Error, Result};
use crate::image_file::{ImageFile, RangesFile, StoredImage};
use crate::queue::JobContext;
use crate::store::{self, ObjectStore, PlannedObject};

/// One merged disk to be, open and planned; nothing of it exists.
pub(super) struct PlannedDisk {
    pub(super) sources: DiskSources,
    pub(super) merger: Merger,
    pub(super) image: PlannedObject,
    pub(super) ranges: Option<PlannedObject>,
}

impl PlannedDisk {
    /// Makes it: durable, but not published.
    pub(super) async fn make(
        self,
        job: &JobContext,
        store: &ObjectStore,
        repository: &Repository,
        layout: MergeLayout,
        progress: &Arc<Progress>,
    ) -> Result<StoredImage> {
        let slots = &job.shared.disk_slots;
        let _slot = tokio::select! {
            slot = slots.queue([repository.id.into()]) => slot,
            () = job.cancel.cancelled() => return Err(Error::cancelled()),
        };
        let what = self.image.key().to_owned();
        let made = self.write(job, store, layout, Arc::clone(progress)).await;
        made.map_err(|error| error.context(format!("making {what}")))
    }

    async fn write(
        self,
        job: &JobContext,
        store: &ObjectStore,
        layout: MergeLayout,
        progress: Arc<Progress>,
    ) -> Result<StoredImage> {
        let Self { sources, merger, image, ranges } = self;
        let ranges = match ranges {
            Some(ranges) => Some(RangesFile::new(ranges.create(ByteLen(0)).await?)),
            None => None,
        };
        let cancel = job.cancel.clone();
        let estimate = merger.estimate();
        match (layout, store.folder().map(Path::to_path_buf)) {
            (MergeLayout::Shared, Some(folder)) => {
                let object = image.create_shared(estimate.fresh).await?;
                store::blocking("merging a disk", move || {
                    let (files, of) = (&sources.files, sources.ranges.as_deref());
                    let job = image::Job { merger, files, ranges: of, progress: &progress, cancel: &cancel };
                    job.share(object, ranges, &folder)
                })
                .await
            }
            _ => {
                let object = image.create(estimate.fresh).await?;
                store::blocking("merging a disk", move || {
                    let (files, of) = (&sources.files, sources.ranges.as_deref());
                    let job = image::Job { merger, files, ranges: of, progress: &progress, cancel: &cancel };
                    job.pack(ImageFile::new(object, ranges))
                })
                .await
            }
        }
    }
}
