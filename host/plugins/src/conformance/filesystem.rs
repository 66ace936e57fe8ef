//! The duties of a file-system reader: it knows its own disks from others, crashes on none, and what it lists is what it
//! finds and reads. The disk with a file system on it is the trial's; blank and random ones are made here.

use std::sync::Arc;

use tidemark_model::{ByteLen, GuestOffset};

use super::{Report, Trial, ensure, words};
use crate::error::Error;
use crate::filesystem::{DirectoryEntry, GuestFilesystem, NodeKind, VolumeId};
use crate::offered::disk::{DiskRead, MAX_READ_BYTES, ReadOnlyDisk};
use crate::runtime::{Plugin, Runtime};

/// Where the disks are in the session.
const BLANK: u32 = 0;
const NOISE: u32 = 1;
const GIVEN: u32 = 2;
const MADE_BYTES: u32 = 1 << 20;
/// So much of a tree is looked at.
const MOST_NODES: usize = 10_000;
const PAGE: u32 = 100;

/// A disk whose bytes are a function of where they are.
struct Made {
    noise: bool,
}

impl ReadOnlyDisk for Made {
    fn size(&self) -> ByteLen {
        ByteLen(u64::from(MADE_BYTES))
    }

    fn read_at(&self, offset: GuestOffset, length: u32) -> DiskRead<'_> {
        // The high bits of a product with an odd number are as good as random here.
        let byte = move |at: u64| if self.noise { noise(at) } else { 0 };
        let bytes = (offset.0..offset.0 + u64::from(length)).map(byte).collect();
        Box::pin(async move { Ok(bytes) })
    }
}

fn noise(at: u64) -> u8 {
    let [byte, ..] = (at + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes();
    byte
}

pub(super) async fn run(
    runtime: &Runtime,
    plugin: &Plugin,
    trial: &Trial,
    report: &mut Report,
) -> Option<()> {
    let mut disks: Vec<Arc<dyn ReadOnlyDisk>> =
        vec![Arc::new(Made { noise: false }), Arc::new(Made { noise: true })];
    disks.extend(trial.disk.clone());
    let opened = runtime.guest_filesystem(plugin, trial.session(plugin), disks).await;
    let mut filesystem = report.settle("it starts", told(opened))?;
    for (disk, name) in [(BLANK, "a blank disk"), (NOISE, "a disk of random bytes")] {
        let ended = stranger(&mut filesystem, disk).await;
        report.settle(&format!("{name} is not taken for its own, and harms nobody"), ended);
    }
    if trial.disk.is_none() {
        return Some(());
    }
    let opened = own(&mut filesystem).await;
    let volume = report.settle("probe knows the disk, and open opens it", opened)?;
    let walked = walk(&mut filesystem, volume).await;
    let files = report.settle("what list shows is what lookup and stat find", walked)?;
    report.settle("files are read to their ends and no further", read(&mut filesystem, volume, &files).await);
    let disk = trial.disk.as_ref()?;
    let told = attributes(&mut filesystem, volume, &files).await;
    report.settle("what is set for files is told of each or of none", told);
    let placed = placed(&mut filesystem, volume, disk.as_ref(), &files).await;
    report.settle("where files are said to lie is what is read of them", placed);
    Some(())
}

fn told<T>(ended: Result<T, Error>) -> Result<T, String> {
    ended.map_err(|error| words(&error))
}

async fn stranger(filesystem: &mut GuestFilesystem, disk: u32) -> Result<(), String> {
    let found = told(filesystem.probe(disk).await)?;
    ensure(found.is_none(), || format!("probe takes it for {found:?}"))?;
    match filesystem.open(disk).await {
        Err(error) if error.is_misbehaviour() => Err(words(&error)),
        _ => Ok(()),
    }
}

async fn own(filesystem: &mut GuestFilesystem) -> Result<VolumeId, String> {
    let found = told(filesystem.probe(GIVEN).await)?;
    ensure(found.is_some(), || "probe does not know it".to_owned())?;
    let volume = told(filesystem.open(GIVEN).await)?;
    let info = told(filesystem.info(volume).await)?;
    ensure(!info.filesystem.is_empty(), || "info does not say which file system it is".to_owned())?;
    Ok(volume)
}

/// Every directory by pages; answers the files.
async fn walk(filesystem: &mut GuestFilesystem, volume: VolumeId) -> Result<Vec<DirectoryEntry>, String> {
    let mut waiting = vec![told(filesystem.root(volume).await)?];
    let (mut files, mut seen) = (Vec::new(), 0);
    while let Some(directory) = waiting.pop() {
        let mut cursor = 0;
        loop {
            let page = told(filesystem.list(volume, directory, cursor, PAGE).await)?;
            for entry in page.entries {
                found_again(filesystem, volume, directory, &entry).await?;
                match entry.stat.kind {
                    NodeKind::Directory => waiting.push(entry.stat.node),
                    NodeKind::File => files.push(entry),
                    NodeKind::Symlink => {
                        told(filesystem.readlink(volume, entry.stat.node).await).map(drop)?
                    }
                    NodeKind::Other => {}
                }
                seen += 1;
            }
            match page.next {
                Some(next) if seen < MOST_NODES => cursor = next,
                _ => break,
            }
        }
        if seen >= MOST_NODES {
            break;
        }
    }
    Ok(files)
}

async fn found_again(
    filesystem: &mut GuestFilesystem,
    volume: VolumeId,
    directory: u64,
    entry: &DirectoryEntry,
) -> Result<(), String> {
    let name = String::from_utf8_lossy(&entry.name);
    let looked_up = told(filesystem.lookup(volume, directory, &entry.name).await)?;
    let asked = told(filesystem.stat(volume, entry.stat.node).await)?;
    ensure(looked_up == entry.stat && asked == entry.stat, || {
        format!("'{name}': list says {:?}, lookup {looked_up:?}, stat {asked:?}", entry.stat)
    })
}

/// For readers that tell it at all.
async fn attributes(
    filesystem: &mut GuestFilesystem,
    volume: VolumeId,
    files: &[DirectoryEntry],
) -> Result<(), String> {
    let mut known = Vec::new();
    for entry in files {
        known.push(told(filesystem.attributes(volume, entry.stat.node).await)?.is_some());
    }
    known.dedup();
    ensure(known.len() < 2, || "of some files it is told, of others not".to_owned())
}

/// For readers that tell where files lie: the bytes there are those that they give.
async fn placed(
    filesystem: &mut GuestFilesystem,
    volume: VolumeId,
    disk: &dyn ReadOnlyDisk,
    files: &[DirectoryEntry],
) -> Result<(), String> {
    for entry in files {
        let (node, size) = (entry.stat.node, entry.stat.size_bytes);
        let name = String::from_utf8_lossy(&entry.name);
        let Some(runs) = told(filesystem.placed(volume, node, 0, disk.size()).await)? else { continue };
        ensure(runs.is_empty() == (size == 0), || {
            format!("'{name}' of {size} bytes lies in {} runs", runs.len())
        })?;
        let mut bytes = Vec::new();
        for run in runs {
            let left = u64::from(MAX_READ_BYTES) - bytes.len() as u64;
            let length = u32::try_from(run.length.0.min(left)).unwrap_or(0);
            match run.offset {
                Some(offset) => {
                    let read = disk.read_at(offset, length).await;
                    bytes.extend(read.map_err(|error| error.to_string())?);
                }
                None => bytes.resize(bytes.len() + length as usize, 0),
            }
        }
        let expected = told(filesystem.read(volume, node, None, 0, MAX_READ_BYTES).await)?;
        // Not all of them have to be told at once.
        ensure(expected.starts_with(&bytes), || format!("'{name}' has other bytes where it is said to lie"))?;
    }
    Ok(())
}

async fn read(
    filesystem: &mut GuestFilesystem,
    volume: VolumeId,
    files: &[DirectoryEntry],
) -> Result<(), String> {
    for entry in files {
        let (node, size) = (entry.stat.node, entry.stat.size_bytes);
        let name = String::from_utf8_lossy(&entry.name);
        for start in [0, size.saturating_sub(1), size] {
            let expected = (size - start).min(u64::from(MAX_READ_BYTES));
            let got = told(filesystem.read(volume, node, None, start, MAX_READ_BYTES).await)?;
            ensure(got.len() as u64 == expected, || {
                format!("'{name}' has {size} bytes, but from {start} on it gives {}", got.len())
            })?;
        }
        let beyond = told(filesystem.next_data(volume, node, size).await)?;
        ensure(beyond.is_none(), || format!("'{name}' has data beyond its end, at {beyond:?}"))?;
    }
    Ok(())
}
