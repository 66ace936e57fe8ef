//! Moves one disk: reads ranges from a source, encodes them on several threads, and appends a QCOW2 image.
//!
//! ```text
//! work (ascending) ─▶ reads in flight ─▶ encoders ─▶ one writer thread: ImageWriter ─▶ digest ─▶ file
//!                       (in order)        (in order)      (bounded channel before it)  └─▶ range digests
//! ```
//! Memory is bounded by requests in flight plus the channel; a slow target holds the reads back. Data that is stored
//! as it is goes from the read's memory to the disk without a copy. The result is a durable image,
//! its header written last, that has no name yet: [`crate::store`] publishes it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt as _, stream};
use tidemark_model::{ByteLen, Extent, ExtentList, GuestOffset};
use tidemark_qcow2::{
    CLUSTER_SIZE, ClusterEncoder, Compression, EncodedCluster, FinishedImage, ImageSpec, ImageWriter,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Result};
use crate::image_file::{ImageFile, RangesFile, StoredImage};
use crate::ranges::RangeDigest;
use crate::source::Source;
use crate::store::{PendingObject, aligned_memory};

/// The longest read: `qemu-nbd` faults on every buffer of 2 MiB and more, and shorter ones wake more tasks.
const REQUEST: usize = 1 << 20;
/// Bytes of reads in flight, or done and waiting for their turn, however few or many requests that are.
const IN_FLIGHT: usize = 8 << 20;
/// The grain in which bytes in flight are counted: a cluster.
const GRAIN: usize = 64 << 10;
/// Output is appended in pieces of about this size.
const APPEND: usize = 1 << 20;
/// Encoded requests that may wait for the writer.
const WRITER_QUEUE: usize = 2;

/// What of a disk is to be stored.
#[derive(Debug, Clone)]
pub(crate) struct MovePlan {
    /// Ranges to read, on the cluster grid.
    pub(crate) read: ExtentList,
    /// Ranges known to be zero that must mask the parent, on the cluster grid.
    pub(crate) zero: ExtentList,
}

impl MovePlan {
    /// Full: what is allocated. Incremental: what changed; of that, what is not allocated any more is zero now.
    /// Everything counts as allocated where nobody can tell.
    pub(crate) fn new(
        capacity: ByteLen,
        changed: Option<&ExtentList>,
        allocated: Option<ExtentList>,
    ) -> Self {
        let allocated =
            allocated.unwrap_or_else(|| ExtentList::whole(capacity)).aligned(CLUSTER_SIZE, capacity);
        match changed {
            None => Self { read: allocated, zero: ExtentList::empty() },
            Some(changed) => {
                let changed = changed.aligned(CLUSTER_SIZE, capacity);
                Self { read: changed.intersection(&allocated), zero: changed.difference(&allocated) }
            }
        }
    }
}

/// How hard to try.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MoveTuning {
    /// Requests in flight at the most; fewer where they are long.
    pub(crate) reads: usize,
    /// Encoding threads.
    pub(crate) encoders: usize,
}

/// How far a disk is, shared with whoever reports it. Bytes of the guest, but for `stored`.
#[derive(Debug, Default)]
pub(crate) struct MoveProgress {
    pub(crate) planned: AtomicU64,
    pub(crate) read: AtomicU64,
    pub(crate) zero: AtomicU64,
    pub(crate) stored: AtomicU64,
}

/// The objects that a disk is moved to.
#[derive(Debug)]
pub(crate) struct MoveTarget {
    pub(crate) image: PendingObject,
    /// For the digests of the guest's ranges; none where nobody asks for them later.
    pub(crate) ranges: Option<PendingObject>,
}

/// A moved disk.
#[derive(Debug)]
pub(crate) struct MovedDisk {
    pub(crate) image: StoredImage,
    pub(crate) read: ByteLen,
    pub(crate) skipped: ByteLen,
    pub(crate) moved_ms: u64,
}

#[derive(Clone, Copy)]
enum Work {
    Read(Extent),
    Zero(Extent),
}

enum Block {
    /// The clusters from an offset on, each with its digest where that does not depend on its place, and the memory
    /// they were read into.
    Clusters(GuestOffset, Vec<(EncodedCluster, Option<RangeDigest>)>, Bytes),
    Zero(Extent),
}

/// Moves one disk to the end: durable, header and all, but not published.
pub(crate) async fn move_disk(
    source: &Source,
    plan: &MovePlan,
    spec: ImageSpec,
    target: MoveTarget,
    tuning: MoveTuning,
    progress: &Arc<MoveProgress>,
    cancel: &CancellationToken,
) -> Result<MovedDisk> {
    let started = Instant::now();
    let capacity = spec.virtual_size;
    progress.planned.store(plan.read.total().0, Ordering::Relaxed);
    // Without compression an encoder only looks for zeros, which is quicker than another thread's waking up.
    let inline = spec.compression == Compression::None;
    let writer = ImageWriter::new(spec).map_err(Error::from)?;
    let encoders = EncoderPool::new(writer.encoder(), inline, target.ranges.is_some());
    let memory = BufferPool::default();
    let (sender, receiver) = mpsc::channel(WRITER_QUEUE);
    let (thread_progress, thread_memory) = (Arc::clone(progress), memory.clone());
    let writing = tokio::task::spawn_blocking(move || {
        write_image(writer, target, receiver, &thread_memory, &thread_progress)
    });

    let fed = tokio::select! {
        biased;
        () = cancel.cancelled() => Err(Error::cancelled()),
        fed = feed(source, work_list(plan), tuning, &encoders, &memory, progress, sender) => fed,
    };
    // The sender is gone by now: the writer ends, well or not, and its error is the more telling one.
    let written = writing.await.map_err(|e| Error::internal(format!("the image writer panicked: {e}")))?;
    let (finished, file) = match (fed, written) {
        (Ok(Fed::All), Ok(written)) => written,
        (Err(error), _) | (Ok(_), Err(error)) => return Err(error),
        (Ok(Fed::WriterGone), Ok(_)) => return Err(Error::internal("the image writer ended early")),
    };
    let image = seal(finished, file).await?;
    let read = ByteLen(progress.read.load(Ordering::Relaxed));
    let zero = progress.zero.load(Ordering::Relaxed);
    progress.stored.store(image.object.size().0, Ordering::Relaxed);
    Ok(MovedDisk {
        image,
        read,
        skipped: ByteLen(capacity.0.saturating_sub(read.0.saturating_sub(zero))),
        moved_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
    })
}

/// What a read filled, and its share of the budget.
type Filled = (BytesMut, Option<OwnedSemaphorePermit>);

/// Whether all work reached the writer.
enum Fed {
    All,
    WriterGone,
}

async fn feed(
    source: &Source,
    work: Vec<Work>,
    tuning: MoveTuning,
    encoders: &EncoderPool,
    memory: &BufferPool,
    progress: &MoveProgress,
    sender: mpsc::Sender<Block>,
) -> Result<Fed> {
    let budget = Arc::new(Semaphore::new(IN_FLIGHT / GRAIN));
    let blocks = stream::iter(work)
        // One after the other, so that the first in line never waits for what later ones hold; kept until its turn comes,
        // as reads that overtook others take memory, too.
        .then(move |item| {
            let budget = Arc::clone(&budget);
            async move {
                let share = match item {
                    Work::Zero(_) => None,
                    Work::Read(extent) => budget.acquire_many_owned(grains(extent.length)).await.ok(),
                };
                (item, share)
            }
        })
        .map(|(item, share)| async move {
            match item {
                Work::Zero(extent) => Ok((extent, None)),
                Work::Read(extent) => {
                    source.read(extent, memory.take()).await.map(|bytes| (extent, Some((bytes, share))))
                }
            }
        })
        .buffered(tuning.reads)
        .map(|read: Result<(Extent, Option<Filled>)>| async move {
            match read? {
                (extent, None) => Ok(Block::Zero(extent)),
                (extent, Some((bytes, share))) => {
                    drop(share);
                    progress.read.fetch_add(extent.length.0, Ordering::Relaxed);
                    encoders.encode(extent.offset, bytes).await
                }
            }
        })
        .buffered(tuning.encoders);
    let mut blocks = std::pin::pin!(blocks);
    while let Some(block) = blocks.next().await {
        if sender.send(block?).await.is_err() {
            return Ok(Fed::WriterGone);
        }
    }
    Ok(Fed::All)
}

/// What a read takes of the budget.
fn grains(length: ByteLen) -> u32 {
    let most = u32::try_from(IN_FLIGHT / GRAIN).unwrap_or(1);
    u32::try_from(length.0.div_ceil(GRAIN as u64)).map_or(most, |grains| grains.min(most))
}

/// Reads cut to requests, with the zero ranges between them, by ascending offset.
fn work_list(plan: &MovePlan) -> Vec<Work> {
    let mut work: Vec<Work> = plan.zero.iter().map(Work::Zero).collect();
    for extent in plan.read.iter() {
        let mut offset = extent.offset.0;
        while offset < extent.end().0 {
            // Requests end on multiples of their size, so that long runs are read on an even grid.
            let end = ((offset / REQUEST as u64 + 1) * REQUEST as u64).min(extent.end().0);
            work.push(Work::Read(Extent { offset: GuestOffset(offset), length: ByteLen(end - offset) }));
            offset = end;
        }
    }
    work.sort_unstable_by_key(|item| match item {
        Work::Read(extent) | Work::Zero(extent) => extent.offset,
    });
    work
}

/// Encoders with warm contexts, one for each thread that happens to encode.
#[derive(Clone)]
struct EncoderPool {
    template: Arc<ClusterEncoder>,
    idle: Arc<Mutex<Vec<ClusterEncoder>>>,
    /// Encode where one is, on no other thread.
    inline: bool,
    /// Whether compressed clusters get a digest.
    digests: bool,
}

impl EncoderPool {
    fn new(template: ClusterEncoder, inline: bool, digests: bool) -> Self {
        Self { template: Arc::new(template), idle: Arc::default(), inline, digests }
    }

    async fn encode(&self, offset: GuestOffset, bytes: BytesMut) -> Result<Block> {
        let bytes = bytes.freeze();
        if self.inline {
            return Ok(self.encode_here(offset, bytes));
        }
        let pool = self.clone();
        tokio::task::spawn_blocking(move || pool.encode_here(offset, bytes))
            .await
            .map_err(|e| Error::internal(format!("an encoder panicked: {e}")))
    }

    fn encode_here(&self, offset: GuestOffset, bytes: Bytes) -> Block {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut encoder = idle.unwrap_or_else(|| ClusterEncoder::clone(&self.template));
        let mut rest = bytes.clone();
        let mut clusters = Vec::with_capacity(rest.len() / 65536 + 1);
        while !rest.is_empty() {
            let cluster = rest.split_to(rest.len().min(65536));
            let encoded = encoder.encode(cluster.clone());
            let wanted = self.digests && matches!(encoded, EncodedCluster::Compressed(_));
            clusters.push((encoded, wanted.then(|| RangeDigest::of(&cluster, None))));
        }
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(encoder);
        Block::Clusters(offset, clusters, bytes)
    }
}

/// Memory for reads that was used before: fresh memory costs a page fault for every 4 KiB of the disk.
#[derive(Clone, Default)]
struct BufferPool {
    idle: Arc<Mutex<Vec<BytesMut>>>,
}

impl BufferPool {
    fn take(&self) -> BytesMut {
        let used = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        used.unwrap_or_else(|| aligned_memory(REQUEST))
    }

    /// Takes back those buffers of which nothing waits to be written any more, wherever they stand: a cluster that
    /// waits for others must not hold back the memory of all that comes after it.
    fn take_back(&self, used: &mut Vec<Bytes>) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let mut place = 0;
        while let Some(buffer) = used.get(place) {
            if !buffer.is_unique() {
                place += 1;
                continue;
            }
            idle.extend(used.swap_remove(place).try_into_mut());
        }
    }
}

type Written = (FinishedImage, ImageFile);

/// The writer thread. Ends when the sender is dropped or at the first error.
fn write_image(
    mut writer: ImageWriter,
    target: MoveTarget,
    mut blocks: mpsc::Receiver<Block>,
    memory: &BufferPool,
    progress: &MoveProgress,
) -> Result<Written> {
    let MoveTarget { image, ranges } = target;
    let mut file = ImageFile::new(image, ranges.map(RangesFile::new));
    let mut used = Vec::new();
    while let Some(block) = blocks.blocking_recv() {
        match block {
            Block::Zero(extent) => writer.zero(extent)?,
            Block::Clusters(offset, clusters, read) => {
                push_clusters(&mut writer, &mut file, offset, clusters, progress)?;
                used.push(read);
            }
        }
        if writer.pending() >= APPEND {
            file.append(writer.take_output())?;
            progress.stored.store(file.written(), Ordering::Relaxed);
        }
        memory.take_back(&mut used);
    }
    let mut finished = writer.finish()?;
    file.append(std::mem::take(&mut finished.tail))?;
    Ok((finished, file))
}

fn push_clusters(
    writer: &mut ImageWriter,
    file: &mut ImageFile,
    offset: GuestOffset,
    clusters: Vec<(EncodedCluster, Option<RangeDigest>)>,
    progress: &MoveProgress,
) -> Result<()> {
    let mut guest = offset;
    for (cluster, digest) in clusters {
        if cluster == EncodedCluster::Zero {
            progress.zero.fetch_add(CLUSTER_SIZE, Ordering::Relaxed);
        }
        let plain_at = writer.push(guest, cluster)?;
        file.note(guest, plain_at, digest);
        guest = GuestOffset(guest.0 + CLUSTER_SIZE);
    }
    Ok(())
}

async fn seal(finished: FinishedImage, file: ImageFile) -> Result<StoredImage> {
    tokio::task::spawn_blocking(move || file.seal(finished.header))
        .await
        .map_err(|e| Error::internal(format!("sealing an image panicked: {e}")))?
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAPACITY: ByteLen = ByteLen(100 * CLUSTER_SIZE);

    fn list(ranges: &[(u64, u64)]) -> ExtentList {
        let ranges =
            ranges.iter().map(|&(o, l)| Extent::new(o * CLUSTER_SIZE, l * CLUSTER_SIZE).unwrap()).collect();
        ExtentList::checked(ranges, CAPACITY).unwrap()
    }

    #[test]
    fn memory_comes_back_although_a_cluster_waits() {
        let (pool, mut used) = (BufferPool::default(), Vec::new());
        let filled = || {
            let mut buffer = pool.take();
            buffer.resize(REQUEST, 1);
            buffer.freeze()
        };
        let first = filled();
        let waiting = first.slice(..10);
        used.push(first);
        for _ in 0..100 {
            used.push(filled());
            pool.take_back(&mut used);
        }
        assert_eq!((used.len(), pool.idle.lock().unwrap().len()), (1, 1));
        drop(waiting);
        pool.take_back(&mut used);
        assert!(used.is_empty());
    }

    #[test]
    fn a_full_reads_what_is_allocated_and_all_where_nobody_knows() {
        assert_eq!(MovePlan::new(CAPACITY, None, Some(list(&[(3, 2)]))).read, list(&[(3, 2)]));
        assert_eq!(MovePlan::new(CAPACITY, None, None).read, list(&[(0, 100)]));
    }

    #[test]
    fn an_incremental_masks_what_was_freed() {
        let changed = list(&[(0, 4), (10, 4)]);
        let plan = MovePlan::new(CAPACITY, Some(&changed), Some(list(&[(2, 10)])));
        assert_eq!(plan.read, list(&[(2, 2), (10, 2)]));
        assert_eq!(plan.zero, list(&[(0, 2), (12, 2)]));
    }
}
