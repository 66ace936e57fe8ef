//! The configured connections: to hypervisors (connectors) and to places for backups (repositories). Both are a
//! plugin with settings and secrets, in a table of their own each, so that nothing refers to the wrong sort.

use std::fmt::Display;

use tidemark_model::{ByteLen, ConnectorId, RepositoryId, UtcMillis};

use crate::Catalog;
use crate::error::{Error, ErrorKind, Result};
use crate::records::{Connector, Repository};
use crate::statement::{Row, Statement, Value};

/// One of the two tables.
struct Table {
    name: &'static str,
    noun: &'static str,
    /// Columns of bounds that only this sort has.
    bounds: &'static [&'static str],
    /// Why a row cannot go.
    in_use: &'static str,
}

const CONNECTORS: Table = Table {
    name: "connectors",
    noun: "connector",
    bounds: &["max_disks"],
    in_use: "VMs refer to this connector",
};

const REPOSITORIES: Table = Table {
    name: "repositories",
    noun: "repository",
    bounds: &["max_disks", "bandwidth_bytes"],
    in_use: "backups or doomed objects refer to this repository",
};

/// A row of either table but for its id.
struct Fields<'a> {
    name: &'a str,
    plugin: &'a str,
    settings_json: &'a str,
    secrets_json: &'a str,
    /// In the order of the table's.
    bounds: Vec<Option<i64>>,
    created_at: UtcMillis,
}

impl Catalog {
    /// Adds a connector.
    ///
    /// # Errors
    /// `Conflict` when the name is taken, `Invalid` when it is empty.
    pub async fn add_connector(&self, connector: &Connector) -> Result<()> {
        self.add_to(&CONNECTORS, connector.id.into(), &connector_fields(connector)).await
    }

    /// Adds a repository.
    ///
    /// # Errors
    /// `Conflict` when the name is taken, `Invalid` when it is empty.
    pub async fn add_repository(&self, repository: &Repository) -> Result<()> {
        self.add_to(&REPOSITORIES, repository.id.into(), &repository_fields(repository)?).await
    }

    /// Replaces everything but the id and the time of adding.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` when the new name is taken.
    pub async fn update_connector(&self, connector: &Connector) -> Result<()> {
        self.update_in(&CONNECTORS, connector.id, &connector_fields(connector)).await
    }

    /// Replaces everything but the id and the time of adding.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` when the new name is taken.
    pub async fn update_repository(&self, repository: &Repository) -> Result<()> {
        self.update_in(&REPOSITORIES, repository.id, &repository_fields(repository)?).await
    }

    /// The connector with this id, or else with this name.
    ///
    /// # Errors
    /// Only those of the database.
    pub async fn connector_by_name_or_id(&self, name_or_id: &str) -> Result<Option<Connector>> {
        self.find_in(&CONNECTORS, name_or_id).await?.as_ref().map(connector_of).transpose()
    }

    /// The repository with this id, or else with this name.
    ///
    /// # Errors
    /// Only those of the database.
    pub async fn repository_by_name_or_id(&self, name_or_id: &str) -> Result<Option<Repository>> {
        self.find_in(&REPOSITORIES, name_or_id).await?.as_ref().map(repository_of).transpose()
    }

    /// The connector with this id.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn connector(&self, id: ConnectorId) -> Result<Connector> {
        connector_of(&self.row_of(&CONNECTORS, id).await?)
    }

    /// The repository with this id.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn repository(&self, id: RepositoryId) -> Result<Repository> {
        repository_of(&self.row_of(&REPOSITORIES, id).await?)
    }

    /// All of them by name.
    ///
    /// # Errors
    /// Only those of the database.
    pub async fn list_connectors(&self) -> Result<Vec<Connector>> {
        self.rows_of(&CONNECTORS).await?.iter().map(connector_of).collect()
    }

    /// All of them by name.
    ///
    /// # Errors
    /// Only those of the database.
    pub async fn list_repositories(&self) -> Result<Vec<Repository>> {
        self.rows_of(&REPOSITORIES).await?.iter().map(repository_of).collect()
    }

    /// Removes a connector that nothing refers to.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` while VMs refer to it.
    pub async fn remove_connector(&self, id: ConnectorId) -> Result<()> {
        self.remove_from(&CONNECTORS, id).await
    }

    /// Removes a repository that nothing refers to.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` while backups or doomed objects refer to it.
    pub async fn remove_repository(&self, id: RepositoryId) -> Result<()> {
        self.remove_from(&REPOSITORIES, id).await
    }

    async fn add_to(&self, table: &Table, id: Value, fields: &Fields<'_>) -> Result<()> {
        let Fields { name, plugin, settings_json, secrets_json, bounds, created_at } = fields;
        let columns: String = table.bounds.iter().map(|column| format!(", {column}")).collect();
        let places: String = (0..bounds.len()).map(|bound| format!(", ${}", bound + 7)).collect();
        let statement = Statement::new(format!(
            "INSERT INTO {} (id, name, plugin, settings_json, secrets_json, created_at{columns})
             VALUES ($1, $2, $3, $4, $5, $6{places})",
            table.name
        ));
        let statement = statement.bind(id).bind(*name).bind(*plugin).bind(*settings_json).bind(*secrets_json);
        let statement =
            bounds.iter().fold(statement.bind(*created_at), |statement, bound| statement.bind(*bound));
        let added = self.database.write(statement).await;
        added.map_err(|error| name_taken(error, table, name))?;
        Ok(())
    }

    async fn update_in<I>(&self, table: &Table, id: I, fields: &Fields<'_>) -> Result<()>
    where
        I: Into<Value> + Display + Copy,
    {
        let Fields { name, plugin, settings_json, secrets_json, bounds, created_at: _ } = fields;
        let columns = table.bounds.iter().enumerate();
        let columns: String = columns.map(|(bound, column)| format!(", {column} = ${}", bound + 6)).collect();
        let statement = Statement::new(format!(
            "UPDATE {} SET name = $1, plugin = $2, settings_json = $3, secrets_json = $4{columns} WHERE id = $5",
            table.name
        ));
        let statement = statement.bind(*name).bind(*plugin).bind(*settings_json).bind(*secrets_json);
        let statement = bounds.iter().fold(statement.bind(id), |statement, bound| statement.bind(*bound));
        let rows = self.database.write(statement).await;
        match rows.map_err(|error| name_taken(error, table, name))? {
            0 => Err(Error::not_found(table.noun, id)),
            _ => Ok(()),
        }
    }

    async fn find_in(&self, table: &Table, name_or_id: &str) -> Result<Option<Row>> {
        // A name may look like an id; the id wins.
        let statement = Statement::new(format!(
            "SELECT * FROM {} WHERE id = $1 OR name = $2 ORDER BY CASE WHEN id = $1 THEN 0 ELSE 1 END",
            table.name
        ));
        let statement = statement.bind(name_or_id.to_lowercase().as_str()).bind(name_or_id);
        self.database.fetch_optional(statement).await
    }

    async fn row_of<I: Into<Value> + Display + Copy>(&self, table: &Table, id: I) -> Result<Row> {
        let statement = Statement::new(format!("SELECT * FROM {} WHERE id = $1", table.name)).bind(id);
        let row = self.database.fetch_optional(statement).await?;
        row.ok_or_else(|| Error::not_found(table.noun, id))
    }

    async fn rows_of(&self, table: &Table) -> Result<Vec<Row>> {
        let statement = Statement::new(format!("SELECT * FROM {} ORDER BY name", table.name));
        self.database.fetch_all(statement).await
    }

    async fn remove_from<I: Into<Value> + Display + Copy>(&self, table: &Table, id: I) -> Result<()> {
        let statement = Statement::new(format!("DELETE FROM {} WHERE id = $1", table.name)).bind(id);
        let removed = self.database.write(statement).await;
        match removed.map_err(|error| error.meaning(ErrorKind::Conflict, table.in_use))? {
            0 => Err(Error::not_found(table.noun, id)),
            _ => Ok(()),
        }
    }
}

fn name_taken(error: Error, table: &Table, name: &str) -> Error {
    error.meaning(ErrorKind::Conflict, format!("a {} '{name}' exists already", table.noun))
}

fn connector_fields(connector: &Connector) -> Fields<'_> {
    let Connector { id: _, name, plugin, settings_json, secrets_json, max_disks, created_at } = connector;
    let (bounds, created_at) = (vec![max_disks.map(i64::from)], *created_at);
    Fields { name, plugin, settings_json, secrets_json, bounds, created_at }
}

fn repository_fields(repository: &Repository) -> Result<Fields<'_>> {
    let Repository { id: _, name, plugin, settings_json, secrets_json, max_disks, bandwidth, created_at } =
        repository;
    let bandwidth =
        match bandwidth {
            Some(ByteLen(bytes)) => Some(i64::try_from(*bytes).map_err(|_| {
                Error::invalid(format!("a bandwidth of {bytes} bytes a second is out of range"))
            })?),
            None => None,
        };
    let bounds = vec![max_disks.map(i64::from), bandwidth];
    Ok(Fields { name, plugin, settings_json, secrets_json, bounds, created_at: *created_at })
}

fn connector_of(row: &Row) -> Result<Connector> {
    Ok(Connector {
        id: row.parsed("id")?,
        name: row.text("name")?,
        plugin: row.text("plugin")?,
        settings_json: row.text("settings_json")?,
        secrets_json: row.text("secrets_json")?,
        max_disks: row.opt_unsigned("max_disks")?,
        created_at: row.time("created_at")?,
    })
}

fn repository_of(row: &Row) -> Result<Repository> {
    Ok(Repository {
        id: row.parsed("id")?,
        name: row.text("name")?,
        plugin: row.text("plugin")?,
        settings_json: row.text("settings_json")?,
        secrets_json: row.text("secrets_json")?,
        max_disks: row.opt_unsigned("max_disks")?,
        bandwidth: row.opt_unsigned("bandwidth_bytes")?.map(ByteLen),
        created_at: row.time("created_at")?,
    })
}
