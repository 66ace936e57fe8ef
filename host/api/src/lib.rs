//! The REST interface of a Tidemark host: routes, authentication, OpenAPI, events, and the HTTP server under them.
//!
//! Handlers validate, convert and call the engine; they hold no state of their own. Everything that a request may
//! do to the server is bounded: connections, headers, bodies, the time for each.
//!
//! ```text
//!  connection ▶ count ▶ authenticate ▶ guard (body, task) ▶ route ▶ require role ▶ handler ▶ engine
//! ```

mod auth;
mod error;
mod extract;
mod guard;
mod metrics;
mod openapi;
mod paging;
mod problem;
mod range;
mod routes;
mod routing;
mod server;
mod state;
#[cfg(test)]
mod tests;
mod tls;
pub mod wire;

use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request};
use axum::middleware::from_fn_with_state;
use tidemark_engine::Engine;
use tokio::sync::watch;

pub use error::{Error, ErrorKind};
pub use server::{Server, ServerOptions};
pub use tls::TlsFiles;

use crate::problem::Problem;
use crate::state::{AppState, Timeouts};

/// The whole API over one engine. `stopping` ends the event streams.
pub(crate) fn router(engine: Engine, stopping: watch::Receiver<bool>, timeouts: Timeouts) -> Router {
    let (router, documented) = routes::all().into_parts();
    let openapi: Arc<str> = openapi::document(&documented).to_string().into();
    let state = AppState { engine, http: Arc::default(), openapi, stopping, timeouts };
    router
        .fallback(unknown_route)
        .method_not_allowed_fallback(wrong_method)
        // The guard bounds bodies, a plugin's more widely; axum's own bound would cut that to 2 MiB.
        .layer(DefaultBodyLimit::disable())
        .layer(from_fn_with_state(state.clone(), guard::guard))
        .layer(from_fn_with_state(state.clone(), auth::authenticate))
        .layer(from_fn_with_state(state.clone(), metrics::count))
        .with_state(state)
}

async fn unknown_route(request: Request) -> Problem {
    Problem::not_found(format!("there is nothing at {}", request.uri().path()))
}

async fn wrong_method(request: Request) -> Problem {
    let detail = format!("{} does not take {}", request.uri().path(), request.method());
    Problem::method_not_allowed(detail)
}
