//! What lies in a repository, finished or not, and how old it is: what a check holds against the catalog.

use std::fs::File;
use std::os::unix::fs::MetadataExt as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tidemark_model::ByteLen;

use super::{ObjectStore, blocking, folder, found};
use crate::error::{Error, Result};
use crate::step::ObjectRef;

/// All that a repository lists.
#[derive(Debug)]
pub(crate) struct Survey {
    /// Published objects and foreign files, with their sizes.
    pub(crate) objects: Vec<(String, ByteLen)>,
    /// The keys of objects under construction, or left so.
    pub(crate) unfinished: Vec<String>,
}

/// An object that is, or was left, under construction.
#[derive(Debug)]
pub(crate) struct Unfinished {
    pub(crate) reference: ObjectRef,
    pub(crate) size: ByteLen,
    pub(crate) age: Duration,
}

impl ObjectStore {
    pub(crate) async fn survey(&mut self) -> Result<Survey> {
        let page = self.page("").await?;
        let objects = page.objects.into_iter().map(|object| (object.key, object.size)).collect();
        Ok(Survey { objects, unfinished: page.unfinished })
    }

    /// How long ago an object was written, renamed or copied here; none where it does not exist.
    pub(crate) async fn age(&mut self, key: &str) -> Result<Option<Duration>> {
        found(self.open_object(key).await)?.map(|file| looked_at(key, &file).map(|(_, age)| age)).transpose()
    }

    /// What is known of an object under construction; none where there is none.
    pub(crate) async fn unfinished(&mut self, key: &str) -> Result<Option<Unfinished>> {
        // The plugin's plan names the file; nothing is made by planning.
        let planned = self.begin(key, 0).await?;
        let reference = ObjectRef { key: key.to_owned(), token: planned.token().to_owned() };
        let opened = blocking("opening an object", move || folder::open(&planned.location)).await;
        let Some(file) = found(opened)? else { return Ok(None) };
        let (size, age) = looked_at(key, &file)?;
        Ok(Some(Unfinished { reference, size, age }))
    }

    /// Removes what is under construction, never what is published under the same key.
    pub(crate) async fn abandon(&mut self, object: &ObjectRef) -> Result<()> {
        for operation in self.target.abort(&object.key, &object.token).await? {
            self.execute(operation).await?;
        }
        Ok(())
    }
}

fn looked_at(key: &str, file: &File) -> Result<(ByteLen, Duration)> {
    let metadata = file.metadata().map_err(|e| Error::io(format!("object {key}"), e))?;
    // A copy may bring an old time of writing along; the time of the last change of the file itself is of here.
    let newest = metadata.mtime().max(metadata.ctime());
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let age = now.saturating_sub(Duration::from_secs(u64::try_from(newest).unwrap_or(0)));
    Ok((ByteLen(metadata.len()), age))
}
