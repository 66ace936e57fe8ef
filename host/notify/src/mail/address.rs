//! Addresses of mail: one mailbox each, with or without a name, in characters that every server takes.

use std::fmt;
use std::str::FromStr;

use lettre::message::Mailbox;

use crate::error::{Error, ErrorKind};
use crate::quote::quote;

/// A mailbox, as in `ops@example.com` or `Operations <ops@example.com>`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Address(Mailbox);

impl Address {
    /// The address alone, without the name.
    #[must_use]
    pub fn mailbox(&self) -> &str {
        self.0.email.as_ref()
    }

    /// What is behind the `@`.
    pub(super) fn domain(&self) -> &str {
        self.0.email.domain()
    }

    pub(super) fn to_header(&self) -> Mailbox {
        self.0.clone()
    }
}

impl FromStr for Address {
    type Err = Error;

    /// # Errors
    /// [`ErrorKind::Invalid`] where it is no address, has several lines, or is other than ASCII before or behind the
    /// `@` (the name may be in any script).
    fn from_str(text: &str) -> Result<Self, Error> {
        let shown = quote(text.as_bytes(), []);
        if text.contains(char::is_control) {
            return Err(Error::invalid(format!("the address '{shown}' has several lines: give one")));
        }
        let mailbox: Mailbox = text.trim().parse().map_err(|error| {
            let context =
                format!("'{shown}' is no address: write it as ops@example.com or Ops <ops@example.com>");
            Error::caused(ErrorKind::Invalid, context, error)
        })?;
        // Angle brackets would end the argument of an SMTP command, a space would begin the next.
        let plain = |byte: u8| byte.is_ascii_graphic() && byte != b'<' && byte != b'>';
        let address = Self(mailbox);
        if !address.mailbox().bytes().all(plain) {
            let context =
                format!("the address '{shown}' is not plain ASCII: give the domain in its xn-- form");
            return Err(Error::invalid(context));
        }
        Ok(address)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_address_has_a_mailbox_and_maybe_a_name() {
        let plain: Address = " ops@example.com ".parse().unwrap();
        assert_eq!((plain.mailbox(), plain.domain()), ("ops@example.com", "example.com"));
        let named: Address = "\"Bücher, Ops\" <ops+x@xn--bcher-kva.example>".parse().unwrap();
        assert_eq!(named.mailbox(), "ops+x@xn--bcher-kva.example");
    }

    #[test]
    fn what_could_end_a_command_or_header_is_no_address() {
        for odd in [
            "",
            "ops",
            "ops@",
            "@example.com",
            "a@b.example, c@d.example",
            "Bücher, Ops <ops@example.com>",
            "ops@example.com\r\nBcc: x@example.com",
            "Ops\r\nBcc: x@example.com <ops@example.com>",
            "\"a> b\"@example.com",
            "bücher@example.com",
            "ops@bücher.example",
        ] {
            assert_eq!(odd.parse::<Address>().unwrap_err().kind(), ErrorKind::Invalid, "{odd}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_two_lines(text in "(\\PC|@|<|>|\"|[\\x00-\\x20]|a@b\\.c){0,12}") {
            if let Ok(address) = text.parse::<Address>() {
                prop_assert!(address.mailbox().bytes().all(|b| b.is_ascii_graphic() && b != b'<' && b != b'>'));
                prop_assert!(!address.to_string().contains(char::is_control));
            }
        }
    }
}
