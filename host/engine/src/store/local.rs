//! A file outside any repository that has its name once it is whole.

use std::path::Path;

use super::{Location, publish_local, remove_local};
use crate::error::Result;

/// Where it is built, and the name it gets.
#[derive(Debug)]
pub(crate) struct LocalFile {
    pub(crate) partial: Location,
    name: String,
}

impl LocalFile {
    /// Nothing exists yet.
    ///
    /// # Errors
    /// Invalid for a relative path.
    pub(crate) fn new(path: &Path) -> Result<Self> {
        let Location { folder, path: name } = Location::of(path)?;
        Ok(Self { partial: Location { folder, path: format!("{name}.partial") }, name })
    }

    /// Gives it its name; it must be durable.
    pub(crate) async fn publish(self) -> Result<()> {
        publish_local(self.partial, self.name).await
    }

    /// Removes what was built; done too where nothing was.
    pub(crate) async fn discard(self) -> Result<()> {
        remove_local(self.partial).await
    }
}
