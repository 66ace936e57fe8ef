//! Mail: plain text, handed over to one SMTP server, encrypted unless that server is this machine.
//!
//! The text is composed by `lettre`. The talk with the server is our own, because that crate's blocking client bounds
//! neither a call's time nor a line's length, keeps what was received before TLS for afterwards, and gives up all
//! recipients for one that is refused.

mod address;
mod dialogue;
mod link;
mod message;
mod reply;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::ClientConfig;
use rustls_pki_types::ServerName;

pub use self::address::Address;
use self::dialogue::{Dialogue, Server};
use crate::bounds;
use crate::error::{Error, ErrorKind, Result};
use crate::secret::Secret;
use crate::trust;

const PASSWORD_IN_THE_CLEAR: &str =
    "a password would travel in the clear: use STARTTLS or TLS, or leave the login out";

/// How the connection is secured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Security {
    /// In the clear at first, then STARTTLS; nothing is sent to a server that does not offer it. Usually port 587.
    #[default]
    StartTls,
    /// TLS from the first byte. Usually port 465.
    Tls,
    /// Not at all. Without a login, or to this machine. Usually port 25.
    None,
}

/// Who sends, to the server.
#[derive(Debug, Clone)]
pub struct Login {
    /// The account.
    pub username: String,
    /// Its password.
    pub password: Secret,
}

/// Which server takes the mail, and who it is from.
#[derive(Clone)]
pub struct MailSettings {
    /// A name or an address, without a port.
    pub host: String,
    /// The server's port.
    pub port: u16,
    /// How the connection is secured.
    pub security: Security,
    /// Where the server wants one.
    pub login: Option<Login>,
    /// The sender, and whom a bounce goes to.
    pub from: Address,
    /// For the whole talk, from the resolution of the name to the last reply; an hour at most.
    pub timeout: Duration,
    /// What this machine calls itself to the server; its address where absent.
    pub hello_name: Option<String>,
    /// PEM of the authorities to believe in place of the machine's.
    pub authorities: Option<String>,
}

impl MailSettings {
    /// The usual port for `security`, no login, one minute, the machine's authorities.
    #[must_use]
    pub fn new(host: impl Into<String>, security: Security, from: Address) -> Self {
        let port = match security {
            Security::StartTls => 587,
            Security::Tls => 465,
            Security::None => 25,
        };
        let timeout = Duration::from_secs(60);
        Self {
            host: host.into(),
            port,
            security,
            login: None,
            from,
            timeout,
            hello_name: None,
            authorities: None,
        }
    }
}

impl fmt::Debug for MailSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port, security, login, from, timeout, hello_name, authorities } = self;
        f.debug_struct("MailSettings")
            .field("host", host)
            .field("port", port)
            .field("security", security)
            .field("login", login)
            .field("from", from)
            .field("timeout", timeout)
            .field("hello_name", hello_name)
            .field("authorities", &authorities.is_some())
            .finish()
    }
}

/// Sends mail by one server. Every mail has a connection of its own.
#[derive(Debug)]
pub struct Mailer {
    settings: MailSettings,
    name: ServerName<'static>,
    tls: Arc<ClientConfig>,
}

/// A mail that the server took.
#[derive(Debug)]
pub struct Sent {
    /// Its `Message-ID`, with the angle brackets.
    pub message_id: String,
    /// An error for each recipient that the server refused while it took others; it names the address. Sending again
    /// would reach the others twice.
    pub refused: Vec<Error>,
}

impl Mailer {
    /// A mailer by the server of `settings`; nothing is sent yet.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`], in words that say what to change; also for a login that would travel in the clear.
    pub fn new(mut settings: MailSettings) -> Result<Self> {
        let bare = settings.host.trim_start_matches('[').trim_end_matches(']').to_owned();
        settings.host = bare;
        let host = &settings.host;
        let name = ServerName::try_from(host.clone()).map_err(|error| {
            let context = "the mail server's host is neither a name nor an address: give it without a port";
            Error::caused(ErrorKind::Invalid, context, error)
        })?;
        check(&settings).map_err(|error| error.during(host))?;
        let roots = match settings.security {
            Security::None => Arc::new(rustls::RootCertStore::empty()),
            _ => trust::roots(settings.authorities.as_deref()).map_err(|error| error.during(host))?,
        };
        let tls = ClientConfig::builder_with_provider(trust::provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| Error::caused(ErrorKind::Tls, "TLS cannot be set up", error))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self { settings, name, tls: Arc::new(tls) })
    }

    /// One attempt to send a mail in plain text.
    ///
    /// The subject becomes one line. Where the last reply got lost the mail may have been taken: a retry may bring it
    /// twice, which is better than not at all.
    ///
    /// # Errors
    /// To be tried again: [`ErrorKind::Unreachable`], [`ErrorKind::Timeout`], [`ErrorKind::Unavailable`] for replies
    /// 4yz, where no recipient was taken. For good: [`ErrorKind::Refused`] for the login, [`ErrorKind::Rejected`] for
    /// the other replies 5yz, [`ErrorKind::Tls`], [`ErrorKind::Protocol`], and [`ErrorKind::Invalid`] for a mail
    /// without recipients, or too large.
    pub fn send(&self, to: &[Address], subject: &str, text: &str) -> Result<Sent> {
        let place = format!("mail by {}:{}", self.settings.host, self.settings.port);
        self.attempt(to, subject, text).map_err(|error| error.during(place))
    }

    fn attempt(&self, to: &[Address], subject: &str, text: &str) -> Result<Sent> {
        let Self { settings, name, tls } = self;
        let mail = message::compose(&settings.from, to, subject, text)?;
        let mut dialogue = Dialogue::open(&Server {
            host: &settings.host,
            port: settings.port,
            security: settings.security,
            tls,
            name,
            hello_name: settings.hello_name.as_deref(),
            login: settings.login.as_ref(),
            deadline: Instant::now() + settings.timeout,
        })?;
        let refused = dialogue.send(&settings.from, to, &message::stuffed(&mail.bytes));
        dialogue.quit();
        Ok(Sent { message_id: mail.id, refused: refused? })
    }
}

fn check(settings: &MailSettings) -> Result<()> {
    let MailSettings { host, port, security, login, from: _, timeout, hello_name, authorities: _ } = settings;
    if *port == 0 {
        return Err(Error::invalid("the mail server's port is 0: give one from 1 to 65535"));
    }
    bounds::check_timeout(*timeout)?;
    if let Some(Login { username, password }) = login {
        if username.is_empty() || password.is_empty() {
            return Err(Error::invalid("the login lacks a username or a password: give both, or none"));
        }
        if username.contains('\0') || password.expose().contains('\0') {
            return Err(Error::invalid("the login holds a NUL, which no server could read: correct it"));
        }
        if *security == Security::None && !is_this_machine(host) {
            return Err(Error::invalid(PASSWORD_IN_THE_CLEAR));
        }
    }
    let fits = |name: &String| {
        !name.is_empty()
            && name.len() <= 255
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.:[]".contains(&b))
    };
    if !hello_name.as_ref().is_none_or(fits) {
        return Err(Error::invalid("the own name is no host name: give one such as backup.example.com"));
    }
    Ok(())
}

fn is_this_machine(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}
