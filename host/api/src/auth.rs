//! Who is asking: a bearer token on every route but health, and the role each route needs.
//!
//! The token is looked up by the engine, which keeps only its digest. [`authenticate`] puts the [`Actor`] into
//! the request; [`require`] compares its role with the route's. Roles: a viewer reads, an operator also runs
//! jobs, an administrator does everything.

use axum::extract::{FromRequestParts, Request, State};
use axum::http::header;
use axum::http::request::Parts;
use axum::middleware::Next;
use axum::response::Response;
use tidemark_catalog::{Role, Token};

use crate::problem::{Answer, Problem};
use crate::state::AppState;

/// The only path that answers without a token.
pub(crate) const OPEN_PATH: &str = "/api/v1/health";

/// Whoever sent the request.
#[derive(Debug, Clone)]
pub(crate) struct Actor {
    /// The token's name: the actor of the audit trail.
    pub(crate) name: String,
    /// What the token allows.
    pub(crate) role: Role,
}

impl From<Token> for Actor {
    fn from(token: Token) -> Self {
        Self { name: token.name, role: token.role }
    }
}

/// Lets a request pass that carries a valid token, or asks for the open path.
pub(crate) async fn authenticate(
    State(state): State<AppState>,
    mut request: Request,
    next: Next,
) -> Answer<Response> {
    if request.uri().path() == OPEN_PATH {
        return Ok(next.run(request).await);
    }
    let secret = bearer(&request)?;
    let token = state.engine.authenticate(secret).await?;
    let Some(token) = token else {
        return Err(Problem::unauthenticated("the token is unknown or was revoked"));
    };
    request.extensions_mut().insert(Actor::from(token));
    Ok(next.run(request).await)
}

fn bearer(request: &Request) -> Answer<&str> {
    let Some(value) = request.headers().get(header::AUTHORIZATION) else {
        return Err(Problem::unauthenticated("send 'Authorization: Bearer TOKEN'"));
    };
    let text = value.to_str().unwrap_or_default();
    match text.split_once(' ') {
        Some((scheme, secret)) if scheme.eq_ignore_ascii_case("bearer") && !secret.trim().is_empty() => {
            Ok(secret.trim())
        }
        _ => Err(Problem::unauthenticated("only the Bearer scheme is understood")),
    }
}

/// Refuses an actor whose role is below `needed`.
pub(crate) async fn require(State(needed): State<Role>, request: Request, next: Next) -> Answer<Response> {
    let actor = request
        .extensions()
        .get::<Actor>()
        .ok_or_else(|| Problem::unauthenticated("send 'Authorization: Bearer TOKEN'"))?;
    if actor.role < needed {
        let (has, needs) = (actor.role.as_str(), needed.as_str());
        let detail = format!("this needs the role {needs}; token '{}' has the role {has}", actor.name);
        return Err(Problem::forbidden(detail));
    }
    Ok(next.run(request).await)
}

impl<S: Send + Sync> FromRequestParts<S> for Actor {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Answer<Self> {
        parts.extensions.get::<Self>().cloned().ok_or_else(|| Problem::unauthenticated("a token is needed"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(value: Option<&str>) -> Request {
        let mut builder = Request::builder().uri("/api/v1/jobs");
        if let Some(value) = value {
            builder = builder.header(header::AUTHORIZATION, value);
        }
        builder.body(axum::body::Body::empty()).unwrap()
    }

    #[test]
    fn the_scheme_is_bearer_in_any_case() {
        assert_eq!(bearer(&request(Some("bearer abc"))).unwrap(), "abc");
        assert_eq!(bearer(&request(Some("Bearer  abc "))).unwrap(), "abc");
        for wrong in [None, Some("abc"), Some("Basic abc"), Some("Bearer ")] {
            assert_eq!(bearer(&request(wrong)).unwrap_err().status(), 401);
        }
    }

    #[test]
    fn roles_are_ordered() {
        assert!(Role::Viewer < Role::Operator && Role::Operator < Role::Admin);
    }
}
