//! The virtual machines under protection, and those known only from an imported repository.

use tidemark_model::{ConnectorId, UtcMillis, VmId};

use crate::Catalog;
use crate::error::{Error, ErrorKind, Result};
use crate::records::Vm;
use crate::statement::{Row, Statement};

impl Catalog {
    /// Adds the VM that the connector knows by `key`, or brings its name and inventory up to date.
    ///
    /// # Errors
    /// `Conflict` when there is no such connector, `Invalid` when the key is empty.
    pub async fn upsert_vm(
        &self,
        connector: ConnectorId,
        key: &str,
        name: &str,
        inventory_json: &str,
        now: UtcMillis,
    ) -> Result<Vm> {
        let statement = Statement::new(
            "INSERT INTO vms (id, connector_id, vm_key, name, inventory_json, created_at)
             VALUES ($1, $2, $3, $4, $5, $6)
             ON CONFLICT (connector_id, vm_key)
             DO UPDATE SET name = excluded.name, inventory_json = excluded.inventory_json
             RETURNING *",
        );
        let statement = statement.bind(VmId::random()).bind(connector).bind(key).bind(name);
        let rows = self.database.write_returning(statement.bind(inventory_json).bind(now)).await;
        let rows =
            rows.map_err(|error| error.meaning(ErrorKind::Conflict, "the VM's connector is unknown"))?;
        vm_of(rows.first().ok_or_else(|| Error::not_found("VM", key))?)
    }

    /// Adds a VM as a manifest describes it, under the id it had; for the import of a repository. Answers `false`
    /// and changes nothing where the id is known.
    ///
    /// # Errors
    /// `Conflict` when its connector is unknown or has another VM with the same key.
    pub async fn import_vm(&self, vm: &Vm) -> Result<bool> {
        let Vm { id, connector_id, key, name, inventory_json, created_at } = vm;
        let statement = Statement::new(
            "INSERT INTO vms (id, connector_id, vm_key, name, inventory_json, created_at)
             VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (id) DO NOTHING",
        );
        let statement = statement.bind(*id).bind(*connector_id).bind(key).bind(name);
        let added = self.database.write(statement.bind(inventory_json).bind(*created_at)).await;
        Ok(added.map_err(|error| {
            error.meaning(ErrorKind::Conflict, "the connector is unknown or has another VM with this key")
        })? == 1)
    }

    /// Gives an imported VM the connector it is found by from now on.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` when it has a connector already or the connector knows its key as another VM.
    pub async fn attach_vm(&self, id: VmId, connector: ConnectorId) -> Result<()> {
        let statement =
            Statement::new("UPDATE vms SET connector_id = $1 WHERE id = $2 AND connector_id IS NULL");
        let changed = self.database.write(statement.bind(connector).bind(id)).await;
        if changed.map_err(|error| {
            error.meaning(ErrorKind::Conflict, "the connector is unknown or has another VM with this key")
        })? == 1
        {
            return Ok(());
        }
        let vm = self.vm(id).await?;
        Err(Error::conflict(format!("the VM '{}' already belongs to a connector", vm.name)))
    }

    /// The VM with this id, or else the one with this name.
    ///
    /// # Errors
    /// `Conflict` when several VMs bear the name: then only an id will do.
    pub async fn vm_by_name_or_id(&self, name_or_id: &str) -> Result<Option<Vm>> {
        let statement = Statement::new(
            "SELECT * FROM vms WHERE id = $1 OR name = $2
             ORDER BY CASE WHEN id = $1 THEN 0 ELSE 1 END, id LIMIT 2",
        );
        let statement = statement.bind(name_or_id.to_lowercase().as_str()).bind(name_or_id);
        let rows = self.database.fetch_all(statement).await?;
        let vms = rows.iter().map(vm_of).collect::<Result<Vec<Vm>>>()?;
        match vms.as_slice() {
            [] => Ok(None),
            [one] => Ok(Some(one.clone())),
            [first, ..] if first.id.to_string() == name_or_id.to_lowercase() => Ok(Some(first.clone())),
            [..] => Err(Error::conflict(format!("several VMs are named '{name_or_id}': give the id"))),
        }
    }

    /// The VM with this id.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn vm(&self, id: VmId) -> Result<Vm> {
        let row =
            self.database.fetch_optional(Statement::new("SELECT * FROM vms WHERE id = $1").bind(id)).await?;
        vm_of(&row.ok_or_else(|| Error::not_found("VM", id))?)
    }

    /// The VM that the connector knows by `key`.
    ///
    /// # Errors
    /// Only those of the database.
    pub async fn vm_of_connector(&self, connector: ConnectorId, key: &str) -> Result<Option<Vm>> {
        let statement = Statement::new("SELECT * FROM vms WHERE connector_id = $1 AND vm_key = $2");
        let row = self.database.fetch_optional(statement.bind(connector).bind(key)).await?;
        row.as_ref().map(vm_of).transpose()
    }

    /// The VM of this key and name that has no connector: the first one by id, as an import may bring several.
    ///
    /// # Errors
    /// Only those of the database.
    pub async fn orphaned_vm(&self, key: &str, name: &str) -> Result<Option<Vm>> {
        let statement = Statement::new(
            "SELECT * FROM vms WHERE name = $1 AND vm_key = $2 AND connector_id IS NULL ORDER BY id LIMIT 1",
        );
        let row = self.database.fetch_optional(statement.bind(name).bind(key)).await?;
        row.as_ref().map(vm_of).transpose()
    }

    /// All of them by name.
    ///
    /// # Errors
    /// Only those of the database.
    pub async fn list_vms(&self) -> Result<Vec<Vm>> {
        let rows = self.database.fetch_all(Statement::new("SELECT * FROM vms ORDER BY name, id")).await?;
        rows.iter().map(vm_of).collect()
    }

    /// Records the name and the inventory as seen now.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn update_vm_inventory(&self, id: VmId, name: &str, inventory_json: &str) -> Result<()> {
        let statement = Statement::new("UPDATE vms SET name = $1, inventory_json = $2 WHERE id = $3");
        match self.database.write(statement.bind(name).bind(inventory_json).bind(id)).await? {
            0 => Err(Error::not_found("VM", id)),
            _ => Ok(()),
        }
    }

    /// Ends the protection of a VM that has no backups.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` while it has backups.
    pub async fn remove_vm(&self, id: VmId) -> Result<()> {
        let removed = self.database.write(Statement::new("DELETE FROM vms WHERE id = $1").bind(id)).await;
        match removed.map_err(|error| error.meaning(ErrorKind::Conflict, "the VM has backups"))? {
            0 => Err(Error::not_found("VM", id)),
            _ => Ok(()),
        }
    }
}

fn vm_of(row: &Row) -> Result<Vm> {
    Ok(Vm {
        id: row.parsed("id")?,
        connector_id: row.opt_parsed("connector_id")?,
        key: row.text("vm_key")?,
        name: row.text("name")?,
        inventory_json: row.text("inventory_json")?,
        created_at: row.time("created_at")?,
    })
}
