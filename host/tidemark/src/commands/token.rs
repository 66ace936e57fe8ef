//! `tidemark token`

use anyhow::Result;
use tidemark_api::wire::{CreateToken, CreatedToken, TokenList, TokenRole};

use crate::args::{RoleArg, TokenVerb};
use crate::client::{Client, escape};
use crate::output::{Ended, Output, Table, moment, or_dash};

impl From<RoleArg> for TokenRole {
    fn from(arg: RoleArg) -> Self {
        match arg {
            RoleArg::Admin => Self::Admin,
            RoleArg::Operator => Self::Operator,
            RoleArg::Viewer => Self::Viewer,
        }
    }
}

fn word(role: TokenRole) -> &'static str {
    match role {
        TokenRole::Admin => "admin",
        TokenRole::Operator => "operator",
        TokenRole::Viewer => "viewer",
    }
}

pub(crate) fn run(verb: TokenVerb, client: &Client, output: &Output) -> Result<Ended> {
    match verb {
        TokenVerb::Create { name, role } => {
            let made = client.post("/api/v1/tokens", &CreateToken { name, role: role.into() })?;
            // The secret alone on standard output, so that it can be piped into a file.
            output.document(made, |made: CreatedToken| made.token)?;
        }
        TokenVerb::List => {
            let list = client.get("/api/v1/tokens")?;
            output.document(list, |list: TokenList| {
                let mut table = Table::new(&["NAME", "ROLE", "MADE", "REVOKED"]);
                for token in list.tokens {
                    let revoked = or_dash(token.revoked_at.as_deref().map(moment));
                    table.row([token.name, word(token.role).to_owned(), moment(&token.created_at), revoked]);
                }
                table.render("no tokens")
            })?;
        }
        TokenVerb::Revoke { name } => {
            client.delete(&format!("/api/v1/tokens/{}", escape(&name)))?;
            output.done(&format!("token '{name}' is revoked"))?;
        }
    }
    Ok(Ended::Done)
}
