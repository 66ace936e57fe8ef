//! Access tokens: made, listed and revoked by administrators.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use tidemark_catalog::Role;

use super::created;
use crate::auth::Actor;
use crate::extract::{Json as JsonBody, Path};
use crate::problem::{Answer, Problem};
use crate::routing::{Routes, admin};
use crate::state::AppState;
use crate::wire::{CreateToken, CreatedToken, TokenEntry, TokenList};

pub(super) fn add(routes: Routes) -> Routes {
    routes
        .get(
            "/api/v1/tokens",
            admin("listTokens", "Tokens without their secrets").answers::<TokenList>(200),
            list,
        )
        .post(
            "/api/v1/tokens",
            admin("createToken", "Makes a token; its secret is in this answer and nowhere else")
                .body::<CreateToken>()
                .answers::<CreatedToken>(201),
            create,
        )
        .delete("/api/v1/tokens/{name}", admin("revokeToken", "Makes a token useless"), revoke)
}

async fn list(State(state): State<AppState>) -> Answer<Json<TokenList>> {
    let tokens = state.engine.catalog().list_tokens().await?;
    Ok(Json(TokenList { tokens: tokens.iter().map(TokenEntry::from).collect() }))
}

async fn create(
    State(state): State<AppState>,
    actor: Actor,
    JsonBody(CreateToken { name, role }): JsonBody<CreateToken>,
) -> Answer<Response> {
    let (token, secret) = state.engine.create_token(&actor.name, &name, Role::from(role)).await?;
    let body = CreatedToken { entry: TokenEntry::from(&token), token: secret };
    created("tokens", &token.id.to_string(), &body)
}

/// An administrator who revokes the last way in is locked out for good, so their own token stays.
async fn revoke(State(state): State<AppState>, actor: Actor, Path(name): Path<String>) -> Answer<StatusCode> {
    let tokens = state.engine.catalog().list_tokens().await?;
    let token = tokens.iter().find(|token| token.name == name || token.id.to_string() == name);
    let token = token.ok_or_else(|| Problem::not_found(format!("there is no token '{name}'")))?;
    if token.name == actor.name {
        return Err(Problem::conflict("a token cannot revoke itself; use another administrator's"));
    }
    state.engine.revoke_token(&actor.name, &token.name).await?;
    Ok(StatusCode::NO_CONTENT)
}
