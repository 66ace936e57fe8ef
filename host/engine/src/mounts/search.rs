//! Files by their names. What is found is sent while the search goes on, so that neither a large volume nor a broad pattern
//! costs memory, and whoever has seen enough ends it by not listening.

use std::sync::Arc;

use futures_util::stream::BoxStream;
use globset::{GlobBuilder, GlobMatcher};
use tidemark_plugins::NodeKind;
use tokio::sync::mpsc;

use super::folder::{Folder, bounded};
use super::path::{below, normal, parts};
use super::volume::Volume;
use super::{FileEntry, Mount, file, received};
use crate::engine::{Engine, Shared};
use crate::error::{Error, Result};

/// What may wait for the receiver.
const QUEUE: usize = 256;

/// What a search finds, as it finds it. An error ends it.
pub type FoundStream = BoxStream<'static, Result<FileEntry>>;

struct Search {
    shared: Arc<Shared>,
    mount: Arc<Mount>,
    glob: GlobMatcher,
    sender: mpsc::Sender<Result<FileEntry>>,
}

impl Engine {
    /// Everything below a folder whose name fits a pattern (`*.docx`, `report-??.pdf`), whatever the case of its letters.
    ///
    /// # Errors
    /// As [`Engine::files`]; invalid for a pattern that is none. What fails later ends the stream.
    pub async fn search(&self, id: &str, path: &str, pattern: &str) -> Result<FoundStream> {
        let mount = self.mounted(id).await?;
        let glob = GlobBuilder::new(pattern).case_insensitive(true).literal_separator(true).build();
        let glob = glob.map_err(|error| Error::invalid_field("name", error.to_string()))?.compile_matcher();
        if parts(path).is_none_or(|parts| !parts.is_empty()) {
            // A path that leads nowhere is told before the answer begins.
            let (volume, rest) = mount.volume(path)?;
            let mut held = volume.hold(&self.shared).await?;
            held.find(&rest).await.map_err(|error| error.context(format!("'{path}'")))?;
        }
        let (sender, receiver) = mpsc::channel(QUEUE);
        let search = Search { shared: Arc::clone(&self.shared), mount, glob, sender };
        let path = path.to_owned();
        let task = tokio::spawn(async move {
            if let Err(error) = search.run(&path).await {
                // Nobody listens where the receiver went away.
                let _ = search.sender.send(Err(error)).await;
            }
        });
        Ok(received(receiver, task))
    }
}

impl Search {
    async fn run(&self, path: &str) -> Result<()> {
        if parts(path).is_some_and(|parts| parts.is_empty()) {
            for volume in self.mount.volumes.iter().filter(|volume| volume.info.is_some()) {
                self.volume(volume, &below("", &volume.segment), &[]).await?;
            }
            return Ok(());
        }
        let (volume, rest) = self.mount.volume(path)?;
        self.volume(volume, &normal(path), &rest).await
    }

    async fn volume(&self, volume: &Volume, path: &str, rest: &[&str]) -> Result<()> {
        let mut held = volume.hold(&self.shared).await?;
        let root = held.find(rest).await.map_err(|error| error.context(format!("'{path}'")))?;
        let session = held.node(&root);
        drop(held);
        let _using = volume.using();
        let mut waiting = vec![(None::<Arc<Folder>>, String::new(), root.node)];
        while let Some((above, name, node)) = waiting.pop() {
            let folder = match above {
                Some(above) => above.inner(&name, node)?,
                None => Folder::top(path.to_owned(), node),
            };
            let mut cursor = Some(0);
            while let Some(at) = cursor {
                // As long as somebody waits for it, a search uses its mount.
                self.mount.touch(self.shared.clock.now());
                self.shared.mounts.get(&self.mount.id)?;
                // Held for a page at a time, so that a long search keeps nobody out.
                let (entries, next) = volume.hold_for(&self.shared, session).await?.page(node, at).await?;
                for entry in entries {
                    let (node, kind) = (entry.stat.node, entry.stat.kind);
                    let entry = file(&folder.path, entry);
                    if kind == NodeKind::Directory {
                        waiting.push((Some(Arc::clone(&folder)), entry.name.clone(), node));
                    }
                    if self.glob.is_match(&entry.name) && self.sender.send(Ok(entry)).await.is_err() {
                        return Ok(());
                    }
                }
                bounded(&waiting)?;
                if self.sender.is_closed() {
                    return Ok(());
                }
                cursor = next;
            }
        }
        Ok(())
    }
}
