//! The session with the server: service content, login, cookie, and calls that survive an expired session.
//!
//! ```text
//!   closed ── RetrieveServiceContent, version check, Login ──▶ open ── Logout ──▶ closed
//!                              ▲                                │
//!                              └── once a call ◀── NotAuthenticated
//! ```

use std::rc::Rc;

use tidemark_plugin::about::Product;
use tidemark_plugin::{Error, Result, info, warn};

use crate::fault::Fault;
use crate::settings::{PASSWORD, Settings};
use crate::soap;
use crate::wire::Wire;
use crate::xml::{Element, Ref, Xml};

/// How often a call that changes nothing is repeated where no answer came.
const REPEATS: u32 = 3;
const FIRST_PAUSE_MS: u64 = 500;

/// How long one call of the contract may wait before it asks to be called again. The host ends a call after a minute
/// by throwing the instance away, which would lose the session with it.
const PATIENCE_MS: u64 = 45_000;
/// The pause that the host is asked to make before it calls again.
const CALL_AGAIN_MS: u64 = 1_000;

/// Whether a call may be sent again where it is unknown if the server carried it out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Repeat {
    /// It only reads.
    Safe,
    /// It changes something, or moves a cursor on.
    Never,
}

/// The singletons of the server.
#[derive(Debug, Clone)]
pub(crate) struct Content {
    pub(crate) root_folder: Ref,
    pub(crate) property_collector: Ref,
    pub(crate) view_manager: Ref,
    pub(crate) session_manager: Ref,
    pub(crate) authorization_manager: Option<Ref>,
    pub(crate) search_index: Option<Ref>,
    pub(crate) custom_fields_manager: Option<Ref>,
    pub(crate) full_name: String,
    pub(crate) api_type: String,
    pub(crate) product: Product,
}

pub(crate) struct Session {
    wire: Box<dyn Wire>,
    settings: Settings,
    cookie: Option<String>,
    content: Option<Rc<Content>>,
    key: String,
    logins: u64,
    /// When the contract's call that is being answered began.
    began_ms: u64,
}

impl Session {
    pub(crate) fn new(settings: Settings, wire: Box<dyn Wire>) -> Self {
        Self { wire, settings, cookie: None, content: None, key: String::new(), logins: 0, began_ms: 0 }
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Marks the beginning of a call that may have to wait.
    pub(crate) fn begin_call(&mut self) {
        self.began_ms = self.wire.monotonic_ms();
    }

    /// Waits on the server's side of `doing`, or asks to be called again where that would take too long.
    pub(crate) fn wait_ms(&mut self, duration: u64, doing: &str) -> Result<()> {
        let spent = self.wire.monotonic_ms().saturating_sub(self.began_ms);
        if spent + duration > PATIENCE_MS {
            let mut error = Error::unavailable(format!("{doing} is not finished yet; call again"));
            error.retry_after_ms = Some(CALL_AGAIN_MS);
            return Err(error);
        }
        self.wire.sleep_ms(duration);
        Ok(())
    }

    /// The service content; logs in where that was not done yet.
    pub(crate) fn content(&mut self) -> Result<Rc<Content>> {
        if let Some(content) = &self.content {
            return Ok(Rc::clone(content));
        }
        let content = Rc::new(self.open()?);
        self.content = Some(Rc::clone(&content));
        Ok(content)
    }

    /// The session's key as the server names it; changes with each login.
    pub(crate) fn key(&self) -> &str {
        &self.key
    }

    /// Grows with each login: views and cursors of an earlier one are gone.
    pub(crate) fn logins(&self) -> u64 {
        self.logins
    }

    /// The cookie header that reading under `/folder` needs.
    pub(crate) fn cookie_header(&mut self) -> Result<(String, String)> {
        self.content()?;
        let cookie =
            self.cookie.as_deref().ok_or_else(|| Error::unavailable("the server gave no session cookie"))?;
        Ok(("Cookie".to_owned(), format!("vmware_soap_session={cookie}")))
    }

    fn open(&mut self) -> Result<Content> {
        self.cookie = None;
        let this = Ref::new("ServiceInstance", "ServiceInstance");
        let answer = self.exchange("RetrieveServiceContent", &this, &|xml| xml)?;
        let answer = answer.map_err(|fault| fault.to_error("asking the server for its services"))?;
        let content = parse_content(&answer)?;
        let username = self.settings.username.clone();
        let login = self.exchange("Login", &content.session_manager, &|xml| {
            xml.element("userName", &username).secret("password", PASSWORD)
        })?;
        let login = login.map_err(|fault| fault.to_error(&format!("logging in as {username}")))?;
        if self.cookie.is_none() {
            return Err(Error::corrupt("the login was accepted without a session cookie"));
        }
        let user = login.child("returnval").and_then(|session| session.text_of("key"));
        self.key = user.unwrap_or_default().to_owned();
        self.logins += 1;
        info!("logged in to {} as {username}", content.full_name);
        Ok(content)
    }

    /// Calls a method and keeps the server's fault apart from errors of the way. A session that has expired is
    /// renewed once and the call made again; that is right for any call, as the server refused the first one.
    pub(crate) fn try_call(
        &mut self,
        method: &str,
        this: &Ref,
        repeat: Repeat,
        arguments: &dyn Fn(Xml) -> Xml,
    ) -> Result<Result<Element, Fault>> {
        let (mut renewed, mut failures) = (false, 0);
        loop {
            let answer = self.content().and_then(|_| self.exchange(method, this, arguments));
            match answer {
                Err(error) if repeat == Repeat::Safe && error.is_unavailable() && failures < REPEATS => {
                    warn!("{method} is repeated: {}", error.message);
                    self.wire.sleep_ms(FIRST_PAUSE_MS << failures);
                    failures += 1;
                }
                Ok(Err(fault)) if fault.is("NotAuthenticated") && !renewed => {
                    info!("the session has expired before {method}; logging in again");
                    renewed = true;
                    self.content = None;
                }
                answer => return answer,
            }
        }
    }

    /// Calls a method; a fault becomes an error that says what was being done.
    pub(crate) fn call(
        &mut self,
        method: &str,
        this: &Ref,
        repeat: Repeat,
        doing: &str,
        arguments: &dyn Fn(Xml) -> Xml,
    ) -> Result<Element> {
        self.try_call(method, this, repeat, arguments)?.map_err(|fault| fault.to_error(doing))
    }

    /// Ends the session; one that is not open or has expired is ended already.
    pub(crate) fn close(&mut self) -> Result<()> {
        let Some(content) = self.content.take() else { return Ok(()) };
        let answer = self.exchange("Logout", &content.session_manager, &|xml| xml)?;
        self.cookie = None;
        match answer {
            Err(fault) if !fault.is("NotAuthenticated") => Err(fault.to_error("logging out")),
            _ => Ok(()),
        }
    }

    fn exchange(
        &mut self,
        method: &str,
        this: &Ref,
        arguments: &dyn Fn(Xml) -> Xml,
    ) -> Result<Result<Element, Fault>> {
        let url = format!("{}/sdk", self.settings.origin());
        let parts = soap::envelope(method, this, arguments);
        let request = soap::request(&url, self.cookie.as_deref(), parts).trust(self.settings.trust());
        let response = self.wire.send(&request).map_err(|error| error.during(method))?;
        if let Some(cookie) = soap::session_cookie(&response) {
            self.cookie = Some(cookie);
        }
        soap::answer(method, &response)
    }
}

fn parse_content(answer: &Element) -> Result<Content> {
    let missing = |what: &str| Error::corrupt(format!("the service content has no {what}"));
    let content = answer.child("returnval").ok_or_else(|| missing("content"))?;
    let about = content.child("about").ok_or_else(|| missing("about"))?;
    let api = about.text_of("apiVersion").unwrap_or_default();
    let full_name = about.text_of("fullName").unwrap_or("vCenter Server").to_owned();
    if version(api) < version(soap::API_VERSION) {
        return Err(Error::unsupported(format!(
            "{full_name} speaks API version '{api}'; {} or later is needed",
            soap::API_VERSION
        )));
    }
    let needed = |name: &str| content.ref_of(name).ok_or_else(|| missing(name));
    Ok(Content {
        root_folder: needed("rootFolder")?,
        property_collector: needed("propertyCollector")?,
        view_manager: needed("viewManager")?,
        session_manager: needed("sessionManager")?,
        authorization_manager: content.ref_of("authorizationManager"),
        search_index: content.ref_of("searchIndex"),
        custom_fields_manager: content.ref_of("customFieldsManager"),
        product: product(about, &full_name),
        full_name,
        api_type: about.text_of("apiType").unwrap_or_default().to_owned(),
    })
}

/// An ESXi host answers with the same document, but for the instance UUID, which only vCenter has.
fn product(about: &Element, full_name: &str) -> Product {
    let word = |name: &str| about.text_of(name).unwrap_or_default().to_owned();
    Product {
        name: about.text_of("name").unwrap_or(full_name).to_owned(),
        version: word("version"),
        build: word("build"),
        instance: about.text_of("instanceUuid").map(str::to_owned),
    }
}

/// The leading numbers of a version; what is no number counts as nothing.
fn version(text: &str) -> Vec<u32> {
    text.split('.').map_while(|part| part.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::version;

    #[test]
    fn versions_compare_by_number() {
        assert!(version("6.5") < version("6.7"));
        assert!(version("6.7.3") > version("6.7"));
        assert!(version("10.0") > version("6.7"));
        assert!(version("") < version("6.7"));
    }
}
