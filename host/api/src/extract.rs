//! What handlers take from a request, each refusing with a problem document: JSON bodies, query strings, path
//! parameters, the idempotency key.
//!
//! Bodies are already complete and bounded here (see `guard`). A wrong value is answered with its path in the
//! document, for example `settings.port`.

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Path as AxumPath, Request};
use axum::http::header;
use axum::http::request::Parts;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::problem::Problem;

/// A JSON body.
pub(crate) struct Json<T>(pub(crate) T);

/// A body of a route that was kept from the earlier system, whose clients may send more than we know. What is not
/// known is passed over and told in the answer; bodies of all other routes are refused for it.
pub(crate) trait KeptBody: DeserializeOwned {
    /// Every name that a member may have, older ones included.
    const MEMBERS: &'static [&'static str];
}

/// Such a body, and a warning for each member that is not known.
pub(crate) struct KeptJson<T>(pub(crate) T, pub(crate) Vec<String>);

/// A JSON body that may be left out; then it is the default.
pub(crate) struct OptionalJson<T>(pub(crate) T);

/// The query string.
pub(crate) struct Query<T>(pub(crate) T);

/// The path parameters.
pub(crate) struct Path<T>(pub(crate) T);

/// The `Idempotency-Key` header, where given.
pub(crate) struct IdempotencyKey(pub(crate) Option<String>);

/// The longest key a client may choose, in characters.
const MAX_IDEMPOTENCY_KEY: usize = 200;

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        parse_json(&json_body(request, state).await?).map(Self)
    }
}

impl<S: Send + Sync, T: KeptBody> FromRequest<S> for KeptJson<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        parse_kept(&json_body(request, state).await?)
    }
}

async fn json_body<S: Send + Sync>(request: Request, state: &S) -> Result<Bytes, Problem> {
    if !is_json(request.headers().get(header::CONTENT_TYPE)) {
        return Err(Problem::unsupported_media("send JSON with content-type: application/json"));
    }
    Bytes::from_request(request, state)
        .await
        .map_err(|rejection| Problem::invalid(format!("the body cannot be read: {}", rejection.body_text())))
}

fn parse_kept<T: KeptBody>(body: &[u8]) -> Result<KeptJson<T>, Problem> {
    let members: Map<String, Value> = parse_json(body)?;
    let (known, unknown): (Map<_, _>, Map<_, _>) =
        members.into_iter().partition(|(name, _)| T::MEMBERS.contains(&name.as_str()));
    let told = unknown.keys().map(|name| format!("the member '{name}' is not known and is passed over"));
    Ok(KeptJson(parse_json(Value::Object(known).to_string().as_bytes())?, told.collect()))
}

impl<S: Send + Sync, T: DeserializeOwned + Default> FromRequest<S> for OptionalJson<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let typed = request.headers().contains_key(header::CONTENT_TYPE);
        let (parts, body) = request.into_parts();
        let bytes = Bytes::from_request(Request::new(body), state).await.map_err(|rejection| {
            Problem::invalid(format!("the body cannot be read: {}", rejection.body_text()))
        })?;
        if bytes.is_empty() && !typed {
            return Ok(Self(T::default()));
        }
        let request = Request::from_parts(parts, bytes.into());
        Json::from_request(request, state).await.map(|Json(value)| Self(value))
    }
}

/// Reads one JSON document; the problem names the value at fault.
pub(crate) fn parse_json<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    let mut source = serde_json::Deserializer::from_slice(body);
    let value = serde_path_to_error::deserialize(&mut source).map_err(|error| {
        let path = error.path().to_string();
        let words = error.inner().to_string();
        if path == "." {
            Problem::invalid(words)
        } else {
            Problem::invalid_field(&path, format!("{path}: {words}"))
        }
    })?;
    source.end().map_err(|error| Problem::invalid(error.to_string()))?;
    Ok(value)
}

fn is_json(content_type: Option<&axum::http::HeaderValue>) -> bool {
    let Some(Ok(text)) = content_type.map(|value| value.to_str()) else { return false };
    let media = text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    media == "application/json" || (media.starts_with("application/") && media.ends_with("+json"))
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        axum::extract::Query::<T>::try_from_uri(&parts.uri)
            .map(|axum::extract::Query(value)| Self(value))
            .map_err(|rejection| Problem::invalid(rejection.body_text()))
    }
}

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Path<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        AxumPath::<T>::from_request_parts(parts, state)
            .await
            .map(|AxumPath(value)| Self(value))
            .map_err(|rejection| Problem::invalid(rejection.body_text()))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for IdempotencyKey {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        let Some(value) = parts.headers.get("idempotency-key") else { return Ok(Self(None)) };
        let text = value.to_str().unwrap_or_default().trim();
        if text.is_empty() || text.len() > MAX_IDEMPOTENCY_KEY {
            let detail = format!("Idempotency-Key takes 1 to {MAX_IDEMPOTENCY_KEY} visible ASCII characters");
            return Err(Problem::invalid_field("Idempotency-Key", detail));
        }
        Ok(Self(Some(text.to_owned())))
    }
}

impl IdempotencyKey {
    /// The key as the engine keeps it: bound to who asked and for what, so that one client's key never answers
    /// another's request, nor another kind of request.
    pub(crate) fn scoped(self, actor: &str, operation: &str) -> Option<String> {
        self.0.map(|key| format!("{actor}/{operation}/{key}"))
    }
}

/// An id, or a word of a fixed list, in a path, query or body.
pub(crate) fn parse_id<T: std::str::FromStr>(field: &str, text: &str) -> Result<T, Problem>
where
    T::Err: std::fmt::Display,
{
    text.parse().map_err(|error: T::Err| Problem::invalid_field(field, error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(serde::Deserialize, Debug)]
    struct Outer {
        #[expect(dead_code, reason = "only its errors matter")]
        inner: Inner,
    }

    #[derive(serde::Deserialize, Debug)]
    struct Inner {
        #[expect(dead_code, reason = "only its errors matter")]
        port: u16,
    }

    #[test]
    fn a_wrong_value_is_named_by_its_path() {
        let problem = parse_json::<Outer>(br#"{"inner":{"port":"x"}}"#).unwrap_err();
        assert_eq!(problem.field(), Some("inner.port"));
        assert_eq!(problem.status(), 400);
    }

    #[test]
    fn a_kept_body_tells_what_it_does_not_know() {
        use crate::wire::StartBackup;
        let body = br#"{"vm":"web01","repository":"main","bandwith":5,"priority":"high"}"#;
        let KeptJson(order, told) = parse_kept::<StartBackup>(body).unwrap();
        assert_eq!((order.vm_name.as_str(), told.len()), ("web01", 2));
        assert!(told[0].contains("'bandwith'"), "{told:?}");
        let wrong = br#"{"vm":"web01","repository":"main","backup_type":"sideways","x":1}"#;
        assert_eq!(parse_kept::<StartBackup>(wrong).err().unwrap().field(), Some("backup_type"));
        assert!(parse_kept::<StartBackup>(b"[]").is_err());
    }

    #[test]
    fn every_member_of_a_kept_body_is_known() {
        fn check<T: KeptBody + schemars::JsonSchema>() {
            let schema = schemars::schema_for!(T).to_value();
            for name in schema["properties"].as_object().unwrap().keys() {
                assert!(T::MEMBERS.contains(&name.as_str()), "{name}");
            }
        }
        check::<crate::wire::StartBackup>();
        check::<crate::wire::DiscoverVms>();
        check::<crate::wire::AddVms>();
        check::<crate::wire::MountBackup>();
    }

    #[test]
    fn nothing_may_follow_the_document() {
        assert!(parse_json::<Value>(b"{} {}").is_err());
        assert!(parse_json::<Value>(b"{}\n").is_ok());
    }

    #[test]
    fn a_key_is_bound_to_actor_and_operation() {
        let key = IdempotencyKey(Some("k".to_owned()));
        assert_eq!(key.scoped("admin", "backup").as_deref(), Some("admin/backup/k"));
        assert_eq!(IdempotencyKey(None).scoped("admin", "backup"), None);
    }
}
