//! Folders as one ZIP or TAR.GZ, made while it is sent: no temporary file, and the memory of one piece. Links are kept as links
//! and never followed. Whatever cannot be read whole breaks the archive off, so that it cannot be taken for complete.

use std::collections::HashSet;
use std::io::{self, Write};
use std::sync::Arc;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use tidemark_plugins::{NodeKind, NodeStat};
use time::OffsetDateTime;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use zip::write::{SimpleFileOptions, ZipWriter};

use super::content::Content;
use super::download::FileStream;
use super::folder::{Folder, bounded};
use super::path::{below, shown};
use super::volume::{Node, Volume};
use super::{Mount, received};
use crate::engine::Shared;
use crate::error::{Error, Result};

/// Pieces that may wait for the receiver.
const QUEUE: usize = 4;
/// Small writes are gathered up to this.
const GATHERED: usize = 64 << 10;

/// How folders are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArchiveFormat {
    /// ZIP, with ZIP64 where it is needed; names are UTF-8.
    Zip,
    /// A tar archive, compressed with gzip.
    TarGz,
}

/// The archive of some paths of a mount, made as it is taken.
pub(super) fn stream(
    shared: Arc<Shared>,
    mount: Arc<Mount>,
    paths: Vec<String>,
    format: ArchiveFormat,
) -> FileStream {
    let (sender, receiver) = mpsc::channel::<Result<Bytes>>(QUEUE);
    let handle = Handle::current();
    let task = tokio::task::spawn_blocking(move || {
        let out = Outlet { sender: sender.clone(), gathered: Vec::with_capacity(GATHERED) };
        let source = Source { shared, mount, handle };
        let packed = match format {
            ArchiveFormat::Zip => zip(&source, &paths, out),
            ArchiveFormat::TarGz => tar_gz(&source, &paths, out),
        };
        if let Err(error) = packed {
            // Nobody listens where the receiver went away.
            let _ = sender.blocking_send(Err(error));
        }
    });
    received(receiver, task)
}

/// What the archive's writer writes goes to whoever takes the stream.
struct Outlet {
    sender: mpsc::Sender<Result<Bytes>>,
    gathered: Vec<u8>,
}

impl Write for Outlet {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.gathered.extend_from_slice(bytes);
        if self.gathered.len() >= GATHERED {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.gathered.is_empty() {
            return Ok(());
        }
        let bytes = Bytes::from(std::mem::replace(&mut self.gathered, Vec::with_capacity(GATHERED)));
        let sent = self.sender.blocking_send(Ok(bytes));
        sent.map_err(|_| io::Error::new(io::ErrorKind::BrokenPipe, "the receiver went away"))
    }
}

/// Where the files come from.
struct Source {
    shared: Arc<Shared>,
    mount: Arc<Mount>,
    handle: Handle,
}

/// One thing to pack.
struct Item {
    /// Its place in the archive.
    name: String,
    stat: NodeStat,
    node: Node,
}

/// One thing that was found in a folder.
struct Waiting {
    folder: Arc<Folder>,
    name: String,
    stat: NodeStat,
    node: Node,
}

/// Names that were given in a folder of the archive.
#[derive(Default)]
struct Given(HashSet<String>);

impl Given {
    /// A name for something, which nothing else in the folder has: no two become one when they are unpacked.
    fn name(&mut self, name: &str) -> String {
        let plain = safe(name);
        let mut given = plain.clone();
        let mut number = 2;
        while !self.0.insert(given.clone()) {
            given = format!("{plain} ({number})");
            number += 1;
        }
        given
    }
}

impl Source {
    /// Goes through all paths and what is below them, folders before what is in them.
    fn walk(&self, paths: &[String], pack: &mut dyn FnMut(&Volume, &Item) -> Result<()>) -> Result<()> {
        let mut given = Given::default();
        for path in paths {
            let (volume, rest) = self.mount.volume(path)?;
            let _using = volume.using();
            let (stat, node) = self.handle.block_on(async {
                let mut held = volume.hold(&self.shared).await?;
                let stat = held.find(&rest).await?;
                let node = held.node(&stat);
                Ok::<_, Error>((stat, node))
            })?;
            // A path that leads into a volume has a last part.
            let name = given.name(rest.last().unwrap_or(&volume.segment.as_str()));
            let top = Folder::top(name.clone(), node.number);
            let item = Item { name, stat, node };
            self.readable(volume, &item)?;
            pack(volume, &item)?;
            let mut waiting: Vec<Waiting> = Vec::new();
            if item.stat.kind == NodeKind::Directory {
                self.look_into(volume, &top, node, &mut waiting)?;
            }
            while let Some(Waiting { folder, name, stat, node }) = waiting.pop() {
                let item = Item { name: below(&folder.path, &name), stat, node };
                self.readable(volume, &item)?;
                pack(volume, &item)?;
                if item.stat.kind == NodeKind::Directory {
                    let inner = folder.inner(&name, node.number)?;
                    self.look_into(volume, &inner, node, &mut waiting)?;
                }
            }
        }
        Ok(())
    }

    /// Adds what is in a folder, the first on top.
    fn look_into(
        &self,
        volume: &Volume,
        folder: &Arc<Folder>,
        node: Node,
        waiting: &mut Vec<Waiting>,
    ) -> Result<()> {
        let entries = self
            .handle
            .block_on(async { volume.hold_for(&self.shared, node).await?.entries(node.number).await })?;
        let mut given = Given::default();
        let entries = entries.into_iter().map(|entry| Waiting {
            folder: Arc::clone(folder),
            name: given.name(&shown(&entry.name)),
            node: Node { number: entry.stat.node, ..node },
            stat: entry.stat,
        });
        let mut entries: Vec<Waiting> = entries.collect();
        entries.reverse();
        waiting.append(&mut entries);
        bounded(waiting)
    }

    /// That something which is neither file, folder nor link is a device or the like, which has nothing to restore, and not
    /// a file that is too damaged to be told.
    fn readable(&self, volume: &Volume, item: &Item) -> Result<()> {
        if item.stat.kind != NodeKind::Other {
            return Ok(());
        }
        let stat = self
            .handle
            .block_on(async { volume.hold_for(&self.shared, item.node).await?.stat(item.node.number).await });
        stat.map(drop).map_err(|error| error.context(format!("'{}'", item.name)))
    }

    /// Has every byte of a file taken by whoever packs it. What failed is told by the reader's own error, not by the one that
    /// the packer wraps it in.
    fn packed<T>(
        &self,
        volume: &Volume,
        item: &Item,
        pack: impl FnOnce(&mut Pull<'_>) -> io::Result<T>,
    ) -> Result<()> {
        let content = self.mount.content(&self.shared, volume, item.node, 0..item.stat.size_bytes);
        let mut pull = Pull { source: self, item, content, piece: Bytes::new(), failed: None };
        let packed = pack(&mut pull);
        match pull.failed {
            Some(error) => Err(error),
            None => packed.map(drop).map_err(sending),
        }
    }

    fn link(&self, volume: &Volume, item: &Item) -> Result<String> {
        let target = self.handle.block_on(async {
            volume.hold_for(&self.shared, item.node).await?.link(item.node.number).await
        })?;
        Ok(shown(&target))
    }
}

fn zip(source: &Source, paths: &[String], out: Outlet) -> Result<()> {
    let mut zip = ZipWriter::new_stream(out);
    source.walk(paths, &mut |volume, item| {
        let options = SimpleFileOptions::default()
            .unix_permissions(mode(&item.stat))
            .last_modified_time(zip_time(item.stat.modified_ns))
            .large_file(item.stat.size_bytes >= u64::from(u32::MAX));
        match item.stat.kind {
            NodeKind::Directory => zip.add_directory(item.name.as_str(), options).map_err(packing),
            NodeKind::Symlink => {
                let target = source.link(volume, item)?;
                zip.add_symlink(item.name.as_str(), target, options).map_err(packing)
            }
            NodeKind::File => {
                zip.start_file(item.name.as_str(), options).map_err(packing)?;
                source.packed(volume, item, |pull| io::copy(pull, &mut zip))
            }
            // Devices and sockets have nothing to restore.
            NodeKind::Other => Ok(()),
        }
    })?;
    let mut out = zip.finish().map_err(packing)?;
    out.flush().map_err(sending)
}

fn tar_gz(source: &Source, paths: &[String], out: Outlet) -> Result<()> {
    let mut tar = tar::Builder::new(GzEncoder::new(out, Compression::fast()));
    source.walk(paths, &mut |volume, item| {
        let NodeStat { kind, size_bytes, modified_ns, owner, group, .. } = &item.stat;
        let number = |id: &Option<String>| id.as_deref().and_then(|id| id.parse::<u64>().ok()).unwrap_or(0);
        let mut header = tar::Header::new_gnu();
        header.set_mode(mode(&item.stat));
        header.set_uid(number(owner));
        header.set_gid(number(group));
        // Older than 1970 cannot be said.
        header.set_mtime(modified_ns.and_then(|ns| u64::try_from(ns / 1_000_000_000).ok()).unwrap_or(0));
        header.set_size(0);
        match kind {
            NodeKind::Directory => {
                header.set_entry_type(tar::EntryType::Directory);
                tar.append_data(&mut header, format!("{}/", item.name), io::empty()).map_err(sending)
            }
            NodeKind::Symlink => {
                header.set_entry_type(tar::EntryType::Symlink);
                let target = source.link(volume, item)?;
                tar.append_link(&mut header, &item.name, target).map_err(sending)
            }
            NodeKind::File => {
                header.set_entry_type(tar::EntryType::Regular);
                header.set_size(*size_bytes);
                source.packed(volume, item, |pull| tar.append_data(&mut header, &item.name, pull))
            }
            NodeKind::Other => Ok(()),
        }
    })?;
    let gzip = tar.into_inner().map_err(sending)?;
    let mut out = gzip.finish().map_err(sending)?;
    out.flush().map_err(sending)
}

/// A file that is read by whoever packs it.
struct Pull<'a> {
    source: &'a Source,
    item: &'a Item,
    content: Content<'a>,
    piece: Bytes,
    failed: Option<Error>,
}

impl io::Read for Pull<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.piece.is_empty() {
            match self.source.handle.block_on(self.content.next()) {
                Ok(piece) => self.piece = piece.unwrap_or_default(),
                Err(error) => {
                    self.failed = Some(error.context(format!("'{}'", self.item.name)));
                    return Err(io::Error::other("the file cannot be read"));
                }
            }
        }
        let count = self.piece.len().min(into.len());
        let part = self.piece.split_to(count);
        if let Some(into) = into.get_mut(..count) {
            into.copy_from_slice(&part);
        }
        Ok(count)
    }
}

/// Unix permissions, also of what has none.
fn mode(stat: &NodeStat) -> u32 {
    let usual = if stat.kind == NodeKind::Directory { 0o755 } else { 0o644 };
    stat.mode.unwrap_or(usual) & 0o7777
}

/// A name that leads nowhere else on the machine that unpacks it: a backslash parts folders on Windows.
fn safe(name: &str) -> String {
    name.replace(['\\', '/', '\0'], "_")
}

fn zip_time(modified_ns: Option<i64>) -> zip::DateTime {
    let moment = modified_ns.and_then(|ns| OffsetDateTime::from_unix_timestamp_nanos(i128::from(ns)).ok());
    // ZIP's years go from 1980 to 2107; what lies outside gets the first moment.
    moment
        .and_then(|moment| {
            let year = u16::try_from(moment.year()).ok()?;
            let (month, day) = (u8::from(moment.month()), moment.day());
            zip::DateTime::from_date_and_time(
                year,
                month,
                day,
                moment.hour(),
                moment.minute(),
                moment.second(),
            )
            .ok()
        })
        .unwrap_or_default()
}

fn packing(error: zip::result::ZipError) -> Error {
    Error::io("packing a ZIP".to_owned(), io::Error::other(error))
}

fn sending(error: io::Error) -> Error {
    Error::io("sending an archive".to_owned(), error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_things_of_a_folder_have_one_name() {
        let mut given = Given::default();
        let names: Vec<String> =
            ["a\\b", "a_b", "a/b", "a_b (2)", "c"].into_iter().map(|name| given.name(name)).collect();
        assert_eq!(names, ["a_b", "a_b (2)", "a_b (3)", "a_b (2) (2)", "c"]);
    }
}
