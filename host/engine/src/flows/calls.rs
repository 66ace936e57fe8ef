//! Calls out of a run as its definition describes them: hooks around the backups, and who is told at the end. The calls
//! themselves are made in [`super::steps`].

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tidemark_notify::{HookSettings, HttpHook, HttpSettings, Method, Secret, Webhook};

use super::definition::duration;
use crate::error::{Error, Result};

/// HTTP calls around the backups.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hooks {
    /// Before the first backup.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub before: Vec<HookRule>,
    /// After the last step.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<HookRule>,
}

/// What a failing hook does to the run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnFailure {
    /// Before the backups: no backup is made. After them: the run ends as partly done.
    #[default]
    Abort,
    /// It is a warning.
    Continue,
}

/// One HTTP call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HookRule {
    /// Where to.
    pub url: String,
    /// `GET`, `POST` or `PUT`.
    #[serde(default = "post")]
    pub method: String,
    /// Further headers.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// Further headers whose values are secrets of the flow, by their names.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub secret_headers: BTreeMap<String, String>,
    /// The body, with the context's values in place of `{{path}}` and `{{json path}}`; the context itself where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// The name of a secret of the flow that signs the call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
    /// The authorities to believe in place of the machine's, as PEM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_pem: Option<String>,
    /// How long it may take.
    #[serde(default = "half_a_minute")]
    pub timeout: String,
    /// What its failure does.
    #[serde(default)]
    pub on_failure: OnFailure,
}

/// Whom to tell of which ends.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NotifyRule {
    /// `succeeded`, `partly`, `failed` or `cancelled`; the last three where none is named.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub on: Vec<String>,
    /// A webhook's address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook: Option<String>,
    /// Further headers of the webhook.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// Further headers whose values are secrets of the flow, by their names.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub secret_headers: BTreeMap<String, String>,
    /// The name of a secret of the flow that signs the webhook's body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
    /// The authorities that the webhook believes in place of the machine's, as PEM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_pem: Option<String>,
    /// Mail addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mail: Vec<String>,
}

fn post() -> String {
    "POST".to_owned()
}

fn half_a_minute() -> String {
    "30s".to_owned()
}

impl Hooks {
    pub(crate) fn is_empty(&self) -> bool {
        self.before.is_empty() && self.after.is_empty()
    }

    pub(crate) fn check(&self) -> Result<()> {
        for (field, hooks) in [("hooks.before", &self.before), ("hooks.after", &self.after)] {
            hooks.iter().try_for_each(|hook| hook.check(field))?;
        }
        Ok(())
    }
}

impl HookRule {
    /// The hook, ready to be called; `secret` opens the flow's secrets by name.
    pub(super) fn open(&self, secret: impl Fn(&str) -> Result<Secret>) -> Result<HttpHook> {
        self.open_for("hooks", secret)
    }

    fn open_for(&self, field: &str, secret: impl Fn(&str) -> Result<Secret>) -> Result<HttpHook> {
        let Self {
            url,
            method,
            headers,
            secret_headers,
            body,
            secret: signs,
            ca_pem,
            timeout,
            on_failure: _,
        } = self;
        let http = HttpSettings {
            headers: headers_of(headers, secret_headers, &secret)?,
            secret: signs.as_deref().map(&secret).transpose()?,
            timeout: duration(field, timeout)?,
            authorities: ca_pem.clone(),
            ..HttpSettings::new(url.clone())
        };
        let method = match method.as_str() {
            "GET" => Method::Get,
            "POST" => Method::Post,
            "PUT" => Method::Put,
            _ => return Err(Error::invalid_field(field, "method is GET, POST or PUT")),
        };
        let settings = HookSettings { method, body: body.clone(), ..HookSettings::new(http) };
        HttpHook::new(settings).map_err(|e| Error::invalid_field(field, e.to_string()))
    }

    fn check(&self, field: &str) -> Result<()> {
        check_url(field, &self.url)?;
        self.open_for(field, any_secret).map(drop)
    }

    pub(crate) fn secret_names(&self) -> impl Iterator<Item = &str> {
        self.secret.as_deref().into_iter().chain(self.secret_headers.values().map(String::as_str))
    }
}

impl NotifyRule {
    /// Whether it wants to know of such an end.
    pub(crate) fn wants(&self, status: &str) -> bool {
        match self.on.as_slice() {
            [] => status != "succeeded",
            wanted => wanted.iter().any(|word| word == status),
        }
    }

    /// The webhook, if it has one, ready to deliver; `secret` opens the flow's secrets by name.
    pub(super) fn open(&self, secret: impl Fn(&str) -> Result<Secret>) -> Result<Option<Webhook>> {
        let Self { on: _, webhook, headers, secret_headers, secret: signs, ca_pem, mail: _ } = self;
        let Some(url) = webhook else { return Ok(None) };
        let http = HttpSettings {
            headers: headers_of(headers, secret_headers, &secret)?,
            secret: signs.as_deref().map(&secret).transpose()?,
            authorities: ca_pem.clone(),
            ..HttpSettings::new(url.clone())
        };
        let webhook = Webhook::new(http).map_err(|e| Error::invalid_field("notify", e.to_string()))?;
        Ok(Some(webhook))
    }

    pub(crate) fn check(&self) -> Result<()> {
        if let Some(url) = &self.webhook {
            check_url("notify.webhook", url)?;
        }
        if self.webhook.is_none() && self.mail.is_empty() {
            return Err(Error::invalid_field("notify", "name a webhook or mail addresses"));
        }
        let known = ["succeeded", "partly", "failed", "cancelled"];
        if let Some(word) = self.on.iter().find(|word| !known.contains(&word.as_str())) {
            let message = format!("'{word}' is no end of a run; {} are", known.join(", "));
            return Err(Error::invalid_field("notify.on", message));
        }
        self.open(any_secret).map(drop)
    }

    pub(crate) fn secret_names(&self) -> impl Iterator<Item = &str> {
        self.secret.as_deref().into_iter().chain(self.secret_headers.values().map(String::as_str))
    }
}

/// In place of every secret where only the rest is checked.
fn any_secret(_: &str) -> Result<Secret> {
    Ok(Secret::new("x"))
}

fn headers_of(
    plain: &BTreeMap<String, String>,
    secrets: &BTreeMap<String, String>,
    secret: impl Fn(&str) -> Result<Secret>,
) -> Result<Vec<(String, Secret)>> {
    let plain = plain.iter().map(|(name, value)| Ok((name.clone(), Secret::new(value.clone()))));
    let secrets = secrets.iter().map(|(name, of)| Ok((name.clone(), secret(of)?)));
    plain.chain(secrets).collect()
}

fn check_url(field: &str, url: &str) -> Result<()> {
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
    match rest {
        Some(rest) if !rest.is_empty() && !rest.split('/').next().is_some_and(|host| host.contains('@')) => {
            Ok(())
        }
        Some(_) => Err(Error::invalid_field(field, format!("'{url}' needs a host, and holds no user name"))),
        None => Err(Error::invalid_field(field, format!("'{url}' is no http or https address"))),
    }
}
