//! Access tokens. Only digests are stored, so the catalog's file gives nobody access.

use tidemark_model::UtcMillis;

use crate::Catalog;
use crate::error::{Error, ErrorKind, Result};
use crate::records::Token;
use crate::statement::{Row, Statement};

impl Catalog {
    /// Adds a token.
    ///
    /// # Errors
    /// `Conflict` when the name or the digest is taken (a revoked token keeps its name).
    pub async fn add_token(&self, token: &Token) -> Result<()> {
        let Token { id, name, role, digest, created_at, revoked_at } = token;
        let statement = Statement::new(
            "INSERT INTO tokens (id, name, role, digest, created_at, revoked_at) VALUES ($1, $2, $3, $4, $5, $6)",
        );
        let statement = statement.bind(*id).bind(name).bind(role.as_str()).bind(digest);
        let added = self.database.write(statement.bind(*created_at).bind(*revoked_at)).await;
        added.map_err(|error| {
            error.meaning(ErrorKind::Conflict, format!("a token '{name}' exists already"))
        })?;
        Ok(())
    }

    /// The token with this digest, unless it is revoked.
    ///
    /// # Errors
    /// Only those of the database.
    pub async fn token_by_digest(&self, digest: &str) -> Result<Option<Token>> {
        let query =
            Statement::new("SELECT * FROM tokens WHERE digest = $1 AND revoked_at IS NULL").bind(digest);
        self.database.fetch_optional(query).await?.map(|row| token_of(&row)).transpose()
    }

    /// All of them, the revoked ones too, by name.
    ///
    /// # Errors
    /// Only those of the database.
    pub async fn list_tokens(&self) -> Result<Vec<Token>> {
        let rows = self.database.fetch_all(Statement::new("SELECT * FROM tokens ORDER BY name")).await?;
        rows.iter().map(token_of).collect()
    }

    /// Ends a token's validity. Revoking again keeps the first moment.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn revoke_token(&self, name_or_id: &str, now: UtcMillis) -> Result<Token> {
        let statement = Statement::new(
            "UPDATE tokens SET revoked_at = COALESCE(revoked_at, $1) WHERE id = (
                 SELECT id FROM tokens WHERE id = $2 OR name = $3
                 ORDER BY CASE WHEN id = $2 THEN 0 ELSE 1 END LIMIT 1)
             RETURNING *",
        );
        let statement = statement.bind(now).bind(name_or_id.to_lowercase().as_str()).bind(name_or_id);
        let rows = self.database.write_returning(statement).await?;
        token_of(rows.first().ok_or_else(|| Error::not_found("token", name_or_id))?)
    }
}

fn token_of(row: &Row) -> Result<Token> {
    Ok(Token {
        id: row.parsed("id")?,
        name: row.text("name")?,
        role: row.parsed("role")?,
        digest: row.text("digest")?,
        created_at: row.time("created_at")?,
        revoked_at: row.opt_time("revoked_at")?,
    })
}
