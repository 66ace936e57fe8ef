//! Access tokens: random secrets of which only the digest is stored.

use std::path::Path;

use serde_json::json;
use sha2::{Digest as _, Sha256};
use tidemark_catalog::{Catalog, Role, Token};
use tidemark_model::{TokenId, UtcMillis};

use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::secrets::write_private;

/// The file of the data folder that holds the first token.
pub const ADMIN_TOKEN_FILE: &str = "admin.token";

impl Engine {
    /// The token whose secret this is, unless revoked.
    ///
    /// # Errors
    /// Where the catalog cannot be asked.
    pub async fn authenticate(&self, secret: &str) -> Result<Option<Token>> {
        Ok(self.catalog().token_by_digest(&digest(secret)).await?)
    }

    /// Makes a token; its secret is shown this once.
    ///
    /// # Errors
    /// Conflict where the name is taken.
    pub async fn create_token(&self, actor: &str, name: &str, role: Role) -> Result<(Token, String)> {
        let made = create(self.catalog(), name, role).await?;
        self.shared.audit(actor, "token.create", name, json!({ "role": role.as_str() })).await;
        Ok(made)
    }

    /// Ends a token's validity.
    ///
    /// # Errors
    /// Not found.
    pub async fn revoke_token(&self, actor: &str, name: &str) -> Result<()> {
        self.catalog().revoke_token(name, UtcMillis::now()).await?;
        self.shared.audit(actor, "token.revoke", name, json!({})).await;
        Ok(())
    }
}

/// Makes the first token where there is none, and writes it once to the data folder, for its owner only.
pub(crate) async fn ensure_admin(catalog: &Catalog, data_dir: &Path) -> Result<()> {
    if !catalog.list_tokens().await?.is_empty() {
        return Ok(());
    }
    let path = data_dir.join(ADMIN_TOKEN_FILE);
    if path.exists() {
        // A file of an earlier catalog: its token is valid no longer.
        std::fs::remove_file(&path).map_err(|e| Error::io(path.display(), e))?;
    }
    // Written before it becomes valid: a crash in between leaves no token that nobody knows.
    let (token, secret) = new_token("admin", Role::Admin);
    write_private(&path, &format!("{secret}\n"))?;
    catalog.add_token(&token).await?;
    tracing::info!(file = %path.display(), "the admin token is written");
    Ok(())
}

async fn create(catalog: &Catalog, name: &str, role: Role) -> Result<(Token, String)> {
    if name.trim().is_empty() || name.len() > 100 {
        return Err(Error::invalid("a token needs a name of 1 to 100 characters"));
    }
    let (token, secret) = new_token(name, role);
    catalog.add_token(&token).await?;
    Ok((token, secret))
}

fn new_token(name: &str, role: Role) -> (Token, String) {
    let secret = format!("tdm_{}", hex::encode(rand::random::<[u8; 32]>()));
    let token = Token {
        id: TokenId::random(),
        name: name.to_owned(),
        role,
        digest: digest(&secret),
        created_at: UtcMillis::now(),
        revoked_at: None,
    };
    (token, secret)
}

/// A plain digest suffices: the secret has 256 random bits, so there is nothing to guess slowly.
fn digest(secret: &str) -> String {
    hex::encode(Sha256::digest(secret.as_bytes()))
}
