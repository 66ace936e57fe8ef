//! What runs the server: health, tokens, the audit trail, events.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tidemark_catalog::{AuditEntry, Role, Token};
use tidemark_engine::Event;

use super::{json_value, rfc3339};

/// Whether the server works.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Health {
    /// `ok`, or `failing` where the catalog does not answer.
    pub status: String,
    /// The server's version.
    pub version: String,
    /// How long it has been up.
    pub uptime_seconds: u64,
}

/// What a token allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TokenRole {
    /// Everything.
    Admin,
    /// Reads and runs jobs.
    Operator,
    /// Reads.
    Viewer,
}

impl From<TokenRole> for Role {
    fn from(wire: TokenRole) -> Self {
        match wire {
            TokenRole::Admin => Self::Admin,
            TokenRole::Operator => Self::Operator,
            TokenRole::Viewer => Self::Viewer,
        }
    }
}

impl From<Role> for TokenRole {
    fn from(role: Role) -> Self {
        match role {
            Role::Admin => Self::Admin,
            Role::Operator => Self::Operator,
            Role::Viewer => Self::Viewer,
        }
    }
}

/// Makes a token.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateToken {
    /// A unique name.
    pub name: String,
    /// What it allows.
    pub role: TokenRole,
}

/// A token without its secret.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct TokenEntry {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// What it allows.
    pub role: TokenRole,
    /// When it was made.
    pub created_at: String,
    /// When it was revoked.
    pub revoked_at: Option<String>,
}

/// A new token. The secret is shown this once; the server keeps only its digest.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
pub struct CreatedToken {
    /// The token.
    #[serde(flatten)]
    pub entry: TokenEntry,
    /// Its secret.
    pub token: String,
}

/// The tokens.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct TokenList {
    /// By name.
    pub tokens: Vec<TokenEntry>,
}

impl From<&Token> for TokenEntry {
    fn from(token: &Token) -> Self {
        let Token { id, name, role, digest: _, created_at, revoked_at } = token;
        Self {
            id: id.to_string(),
            name: name.clone(),
            role: TokenRole::from(*role),
            created_at: rfc3339(*created_at),
            revoked_at: revoked_at.map(rfc3339),
        }
    }
}

/// One line of the audit trail.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct AuditLine {
    /// When.
    pub at: String,
    /// Who: a token's name, `plugin NAME VERSION` or `host`.
    pub actor: String,
    /// What.
    pub action: String,
    /// To what.
    pub target: String,
    /// `ok`, `denied` or `failed`.
    pub outcome: String,
    /// More.
    pub detail: Value,
}

/// One page of the audit trail, newest first.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct AuditList {
    /// The lines.
    pub entries: Vec<AuditLine>,
    /// For the next page.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

impl From<&AuditEntry> for AuditLine {
    fn from(entry: &AuditEntry) -> Self {
        let AuditEntry { at, actor, action, target, outcome, detail_json } = entry;
        Self {
            at: rfc3339(*at),
            actor: actor.clone(),
            action: action.clone(),
            target: target.clone(),
            outcome: outcome.clone(),
            detail: json_value(detail_json),
        }
    }
}

/// The data of a server-sent event; its name is `kind`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct EventEntry {
    /// When.
    pub at: String,
    /// What happened.
    pub kind: String,
    /// To which job.
    pub job_id: Option<String>,
    /// More.
    pub payload: Value,
}

impl From<Event> for EventEntry {
    fn from(event: Event) -> Self {
        let Event { at, kind, job_id, payload } = event;
        Self { at: rfc3339(at), kind: kind.to_owned(), job_id: job_id.map(|id| id.to_string()), payload }
    }
}
