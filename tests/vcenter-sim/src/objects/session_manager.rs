//! `SessionManager`: login, logout, the current session.

use super::{Call, Reply};
use crate::soap::fault::Fault;
use crate::soap::value::Value;
use crate::state::Vcenter;
use crate::state::faults::FaultName;

pub(super) fn call(call: Call) -> Result<Reply, Fault> {
    match call.method {
        "Login" => login(call),
        "Logout" => {
            let key = call.session_key()?;
            call.vcenter.sessions.end(&key);
            call.vcenter.forget_session(&key);
            Ok(Reply::Void)
        }
        "SessionIsActive" => {
            let known = call.vcenter.sessions.get(call.args.text("sessionID")).is_some();
            Ok(Reply::Value(known.into()))
        }
        method => Err(Fault::method_not_found(call.this, method)),
    }
}

fn login(call: Call) -> Result<Reply, Fault> {
    let settings = &call.vcenter.settings;
    let right =
        call.args.text("userName") == settings.username && call.args.text("password") == settings.password;
    if call.vcenter.faults.strikes(FaultName::InvalidLogin, "Login") || !right {
        return Err(Fault::invalid_login());
    }
    if call.session.is_some() {
        return Err(Fault::invalid_state("The session is already logged in."));
    }
    let session = call.vcenter.sessions.login(call.args.text("userName"));
    Ok(Reply::LoggedIn(session.describe().into(), session.cookie))
}

pub(super) fn property(vcenter: &Vcenter, session: Option<&str>, name: &str) -> Option<Value> {
    match name {
        "currentSession" => Some(vcenter.sessions.get(session?)?.describe().into()),
        "sessionList" => {
            session?;
            Some(
                vcenter
                    .sessions
                    .iter()
                    .map(|session| Value::from(session.describe()))
                    .collect::<Vec<_>>()
                    .into(),
            )
        }
        "defaultLocale" => Some("en".into()),
        _ => None,
    }
}

impl Vcenter {
    /// Drops the views and filters that lived as long as a session.
    pub fn forget_session(&mut self, key: &str) {
        self.views.retain(|_, view| view.session != key);
        self.collectors.forget_session(key);
    }
}
