//! Mail: what arrives, whom it is given to, and what becomes of each way in which a server may answer or not.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tidemark_notify::{
    Address, Error, ErrorKind, Login, MailSettings, Mailer, Pause, RetryPolicy, Secret, Security, Sent,
    deliver_with_retries,
};

use crate::authority::Authority;
use crate::python::python;
use crate::smtp_peer::{Manners, Server};

const PASSWORD: &str = "correct horse";
/// base64 of NUL, "backup", NUL and the password.
const TOKEN: &str = "AGJhY2t1cABjb3JyZWN0IGhvcnNl";

type Change = fn(&mut MailSettings);
type Replies = &'static [(&'static str, &'static str)];

fn address(text: &str) -> Address {
    text.parse().unwrap()
}

fn settings(server: &Server) -> MailSettings {
    let from = address("Tidemark <backup@example.com>");
    MailSettings { port: server.port, ..MailSettings::new("127.0.0.1", Security::None, from) }
}

fn login() -> Option<Login> {
    Some(Login { username: "backup".to_owned(), password: Secret::new(PASSWORD) })
}

fn send(settings: MailSettings) -> Result<Sent, Error> {
    Mailer::new(settings)?.send(&[address("ops@example.com")], "Backup failed", "why\n")
}

/// One mail, with a login, to a server of these manners.
fn send_to(manners: Manners) -> Result<Sent, Error> {
    let server = Server::start(manners);
    send(MailSettings { login: login(), timeout: Duration::from_secs(10), ..settings(&server) })
}

fn refusing(instead: Replies) -> Error {
    send_to(Manners { instead, ..Manners::default() }).unwrap_err()
}

/// Subject, body, recipients and a few headers, as Python's `email` package reads a mail.
const READ_MAIL: &str = r#"
import email, email.policy, json, sys
mail = email.message_from_bytes(sys.stdin.buffer.read(), policy=email.policy.default)
print(json.dumps({
    "subject": mail["subject"], "body": mail.get_content().replace("\r\n", "\n"), "to": [a.addr_spec for a in mail["to"].addresses],
    "names": [a.display_name for a in mail["to"].addresses], "from": mail["from"].addresses[0].addr_spec,
    "id": mail["message-id"], "dated": mail["date"].datetime is not None, "auto": mail["auto-submitted"],
    "bcc": mail["bcc"], "defects": [str(d) for d in mail.defects],
}))
"#;

fn read(data: &[u8]) -> Option<Value> {
    python(READ_MAIL, &[], data).map(|text| serde_json::from_str(&text).unwrap())
}

#[test]
fn a_mail_is_handed_over() {
    let server = Server::start(Manners::default());
    let sent = send(settings(&server)).unwrap();
    assert!(sent.refused.is_empty());
    let mail = server.only_mail();
    assert_eq!((mail.from.as_str(), mail.to), ("backup@example.com", vec!["ops@example.com".to_owned()]));
    let text = String::from_utf8(mail.data).unwrap();
    assert!(text.contains(&format!("Message-ID: {}\r\n", sent.message_id)), "{text}");
    assert!(text.ends_with("\r\n\r\nwhy\r\n"), "{text}");
    let commands = server.commands();
    assert_eq!(commands[0], "EHLO [127.0.0.1]");
    assert!(!commands.iter().any(|command| command.starts_with("AUTH")), "{commands:?}");
    let named = MailSettings { hello_name: Some("backup.example.com".to_owned()), ..settings(&server) };
    send(named).unwrap();
    assert!(server.commands().contains(&"EHLO backup.example.com".to_owned()));
}

#[test]
fn any_text_arrives_intact() {
    let long = "x".repeat(5000);
    let words = "lorem ipsum ".repeat(300);
    let mut all = String::new();
    for code in 0x20..0x3000_u32 {
        all.extend(char::from_u32(code).filter(|c| !c.is_control()));
    }
    let bodies = [
        ".\n..\n.hidden\n.\n\nQUIT\n",
        "=3D =\n  trailing blanks  \n\tand a tab\n",
        "Sicherung von »büro« fehlgeschlagen – 失敗 🙁\n.\n",
        &format!("{long}\n.{long}\n"),
        &format!("{words}\n.ü{words}\n"),
        &format!("{all}\n"),
        "From here on\n>From\n",
        "\n\n\n",
    ];
    let server = Server::start(Manners::default());
    let mailer = Mailer::new(settings(&server)).unwrap();
    let to = [address("\"Büro, Ops\" <ops@example.com>"), address("second@example.org")];
    let subject =
        "Sicherung »büro« fehlgeschlagen: a rather long subject that has to be folded somewhere – 失敗 🙁";
    for body in bodies {
        mailer.send(&to, subject, body).unwrap();
    }
    let mails = server.mails();
    assert_eq!(mails.len(), bodies.len());
    for (mail, body) in mails.iter().zip(bodies) {
        assert!(mail.data.is_ascii());
        assert_eq!(mail.to, ["ops@example.com", "second@example.org"]);
        let Some(read) = read(&mail.data) else { return };
        // Where the encoding is base64, the last line has no end.
        assert_eq!(read["body"].as_str().unwrap().trim_end_matches('\n'), body.trim_end_matches('\n'));
        assert_eq!(read["subject"], subject);
        assert_eq!(read["to"], json!(["ops@example.com", "second@example.org"]));
        assert_eq!(read["names"], json!(["Büro, Ops", ""]));
        assert_eq!((&read["from"], &read["auto"]), (&json!("backup@example.com"), &json!("auto-generated")));
        assert_eq!((&read["dated"], &read["defects"]), (&json!(true), &json!([])));
    }
}

#[test]
fn a_subject_and_a_body_cannot_become_headers_or_commands() {
    let server = Server::start(Manners::default());
    let mailer = Mailer::new(settings(&server)).unwrap();
    let subject = "Failed\r\nBcc: x@example.com\r\n\r\nfrom the subject\0";
    let body = "a\r.\rMAIL FROM:<x@example.com>\n.\r\nb\0c";
    mailer.send(&[address("ops@example.com")], subject, body).unwrap();
    let mail = server.only_mail();
    assert_eq!(mail.to, ["ops@example.com"]);
    let Some(read) = read(&mail.data) else { return };
    assert_eq!(read["subject"], "Failed Bcc: x@example.com from the subject");
    assert_eq!(read["bcc"], Value::Null);
    assert_eq!(read["body"].as_str().unwrap().trim_end(), "a\n.\nMAIL FROM:<x@example.com>\n.\nb\u{fffd}c");
}

#[test]
fn a_login_is_by_plain_or_by_what_there_is() {
    let server = Server::start(Manners::default());
    send(MailSettings { login: login(), ..settings(&server) }).unwrap();
    assert!(server.commands().contains(&format!("AUTH PLAIN {TOKEN}")));
    let server = Server::start(Manners { offers: &["auth login"], ..Manners::default() });
    send(MailSettings { login: login(), ..settings(&server) }).unwrap();
    let commands = server.commands();
    assert_eq!(commands[1..4], ["AUTH LOGIN", "YmFja3Vw", "Y29ycmVjdCBob3JzZQ=="]);
    let none = send_to(Manners { offers: &["AUTH CRAM-MD5"], ..Manners::default() }).unwrap_err();
    assert_eq!(none.kind(), ErrorKind::Refused);
}

#[test]
fn a_refused_login_is_told_without_the_password() {
    let error = refusing(&[("AUTH", "535 5.7.8 no: AGJhY2t1cABjb3JyZWN0IGhvcnNl is correct horse")]);
    assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::Refused, false));
    let text = error.to_string();
    assert!(
        text.starts_with("mail by 127.0.0.1:") && text.ends_with(": AUTH: 535 5.7.8 no: … is …"),
        "{text}"
    );
    let server = Server::start(Manners::default());
    let settings = MailSettings { login: login(), ..settings(&server) };
    let shown = format!("{settings:?} {:?} {error:?}", Mailer::new(settings.clone()).unwrap());
    assert!(!shown.contains(PASSWORD) && !shown.contains(TOKEN), "{shown}");
}

#[test]
fn every_refusal_is_sorted() {
    let cases: &[(Replies, ErrorKind, &str)] = &[
        (&[("", "554 go away")], ErrorKind::Rejected, "the greeting: 554 go away"),
        (&[("", "421 later")], ErrorKind::Unavailable, "the greeting: 421 later"),
        (&[("EHLO", "502 what?")], ErrorKind::Rejected, "EHLO: 502 what?"),
        (&[("AUTH", "454 later")], ErrorKind::Unavailable, "AUTH: 454 later"),
        (&[("MAIL", "530 who are you?")], ErrorKind::Refused, "MAIL FROM: 530 who are you?"),
        (
            &[("RCPT", "550-no\r\n550 such user")],
            ErrorKind::Rejected,
            "RCPT TO ops@example.com: 550 no such user",
        ),
        (&[("RCPT", "451 greylisted")], ErrorKind::Unavailable, "RCPT TO ops@example.com: 451 greylisted"),
        (&[("DATA", "554 no")], ErrorKind::Rejected, "DATA: 554 no"),
        (&[(".", "552 too large")], ErrorKind::Rejected, "the mail itself: 552 too large"),
        (&[(".", "452 full")], ErrorKind::Unavailable, "the mail itself: 452 full"),
        (&[("MAIL", "354 go on")], ErrorKind::Protocol, "MAIL FROM: 354 go on"),
    ];
    for (instead, kind, words) in cases {
        let error = refusing(instead);
        assert_eq!(error.kind(), *kind, "{words}");
        assert!(error.to_string().ends_with(words), "{error}");
    }
}

#[test]
fn one_refused_recipient_does_not_cost_the_others_their_mail() {
    let instead = &[("RCPT TO:<gone@", "550 no such user"), ("RCPT TO:<slow@", "451 later")];
    let server = Server::start(Manners { instead, ..Manners::default() });
    let mailer = Mailer::new(settings(&server)).unwrap();
    let send = |names: &[&str]| {
        let to: Vec<_> = names.iter().map(|name| address(&format!("{name}@example.com"))).collect();
        mailer.send(&to, "s", "b")
    };
    let sent = send(&["gone", "ops", "slow"]).unwrap();
    assert_eq!(server.only_mail().to, ["ops@example.com"]);
    let refused: Vec<_> = sent.refused.iter().map(|error| (error.kind(), error.to_string())).collect();
    assert_eq!(
        refused,
        [
            (ErrorKind::Rejected, "RCPT TO gone@example.com: 550 no such user".to_owned()),
            (ErrorKind::Unavailable, "RCPT TO slow@example.com: 451 later".to_owned()),
        ]
    );
    assert_eq!(send(&["gone", "slow"]).unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(send(&["gone"]).unwrap_err().kind(), ErrorKind::Rejected);
    assert_eq!(server.mails().len(), 1);
}

#[test]
fn starttls_and_tls_believe_a_given_authority_and_nobody_else() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    for security in [Security::StartTls, Security::Tls] {
        let try_with = |name: &str, authorities: Option<&str>| {
            let config = Some(authority.server(name));
            let manners = match security {
                Security::StartTls => Manners { starttls: config, ..Manners::default() },
                _ => Manners { tls: config, ..Manners::default() },
            };
            let server = Server::start(manners);
            let sent = send(MailSettings {
                host: "localhost".to_owned(),
                security,
                login: login(),
                authorities: authorities.map(str::to_owned),
                ..settings(&server)
            });
            (sent, server.commands(), server.mails().len())
        };
        let (sent, commands, mails) = try_with("localhost", Some(&authority.pem));
        sent.unwrap();
        assert_eq!(mails, 1);
        let hellos = if security == Security::StartTls { 2 } else { 1 };
        assert_eq!(commands.iter().filter(|command| command.starts_with("EHLO")).count(), hellos);
        for (name, authorities) in [
            ("localhost", None),
            ("localhost", Some(&*stranger.pem)),
            ("other.example", Some(&*authority.pem)),
        ] {
            let (sent, commands, mails) = try_with(name, authorities);
            let error = sent.unwrap_err();
            assert_eq!((error.kind(), mails), (ErrorKind::Tls, 0), "{error:?}");
            assert!(!commands.iter().any(|command| command.starts_with("AUTH")), "{commands:?}");
        }
    }
}

#[test]
fn nothing_is_sent_where_starttls_is_refused_or_missing() {
    let authority = Authority::new();
    let try_with = |manners: Manners| {
        let server = Server::start(manners);
        let error = send(MailSettings {
            host: "localhost".to_owned(),
            security: Security::StartTls,
            login: login(),
            authorities: Some(authority.pem.clone()),
            ..settings(&server)
        })
        .unwrap_err();
        let commands = server.commands();
        assert!(!commands.iter().any(|c| c.starts_with("AUTH") || c.starts_with("MAIL")), "{commands:?}");
        error
    };
    let missing = try_with(Manners::default());
    assert_eq!(missing.kind(), ErrorKind::Tls);
    assert!(missing.to_string().contains("offers no STARTTLS"), "{missing}");
    let starttls = Some(authority.server("localhost"));
    let refused = try_with(Manners {
        starttls: starttls.clone(),
        instead: &[("STARTTLS", "454 not now")],
        ..Manners::default()
    });
    assert_eq!(refused.kind(), ErrorKind::Unavailable);
    // Somebody on the way puts an answer in front of the handshake.
    let injected = try_with(Manners {
        starttls,
        instead: &[("STARTTLS", "220 go ahead\r\n250-mx.example.com\r\n250 AUTH PLAIN")],
        ..Manners::default()
    });
    assert_eq!(injected.kind(), ErrorKind::Protocol, "{injected:?}");
}

#[test]
fn silence_and_dripping_end_with_the_timeout() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let dripping = Server::start(Manners { drip: Some(Duration::from_millis(50)), ..Manners::default() });
    for port in [silent.local_addr().unwrap().port(), dripping.port] {
        let from = address("backup@example.com");
        let timeout = Duration::from_millis(400);
        let started = Instant::now();
        let settings = MailSettings { port, timeout, ..MailSettings::new("127.0.0.1", Security::None, from) };
        let error = send(settings).unwrap_err();
        assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::Timeout, true), "{error:?}");
        assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    }
}

#[test]
fn nobody_there_is_worth_a_retry_and_nonsense_is_not() {
    let gone = { settings(&Server::start(Manners::default())) };
    assert_eq!(send(gone).unwrap_err().kind(), ErrorKind::Unreachable);
    assert_eq!(refusing(&[("", "HTTP/1.1 400 Bad Request")]).kind(), ErrorKind::Protocol);
    let endless: &'static str = Box::leak("220 ".repeat(5000).into_boxed_str());
    let error = refusing(Box::leak(Box::new([("", endless)])));
    assert_eq!(error.kind(), ErrorKind::Protocol);
    assert!(error.to_string().ends_with("a line without an end"), "{error}");
    let many: &'static str = Box::leak("250-x\r\n".repeat(5000).into_boxed_str());
    let error = refusing(Box::leak(Box::new([("EHLO", many)])));
    assert!(error.to_string().contains("too many lines"), "{error}");
}

#[test]
fn retries_work_for_mail_as_well() {
    let server = Server::start(Manners { instead: &[("RCPT", "451 greylisted")], ..Manners::default() });
    let mailer = Mailer::new(settings(&server)).unwrap();
    let policy = RetryPolicy { attempts: 3, ..RetryPolicy::default() };
    let outcome = deliver_with_retries(
        &policy,
        |_| Pause::Over,
        |_| mailer.send(&[address("a@example.com")], "s", "b"),
    );
    assert!(outcome.unwrap_err().to_string().starts_with("attempt 3: mail by 127.0.0.1:"));
    assert_eq!(server.commands().iter().filter(|command| command.starts_with("RCPT")).count(), 3);
}

#[test]
fn settings_that_cannot_be_are_refused_before_anything_is_sent() {
    let with = |change: Change| {
        let from = address("backup@example.com");
        let mut settings = MailSettings::new("smtp.example.com", Security::StartTls, from);
        settings.login = login();
        change(&mut settings);
        Mailer::new(settings).map(drop)
    };
    let fine: [Change; 5] = [
        |_| {},
        |s| s.host = "[2001:db8::1]".to_owned(),
        |s| (s.security, s.login) = (Security::None, None),
        |s| (s.security, s.host) = (Security::None, "localhost".to_owned()),
        |s| (s.security, s.host) = (Security::None, "::1".to_owned()),
    ];
    for change in fine {
        with(change).unwrap();
    }
    let cases: [(Change, &str); 12] = [
        (|s| s.security = Security::None, "in the clear"),
        (|s| (s.security, s.host) = (Security::None, "127.0.0.1.example.com".to_owned()), "in the clear"),
        (|s| s.host = String::new(), "without a port"),
        (|s| s.host = "smtp.example.com:25".to_owned(), "without a port"),
        (|s| s.host = "smtp.example.com\r\nQUIT".to_owned(), "without a port"),
        (|s| s.port = 0, "port"),
        (|s| s.timeout = Duration::ZERO, "timeout"),
        (|s| s.timeout = Duration::MAX, "timeout"),
        (|s| s.hello_name = Some("a\r\nMAIL FROM:<>".to_owned()), "own name"),
        (|s| s.authorities = Some("none".to_owned()), "PEM"),
        (|s| s.login.as_mut().unwrap().password = Secret::new(""), "password"),
        (|s| s.login.as_mut().unwrap().username = "a\0b".to_owned(), "NUL"),
    ];
    for (change, words) in cases {
        let error = with(change).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains(words), "{error}");
    }
    let mailer =
        Mailer::new(MailSettings::new("localhost", Security::None, address("a@example.com"))).unwrap();
    assert_eq!(mailer.send(&[], "s", "b").unwrap_err().kind(), ErrorKind::Invalid);
}
