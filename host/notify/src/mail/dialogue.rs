//! A talk with an SMTP server (RFC 5321), from its greeting to the last dot.
//!
//! ```text
//! connect ─▶ greeting ─▶ EHLO ─▶ (STARTTLS ─▶ handshake ─▶ EHLO) ─▶ (AUTH) ─▶ MAIL ─▶ RCPT… ─▶ DATA ─▶ QUIT
//! ```
//! What was said before TLS counts for nothing afterwards: the offers are asked for again, and bytes that came in
//! before the handshake end the talk, since anybody on the way could have put them there.

use std::fmt;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use zeroize::Zeroizing;

use super::link::Link;
use super::reply::{LONGEST_LINE, Offers, Reply, Step, Unfinished};
use super::{Address, Login, Security};
use crate::error::{Error, ErrorKind, Result};
use crate::quote::quote;

/// Whom to talk with.
pub(super) struct Server<'a> {
    pub(super) host: &'a str,
    pub(super) port: u16,
    pub(super) security: Security,
    pub(super) tls: &'a Arc<ClientConfig>,
    pub(super) name: &'a ServerName<'static>,
    pub(super) hello_name: Option<&'a str>,
    pub(super) login: Option<&'a Login>,
    pub(super) deadline: Instant,
}

/// A server that takes mail now.
pub(super) struct Dialogue {
    link: BufReader<Link>,
    offers: Offers,
    /// Words that no error may show.
    hidden: Zeroizing<Vec<String>>,
}

/// How a step is named in errors; what it sends may be a secret.
type StepName<'a> = fmt::Arguments<'a>;

impl Dialogue {
    /// Connects, secures and logs in, as the settings say.
    pub(super) fn open(server: &Server<'_>) -> Result<Self> {
        let link = Link::open(server.host, server.port, server.deadline)
            .map_err(|error| failed(format_args!("no connection"), error))?;
        let hello = hello(server, &link)?;
        let link = match server.security {
            Security::Tls => secure(link, server)?,
            Security::StartTls | Security::None => link,
        };
        let mut dialogue = Self {
            link: BufReader::new(link),
            offers: Offers::default(),
            hidden: Zeroizing::new(hidden(server.login)),
        };
        let greeting = dialogue.reply(format_args!("the greeting"))?;
        dialogue.wanted(format_args!("the greeting"), &greeting, 220)?;
        dialogue.hello(&hello)?;
        if server.security == Security::StartTls {
            dialogue = dialogue.starttls(server)?;
            dialogue.hello(&hello)?;
        }
        if let Some(login) = server.login {
            dialogue.may_log_in()?;
            dialogue.log_in(login)?;
        }
        Ok(dialogue)
    }

    /// Hands a mail over: the errors of those recipients that the server refused, where it took others.
    ///
    /// Fails where it took none. After the last dot is sent, an error may hide a mail that was taken.
    pub(super) fn send(&mut self, from: &Address, to: &[Address], data: &[u8]) -> Result<Vec<Error>> {
        let from = from.mailbox();
        self.exchange(format_args!("MAIL FROM"), &format!("MAIL FROM:<{from}>"), 250)?;
        let mut refused = Vec::new();
        for address in to.iter().map(Address::mailbox) {
            let step = format_args!("RCPT TO {address}");
            let reply = self.command(step, &format!("RCPT TO:<{address}>"))?;
            if !matches!(reply.code, 250 | 251) {
                refused.push(self.unwanted(step, &reply));
            }
        }
        if refused.len() == to.len() {
            return Err(first_worth_a_retry(refused));
        }
        self.exchange(format_args!("DATA"), "DATA", 354)?;
        let step = format_args!("the mail itself");
        self.write(step, data)?;
        let reply = self.reply(step)?;
        self.wanted(step, &reply, 250)?;
        Ok(refused)
    }

    /// Takes leave. The answer would change nothing, so it is not waited for.
    pub(super) fn quit(mut self) {
        let _ = self.write(format_args!("QUIT"), b"QUIT\r\n");
    }

    fn hello(&mut self, name: &str) -> Result<()> {
        self.offers = self.exchange(format_args!("EHLO"), &format!("EHLO {name}"), 250)?.offers();
        Ok(())
    }

    fn starttls(mut self, server: &Server<'_>) -> Result<Self> {
        if !self.offers.starttls {
            let context = "the server offers no STARTTLS, and nothing is sent without it: \
                           correct the port, or choose TLS from the start";
            return Err(Error::new(ErrorKind::Tls, context));
        }
        self.exchange(format_args!("STARTTLS"), "STARTTLS", 220)?;
        if !self.link.buffer().is_empty() {
            return Err(Error::new(ErrorKind::Protocol, "the server went on talking before TLS was set up"));
        }
        let Self { link, offers: _, hidden } = self;
        let link = secure(link.into_inner(), server)?;
        Ok(Self { link: BufReader::new(link), offers: Offers::default(), hidden })
    }

    /// A name may stand for this machine and still lead elsewhere: the address decides.
    fn may_log_in(&self) -> Result<()> {
        let link = self.link.get_ref();
        let here = link.peer_address().is_ok_and(|peer| peer.ip().is_loopback());
        if link.is_secured() || here {
            return Ok(());
        }
        Err(Error::invalid(super::PASSWORD_IN_THE_CLEAR))
    }

    fn log_in(&mut self, login: &Login) -> Result<()> {
        let Login { username, password } = login;
        let step = format_args!("AUTH");
        if self.offers.plain {
            let token = plain_token(login);
            let command = Zeroizing::new(format!("AUTH PLAIN {}", token.as_str()));
            self.exchange(step, &command, 235)?;
        } else if self.offers.login {
            self.exchange(step, "AUTH LOGIN", 334)?;
            self.exchange(step, &STANDARD.encode(username), 334)?;
            self.exchange(step, &Zeroizing::new(STANDARD.encode(password.expose())), 235)?;
        } else {
            let context = "the server offers neither AUTH PLAIN nor AUTH LOGIN: leave the login out, or correct the port";
            return Err(Error::new(ErrorKind::Refused, context));
        }
        Ok(())
    }

    /// A command, and the one reply that is wanted.
    fn exchange(&mut self, step: StepName<'_>, command: &str, code: u16) -> Result<Reply> {
        let reply = self.command(step, command)?;
        self.wanted(step, &reply, code)?;
        Ok(reply)
    }

    fn command(&mut self, step: StepName<'_>, command: &str) -> Result<Reply> {
        let line = Zeroizing::new(format!("{command}\r\n"));
        self.write(step, line.as_bytes())?;
        self.reply(step)
    }

    fn write(&mut self, step: StepName<'_>, bytes: &[u8]) -> Result<()> {
        let link = self.link.get_mut();
        link.write_all(bytes).and_then(|()| link.flush()).map_err(|error| failed(step, error))
    }

    fn reply(&mut self, step: StepName<'_>) -> Result<Reply> {
        let mut unfinished = Unfinished::default();
        loop {
            let line = self.line(step)?;
            let taken = unfinished
                .take(&line)
                .map_err(|what| Error::new(ErrorKind::Protocol, format!("{step}: {what}, no SMTP")))?;
            match taken {
                Step::More(more) => unfinished = more,
                Step::Whole(reply) => return Ok(reply),
            }
        }
    }

    fn line(&mut self, step: StepName<'_>) -> Result<Vec<u8>> {
        let mut line = Vec::new();
        let mut bounded = (&mut self.link).take(LONGEST_LINE as u64);
        bounded.read_until(b'\n', &mut line).map_err(|error| failed(step, error))?;
        if line.pop_if(|last| *last == b'\n').is_none() {
            return Err(if line.len() == LONGEST_LINE {
                Error::new(ErrorKind::Protocol, format!("{step}: a line without an end"))
            } else {
                failed(step, io::ErrorKind::UnexpectedEof.into())
            });
        }
        line.pop_if(|last| *last == b'\r');
        Ok(line)
    }

    fn wanted(&self, step: StepName<'_>, reply: &Reply, code: u16) -> Result<()> {
        if reply.code == code { Ok(()) } else { Err(self.unwanted(step, reply)) }
    }

    fn unwanted(&self, step: StepName<'_>, reply: &Reply) -> Error {
        let said = quote(reply.text().as_bytes(), self.hidden.iter().map(String::as_str));
        Error::new(reply.kind(), format!("{step}: {said}"))
    }
}

fn secure(link: Link, server: &Server<'_>) -> Result<Link> {
    link.secured(Arc::clone(server.tls), server.name.clone())
        .map_err(|error| failed(format_args!("TLS cannot be set up"), error))
}

fn failed(step: StepName<'_>, error: io::Error) -> Error {
    let kind = ErrorKind::of_io(&error);
    match kind {
        ErrorKind::Timeout => Error::caused(kind, format!("{step}: no answer in time"), error),
        _ => Error::caused(kind, step.to_string(), error),
    }
}

/// If nobody was taken, one who may be taken later makes the whole worth a retry.
fn first_worth_a_retry(mut errors: Vec<Error>) -> Error {
    let found = errors.iter().position(Error::is_retryable).unwrap_or_default();
    errors.swap_remove(found)
}

/// A host without a name gives its address (RFC 5321, section 4.1.4).
fn hello(server: &Server<'_>, link: &Link) -> Result<String> {
    match server.hello_name {
        Some(name) => Ok(name.to_owned()),
        None => link
            .local_address()
            .map(|address| literal(&address))
            .map_err(|error| failed(format_args!("the own address"), error)),
    }
}

fn literal(address: &SocketAddr) -> String {
    match address.ip() {
        IpAddr::V4(ip) => format!("[{ip}]"),
        IpAddr::V6(ip) => format!("[IPv6:{ip}]"),
    }
}

fn plain_token(login: &Login) -> Zeroizing<String> {
    let Login { username, password } = login;
    let text = Zeroizing::new(format!("\0{username}\0{}", password.expose()));
    Zeroizing::new(STANDARD.encode(text.as_bytes()))
}

fn hidden(login: Option<&Login>) -> Vec<String> {
    let Some(login) = login else { return Vec::new() };
    let password = login.password.expose();
    vec![plain_token(login).to_string(), STANDARD.encode(password), password.to_owned()]
}
