//! Installed plugin versions, which of them is active, and what the administrator granted.
//!
//! ```text
//!   installed ──activate──▶ active ──activate another──▶ installed
//!       └────two strikes─────────┴──▶ quarantined ──release──▶ installed
//! ```
//!
//! Each activation is written down, so that a rollback knows what was active before.

use tidemark_model::UtcMillis;

use crate::Catalog;
use crate::database::Transaction;
use crate::error::{Error, ErrorKind, Result};
use crate::records::{Grant, PluginVersion};
use crate::statement::{Row, Statement};

/// Sessions in a row in which a version may misbehave before it is not used any more.
pub(crate) const STRIKES: u32 = 2;

impl Catalog {
    /// Adds a version with its component, neither active nor quarantined whatever the record says.
    ///
    /// # Errors
    /// `Conflict` when this version is installed already; `Invalid` for an unknown kind of plugin.
    pub async fn add_plugin_version(&self, plugin: &PluginVersion, component: &[u8]) -> Result<()> {
        let PluginVersion {
            name,
            version,
            kind,
            digest,
            manifest_json,
            installed_at,
            active: _,
            quarantine: _,
            signed_by,
            strikes: _,
        } = plugin;
        let mut transaction = self.database.begin().await?;
        let statement = Statement::new(
            "INSERT INTO plugin_versions (name, version, kind, digest, manifest_json, installed_at, active, signed_by)
             VALUES ($1, $2, $3, $4, $5, $6, 0, $7)",
        );
        let statement = statement.bind(name).bind(version).bind(kind).bind(digest).bind(manifest_json);
        let added = transaction.execute(statement.bind(*installed_at).bind(signed_by.as_deref())).await;
        added.map_err(|error| {
            error.meaning(ErrorKind::Conflict, format!("plugin {name} {version} is installed already"))
        })?;
        transaction.execute(keep_component(digest, component)).await?;
        transaction.commit().await
    }

    /// Keeps a component that only hosts have so far, as those that were installed before the catalog had any.
    ///
    /// # Errors
    /// Only those of the database.
    pub async fn keep_plugin_component(&self, digest: &str, component: &[u8]) -> Result<()> {
        let known = Statement::new("SELECT digest FROM plugin_components WHERE digest = $1").bind(digest);
        if self.database.fetch_optional(known).await?.is_none() {
            self.database.write(keep_component(digest, component)).await?;
        }
        Ok(())
    }

    /// The component with this digest.
    ///
    /// # Errors
    /// Only those of the database.
    pub async fn plugin_component(&self, digest: &str) -> Result<Option<Vec<u8>>> {
        let query = Statement::new("SELECT bytes FROM plugin_components WHERE digest = $1").bind(digest);
        self.database.fetch_optional(query).await?.map(|row| row.bytes("bytes")).transpose()
    }

    /// Makes this the version that new jobs use, in place of the one before.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` when it is quarantined.
    pub async fn activate_plugin(&self, name: &str, version: &str, now: UtcMillis) -> Result<PluginVersion> {
        let mut transaction = self.database.begin().await?;
        let plugin = lock(&mut transaction, name, version).await?;
        activate(&mut transaction, &plugin, now).await?;
        let plugin = lock(&mut transaction, name, version).await?;
        transaction.commit().await?;
        Ok(plugin)
    }

    /// What [`Catalog::rollback_plugin`] would activate: the last other version that was active and may be again.
    ///
    /// # Errors
    /// Only those of the database.
    pub async fn previous_plugin(&self, name: &str) -> Result<Option<PluginVersion>> {
        let row = self.database.fetch_optional(previous(name)).await?;
        row.map(|row| plugin_of(&row)).transpose()
    }

    /// The version that was activated last, in quarantine or not.
    ///
    /// # Errors
    /// Only those of the database.
    pub async fn last_activated_plugin(&self, name: &str) -> Result<Option<PluginVersion>> {
        let query = Statement::new(
            "SELECT plugin_versions.* FROM plugin_versions
             JOIN plugin_activations ON plugin_activations.name = plugin_versions.name
                 AND plugin_activations.version = plugin_versions.version
             WHERE plugin_versions.name = $1 ORDER BY plugin_activations.sequence DESC LIMIT 1",
        );
        self.database.fetch_optional(query.bind(name)).await?.map(|row| plugin_of(&row)).transpose()
    }

    /// Activates the version that was active before. Rolling back twice returns to where it began.
    ///
    /// # Errors
    /// `NotFound` when there is none.
    pub async fn rollback_plugin(&self, name: &str, now: UtcMillis) -> Result<PluginVersion> {
        let mut transaction = self.database.begin().await?;
        let row = transaction.fetch_optional(previous(name)).await?;
        let plugin = plugin_of(&row.ok_or_else(|| Error::not_found("earlier version of plugin", name))?)?;
        activate(&mut transaction, &plugin, now).await?;
        transaction.commit().await?;
        Ok(PluginVersion { active: true, ..plugin })
    }

    /// The active version of a plugin.
    ///
    /// # Errors
    /// Only those of the database.
    pub async fn active_plugin(&self, name: &str) -> Result<Option<PluginVersion>> {
        let query = Statement::new("SELECT * FROM plugin_versions WHERE name = $1 AND active = 1").bind(name);
        self.database.fetch_optional(query).await?.map(|row| plugin_of(&row)).transpose()
    }

    /// One version of a plugin.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn plugin_version(&self, name: &str, version: &str) -> Result<PluginVersion> {
        let query = Statement::new("SELECT * FROM plugin_versions WHERE name = $1 AND version = $2");
        let row = self.database.fetch_optional(query.bind(name).bind(version)).await?;
        plugin_of(&row.ok_or_else(|| not_installed(name, version))?)
    }

    /// All versions of all plugins, by name and then in the order of their installation.
    ///
    /// # Errors
    /// Only those of the database.
    pub async fn list_plugins(&self) -> Result<Vec<PluginVersion>> {
        let query = Statement::new("SELECT * FROM plugin_versions ORDER BY name, installed_at, version");
        self.database.fetch_all(query).await?.iter().map(plugin_of).collect()
    }

    /// Notes a session in which a version misbehaved, in a job where there was one: several in one job count once. The
    /// [`STRIKES`]th in a row takes it out of use, with the reason; it is not active any more. Answers with the version as
    /// it is then, and whether this strike took it out.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn strike_plugin(
        &self,
        name: &str,
        version: &str,
        job: Option<&str>,
        reason: &str,
    ) -> Result<(PluginVersion, bool)> {
        let mut transaction = self.database.begin().await?;
        let plugin = lock(&mut transaction, name, version).await?;
        let strike = Statement::new(
            "UPDATE plugin_versions SET strikes = strikes + 1, struck_in = $1
             WHERE name = $2 AND version = $3 AND (struck_in IS NULL OR $1 IS NULL OR struck_in <> $1)",
        );
        let counted = transaction.execute(strike.bind(job).bind(name).bind(version)).await?;
        let strikes = u64::from(plugin.strikes).saturating_add(counted);
        let out_now = strikes >= u64::from(STRIKES) && plugin.quarantine.is_none();
        if out_now {
            let out = Statement::new(
                "UPDATE plugin_versions SET quarantine = $1, active = 0 WHERE name = $2 AND version = $3",
            );
            transaction.execute(out.bind(reason).bind(name).bind(version)).await?;
        }
        let plugin = lock(&mut transaction, name, version).await?;
        transaction.commit().await?;
        Ok((plugin, out_now))
    }

    /// Notes a session that went well, in a job where there was one: strikes count in a row only. A job's strike stands
    /// against sessions of the same job, whose clearing up says nothing of it, and against sessions outside of jobs.
    ///
    /// # Errors
    /// Only those of the database.
    pub async fn absolve_plugin(&self, name: &str, version: &str, job: Option<&str>) -> Result<()> {
        const STRUCK: &str = "name = $1 AND version = $2 AND strikes > 0
            AND (struck_in IS NULL OR ($3 IS NOT NULL AND struck_in <> $3))";
        // Nearly always there is none, and reading needs no lock.
        let query = Statement::new(format!("SELECT strikes FROM plugin_versions WHERE {STRUCK}"));
        if self.database.fetch_optional(query.bind(name).bind(version).bind(job)).await?.is_some() {
            let clear = format!("UPDATE plugin_versions SET strikes = 0, struck_in = NULL WHERE {STRUCK}");
            self.database.write(Statement::new(clear).bind(name).bind(version).bind(job)).await?;
        }
        Ok(())
    }

    /// Lifts the quarantine; the version may be activated again.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn release_plugin(&self, name: &str, version: &str) -> Result<()> {
        let statement = Statement::new(
            "UPDATE plugin_versions SET quarantine = NULL, strikes = 0, struck_in = NULL
             WHERE name = $1 AND version = $2",
        );
        match self.database.write(statement.bind(name).bind(version)).await? {
            0 => Err(not_installed(name, version)),
            _ => Ok(()),
        }
    }

    /// Removes a version; with a plugin's last one its grants go too, so that a later plugin of that name starts
    /// without rights.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` when it is active and a connector or a repository uses the plugin.
    pub async fn remove_plugin_version(&self, name: &str, version: &str) -> Result<PluginVersion> {
        let mut transaction = self.database.begin().await?;
        let plugin = lock(&mut transaction, name, version).await?;
        let users = Statement::new(
            "SELECT name FROM connectors WHERE plugin = $1 UNION ALL
             SELECT name FROM repositories WHERE plugin = $1 LIMIT 1",
        );
        if plugin.active
            && let Some(user) = transaction.fetch_optional(users.bind(name)).await?
        {
            return Err(Error::conflict(format!(
                "plugin {name} {version} is in use by '{}'",
                user.text("name")?
            )));
        }
        let remove = Statement::new("DELETE FROM plugin_versions WHERE name = $1 AND version = $2");
        transaction.execute(remove.bind(name).bind(version)).await?;
        let component = Statement::new(
            "DELETE FROM plugin_components WHERE digest = $1
             AND NOT EXISTS (SELECT 1 FROM plugin_versions WHERE plugin_versions.digest = $1)",
        );
        transaction.execute(component.bind(&plugin.digest)).await?;
        let grants = Statement::new(
            "DELETE FROM grants WHERE plugin = $1
             AND NOT EXISTS (SELECT 1 FROM plugin_versions WHERE plugin_versions.name = $1)",
        );
        transaction.execute(grants.bind(name)).await?;
        transaction.commit().await?;
        Ok(plugin)
    }

    /// Gives a plugin a right. Granting it again keeps the first grant.
    ///
    /// # Errors
    /// Only those of the database.
    pub async fn add_grant(&self, grant: &Grant) -> Result<()> {
        let Grant { plugin, capability, granted_by, granted_at } = grant;
        let statement = Statement::new(
            "INSERT INTO grants (plugin, capability, granted_by, granted_at) VALUES ($1, $2, $3, $4)
             ON CONFLICT (plugin, capability) DO NOTHING",
        );
        self.database
            .write(statement.bind(plugin).bind(capability).bind(granted_by).bind(*granted_at))
            .await?;
        Ok(())
    }

    /// Takes a right away.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn remove_grant(&self, plugin: &str, capability: &str) -> Result<()> {
        let statement = Statement::new("DELETE FROM grants WHERE plugin = $1 AND capability = $2");
        match self.database.write(statement.bind(plugin).bind(capability)).await? {
            0 => Err(Error::not_found("grant", format_args!("{capability} of {plugin}"))),
            _ => Ok(()),
        }
    }

    /// The rights of one plugin.
    ///
    /// # Errors
    /// Only those of the database.
    pub async fn list_grants(&self, plugin: &str) -> Result<Vec<Grant>> {
        let query = Statement::new("SELECT * FROM grants WHERE plugin = $1 ORDER BY capability").bind(plugin);
        self.database.fetch_all(query).await?.iter().map(grant_of).collect()
    }
}

/// The same bytes may be there under another name or version.
fn keep_component(digest: &str, component: &[u8]) -> Statement {
    let keep =
        "INSERT INTO plugin_components (digest, bytes) VALUES ($1, $2) ON CONFLICT (digest) DO NOTHING";
    Statement::new(keep).bind(digest).bind(component)
}

async fn activate(transaction: &mut Transaction, plugin: &PluginVersion, now: UtcMillis) -> Result<()> {
    let PluginVersion { name, version, quarantine, active, .. } = plugin;
    if let Some(reason) = quarantine {
        return Err(Error::conflict(format!("plugin {name} {version} is quarantined: {reason}")));
    }
    if *active {
        return Ok(());
    }
    let clear = Statement::new("UPDATE plugin_versions SET active = 0 WHERE name = $1 AND active = 1");
    transaction.execute(clear.bind(name)).await?;
    let set = Statement::new("UPDATE plugin_versions SET active = 1 WHERE name = $1 AND version = $2");
    transaction.execute(set.bind(name).bind(version)).await?;
    let sequence = transaction.next_number("activations").await?;
    let record = Statement::new(
        "INSERT INTO plugin_activations (sequence, name, version, activated_at) VALUES ($1, $2, $3, $4)",
    );
    transaction.execute(record.bind(sequence).bind(name).bind(version).bind(now)).await?;
    Ok(())
}

async fn lock(transaction: &mut Transaction, name: &str, version: &str) -> Result<PluginVersion> {
    let lock = Statement::new(
        "UPDATE plugin_versions SET active = active WHERE name = $1 AND version = $2 RETURNING *",
    );
    let row = transaction.fetch_optional(lock.bind(name).bind(version)).await?;
    plugin_of(&row.ok_or_else(|| not_installed(name, version))?)
}

/// The version of the last activation that is neither active now nor quarantined.
fn previous(name: &str) -> Statement {
    Statement::new(
        "SELECT plugin_versions.* FROM plugin_versions
         JOIN plugin_activations ON plugin_activations.name = plugin_versions.name
             AND plugin_activations.version = plugin_versions.version
         WHERE plugin_versions.name = $1 AND active = 0 AND quarantine IS NULL
         ORDER BY plugin_activations.sequence DESC LIMIT 1",
    )
    .bind(name)
}

fn not_installed(name: &str, version: &str) -> Error {
    Error::not_found("plugin", format_args!("{name} {version}"))
}

fn plugin_of(row: &Row) -> Result<PluginVersion> {
    Ok(PluginVersion {
        name: row.text("name")?,
        version: row.text("version")?,
        kind: row.text("kind")?,
        digest: row.text("digest")?,
        manifest_json: row.text("manifest_json")?,
        installed_at: row.time("installed_at")?,
        active: row.flag("active")?,
        quarantine: row.opt_text("quarantine")?,
        signed_by: row.opt_text("signed_by")?,
        strikes: row.unsigned("strikes")?,
    })
}

fn grant_of(row: &Row) -> Result<Grant> {
    Ok(Grant {
        plugin: row.text("plugin")?,
        capability: row.text("capability")?,
        granted_by: row.text("granted_by")?,
        granted_at: row.time("granted_at")?,
    })
}
