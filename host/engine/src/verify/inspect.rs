//! What can be said of an image without reading its data: present, as large as recorded, sound in structure, in its
//! place in the chain. Several images at a time, as a large one's tables take their time.

use std::fs::File;
use std::sync::{Arc, Mutex, PoisonError};

use tidemark_catalog::RangeDigests;
use tidemark_model::{ByteLen, Extent, GuestOffset, VerifyLevel};
use tidemark_qcow2::{CLUSTER_SIZE, Image, ReadAt};

use super::finding::Kind;
use super::objects::Link;
use super::ranges::DamagedRanges;
use super::scan::{Layer, Work};
use crate::error::{Error, ErrorKind, Result};
use crate::ranges::RangeIndex;

/// A file, or why it could not be opened.
pub(super) type Opened = std::result::Result<File, (Kind, String)>;

/// An image that is to be inspected.
pub(super) struct Subject {
    pub(super) link: Link,
    pub(super) image: Opened,
    /// None where none were ever recorded.
    pub(super) digests: Option<Opened>,
}

/// An image that was inspected.
pub(super) struct Inspected {
    pub(super) link: Link,
    /// What can be read of it.
    pub(super) layer: Option<Layer>,
    /// What is wrong with the image.
    pub(super) trouble: Option<(Kind, String)>,
    /// What is wrong with its range digests.
    pub(super) digests_trouble: Option<String>,
    /// Of an image that cannot be read at all, the guest's ranges that it stored.
    pub(super) lost: Option<DamagedRanges>,
}

/// Inspects all, in their order.
pub(super) fn inspect_all(
    subjects: Vec<Subject>,
    level: VerifyLevel,
    work: &Work<'_>,
) -> Result<Vec<Inspected>> {
    let threads = work.threads.min(subjects.len()).max(1);
    let done: Mutex<Vec<(usize, Result<Inspected>)>> = Mutex::default();
    let waiting = Mutex::new(subjects.into_iter().enumerate());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let next = waiting.lock().unwrap_or_else(PoisonError::into_inner).next();
                    let Some((number, subject)) = next else { return };
                    let inspected = inspect(subject, level, work);
                    done.lock().unwrap_or_else(PoisonError::into_inner).push((number, inspected));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(number, _)| *number);
    done.into_iter().map(|(_, inspected)| inspected).collect()
}

fn inspect(subject: Subject, level: VerifyLevel, work: &Work<'_>) -> Result<Inspected> {
    let Subject { link, image, digests } = subject;
    if work.cancel.is_cancelled() {
        return Err(Error::cancelled());
    }
    let (mut index, mut digests_trouble) = (None, None);
    match (digests, &link.disk.ranges) {
        (Some(Ok(file)), Some(recorded)) => match damage(check_digests(file, recorded, level, work))? {
            Ok(found) => index = Some(found),
            Err(message) => digests_trouble = Some(message),
        },
        (Some(Err((_, message))), _) => digests_trouble = Some(format!("the range digests: {message}")),
        _ => {}
    }
    let (mut layer, mut lost) = (None, None);
    let trouble = match image {
        Err(found) => Some(found),
        Ok(file) => {
            let kind = kind_of_size(&file, &link)?;
            match damage(open(&file, &link))? {
                Err(message) => Some((kind, message)),
                Ok((image, wrong)) => {
                    layer = Some(Layer { file: Arc::new(file), image, digests: None });
                    wrong.map(|message| (kind, message))
                }
            }
        }
    };
    match &mut layer {
        Some(layer) => layer.digests = index,
        None if level > VerifyLevel::Quick => lost = index.map(|index| all_ranges(&index)).transpose()?,
        None => {}
    }
    Ok(Inspected { link, layer, trouble, digests_trouble, lost })
}

fn kind_of_size(file: &File, link: &Link) -> Result<Kind> {
    let size = file.metadata().map_err(|e| Error::io("an object's size", e))?.len();
    Ok(if size == link.disk.stored.0 { Kind::Structure } else { Kind::Size })
}

/// Opens an image. What is wrong with one that can be read all the same stands beside it.
fn open(file: &File, link: &Link) -> Result<(Image, Option<String>)> {
    let size = file.metadata().map_err(|e| Error::io("an object's size", e))?.len();
    let mut wrong = Vec::new();
    if size != link.disk.stored.0 {
        wrong.push(format!("has {size} bytes instead of {}", link.disk.stored.0));
    }
    let source: Arc<dyn ReadAt> =
        Arc::new(file.try_clone().map_err(|e| Error::io("a handle on an object", e))?);
    let image = match Image::open(source) {
        Ok(image) if image.header().cluster_size() == CLUSTER_SIZE => image,
        Ok(image) => {
            wrong.push(format!("has clusters of {} bytes", image.header().cluster_size()));
            return Err(Error::damaged(wrong.join("; ")));
        }
        Err(error) => {
            wrong.push(format!("is no sound image: {}", Error::from(error).into_damage()?));
            return Err(Error::damaged(wrong.join("; ")));
        }
    };
    if image.backing_name() != link.backing.as_deref() {
        let (names, expected) = (image.backing_name(), link.backing.as_deref());
        wrong.push(format!("names the backing file {names:?} instead of {expected:?}"));
    }
    if image.virtual_size() != link.disk.capacity {
        wrong.push(format!("shows a disk of {} instead of {}", image.virtual_size(), link.disk.capacity));
    }
    match tidemark_qcow2::check(&image) {
        Ok(report) if report.is_clean() => {}
        Ok(report) => wrong.push(format!("is not sound in structure: {}", report.problems.join(", "))),
        Err(error) => {
            wrong.push(format!("is not sound in structure: {}", Error::from(error).into_damage()?));
        }
    }
    Ok((image, (!wrong.is_empty()).then(|| wrong.join("; "))))
}

fn check_digests(
    file: File,
    recorded: &RangeDigests,
    level: VerifyLevel,
    work: &Work<'_>,
) -> Result<RangeIndex> {
    let what = |message: String| Error::damaged(format!("the range digests: {message}"));
    let size = file.metadata().map_err(|e| Error::io("an object's size", e))?.len();
    if size != recorded.stored.0 {
        return Err(what(format!("have {size} bytes instead of {}", recorded.stored.0)));
    }
    if level > VerifyLevel::Quick {
        let found = digest_of(&file, work)?;
        if found != recorded.digest {
            return Err(what(format!("have the BLAKE3 digest {found} instead of {}", recorded.digest)));
        }
    }
    RangeIndex::open(file)
}

fn digest_of(file: &File, work: &Work<'_>) -> Result<String> {
    crate::digest::of_file(file, work.read, work.cancel)
        .map_err(|e| Error::reading("the range digests cannot be read", "reading range digests", e))?
        .ok_or_else(Error::cancelled)
}

/// The ranges of which an object has digests.
fn all_ranges(index: &RangeIndex) -> Result<DamagedRanges> {
    let mut ranges = DamagedRanges::default();
    let mut scan = index.scan(GuestOffset(0))?;
    while let Some((guest, _)) = scan.next()? {
        ranges.add(Extent { offset: guest, length: ByteLen(CLUSTER_SIZE) });
    }
    Ok(ranges)
}

/// Damage is told; any other error ends the work without a verdict.
fn damage<T>(result: Result<T>) -> Result<std::result::Result<T, String>> {
    match result {
        Ok(value) => Ok(Ok(value)),
        Err(error) if error.kind() == ErrorKind::Damaged => Ok(Err(error.chain())),
        Err(error) => Err(error),
    }
}
