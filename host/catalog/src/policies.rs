//! Policies: versions that never change, and which of them decides.

use tidemark_model::UtcMillis;

use crate::Catalog;
use crate::database::Transaction;
use crate::error::{Error, Result};
use crate::flow_records::{NewPolicyVersion, Policy, PolicyVersion};
use crate::statement::{Row, Statement};

const VERSIONS: &str = "SELECT policy_versions.*, policies.kind FROM policy_versions
     JOIN policies ON policies.name = policy_versions.name";

impl Catalog {
    /// Adds a version, and the policy with its first one. Where `activate`, it decides from now on. The same script as
    /// the newest version's adds nothing.
    ///
    /// # Errors
    /// `Conflict` when the policy is of another kind.
    pub async fn put_policy(
        &self,
        new: &NewPolicyVersion,
        activate: bool,
        now: UtcMillis,
    ) -> Result<PolicyVersion> {
        let NewPolicyVersion { name, kind, source, digest, created_by } = new;
        let mut transaction = self.database.begin().await?;
        let made = Statement::new(
            "INSERT INTO policies (name, kind, created_at) VALUES ($1, $2, $3)
             ON CONFLICT (name) DO UPDATE SET name = excluded.name RETURNING kind",
        );
        let made = made.bind(name).bind(kind.as_str()).bind(now);
        let row = transaction.fetch_optional(made).await?.ok_or_else(|| Error::not_found("policy", name))?;
        let known = row.text("kind")?;
        if known != kind.as_str() {
            return Err(Error::conflict(format!("the policy '{name}' is a {known} policy")));
        }
        let newest = format!("{VERSIONS} WHERE policy_versions.name = $1 ORDER BY version DESC LIMIT 1");
        let newest = transaction.fetch_optional(Statement::new(newest).bind(name)).await?;
        let newest = newest.as_ref().map(version_of).transpose()?;
        let version = match newest {
            Some(newest) if newest.digest == *digest => newest.version,
            newest => {
                let version = newest.map_or(1, |newest| newest.version + 1);
                let insert = Statement::new(
                    "INSERT INTO policy_versions (name, version, source, digest, created_at, created_by, active)
                     VALUES ($1, $2, $3, $4, $5, $6, 0)",
                );
                let insert = insert.bind(name).bind(i64::from(version)).bind(source).bind(digest);
                transaction.execute(insert.bind(now).bind(created_by)).await?;
                version
            }
        };
        if activate {
            switch(&mut transaction, name, version, created_by, now).await?;
        }
        let put = fetch(&mut transaction, name, version).await?;
        transaction.commit().await?;
        Ok(put)
    }

    /// Lets a version decide from now on.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn activate_policy(
        &self,
        name: &str,
        version: u32,
        actor: &str,
        now: UtcMillis,
    ) -> Result<PolicyVersion> {
        let mut transaction = self.database.begin().await?;
        fetch(&mut transaction, name, version).await?;
        switch(&mut transaction, name, version, actor, now).await?;
        let active = fetch(&mut transaction, name, version).await?;
        transaction.commit().await?;
        Ok(active)
    }

    /// Returns to the version that decided before the one that does now.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` when there is none.
    pub async fn rollback_policy(&self, name: &str, actor: &str, now: UtcMillis) -> Result<PolicyVersion> {
        let mut transaction = self.database.begin().await?;
        let lock = Statement::new("UPDATE policies SET name = name WHERE name = $1 RETURNING name");
        transaction.fetch_optional(lock.bind(name)).await?.ok_or_else(|| Error::not_found("policy", name))?;
        let before = Statement::new(
            "SELECT policy_activations.version FROM policy_activations
             JOIN policy_versions ON policy_versions.name = policy_activations.name
                 AND policy_versions.version = policy_activations.version
             WHERE policy_activations.name = $1 AND policy_versions.active = 0
             ORDER BY policy_activations.sequence DESC LIMIT 1",
        );
        let row = transaction.fetch_optional(before.bind(name)).await?;
        let none = || Error::conflict(format!("no other version of the policy '{name}' was active before"));
        let version = row.ok_or_else(none)?.unsigned("version")?;
        switch(&mut transaction, name, version, actor, now).await?;
        let active = fetch(&mut transaction, name, version).await?;
        transaction.commit().await?;
        Ok(active)
    }

    /// The version that decides, or the one that is asked for.
    ///
    /// # Errors
    /// `NotFound`, also where no version is active.
    pub async fn policy_version(&self, name: &str, version: Option<u32>) -> Result<PolicyVersion> {
        let wanted = match version {
            Some(_) => " WHERE policy_versions.name = $1 AND version = $2",
            None => " WHERE policy_versions.name = $1 AND active = 1",
        };
        let mut query = Statement::new(format!("{VERSIONS}{wanted}")).bind(name);
        if let Some(version) = version {
            query = query.bind(i64::from(version));
        }
        let row = self.database.fetch_optional(query).await?;
        let missing = || match version {
            Some(version) => Error::not_found("policy", format_args!("{name}, version {version}")),
            None => Error::not_found("active version of policy", name),
        };
        version_of(&row.ok_or_else(missing)?)
    }

    /// All versions, the newest first.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn policy_versions(&self, name: &str) -> Result<Vec<PolicyVersion>> {
        let query = format!("{VERSIONS} WHERE policy_versions.name = $1 ORDER BY version DESC");
        let rows = self.database.fetch_all(Statement::new(query).bind(name)).await?;
        if rows.is_empty() {
            return Err(Error::not_found("policy", name));
        }
        rows.iter().map(version_of).collect()
    }

    /// All policies by name.
    ///
    /// # Errors
    /// Only those of the database.
    pub async fn list_policies(&self) -> Result<Vec<Policy>> {
        let query = Statement::new(
            "SELECT policies.name, policies.kind, policies.created_at, MAX(version) AS newest,
                 MAX(CASE WHEN active = 1 THEN version END) AS active
             FROM policies JOIN policy_versions ON policy_versions.name = policies.name
             GROUP BY policies.name, policies.kind, policies.created_at ORDER BY policies.name",
        );
        let rows = self.database.fetch_all(query).await?;
        let policy = |row: &Row| {
            Ok(Policy {
                name: row.text("name")?,
                kind: row.parsed("kind")?,
                active: row.opt_unsigned("active")?,
                newest: row.unsigned("newest")?,
                created_at: row.time("created_at")?,
            })
        };
        rows.iter().map(policy).collect()
    }

    /// Forgets a policy with all its versions. Whether a flow uses it is the caller's to know.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn remove_policy(&self, name: &str) -> Result<()> {
        match self.database.write(Statement::new("DELETE FROM policies WHERE name = $1").bind(name)).await? {
            0 => Err(Error::not_found("policy", name)),
            _ => Ok(()),
        }
    }
}

async fn switch(
    transaction: &mut Transaction,
    name: &str,
    version: u32,
    actor: &str,
    now: UtcMillis,
) -> Result<()> {
    let version = i64::from(version);
    let clear = Statement::new("UPDATE policy_versions SET active = 0 WHERE name = $1 AND version <> $2");
    transaction.execute(clear.bind(name).bind(version)).await?;
    let set = Statement::new(
        "UPDATE policy_versions SET active = 1 WHERE name = $1 AND version = $2 AND active = 0",
    );
    if transaction.execute(set.bind(name).bind(version)).await? == 0 {
        return Ok(());
    }
    let sequence = transaction.next_number("policy-activations").await?;
    let record = Statement::new(
        "INSERT INTO policy_activations (sequence, name, version, activated_at, activated_by)
         VALUES ($1, $2, $3, $4, $5)",
    );
    transaction.execute(record.bind(sequence).bind(name).bind(version).bind(now).bind(actor)).await?;
    Ok(())
}

async fn fetch(transaction: &mut Transaction, name: &str, version: u32) -> Result<PolicyVersion> {
    let query = format!("{VERSIONS} WHERE policy_versions.name = $1 AND version = $2");
    let query = Statement::new(query).bind(name).bind(i64::from(version));
    let row = transaction.fetch_optional(query).await?;
    let missing = || Error::not_found("policy", format_args!("{name}, version {version}"));
    version_of(&row.ok_or_else(missing)?)
}

fn version_of(row: &Row) -> Result<PolicyVersion> {
    Ok(PolicyVersion {
        name: row.text("name")?,
        kind: row.parsed("kind")?,
        version: row.unsigned("version")?,
        source: row.text("source")?,
        digest: row.text("digest")?,
        created_at: row.time("created_at")?,
        created_by: row.text("created_by")?,
        active: row.flag("active")?,
    })
}
