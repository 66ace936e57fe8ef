//! Another administrator of the simulated vCenter, who takes and removes snapshots of their own by SOAP. Speaks just
//! enough of it for that; it shares no code with the plugin under test.

use anyhow::{Context, Result, ensure};
use ureq::Agent;
use ureq::tls::TlsConfig;

use crate::simulator::Endpoints;

/// Who is logged in.
#[derive(Debug, Clone)]
pub struct Administrator {
    agent: Agent,
    url: String,
    cookie: String,
}

impl Administrator {
    /// Logs in.
    ///
    /// # Errors
    /// Where the login is refused.
    pub fn log_in(endpoints: &Endpoints) -> Result<Self> {
        // The simulator signs its certificate itself, and this administrator has nothing to lose.
        let tls = TlsConfig::builder().disable_verification(true).build();
        let config = Agent::config_builder().http_status_as_error(false).proxy(None).tls_config(tls);
        let agent: Agent = config.build().into();
        let mut this = Self { agent, url: endpoints.url.clone(), cookie: String::new() };
        let arguments = format!(
            "<userName>{}</userName><password>{}</password>",
            escaped(&endpoints.username),
            escaped(&endpoints.password)
        );
        this.call("Login", ("SessionManager", "SessionManager"), &arguments)?;
        ensure!(!this.cookie.is_empty(), "the login gave no session");
        Ok(this)
    }

    /// Begins to take a snapshot.
    ///
    /// # Errors
    /// Where vCenter refuses.
    pub fn take_snapshot(&mut self, vm: &str, name: &str) -> Result<()> {
        let arguments =
            format!("<name>{}</name><memory>false</memory><quiesce>false</quiesce>", escaped(name));
        self.call("CreateSnapshot_Task", ("VirtualMachine", vm), &arguments)
    }

    /// Begins to remove a snapshot.
    ///
    /// # Errors
    /// Where vCenter refuses.
    pub fn remove_snapshot(&mut self, snapshot: &str) -> Result<()> {
        let arguments = "<removeChildren>false</removeChildren>";
        self.call("RemoveSnapshot_Task", ("VirtualMachineSnapshot", snapshot), arguments)
    }

    fn call(&mut self, method: &str, (kind, id): (&str, &str), arguments: &str) -> Result<()> {
        let envelope = format!(
            "<soapenv:Envelope xmlns:soapenv=\"http://schemas.xmlsoap.org/soap/envelope/\"><soapenv:Body>\
             <{method} xmlns=\"urn:vim25\"><_this type=\"{kind}\">{id}</_this>{arguments}</{method}>\
             </soapenv:Body></soapenv:Envelope>"
        );
        let request = self.agent.post(&self.url).content_type("text/xml; charset=utf-8");
        let request = request.header("soapaction", "\"urn:vim25/6.7\"").header("cookie", &self.cookie);
        let mut answer = request.send(&envelope).with_context(|| format!("{method} on {}", self.url))?;
        let body = answer.body_mut().read_to_string()?;
        ensure!(answer.status().as_u16() == 200, "{method} answered {}: {body}", answer.status());
        let session = answer.headers().get("set-cookie").and_then(|value| value.to_str().ok());
        if let Some(session) = session.and_then(|line| line.split(';').next()) {
            session.clone_into(&mut self.cookie);
        }
        Ok(())
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::escaped;

    #[test]
    fn text_stays_text() {
        assert_eq!(escaped("a<b&c"), "a&lt;b&amp;c");
    }
}
