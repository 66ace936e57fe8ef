//! The text of a mail: headers that cannot be broken out of, and a body that survives any server.
//!
//! A subject is one line, whatever it was made of, since part of it may be an error's words. A body keeps its lines;
//! what no mail may hold (control characters) is shown as the replacement character. Everything that leaves is
//! 7-bit, so that no extension of the server is needed.

use lettre::Message;
use lettre::message::SinglePart;
use lettre::message::header::{ContentType, HeaderName, HeaderValue};

use super::Address;
use crate::bounds;
use crate::error::{Error, ErrorKind, Result};
use crate::quote::one_line;

/// More recipients are a mailing list's business.
const MOST_RECIPIENTS: usize = 100;
const LONGEST_SUBJECT: usize = 250;

/// A mail as it is sent, with CRLF at the end of every line, and its `Message-ID`.
pub(super) struct Composed {
    pub(super) id: String,
    pub(super) bytes: Vec<u8>,
}

pub(super) fn compose(from: &Address, to: &[Address], subject: &str, body: &str) -> Result<Composed> {
    if to.is_empty() || to.len() > MOST_RECIPIENTS {
        let context = format!("a mail to {} addresses: give from 1 to {MOST_RECIPIENTS}", to.len());
        return Err(Error::invalid(context));
    }
    bounds::check_body("a mail", body.len())?;
    let id = format!("<{}@{}>", uuid::Uuid::new_v4(), from.domain());
    let mut message = Message::builder()
        .from(from.to_header())
        .subject(one_line(subject, LONGEST_SUBJECT))
        .message_id(Some(id.clone()))
        .date_now()
        // RFC 3834, section 5: no vacation answers and the like, please.
        .raw_header(HeaderValue::new(
            HeaderName::new_from_ascii_str("Auto-Submitted"),
            "auto-generated".to_owned(),
        ));
    for address in to {
        message = message.to(address.to_header());
    }
    let part = SinglePart::builder().header(ContentType::TEXT_PLAIN).body(clean(body));
    let message = message
        .singlepart(part)
        .map_err(|error| Error::caused(ErrorKind::Invalid, "the mail cannot be composed", error))?;
    Ok(Composed { id, bytes: message.formatted() })
}

/// Lines end with `\n`, wherever they ended before: a bare CR or LF on the wire is read as an end of a line by some
/// servers and not by others. The last end is left out, as composing adds one.
fn clean(body: &str) -> String {
    let text = body.replace("\r\n", "\n").replace('\r', "\n");
    let text = text.strip_suffix('\n').unwrap_or(&text);
    let odd = |c: char| c.is_control() && c != '\n' && c != '\t';
    text.replace(odd, "\u{fffd}")
}

/// The bytes of a DATA command, its end included: a dot that begins a line is doubled (RFC 5321, section 4.5.2).
pub(super) fn stuffed(message: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(message.len() + message.len() / 64 + 5);
    let mut beginning = true;
    for &byte in message {
        if beginning && byte == b'.' {
            bytes.push(b'.');
        }
        bytes.push(byte);
        beginning = byte == b'\n';
    }
    if !bytes.ends_with(b"\r\n") {
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b".\r\n");
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn composed(subject: &str, body: &str) -> Result<String> {
        let from: Address = "Tidemark <backup@example.com>".parse().unwrap();
        let to = ["ops@example.com".parse().unwrap()];
        compose(&from, &to, subject, body).map(|mail| String::from_utf8(mail.bytes).unwrap())
    }

    #[test]
    fn what_every_mail_has() {
        let mail = composed("Backup failed", "why").unwrap();
        for line in [
            "From: Tidemark <backup@example.com>\r\n",
            "To: ops@example.com\r\n",
            "Subject: Backup failed\r\n",
            "Auto-Submitted: auto-generated\r\n",
            "MIME-Version: 1.0\r\n",
            "Content-Type: text/plain; charset=utf-8\r\n",
        ] {
            assert!(mail.contains(line), "{line}{mail}");
        }
        assert!(mail.contains("\r\nDate: ") && mail.contains("@example.com>\r\n"), "{mail}");
        assert!(mail.ends_with("\r\n\r\nwhy\r\n"), "{mail}");
    }

    #[test]
    fn bounds_are_kept() {
        assert!(composed("s", &"x".repeat(bounds::LARGEST_BODY + 1)).is_err());
        assert!(composed(&"x".repeat(100_000), "").unwrap().len() < 1000);
        let from: Address = "a@example.com".parse().unwrap();
        assert!(compose(&from, &[], "s", "b").is_err());
        assert!(compose(&from, &vec![from.clone(); MOST_RECIPIENTS + 1], "s", "b").is_err());
    }

    #[test]
    fn dots_are_doubled_where_a_line_begins() {
        assert_eq!(stuffed(b".a\r\n..\r\nb.c\r\n"), b"..a\r\n...\r\nb.c\r\n.\r\n");
        assert_eq!(stuffed(b"a"), b"a\r\n.\r\n");
        assert_eq!(stuffed(b""), b"\r\n.\r\n");
    }

    proptest! {
        #[test]
        fn no_subject_and_no_body_break_out(
            subject in "(\\PC|[\\x00-\\x1f]|\r\nBcc: x){0,40}",
            body in "(\\PC|[\\x00-\\x1f]|\r\n\\.\r\n|\n\\.\n|\r\\.\r){0,40}",
        ) {
            let mail = composed(&subject, &body).unwrap();
            prop_assert!(mail.is_ascii());
            let (head, _) = mail.split_once("\r\n\r\n").unwrap();
            let names: Vec<_> = head
                .split("\r\n")
                .filter(|line| !line.starts_with(' '))
                .map(|line| line.split(':').next().unwrap())
                .collect();
            prop_assert!(!names.contains(&"Bcc") && names.len() == 9, "{:?}", names);
            let wire = String::from_utf8(stuffed(mail.as_bytes())).unwrap();
            let inner = wire.strip_suffix("\r\n.\r\n").unwrap();
            prop_assert!(!inner.contains("\r\n.\r\n"));
            let without = wire.replace("\r\n", "");
            prop_assert!(!without.contains(['\r', '\n']));
            prop_assert!(wire.split("\r\n").all(|line| line.len() <= 998));
        }
    }
}
