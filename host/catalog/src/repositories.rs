//! The places for backups.

use tidemark_model::RepositoryId;

use crate::Catalog;
use crate::error::{Error, ErrorKind, Result};
use crate::records::Repository;
use crate::statement::{Row, Statement};

impl Catalog {
    /// Adds a repository.
    ///
    /// # Errors
    /// `Conflict` when the name is taken, `Invalid` when it is empty.
    pub async fn add_repository(&self, repository: &Repository) -> Result<()> {
        let Repository { id, name, plugin, settings_json, secrets_json, created_at } = repository;
        let statement = Statement::new(
            "INSERT INTO repositories (id, name, plugin, settings_json, secrets_json, created_at)
             VALUES ($1, $2, $3, $4, $5, $6)",
        );
        let statement = statement.bind(*id).bind(name).bind(plugin).bind(settings_json).bind(secrets_json);
        let added = self.database.write(statement.bind(*created_at)).await;
        added.map_err(|error| name_taken(error, name))?;
        Ok(())
    }

    /// Replaces everything but the id and the time of adding.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` when the new name is taken.
    pub async fn update_repository(&self, repository: &Repository) -> Result<()> {
        let Repository { id, name, plugin, settings_json, secrets_json, created_at: _ } = repository;
        let statement = Statement::new(
            "UPDATE repositories SET name = $1, plugin = $2, settings_json = $3, secrets_json = $4 WHERE id = $5",
        );
        let statement = statement.bind(name).bind(plugin).bind(settings_json).bind(secrets_json).bind(*id);
        let changed = self.database.write(statement).await;
        match changed.map_err(|error| name_taken(error, name))? {
            0 => Err(Error::not_found("repository", id)),
            _ => Ok(()),
        }
    }

    /// The repository with this id, or else with this name.
    ///
    /// # Errors
    /// Only those of the database.
    pub async fn repository_by_name_or_id(&self, name_or_id: &str) -> Result<Option<Repository>> {
        // A name may look like an id; the id wins.
        let statement = Statement::new(
            "SELECT * FROM repositories WHERE id = $1 OR name = $2 ORDER BY CASE WHEN id = $1 THEN 0 ELSE 1 END",
        );
        let statement = statement.bind(name_or_id.to_lowercase().as_str()).bind(name_or_id);
        self.database.fetch_optional(statement).await?.map(|row| repository_of(&row)).transpose()
    }

    /// The repository with this id.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn repository(&self, id: RepositoryId) -> Result<Repository> {
        let statement = Statement::new("SELECT * FROM repositories WHERE id = $1").bind(id);
        let row = self.database.fetch_optional(statement).await?;
        repository_of(&row.ok_or_else(|| Error::not_found("repository", id))?)
    }

    /// All of them by name.
    ///
    /// # Errors
    /// Only those of the database.
    pub async fn list_repositories(&self) -> Result<Vec<Repository>> {
        let rows =
            self.database.fetch_all(Statement::new("SELECT * FROM repositories ORDER BY name")).await?;
        rows.iter().map(repository_of).collect()
    }

    /// Removes a repository that nothing refers to.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` while backups or doomed objects refer to it.
    pub async fn remove_repository(&self, id: RepositoryId) -> Result<()> {
        let statement = Statement::new("DELETE FROM repositories WHERE id = $1").bind(id);
        let removed = self.database.write(statement).await;
        match removed.map_err(|error| {
            error.meaning(ErrorKind::Conflict, "backups or doomed objects refer to this repository")
        })? {
            0 => Err(Error::not_found("repository", id)),
            _ => Ok(()),
        }
    }
}

fn name_taken(error: Error, name: &str) -> Error {
    error.meaning(ErrorKind::Conflict, format!("a repository '{name}' exists already"))
}

fn repository_of(row: &Row) -> Result<Repository> {
    Ok(Repository {
        id: row.parsed("id")?,
        name: row.text("name")?,
        plugin: row.text("plugin")?,
        settings_json: row.text("settings_json")?,
        secrets_json: row.text("secrets_json")?,
        created_at: row.time("created_at")?,
    })
}
