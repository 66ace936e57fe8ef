//! XML as vim25 uses it: a writer that escapes everything, and a small owned tree of an answer.
//!
//! Namespaces are dropped after parsing: vim25 answers have one, and the prefixes in `xsi:type` differ by server.

use tidemark_plugin::http::{Encoding, Part};
use tidemark_plugin::{Error, Result};

/// Deeper answers are refused; vim25's own stay below 30 (long chains of backing parents included).
const MAX_DEPTH: usize = 200;
const XSI: &str = "http://www.w3.org/2001/XMLSchema-instance";

/// A reference to an object of the server: its type and its id (`VirtualMachine`, `vm-10`).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Ref {
    pub(crate) kind: String,
    pub(crate) id: String,
}

impl Ref {
    pub(crate) fn new(kind: &str, id: &str) -> Self {
        Self { kind: kind.to_owned(), id: id.to_owned() }
    }

    /// A reference whose id comes from outside the plugin, which is then put into URLs too.
    pub(crate) fn checked(kind: &str, id: &str) -> Result<Self> {
        let plain = |ch: char| ch.is_ascii_alphanumeric() || matches!(ch, '-' | '_' | '.' | ':');
        if id.is_empty() || id.len() > 200 || !id.chars().all(plain) || id.chars().all(|ch| ch == '.') {
            return Err(Error::not_found(format!("'{id}' is no {kind} reference")));
        }
        Ok(Self::new(kind, id))
    }
}

/// Writes elements in order. Secrets break the text into parts, as only the host can fill them in.
#[derive(Debug, Default)]
pub(crate) struct Xml {
    parts: Vec<Part>,
    text: String,
}

impl Xml {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Text that is XML already.
    pub(crate) fn raw(mut self, xml: &str) -> Self {
        self.text.push_str(xml);
        self
    }

    /// `<name>text</name>`, escaped.
    pub(crate) fn element(mut self, name: &str, text: &str) -> Self {
        self.text.push_str(&format!("<{name}>{}</{name}>", escape(text)));
        self
    }

    /// `<name type="VirtualMachine">vm-10</name>`.
    pub(crate) fn reference(mut self, name: &str, to: &Ref) -> Self {
        self.text.push_str(&format!("<{name} type=\"{}\">{}</{name}>", escape(&to.kind), escape(&to.id)));
        self
    }

    /// `<name xsi:type="…">…</name>` around what `inner` writes.
    pub(crate) fn typed(self, name: &str, xsi_type: &str, inner: impl FnOnce(Self) -> Self) -> Self {
        inner(self.raw(&format!("<{name} xsi:type=\"{}\">", escape(xsi_type)))).raw(&format!("</{name}>"))
    }

    /// `<name>` with the named secret as its text.
    pub(crate) fn secret(mut self, name: &str, secret: &str) -> Self {
        self.text.push_str(&format!("<{name}>"));
        self.parts.push(Part::Bytes(std::mem::take(&mut self.text).into_bytes()));
        self.parts.push(Part::secret(secret, Encoding::XmlText));
        self.text.push_str(&format!("</{name}>"));
        self
    }

    pub(crate) fn into_parts(mut self) -> Vec<Part> {
        if !self.text.is_empty() {
            self.parts.push(Part::Bytes(self.text.into_bytes()));
        }
        self.parts
    }
}

/// Text as XML character data or attribute value. Characters that XML 1.0 cannot carry at all become U+FFFD.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for ch in text.chars() {
        match ch {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\r' => out.push_str("&#13;"),
            '\n' | '\t' => out.push(ch),
            ch if u32::from(ch) < 0x20 || matches!(ch, '\u{fffe}' | '\u{ffff}') => out.push('\u{fffd}'),
            ch => out.push(ch),
        }
    }
    out
}

/// An element of an answer: local names, own text, children.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Element {
    pub(crate) name: String,
    /// `xsi:type` without its prefix.
    pub(crate) xsi_type: String,
    /// The attribute `type` of a reference.
    kind: String,
    pub(crate) text: String,
    pub(crate) children: Vec<Element>,
}

impl Element {
    /// The document's root.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let document = roxmltree::Document::parse(text)
            .map_err(|error| Error::corrupt(format!("the server's answer is no XML: {error}")))?;
        Self::build(document.root_element(), 0)
    }

    fn build(node: roxmltree::Node<'_, '_>, depth: usize) -> Result<Self> {
        if depth > MAX_DEPTH {
            return Err(Error::corrupt("the server's answer is nested too deeply"));
        }
        let xsi_type = node.attribute((XSI, "type")).unwrap_or_default();
        // Looked up by hand: by its bare name an attribute is found in any namespace, so `xsi:type` too.
        let kind = node.attributes().find(|found| found.namespace().is_none() && found.name() == "type");
        let mut element = Self {
            name: node.tag_name().name().to_owned(),
            xsi_type: xsi_type.rsplit(':').next().unwrap_or_default().to_owned(),
            kind: kind.map(|kind| kind.value().to_owned()).unwrap_or_default(),
            ..Self::default()
        };
        for child in node.children() {
            if child.is_element() {
                element.children.push(Self::build(child, depth + 1)?);
            } else if let Some(text) = child.text().filter(|_| child.is_text()) {
                element.text.push_str(text);
            }
        }
        Ok(element)
    }

    pub(crate) fn child(&self, name: &str) -> Option<&Self> {
        self.children.iter().find(|child| child.name == name)
    }

    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Self> + 'a {
        self.children.iter().filter(move |child| child.name == name)
    }

    /// The text of a child, trimmed; none where the child is missing.
    pub(crate) fn text_of(&self, name: &str) -> Option<&str> {
        self.child(name).map(|child| child.text.trim())
    }

    pub(crate) fn bool_of(&self, name: &str) -> Option<bool> {
        self.child(name).and_then(Self::as_bool)
    }

    pub(crate) fn as_bool(&self) -> Option<bool> {
        match self.text.trim() {
            "true" | "1" => Some(true),
            "false" | "0" => Some(false),
            _ => None,
        }
    }

    /// A number that must be there and not negative.
    pub(crate) fn number_of(&self, name: &str) -> Result<u64> {
        let text = self.text_of(name).unwrap_or_default();
        text.parse()
            .map_err(|_| Error::corrupt(format!("{}.{name} is '{text}', which is no number", self.name)))
    }

    /// This element as a reference, where it is one.
    pub(crate) fn as_ref(&self) -> Option<Ref> {
        let kind = if self.kind.is_empty() { &self.xsi_type } else { &self.kind };
        let id = self.text.trim();
        (!kind.is_empty() && !id.is_empty() && self.children.is_empty()).then(|| Ref::new(kind, id))
    }

    pub(crate) fn ref_of(&self, name: &str) -> Option<Ref> {
        self.child(name).and_then(Self::as_ref)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_escaped_and_secrets_are_named_only() {
        let parts = Xml::new()
            .element("name", "a<b>&\"c\u{1}")
            .secret("password", "password")
            .reference("vm", &Ref::new("VirtualMachine", "vm-1"))
            .into_parts();
        assert_eq!(
            parts,
            [
                Part::Bytes("<name>a&lt;b&gt;&amp;&quot;c\u{fffd}</name><password>".into()),
                Part::secret("password", Encoding::XmlText),
                Part::Bytes("</password><vm type=\"VirtualMachine\">vm-1</vm>".into()),
            ]
        );
    }

    #[test]
    fn an_answer_becomes_a_tree_without_prefixes() {
        let text = "<a:r xmlns:a=\"urn:x\" xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\">\
                    <val xsi:type=\"a:Thing\">x &amp; <![CDATA[<y>]]></val><o xsi:type=\"ManagedObjectReference\" type=\"Folder\">group-1</o></a:r>";
        let root = Element::parse(text).unwrap();
        assert_eq!(root.name, "r");
        assert_eq!(root.child("val").unwrap().xsi_type, "Thing");
        assert_eq!(root.text_of("val"), Some("x & <y>"));
        assert_eq!(root.ref_of("o"), Some(Ref::new("Folder", "group-1")));
    }

    #[test]
    fn hostile_documents_are_refused() {
        assert!(Element::parse("<a><b></a>").is_err());
        let bomb = "<!DOCTYPE a [<!ENTITY x \"xxxxxxxx\">]><a>&x;</a>";
        assert!(Element::parse(bomb).is_err(), "no document types");
        let deep = format!("{}{}", "<a>".repeat(300), "</a>".repeat(300));
        assert!(Element::parse(&deep).is_err());
    }

    #[test]
    fn a_reference_from_outside_holds_no_path() {
        assert!(Ref::checked("VirtualMachine", "vm-10").is_ok());
        for id in ["", "..", "a/b", "a b", "<x>", "vm-1\n"] {
            assert!(Ref::checked("VirtualMachine", id).is_err(), "{id}");
        }
    }
}
