//! How full a repository is: what the catalog says its objects weigh, and what the file system says.
//!
//! Where files share extents (after merges on XFS or Btrfs), the sum of sizes is more than what is used; only the file
//! system as a whole knows the latter, so that is what is told, and told apart.

use tidemark_catalog::Repository;
use tidemark_model::ByteLen;

use crate::engine::Engine;
use crate::error::Result;
use crate::store::{FileSystemSpace, ObjectStore};

/// How full a repository is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RepositorySpace {
    /// The sum of the sizes of all images and range digests that the catalog knows there.
    pub objects: ByteLen,
    /// The file system that holds it, with whatever else is on it; none where nobody knows, or it cannot be reached.
    pub file_system: Option<FileSystemSpace>,
}

impl Engine {
    /// How full a repository is now.
    ///
    /// # Errors
    /// Only those of the catalog: a repository that cannot be reached is shown without its file system.
    pub async fn repository_space(&self, repository: &Repository) -> Result<RepositorySpace> {
        let objects = self.catalog().stored_bytes(repository.id).await?;
        let file_system = match self.file_system_of(repository).await {
            Ok(space) => space,
            Err(error) => {
                tracing::info!(repository = repository.name, error = %error.chain(), "its space is not known");
                None
            }
        };
        Ok(RepositorySpace { objects, file_system })
    }

    async fn file_system_of(&self, repository: &Repository) -> Result<Option<FileSystemSpace>> {
        let (target, _) = self.shared.open_storage(repository, None, None).await?;
        ObjectStore::over(repository.name.clone(), target).await?.file_system().await
    }
}
