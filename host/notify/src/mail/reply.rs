//! What an SMTP server says, read without touching a socket: replies, and what it offers in answer to EHLO
//! (RFC 5321, section 4.2).

use crate::error::ErrorKind;

/// A reply may have as many lines.
pub(super) const MOST_LINES: usize = 100;
/// RFC 5321 has 512 in section 4.5.3.1.5; servers exceed it.
pub(super) const LONGEST_LINE: usize = 2048;

/// A reply that is still being read.
#[derive(Debug, Default)]
pub(super) struct Unfinished {
    code: Option<u16>,
    lines: Vec<String>,
}

/// A whole reply.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Reply {
    pub(super) code: u16,
    lines: Vec<String>,
}

impl Unfinished {
    /// Takes the next line, without its end: the reply, where it is the last one.
    pub(super) fn take(mut self, line: &[u8]) -> Result<Step, &'static str> {
        let (digits, rest) = line.split_first_chunk::<3>().ok_or("a reply without a code")?;
        if !digits.iter().all(u8::is_ascii_digit) || !(b'2'..=b'5').contains(&digits[0]) {
            return Err("a reply without a code");
        }
        let code = digits.iter().fold(0, |code, digit| code * 10 + u16::from(digit - b'0'));
        if self.code.is_some_and(|first| first != code) {
            return Err("a reply with two codes");
        }
        if self.lines.len() == MOST_LINES {
            return Err("a reply of too many lines");
        }
        let (last, text) = match rest.split_first() {
            None => (true, rest),
            Some((b' ', text)) => (true, text),
            Some((b'-', text)) => (false, text),
            Some(_) => return Err("a reply without a code"),
        };
        self.code = Some(code);
        self.lines.push(String::from_utf8_lossy(text).into_owned());
        Ok(if last { Step::Whole(Reply { code, lines: self.lines }) } else { Step::More(self) })
    }
}

/// What a line made of a reply.
#[derive(Debug)]
pub(super) enum Step {
    More(Unfinished),
    Whole(Reply),
}

impl Reply {
    /// What the code means where it is not the one that was wanted.
    pub(super) fn kind(&self) -> ErrorKind {
        match self.code {
            400..=499 => ErrorKind::Unavailable,
            // RFC 4954, section 6: authentication required, mechanism too weak, credentials invalid.
            530 | 534 | 535 => ErrorKind::Refused,
            500.. => ErrorKind::Rejected,
            _ => ErrorKind::Protocol,
        }
    }

    /// All lines as one, the code first.
    pub(super) fn text(&self) -> String {
        format!("{} {}", self.code, self.lines.join(" "))
    }

    /// What the server can do beside the basics, as it says in answer to EHLO.
    pub(super) fn offers(&self) -> Offers {
        let mut offers = Offers::default();
        for line in self.lines.iter().skip(1) {
            let line = line.to_ascii_uppercase();
            // "AUTH=" is the form that old servers have beside the right one.
            let mut words = line.split([' ', '=']);
            match words.next() {
                Some("STARTTLS") => offers.starttls = true,
                Some("AUTH") => {
                    for mechanism in words {
                        offers.plain |= mechanism == "PLAIN";
                        offers.login |= mechanism == "LOGIN";
                    }
                }
                _ => {}
            }
        }
        offers
    }
}

/// What matters here of what a server can do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Offers {
    pub(super) starttls: bool,
    pub(super) plain: bool,
    pub(super) login: bool,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(lines: &[&str]) -> Result<Option<Reply>, &'static str> {
        let mut unfinished = Unfinished::default();
        for line in lines {
            match unfinished.take(line.as_bytes())? {
                Step::More(more) => unfinished = more,
                Step::Whole(reply) => return Ok(Some(reply)),
            }
        }
        Ok(None)
    }

    #[test]
    fn a_reply_ends_with_its_last_line() {
        let reply = read(&["250-mx.example.com", "250-SIZE 100", "250 ok"]).unwrap().unwrap();
        assert_eq!((reply.code, reply.text().as_str()), (250, "250 mx.example.com SIZE 100 ok"));
        assert_eq!(read(&["354"]).unwrap().unwrap().code, 354);
        assert_eq!(read(&["250-a", "250-b"]).unwrap(), None);
        for odd in [
            vec!["25"],
            vec!["", ""],
            vec!["HTTP/1.1 200"],
            vec!["250x"],
            vec!["150 a"],
            vec!["250-a", "251 b"],
        ] {
            assert!(read(&odd).is_err(), "{odd:?}");
        }
        assert!(read(&["250-x"; MOST_LINES + 1]).is_err());
    }

    #[test]
    fn offers_are_read_in_any_case() {
        let reply =
            read(&["250-starttls.example", "250-StartTLS", "250-AUTH=LOGIN", "250 auth CRAM-MD5 plain"]);
        let offers = reply.unwrap().unwrap().offers();
        assert_eq!(offers, Offers { starttls: true, plain: true, login: true });
        let greeting = read(&["250 STARTTLS"]).unwrap().unwrap();
        assert_eq!(greeting.offers(), Offers::default());
    }

    #[test]
    fn a_code_says_whether_patience_helps() {
        let kind = |line| read(&[line]).unwrap().unwrap().kind();
        assert_eq!(kind("451 greylisted"), ErrorKind::Unavailable);
        assert_eq!(kind("535 no"), ErrorKind::Refused);
        assert_eq!(kind("550 no such user"), ErrorKind::Rejected);
        assert_eq!(kind("250 ok"), ErrorKind::Protocol);
    }

    proptest! {
        #[test]
        fn foreign_lines_make_no_panic(lines in prop::collection::vec("(250[ -])?\\PC{0,20}", 0..9)) {
            let lines: Vec<_> = lines.iter().map(String::as_str).collect();
            if let Ok(Some(reply)) = read(&lines) {
                let _ = (reply.kind(), reply.offers(), reply.text());
            }
        }
    }
}
