//! Hooks: a call that somebody outside is to answer before or after we do something, with a body of their own making.
//!
//! It leaves by the same way as a webhook, and its statuses mean the same; which of them are an agreement is said by
//! the settings. What an answer is worth, the caller decides.

mod template;

use std::ops::RangeInclusive;

use ureq::http;

use self::template::{Media, Template};
use crate::error::{Error, ErrorKind, Result};
use crate::http::{Caller, HttpSettings};

/// The method of a hook's request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Method {
    /// Without a body: the context is not sent, and a signature is over the empty body.
    Get,
    /// With a body.
    #[default]
    Post,
    /// With a body.
    Put,
}

/// Whom to call, and what for.
#[derive(Debug, Clone)]
pub struct HookSettings {
    /// Where to, and how.
    pub http: HttpSettings,
    /// The request's method.
    pub method: Method,
    /// The body, with the context's values in place of `{{path}}` and `{{json path}}`; the context itself where absent.
    pub body: Option<String>,
    /// The statuses that are an agreement.
    pub expect: RangeInclusive<u16>,
}

impl HookSettings {
    /// A POST of the context that wants a 2xx.
    #[must_use]
    pub fn new(http: HttpSettings) -> Self {
        Self { http, method: Method::default(), body: None, expect: 200..=299 }
    }
}

/// Somebody to call.
#[derive(Debug)]
pub struct HttpHook {
    caller: Caller,
    method: Method,
    template: Option<Template>,
    expect: RangeInclusive<u16>,
}

/// An answer whose status was wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HookAnswer {
    /// The HTTP status.
    pub status: u16,
    /// The first 4 KiB of the body; what is no UTF-8 is replaced.
    pub body: String,
    /// Whether that is not all of it, because it is longer or broke off.
    pub truncated: bool,
}

impl HttpHook {
    /// Somebody at the address of `settings`; nothing is sent yet.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`], in words that say what to change.
    pub fn new(settings: HookSettings) -> Result<Self> {
        let HookSettings { http, method, body, expect } = settings;
        let caller = Caller::new(http)?;
        let named = |context: &str| Err(Error::invalid(context).during(caller.origin()));
        if expect.is_empty() || *expect.start() < 200 || *expect.end() > 599 {
            return named("the expected statuses are none: give a range within 200 to 599");
        }
        if body.is_some() && method == Method::Get {
            return named("a GET has no body: use POST or PUT, or leave the body out");
        }
        let template = match body {
            Some(text) => {
                let media = Media::of(caller.media_type()).map_err(|error| error.during(caller.origin()))?;
                Some(Template::parse(&text, media).map_err(|error| error.during(caller.origin()))?)
            }
            None => None,
        };
        Ok(Self { caller, method, template, expect })
    }

    /// Whom it calls: scheme, host and port, without the path, which may be a secret.
    #[must_use]
    pub fn origin(&self) -> &str {
        self.caller.origin()
    }

    /// One call.
    ///
    /// # Errors
    /// As [`Webhook::deliver`](crate::Webhook::deliver), for every status that was not expected;
    /// [`ErrorKind::Invalid`] where `context` lacks what the body asks for.
    pub fn call(&self, context: &serde_json::Value) -> Result<HookAnswer> {
        let method = match self.method {
            Method::Get => http::Method::GET,
            Method::Post => http::Method::POST,
            Method::Put => http::Method::PUT,
        };
        let answer = self.caller.call(&method, Vec::new(), self.body(context)?)?;
        if !self.expect.contains(&answer.status) {
            return Err(self.caller.unwanted(answer));
        }
        let status = answer.status;
        let (body, truncated) = answer.read();
        Ok(HookAnswer { status, body: String::from_utf8_lossy(&body).into_owned(), truncated })
    }

    fn body(&self, context: &serde_json::Value) -> Result<Option<Vec<u8>>> {
        if self.method == Method::Get {
            return Ok(None);
        }
        match &self.template {
            Some(template) => template
                .render(context)
                .map(|text| Some(text.into_bytes()))
                .map_err(|error| error.during(self.origin())),
            None => serde_json::to_vec(context).map(Some).map_err(|error| {
                Error::caused(ErrorKind::Invalid, "the context cannot be written as JSON", error)
            }),
        }
    }
}
