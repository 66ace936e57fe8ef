//! The secrets of one session's connection. A guest names them, the host fills them in; nothing here prints one.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;

/// How a secret is written into its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    /// As it is.
    Raw,
    /// As character data of XML.
    XmlText,
    /// As the inside of a JSON string, without the quotes.
    JsonString,
    /// Percent-encoded but for unreserved characters (RFC 3986 section 2.3).
    Percent,
    /// Base64 with padding.
    Base64,
}

/// In place of a secret.
const MASK: &[u8] = b"(a secret)";

/// Secrets by name.
#[derive(Clone, Default)]
pub struct Secrets(BTreeMap<String, String>);

impl Secrets {
    /// No secret.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    pub(crate) fn encoded(&self, name: &str, encoding: Encoding) -> Option<String> {
        self.get(name).map(|secret| encode(secret, encoding))
    }

    /// Whether any secret stands in `text`, plainly or encoded. One or two characters are no evidence.
    pub(crate) fn appear_in(&self, text: &str) -> bool {
        self.0.values().filter(|secret| secret.len() > 2).any(|secret| {
            [Encoding::Raw, Encoding::Percent, Encoding::Base64]
                .into_iter()
                .any(|encoding| text.contains(&encode(secret, encoding)))
        })
    }

    /// The text without any secret, in whatever form a request may hold it.
    pub(crate) fn masked(&self, text: &str) -> String {
        let masked = self.masked_bytes(text.as_bytes());
        // Forms are whole texts, so what is left around them is text too.
        String::from_utf8_lossy(&masked).into_owned()
    }

    /// The same for any bytes.
    pub(crate) fn masked_bytes(&self, bytes: &[u8]) -> Vec<u8> {
        const FORMS: [Encoding; 5] =
            [Encoding::Raw, Encoding::XmlText, Encoding::JsonString, Encoding::Percent, Encoding::Base64];
        let secrets = self.0.values().filter(|secret| secret.len() > 2);
        let mut forms: Vec<String> =
            secrets.flat_map(|secret| FORMS.map(|encoding| encode(secret, encoding))).collect();
        // The longest first: one secret may begin with another.
        forms.sort_unstable_by_key(|form| std::cmp::Reverse(form.len()));
        let (mut masked, mut rest) = (Vec::with_capacity(bytes.len()), bytes);
        while let Some((first, after)) = rest.split_first() {
            match forms.iter().find(|form| rest.starts_with(form.as_bytes())) {
                Some(form) => {
                    masked.extend_from_slice(MASK);
                    rest = rest.get(form.len()..).unwrap_or_default();
                }
                None => {
                    masked.push(*first);
                    rest = after;
                }
            }
        }
        masked
    }
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for Secrets {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        Self(pairs.into_iter().map(|(name, secret)| (name.into(), secret.into())).collect())
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

fn encode(secret: &str, encoding: Encoding) -> String {
    match encoding {
        Encoding::Raw => secret.to_owned(),
        Encoding::XmlText => secret.chars().fold(String::new(), |mut out, c| {
            match c {
                '&' => out.push_str("&amp;"),
                '<' => out.push_str("&lt;"),
                '>' => out.push_str("&gt;"),
                '"' => out.push_str("&quot;"),
                '\'' => out.push_str("&apos;"),
                // An XML parser would turn a bare carriage return into a line feed.
                '\r' => out.push_str("&#13;"),
                c => out.push(c),
            }
            out
        }),
        Encoding::JsonString => {
            let quoted = serde_json::Value::from(secret).to_string();
            quoted.get(1..quoted.len() - 1).unwrap_or_default().to_owned()
        }
        Encoding::Percent => secret.bytes().fold(String::new(), |mut out, byte| {
            if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                out.push(char::from(byte));
            } else {
                out.push_str(&format!("%{byte:02X}"));
            }
            out
        }),
        Encoding::Base64 => base64::engine::general_purpose::STANDARD.encode(secret),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_form_of_a_secret_is_left() {
        let secrets: Secrets = [("a", "abc"), ("b", "abc12<3"), ("c", "xy")].into_iter().collect();
        assert_eq!(
            secrets.masked("<p>abc12&lt;3</p> abc1 xy YWJj"),
            "<p>(a secret)</p> (a secret)1 xy (a secret)"
        );
        assert_eq!(secrets.masked_bytes(b"\xffabc\xfe"), b"\xff(a secret)\xfe");
        assert_eq!(Secrets::none().masked("abc"), "abc");
    }

    #[test]
    fn a_secret_fits_into_its_place() {
        let secrets: Secrets = [("p", "a<&\"é\\")].into_iter().collect();
        for (encoding, expected) in [
            (Encoding::Raw, "a<&\"é\\"),
            (Encoding::XmlText, "a&lt;&amp;&quot;é\\"),
            (Encoding::JsonString, "a<&\\\"é\\\\"),
            (Encoding::Percent, "a%3C%26%22%C3%A9%5C"),
            (Encoding::Base64, "YTwmIsOpXA=="),
        ] {
            assert_eq!(secrets.encoded("p", encoding).unwrap(), expected);
        }
        assert_eq!(secrets.encoded("q", Encoding::Raw), None);
    }

    #[test]
    fn nothing_prints_a_secret_and_it_is_found_in_a_url() {
        let secrets: Secrets = [("p", "pa ss")].into_iter().collect();
        assert!(!format!("{secrets:?}").contains("pa ss"));
        assert!(secrets.appear_in("https://h/?x=pa%20ss"));
        assert!(!secrets.appear_in("https://h/?x=other"));
    }
}
