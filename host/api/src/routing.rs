//! Routes and their documentation in one declaration, so that the OpenAPI document cannot differ from the router.
//!
//! A resource module adds each of its routes with [`Routes::route`]: method, path, [`Operation`], handler. The
//! operation names the role the route needs; the check is attached here, so no route is without one.

use axum::Router;
use axum::handler::Handler;
use axum::http::Method;
use axum::middleware::from_fn_with_state;
use axum::routing::{MethodFilter, on};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use tidemark_catalog::Role;

use crate::auth::require;
use crate::state::AppState;

/// A schema for a type, made once the generator is there.
type MakeSchema = fn(&mut SchemaGenerator) -> Schema;

fn schema_of<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<T>()
}

/// What a request's body is.
#[derive(Clone, Copy)]
pub(crate) enum BodyKind {
    /// A JSON document.
    Json(MakeSchema),
    /// A WebAssembly component.
    Wasm,
}

/// What a successful answer's body is.
#[derive(Clone, Copy)]
pub(crate) enum AnswerKind {
    /// Nothing.
    Empty,
    /// A JSON document.
    Json(MakeSchema),
    /// Text of this media type.
    Text(&'static str),
    /// Bytes of this media type, of which a part may be asked for.
    Bytes(&'static str),
}

/// The documentation of one route.
#[derive(Clone)]
pub(crate) struct Operation {
    /// Unique, camelCase.
    pub(crate) id: &'static str,
    /// One sentence.
    pub(crate) summary: &'static str,
    /// The role it needs; none where no token is needed.
    pub(crate) role: Option<Role>,
    /// The query string.
    pub(crate) query: Option<MakeSchema>,
    /// The body.
    pub(crate) body: Option<BodyKind>,
    /// The successful answer.
    pub(crate) status: u16,
    /// Its body.
    pub(crate) answer: AnswerKind,
    /// Whether it honours `Idempotency-Key`.
    pub(crate) idempotent: bool,
}

/// A route for viewers and above.
pub(crate) fn viewer(id: &'static str, summary: &'static str) -> Operation {
    Operation::new(id, summary, Some(Role::Viewer))
}

/// A route for operators and above.
pub(crate) fn operator(id: &'static str, summary: &'static str) -> Operation {
    Operation::new(id, summary, Some(Role::Operator))
}

/// A route for administrators.
pub(crate) fn admin(id: &'static str, summary: &'static str) -> Operation {
    Operation::new(id, summary, Some(Role::Admin))
}

/// The route that needs no token.
pub(crate) fn open(id: &'static str, summary: &'static str) -> Operation {
    Operation::new(id, summary, None)
}

impl Operation {
    fn new(id: &'static str, summary: &'static str, role: Option<Role>) -> Self {
        let (status, answer) = (204, AnswerKind::Empty);
        Self { id, summary, role, query: None, body: None, status, answer, idempotent: false }
    }

    /// Takes this query string.
    pub(crate) fn query<T: JsonSchema>(mut self) -> Self {
        self.query = Some(schema_of::<T>);
        self
    }

    /// Takes this JSON body.
    pub(crate) fn body<T: JsonSchema>(mut self) -> Self {
        self.body = Some(BodyKind::Json(schema_of::<T>));
        self
    }

    /// Takes a WebAssembly component.
    pub(crate) fn wasm_body(mut self) -> Self {
        self.body = Some(BodyKind::Wasm);
        self
    }

    /// Answers with this status and JSON document.
    pub(crate) fn answers<T: JsonSchema>(mut self, status: u16) -> Self {
        self.status = status;
        self.answer = AnswerKind::Json(schema_of::<T>);
        self
    }

    /// Answers 200 with text of this media type.
    pub(crate) fn answers_text(mut self, media: &'static str) -> Self {
        self.status = 200;
        self.answer = AnswerKind::Text(media);
        self
    }

    /// Answers 200, or 206 for a part, with bytes of this media type.
    pub(crate) fn answers_bytes(mut self, media: &'static str) -> Self {
        self.status = 200;
        self.answer = AnswerKind::Bytes(media);
        self
    }

    /// Starts work, so that a repeated request must not start it twice.
    pub(crate) fn idempotent(mut self) -> Self {
        self.idempotent = true;
        self
    }
}

/// A router in the making beside what documents it.
#[derive(Default)]
pub(crate) struct Routes {
    router: Router<AppState>,
    documented: Vec<(Method, &'static str, Operation)>,
}

impl Routes {
    /// Adds a route. Methods without a filter of their own are our mistake and answer 405.
    pub(crate) fn route<H, T>(
        self,
        method: Method,
        path: &'static str,
        operation: Operation,
        handler: H,
    ) -> Self
    where
        H: Handler<T, AppState>,
        T: 'static,
    {
        let Self { router, mut documented } = self;
        let filter = MethodFilter::try_from(method.clone()).unwrap_or(MethodFilter::TRACE);
        let mut endpoint = on(filter, handler);
        if let Some(role) = operation.role {
            endpoint = endpoint.layer(from_fn_with_state(role, require));
        }
        documented.push((method, path, operation));
        Self { router: router.route(path, endpoint), documented }
    }

    /// A `GET` route.
    pub(crate) fn get<H, T>(self, path: &'static str, operation: Operation, handler: H) -> Self
    where
        H: Handler<T, AppState>,
        T: 'static,
    {
        self.route(Method::GET, path, operation, handler)
    }

    /// A `POST` route.
    pub(crate) fn post<H, T>(self, path: &'static str, operation: Operation, handler: H) -> Self
    where
        H: Handler<T, AppState>,
        T: 'static,
    {
        self.route(Method::POST, path, operation, handler)
    }

    /// A `DELETE` route.
    pub(crate) fn delete<H, T>(self, path: &'static str, operation: Operation, handler: H) -> Self
    where
        H: Handler<T, AppState>,
        T: 'static,
    {
        self.route(Method::DELETE, path, operation, handler)
    }

    /// The router and the documentation of its routes.
    pub(crate) fn into_parts(self) -> (Router<AppState>, Vec<(Method, &'static str, Operation)>) {
        (self.router, self.documented)
    }
}
