//! The configured hypervisor connections.

use tidemark_model::ConnectorId;

use crate::Catalog;
use crate::error::{Error, ErrorKind, Result};
use crate::records::Connector;
use crate::statement::{Row, Statement};

impl Catalog {
    /// Adds a connector.
    ///
    /// # Errors
    /// `Conflict` when the name is taken, `Invalid` when it is empty.
    pub async fn add_connector(&self, connector: &Connector) -> Result<()> {
        let Connector { id, name, plugin, settings_json, secrets_json, created_at } = connector;
        let statement = Statement::new(
            "INSERT INTO connectors (id, name, plugin, settings_json, secrets_json, created_at)
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
    pub async fn update_connector(&self, connector: &Connector) -> Result<()> {
        let Connector { id, name, plugin, settings_json, secrets_json, created_at: _ } = connector;
        let statement = Statement::new(
            "UPDATE connectors SET name = $1, plugin = $2, settings_json = $3, secrets_json = $4 WHERE id = $5",
        );
        let statement = statement.bind(name).bind(plugin).bind(settings_json).bind(secrets_json).bind(*id);
        let changed = self.database.write(statement).await;
        match changed.map_err(|error| name_taken(error, name))? {
            0 => Err(Error::not_found("connector", id)),
            _ => Ok(()),
        }
    }

    /// The connector with this id, or else with this name.
    ///
    /// # Errors
    /// Only those of the database.
    pub async fn connector_by_name_or_id(&self, name_or_id: &str) -> Result<Option<Connector>> {
        // A name may look like an id; the id wins.
        let statement = Statement::new(
            "SELECT * FROM connectors WHERE id = $1 OR name = $2 ORDER BY CASE WHEN id = $1 THEN 0 ELSE 1 END",
        );
        let statement = statement.bind(name_or_id.to_lowercase().as_str()).bind(name_or_id);
        self.database.fetch_optional(statement).await?.map(|row| connector_of(&row)).transpose()
    }

    /// The connector with this id.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn connector(&self, id: ConnectorId) -> Result<Connector> {
        let statement = Statement::new("SELECT * FROM connectors WHERE id = $1").bind(id);
        let row = self.database.fetch_optional(statement).await?;
        connector_of(&row.ok_or_else(|| Error::not_found("connector", id))?)
    }

    /// All of them by name.
    ///
    /// # Errors
    /// Only those of the database.
    pub async fn list_connectors(&self) -> Result<Vec<Connector>> {
        let rows = self.database.fetch_all(Statement::new("SELECT * FROM connectors ORDER BY name")).await?;
        rows.iter().map(connector_of).collect()
    }

    /// Removes a connector that nothing refers to.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` while VMs refer to it.
    pub async fn remove_connector(&self, id: ConnectorId) -> Result<()> {
        let statement = Statement::new("DELETE FROM connectors WHERE id = $1").bind(id);
        let removed = self.database.write(statement).await;
        match removed.map_err(|error| error.meaning(ErrorKind::Conflict, "VMs refer to this connector"))? {
            0 => Err(Error::not_found("connector", id)),
            _ => Ok(()),
        }
    }
}

fn name_taken(error: Error, name: &str) -> Error {
    error.meaning(ErrorKind::Conflict, format!("a connector '{name}' exists already"))
}

fn connector_of(row: &Row) -> Result<Connector> {
    Ok(Connector {
        id: row.parsed("id")?,
        name: row.text("name")?,
        plugin: row.text("plugin")?,
        settings_json: row.text("settings_json")?,
        secrets_json: row.text("secrets_json")?,
        created_at: row.time("created_at")?,
    })
}
